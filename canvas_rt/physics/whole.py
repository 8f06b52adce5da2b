"""The whole model out of traces of its parts: what it allocates, what the allocator reserves, what each node costs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

from canvas_rt.ir.document import Document, Node, Stack
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import handed_on, layer_runs, parse_layers, walk
from canvas_rt.ops.parameters import tied_nodes
from canvas_rt.physics.keys import Blocks, below, relevant
from canvas_rt.physics.regimes import TRAINED, USUAL, Treatment, boundaries, regime, weighted
from canvas_rt.physics.roofline import Cost, Roof, trace_costs
from canvas_rt.physics.setup import Arriving, Setup
from canvas_rt.physics.tape import Event
from canvas_rt.physics.tiling import Holding, Hooking, Hooks, Listed, Placed, Running, Sink, Tiling
from canvas_rt.physics.trace import Gap, Trace
from canvas_rt.physics.tracing import NOTHING, layer_scope, trace_layer, trace_root


@dataclass(frozen=True, slots=True)
class Span:
    """Layers in a row that are alike."""

    first: int
    last: int
    kind: int
    carry: Arriving
    """What flows into each of them."""

    path: str
    """`model.layers.0-31.`"""
    taken: FrozenMap[str, Arriving] = NOTHING
    """What earlier layers hand to them."""

    @property
    def count(self) -> int:
        return self.last - self.first + 1


class Surroundings(Protocol):
    """What goes on around the parts of a model that several cards share."""

    def hooks(self, tiling: Tiling, sink: Sink) -> Hooks:
        """For one play."""
        ...

    def owned(self, held: Holding) -> Holding:
        """The same, with what several nodes hold together dealt out to them."""
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """A document's blocks, set up to be run."""

    blocks: Blocks
    root: Trace
    setup: Setup
    treatment: Treatment = USUAL
    around: Surroundings | None = None
    """What happens around its parts, where it is one card's share of a whole model."""

    def layer(self, gap: Gap, span: Span) -> Trace:
        """One of the layers of a span."""
        block = gap.stack.kinds[span.kind].block
        inner = below(self.blocks, block)
        how = regime(inner, block, span.path, self.treatment)
        scope = layer_scope(gap, span.kind, self.blocks)
        handed = tuple(name for name in handed_on(gap.stack, self.blocks) if name in self.blocks[block].outputs)
        return trace_layer(inner, block, scope, span.carry, gap.others, self.setup, how, span.taken, handed)

    def spans(self, gap: Gap, prefix: str = "") -> Iterator[Span]:
        """The layers of a stack, in runs that are alike in kind and in what is trained."""
        stack = f"{prefix}{gap.path}"
        cuts = boundaries((*self.treatment.frozen, *self.treatment.targets), stack)
        carry = gap.carry
        known: dict[str, Arriving] = {}

        def given(span: Span) -> Span:
            """With what the layers before hand on; what these do is known from then on."""
            ports = self.blocks[gap.stack.kinds[span.kind].block].inputs
            span = replace(span, taken=FrozenMap({port: known[port] for port in ports if port in known}))
            if handed_on(gap.stack, self.blocks):
                known.update({one.name: one.value for one in self.layer(gap, span).handed})
            return span

        def named(start: int, stop: int) -> str:
            return f"{stack}.{start}." if stop == start + 1 else f"{stack}.{start}-{stop - 1}."

        for first, last, kind in layer_runs(all_kinds(gap)):
            edges = [first, *(cut for cut in cuts if first < cut <= last), last + 1]
            for start, stop in pairwise(edges):
                learns = self.setup.train and self._learns(gap, kind, named(start, stop))
                if learns and not carry.requires_grad:  # the first that is trained is given what needs no gradient
                    span = given(Span(start, start, kind, carry, named(start, start + 1)))
                    yield span
                    carry = replace(carry, requires_grad=True, dtype=self.layer(gap, span).gives or carry.dtype)
                    start += 1
                while start < stop:
                    span = given(Span(start, stop - 1, kind, carry, named(start, stop)))
                    gives = self.layer(gap, span).gives or carry.dtype
                    if gives != carry.dtype:  # a stream wider than the embedding: only one layer is given that
                        span = replace(span, last=start, path=named(start, start + 1))
                    yield span
                    carry, start = replace(carry, dtype=gives), span.last + 1

    def _learns(self, gap: Gap, kind: int, path: str) -> bool:
        block = gap.stack.kinds[kind].block
        inner = below(self.blocks, block)
        if any(other.requires_grad for other in gap.others.values()):
            return True
        if self.treatment.plain:
            return bool(weighted(inner, block)) or _has_stack(inner, block)
        how = regime(inner, block, path, self.treatment)
        return bool(how.adapted) or any(local not in how.frozen for local, _ in weighted(inner, block))

    def layering(self, gap: Gap, prefix: str) -> Sequence[Placed]:
        """Every layer of a stack."""
        return [
            (span.path, trace)
            for span in self.spans(gap, prefix)
            for trace in (self.layer(gap, span),)
            for _ in range(span.count)
        ]


def _has_stack(blocks: Blocks, block: str) -> bool:
    return any(isinstance(item, Stack) for item in blocks[block].nodes)


def model(document: Document, setup: Setup, treatment: Treatment = USUAL) -> Model:
    blocks = below(document.blocks, document.root)
    scope = relevant(blocks, document.root, document.environment)
    how = regime(blocks, document.root, "", treatment)
    idle = frozenset() if treatment.plain else _idle(document, treatment)
    root = trace_root(blocks, document.root, scope, FrozenMap(tied_nodes(document)), setup, how, idle)
    return Model(blocks, root, setup, treatment)


def _idle(document: Document, treatment: Treatment) -> frozenset[str]:
    """Paths of stacks in which nothing is trained."""
    stacks, learning = set(), set()
    for visit in walk(document):
        if isinstance(visit.item, Stack):
            stacks.add(visit.path)
        elif isinstance(visit.item, Node) and visit.item.op in TRAINED:
            parts = visit.path.split(".")
            around = {".".join(parts[:index]) for index, part in enumerate(parts) if parse_layers(part)}
            op = visit.item.op
            frozen = treatment.is_frozen(visit.path, op, bool(around))
            if not frozen or treatment.is_adapted(visit.path, op, bool(around)):
                learning |= around
    return frozenset(stacks - learning)


def all_kinds(gap: Gap) -> tuple[int, ...]:
    """The kind of each layer."""
    return gap.stack.kind_indices(resolve(gap.stack.repeat, gap.environment))


def sample(count: int, most: int) -> tuple[int, ...]:
    """Up to `most` layers, evenly spread."""
    if count <= most:
        return tuple(range(count))
    return tuple(index * count // most for index in range(most))


def edges(whole: Model) -> dict[str, tuple[int, ...]]:
    """For the path of each stack, the layers with which its spans begin."""
    found: dict[str, tuple[int, ...]] = {}

    def visit(trace: Trace, prefix: str) -> None:
        for gap in trace.gaps:
            spans = tuple(whole.spans(gap, prefix))
            found[f"{prefix}{gap.path}"] = tuple(span.first for span in spans)
            for span in spans:
                visit(whole.layer(gap, span), span.path)

    visit(whole.root, "")
    return found


def running(whole: Model) -> Running:
    """The sum of what is allocated beyond weights, optimizer and inputs, played to its end."""
    sums = Running()
    Tiling(whole.root, whole.layering).play(sums, _hooking(whole))
    return sums


def _hooking(whole: Model) -> Hooking | None:
    return None if whole.around is None else whole.around.hooks


def peak(whole: Model) -> int:
    """The most bytes that a run allocates beyond weights, optimizer and inputs."""
    return running(whole).peak


def events(whole: Model, most: int | None = None) -> list[Event]:
    """Every allocation and free of a run, in order; of each stack with at most so many layers."""

    def some(gap: Gap, prefix: str) -> Sequence[Placed]:
        every = whole.layering(gap, prefix)
        return every if most is None else [every[layer] for layer in sample(len(every), most)]

    listed = Listed()
    Tiling(whole.root, some).play(listed, _hooking(whole))
    return listed.events


# -- costs


def node_costs(whole: Model, limit: Roof) -> dict[str, Cost]:
    """What each node costs, by its path; nodes that cost nothing too."""
    costs: dict[str, Cost] = {}
    _collect(whole, whole.root, limit, "", 1, costs)
    return costs


def _collect(whole: Model, trace: Trace, limit: Roof, prefix: str, times: int, costs: dict[str, Cost]) -> None:
    for owner, cost in trace_costs(trace, limit).items():
        costs.setdefault(prefix + owner, Cost()).add(cost, times)
    for gap in trace.gaps:
        for span in whole.spans(gap, prefix):
            _collect(whole, whole.layer(gap, span), limit, span.path, times * span.count, costs)
