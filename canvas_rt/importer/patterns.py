"""Patterns over traced functions: a Python function, traced, and found in other graphs by its shape."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx, nn

from canvas_rt.importer.proof import generator, proved, same
from canvas_rt.ops.kernels import rotate_half

aten = torch.ops.aten


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x * cos.unsqueeze(1) + rotate_half(x) * sin.unsqueeze(1)


@lru_cache(maxsize=1)
def _rotate_pattern() -> fx.Graph:
    class Pattern(nn.Module):
        def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
            return _rotate(x, cos, sin)

    # Two tensors for cos and sin: export takes one tensor given twice for one input.
    example = (torch.zeros(2, 2, 3, 4), torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
    graph: fx.Graph = torch.export.export(Pattern(), example, strict=False).graph
    return graph


def match(pattern: fx.Graph, node: fx.Node) -> dict[str, fx.Node] | None:
    """What a pattern's inputs stand for where its output is `node`; None where the graphs differ.

    Constants are not compared: they vary with the model's sizes, and the proof that follows tells whether they fit.
    """
    output = next(n for n in pattern.nodes if n.op == "output").args[0]
    found = _match(output[0] if isinstance(output, tuple | list) else output, node, {})
    return None if found is None else {name: target for name, target in found.items() if not name.startswith("%")}


def _match(pattern: fx.Node, node: object, bound: dict[str, fx.Node]) -> dict[str, fx.Node] | None:
    if not isinstance(node, fx.Node):
        return None
    if pattern.op == "placeholder":
        if bound.setdefault(pattern.name, node) is not node:
            return None
        return bound
    if node.op != "call_function" or node.target is not pattern.target:
        return None
    inner, outer = list(pattern.all_input_nodes), list(node.all_input_nodes)
    if len(inner) != len(outer):
        return None
    swapped = [list(reversed(outer))] if pattern.target in (aten.add.Tensor, aten.mul.Tensor) else []
    for order in [outer, *swapped]:
        trial: dict[str, fx.Node] | None = dict(bound)
        for a, b in zip(inner, order, strict=True):
            trial = _match(a, b, trial) if trial is not None else None
        if trial is not None:
            return trial
    return None


def evaluate(node: fx.Node, values: Mapping[fx.Node, Tensor]) -> Any:
    """Run a graph's functions from the nodes in `values` up to `node`."""
    if node in values:
        return values[node]
    if node.op != "call_function":
        raise ValueError(f"{node} is not a function of what was given")
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: evaluate(n, values))
    return node.target(*args, **kwargs)  # type: ignore[operator]


def find_rotations(graph: fx.Graph) -> dict[fx.Node, dict[str, fx.Node]]:
    """Where a value is turned by rotary cosines and sines: the sum, and what stands for `x`, `cos` and `sin`."""
    found: dict[fx.Node, dict[str, fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_function" and node.target is aten.add.Tensor:
            bound = match(_rotate_pattern(), node)
            if bound is not None and _proves_rotation(node, bound):
                found[node] = bound
    return found


def _proves_rotation(node: fx.Node, bound: Mapping[str, fx.Node]) -> bool:
    def equal(dtype: torch.dtype) -> bool:
        random = generator()
        values = {n: torch.randn(n.meta["val"].shape, generator=random).to(dtype) for n in bound.values()}
        return same(evaluate(node, values), _rotate(*(values[bound[name]] for name in ("x", "cos", "sin"))))

    return proved(equal)
