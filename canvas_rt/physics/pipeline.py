"""One stage of a pipeline in the 1F1B schedule: some of the layers, the embedding in the first, the head in the last.

A stage keeps what a forward leaves for each microbatch that is under way: `stages - stage` of them at most (Narayanan et al.
2021, PipeDream-Flush). What comes from the stage before stands in for the embedding; what goes to the next is kept until its
gradient has come back, as PyTorch's `PipelineStage` does. Each stage makes the rotary angles for itself.
"""

from dataclasses import dataclass, field, replace
from math import prod

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document, Node, Stack, Use, runs_of
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.graph import Visit, parse_layers, running_order, walk
from canvas_rt.ops.parameters import parameter_table
from canvas_rt.physics.setup import Setup
from canvas_rt.physics.tape import Event, rounded
from canvas_rt.physics.tiling import Holding, Listed, Part, Running, Sink, Tiling
from canvas_rt.physics.trace import GAP, LOSS, Gap, Trace
from canvas_rt.physics.weights import Held
from canvas_rt.physics.whole import Model


@dataclass(frozen=True, slots=True)
class Stage:
    """What one card of a pipeline runs."""

    index: int
    count: int
    """How many stages there are."""

    stack: str
    """The path of the layers."""

    start: int
    """The first of its layers."""

    layers: int
    under_way: int
    """Microbatches whose activations it holds at most."""

    later: int
    """The same once a gradient is there: fewer where no further forward follows the first backward."""

    before: frozenset[str]
    """Paths of nodes that run before the layers, and learn."""

    after: frozenset[str]
    """Paths of nodes that run after them, and the loss."""

    @property
    def first(self) -> bool:
        return self.index == 0

    @property
    def last(self) -> bool:
        return self.index == self.count - 1

    @property
    def absent(self) -> frozenset[str]:
        """Paths of nodes that other stages run."""
        return (frozenset() if self.first else self.before) | (frozenset() if self.last else self.after)

    def document(self, whole: Document) -> Document:
        """The whole model with this stage's layers only."""
        visit = _stack(whole)
        stack = visit.item
        assert isinstance(stack, Stack)
        kinds = stack.kind_indices(resolve(stack.repeat, visit.environment))[self.start : self.start + self.layers]
        fewer = stack.replace(repeat=self.layers, runs=runs_of(kinds), source=None)
        block = whole.blocks[visit.block]
        nodes = tuple(fewer if node.id == stack.id else node for node in block.nodes)
        return whole.with_block(visit.block, block.replace(nodes=nodes))

    def held(self, rows: tuple[Held, ...]) -> tuple[Held, ...]:
        return tuple(row for row in rows if row.row.path not in self.absent)

    def model(self, whole: Model) -> Model:
        return replace(whole, root=cut(whole.root, self, whole.setup))

    def named(self, path: str) -> str:
        """A path of the stage's document as it is in the whole model."""
        if not path.startswith(f"{self.stack}."):
            return path
        layers, dot, rest = path.removeprefix(f"{self.stack}.").partition(".")
        span = parse_layers(layers)
        if span is None:
            return path
        low, high = span[0] + self.start, span[1] + self.start
        return f"{self.stack}.{low}{dot}{rest}" if high == low + 1 else f"{self.stack}.{low}-{high - 1}{dot}{rest}"


def stages(document: Document, count: int, microbatches: int) -> tuple[Stage, ...]:
    """The stages, as even as can be; the first ones have a layer more where it does not divide.

    Raises `CanvasError` for a model that is not one row of layers, or has fewer of them than stages.
    """
    visit = _stack(document)
    assert isinstance(visit.item, Stack)
    depth = resolve(visit.item.repeat, visit.environment)
    if depth < count:
        message = f"{count} stages need a layer each, and {visit.path} has {depth}"
        raise CanvasError(message, path="pipeline", hint=f"Try pipeline {depth} or fewer.")
    if document.tied:
        key = next(iter(document.tied))
        message = f"{key} is tied, and the two would be on the first and the last stage"
        raise CanvasError(message, path="pipeline", hint="Untie them, or leave pipeline 1.")
    before, after = _around(document)
    found, start = [], 0
    for index in range(count):
        layers = depth // count + (index < depth % count)
        under_way = min(count - index, microbatches)
        later = under_way if microbatches > under_way else under_way - 1
        found.append(Stage(index, count, visit.path, start, layers, under_way, later, before, after | {LOSS}))
        start += layers
    return tuple(found)


def _stack(document: Document) -> Visit:
    """The only stack that is in no other."""
    found = [v for v in walk(document) if isinstance(v.item, Stack) and not any(map(parse_layers, v.path.split(".")))]
    if len(found) == 1:
        return found[0]
    message = f"a pipeline cuts one row of layers, and this model has {len(found)}"
    raise CanvasError(message, path="pipeline", hint="Leave pipeline 1; tensor and data share any model.")


def _around(document: Document) -> tuple[frozenset[str], frozenset[str]]:
    """Paths of nodes that learn and run before the layers, and of all that run after them."""
    learning = {row.path for row in parameter_table(document)}
    sides: tuple[set[str], set[str]] = (set(), set())

    def inside(block: str, prefix: str, side: int) -> int:
        for item in running_order(document.blocks[block])[0]:
            if isinstance(item, Stack):
                side = 1
            elif isinstance(item, Use):
                side = inside(item.block, f"{prefix}{item.id}.", side)
            elif isinstance(item, Node):
                sides[side].add(prefix + item.id)
        return side

    inside(document.root, "", 0)
    return frozenset(sides[0] & learning), frozenset(sides[1])


# ---------------------------------------------------------------------------------------------------------------------
# A stage's trace
# ---------------------------------------------------------------------------------------------------------------------


def cut(root: Trace, stage: Stage, setup: Setup) -> Trace:
    """What of the root's trace a stage runs."""
    forward, backward = _Sides(root.forward), _Sides(root.backward)
    gap = root.gaps[0]
    carried = rounded(prod(gap.carry.shape) * gap.carry.dtype.itemsize, setup.granule)
    after, gradient, passing = forward.after, backward.before, backward.after
    if not stage.last:
        after = _frees(after, of=forward.before)
        arriving = [(carried, gap.gradient)] if gap.gradient >= 0 else []
        gradient = [*_frees(gradient, of=forward.before), *arriving]
        gone = {number for nbytes, number in (*forward.after, *backward.before) if nbytes > 0} - {gap.gradient}
        passing = [event for event in passing if event[1] not in gone]
        if backward.gap:
            passing = [(-carried, gap.result), *passing]
    before = forward.before
    if not stage.first and backward.gap:  # what arrived is kept for its gradient
        before, after = ([event for event in side if event != (-carried, gap.given)] for side in (before, after))
        passing = [*passing, (-carried, gap.given)]
    if not stage.first:
        made = {number for nbytes, number in backward.after if nbytes > 0}
        passing = [event for event in passing if event[1] not in made]
    events = (*before, *forward.gap, *after), (*gradient, *backward.gap, *passing)
    allocated = {number for side in events for nbytes, number in side if nbytes > 0}
    return replace(
        root,
        forward=events[0],
        backward=events[1],
        work=tuple(work for work in root.work if work.owner not in stage.absent),
        learned=tuple(learned for learned in root.learned if learned.number in allocated),
    )


class _Sides:
    """Events before and after the layers."""

    def __init__(self, events: tuple[Event, ...]) -> None:
        place = next((place for place, event in enumerate(events) if event[1] == GAP), len(events))
        self.before, self.gap, self.after = (
            list(events[:place]),
            list(events[place : place + 1]),
            list(events[place + 1 :]),
        )


def _frees(events: list[Event], *, of: list[Event]) -> list[Event]:
    """Those that free what others allocate."""
    made = {number for nbytes, number in of if nbytes > 0}
    return [event for event in events if event[0] < 0 and event[1] in made]


@dataclass(slots=True)
class Left:
    """Notes what a forward leaves."""

    sink: Running
    total: int = 0
    owners: Holding = field(default_factory=dict)

    def before(self, part: Part, *, forward: bool) -> None: ...

    def after(self, part: Part, *, forward: bool) -> None:
        if forward and not part.path:
            self.total, self.owners = self.sink.now, self.sink.left()


def left(whole: Model) -> Left:
    """What a forward of a stage leaves for its backward."""
    found: list[Left] = []

    def hooks(tiling: Tiling, sink: Sink) -> Left:
        assert isinstance(sink, Running)
        found.append(Left(sink))
        return found[0]

    Tiling(whole.root, whole.layering).play(Running(), hooks)
    return found[0]


@dataclass(slots=True)
class _Place:
    """Notes how many events a forward has."""

    sink: Listed
    events: int = 0

    def before(self, part: Part, *, forward: bool) -> None: ...

    def after(self, part: Part, *, forward: bool) -> None:
        if forward and not part.path:
            self.events = len(self.sink.events)


def left_sizes(whole: Model) -> tuple[int, ...]:
    """Bytes of each storage that a forward of a stage leaves."""
    listed = Listed()
    place = _Place(listed)
    Tiling(whole.root, whole.layering).play(listed, lambda tiling, sink: place)
    alive: dict[int, int] = {}
    for nbytes, number in listed.events[: place.events]:
        alive[number] = alive.get(number, 0) + nbytes
    return tuple(nbytes for nbytes in alive.values() if nbytes)


def sent(gap: Gap, setup: Setup, stage: Stage) -> int:
    """Bytes that a stage sends for one microbatch: what its layers give, and a gradient back."""
    nbytes = prod(gap.carry.shape) * gap.carry.dtype.itemsize
    return nbytes * ((not stage.last) + (setup.train and not stage.first))


def wall(own: list[float], microbatches: int, *, train: bool) -> float:
    """Seconds of a step whose stages take these for one microbatch: while the pipeline fills and drains, stages wait."""
    return (microbatches + len(own) - 1) * max(own) if train else sum(own)


__all__ = ["Stage", "cut", "left", "left_sizes", "sent", "stages", "wall"]
