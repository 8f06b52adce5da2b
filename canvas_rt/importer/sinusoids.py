"""Look-ups of sines and cosines by position in a table that a module keeps: told by running them beside our own."""

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx

from canvas_rt.importer.calls import MODEL_DTYPE, shape_of
from canvas_rt.importer.patterns import evaluate
from canvas_rt.importer.proof import generator, same
from canvas_rt.ops.catalogue import VARIANTS
from canvas_rt.ops.sinusoids import sinusoids

aten = torch.ops.aten

LOOKUPS = frozenset({aten.gather.default, aten.index.Tensor, aten.index_select.default, aten.embedding.default})
VIEWS = frozenset({aten.view.default, aten.reshape.default})
MOST_SKIPPED = 3
"""Rows that may stand before that of the first position."""

Found = tuple[fx.Node, str, dict[str, Any]]
"""The positions, the table's name, and the settings."""


def sinusoids_in(node: fx.Node, tensor: Callable[[str], Tensor | None]) -> Found | None:
    """What a look-up of sines and cosines reads, and which they are; None where it is none."""
    lookup: Any = node.args[0] if node.target in VIEWS else node
    if not isinstance(lookup, fx.Node) or lookup.target not in LOOKUPS:
        return None
    made_of = _made_of(node)
    kept = [n for n in made_of if n.op == "get_attr"]
    table = tensor(str(kept[0].target)) if len(kept) == 1 else None
    positions = _positions(made_of, shape_of(node)[:-1])
    if table is None or positions is None or table.dim() != 2 or not table.is_floating_point():
        return None
    places = torch.randint(table.shape[0] - MOST_SKIPPED, shape_of(positions), generator=generator())
    try:
        theirs = evaluate(node, {positions: places, kept[0]: table.detach().cpu()})
    except (RuntimeError, ValueError, TypeError, IndexError):
        return None
    settings = sinusoid_settings(places, theirs, table.shape[1])
    return None if settings is None else (positions, str(kept[0].target), settings)


def sinusoid_settings(places: Tensor, theirs: Tensor, width: int) -> dict[str, Any] | None:
    """The settings with which sines and cosines of some places are what a model has, to the last bit."""
    if theirs.shape != (*places.shape, width):
        return None
    without = sorted(set(places[(theirs == 0).all(-1)].flatten().tolist()))
    options = ("half_open", "whole"), ("frequencies", "none", "values"), ("sines", "cosines"), range(4)
    for values in product(*options):
        attrs = dict(zip(("spacing", "rounding", "first", "offset"), values, strict=True)) | {"width": width}
        offset = values[-1]
        if len(without) == 1:
            attrs["zero"] = without[0] + offset
        if same(theirs, sinusoids(places, {**VARIANTS["sinusoid"], **attrs}, MODEL_DTYPE)):
            return attrs
    return None


def _made_of(node: fx.Node) -> list[fx.Node]:
    """A node and all that it is computed of."""
    seen: dict[fx.Node, None] = {}
    todo = [node]
    while todo:
        one = todo.pop()
        if one not in seen:
            seen[one] = None
            todo += one.all_input_nodes
    return list(seen)


def _positions(nodes: list[fx.Node], shape: tuple[int, ...]) -> fx.Node | None:
    """The whole numbers that are looked up: one for each token, the farthest back."""
    whole = [n for n in nodes if len(shape_of(n)) == len(shape) and n.meta["val"].dtype is torch.int64]
    fits = [n for n in whole if shape_of(n)[-1] == shape[-1]]
    return fits[-1] if fits else None


__all__ = ["sinusoid_settings", "sinusoids_in"]
