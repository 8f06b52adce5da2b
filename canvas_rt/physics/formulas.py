"""The formulas of a report: products of sizes, gathered from the traces that its numbers were summed from."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from canvas_rt.physics.explain import Explainer, Terms
from canvas_rt.physics.optimizers import Step
from canvas_rt.physics.report import NodeCost
from canvas_rt.physics.tape import Work
from canvas_rt.physics.tiling import Owner
from canvas_rt.physics.trace import Trace
from canvas_rt.physics.weights import Held
from canvas_rt.physics.whole import Model

Sums = dict[str, dict[str, Terms]]
"""Terms by path and by what they sum up to."""


def formulas(
    by_node: Mapping[str, NodeCost],
    runs: Mapping[Model, int],
    rows: tuple[Held, ...],
    update: Step | None,
    held: Mapping[Owner, tuple[int, int]],
    explainer: Explainer,
) -> dict[str, NodeCost]:
    """The same costs with their formulas. `runs` are how often each traced model runs."""
    sums: Sums = {}
    for whole, times in runs.items():
        for path, work, count in _works(whole, whole.root, "", times):
            _work(sums, path, work, count)
    for row in rows:
        _weights(sums, row, update)
    for (path, (shape, item)), (count, _) in held.items():
        _terms(sums, path, "memory").add(shape, count * item)
    return {
        path: replace(cost, formulas=_told(path, cost, sums.get(path, {}), explainer)) for path, cost in by_node.items()
    }


def _terms(sums: Sums, path: str, quantity: str) -> Terms:
    return sums.setdefault(path, {}).setdefault(quantity, Terms())


def _works(whole: Model, trace: Trace, prefix: str, times: int) -> Iterator[tuple[str, Work, int]]:
    for work in trace.work:
        if work.flops:
            yield prefix + work.owner, work, times
    for gap in trace.gaps:
        for span in whole.spans(gap, prefix):
            yield from _works(whole, whole.layer(gap, span), span.path, times * span.count)


def _work(sums: Sums, path: str, work: Work, count: int) -> None:
    units = work.flops // max(1, _volume(work))
    _terms(sums, path, "flops_backward" if work.backward else "flops_forward").add(work.product, units * count)


def _volume(work: Work) -> int:
    volume = 1
    for size in work.product:
        volume *= size
    return volume


def _weights(sums: Sums, row: Held, update: Step | None) -> None:
    path, shape, count, item = row.row.path, row.row.shape, row.count, row.dtype.itemsize
    _terms(sums, path, "parameters").add(shape, count)
    plain = row.sizes == (row.elements * item,)
    for size in row.sizes:
        _terms(sums, path, "weights").add(shape if plain else (), count * (item if plain else size))
        _terms(sums, path, "memory").add(shape if plain else (), count * (item if plain else size))
    if not row.trained or update is None:
        return
    one = update.of(row.row.shape, row.dtype)
    _terms(sums, path, "gradients").add(shape, count * item)
    whole, rest = divmod(one.moments, row.elements)
    for quantity in ("optimizer", "memory"):
        if whole:
            _terms(sums, path, quantity).add(shape, count * whole)
        if rest:
            _terms(sums, path, quantity).add((), count * rest)
    for work in one.work:
        if work.flops:
            _work(sums, path, work, count)


def _told(path: str, cost: NodeCost, sums: Mapping[str, Terms], explainer: Explainer) -> dict[str, str]:
    place = explainer.place(path)
    numbers = {
        quantity: getattr(cost, quantity)
        for quantity in ("parameters", "flops_forward", "flops_backward", "weights", "gradients", "optimizer", "memory")
    }
    return {name: place.text(sums.get(name, Terms()), value) for name, value in numbers.items() if value}
