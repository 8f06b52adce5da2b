"""Which values of a traced graph number the tokens: told by what makes them, or by running it."""

from typing import Any

import torch
from torch import fx

from canvas_rt.importer.calls import shape_of
from canvas_rt.importer.patterns import evaluate
from canvas_rt.importer.proof import generator, same
from canvas_rt.ops.kernels import padded_positions

aten = torch.ops.aten


def numbers_tokens(node: Any, sequence: int) -> bool:
    """Whether a value is 0, 1, 2, … for the tokens of a sequence, made from nothing."""
    while isinstance(node, fx.Node) and node.target is aten.add.Tensor and node.args[1] == 0:
        node = node.args[0]
    if not isinstance(node, fx.Node) or getattr(node.meta.get("val"), "dtype", None) is not torch.int64:
        return False
    if node.target is aten.arange.start:
        return bool(node.args[:2] == (0, sequence))
    return node.target is aten.arange.default and bool(node.args[:1] == (sequence,))


def numbers_each(node: fx.Node, inputs: tuple[int, int]) -> bool:
    """Whether a value is the number of each token, once for each sequence: repeated, or counted by summing a mask of ones.

    `inputs`: the sequences that the trace was given, and tokens of each.
    """
    whole = shape_of(node) == inputs and node.meta["val"].dtype is torch.int64
    return (
        whole
        and not any(source.op == "placeholder" for source in _made_of(node))
        and repeats_positions(node, inputs[1])
    )


def repeats_positions(node: fx.Node, sequence: int, first: int = 0) -> bool:
    """Whether a value is the number of each token, once or several times, counted from `first`."""
    try:
        return bool((evaluate(node, {}) == torch.arange(first, first + sequence)).all())
    except Exception:  # it is not of this graph alone, or of another shape
        return False


def counted_after_padding(node: fx.Node, inputs: tuple[int, int]) -> fx.Node | None:
    """The tokens, if a value is their positions with padding left out: told by running what the graph does to them.

    `inputs`: the sequences that the trace was given, and tokens of each. The last step adds the padding token's number.
    """
    if node.target is not aten.add.Tensor or not isinstance(node.args[1], int) or node.args[1] < 1:
        return None
    found = _made_of(node)
    given = [source for source in found if source.op == "placeholder"]
    ids = [source for source in given if shape_of(source) == inputs]
    if len(ids) != 1 or not any(source.target is aten.cumsum.default for source in found):
        return None
    tokens = torch.randint(0, node.args[1] + 3, inputs, generator=generator())
    values = {**dict.fromkeys(given, torch.arange(inputs[1])[None]), ids[0]: tokens}
    try:
        alike = same(evaluate(node, values), padded_positions(tokens, 0, node.args[1]))
    except Exception:  # a stranger's functions may raise anything
        return None
    return ids[0] if alike else None


def _made_of(node: fx.Node) -> set[fx.Node]:
    """A node, and all in its graph that it is computed of."""
    found, frontier = {node}, [node]
    while frontier:
        fresh = [source for source in frontier.pop().all_input_nodes if source not in found]
        found.update(fresh)
        frontier += fresh
    return found


__all__ = ["counted_after_padding", "numbers_each", "numbers_tokens", "repeats_positions"]
