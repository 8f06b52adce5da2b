"""Write tensors one by one into safetensors files of bounded size: resumable, and never more in memory than one tensor."""

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path

from canvas_rt.errors import CanvasError
from canvas_rt.importer.checkpoint import BITS, INDEX, WHOLE
from canvas_rt.ops.op import Shape

FLUSHED = 2**28
"""Bytes after which what was written is sure to be on the disk."""


class Stopped(CanvasError):
    """Somebody said that no more shall be written. What was written is kept."""


@dataclass(frozen=True, slots=True)
class Written:
    """One tensor to write."""

    key: str
    dtype: str
    """As safetensors calls it: `BF16`."""

    shape: Shape

    @property
    def bytes(self) -> int:
        return prod(self.shape) * BITS[self.dtype] // 8


@dataclass(frozen=True, slots=True)
class Shard:
    """One file, and the tensors in it."""

    name: str
    tensors: tuple[Written, ...]

    @property
    def header(self) -> bytes:
        """What stands before the tensors, padded so that they begin at a multiple of eight bytes."""
        table: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for tensor in self.tensors:
            table[tensor.key] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "data_offsets": [end, end + tensor.bytes],
            }
            end += tensor.bytes
        text = json.dumps(table, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.tensors)


def shards_of(tensors: Iterable[Written], largest: int) -> tuple[Shard, ...]:
    """Tensors in files of at most `largest` bytes, as transformers divides and names them; a larger one stands alone."""
    groups: list[list[Written]] = []
    open_: list[Written] = []
    for tensor in tensors:
        if tensor.bytes > largest:
            groups.append([tensor])
            continue
        if sum(other.bytes for other in open_) + tensor.bytes > largest:
            groups.append(open_)
            open_ = []
        open_.append(tensor)
    groups += [open_] if open_ or not groups else []
    if len(groups) == 1:
        return (Shard(WHOLE, tuple(groups[0])),)
    return tuple(
        Shard(f"model-{index:05}-of-{len(groups):05}.safetensors", tuple(group))
        for index, group in enumerate(groups, 1)
    )


def index_of(shards: Sequence[Shard]) -> Mapping[str, object]:
    """What `model.safetensors.index.json` says."""
    tensors = [tensor for shard in shards for tensor in shard.tensors]
    return {
        "metadata": {
            "total_parameters": sum(prod(tensor.shape) for tensor in tensors),
            "total_size": sum(tensor.bytes for tensor in tensors),
        },
        "weight_map": {tensor.key: shard.name for shard in shards for tensor in shard.tensors},
    }


def write_shards(
    folder: Path,
    shards: Sequence[Shard],
    append: Callable[[Written, int], None],
    progress: Callable[[int], None] = lambda done: None,
    stop: threading.Event | None = None,
) -> None:
    """Write all files into a folder, going on where an earlier call was killed or stopped.

    `append` writes the bytes of one tensor to an open file. A file has its name once it is whole; until then it is called
    `.part`, and a note beside it says how much of it is surely on the disk. Raises `Stopped` after the tensor at which
    `stop` was set.
    """
    done, stop = 0, stop or threading.Event()
    for shard in shards:
        if not (folder / shard.name).exists():
            _write(folder, shard, append, lambda bytes, before=done: progress(before + bytes), stop)  # type: ignore[misc]
        done += shard.bytes
        progress(done)
    if len(shards) > 1:
        _whole(folder / INDEX, json.dumps(index_of(shards), indent=2).encode() + b"\n")


def _write(
    folder: Path,
    shard: Shard,
    append: Callable[[Written, int], None],
    progress: Callable[[int], None],
    stop: threading.Event,
) -> None:
    part, note = folder / f"{shard.name}.part", folder / f"{shard.name}.note"
    header = shard.header
    kept = _kept(part, note, shard, len(header))
    handle = os.open(part, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.ftruncate(handle, 0 if kept is None else len(header) + sum(t.bytes for t in shard.tensors[:kept]))
        os.lseek(handle, 0, os.SEEK_END)
        if kept is None:
            os.write(handle, header)
        written = flushed = sum(tensor.bytes for tensor in shard.tensors[: kept or 0])
        with ThreadPoolExecutor(1) as beside:  # the disk writes while the next tensors are made
            flush: Future[None] | None = None
            for index in range(kept or 0, len(shard.tensors)):
                if stop.is_set():
                    if flush is not None:
                        flush.result()
                    _flush(handle, note, index)
                    raise Stopped("was stopped")
                append(shard.tensors[index], handle)
                written += shard.tensors[index].bytes
                progress(written)
                if written - flushed >= FLUSHED:
                    if flush is not None:
                        flush.result()
                    flush, flushed = beside.submit(_flush, handle, note, index + 1), written
            if flush is not None:
                flush.result()
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(part, folder / shard.name)
    note.unlink(missing_ok=True)


def _flush(handle: int, note: Path, count: int) -> None:
    """Have what was written on the disk, then note that so many tensors are."""
    os.fsync(handle)
    _whole(note, str(count).encode())


def _kept(part: Path, note: Path, shard: Shard, header: int) -> int | None:
    """How many tensors of a file are surely written; None where nothing is."""
    try:
        count = int(note.read_text())
        enough = header + sum(tensor.bytes for tensor in shard.tensors[:count]) <= part.stat().st_size
    except (OSError, ValueError):
        return None
    return count if 0 < count <= len(shard.tensors) and enough else None


def _whole(path: Path, data: bytes) -> None:
    """A small file, written whole or not at all."""
    temporary = path.with_name(f"{path.name}.new")
    with open(temporary, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
