"""Import whatever a user names: all that the importer reads, and folders with code of their own."""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canvas_rt import importer
from canvas_rt.errors import CanvasError, EmitError
from canvas_rt.importer.source import EMITTED, Importable, sort_of
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import parse_document, read_json, save
from canvas_rt.verifier.apart import MOST_BYTES, ChildDied, run_apart, scratch_folder
from canvas_rt.verifier.emitted import import_emitted

if TYPE_CHECKING:
    from canvas_rt.codegen.package import Source, Target
    from canvas_rt.importer.report import ImportReport


def import_model(
    source: Importable,
    *,
    trust_code: bool = False,
    progress: Callable[[str], None] = lambda name: None,
) -> tuple[Document, "ImportReport"]:
    """Import an architecture as a document, and report what was made of it.

    `source`: a `config.json`, a model folder, an emitted folder, a zoo name, a hub id, a config's fields, or a model of
    transformers in memory. Safetensors in a folder must have the shapes that its config says: their headers are read,
    never they themselves. Code in a folder runs only with `trust_code`, in a process of its own; where it is what Canvas
    emits from the document beside it, nothing has to run. Raises `ConfigError` naming the field at fault,
    `CheckpointError` naming the tensors, `UnsupportedModelError`, or `CanvasError`.
    """
    if isinstance(source, str | Path) and sort_of(str(source)) == "folder" and _has_code(Path(source), trust_code):
        return import_emitted(Path(source), trust_code=trust_code, progress=progress)
    return importer.import_model(source)


AT_A_TIME = 2
_free = threading.BoundedSemaphore(AT_A_TIME)


def import_apart(
    config: Mapping[str, Any], name: str, timeout_s: float = 300, most_bytes: int = MOST_BYTES
) -> Document:
    """The document of a config's fields, traced in a process of its own: for a server, whose users import side by side.

    A trace changes torch for its whole process, its default dtype among others. At most two run at a time, with bounded
    time and memory. Raises what `import_model` raises, as `CanvasError`.
    """
    with _free, scratch_folder() as folder:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        answer = run_apart("import of a config", folder, timeout_s=timeout_s, most_bytes=most_bytes)
    return parse_document(answer["document"], name)


def emit_apart(
    document: Document,
    target: "Target",
    timeout_s: float = 300,
    most_bytes: int = MOST_BYTES,
    stop: threading.Event | None = None,
) -> "Source":
    """What `emit` writes, in a process of its own: for a server, since a native config is proven by a trace.

    Raises `EmitError` as `emit` does, and `ChildDied` where it took too long or `stop` was set.
    """
    from canvas_rt.codegen.package import Source

    with _free, scratch_folder() as folder:
        save(document, folder / EMITTED)
        asked = {"target": target}
        try:
            answer = run_apart("emission", folder, request=asked, timeout_s=timeout_s, most_bytes=most_bytes, stop=stop)
        except ChildDied:
            raise
        except CanvasError as error:  # the child's own
            raise EmitError(error.message, path=error.path, hint=error.hint) from error
    return Source(answer["files"])


def _has_code(folder: Path, trusted: bool) -> bool:
    """Whether a folder was emitted; if its code is trusted, also whether it brings classes without a document."""
    if (folder / EMITTED).is_file():
        return True
    config = read_json(folder / "config.json") if trusted and (folder / "config.json").exists() else None
    return isinstance(config, dict) and bool(config.get("auto_map"))
