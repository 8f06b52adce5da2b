"""A dry run that dies is a result with its reason, and leaves no process and no file."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import canvas_rt
from canvas_rt.dryrun import DryRun, trial
from canvas_rt.dryrun.reasons import reason_of
from canvas_rt.ir import Document
from canvas_rt.verifier.apart import ChildDied

SIZES = {"batch": 2, "sequence": 40, "dtype": "bf16"}


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; nothing is there, and nobody runs, when a test is over."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []
    assert not children()


def children() -> list[int]:
    """Processes that make dry runs for this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if b"canvas_rt.dryrun.child" in words and parent == os.getpid():
            found.append(int(folder.name))
    return found


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emitted code sleeps when it is loaded."""
    code_of = trial.write

    def write(document: Document, folder: Path) -> None:
        code_of(document, folder)
        text = (folder / "model.py").read_text()
        (folder / "model.py").write_text(
            text + "\nimport subprocess, time\nsubprocess.Popen(['sleep', '600'])\ntime.sleep(600)\n"
        )

    monkeypatch.setattr(trial, "write", write)


@pytest.mark.usefixtures("slow")
def test_a_run_that_hangs_is_ended_with_all_that_it_started(small_llama: Document, scratch: Path) -> None:
    found = canvas_rt.dry_run(small_llama, timeout_s=6, **SIZES)
    assert (found.ran, found.reason) == (False, "too long")
    assert found.told == "dry run took longer than 6 s and was stopped"
    assert found.by_name["memory.peak_allocated"].predicted
    assert "died, too long" in str(found)
    assert b"sleep\0600" not in running()


def running() -> bytes:
    """Command lines of all processes."""
    return b"\n".join(p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if os.access(p, os.R_OK))


def while_it_runs(document: Document, act: Callable[[threading.Event], None]) -> DryRun:
    """A run, and what is done to it once its code is loaded."""
    stop = threading.Event()

    def heard(text: str) -> None:
        if text == "loading the emitted code":
            threading.Timer(0.3, act, [stop]).start()

    return canvas_rt.dry_run(document, timeout_s=60, progress=heard, stop=stop, **SIZES)


@pytest.mark.usefixtures("slow")
def test_a_run_that_somebody_kills_says_by_what(small_llama: Document, scratch: Path) -> None:
    found = while_it_runs(small_llama, lambda stop: os.kill(children()[0], signal.SIGKILL))
    assert (found.reason, found.told) == ("killed", "the process of the dry run died: killed by signal 9")


@pytest.mark.usefixtures("slow")
def test_a_run_is_stopped_from_outside(small_llama: Document, scratch: Path) -> None:
    start = time.monotonic()
    found = while_it_runs(small_llama, lambda stop: stop.set())
    assert (found.reason, found.told) == ("stopped", "dry run was stopped")
    assert time.monotonic() - start < 50


def test_a_run_that_raises_says_what(small_llama: Document, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "write", broken(trial.write))
    found = canvas_rt.dry_run(small_llama, **SIZES)
    assert (found.reason, found.told) == ("raised", "ValueError: give exactly one of input_ids and nothing")


def broken(write: Callable[[Document, Path], None]) -> Callable[[Document, Path], None]:
    def other(document: Document, folder: Path) -> None:
        write(document, folder)
        code = (folder / "model.py").read_text()
        condition = "if (input_ids is None) == (inputs_embeds is None):"
        assert condition in code
        code = code.replace(condition, "if True:").replace("and inputs_embeds", "and nothing")
        (folder / "model.py").write_text(code)

    return other


def test_a_run_that_runs_out_of_memory_says_so_and_how_far_it_came(
    small_llama: Document, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = trial._on_cpu
    monkeypatch.setattr(trial, "_on_cpu", lambda *arguments: replace(make(*arguments), bytes=2**20))
    found = canvas_rt.dry_run(
        small_llama, device="cpu", batch=900, sequence=64, dtype="fp32", attention="eager", timeout_s=100
    )
    assert found.whole and found.reason == "out of memory", found
    assert "allocate" in found.told or "memory" in found.told.lower()
    assert found.by_name["memory.weights"].measured == found.by_name["memory.weights"].predicted
    assert found.by_name["memory.peak_allocated"].measured is None


def test_the_process_ends_when_the_one_that_started_it_is_killed(small_llama: Document, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom canvas_rt.verifier.apart import run_apart\n"
        "(Path(sys.argv[1]) / 'sleeper.py').write_text('''import sys, time\\nfrom pathlib import Path\\n"
        "from canvas_rt.verifier.child import main\\ndef nap(folder, request): print('napping', flush=True); time.sleep(600)\\n"
        "main({'nap': nap})''')\n"
        "run_apart('nap', Path(sys.argv[1]), child='sleeper', environment={'PYTHONPATH': sys.argv[2]},"
        " progress=lambda text: print(text, flush=True))\n"
    )
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", ""), str(Path(canvas_rt.__file__).parents[1])])
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), paths],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "TMPDIR": str(tmp_path)},
    ) as parent:
        assert parent.stdout is not None and parent.stdout.readline().strip() == "napping"
        assert b"sleeper\0nap" in running()
        parent.kill()
    end = time.monotonic() + 10
    while b"sleeper\0nap" in running():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("died", "for_memory", "reason"),
    [
        (ChildDied("x", path="", cause="signal", signal=9), True, "out of memory"),
        (ChildDied("x", path="", cause="signal", signal=9), False, "killed"),
        (ChildDied("x", path="", cause="signal", signal=6, last="what(): std::bad_alloc"), False, "out of memory"),
        (ChildDied("x", path="", cause="word", last="MemoryError"), False, "out of memory"),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", False, "out of memory"),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory",
            False,
            "out of memory",
        ),
        ("RuntimeError: shapes differ", False, "raised"),
    ],
)
def test_reasons_are_told_apart(died: ChildDied | str, for_memory: bool, reason: str) -> None:
    assert reason_of(died, for_memory)[0] == reason


def test_nothing_is_begun_without_a_place_for_temporary_files(
    small_llama: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(**settings: Any) -> Any:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.mkdtemp", nowhere)
    with pytest.raises(canvas_rt.CanvasError, match=r"no place for temporary files.*\nMake room, or set TMPDIR"):
        canvas_rt.dry_run(small_llama, **SIZES)
