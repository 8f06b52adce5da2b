"""Biases of attention that are learned for how far a key is from a query: told by running what chooses among them."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from canvas_rt.importer.calls import shape_of
from canvas_rt.importer.patterns import evaluate
from canvas_rt.ops.scores import distance_buckets

aten = torch.ops.aten

FAR = 700
"""Positions at which a choice is looked at: farther apart than any probe's farthest."""


@dataclass(frozen=True)
class Relative:
    """What a bias is made of."""

    table: fx.Node
    """The call of the embedding that holds it."""

    farthest: int
    """From this distance on all keys are alike."""

    both_ways: bool
    """Whether keys before and behind a query are told apart."""

    positions: fx.Node | None
    """What numbers the queries; None where the bias counts them itself."""


def relative_in(node: fx.Node, numbers: Iterable[int]) -> Relative | None:
    """What a bias [1, heads, queries, keys] is made of, if it is learned by distance. `numbers`: the farthest is one of these."""
    turned = _argument(node, aten.unsqueeze.default, 0)
    table = _argument(turned, aten.permute.default, [2, 0, 1])
    if table is None or table.op != "call_module" or len(table.args) != 1 or not isinstance(table.args[0], fx.Node):
        return None
    ids = table.args[0]
    given = [source for source in _sources(ids) if source.op == "placeholder"]
    counted = [source for source in _sources(ids) if str(source.target).startswith("aten.arange")]
    if len(given) > 1 or any(len(shape_of(source)) != 2 for source in given):
        return None
    place = torch.arange(FAR)
    values: dict[fx.Node, Tensor] = {**dict.fromkeys(counted, place), **dict.fromkeys(given, place[None])}
    try:
        chosen = evaluate(ids, values)
    except Exception:  # a stranger's functions may raise anything
        return None
    distance = place[None, :] - place[:, None]
    buckets = int(chosen.max()) + 1
    for farthest in sorted({number for number in numbers if 1 < number < FAR}):
        for both_ways in (False, True):
            if torch.equal(chosen, distance_buckets(distance, buckets, farthest, both_ways)):
                return Relative(table, farthest, both_ways, given[0] if given else None)
    return None


def adds_nothing(node: fx.Node) -> bool:
    """Whether a bias is zero all over."""
    try:
        return not bool(evaluate(node, {}).any())
    except Exception:  # it is not of this graph alone
        return False


def _argument(node: fx.Node | None, target: object, second: object) -> fx.Node | None:
    """What a function is applied to, if it is called so."""
    fits = node is not None and node.target is target and list(node.args[1:]) == [second]
    return node.args[0] if fits and isinstance(node.args[0], fx.Node) else None  # type: ignore[union-attr]


def _sources(node: fx.Node) -> set[fx.Node]:
    """What a value is computed of that is computed of nothing itself."""
    found: set[fx.Node] = set()
    frontier, seen = [node], {node}
    while frontier:
        one = frontier.pop()
        if not one.all_input_nodes:
            found.add(one)
        fresh = [source for source in one.all_input_nodes if source not in seen]
        seen.update(fresh)
        frontier += fresh
    return found


__all__ = ["Relative", "adds_nothing", "relative_in"]
