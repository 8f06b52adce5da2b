"""Safetensors files written tensor by tensor."""

import json
import os
import threading
from pathlib import Path

import pytest
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file

from canvas_rt.importer.checkpoint import checkpoint_entries
from canvas_rt.weights.held import write_all
from canvas_rt.weights.shards import FLUSHED, Stopped, Written, shards_of, write_shards

TENSORS = {
    f"layers.{i}.weight": torch.randn(40, 7 + i, generator=torch.Generator().manual_seed(i)).to(dtype)
    for i, dtype in enumerate([torch.float32, torch.bfloat16, torch.float16, torch.float32, torch.bfloat16])
}
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
WRITTEN = [Written(key, NAMES[tensor.dtype], tuple(tensor.shape)) for key, tensor in TENSORS.items()]


def append(tensor: Written, into: int) -> None:
    write_all(into, TENSORS[tensor.key].contiguous().view(torch.uint8).numpy().data)


@pytest.mark.parametrize("largest", [1, 1300, 2500, 10**6])
def test_shards_are_those_of_save_pretrained(largest: int, tmp_path: Path) -> None:
    shards = shards_of(WRITTEN, largest)
    theirs = split_torch_state_dict_into_shards(
        TENSORS, filename_pattern="model{suffix}.safetensors", max_shard_size=largest
    )
    assert {s.name: [t.key for t in s.tensors] for s in shards} == theirs.filename_to_tensors
    write_shards(tmp_path, shards, append)
    read = {key: tensor for shard in shards for key, tensor in load_file(tmp_path / shard.name).items()}
    assert all(torch.equal(read[key], tensor) for key, tensor in TENSORS.items())
    assert checkpoint_entries(tmp_path).keys() == TENSORS.keys()  # which also reads the index, where there is one
    if len(shards) > 1:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["weight_map"] == theirs.tensor_to_filename
        assert index["metadata"]["total_size"] == theirs.metadata["total_size"]


def test_what_was_killed_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canvas_rt.weights.shards.FLUSHED", 1)
    assert FLUSHED > 1
    shards = shards_of(WRITTEN, 3500)
    (tmp_path / "whole").mkdir()
    write_shards(tmp_path / "whole", shards, append)
    for stop in range(len(WRITTEN) * 2):
        folder = tmp_path / str(stop)
        folder.mkdir()
        made: list[str] = []

        def until(tensor: Written, into: int, stop: int = stop, made: list[str] = made) -> None:
            half, made_before = divmod(stop, 2)
            if len(made) == half:
                if made_before:
                    os.write(into, b"torn")
                raise KeyboardInterrupt
            made.append(tensor.key)
            append(tensor, into)

        with pytest.raises(KeyboardInterrupt):
            write_shards(folder, shards, until)
        again: list[str] = []
        write_shards(folder, shards, lambda tensor, into, again=again: (again.append(tensor.key), append(tensor, into)))  # type: ignore[misc]
        assert made + again == [tensor.key for tensor in WRITTEN]
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
            p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()
        }


def test_what_was_stopped_is_gone_on_with_at_the_next_tensor(tmp_path: Path) -> None:
    shards = shards_of(WRITTEN, 3500)
    for count in range(len(WRITTEN)):
        folder = tmp_path / str(count)
        folder.mkdir()
        stop, made = threading.Event(), list[str]()

        def one(
            tensor: Written, into: int, made: list[str] = made, stop: threading.Event = stop, n: int = count
        ) -> None:
            append(tensor, into)
            made.append(tensor.key)
            if len(made) == n:
                stop.set()

        if not count:
            stop.set()
        with pytest.raises(Stopped):
            write_shards(folder, shards, one, stop=stop)
        assert len(made) == count
        write_shards(folder, shards, one)
        assert made == [tensor.key for tensor in WRITTEN]
        assert all(torch.equal(v, TENSORS[k]) for s in shards for k, v in load_file(folder / s.name).items())
