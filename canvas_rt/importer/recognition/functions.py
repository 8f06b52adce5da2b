"""Read calls of functions: which rules may know a function, by its target, in the order in which they are asked."""

import operator
from collections.abc import Callable, Collection
from functools import cache
from typing import Any

import torch
from torch import fx

from canvas_rt.importer.recognition import attention, heads, numbering, plain, pointwise, rows, tensors
from canvas_rt.importer.recognition.reader import Reader
from canvas_rt.importer.trace import TraceError

aten = torch.ops.aten

Rule = Callable[[Reader, fx.Node], bool]
"""Says what the value of a call is, if it knows; whether it does."""

RULES: tuple[tuple[Collection[Any] | None, Rule], ...] = (
    ((*plain.TRANSPARENT, *plain.RESHAPED), plain.passes_on),
    ((operator.getitem,), plain.takes_one_of_several),
    (None, tensors.is_filled),
    (None, numbering.looks_up_sinusoids),
    (None, attention.learns_distances),
    (None, attention.rotates),
    ((attention.ATTENTION,), attention.attends),
    (None, attention.attends_by_hand),
    (rows.RESHAPES, rows.lines_up_tokens),
    ((aten.transpose.int,), heads.splits_heads),
    (heads.VIEWS, heads.views_heads),
    (heads.VIEWS, heads.merges_heads),
    (None, numbering.counts_positions),
    (None, numbering.counts_after_padding),
    (pointwise.BINARY, pointwise.combines),
    ((aten.mul.Tensor,), pointwise.scales),
    (pointwise.FUNCTION_ACTIVATIONS, pointwise.activates),
    ((aten.softmax.int,), pointwise.softens),
    (pointwise.CASTS, pointwise.casts),
    (None, plain.is_plain),
)
"""Rules, and the targets of the functions that each may know. None: of any, as what meets in it tells it."""


@cache
def rules_for(target: Any) -> tuple[Rule, ...]:
    """The rules that may know a function."""
    return tuple(rule for targets, rule in RULES if targets is None or target in targets)


def read_function(reader: Reader, node: fx.Node) -> None:
    if not any(rule(reader, node) for rule in rules_for(node.target)):
        raise TraceError(f"{reader.where}: no rule knows {node.target}")
