"""The whole model out of traces of its parts: what it allocates, what the allocator reserves, what each node costs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from canvas_rt.ir.document import Document
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import layer_runs, parse_layers
from canvas_rt.ops.parameters import ParameterRow
from canvas_rt.physics.allocator import Replay
from canvas_rt.physics.keys import Blocks, below, relevant
from canvas_rt.physics.roofline import Cost, Roof, trace_costs
from canvas_rt.physics.tape import GRANULE, Event, rounded
from canvas_rt.physics.tiling import Listed, Running, Tiling
from canvas_rt.physics.trace import Gap, Setup, Trace, layer_scope, trace_layer, trace_root

EXACT = 80
"""Layers up to which the allocator is simulated as it is: about 0.4 ms each."""

FEW, MORE = 16, 32
"""Layers of the shallower models from which its overhead is extrapolated beyond that: at 126 layers within 1 %."""

Kinds = Callable[[Gap], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Model:
    """A document's blocks, set up to be run."""

    blocks: Blocks
    root: Trace
    setup: Setup

    def layer(self, gap: Gap, kind: int) -> Trace:
        """One layer of that kind."""
        block = gap.stack.kinds[kind].block
        return trace_layer(
            below(self.blocks, block), block, layer_scope(gap, kind, self.blocks), gap.carry, gap.others, self.setup
        )


def model(document: Document, setup: Setup) -> Model:
    blocks = below(document.blocks, document.root)
    scope = relevant(blocks, document.root, document.environment)
    return Model(blocks, trace_root(blocks, document.root, scope, FrozenMap(document.tied), setup), setup)


def all_kinds(gap: Gap) -> tuple[int, ...]:
    """The kind of each layer."""
    return gap.stack.kind_indices(resolve(gap.stack.repeat, gap.environment))


def sample(count: int, most: int) -> tuple[int, ...]:
    """Up to `most` layers, evenly spread."""
    if count <= most:
        return tuple(range(count))
    return tuple(index * count // most for index in range(most))


def peak(whole: Model) -> int:
    """The most bytes that a run allocates beyond weights, optimizer and inputs."""
    running = Running()
    Tiling(whole.root, whole.layer, all_kinds).play(running)
    return running.peak


def events(whole: Model, kinds: Kinds = all_kinds) -> list[Event]:
    """Every allocation and free of a run, in order."""
    listed = Listed()
    Tiling(whole.root, whole.layer, kinds).play(listed)
    return listed.events


# -- the allocator


@dataclass(frozen=True, slots=True)
class Residents:
    """What lives throughout: one size in bytes for each tensor."""

    weights: tuple[int, ...]
    states: tuple[int, ...]
    """The optimizer's, which appear in the first step."""

    inputs: tuple[int, ...]


def weight_sizes(table: Sequence[ParameterRow], depths: Mapping[str, int], item: int, most: int) -> tuple[int, ...]:
    """Bytes of each weight of a model of which only a sample of each stack's layers is left."""
    sizes: list[int] = []
    for row in table:
        times = 1
        parts = row.path.split(".")
        for index, part in enumerate(parts):
            count = depths.get(".".join(parts[:index]))
            span = parse_layers(part) if count is not None else None
            if count is not None and span is not None:
                times *= sum(span[0] <= layer < span[1] for layer in sample(count, most))
        sizes += [rounded(prod(row.shape) * item)] * max(0, times - row.shared)
    return tuple(sizes)


@lru_cache(maxsize=256)
def overhead(whole: Model, residents: Residents, most: int) -> int:
    """What the allocator reserves beyond the peak of what is allocated, with at most so many layers a stack."""

    def kinds(gap: Gap) -> tuple[int, ...]:
        every = all_kinds(gap)
        return tuple(every[layer] for layer in sample(len(every), most))

    replay = Replay()
    replay.hold((*residents.weights, *residents.inputs))
    run = events(whole, kinds)
    replay.run(run)
    if residents.states:
        replay.hold(residents.states)
        replay.drop()  # the gradients, at the start of the second step
        replay.run(run)
    return replay.allocator.peak_reserved - replay.allocator.peak_allocated


def reserved_overhead(whole: Model, residents: Callable[[int], Residents], depth: int) -> int:
    """The allocator's overhead: simulated up to `EXACT` layers, beyond that as it grows from `FEW` to `MORE`."""
    if depth <= EXACT:
        return overhead(whole, residents(EXACT), EXACT)
    few, more = (overhead(whole, residents(most), most) for most in (FEW, MORE))
    growth = max(0, more - few) / (MORE - FEW)
    return int(more + growth * (depth - MORE)) // GRANULE * GRANULE


# -- costs


def node_costs(whole: Model, limit: Roof) -> dict[str, Cost]:
    """What each node costs, by its path."""
    costs: dict[str, Cost] = {}
    _collect(whole, whole.root, limit, "", 1, costs)
    return costs


def _collect(whole: Model, trace: Trace, limit: Roof, prefix: str, times: int, costs: dict[str, Cost]) -> None:
    for owner, cost in trace_costs(trace, limit).items():
        costs.setdefault(prefix + owner, Cost()).add(cost, times)
    for gap in trace.gaps:
        for first, last, kind in layer_runs(all_kinds(gap)):
            span = f"{first}" if first == last else f"{first}-{last}"
            inner = f"{prefix}{gap.path}.{span}."
            _collect(whole, whole.layer(gap, kind), limit, inner, times * (last - first + 1), costs)
