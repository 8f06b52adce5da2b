"""Train a bundle on this machine, in a process of its own that can be watched, stopped and gone on with."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from canvas_rt.dryrun.here import card_at_hand
from canvas_rt.dryrun.machine import free_bytes
from canvas_rt.errors import CanvasError
from canvas_rt.training.bundle import SETTINGS
from canvas_rt.verifier.apart import scratch_folder

SCRIPT, LOG, RUNS = "train.py", "log.jsonl", "runs"
WATCHED = Path(__file__).parent / "watched.py"  # by its path: the package would load PyTorch before train.py sets it up
LOOK_S = 0.2
GRACE_S = 60
"""How long a run that is to stop may take for its last step and checkpoint."""


@dataclass(frozen=True, slots=True)
class Step:
    """A line of a run's log."""

    step: int
    of: int
    loss: float
    """Nats a token."""

    learning_rate: float
    tokens_per_s: float
    memory: int
    """Bytes: of tensors on a GPU; on a CPU, what the process grew by since before it made its model. The most so far."""

    time: float


Outcome = Literal["finished", "stopped", "died"]


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a run."""

    outcome: Outcome
    reason: str
    steps: tuple[Step, ...]
    """Of the whole curve, those before it was resumed among them."""

    predicted_memory: int
    """Bytes, as the bundle says."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if not self.steps:
            return f"{self.outcome}: {self.reason}"
        first, last = self.steps[0], self.steps[-1]
        return (
            f"{self.outcome}{': ' + self.reason if self.reason else ''}\n"
            f"loss {first.loss:.4f} → {last.loss:.4f} in {last.step} steps, {last.tokens_per_s:,.0f} tokens/s,"
            f" {last.memory / 2**30:.2f} GiB (predicted: {self.predicted_memory / 2**30:.2f})"
        )


def launch(
    folder: str | Path,
    *,
    resume: bool = False,
    steps: int | None = None,
    say: Callable[[str], None] = lambda words: None,
    watch: Callable[[Step], None] = lambda step: None,
    stop: threading.Event | None = None,
) -> Run:
    """Run a bundle's `train.py` to its end, or until `stop` is set: then it writes a checkpoint first.

    `say` is told what the script prints, `watch` every step, of a resumed run those before it too. A run that dies is a
    result with its reason.

    Raises `CanvasError` where the folder is no bundle, or what it takes is more than this machine has.
    """
    place = Path(folder)
    settings = _settings(place)
    _require_libraries()
    if not resume and any((place / RUNS).glob("checkpoint-*")):
        raise CanvasError("holds a run", path=str(place / RUNS), hint="Resume it, or move it away to begin anew.")
    predicted = _require_memory(settings)
    log = place / LOG
    if not resume:
        log.unlink(missing_ok=True)
    words = [*(["--resume"] if resume else []), *(["--steps", str(steps)] if steps else [])]
    with subprocess.Popen(
        [sys.executable, "-u", str(WATCHED), SCRIPT, *words],
        cwd=place,
        stdin=subprocess.PIPE,  # it ends when this does: when we are killed, the run stops
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as child:
        errors = _Reader(child.stderr, lambda line: None)
        output = _Reader(child.stdout, say)
        try:
            asked = _follow(child, log, watch, stop or threading.Event())
        finally:
            _end(child)
        output.join()
        errors.join()
    return Run(*_outcome(child.returncode, asked, output.lines, errors.lines), tuple(read_log(log)), predicted)


def _settings(folder: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = "Name a folder that 'canvas-rt train' wrote."
        raise CanvasError(f"is no bundle: {error}", path=str(folder), hint=hint) from error


def _require_libraries() -> None:
    missing = [name for name in ("accelerate", "datasets") if find_spec(name) is None]
    if missing:
        hint = "pip install 'canvas-rt[train]'"
        raise CanvasError(f"training takes {' and '.join(missing)}, which is not installed", hint=hint)


def _require_memory(settings: Mapping[str, Any]) -> int:
    """What the bundle will take of this machine, in bytes, which has that much."""
    import torch

    on_gpu = torch.cuda.is_available()  # as train.py asks
    predicted = int(settings.get("gpu" if on_gpu else "cpu", {}).get("predicted_memory", 0))
    free = _card_bytes() if on_gpu else free_bytes()
    if predicted > free:
        where = "this GPU" if on_gpu else "this machine"
        raise CanvasError(
            f"takes {predicted / 2**30:,.1f} GiB, and {where} has {free / 2**30:,.1f}",
            path=SETTINGS,
            hint="Make the model or the batch smaller, or take the bundle to a larger machine.",
        )
    return predicted


def _card_bytes() -> int:
    with scratch_folder() as scratch:
        return card_at_hand(scratch)[0].memory_bytes


class _Reader:
    """Reads a stream to its end in a thread, and hands on each line."""

    def __init__(self, stream: Any, tell: Callable[[str], None]) -> None:
        self.lines: list[str] = []

        def read() -> None:
            for line in stream:
                text = line.rstrip().rpartition("\r")[2]  # of a progress bar, its last state
                if text:
                    self.lines.append(text)
                    del self.lines[:-200]
                    tell(text)

        self.thread = threading.Thread(target=read, daemon=True)
        self.thread.start()

    def join(self) -> None:
        self.thread.join(timeout=5)


def _follow(child: "subprocess.Popen[str]", log: Path, watch: Callable[[Step], None], stop: threading.Event) -> bool:
    """Hand on steps until the child ends; whether it was asked to."""
    asked, read = 0.0, 0
    while True:
        ended = child.poll() is not None
        text, read = _appended(log, read)
        for step in _steps(text):
            watch(step)
        if ended:
            return bool(asked)
        if not asked and stop.wait(LOOK_S):
            asked = time.monotonic()
            child.send_signal(signal.SIGTERM)
        elif asked:
            time.sleep(LOOK_S)
            if time.monotonic() - asked > GRACE_S:
                return True


def _end(child: "subprocess.Popen[str]") -> None:
    """Whatever ended the wait, nothing of the run stays."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def read_log(path: Path) -> list[Step]:
    """The steps so far. A line that is being written is not one yet."""
    return list(_steps(path.read_text(encoding="utf-8"))) if path.exists() else []


def _appended(path: Path, read: int) -> tuple[str, int]:
    """Whole lines beyond so many bytes, and how many bytes that makes; from the beginning where the file was written anew."""
    if not path.exists():
        return "", 0
    with path.open("rb") as file:
        file.seek(read if path.stat().st_size >= read else 0)
        start, found = file.tell(), file.read()
    whole = found[: found.rfind(b"\n") + 1]
    return whole.decode(), start + len(whole)


def _steps(text: str) -> Iterator[Step]:
    for line in text.splitlines():
        try:
            yield Step(**json.loads(line))
        except (ValueError, TypeError):
            continue


def _outcome(code: int, asked: bool, output: list[str], errors: list[str]) -> tuple[Outcome, str]:
    if code == 0:
        last = output[-1] if output else ""
        return ("stopped", last.removeprefix("stopped ")) if last.startswith("stopped ") else ("finished", "")
    if asked:
        return "stopped", f"without a checkpoint: the step at hand took longer than {GRACE_S} s, or there was none yet"
    if code < 0:
        name = signal.Signals(-code).name
        return "died", f"killed by {name}{', as where memory runs out' if code == -signal.SIGKILL else ''}"
    last = next((line for line in reversed(errors) if not line.startswith(" ")), f"exit code {code}")
    return "died", f"out of memory: {last[:300]}" if "memory" in last.lower() else last[:300]
