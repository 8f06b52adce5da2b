"""The comparison with a real GPU, tried on the CPU: to the byte, resumed where it stopped, and telling why a case died."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_memory, gpu_memory_run
from benchmarks.gpu_memory_cases import CASES, card_file, card_of, document_of, sized
from canvas_rt.physics.hardware import hardware_names, load_hardware

FEW = "mixture train 2×1024 foreach", "llama decode 4×4096 math"
"""Two cases that are unlike in everything."""
LIGHT = """
import sys
from benchmarks import gpu_memory, gpu_memory_run
case = gpu_memory.CASES[0]
document, scenario = gpu_memory.tiny(case)
assert gpu_memory_run.on_cpu({"family": case.family}, document, scenario)["allocated"] > 2**20
print(sorted({"gradio", "plotly", "ruff", "pandas"} & set(sys.modules)))
"""


def test_predictions_hold_to_the_byte_on_the_cpu_and_a_later_call_runs_only_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for only in (FEW[0], FEW[0], FEW[1]):
        gpu_memory.main(["--device", "cpu", "--results", str(tmp_path), "--only", only])
    assert capsys.readouterr().err.count("allocated +0.00%") == 2
    rows = [json.loads(line) for line in (tmp_path / "gpu_memory_cpu.state.jsonl").read_text().splitlines()]
    assert [row["predicted"]["allocated"] for row in rows] == [row["measured"]["allocated"] for row in rows]
    assert "1 of 1 cases ran" in (tmp_path / "gpu_memory_cpu.md").read_text()
    (tmp_path / "gpu_memory_cpu.state.jsonl").unlink()
    gpu_memory.main(["--device", "cpu", "--results", str(tmp_path), "--only", FEW[1], "--again"])
    assert "1 of 1 cases ran" in (tmp_path / "gpu_memory_cpu.md").read_text()


def test_no_case_begins_when_the_time_is_up(tmp_path: Path) -> None:
    gpu_memory.main(["--device", "cpu", "--results", str(tmp_path), "--minutes", "0"])
    assert f"0 of {len(CASES)} cases ran" in (tmp_path / "gpu_memory_cpu.md").read_text()


@pytest.fixture
def place(tmp_path: Path) -> gpu_memory.Place:
    return gpu_memory.place_of("cpu", tmp_path, tmp_path, None)


ROW = {"family": "llama", "sizes": {}, "config": {}, "scenario": {"expandable": False, "bath": 1}}


def test_a_case_that_dies_is_a_row_with_its_reason(place: gpu_memory.Place) -> None:
    found = gpu_memory.measured(CASES[0], ROW, place, limit_s=120)
    assert found == {"failed": "TypeError: Scenario.__init__() got an unexpected keyword argument 'bath'"}


def test_a_case_that_takes_too_long_or_is_killed_says_so(place: gpu_memory.Place) -> None:
    assert gpu_memory.measured(CASES[0], ROW, place, limit_s=0.1) == {"failed": "not done after 0 s"}
    killed: subprocess.CompletedProcess[str] = subprocess.CompletedProcess([], -9, "", "a word")
    assert gpu_memory.reason(killed) == "killed by signal 9"


def test_a_line_that_was_cut_short_is_as_if_it_had_never_been_begun(tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    state.write_text('{"case": "a", "measured": {}}\n{"case": "b", "meas')
    assert list(gpu_memory.known(state)) == ["a"]


def test_a_recorded_history_becomes_events_though_addresses_are_used_again() -> None:
    steps = (("alloc", 4096, 100), ("segment_alloc", 0, 2**21), ("free_requested", 4096, 100))
    more = (("free_completed", 4096, 100), ("alloc", 4096, 513), ("free_completed", 8192, 7))
    entries = [{"action": action, "addr": address, "size": size} for action, address, size in (*steps, *more)]
    assert list(gpu_memory_run.traced(entries)) == [(512, 0), (-512, 0), (1024, 4)]


def test_neither_gradio_nor_plotly_is_needed() -> None:
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_there_are_thirty_cases_and_more_each_with_a_name_of_its_own() -> None:
    names = {case.name for case in CASES}
    assert len(names) == len(CASES) >= 30


@pytest.mark.parametrize(
    ("name", "capability", "known"),
    [
        ("NVIDIA H100 80GB HBM3", (9, 0), "h100-80gb"),
        ("NVIDIA H100 PCIe", (9, 0), "h100-pcie"),
        ("NVIDIA A100-SXM4-40GB", (8, 0), "a100-40gb"),
        ("Tesla T4", (7, 5), "t4"),
        ("NVIDIA GeForce RTX 4090", (8, 9), "rtx-4090"),
        ("NVIDIA A10G", (8, 6), "nvidia-a10g"),
    ],
)
def test_a_card_is_known_by_the_name_that_the_driver_gives(
    name: str, capability: tuple[int, int], known: str, tmp_path: Path
) -> None:
    memory = load_hardware(known).memory_bytes - 2**20 if known in hardware_names() else 10**10
    card = card_of(name, memory, capability)
    assert (card.id, card.memory_bytes) == (known, memory)
    assert load_hardware(card.id, file=card_file(card, tmp_path / "cards.toml")) == card


def test_models_are_sized_to_a_share_of_the_card_and_never_beyond(tmp_path: Path) -> None:
    card = load_hardware("l4")
    cards = card_file(card, tmp_path / "cards.toml")
    for case in (CASES[2], CASES[-2]):
        document = sized(case, card, cards)
        sizes = document.sizes["hidden_size"], document.sizes["num_hidden_layers"]
        deeper = document_of(case, sizes[0], sizes[1] + 1)
        found = [gpu_memory.predicted(d, case.scenario, card, cards).memory.device_total for d in (document, deeper)]
        assert found[0] < case.share * card.memory_bytes * 1.02 < found[1] * 1.05
