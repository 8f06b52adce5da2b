"""Rotations in traced graphs: found by what meets in products of a value with two tables, and proved by running them."""

import operator
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx

from canvas_rt.importer.proof import generator, same, written
from canvas_rt.ops.catalogue import OPS
from canvas_rt.ops.rotary import rotate

aten = torch.ops.aten

SPLITS = frozenset({aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.unbind.int})
RESHAPING = SPLITS | {
    aten.alias.default,
    aten.cat.default,
    aten.chunk.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.expand.default,
    aten.flatten.using_ints,
    aten.neg.default,
    aten.permute.default,
    aten.repeat_interleave.self_int,
    aten.reshape.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.squeeze.dim,
    aten.stack.default,
    aten.to.dtype,
    aten._to_copy.default,
    aten.transpose.int,
    aten.type_as.default,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.view.default,
}
"""Functions that only move, copy, negate or cast numbers."""

SUMS = frozenset({aten.add.Tensor, aten.sub.Tensor})
ENDS = SUMS | {aten.cat.default, aten.flatten.using_ints, aten.view.default, aten.reshape.default}
ENDS |= {aten.to.dtype, aten._to_copy.default, aten.type_as.default}
"""What the last step of a rotation may be."""

CASTS = frozenset({aten.to.dtype, aten._to_copy.default, aten.type_as.default})

SETTINGS = OPS["rotate"].settings
DEFAULTS = {name: setting.default for name, setting in SETTINGS.items()}


def find_rotations(graph: fx.Graph) -> dict[fx.Node, dict[str, Any]]:
    """Where a value is turned by rotary cosines and sines: the last step of each, what stands for `x`, `cos` and `sin`, and under
    `@settings` those of the op `rotate` that are not as usual."""
    region = _Region(graph)
    found: dict[fx.Node, dict[str, Any]] = {}
    for node in graph.nodes:
        if node.op == "call_function" and node.target in ENDS and region.turns(node):
            bound = region.rotation(node)
            if bound is not None:
                found = {end: b for end, b in found.items() if not region.within(end, node, bound["x"])}
                found[node] = bound
    return found


class _Region:
    """What a graph's nodes are made of, as far as a rotation may look."""

    def __init__(self, graph: fx.Graph) -> None:
        self.order = {node: place for place, node in enumerate(graph.nodes)}
        self.sources: dict[fx.Node, frozenset[fx.Node]] = {}
        """For each node the values that it is computed of, by nothing but the functions of a rotation."""

        self.tables: dict[fx.Node, tuple[fx.Node, ...]] = {}
        """For each node the tables in the products that it is computed of, in the order of its terms."""

        for node in graph.nodes:
            self._enter(node)

    def _enter(self, node: fx.Node) -> None:
        inputs = node.all_input_nodes
        of_tensors = node.op == "call_function" and bool(inputs)
        products = node.target is aten.mul.Tensor and len(inputs) == 2
        known = node.target in RESHAPING or node.target in SUMS or products
        if node.target is operator.getitem and inputs and inputs[0].target in SPLITS:
            known = True
        if not (of_tensors and known):
            self.sources[node], self.tables[node] = frozenset({node}), ()
            return
        self.sources[node] = frozenset().union(*(self.sources[n] for n in inputs))
        tables = [t for n in inputs for t in self.tables[n]]
        if products:
            tables += [t for t in map(self._table, inputs) if t is not None]
        self.tables[node] = tuple(dict.fromkeys(tables))

    def _table(self, node: fx.Node) -> fx.Node | None:
        """The table of [batch, seq, width] that a factor is a view of."""
        (source, *others) = self.sources[node]
        shape = _shape(source)
        return source if not others and shape is not None and len(shape) == 3 and len(_shape(node) or ()) == 4 else None

    def turns(self, node: fx.Node) -> bool:
        shape = _shape(node)
        return shape is not None and len(shape) == 4 and len(self.sources[node]) == 3 and len(self.tables[node]) >= 2

    def rotation(self, node: fx.Node) -> dict[str, Any] | None:
        """What a node turns, and how, if it is proved to."""
        for first, second in product(self.tables[node], repeat=2):
            (source, *others) = self.sources[node] - {first, second} or (None,)
            if first is second or others or source is None:
                continue
            for x in self._values(node, source):
                bound = {"x": x, "cos": first, "sin": second}
                settings = _prove(node, bound, self.joins(node))
                if settings is not None:
                    return {**bound, "@settings": written(settings, DEFAULTS)}
        return None

    def joins(self, node: fx.Node) -> bool:
        """Whether the last step joins on what passes through, be it nothing: then the result lies otherwise in memory."""
        while node.target in CASTS and isinstance(node.args[0], fx.Node):
            node = node.args[0]
        return node.target is aten.cat.default and any(not self.tables[part] for part in node.all_input_nodes)

    def _values(self, node: fx.Node, source: fx.Node) -> Iterator[fx.Node]:
        """What a node may have turned: values of its shape that come of `source` alone, the nearest first.

        Pairs that are brought into halves are a step of the rotation: such a value comes last.
        """
        alone = [n for n, s in self.sources.items() if s == {source} and _shape(n) == _shape(node)]
        before = (n for n in alone if self.order[n] < self.order[node])
        yield from sorted(before, key=lambda n: (_parts_pairs(n), -self.order[n]))

    def within(self, inner: fx.Node, outer: fx.Node, x: fx.Node) -> bool:
        """Whether a node is a step on the way from `x` to `outer`."""
        seen, todo = set(), [outer]
        while todo:
            node = todo.pop()
            if node is inner:
                return True
            if node is not x and node not in seen and self.sources[node] != {node}:
                todo += node.all_input_nodes
            seen.add(node)
        return False


def _parts_pairs(node: fx.Node) -> bool:
    """Whether a node joins every second channel of a value and the others."""
    parts = node.all_input_nodes if node.target is aten.cat.default else []
    steps = [part.args[4:] for part in parts if part.target is aten.slice.Tensor and part.args[0] is parts[0].args[0]]
    return len(parts) == 2 and steps == [(2,), (2,)]


def _prove(node: fx.Node, bound: Mapping[str, fx.Node], joined: bool) -> dict[str, Any] | None:
    """The settings with which `rotate` gives what a node gives, to the last bit, in the model's dtype and in fp32."""
    runs = []
    for dtype in (torch.float32, torch.bfloat16):
        random = generator()
        given = {name: torch.randn(_shape(n) or (), generator=random).to(_dtype(n, dtype)) for name, n in bound.items()}
        try:
            runs.append((given, evaluate(node, {n: given[name] for name, n in bound.items()}, dtype)))
        except (RuntimeError, ValueError, TypeError, IndexError):
            return None
    told = {name: setting for name, setting in SETTINGS.items() if name != "joined"}
    for values in product(*(setting.options or (False, True) for setting in told.values())):
        settings = {**dict(zip(told, values, strict=True)), "joined": joined}
        if all(_turns_alike(given, theirs, settings) for given, theirs in runs):
            return settings
    return None


def _turns_alike(given: Mapping[str, Tensor], theirs: Any, settings: Mapping[str, Any]) -> bool:
    try:
        return same(theirs, rotate(given["x"], given["cos"], given["sin"], settings))
    except (RuntimeError, IndexError):
        return False


def _dtype(node: fx.Node, model: torch.dtype) -> torch.dtype:
    """What is of fp32 in a trace of bf16 is so in every model."""
    return torch.float32 if node.meta["val"].dtype is torch.float32 else model


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else None


def evaluate(node: fx.Node, values: Mapping[fx.Node, Tensor], dtype: torch.dtype = torch.bfloat16) -> Any:
    """Run a graph's functions from the nodes in `values` up to `node`, as in a model of `dtype`: it was traced in bf16."""
    if node in values:
        return values[node]
    if node.op != "call_function":
        raise ValueError(f"{node} is not a function of what was given")
    args, kwargs = fx.node.map_aggregate(
        (node.args, node.kwargs), lambda a: evaluate(a, values, dtype) if isinstance(a, fx.Node) else _in(a, dtype)
    )
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _in(argument: Any, dtype: torch.dtype) -> Any:
    return dtype if argument is torch.bfloat16 else argument


__all__ = ["evaluate", "find_rotations"]
