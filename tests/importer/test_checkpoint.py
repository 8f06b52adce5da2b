"""Safetensors headers: what they say of each tensor, and that whatever is wrong with them is told and never guessed."""

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from canvas_rt.errors import CanvasError, CheckpointError
from canvas_rt.importer.checkpoint import INDEX, LARGEST_HEADER, checkpoint_shapes, read_header, unread_files

TENSORS = {
    "a.weight": torch.zeros(3, 4),
    "b.weight": torch.zeros(2, 5, dtype=torch.bfloat16),
    "b.bias": torch.zeros(0, dtype=torch.int8),
    "scalar": torch.zeros((), dtype=torch.float64),
    "fp8": torch.zeros(4, 4, dtype=torch.float8_e4m3fn),
}
SHAPES = {key: tuple(tensor.shape) for key, tensor in TENSORS.items()}


def written(path: Path, header: Any, data: bytes = b"") -> Path:
    """A safetensors file with a header of our own."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape: Any = (2,), span: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(span)}


def sharded(folder: Path) -> None:
    """Two shards and their index, as transformers saves them."""
    names = {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}
    for key, file in names.items():
        save_file({key: TENSORS[key]}, folder / file, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 68}, "weight_map": names}))


def test_a_header_gives_the_shape_of_every_tensor(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    entries = read_header(tmp_path / "model.safetensors")
    assert {key: entry.shape for key, entry in entries.items()} == SHAPES == checkpoint_shapes(tmp_path)


def test_a_header_gives_the_place_of_every_tensor(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    data = (tmp_path / "model.safetensors").read_bytes()
    for key, entry in read_header(tmp_path / "model.safetensors").items():
        assert data[entry.start : entry.stop] == TENSORS[key].reshape(-1).view(torch.uint8).numpy().tobytes()


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    sharded(tmp_path)
    assert checkpoint_shapes(tmp_path) == {key: SHAPES[key] for key in ("a.weight", "b.weight")}


def test_without_an_index_every_file_counts_but_adapters_and_other_layouts(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / INDEX).unlink()
    for other in ("adapter_model.safetensors", "consolidated.00.safetensors"):
        save_file({"a.weight": torch.zeros(9)}, tmp_path / other)
    assert checkpoint_shapes(tmp_path) == {key: SHAPES[key] for key in ("a.weight", "b.weight")}


def test_one_whole_file_comes_before_an_index(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text("not read")
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert checkpoint_shapes(tmp_path) == SHAPES


def test_no_weight_is_read(tmp_path: Path) -> None:
    size = 2**37  # the file says it holds 128 GiB, of which the disk has none
    path = written(tmp_path / "model.safetensors", {"w": entry((2**35,), (0, size))})
    os.truncate(path, path.stat().st_size + size)
    assert checkpoint_shapes(tmp_path) == {"w": (2**35,)}


def test_pickles_are_named_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pytorch_model.bin")  # opening it would wait for ever
    assert (checkpoint_shapes(tmp_path), unread_files(tmp_path)) == ({}, ("pytorch_model.bin",))


HEADERS: dict[str, tuple[Any, bytes, str]] = {
    "no JSON": (b"{]", b"", "is not JSON: line 1"),
    "no table": (b"[1]", b"", "has no header"),
    "spaces before it": (b" {}", b"", "has no header"),
    "nothing": (b"", b"", "has no header"),
    "no text": (b'{"\xff": 1}', b"", "is not text in UTF-8"),
    "a key twice": (b'{"w": 1, "w": 1}', b"", "w: is given twice in one object"),
    "NaN": (b'{"w": NaN}', b"", "w: is NaN"),
    "a deep header": (b'{"w": ' + b"[" * 5000, b"", "is nested too deeply"),
    "no entry": ({"w": 1}, b"", "must have dtype, shape and data_offsets"),
    "a field too many": ({"w": {**entry(), "x": 1}}, bytes(8), "and nothing else"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b"", "metadata that is no table of texts"),
    "an unknown dtype": ({"w": entry(dtype="F33")}, bytes(8), '"w": has the dtype "F33"'),
    "a negative size": ({"w": entry((-2,))}, bytes(8), "is no list of up to 16 sizes"),
    "a size that is true": ({"w": entry((True,), (0, 4))}, bytes(4), "is no list of up to 16 sizes"),
    "a broken size": ({"w": entry((2.0,))}, bytes(8), "is no list of up to 16 sizes"),
    "seventeen dimensions": ({"w": entry((1,) * 17, (0, 4))}, bytes(4), "is no list of up to 16 sizes"),
    "offsets of one": ({"w": entry(span=(8,))}, bytes(8), "are not two counts of bytes"),
    "offsets backwards": ({"w": entry((2,), (8, 0))}, bytes(8), "takes -8 bytes, but [2] of F32 takes 8"),
    "a shape that does not fill them": ({"w": entry((3,))}, bytes(8), "takes 8 bytes, but [3] of F32 takes 12"),
    "an endless shape": ({"w": entry((0, 2**62, 2**62), (0, 0))}, b"", "claims the shape"),
    "a file cut short": ({"w": entry()}, bytes(5), "is cut short: its tensors take 8 bytes, and 5 are there"),
    "a file too long": ({"w": entry()}, bytes(9), "is longer than it says"),
    "a hole": ({"w": entry(span=(4, 12))}, bytes(12), "begins at byte 4, but what lies before it ends at 0"),
    "two in one place": ({"v": entry(), "w": entry()}, bytes(8), "begins at byte 0, but what lies before it ends at 8"),
    "an endless key": ({"w" * 600: entry()}, bytes(8), "has a key of 600 characters"),
}


@pytest.mark.parametrize(("header", "data", "message"), HEADERS.values(), ids=HEADERS)
def test_a_broken_header_is_told(tmp_path: Path, header: Any, data: bytes, message: str) -> None:
    written(tmp_path / "model.safetensors", header, data)
    with pytest.raises(CheckpointError) as caught:
        checkpoint_shapes(tmp_path)
    assert str(tmp_path / "model.safetensors") in str(caught.value) and message in str(caught.value)
    assert "config.json to import the architecture without its weights" in caught.value.hint


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has 0 bytes, too few"),
        (b"1234567", "has 7 bytes, too few"),
        (struct.pack("<Q", 100) + b"{}", "is cut short: a header of 100 bytes in a file of 10"),
        (struct.pack("<Q", LARGEST_HEADER + 1) + b"{}", "more than 67,108,864 are not read"),
        (b"\xff" * 40, "more than 67,108,864 are not read"),
        (b"version 1: a pointer to the file proper\n", "are not read"),
    ],
)
def test_a_file_that_is_no_safetensors_is_told(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        checkpoint_shapes(tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("nothing", path)])
def test_what_is_no_file_is_told_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"is not a regular file|cannot be read"):
        checkpoint_shapes(tmp_path)


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDICES: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "is not JSON"),
    "a list": ([], "has no weight_map"),
    "no map": ({"weight_map": {}}, "has no weight_map"),
    "a missing shard": ({"weight_map": {"a.weight": "model-9.safetensors"}}, 'in "model-9.safetensors", which is not'),
    "a shard without the key": ({"weight_map": {"a.weight": SECOND, "b.weight": SECOND}}, "which does not hold it"),
    "a key that is nowhere": ({"weight_map": {"a.weight": FIRST, "c": SECOND}}, '"c" is in model-00002-of-00002'),
    "a way out of the folder": ({"weight_map": {"a.weight": "../x.safetensors"}}, "which is no name of a file beside"),
    "a path from the root": ({"weight_map": {"a.weight": "/etc/x.safetensors"}}, "which is no name of a file beside"),
    "a folder": ({"weight_map": {"a.weight": "x/y.safetensors"}}, "which is no name of a file beside it"),
    "a way of another system": ({"weight_map": {"a.weight": "..\\x.safetensors"}}, "which is no name of a file"),
    "a pickle": ({"weight_map": {"a.weight": "pytorch_model.bin"}}, "which is no name of a file beside it"),
    "a number": ({"weight_map": {"a.weight": 5}}, "which is no name of a file beside it"),
}


@pytest.mark.parametrize(("index", "message"), INDICES.values(), ids=INDICES)
def test_a_broken_index_is_told(tmp_path: Path, index: Any, message: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"")
    folder = tmp_path / "model"
    folder.mkdir()
    sharded(folder)
    (folder / INDEX).write_text(index if isinstance(index, str) else json.dumps(index))
    with pytest.raises(CheckpointError) as caught:
        checkpoint_shapes(folder)
    assert INDEX in str(caught.value) and message in str(caught.value)


def test_a_key_in_two_shards_is_told(tmp_path: Path) -> None:
    sharded(tmp_path)
    save_file({"a.weight": torch.zeros(1), "b.weight": torch.zeros(1)}, tmp_path / SECOND)
    with pytest.raises(CheckpointError, match=f'holds "a.weight", and so does {FIRST}'):
        checkpoint_shapes(tmp_path)


def test_whatever_bytes_are_changed_the_library_and_we_agree(tmp_path: Path) -> None:
    save_file({key: TENSORS[key] for key in ("a.weight", "b.weight")}, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    length = 8 + struct.unpack("<Q", whole[:8])[0]
    draw = random.Random(0)
    path, accepted = tmp_path / "f.safetensors", 0
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 1, 2, 4))):
            data[draw.randrange(length)] = draw.choice((*b'0123456789{}[]",:-eE. \\', draw.randrange(256)))
        path.write_bytes(data[: draw.choice((len(data), len(data), draw.randrange(len(data))))])
        try:
            ours = {key: entry.shape for key, entry in read_header(path).items()}
        except CanvasError:
            continue
        accepted += 1
        try:
            with safe_open(path, "pt") as file:
                theirs = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise AssertionError(f"we read what safetensors refuses: {bytes(data[:length])!r}") from error
        assert ours == theirs
    assert accepted > 50
