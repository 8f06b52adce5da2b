"""The process that runs emitted code, or traces apart: reads one folder, does one job, writes one answer as JSON."""

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def verification(folder: Path) -> dict[str, Any]:
    from canvas_rt.verifier.checks import Verification
    from canvas_rt.verifier.emitted import is_native
    from canvas_rt.verifier.native import NativeVerification

    checks = NativeVerification if is_native(folder) else Verification
    return {"certificate": checks(folder).certificate(progress).to_json()}


def code_import(folder: Path) -> dict[str, Any]:
    from canvas_rt.verifier.emitted import import_code

    progress("running its code")
    document, report = import_code(folder)
    return {"document": document.model_dump(mode="json"), "report": report.to_json()}


def config_import(folder: Path) -> dict[str, Any]:
    from canvas_rt.importer import import_model
    from canvas_rt.ir.files import read_json

    document, report = import_model(read_json(folder / "config.json"))
    return {"document": document.model_dump(mode="json"), "report": report.to_json()}


def emission(folder: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    from canvas_rt.codegen.package import emit
    from canvas_rt.ir.files import load

    return {"files": dict(emit(load(folder / "document.canvas.json"), target=request["target"]).files)}


def export(folder: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    from canvas_rt.verifier.doors import exported

    return exported(folder, Path(request["into"]), request["format"], progress)


JOBS: Mapping[str, Callable[[Path, Mapping[str, Any]], dict[str, Any]]] = {
    "verification": lambda folder, request: verification(folder),
    "import": lambda folder, request: code_import(folder),
    "import of a config": lambda folder, request: config_import(folder),
    "emission": emission,
    "export": export,
}


def progress(name: str) -> None:
    print(name, flush=True)


def main(jobs: Mapping[str, Callable[[Path, Mapping[str, Any]], dict[str, Any]]] = JOBS, *, threads: int = 1) -> int:
    """Do the job that the arguments name. One thread has one order of summation."""
    job, folder, request, answer = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), Path(sys.argv[5])
    set_limits(int(sys.argv[4]))
    os.environ["HF_HUB_OFFLINE"] = "1"
    threading.Thread(target=end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    sys.setrecursionlimit(20_000)  # a block is read from its outputs backwards, as deep as its longest chain
    from canvas_rt.errors import CanvasError

    try:
        result = jobs[job](folder, request)
    except CanvasError as error:
        result = {"error": error.message, "path": error.path, "hint": error.hint}
    answer.write_text(json.dumps(result), encoding="utf-8")
    return 0


def set_limits(most_bytes: int) -> None:
    """No core files, and bounded memory: 0 for no bound."""
    import resource

    limits = {resource.RLIMIT_CORE: 0, **({resource.RLIMIT_DATA: most_bytes} if most_bytes else {})}
    for limit, value in limits.items():
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (value, value))


def end_with_parent() -> None:
    """Wait for the end of what the parent never writes: it ends when the parent does, even when that is killed."""
    os.read(0, 1)
    if os.getpgrp() == os.getpid():  # not so where somebody runs this by hand
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
