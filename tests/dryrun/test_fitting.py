"""What does not fit is cut down, fewer layers first, and it is said what was left out and why; or refused with a way out."""

from pathlib import Path

import pytest
import torch

import canvas_rt
from canvas_rt.dryrun import fitting, trial
from canvas_rt.dryrun.fitting import PROCESS_BYTES, Cut, Room, fitted
from canvas_rt.dryrun.machine import Speed, free_bytes, speed, usable_cores
from canvas_rt.dryrun.predicting import Target, memory_on_cpu
from canvas_rt.ir import Document
from canvas_rt.physics.scenario import Scenario

SCENARIO = Scenario(batch=4, sequence=64, dtype="bf16")
AMPLE = 2**40


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU whose speed does not depend on who else uses it."""
    monkeypatch.setattr(fitting, "speed", lambda dtype: Speed(1e9, 1e9, 1e8))


def cut(document: Document, nbytes: int, seconds: float = 1e9, scenario: Scenario = SCENARIO) -> Cut:
    return fitted(document, scenario, Target(), Room(nbytes, seconds))


def peak(document: Document, scenario: Scenario = SCENARIO) -> int:
    return memory_on_cpu(document, scenario).peak_allocated


def told(found: Cut) -> tuple[int, int, int]:
    """Layers, batch and sequence that are left."""
    return found.layers, found.scenario.batch, found.scenario.sequence


def test_what_fits_is_left_whole(small_llama: Document) -> None:
    found = cut(small_llama, AMPLE)
    assert found.whole and found.document is small_llama and told(found) == (4, 4, 64)


def test_layers_go_first_and_as_few_as_must_be(small_llama: Document) -> None:
    shallow = canvas_rt.apply(
        small_llama, canvas_rt.parse_edits([{"kind": "delete_layers", "path": "model.layers.3"}])[0]
    )
    room = int(peak(shallow) * fitting.MARGIN) + PROCESS_BYTES
    found = cut(small_llama, room)
    assert told(found) == (3, 4, 64)
    assert found.why.startswith("it takes ") and found.why.endswith(" are free")
    assert cut(small_llama, room - 1).layers == 2


def test_what_is_tied_must_fit_twice_while_the_model_is_made() -> None:
    tied = canvas_rt.open_zoo("smollm-135m")
    decoding = Scenario(mode="decode", sequence=64, dtype="bf16")
    table = 49152 * 576 * 2
    least = int((peak(tied, decoding) + table) * 1.0)
    assert not cut(tied, PROCESS_BYTES + least, scenario=decoding).whole
    assert cut(tied, PROCESS_BYTES + int(least * fitting.MARGIN) + 1, scenario=decoding).whole


def test_then_the_sequence_is_halved_and_then_the_batch(small_llama: Document) -> None:
    one = cut(small_llama, 0 + PROCESS_BYTES + int(1.05 * 600_000))
    assert told(one)[:2] == (1, 4) and one.scenario.sequence < 64
    # A long row takes hardly more than the weights do here: what is left to save is in the batch.
    least = cut(small_llama, PROCESS_BYTES + int(1.05 * peak(one.document, SCENARIO.but(batch=1, sequence=1))) + 1)
    assert told(least) == (1, 1, 1)


def test_a_run_that_would_take_too_long_is_cut_too(small_llama: Document) -> None:
    found = cut(small_llama, AMPLE, seconds=fitting._seconds(cut(small_llama, AMPLE), Target()) * 0.9)
    assert 1 <= found.layers < 4
    assert "it takes about" in found.why and "and may take" in found.why


def test_of_what_is_too_slow_in_any_form_the_smallest_is_tried(small_llama: Document) -> None:
    assert told(cut(small_llama, AMPLE, seconds=0)) == (1, 1, 1)


def test_what_fits_in_no_form_is_refused_with_a_way_out(small_llama: Document) -> None:
    with pytest.raises(
        canvas_rt.CanvasError, match=r"even one layer with one token takes .* are free\nTry --device meta"
    ):
        cut(small_llama, 2**20)


def test_a_result_says_what_was_cut(small_llama: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    shallow = cut(small_llama, PROCESS_BYTES + int(1.05 * 900_000))
    assert not shallow.whole
    monkeypatch.setattr(trial, "fitted", lambda *arguments: shallow)
    monkeypatch.setattr(trial, "run_apart", lambda *arguments, **settings: {"measured": {}})
    found = canvas_rt.dry_run(small_llama, device="cpu", scenario=SCENARIO)
    assert found.layers == (shallow.layers, 4) and found.scenario == shallow.scenario
    assert f"a part that fits, the first {shallow.layers} of 4 layers" in str(found)
    assert found.to_json()["layers"] == {"run": shallow.layers, "of": 4}
    predicted = found.by_name["memory.peak_allocated"].predicted
    assert predicted == peak(shallow.document, shallow.scenario)


def test_free_memory_is_what_the_system_and_the_control_group_leave(tmp_path: Path) -> None:
    memory = tmp_path / "meminfo"
    memory.write_text("MemTotal:  100 kB\nMemAvailable:   64 kB\n")
    assert free_bytes(memory, tmp_path) == 65536
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_bytes(memory, tmp_path) == 65536
    (tmp_path / "memory.max").write_text("31000\n")
    assert free_bytes(memory, tmp_path) == 30000
    assert free_bytes(tmp_path / "none", tmp_path / "none") > 2**20


def test_speed_is_tried() -> None:
    found = speed(torch.float32)
    assert found.flops > 1e8 and found.bandwidth > 1e8 and found.drawing > 1e5 and usable_cores() >= 1
