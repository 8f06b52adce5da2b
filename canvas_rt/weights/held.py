"""Read the tensors of a checkpoint under the keys that the origin's model has: as transformers would load them, one by one."""

import copy
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from canvas_rt.errors import CheckpointError
from canvas_rt.importer.checkpoint import Entry, checkpoint_entries, unread_files
from canvas_rt.importer.factory import StockFactory
from canvas_rt.importer.loading import FEW, TEXT_MODEL
from canvas_rt.importer.trace import quiet
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import read_json, shown
from canvas_rt.ir.frozen import thaw
from canvas_rt.ir.tasks import TASKS
from canvas_rt.ops.op import Shape
from canvas_rt.weights.plan import origin_environment

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Dtypes of tensors that can be carried over."""


@dataclass
class Merge:
    """Tensors of the files of which transformers makes tensors of the model."""

    transform: Any
    """Its own, which says how."""

    name: str
    """The first tensor that it makes."""

    sources: list[tuple[str, str]] = field(default_factory=list)
    """Keys in the files, each with the pattern that it matched."""

    @property
    def plain(self) -> bool:
        """Whether it is one tensor, as it is."""
        return not hasattr(self.transform, "operations")

    def made(self, read: Callable[[str], Tensor], model: Any) -> dict[str, Tensor]:
        """The model's tensors, by key."""
        transform = copy.deepcopy(self.transform)
        for key, pattern in self.sources:
            transform.add_tensor(self.name, key, pattern, lambda key=key: read(key))
        with quiet():
            found = transform.convert(self.name, model=model, config=getattr(model, "config", None))
        return {key: value[0] if isinstance(value, list) else value for key, value in found.items()}


class Held:
    """The checkpoint of a document's origin: what it holds, under the model's keys.

    Raises `CheckpointError` for a folder without safetensors, for files that are damaged, and for weights of another
    model than the document was imported from.
    """

    def __init__(self, folder: Path, document: Document) -> None:
        self.folder = folder
        self.entries: Mapping[str, Entry] = checkpoint_entries(folder) if folder.is_dir() else {}
        if not self.entries:
            raise self._nothing_to_read()
        self.config = self._read_config()
        self._refuse_quantised()
        self.model = stock_model(document)
        self._merges = self._by_key() if self.model is not None else {}
        self._last: tuple[Merge, dict[str, Tensor]] | None = None
        self.shapes, self.dtypes = self._shapes_and_dtypes()
        if self.model is not None:
            self._require_fit()

    def _nothing_to_read(self) -> CheckpointError:
        if not self.folder.exists():
            return CheckpointError("there is no such folder", path=str(self.folder), hint="Name a model folder.")
        if not self.folder.is_dir():
            return CheckpointError(
                "is a file", path=str(self.folder), hint="Name the folder that holds the *.safetensors files."
            )
        unread = unread_files(self.folder)
        what = f"holds {unread[0]}, but no safetensors" if unread else "holds no *.safetensors files"
        hint = "Save the model with save_pretrained: Canvas reads safetensors alone, since pickles run code."
        return CheckpointError(what, path=str(self.folder), hint=hint)

    # how the files' tensors become the model's

    def _by_key(self) -> dict[str, Merge]:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            dot_natural_key,
            rename_source_key,
        )

        own = self.model.state_dict()
        mapping = get_model_conversion_mapping(self.model)
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
        prefix = self.model.base_model_prefix
        merges: dict[str, Merge] = {}
        for key in sorted(self.entries, key=dot_natural_key):
            known = key.replace(TEXT_MODEL, "", 1) if self._within else key
            name, pattern = rename_source_key(known, renamings, converters, prefix, own)
            if name not in own and known in own:
                name, pattern = rename_source_key(known, [], [], prefix, own)
            if name not in own:
                continue
            transform = by_pattern[pattern] if pattern is not None else WeightRenaming(known, name)
            merge = merges.setdefault(name, Merge(transform, name))
            merge.sources.append((key, pattern if pattern is not None else known))
        return merges

    @property
    def _within(self) -> bool:
        """Whether the checkpoint is that of a model of which the origin is the text model."""
        return isinstance(self.config.get("text_config"), Mapping)

    def _read_config(self) -> Mapping[str, Any]:
        path = self.folder / "config.json"
        config = read_json(path) if path.is_file() else {}
        return config if isinstance(config, Mapping) else {}

    def _refuse_quantised(self) -> None:
        said = self.config.get("quantization_config")
        packed = next((e for e in self.entries.values() if e.dtype not in DTYPES), None)
        if said is None and packed is None:
            return
        method = said.get("quant_method") if isinstance(said, Mapping) else packed.dtype if packed else None
        raise CheckpointError(
            f"holds quantised weights ({shown(method)}), and what is packed cannot be cut or joined",
            path=str(self.folder),
            hint="Load the model with transformers, dequantize() it, and save it in bf16.",
        )

    def _shapes_and_dtypes(self) -> tuple[dict[str, Shape], dict[str, str]]:
        """Of every tensor of the model that the files give: told on meta, where transformers makes them of others."""
        if self.model is None:
            shapes = {key: entry.shape for key, entry in self.entries.items()}
            return shapes, {key: entry.dtype for key, entry in self.entries.items()}
        shapes, dtypes = {}, {}
        makers: dict[str, Merge] = {}
        for name, merge in self._merges.items():
            dtype = self.entries[merge.sources[0][0]].dtype
            if merge.plain:
                found: Mapping[str, Shape] = {name: self.entries[merge.sources[0][0]].shape}
            else:
                try:
                    made = merge.made(self._empty, self.model)
                except Exception as error:  # whatever transformers finds wrong with them
                    raise CheckpointError(
                        f"cannot be put together from the checkpoint's tensors: {str(error)[:200]}", path=shown(name)
                    ) from error
                found = {key: tuple(tensor.shape) for key, tensor in made.items()}
            for key, shape in found.items():
                shapes[key], dtypes[key], makers[key] = shape, dtype, merge
        self._merges = makers
        return shapes, dtypes

    def _empty(self, key: str) -> Tensor:
        return torch.empty(self.entries[key].shape, dtype=torch.bfloat16, device="meta")

    def _require_fit(self) -> None:
        """Refuse weights that are not those of the model that the document was imported from."""
        ties = getattr(self.model, "all_tied_weights_keys", None) or {}
        shared = {a for pair in ties.items() if any(key in self.shapes for key in pair) for a in pair}
        optional = getattr(self.model, "_keys_to_ignore_on_load_missing", None) or ()
        flaws = []
        for key, tensor in self.model.state_dict().items():
            expected, held = tuple(tensor.shape), self.shapes.get(key)
            if held is None and key not in shared and not any(re.search(pattern, key) for pattern in optional):
                flaws.append(f"{key} is not in the checkpoint")
            elif held is not None and held != expected:
                flaws.append(
                    f"{key} is {list(held)} in the checkpoint, {list(expected)} in the model that was imported"
                )
        if flaws:
            listed = "\n".join(flaws[:FEW]) + (f"\n… and {len(flaws) - FEW} more" if len(flaws) > FEW else "")
            raise CheckpointError(
                f"are not the weights of the model that the document was imported from\n{listed}",
                path=str(self.folder),
                hint=f"Import the folder itself and make the edits there: canvas-rt import {self.folder.name or '.'} -o …",
            )

    # reading

    def read(self, key: str) -> Tensor:
        """One tensor of the model, in memory."""
        if self.model is None or self._merges[key].plain:
            return read_tensor(self.raw(key))
        merge = self._merges[key]
        if self._last is None or self._last[0] is not merge:
            self._last = None  # before the next are read: they may be large
            self._last = merge, merge.made(lambda name: read_tensor(self.entries[name]), self.model)
        return self._last[1][key]

    def rows(self, key: str, first: int, last: int) -> Tensor:
        """Some rows of a tensor of the model: of one that lies in a file as it is, no others are read."""
        entry, shape = self.raw(key), self.shapes[key]
        if entry is None:
            return self.read(key)[first:last]
        if not shape:
            return read_tensor(entry)
        width = entry.bytes // max(1, shape[0])
        start = entry.start + first * width
        return read_tensor(
            replace(entry, shape=(last - first, *shape[1:]), start=start, stop=start + (last - first) * width)
        )

    def raw(self, key: str) -> Entry | None:
        """Where a tensor of the model lies in a file just as it is; None where it is made of others."""
        if self.model is None:
            return self.entries[key]
        merge = self._merges[key]
        return self.entries[merge.sources[0][0]] if merge.plain else None

    @property
    def unread(self) -> tuple[str, ...]:
        """Keys in the files for which the origin's model has no place."""
        read = {key for merge in self._merges.values() for key, _ in merge.sources}
        return () if self.model is None else tuple(key for key in self.entries if key not in read)


def stock_model(document: Document) -> Any:
    """The model that a document was imported from, on meta; None where transformers does not have its class."""
    from canvas_rt.importer.config.classes import model_class_name

    origin = document.origin
    if origin.architecture not in (model_class_name(origin.model_type, task) for task in TASKS.values()):
        return None
    values = {name: thaw(value) for name, value in origin_environment(document).items()}
    factory = StockFactory(origin.model_type, document.purpose)
    config = factory.config({**values, **thaw(origin.patterns)})
    with quiet(), torch.device("meta"):
        return factory.build(config)


def read_tensor(entry: Entry | None) -> Tensor:
    """A tensor's bytes as a tensor. Plain reads: what is mapped would count as memory in use."""
    assert entry is not None
    data = bytearray(entry.bytes)
    with open(entry.file, "rb", buffering=0) as stream:
        stream.seek(entry.start)
        view, done = memoryview(data), 0
        while done < len(data):
            count = stream.readinto(view[done:])
            if not count:
                raise CheckpointError("is cut short", path=str(entry.file))
            done += count
    if not data:
        return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    return torch.frombuffer(data, dtype=DTYPES[entry.dtype]).view(entry.shape)


def copy_bytes(entry: Entry, into: int) -> None:
    """Append a tensor's bytes to an open file, without holding them."""
    buffer = memoryview(bytearray(min(2**22, entry.bytes)))
    with open(entry.file, "rb", buffering=0) as source:
        source.seek(entry.start)
        left = entry.bytes
        while left:
            count = source.readinto(buffer[:left])
            if not count:
                raise CheckpointError("is cut short", path=str(entry.file))
            _write(into, buffer[:count])
            left -= count


def write_all(into: int, data: Sequence[Any] | memoryview) -> None:
    """Append bytes to an open file, all of them."""
    view = memoryview(data).cast("B")  # type: ignore[arg-type]
    for start in range(0, len(view), 2**24):
        _write(into, view[start : start + 2**24])


def _write(into: int, data: Any) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(into, view) :]
