"""What a card's record of its memory becomes, and what a result says of a run on one: as far as no card is needed."""

from pathlib import Path
from typing import Any

import pytest

import canvas_rt
from canvas_rt.dryrun import trial
from canvas_rt.dryrun.cards import card_file
from canvas_rt.dryrun.on_cuda import points
from canvas_rt.dryrun.timeline import bounded
from canvas_rt.ir import Document
from canvas_rt.physics.hardware import Hardware, load_hardware

GIB = 2**30
RAN = {
    "parameters": 10,
    "weights": 20,
    "gradients": 20,
    "optimizer": 40,
    "kv_cache": 0,
    "allocated": GIB,
    "peak": GIB,
    "reserved": 2 * GIB,
    "device": 3 * GIB,
    "steps_s": [0.2, 0.1, 0.3],
    "timeline": [[0.0, 512], [0.5, GIB]],
}


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there was such a card."""

    def found(folder: Path) -> tuple[Hardware, Path]:
        card = load_hardware("h100-80gb")
        return card, card_file(card, folder / "cards.toml")

    monkeypatch.setattr(trial, "card_at_hand", found)


def answering(monkeypatch: pytest.MonkeyPatch, measured: dict[str, Any]) -> None:
    monkeypatch.setattr(trial, "run_apart", lambda *arguments, **settings: {"measured": measured})


@pytest.mark.usefixtures("h100")
def test_on_another_card_than_was_asked_about_both_are_predicted(
    small_llama: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, RAN)
    found = canvas_rt.dry_run(small_llama, device="cuda", batch=2, sequence=32)
    assert (found.device_name, found.hardware) == ("NVIDIA H100 80GB SXM", "NVIDIA A100 80GB SXM")
    time = found.by_name["time.total_s"]
    assert time.measured == 0.2 and time.predicted and time.target and time.target > time.predicted
    assert found.by_name["time.tokens_per_s"].measured == pytest.approx(2 * 32 / 0.2)
    reserved = found.by_name["memory.peak_reserved"]
    assert reserved.measured == 2 * GIB and reserved.predicted
    assert found.by_name["memory.activations"].measured == GIB - 80
    assert "on NVIDIA A100 80GB SXM" in str(found) and "predicted to fit: " in str(found)


@pytest.mark.usefixtures("h100")
def test_on_the_card_that_was_asked_about_there_is_one_prediction(
    small_llama: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, RAN)
    found = canvas_rt.dry_run(small_llama, device="cuda", hardware="h100-80gb", batch=2, sequence=32)
    assert found.hardware == "" and all(figure.target is None for figure in found.figures)


@pytest.mark.usefixtures("h100")
def test_out_of_memory_is_a_result_with_the_prediction_and_how_far_it_came(
    small_llama: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = {"parameters": 10, "allocated": GIB, "reserved": GIB, "died": "OutOfMemoryError: CUDA out of memory. Tried"}
    answering(monkeypatch, died)
    found = canvas_rt.dry_run(small_llama, device="cuda", batch=2, sequence=32)
    peak = found.by_name["memory.peak_allocated"]
    assert (found.reason, peak.measured) == ("out of memory", None) and peak.predicted
    assert found.notes[-1] == "when it died, 1.00 GiB had been allocated at most and 1.00 GiB reserved"


@pytest.mark.usefixtures("h100")
def test_what_is_far_too_much_is_refused_with_a_way_out() -> None:
    with pytest.raises(canvas_rt.CanvasError, match=r"takes .* by the prediction, and NVIDIA H100") as refused:
        canvas_rt.dry_run(canvas_rt.open_zoo("llama-3.1-70b"), device="cuda", sequence=4096)
    assert refused.value.hint.startswith("'canvas-rt solve --for batch'")


def test_a_record_becomes_a_line_though_addresses_are_used_again() -> None:
    steps = (("alloc", 4096, 100, 5), ("segment_alloc", 0, 2**21, 6), ("free_requested", 4096, 100, 7))
    more = (("free_completed", 4096, 100, 8), ("alloc", 4096, 513, 9), ("free_completed", 8192, 7, 9))
    record = [{"action": a, "addr": at, "size": size, "time_us": when} for a, at, size, when in (*steps, *more)]
    assert points(record) == [(0.0, 512), (3e-06, 0), (4e-06, 1024)]
    assert points([]) == []


def test_a_line_of_few_points_hides_no_peak() -> None:
    line = [(float(i), 7 * i % 1000) for i in range(10_000)]
    line[5432] = (5432.0, 10**6)
    short = bounded(line)
    assert len(short) <= 400 and (5432.0, 10**6) in short
    assert short == sorted(short) and bounded(short) == short
