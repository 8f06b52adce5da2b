"""Read tensors that a module keeps: learned ones, those that are kept in the checkpoint, and those that are made anew."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from canvas_rt.importer.buffers import Buffer, buffer_of
from canvas_rt.importer.calls import DTYPES, as_setting, shape_of
from canvas_rt.importer.recognition.reader import Reader, reached
from canvas_rt.importer.trace import TraceError
from canvas_rt.ops.learned import PARAMETER

aten = torch.ops.aten

PARTS = (aten.slice.Tensor, aten.expand.default, aten.gather.default, aten.select.int, aten.unsqueeze.default)
"""Functions that give a part of a value, or repeat it."""


def read_tensor(reader: Reader, node: fx.Node) -> None:
    """A tensor that the module keeps: learned, kept in the checkpoint, or made anew."""
    name = str(node.target)
    owner, _, last = name.rpartition(".")
    holder = reached(reader.recogniser.submodule(reader.path), owner)
    value = getattr(holder, last, None)
    stored = last in getattr(holder, "_buffers", ()) and last not in holder._non_persistent_buffers_set
    if isinstance(value, nn.Parameter) or (isinstance(value, Tensor) and stored):
        read_parameter(reader, node, name, value)
        return
    value = reader.kept(name)
    buffer = None if value is None else buffer_of(value)
    if buffer is None or buffer.positions:
        held = "" if value is None else f" {list(value.shape)}"
        raise TraceError(f"{reader.where}: no rule knows what it does with its own '{name}'{held}")
    read_buffer(reader, node, name.replace(".", "_"), buffer)


def read_parameter(reader: Reader, node: fx.Node, name: str, value: Tensor) -> None:
    first, _, rest = name.partition(".")
    listed = "." in rest or first in reader.holders
    if first in reader.names and not listed:
        raise TraceError(f"{reader.where}: uses {name}, which another module holds")
    attrs: dict[str, Any] = {"shape": tuple(value.shape)}
    if rest and not listed:
        attrs["key"] = rest
    if not (isinstance(value, nn.Parameter) and value.requires_grad):
        attrs["learned"] = False
    own = reader.add(node, name.replace(".", "_") if listed else first, PARAMETER, {}, attrs)
    if listed:
        reader.items = [item.replace(key=name) if item.id == own else item for item in reader.items]


def read_buffer(reader: Reader, node: fx.Node, name: str, buffer: Buffer) -> None:
    ref = ""
    for index, (op, attrs) in enumerate(buffer.steps):
        inputs = {"x": ref} if index else {}
        label = name if index == len(buffer.steps) - 1 else f"{name}_{op.rpartition('.')[2]}"
        ref = reader.add(node, label, op, inputs, attrs)


def is_filled(reader: Reader, node: fx.Node) -> bool:
    """A part of a buffer that is one number all over."""
    source: Any = node
    while isinstance(source, fx.Node) and source.target in PARTS:
        source = source.args[0]
    if source is node or not isinstance(source, fx.Node) or source.op != "get_attr":
        return False
    value = reader.kept(str(source.target))
    if value is None or not value.dim() or not value.numel() or not bool((value == value.flatten()[0]).all()):
        return False
    number = as_setting(value.flatten()[0].item())
    attrs = {"size": shape_of(node), "value": number, "dtype": DTYPES[value.dtype]}
    reader.add(node, str(source.target).replace(".", "_"), "torch.full", {}, attrs)
    return True
