"""Count the learned parameters of a document, by node and in all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Literal

from canvas_rt.ir.document import Document, Node
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.frozen import FrozenMap, freeze
from canvas_rt.ir.graph import own_names, parse_layers, walk
from canvas_rt.ops.catalogue import OPS, complete, parameter_shapes
from canvas_rt.ops.functions import is_function
from canvas_rt.ops.op import Op, ParameterSpec, Shape, parameter_key
from canvas_rt.ops.routing import routes


@dataclass(frozen=True, slots=True)
class ParameterRow:
    """One learned tensor of a node, alike in all the layers that its key names."""

    path: str
    """The node's, as `walk` gives it: `model.layers.0-31.self_attn.q_proj`."""

    name: str
    """`weight` or `bias`."""

    shape: Shape
    times: int
    """How many such tensors the model holds."""

    shared: int = 0
    """How many of them share the storage of another, and so count for nothing."""

    role: Literal["trained", "frozen", "buffer"] = "trained"

    place: str = ""
    """The node's as the checkpoint calls it, where that is not its path: `model.layers.0-31.mlp.0`."""

    @property
    def key(self) -> str:
        """The checkpoint's key, with a range where layers are alike."""
        return parameter_key(self.place or self.path, self.name)

    @property
    def count(self) -> int:
        """Elements, in all the layers together."""
        return prod(self.shape) * (self.times - self.shared)


@dataclass(frozen=True, slots=True)
class Parameters:
    """How many numbers a model learns."""

    total: int
    active: int
    """Those that one token passes through: all but the experts that are not chosen for it."""

    by_node: Mapping[str, int]
    """For each node that has any; a tied tensor counts where it is stored."""


_WITHOUT = frozenset(name for name, op in OPS.items() if op.parameters is Op.parameters)
"""Ops that learn nothing."""


def may_learn(item: object) -> bool:
    """Whether parameters may be in an item: all but nodes of ops that learn nothing."""
    return not isinstance(item, Node) or not (item.op in _WITHOUT or is_function(item.op))


@lru_cache(maxsize=4096)
def _specs(node: Node, environment: FrozenMap[str, object]) -> tuple[ParameterSpec, ...]:
    return parameter_shapes(node, resolve(complete(node), environment))


def _node_specs(node: Node, environment: Mapping[str, object]) -> tuple[ParameterSpec, ...]:
    names = own_names(node)
    seen = FrozenMap({name: freeze(environment[name]) for name in names if name in environment})
    return _specs(node, seen)


def parameter_table(document: Document) -> tuple[ParameterRow, ...]:
    """Every learned tensor, layers of one kind that stand together in one row.

    Raises `CanvasError` for an unknown op and for a setting that has no value; `check` finds all such flaws at once.
    """
    tied = document.tied
    rows = []
    seen: set[str] = set()  # a module may be used by several nodes
    for visit in walk(document):
        if not isinstance(visit.item, Node) or not may_learn(visit.item):
            continue
        for spec in _node_specs(visit.item, visit.environment):
            pattern = parameter_key(visit.key, spec.name)
            if pattern in seen:
                continue
            seen.add(pattern)
            shared = sum(covers(pattern, key) for key in tied)
            place = visit.key if visit.key != visit.path else ""
            rows.append(ParameterRow(visit.path, spec.name, spec.shape, visit.times, shared, spec.role, place))
    return tuple(rows)


def count_parameters(document: Document) -> Parameters:
    """The model's parameters; tied ones once, and no buffers. Exact at any depth, and as fast at 126 layers as at 2."""
    by_node: dict[str, int] = {}
    for row in (row for row in parameter_table(document) if row.role != "buffer"):
        by_node[row.path] = by_node.get(row.path, 0) + row.count
    total = sum(by_node.values())
    return Parameters(total, total - _idle(document, by_node), by_node)


def _idle(document: Document, by_node: Mapping[str, int]) -> int:
    """Parameters of experts that serve another token. Where no router chooses, none is known to be idle."""
    return sum(
        by_node[route.experts] // route.held * max(0, route.held - route.choice.chosen)
        for route in routes(document)
        if route.choice is not None
    )


def parameter_keys(document: Document) -> dict[str, Shape]:
    """Every key of the model's state dict with its shape, tied ones too: `model.layers.3.self_attn.q_proj.weight`."""
    return {key: row.shape for row in parameter_table(document) for key in expand(row.key)}


def tied_nodes(document: Document) -> dict[str, str]:
    """The ties in force, by the paths of nodes where the checkpoint has keys of its own."""
    if not document.tied:
        return {}
    rows = [row for row in parameter_table(document) if row.place]
    return {_by_node(rows, key): _by_node(rows, source) for key, source in document.tied.items()}


def _by_node(rows: Sequence[ParameterRow], key: str) -> str:
    row = next((row for row in rows if covers(row.key, key)), None)
    if row is None:
        return key
    pairs = zip(row.key.split("."), key.split("."), strict=True)
    layers = iter([layer for span, layer in pairs if "-" in span and parse_layers(span)])
    path = [next(layers) if "-" in part and parse_layers(part) else part for part in row.path.split(".")]
    return parameter_key(".".join(path), row.name)


def frozen_keys(document: Document) -> frozenset[str]:
    """Keys of tensors that no training changes: they are only kept in the checkpoint."""
    return frozenset(key for row in parameter_table(document) if row.role != "trained" for key in expand(row.key))


def expand(key: str) -> Iterator[str]:
    """A key with ranges of layers as one key for each layer."""
    head, *rest = key.split(".")
    layers = range(*parse_layers(head)) if "-" in head and parse_layers(head) else None  # type: ignore[misc]
    heads = [head] if layers is None else [str(layer) for layer in layers]
    if not rest:
        yield from heads
        return
    tails = list(expand(".".join(rest)))
    for first in heads:
        for tail in tails:
            yield f"{first}.{tail}"


def covers(pattern: str, key: str) -> bool:
    """Whether a key with ranges of layers names this one."""
    parts, wanted = pattern.split("."), key.split(".")
    return len(parts) == len(wanted) and all(_covers(part, other) for part, other in zip(parts, wanted, strict=True))


def _covers(part: str, other: str) -> bool:
    if part == other:
        return True
    span, layer = parse_layers(part), parse_layers(other)
    return span is not None and layer is not None and span[0] <= layer[0] and layer[1] <= span[1]
