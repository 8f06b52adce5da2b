"""A calibration is measured, saved, read again and used; a file that is none is refused."""

import json
from pathlib import Path

import pytest

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document
from canvas_rt.physics import load_hardware, measure
from canvas_rt.physics.calibration import Calibration, calibrate, interpolated, load_calibration

HALF = Calibration("a100-80gb", "a card", (("bf16", ((10.0, 0.5),)),), (("bf16", ((10.0, 0.25),)),), 0.5, 1e-9)


def test_half_the_peaks_take_twice_as_long(small_llama: Document) -> None:
    plain = measure(small_llama, sequence=256).by_node["lm_head"]
    half = measure(small_llama, sequence=256, calibration=HALF).by_node["lm_head"]
    assert plain.bound == "launch"
    assert half.bound == "memory"
    large = small_llama.replace(
        sizes=small_llama.sizes.with_items({"vocab_size": 200_000, "hidden_size": 8192, "num_attention_heads": 64})
    )
    times = [measure(large, sequence=256, batch=8, calibration=c).by_node["lm_head"].time_s for c in (None, HALF)]
    assert times[1] == pytest.approx(2 * times[0], rel=0.02)


def test_shares_lie_between_what_was_measured() -> None:
    points = ((10.0, 0.2), (20.0, 0.8))
    assert [interpolated(points, x) for x in (0, 10, 15, 20, 99)] == pytest.approx([0.2, 0.2, 0.5, 0.8, 0.8])


def test_it_is_read_as_it_was_saved(tmp_path: Path) -> None:
    HALF.save(tmp_path / "c.json")
    assert load_calibration(tmp_path / "c.json") == HALF


@pytest.mark.parametrize(
    "change", [{"launch_s": -1}, {"bandwidth_share": "fast"}, {"products": 3}, {"card": None, "launch_s": 0}]
)
def test_what_is_no_calibration_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    HALF.save(tmp_path / "c.json")
    read = json.loads((tmp_path / "c.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps({**read, **change}))
    with pytest.raises(CanvasError, match=r"is no calibration.*\nMake one: canvas-rt calibrate"):
        load_calibration(tmp_path / "c.json")


def test_a_real_device_is_measured() -> None:
    found = calibrate(load_hardware("t4"), "cpu", most_s=2)
    assert found.device == "CPU"
    assert {rate for rate, _ in found.products} == {"fp16", "fp32"}
    shares = [share for _, points in (*found.products, *found.attention) for _, share in points]
    assert 0 < min(shares) <= max(shares) <= 1
    assert 0 < found.launch_s < 1e-2
