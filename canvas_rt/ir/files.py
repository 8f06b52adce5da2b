"""Read and write documents: strict, from strangers, and never half-written."""

import contextlib
import hashlib
import json
import math
import os
import stat
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from canvas_rt.errors import CanvasError, DocumentError
from canvas_rt.ir.document import SCHEMA_VERSION, Document, Origin
from canvas_rt.ir.frozen import FrozenMap

SUFFIX = ".canvas.json"
LARGEST_FILE = 16 * 2**20
"""No document or config in use comes near 16 MiB; a file beyond it is refused unread."""

DEEPEST = 64
"""Levels of lists and objects within one another: no document or config has more than a dozen."""


def read_json(path: Path) -> Any:
    """The JSON in a file, or a `CanvasError` that says where reading it stopped. NaN and Infinity are refused."""
    data = read_regular(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CanvasError(
            f"is not text in UTF-8 (byte {error.start})", path=str(path), hint="Save it as text in UTF-8."
        ) from error
    return parse_json(text, str(path))


def read_regular(path: Path, most: int = LARGEST_FILE) -> bytes:
    """A file's bytes. Only a regular file is read: a pipe would wait for ever, a device never end."""
    try:
        # Opening a pipe waits for its other end, unless told not to.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as stream:
            state = os.fstat(handle)
            if not stat.S_ISREG(state.st_mode):
                raise CanvasError("is not a regular file", path=str(path), hint="Save what it gives in a file first.")
            data = b"" if state.st_size > most else stream.read(most + 1)
    except OSError as error:
        raise CanvasError(f"cannot be read: {error.strerror}", path=str(path)) from error
    except ValueError as error:
        raise CanvasError(f"is no file name: {error}", path=repr(str(path))) from error
    if state.st_size > most or len(data) > most:
        raise CanvasError(
            f"is larger than {most // 2**20} MiB", path=str(path), hint="No document or config is that large."
        )
    return data


def parse_json(text: str, name: str) -> Any:
    """JSON text as values; the error names line and column, or the field that holds what JSON has no word for."""
    if not text.strip():
        raise CanvasError("is empty", path=name, hint="It should hold JSON: {…}.")
    try:
        value = json.loads(text, object_pairs_hook=partial(_without_twins, name), parse_int=_whole_number)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise CanvasError(f"is not JSON: {where}: {error.msg}", path=name, hint="Correct it there.") from error
    except RecursionError as error:
        raise CanvasError("is nested too deeply", path=name, hint=f"At most {DEEPEST} levels.") from error
    _refuse_odd_values(value, name)
    return value


def _whole_number(text: str) -> int | float:
    """An integer of JSON; one of hundreds of digits is as good as infinite, and Python reads none of thousands."""
    return int(text) if len(text) < 300 else math.inf


def _without_twins(name: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. A key given twice means that one of its values would be dropped silently."""
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        twin = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise CanvasError("is given twice in one object", path=f"{name}: {twin[:80]}", hint="Keep one of them.")
    return table


def _refuse_odd_values(value: Any, name: str) -> None:
    """Refuse numbers that are none (NaN, Infinity, 1e999) and values too deep within one another, naming the field."""
    level: list[tuple[Any, Any]] = [([value], None)]
    depth = 0
    while level:
        below: list[tuple[Any, Any]] = []
        for holder, trail in level:
            for key, item in holder.items() if isinstance(holder, dict) else enumerate(holder):
                if isinstance(item, float) and not math.isfinite(item):
                    said = "NaN" if math.isnan(item) else "Infinity or a number out of range"
                    hint = "Write a finite number."
                    raise CanvasError(
                        f"is {said}, which is not JSON", path=f"{name}: {_spelt((trail, key))}", hint=hint
                    )
                if isinstance(item, dict | list) and item:
                    below.append((item, (trail, key)))
        depth += 1
        if depth > DEEPEST:
            raise CanvasError("is nested too deeply", path=name, hint=f"At most {DEEPEST} levels.")
        level = below


def _spelt(trail: Any) -> str:
    """Keys from the outermost to the innermost, as `rope_scaling.factor`."""
    keys = []
    while trail[0] is not None:  # the outermost is the file itself
        trail, key = trail
        keys.append(str(key)[:80])
    return ".".join(reversed(keys)) or "its value"


def shown(value: Any) -> str:
    """A value as its file writes it, cut where it is long."""
    if isinstance(value, str):
        value = value[:80]  # before quoting: it may be megabytes
    try:
        text = json.dumps(value) if not isinstance(value, Mapping | list | tuple) else _opening(value)
    except (TypeError, ValueError, RecursionError):
        text = repr(value) if isinstance(value, int | float) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:59]}…"


def _opening(value: Any) -> str:
    """A list or an object in short."""
    if isinstance(value, Mapping):
        return "{}" if not value else f"an object of {len(value)} fields"
    few = list(value[:4])
    if any(isinstance(item, Mapping | list | tuple) for item in few):
        return f"a list of {len(value)} entries"
    return f"[{', '.join(map(shown, few))}{', …' if len(value) > 4 else ''}]"


def parse_document(data: Any, name: str = "document") -> Document:
    """Validate a document's JSON values; every flaw is listed with its path."""
    if not isinstance(data, dict) or "schema_version" not in data or "blocks" not in data:
        raise DocumentError(
            "is not a Canvas document: it has no schema_version and blocks",
            path=name,
            hint="A model's config.json is opened with 'canvas-rt import config.json -o mine.canvas.json'.",
        )
    version = data["schema_version"]
    if isinstance(version, bool) or version != SCHEMA_VERSION:
        raise DocumentError(
            f"has schema version {shown(version)}; this Canvas reads {SCHEMA_VERSION}",
            path=name,
            hint="Open it with the Canvas that wrote it, or import the model again.",
        )
    try:
        return Document.model_validate_json(json.dumps(data))
    except ValidationError as error:
        flaws = [_flaw(flaw) for flaw in error.errors(include_url=False, include_context=False, include_input=False)]
        listed = "\n".join(flaws[:8]) + (f"\n… and {len(flaws) - 8} more" if len(flaws) > 8 else "")
        raise DocumentError(f"is not a valid document\n{listed}", path=name) from error


def _flaw(flaw: Any) -> str:
    """One flaw that pydantic found: where, and what."""
    where = ".".join(str(part)[:80] for part in flaw["loc"] if part not in ("node", "use", "stack"))
    text = flaw["msg"].removeprefix("Value error, ")
    return f"{where}: {text}"[:400] if where else text[:400]


def load(path: str | Path) -> Document:
    """Open a `*.canvas.json` file. Raises `DocumentError` or `CanvasError` that says what is wrong with it."""
    return parse_document(read_json(Path(path)), str(path))


def dumps(document: Document) -> str:
    """A document as JSON text: sorted nowhere, since order in it is reading order; the same document, the same text."""
    return json.dumps(document.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def save(document: Document, path: str | Path) -> None:
    """Write a document whole or not at all.

    Raises `DocumentError` for one that could not be opened again, and `CanvasError` for a file that cannot be written.
    """
    text = dumps(document)
    if parse_document(json.loads(text), str(path)) != document:
        raise DocumentError("would not read back as it is: it holds what JSON has no word for", path=str(path))
    write_whole(Path(path), text)


def write_whole(path: Path, text: str) -> None:
    """Write a text file through a temporary one and a rename, so that a kill leaves the old file or the new one."""
    try:
        target = Path(os.path.realpath(path))  # what a link leads to is written, and the link stays
        if target.exists() and not target.is_file():
            raise CanvasError("exists and is no regular file", path=str(path), hint="Choose another name.")
        data = text.encode("utf-8")
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    except OSError as error:
        raise CanvasError(f"cannot be written: {error.strerror}", path=str(path)) from error
    except ValueError as error:
        raise CanvasError(f"cannot be written: {error}", path=repr(str(path))) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise CanvasError(f"cannot be written: {error.strerror}", path=str(path)) from error
        raise


def fingerprint(document: Document) -> str:
    """A digest of the architecture: blocks, sizes, config and ties, without name, layout, origin or log."""
    return _digest(document, {"root", "task", "sizes", "config", "blocks", "ties"})


def structure(document: Document) -> str:
    """A digest of the graph alone: while it is the origin's, the model is a stock architecture with another config."""
    bare = {
        name: block.replace(nodes=tuple(item.replace(weights="") if item.weights else item for item in block.nodes))
        for name, block in document.blocks.items()
    }
    return _digest(document.replace(blocks=FrozenMap(bare)), {"root", "task", "blocks", "ties"})


def with_origin(document: Document, origin: Origin) -> Document:
    """The document, its origin completed by what it is now."""
    completed = origin.replace(
        sizes=document.sizes, config=document.config, structure=structure(document), fingerprint=fingerprint(document)
    )
    return document.replace(origin=completed)


def _digest(document: Document, include: set[str]) -> str:
    parts = document.model_dump(mode="json", include=include)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
