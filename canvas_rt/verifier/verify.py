"""Prove emitted code in a fresh process, from the emitted files alone."""

import threading
from collections.abc import Callable
from pathlib import Path

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document
from canvas_rt.verifier.apart import LONGEST_S, MOST_BYTES, run_apart, scratch_folder
from canvas_rt.verifier.certificate import Certificate
from canvas_rt.verifier.emitted import is_native, is_plain

NEEDED = ("model.py", "config.json", "document.canvas.json")


def verify(
    target: Document | str | Path,
    *,
    timeout_s: float = LONGEST_S,
    most_bytes: int = MOST_BYTES,
    progress: Callable[[str], None] = lambda name: None,
    stop: threading.Event | None = None,
) -> Certificate:
    """The certificate of an emitted folder, or of the code that a document emits.

    Of a native folder, which holds a config alone, it is transformers' own class that is proven.
    Runs `model.py`, in a child process of at most so many seconds and bytes: verify only what you would run. Setting `stop`
    ends it.

    Raises `CanvasError` where there is nothing to verify, the child died, or it was stopped.
    """
    if isinstance(target, Document):
        from canvas_rt.codegen.package import emit

        with scratch_folder() as scratch:
            folder = scratch / "emitted"
            emit(target).write(folder)
            return verify(folder, timeout_s=timeout_s, most_bytes=most_bytes, progress=progress, stop=stop)
    folder = Path(target)
    if is_plain(folder):
        hint = "Verify its document: that proves the same blocks, as code for transformers."
        raise CanvasError(
            "holds plain code, and the certificate is of models of transformers", path=str(target), hint=hint
        )
    missing = [name for name in NEEDED if not (folder / name).is_file()] if not is_native(folder) else []
    if missing:
        raise CanvasError(
            f"holds no {missing[0]}",
            path=str(target),
            hint="Verify a folder that 'canvas-rt emit' wrote, or a document.",
        )
    result = run_apart("verification", folder, timeout_s=timeout_s, most_bytes=most_bytes, progress=progress, stop=stop)
    return Certificate.from_json({k: v for k, v in result["certificate"].items() if k != "passed"})
