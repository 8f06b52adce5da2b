"""Read and write documents: strict, from strangers, and never half-written."""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from canvas_rt.errors import CanvasError, DocumentError
from canvas_rt.ir.document import SCHEMA_VERSION, Document, Origin
from canvas_rt.ir.frozen import FrozenMap

SUFFIX = ".canvas.json"
LARGEST_FILE = 64 * 2**20
"""No document or config in use comes near 64 MiB; a file beyond it is refused unread."""


def read_json(path: Path) -> Any:
    """The JSON in a file, or a `CanvasError` that says where reading it stopped. NaN and Infinity are refused."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise CanvasError(f"is larger than {LARGEST_FILE // 2**20} MiB", path=str(path))
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CanvasError(f"cannot be read: {error.strerror}", path=str(path)) from error
    except UnicodeDecodeError as error:
        raise CanvasError(f"is not text in UTF-8 (byte {error.start})", path=str(path)) from error
    return parse_json(text, str(path))


def parse_json(text: str, name: str) -> Any:
    """JSON text as values; the error names line and column."""

    def refuse(constant: str) -> Any:
        raise CanvasError(f"holds {constant}, which is not JSON", path=name)

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise CanvasError(f"is not JSON: line {error.lineno}, column {error.colno}: {error.msg}", path=name) from error
    except RecursionError as error:
        raise CanvasError("is nested too deeply", path=name) from error
    except ValueError as error:
        raise CanvasError(f"is not JSON: {error}", path=name) from error


def parse_document(data: Any, name: str = "document") -> Document:
    """Validate a document's JSON values; every flaw is listed with its path."""
    if not isinstance(data, dict) or "schema_version" not in data or "blocks" not in data:
        raise DocumentError(
            "is not a Canvas document: it has no schema_version and blocks",
            path=name,
            hint="A model's config.json is opened with 'canvas-rt import config.json -o mine.canvas.json'.",
        )
    version = data["schema_version"]
    if version != SCHEMA_VERSION:
        raise DocumentError(
            f"has schema version {version!r}; this Canvas reads {SCHEMA_VERSION}",
            path=name,
            hint="Open it with the Canvas that wrote it, or import the model again.",
        )
    try:
        return Document.model_validate_json(json.dumps(data))
    except ValidationError as error:
        flaws = [f"{'.'.join(map(str, flaw['loc']))}: {flaw['msg']}" for flaw in error.errors(include_url=False)]
        shown = "\n".join(flaws[:8]) + (f"\n… and {len(flaws) - 8} more" if len(flaws) > 8 else "")
        raise DocumentError(f"is not a valid document\n{shown}", path=name) from error


def load(path: str | Path) -> Document:
    """Open a `*.canvas.json` file. Raises `DocumentError` or `CanvasError` that says what is wrong with it."""
    return parse_document(read_json(Path(path)), str(path))


def dumps(document: Document) -> str:
    """A document as JSON text: sorted nowhere, since order in it is reading order; the same document, the same text."""
    return json.dumps(document.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def save(document: Document, path: str | Path) -> None:
    """Write a document whole or not at all."""
    write_whole(Path(path), dumps(document))


def write_whole(path: Path, text: str) -> None:
    """Write a text file through a temporary one and a rename, so that a kill leaves the old file or the new one."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent or ".", prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise CanvasError(f"cannot be written: {error.strerror}", path=str(path)) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise CanvasError(f"cannot be written: {error.strerror}", path=str(path)) from error


def fingerprint(document: Document) -> str:
    """A digest of the architecture: blocks, sizes, config and ties, without name, layout, origin or log."""
    return _digest(document, {"root", "sizes", "config", "blocks", "ties"})


def structure(document: Document) -> str:
    """A digest of the graph alone: while it is the origin's, the model is a stock architecture with another config."""
    return _digest(document, {"root", "blocks", "ties"})


def with_origin(document: Document, origin: Origin) -> Document:
    """The document, its origin completed by what it is now."""
    sizes = FrozenMap({size: document.environment[size] for size in document.sizes})
    completed = origin.replace(
        sizes=sizes, config=document.config, structure=structure(document), fingerprint=fingerprint(document)
    )
    return document.replace(origin=completed)  # type: ignore[no-any-return]


def _digest(document: Document, include: set[str]) -> str:
    parts = document.model_dump(mode="json", include=include)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
