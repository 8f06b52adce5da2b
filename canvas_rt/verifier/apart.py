"""Run a job that executes emitted code in a process of its own, with bounded time and memory."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from canvas_rt.errors import CanvasError

LONGEST_S = 900
MOST_BYTES = 16 * 2**30
LOOK_S = 0.05
"""How often to look whether the child has ended, or is to be stopped."""


def run_apart(
    job: str,
    folder: Path,
    *,
    request: Mapping[str, Any] = MappingProxyType({}),
    timeout_s: float = LONGEST_S,
    most_bytes: int = MOST_BYTES,
    progress: Callable[[str], None] = lambda name: None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """What a job of `child.py` answers about a folder. This limits accidents; it is no sandbox.

    `request`: what else the job has to know, as JSON.

    Raises `CanvasError` with the child's own, or where it died, took too long, or was stopped.
    """
    with tempfile.TemporaryDirectory(prefix="canvas-") as scratch:
        asked = [job, str(folder.resolve()), json.dumps(dict(request))]
        return _in_child(asked, folder, Path(scratch), timeout_s, most_bytes, progress, stop or threading.Event())


def _in_child(
    asked: list[str],
    folder: Path,
    scratch: Path,
    timeout_s: float,
    most_bytes: int,
    progress: Callable[[str], None],
    stop: threading.Event,
) -> dict[str, Any]:
    job = asked[0]
    answer = scratch / "answer.json"
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "HF_MODULES_CACHE": str(scratch / "modules"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    command = [sys.executable, "-m", "canvas_rt.verifier.child", *asked, str(answer)]
    with subprocess.Popen(
        command,
        cwd=scratch,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(_limits, most_bytes),
    ) as child:
        try:
            errors = _follow(child, job, timeout_s, progress, stop)
        except subprocess.TimeoutExpired as error:
            raise CanvasError(f"{job} took longer than {timeout_s:.0f} s and was stopped", path=folder.name) from error
        finally:
            child.kill()  # whatever ended the wait; a child that has ended is left alone
    if not answer.exists():
        last = errors.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
        raise CanvasError(f"the process of the {job} died: {last[0][:300]}", path=folder.name)
    result: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in result:
        raise CanvasError(result["error"], path=result["path"], hint=result["hint"])
    return result


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
            raise CanvasError(f"{job} was stopped")
        if time.monotonic() > end:
            raise subprocess.TimeoutExpired(child.args, timeout_s)
    for thread in threads:
        thread.join(timeout=5)
    return "".join(errors)


def _limits(most_bytes: int) -> None:
    """In the child: no core files, bounded memory."""
    import resource

    for limit, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_DATA, most_bytes)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (value, value))
