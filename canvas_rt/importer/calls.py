"""Calls of plain functions in a traced graph: made free of mutation, and bound to the table of functions."""

import math
import operator
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx, nn

from canvas_rt.ops.functions import ALL, PREFIX, Argument, Function

aten = torch.ops.aten

MODEL_DTYPE = torch.bfloat16
"""What models are traced in, so that a cast to the model's own dtype can be told from one to fp32."""

DTYPES: Mapping[torch.dtype, str] = {
    MODEL_DTYPE: "model",
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.bool: "bool",
    torch.complex64: "complex64",
}


@lru_cache(maxsize=1)
def _by_target() -> Mapping[str, tuple[Function, ...]]:
    found: dict[str, list[Function]] = defaultdict(list)
    for function in ALL:
        found[function.target].append(function)
    return {target: tuple(functions) for target, functions in found.items()}


def target_of(node: fx.Node) -> str:
    """The overload that a node calls, as in `aten.view.default`."""
    return str(node.target)


Bound = tuple[str, dict[str, fx.Node], dict[str, Any]]
"""An op's name, what feeds its ports, and its settings."""


def bind(node: fx.Node) -> Bound | None:
    """A call as an op of the table; None where no row takes such arguments."""
    values = given(node)
    if values is None:
        return None
    return next(
        filter(None, (_bound(function, values, node) for function in _by_target().get(target_of(node), ()))), None
    )


def given(node: fx.Node) -> list[tuple[str, Any]] | None:
    """A call's arguments in the order of its schema, up to the last that is not at its default."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return None
    values = []
    for index, formal in enumerate(schema.arguments):
        if index < len(node.args):
            values.append((formal.name, node.args[index]))
        else:
            values.append((formal.name, node.kwargs.get(formal.name, formal.default_value)))
    return values


_PLACES = (
    "device",
    "layout",
    "pin_memory",
    "memory_format",
    "non_blocking",
    "copy",
    "implicit",
    "sparse_grad",
    "generator",
    "cudnn_enable",
)
"""Arguments that say where a value lies and what computes it, not what it is."""


def _bound(function: Function, values: list[tuple[str, Any]], node: fx.Node) -> Bound | None:
    if len(function.arguments) > len(values):
        return None
    ports: dict[str, fx.Node] = {}
    attrs: dict[str, Any] = {}
    count = 0
    for argument, (_, value) in zip(function.arguments, values, strict=False):
        if argument.kind == "tensors":
            if not isinstance(value, list | tuple) or not all(isinstance(one, fx.Node) for one in value):
                return None
            count = len(value)
            ports |= {f"{argument.name}_{index}": one for index, one in enumerate(value)}
        elif argument.kind == "tensor":
            if not isinstance(value, fx.Node):
                return None
            ports[argument.name] = value
        elif argument.kind == "none":
            if value is not None:
                return None
        elif not _fits(argument, value):
            return None
        else:
            setting = _setting(argument, value, node)
            if setting != argument.default or argument.required:
                attrs[argument.name] = setting
    formals = node.target._schema.arguments  # type: ignore[union-attr]
    for (name, value), formal in list(zip(values, formals, strict=True))[len(function.arguments) :]:
        if name not in _PLACES and value != formal.default_value:
            return None
    if function.outputs == "*":
        count = len(node.meta["val"])
    name = f"{PREFIX}{function.name}" + (f".{count}" if function.listed else "")
    return name, ports, attrs


def _fits(argument: Argument, value: Any) -> bool:
    if value is None:
        return not argument.required
    if isinstance(value, bool):
        return argument.kind == "flag"
    sorts: Mapping[str, Any] = {
        "int": int,
        "number": (int, float),
        "flag": bool,
        "dtype": torch.dtype,
        "text": str,
        "ints": (list, tuple),
        "dims": (list, tuple, int),
    }
    if not isinstance(value, sorts[argument.kind]):
        return False
    return not isinstance(value, list | tuple) or all(isinstance(one, int) for one in value)


UNBOUNDED = 2**62
"""What torch writes for no end at all."""


def _setting(argument: Argument, value: Any, node: fx.Node) -> Any:
    if argument.kind == "dtype":
        return None if value is None else DTYPES.get(value, str(value).removeprefix("torch."))
    if argument.kind in ("ints", "dims") and value is not None:
        whole = tuple(value) if isinstance(value, list | tuple) else (value,)
        return tuple(_last(axis, node, 0) for axis in whole) if argument.name in ("dim", "dims") else whole
    if argument.kind == "int" and argument.name in ("dim", "dim0", "dim1") and value is not None:
        return _last(value, node, int(node.target in _ADDING))
    value = as_setting(value)
    if argument.name == "end" and isinstance(value, int) and value >= UNBOUNDED:
        return None
    if argument.name == "start" and value == 0 and not argument.required and argument.default is None:
        return None
    return value


def as_setting(value: Any) -> Any:
    """A number as a document says it: what JSON cannot say is text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


_ADDING = (aten.unsqueeze.default, aten.stack.default)
"""Functions whose result has one dimension more than what they are given."""


def _last(axis: int, node: fx.Node, more: int) -> int:
    """The last dimension is −1, however it was written; others count from the first."""
    source = next((arg for arg in node.all_input_nodes), None)
    shape = getattr(source.meta.get("val"), "shape", None) if source is not None else None
    if shape is None:
        return axis
    rank = len(shape) + more
    positive = axis % rank if rank else axis
    return -1 if positive == rank - 1 else positive


# mutation


def without_mutation(graph: fx.Graph) -> None:
    """Turn functions that change a value in place into those that give a new one, read from then on."""
    for node in list(graph.nodes):
        if node.target is aten.copy_.default:
            _copied(graph, node)
            continue
        plain = _OUT_OF_PLACE.get(str(node.target))
        if plain is not None and isinstance(node.args[0], fx.Node):
            changed = node.args[0]
            node.target = plain
            _from_then_on(graph, node, changed, node)


def _from_then_on(graph: fx.Graph, since: fx.Node, old: fx.Node, new: fx.Node) -> None:
    """Let all that comes after a node read another value."""
    later = False
    for node in list(graph.nodes):
        if later and node is not new:
            node.replace_input_with(old, new)
        later = later or node is since


def _copied(graph: fx.Graph, node: fx.Node) -> None:
    """A copy into a value, or into a part of one."""
    target, source = node.args[0], node.args[1]
    if not isinstance(target, fx.Node) or not isinstance(source, fx.Node):
        return
    if target.target in (aten.slice.Tensor, aten.select.int) and isinstance(target.args[0], fx.Node):
        whole = target.args[0]
        scatter = aten.slice_scatter.default if target.target is aten.slice.Tensor else aten.select_scatter.default
        with graph.inserting_before(node):
            new = graph.call_function(scatter, (whole, source, *target.args[1:]))
        new.meta["val"] = whole.meta["val"]
        joined = _joined(graph, new)
        node.replace_all_uses_with(source)
        _from_then_on(graph, node, whole, joined)
        graph.erase_node(node)
        return
    if shape_of(target) == shape_of(source):
        node.replace_all_uses_with(source)
        _from_then_on(graph, node, target, source)
        graph.erase_node(node)


def _joined(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """The second of two parts that fill an empty value along a dimension: both are joined instead."""
    first = node.args[0]
    if node.target is not aten.slice_scatter.default or not isinstance(first, fx.Node):
        return node
    parts: list[tuple[Any, ...]] = [first.args, node.args]
    empty = first.args[0] if first.target is aten.slice_scatter.default else None
    if not isinstance(empty, fx.Node) or empty.target not in (aten.new_empty.default, aten.empty.memory_format):
        return node
    (_, a, dim, start, middle), (_, b, other, second, end) = ((*part, None, None)[:5] for part in parts)
    rank = len(shape_of(node))
    whole = start in (0, None) and middle == second and (end is None or end >= shape_of(node)[dim])
    if dim % rank != other % rank or not whole:
        return node
    with graph.inserting_after(node):
        made = graph.call_function(aten.cat.default, ([a, b], dim))
    made.meta["val"] = node.meta["val"]
    return made


_OUT_OF_PLACE: Mapping[str, Any] = {
    "aten.add_.Tensor": aten.add.Tensor,
    "aten.sub_.Tensor": aten.sub.Tensor,
    "aten.mul_.Tensor": aten.mul.Tensor,
    "aten.div_.Tensor": aten.div.Tensor,
    "aten.scatter_.value": aten.scatter.value,
    "aten.scatter_.src": aten.scatter.src,
    "aten.masked_fill_.Scalar": aten.masked_fill.Scalar,
    "aten.index_add_.default": aten.index_add.default,
    "aten.clamp_.default": aten.clamp.default,
    "aten.detach_.default": aten.detach.default,
}


def inlined(module: nn.Module, graph: fx.Graph) -> None:
    """Put what runs under a mode of its own, such as without gradients or autocast, in its place in the graph."""
    for node in list(graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.HigherOrderOperator):
            continue
        inner = next((arg for arg in node.args if isinstance(arg, fx.Node) and arg.op == "get_attr"), None)
        if inner is None:
            continue
        body = _submodule(module, str(inner.target))
        if not isinstance(body, fx.GraphModule):
            continue
        arguments = list(node.args)[list(node.args).index(inner) + 1 :]
        known = dict(zip((n for n in body.graph.nodes if n.op == "placeholder"), arguments, strict=True))
        results: Any = None
        with graph.inserting_before(node):
            for step in body.graph.nodes:
                if step.op == "output":
                    results = fx.node.map_arg(step.args[0], known.__getitem__)
                elif step.op != "placeholder":
                    known[step] = graph.node_copy(step, known.__getitem__)
        for user in list(node.users):
            if isinstance(results, tuple | list):
                user.replace_all_uses_with(results[user.args[1]])
                graph.erase_node(user)
            else:
                user.replace_input_with(node, results)
        graph.erase_node(node)


def _submodule(module: nn.Module, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    return found


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of what a node gives; empty where it gives no tensor."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def source_of(node: fx.Node) -> fx.Node:
    """What a function of one value is applied to."""
    source = node.args[0]
    assert isinstance(source, fx.Node), node
    return source


def takes_all(node: fx.Node) -> bool:
    """`x[:, 0:]` and the like, which take all as it is."""
    return tuple(source_of(node).meta["val"].shape) == tuple(node.meta["val"].shape)


def is_one_of_several(node: fx.Node) -> bool:
    """Whether a value is one of several that its source gives."""
    return node.target is operator.getitem


__all__ = [
    "DTYPES",
    "MODEL_DTYPE",
    "as_setting",
    "bind",
    "given",
    "inlined",
    "is_one_of_several",
    "shape_of",
    "source_of",
    "takes_all",
    "without_mutation",
]
