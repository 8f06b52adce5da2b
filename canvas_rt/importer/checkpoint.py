"""Read what a model folder's weights are called and how large they are, from safetensors headers alone."""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from canvas_rt.errors import CanvasError, CheckpointError
from canvas_rt.ir.files import parse_json, read_regular, shown

Shape = tuple[int, ...]

WHOLE, INDEX, SUFFIX = "model.safetensors", "model.safetensors.index.json", ".safetensors"
"""The names under which transformers saves weights: in one file, or in shards that an index lists."""

OTHER_LAYOUTS = ("adapter_", "consolidated", "optimizer")
"""How safetensors files begin that hold something else than the model under transformers' names."""

NEVER_OPENED = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf")
"""Endings of files with weights that Canvas never opens: pickles run code."""

LARGEST_HEADER = 64 * 2**20
"""Bytes of a header or an index: four times those of a model with 140,000 tensors."""

MOST_TENSORS = 2**20
LONGEST_KEY = 512
LARGEST_TENSOR = 2**50
"""Elements that one tensor may claim."""

MOST_DIMENSIONS = 16

BITS: Mapping[str, int] = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""How many bits an element takes, by the dtype's name in safetensors."""

DAMAGED = "Get the file again, or name the folder's config.json to import the architecture without its weights."


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in a safetensors file."""

    file: Path
    dtype: str
    """As safetensors calls it: `BF16`."""

    shape: Shape
    start: int
    """Where its bytes begin, in the file as a whole."""

    stop: int

    @property
    def bytes(self) -> int:
        return self.stop - self.start


def checkpoint_shapes(folder: Path) -> Mapping[str, Shape]:
    """The shape of every tensor that a folder's safetensors files hold, by key; empty where there are none."""
    return {key: entry.shape for key, entry in checkpoint_entries(folder).items()}


def checkpoint_entries(folder: Path) -> Mapping[str, Entry]:
    """Every tensor that a folder's safetensors files hold, by key; empty where there are none.

    Reads headers and the index, never a weight. As transformers does, it takes `model.safetensors` before an index.
    Raises `CheckpointError` for files that are no safetensors, are cut short, or contradict one another.
    """
    entries: dict[str, Entry] = {}
    listed = _listed(folder)
    for file in checkpoint_files(folder) if listed is None else sorted(set(listed.values())):
        for key, entry in read_header(folder / file).items():
            if key in entries:
                raise _flaw(folder / file, f"holds {shown(key)}, and so does {entries[key].file.name}")
            entries[key] = entry
        if len(entries) > MOST_TENSORS:
            raise _flaw(folder / file, f"brings the model to more than {MOST_TENSORS:,} tensors")
    for key, file in (listed or {}).items():
        if key not in entries or entries[key].file.name != file:
            raise _flaw(folder / INDEX, f"says that {shown(key)} is in {file}, which does not hold it")
    return entries


def checkpoint_files(folder: Path) -> tuple[str, ...]:
    """The safetensors files of a model folder, by name: those of transformers where there are such, else all."""
    if os.path.lexists(folder / WHOLE):
        return (WHOLE,)
    listed = _listed(folder)
    if listed is not None:
        return tuple(sorted(set(listed.values())))
    return tuple(name for name in _names(folder, (SUFFIX,)) if not name.startswith(OTHER_LAYOUTS))


def unread_files(folder: Path) -> tuple[str, ...]:
    """Files of a model folder that hold weights, or may, and are not read."""
    read = checkpoint_files(folder)
    others = (name for name in _names(folder, (SUFFIX,)) if name.startswith(OTHER_LAYOUTS))
    return () if read else tuple(sorted((*others, *_names(folder, NEVER_OPENED))))


def _names(folder: Path, endings: tuple[str, ...]) -> Iterator[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", path=str(folder)) from error
    yield from (name for name in names if name.endswith(endings) and not name.startswith((".", "training_args")))


def _listed(folder: Path) -> Mapping[str, str] | None:
    """The file that holds each key, by the folder's index; None where there is no index, or none that counts."""
    path = folder / INDEX
    if os.path.lexists(folder / WHOLE) or not os.path.lexists(path):
        return None
    index = _json(path, read_regular(path, LARGEST_HEADER))
    table = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(table, dict) or not table:
        raise _flaw(path, "has no weight_map, the table that says which file holds which tensor")
    present = set(_names(folder, (SUFFIX,)))
    for key, file in table.items():
        if not isinstance(file, str) or file != os.path.basename(file) or not file.endswith(SUFFIX) or "\\" in file:
            raise _flaw(path, f"says that {shown(key)} is in {shown(file)}, which is no name of a file beside it")
        if file not in present:
            raise _flaw(path, f"says that {shown(key)} is in {shown(file)}, which is not there")
    return table


def read_header(path: Path) -> Mapping[str, Entry]:
    """Every tensor in one safetensors file, by key. Reads its header and nothing behind it.

    Raises `CheckpointError` for whatever the safetensors library would refuse to open, and for a key given twice.
    """
    try:
        # Opening a pipe waits for its other end, unless told not to.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise _flaw(path, "is not a regular file")
            size = os.fstat(handle).st_size
            text, room = _header_text(path, stream, size)
    except OSError as error:
        raise _flaw(path, f"cannot be read: {error.strerror}") from error
    header = _json(path, text)
    if not isinstance(header, dict):
        raise _flaw(path, "has a header that is no table of tensors")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise _flaw(path, "has metadata that is no table of texts")
    entries, spans = {}, []
    for key, entry in header.items():
        shape, span = _entry(path, key, entry)
        entries[key] = Entry(path, entry["dtype"], shape, size - room + span[0], size - room + span[1])
        spans.append((*span, key))
    _fill(path, spans, room)
    return entries


def _header_text(path: Path, stream: BinaryIO, size: int) -> tuple[bytes, int]:
    """A file's header as it is written, and how many bytes there are behind it."""
    length = int.from_bytes(stream.read(8), "little")
    if size < 8:
        raise _flaw(path, f"has {size} bytes, too few for a safetensors file")
    if length > LARGEST_HEADER:
        raise _flaw(path, f"says that its header has {length:,} bytes; more than {LARGEST_HEADER:,} are not read")
    if length > size - 8:
        raise _flaw(path, f"is cut short: a header of {length:,} bytes in a file of {size:,}")
    text = stream.read(length)
    if not text.startswith(b"{"):
        raise _flaw(path, "has no header: it is no safetensors file")
    return text, size - 8 - length


def _json(path: Path, data: bytes) -> Any:
    try:
        return parse_json(data.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise _flaw(path, f"is not text in UTF-8 (byte {error.start} of its JSON)") from error
    except CanvasError as error:
        raise CheckpointError(error.message, path=error.path, hint=DAMAGED) from error


def _entry(path: Path, key: str, entry: Any) -> tuple[Shape, tuple[int, int]]:
    """One tensor's shape, and where it lies behind the header."""
    if len(key) > LONGEST_KEY:
        raise _flaw(path, f"has a key of {len(key):,} characters; {LONGEST_KEY} are the most: {shown(key)}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _flaw(path, "must have dtype, shape and data_offsets, and nothing else", key)
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _flaw(path, f"has the dtype {shown(dtype)}, which safetensors does not know", key)
    if not _counts(shape) or len(shape) > MOST_DIMENSIONS:
        raise _flaw(path, f"has the shape {shown(shape)}, which is no list of up to {MOST_DIMENSIONS} sizes", key)
    if not _counts(span) or len(span) != 2:
        raise _flaw(path, f"has the data_offsets {shown(span)}, which are not two counts of bytes", key)
    bits = prod(shape) * BITS[dtype]
    if prod(size or 1 for size in shape) > LARGEST_TENSOR:
        raise _flaw(path, f"claims the shape {shown(shape)}", key)
    if (span[1] - span[0]) * 8 != bits:
        raise _flaw(
            path, f"takes {span[1] - span[0]:,} bytes, but {shown(shape)} of {dtype} takes {bits / 8:,.0f}", key
        )
    return tuple(shape), (span[0], span[1])


def _counts(value: Any) -> bool:
    """Whether a value is a list of whole numbers from 0."""
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)


def _fill(path: Path, spans: list[tuple[int, int, str]], room: int) -> None:
    """Tensors lie one behind the other, from the header to the file's end: else it was cut short, or patched."""
    end = 0
    for start, stop, key in sorted(spans):
        if start != end:
            raise _flaw(path, f"begins at byte {start:,}, but what lies before it ends at {end:,}", key)
        end = stop
    if end != room:
        fault = "is cut short" if end > room else "is longer than it says"
        raise _flaw(path, f"{fault}: its tensors take {end:,} bytes, and {room:,} are there")


def _flaw(path: Path, message: str, key: str | None = None) -> CheckpointError:
    where = str(path) if key is None else f"{path}: {shown(key)}"
    return CheckpointError(message, path=where, hint=DAMAGED)
