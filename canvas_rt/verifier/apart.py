"""Run a job that executes emitted code in a process of its own, with bounded time and memory."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from canvas_rt.errors import CanvasError
from canvas_rt.scratch import Scratch

LONGEST_S = 900
MOST_BYTES = 16 * 2**30
LOOK_S = 0.05
"""How often to look whether the child has ended, or is to be stopped."""

CHILD = "canvas_rt.verifier.child"
"""The program that knows the jobs of `verify` and of imports."""

Nothing: Mapping[str, Any] = MappingProxyType({})

Cause = Literal["time", "stop", "signal", "word"]


class ChildDied(CanvasError):
    """The process ended without an answer."""

    def __init__(self, message: str, *, path: str, cause: Cause, last: str = "", signal: int = 0) -> None:
        super().__init__(message, path=path)
        self.cause = cause
        """It took too long, was stopped by us, was killed by somebody else, or ended with a last word."""
        self.last = last
        """What it said last."""
        self.signal = signal


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that goes when it is left. Raises `CanvasError` where there is no place for one."""
    try:
        made = Scratch()
    except OSError as error:
        message = f"there is no place for temporary files: {error.strerror or error}"
        raise CanvasError(message, hint="Make room, or set TMPDIR to a folder that can be written to.") from error
    with made as folder:
        yield folder


def run_apart(
    job: str,
    folder: Path,
    *,
    child: str = CHILD,
    request: Mapping[str, Any] = Nothing,
    timeout_s: float = LONGEST_S,
    most_bytes: int | None = MOST_BYTES,
    environment: Mapping[str, str] = Nothing,
    progress: Callable[[str], None] = lambda name: None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """What a job of `child`, a module like `child.py`, answers about a folder. This limits accidents; it is no sandbox.

    `request`: what else the job has to know, as JSON. `most_bytes`: of data that the process may have; None sets no limit.
    However it ends, no process that it started is left.

    Raises `CanvasError` with the child's own; `ChildDied` where it died, took too long, or was stopped.
    """
    with scratch_folder() as scratch:
        asked = [child, job, str(folder.resolve()), json.dumps(dict(request)), str(most_bytes or 0)]
        own = _environment(scratch, environment)
        follow = partial(_follow, job=job, timeout_s=timeout_s, progress=progress, stop=stop or threading.Event())
        return _in_child(asked, folder, scratch, own, follow)


def _environment(scratch: Path, more: Mapping[str, str]) -> dict[str, str]:
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait starve one another on a busy machine
        **os.environ,
        "HF_MODULES_CACHE": str(scratch / "modules"),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),  # made by whoever imports it
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(paths),
        **more,
    }


def _in_child(
    asked: list[str],
    folder: Path,
    scratch: Path,
    environment: Mapping[str, str],
    follow: "Callable[[subprocess.Popen[str]], str]",
) -> dict[str, Any]:
    job = asked[1]
    answer = scratch / "answer.json"
    with (
        subprocess.Popen(
            [sys.executable, "-m", *asked, str(answer)],
            cwd=scratch,
            env=environment,
            stdin=subprocess.PIPE,  # it ends when this does: when we are killed, nobody is left
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # limits it sets itself: code that ran between fork and exec would run among dead threads
        ) as child
    ):
        try:
            errors = follow(child)
        finally:
            _kill(child)  # whatever ended the wait
    if not answer.exists():
        last = (errors.strip().splitlines()[-1:] or [""])[0][:300]
        killed = max(0, -child.returncode)
        message = f"the process of the {job} died: {_how(child.returncode, last)}"
        raise ChildDied(message, path=folder.name, cause="signal" if killed else "word", last=last, signal=killed)
    result: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in result:
        raise CanvasError(result["error"], path=result["path"], hint=result["hint"])
    return result


def _how(code: int, last: str) -> str:
    """Why a process ended: by the signal that killed it, or by its last word."""
    if code == -signal.SIGKILL:
        return f"killed by signal {-code}"  # it had no time for a word: what it said last was of something else
    return f"killed by signal {-code}: {last}".removesuffix(": ") if code < 0 else last or f"exit code {code}"


def _kill(child: "subprocess.Popen[str]") -> None:
    """End a process with all that it started: they are a group of their own, whose number none other has meanwhile."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _follow(
    child: "subprocess.Popen[str]", job: str, timeout_s: float, progress: Callable[[str], None], stop: threading.Event
) -> str:
    """Hand on what the child says it is at, until it ends; what it says on stderr."""
    errors: list[str] = []

    def pass_on() -> None:
        for line in child.stdout or ():
            progress(line.strip())

    def collect() -> None:
        errors.extend(child.stderr or ())

    threads = [threading.Thread(target=target, daemon=True) for target in (pass_on, collect)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + timeout_s
    while child.poll() is None:
        if stop.wait(LOOK_S):
            raise ChildDied(f"{job} was stopped", path="", cause="stop")
        if time.monotonic() > end:
            raise ChildDied(f"{job} took longer than {timeout_s:.0f} s and was stopped", path="", cause="time")
    _kill(child)  # what it started holds its pipes open
    for thread in threads:
        thread.join(timeout=5)
    return "".join(errors)
