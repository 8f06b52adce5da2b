"""Prove emitted code in a fresh process, from the emitted files alone."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document
from canvas_rt.verifier.certificate import Certificate

LONGEST_S = 900
MOST_BYTES = 16 * 2**30
LOOK_S = 0.05
"""How often to look whether the child has ended, or is to be stopped."""

NEEDED = ("model.py", "config.json", "document.canvas.json")


def verify(
    target: Document | str | Path,
    *,
    timeout_s: float = LONGEST_S,
    progress: Callable[[str], None] = lambda name: None,
    stop: threading.Event | None = None,
) -> Certificate:
    """The certificate of an emitted folder, or of the code that a document emits.

    Runs `model.py`, in a child process with limits on time and memory: verify only what you would run. Setting `stop`
    ends it.

    Raises `CanvasError` where there is nothing to verify, the child died, or it was stopped.
    """
    if isinstance(target, Document):
        from canvas_rt.codegen.package import emit

        with tempfile.TemporaryDirectory(prefix="canvas-") as scratch:
            folder = Path(scratch) / "emitted"
            emit(target).write(folder)
            return verify(folder, timeout_s=timeout_s, progress=progress, stop=stop)
    folder = Path(target)
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise CanvasError(
            f"holds no {missing[0]}",
            path=str(target),
            hint="Verify a folder that 'canvas-rt emit' wrote, or a document.",
        )
    with tempfile.TemporaryDirectory(prefix="canvas-") as scratch:
        return _in_child(folder.resolve(), Path(scratch), timeout_s, progress, stop or threading.Event())


def _in_child(
    folder: Path, scratch: Path, timeout_s: float, progress: Callable[[str], None], stop: threading.Event
) -> Certificate:
    answer = scratch / "certificate.json"
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "HF_MODULES_CACHE": str(scratch / "modules"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    command = [sys.executable, "-m", "canvas_rt.verifier.child", str(folder), str(answer)]
    with subprocess.Popen(
        command,
        cwd=scratch,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_limits,
    ) as child:
        try:
            errors = _follow(child, timeout_s, progress, stop)
        except subprocess.TimeoutExpired as error:
            raise CanvasError(
                f"verification took longer than {timeout_s:.0f} s and was stopped", path=folder.name
            ) from error
        finally:
            child.kill()  # whatever ended the wait; a child that has ended is left alone
    if not answer.exists():
        last = errors.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
        raise CanvasError(f"the verifying process died: {last[0][:300]}", path=folder.name)
    result = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in result:
        raise CanvasError(result["error"], path=result["path"], hint=result["hint"])
    return Certificate.from_json({k: v for k, v in result["certificate"].items() if k != "passed"})


def _follow(
    child: "subprocess.Popen[str]", timeout_s: float, progress: Callable[[str], None], stop: threading.Event
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
            raise CanvasError("verification was stopped")
        if time.monotonic() > end:
            raise subprocess.TimeoutExpired(child.args, timeout_s)
    for thread in threads:
        thread.join(timeout=5)
    return "".join(errors)


def _limits() -> None:
    """In the child: no core files, bounded memory."""
    import resource

    for limit, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_DATA, MOST_BYTES)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (value, value))
