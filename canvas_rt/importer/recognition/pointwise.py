"""Recognise functions that work on each value by itself, or along the last dimension: sums, products, activations, casts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from canvas_rt.importer.calls import DTYPES, MODEL_DTYPE, source_of
from canvas_rt.importer.recognition.reader import Reader
from canvas_rt.ir.document import Node

aten = torch.ops.aten

CASTS = (aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.type_as.default, aten._to_copy.default)
BINARY: Mapping[Any, str] = {aten.add.Tensor: "add", aten.sub.Tensor: "sub", aten.mul.Tensor: "mul"}
FUNCTION_ACTIVATIONS: Mapping[Any, str] = {
    aten.silu.default: "silu",
    aten.gelu.default: "gelu",
    aten.relu.default: "relu",
    aten.tanh.default: "tanh",
    aten.sigmoid.default: "sigmoid",
}


def combines(reader: Reader, node: fx.Node) -> bool:
    if node.kwargs or not all(isinstance(arg, fx.Node) for arg in node.args[:2]):
        return False
    op = BINARY[node.target]
    a, b = (reader.ref(arg) for arg in node.args[:2])  # type: ignore[arg-type]
    stream = stream_of(reader)
    joins = op == "add" and (a in stream or b in stream)
    module = next((ref for ref in (b, a) if ref not in stream), b)
    name = f"{module.replace('.', '_')}_residual" if joins else {"mul": "gated"}.get(op, op)
    reader.add(node, name, op, {"a": a, "b": b})
    return True


def scales(reader: Reader, node: fx.Node) -> bool:
    if not isinstance(node.args[1], int | float):
        return False
    # A whole number times a whole number is one: such as a place in a table.
    factor = node.args[1] if not node.meta["val"].is_floating_point() else float(node.args[1])
    reader.add(node, "scaled", "scale", {"x": reader.ref(source_of(node))}, {"factor": factor})
    return True


def activates(reader: Reader, node: fx.Node) -> bool:
    if len(node.args) != 1 or node.kwargs:
        return False
    fn = FUNCTION_ACTIVATIONS[node.target]
    reader.add(node, "activation", "activation", {"x": reader.ref(source_of(node))}, {"fn": fn})
    return True


def softens(reader: Reader, node: fx.Node) -> bool:
    """A softmax along the last dimension, in the dtype that it is given."""
    if len(node.args) != 2 or node.kwargs:
        return False
    source = source_of(node)
    if node.args[1] not in (-1, source.meta["val"].dim() - 1):
        return False
    reader.add(node, "probabilities", "softmax", {"x": reader.ref(source)})
    return True


def casts(reader: Reader, node: fx.Node) -> bool:
    """A change of dtype: none where the value has it already."""
    source = source_of(node)
    before, after = source.meta["val"].dtype, node.meta["val"].dtype
    if before == after and (after is not torch.float32 or not _is_explicit(node)):
        reader.refs[node] = reader.ref(source)
        return True
    if after is MODEL_DTYPE:
        like = next(
            (n for n in reader.graph.nodes if n.op == "placeholder" and n in reader.refs and _is_model(n)), None
        )
        if like is not None:
            reader.add(node, "cast", "torch.type_as", {"x": reader.ref(source), "other": reader.ref(like)})
            return True
    dtype = DTYPES.get(after, str(after).removeprefix("torch."))
    reader.add(node, "cast", "torch.to", {"x": reader.ref(source)}, {"dtype": dtype})
    return True


def stream_of(reader: Reader) -> set[str]:
    """The values that a residual path carries: the block's own stream, and sums onto it."""
    return {
        "hidden_states",
        *(item.id for item in reader.items if isinstance(item, Node) and item.id.endswith("_residual")),
    }


def _is_model(node: fx.Node) -> bool:
    """Whether a value is in the model's own dtype."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype is MODEL_DTYPE


def _is_explicit(node: fx.Node) -> bool:
    """Whether a cast names its dtype, so that it holds whatever it is given."""
    return node.target in (aten.to.dtype, aten.to.dtype_layout) and bool(node.kwargs.get("dtype") or len(node.args) > 1)
