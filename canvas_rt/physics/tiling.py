"""Put the traces of single layers together to the whole model's: exact at any depth, for a few additions a layer.

A storage that a layer shares with its surroundings (what it is given, what it gives, their gradients) dies when the
last of those that hold it lets go. All others are the layer's own, and between two events on shared ones only the sum
and the highest running sum of a layer's events matter.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Protocol

from canvas_rt.physics.tape import Event, Form
from canvas_rt.physics.trace import GAP, Gap, Trace

Placed = tuple[str, Trace]
"""A layer's trace, and the path of the layers that are like it, with a dot at its end: `model.layers.0-31.`"""

Layering = Callable[[Gap, str], Sequence[Placed]]
"""The layers of a gap, in their order. The text is the path of the block around the gap, with a dot at its end."""


@dataclass(frozen=True, eq=False, slots=True)
class Chunk:
    """A stretch of events on storages of the layer's own. Equal only to itself."""

    net: int
    peak: int
    """The highest running sum, at least 0."""
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Shared:
    """An event on a shared storage."""

    nbytes: int
    number: int


@dataclass(frozen=True, slots=True)
class Layers:
    """Here the layers of a stack run."""

    gap: int


Step = Chunk | Shared | Layers


@dataclass(frozen=True, eq=False, slots=True)
class Score:
    """A trace, prepared for being put together."""

    forward: tuple[Step, ...]
    between: tuple[Step, ...]
    backward: tuple[Step, ...]
    shared: frozenset[int]
    released: frozenset[int]
    """The shared storages that it lets go of."""
    count: int
    """How many numbers it uses."""
    makers: tuple[str, ...]
    """Whose each storage is."""
    forms: tuple[Form, ...]


@lru_cache(maxsize=512)
def score(trace: Trace) -> Score:
    """Prepare a trace."""
    shared = {trace.given, *trace.given_others, trace.result, trace.gradient, trace.passed, *trace.passed_others}
    shared |= {number for _, number in trace.cached}
    shared |= {number for handed in trace.handed for number in (handed.number, handed.gradient)}
    for gap in trace.gaps:
        shared |= {gap.given, *gap.given_others, gap.result, gap.gradient, gap.passed, *gap.passed_others}
    shared -= {-1}
    events = (*trace.forward, *trace.between, *trace.backward)
    return Score(
        _steps(trace.forward, shared),
        _steps(trace.between, shared),
        _steps(trace.backward, shared),
        frozenset(shared),
        frozenset(number for nbytes, number in events if nbytes < 0 and number in shared),
        max((number for _, number in events), default=-1) + 1,
        trace.makers,
        trace.forms,
    )


def chunk_of(events: Sequence[Event]) -> Chunk:
    """A stretch of at least one event."""
    sums = list(accumulate(nbytes for nbytes, _ in events))
    return Chunk(sums[-1], max(0, *sums), tuple(events))


def _steps(events: tuple[Event, ...], shared: set[int]) -> tuple[Step, ...]:
    steps: list[Step] = []
    own: list[Event] = []

    def flush() -> None:
        if own:
            steps.append(chunk_of(own))
            own.clear()

    for nbytes, number in events:
        if number == GAP:
            flush()
            steps.append(Layers(nbytes))
        elif number in shared:
            flush()
            steps.append(Shared(nbytes, number))
        else:
            own.append((nbytes, number))
    flush()
    return tuple(steps)


@dataclass(slots=True, eq=False)
class Token:
    """A shared storage in the whole model."""

    holders: int = 0
    allocated: bool = False
    number: int = -1
    owner: tuple[str, Form] = ("", ((), 0))
    """The path of the node that made it, and what it holds."""
    same: "Token | None" = None
    """The token that this one turned out to be: layers are built before the gradients that join them are known."""

    def resolved(self) -> "Token":
        token = self
        while token.same is not None:
            token = token.same
        return token


@dataclass(slots=True)
class Part:
    """One run of a trace in the whole model: the root, or one layer."""

    score: Score
    tokens: dict[int, Token]
    offset: int
    path: str
    """Of the layers that it is like, or nothing for the root; with a dot at its end."""
    trace: Trace
    layers: list[list["Part"]] = field(default_factory=list)
    added: list[int] = field(default_factory=list)
    """Gradients that are added to those of other layers, and freed, when its backward is done."""

    def owner(self, number: int) -> tuple[str, Form]:
        """Whose one of its storages is, and what it holds."""
        return self.path + self.score.makers[number], self.score.forms[number]


Owner = tuple[str, Form]
"""The path of the node that made a storage, and what the storage holds."""

Holding = Mapping[Owner, tuple[int, int]]
"""Of each owner's storages of one form how many there are, and their bytes in all."""


class Sink(Protocol):
    """What is done with the events of the whole model."""

    def chunk(self, chunk: Chunk, part: Part) -> None: ...

    def one(self, nbytes: int, number: int, owner: Owner) -> None: ...


class Hooks(Protocol):
    """What happens around the parts of a model while it is played: FSDP gathers and reduces there."""

    def before(self, part: Part, *, forward: bool) -> None: ...

    def after(self, part: Part, *, forward: bool) -> None: ...


Hooking = Callable[["Tiling", Sink], Hooks]
"""Hooks for one play."""


@dataclass(slots=True)
class Running:
    """The sum of allocated bytes, the highest that it was, and whose the bytes were then."""

    now: int = 0
    peak: int = 0
    played: list[tuple[Chunk, Part] | tuple[int, Owner]] = field(default_factory=list)
    at: int = 0
    """How much was played when the sum was highest."""

    def chunk(self, chunk: Chunk, part: Part) -> None:
        self.played.append((chunk, part))
        if self.now + chunk.peak > self.peak:
            self.peak, self.at = self.now + chunk.peak, len(self.played)
        self.now += chunk.net

    def one(self, nbytes: int, number: int, owner: Owner) -> None:
        self.played.append((nbytes, owner))
        self.now += nbytes
        if self.now > self.peak:
            self.peak, self.at = self.now, len(self.played)

    def held(self) -> Holding:
        """What is held at the peak."""
        last = self.played[self.at - 1] if self.at else (0, "")
        if not (isinstance(last[0], Chunk) and isinstance(last[1], Part)):
            return _holding(self.played[: self.at])
        chunk, part = last[0], last[1]
        sums = list(accumulate(nbytes for nbytes, _ in chunk.events))
        return _holding(self.played[: self.at - 1], (chunk, part, sums.index(max(sums)) + 1))

    def left(self) -> Holding:
        """What is held at the end."""
        return _holding(self.played)


def _holding(
    played: Sequence[tuple[Chunk, Part] | tuple[int, Owner]], last: tuple[Chunk, Part, int] | None = None
) -> Holding:
    """What events leave; of the last stretch only so many of its events."""
    found: dict[Owner, tuple[int, int]] = {}
    chunks: Counter[tuple[Chunk, str, Score]] = Counter()
    for what, whose in played:
        if isinstance(what, int):
            _add(found, whose, what, 1)  # type: ignore[arg-type]
        else:
            chunks[what, whose.path, whose.score] += 1  # type: ignore[union-attr]
    if last is not None:
        chunk, part, length = last
        for number, nbytes in _living(chunk, length):
            _add(found, part.owner(number), nbytes, 1)
    for (chunk, path, prepared), times in chunks.items():
        for number, nbytes in _living(chunk, len(chunk.events)):
            _add(found, (path + prepared.makers[number], prepared.forms[number]), nbytes, times)
    return {owner: pair for owner, pair in found.items() if pair[1]}


def _add(found: dict[Owner, tuple[int, int]], owner: Owner, nbytes: int, times: int) -> None:
    count, total = found.get(owner, (0, 0))
    found[owner] = (count + (times if nbytes > 0 else -times), total + nbytes * times)


@dataclass(slots=True)
class Listed:
    """All events, with a number of its own for each storage."""

    events: list[Event] = field(default_factory=list)

    def chunk(self, chunk: Chunk, part: Part) -> None:
        offset = part.offset
        self.events += [(nbytes, number + offset) for nbytes, number in chunk.events]

    def one(self, nbytes: int, number: int, owner: Owner) -> None:
        self.events.append((nbytes, number))


@lru_cache(maxsize=4096)
def _living(chunk: Chunk, length: int) -> tuple[tuple[int, int], ...]:
    """Storages, and the bytes by which a stretch's first events change what they hold: freed earlier ones are negative."""
    found: dict[int, int] = {}
    for nbytes, number in chunk.events[:length]:
        found[number] = found.get(number, 0) + nbytes
    return tuple((number, nbytes) for number, nbytes in found.items() if nbytes)


class Tiling:
    """The whole model, part by part. Plays once."""

    def __init__(self, root: Trace, layering: Layering) -> None:
        self.layering = layering
        self.offset = 0
        self.before: list[tuple[int, Token, Owner]] = []
        """What the cache holds from the start, and whose it is."""
        self.root = self._part(root, {}, "")

    def play(self, sink: Sink, hooking: Hooking | None = None) -> None:
        hooks = None if hooking is None else hooking(self, sink)
        for nbytes, token, owner in self.before:
            self._allocate(sink, nbytes, token, owner)
        self._run(self.root, sink, hooks, forward=True)
        self._between(self.root, sink)
        self._run(self.root, sink, hooks, forward=False)

    def numbers(self, count: int) -> int:
        """The first of so many numbers for storages that no trace knows."""
        self.offset += count
        return self.offset - count

    def _part(self, trace: Trace, given: Mapping[int, Token], path: str) -> Part:
        prepared = score(trace)
        tokens = {number: given.get(number) or Token() for number in prepared.shared}
        for number in prepared.released:
            tokens[number].resolved().holders += 1
        part = Part(prepared, tokens, self.offset, path, trace)
        self.offset += prepared.count
        self.before += [(nbytes, tokens[number], part.owner(number)) for nbytes, number in trace.cached]
        for gap in trace.gaps:
            part.layers.append(self._layers(part, gap))
        return part

    def _layers(self, parent: Part, gap: Gap) -> list[Part]:
        placed = self.layering(gap, parent.path)
        traces = [trace for _, trace in placed]
        carried = parent.tokens[gap.given]
        others = [parent.tokens[number] for number in gap.given_others]
        handed: dict[str, Token] = {}
        parts = []
        for path, trace in placed:
            known = [*others, *(handed.get(name) or Token() for name in trace.taken)]  # layers may be left out
            given = {trace.given: carried, **dict(zip(trace.given_others, known, strict=True))}
            parts.append(self._part(trace, given, path))
            carried = parts[-1].tokens[trace.result]
            handed |= {one.name: parts[-1].tokens[one.number] for one in trace.handed}
        self._join(parent, gap.result, carried)
        if gap.gradient >= 0:
            self._join_gradients(parent, gap, traces, parts)
            self._join_others(parent, gap, traces, parts)
            self._join_handed(len(others), traces, parts)
        return parts

    def _join_gradients(self, parent: Part, gap: Gap, traces: list[Trace], parts: list[Part]) -> None:
        carried = parent.tokens[gap.gradient]
        for trace, part in zip(reversed(traces), reversed(parts), strict=True):
            if trace.gradient < 0:
                return  # nothing is trained here or before
            self._join(part, trace.gradient, carried)
            if trace.passed < 0:
                return
            carried = part.tokens[trace.passed]
        if gap.passed >= 0:
            self._join(parent, gap.passed, carried)

    def _join_others(self, parent: Part, gap: Gap, traces: list[Trace], parts: list[Part]) -> None:
        """What goes to every layer gets a gradient from each: the first stays, the others are added to it and go."""
        for index, number in enumerate(gap.passed_others):
            first = True
            for trace, part in zip(reversed(traces), reversed(parts), strict=True):
                own = trace.passed_others[index] if index < len(trace.passed_others) else -1
                if own < 0:
                    continue
                if first and number >= 0:
                    self._join(parent, number, part.tokens[own])
                else:
                    part.added.append(own)
                first = False

    def _join_handed(self, alike: int, traces: list[Trace], parts: list[Part]) -> None:
        """What a layer hands on gets a gradient from each that takes it: the first stays, the others are added and go."""
        waiting: dict[str, list[tuple[Part, int]]] = {}
        for trace, part in zip(reversed(traces), reversed(parts), strict=True):
            for one in trace.handed:
                gradients = waiting.pop(one.name, [])
                if gradients and one.gradient >= 0:
                    self._join(part, one.gradient, gradients[0][0].tokens[gradients[0][1]])
                for other, number in gradients[1:]:
                    other.added.append(number)
            for name, number in zip(trace.taken, trace.passed_others[alike:], strict=True):
                if number >= 0:
                    waiting.setdefault(name, []).append((part, number))

    def _join(self, part: Part, number: int, token: Token) -> None:
        """The part's storage is the one that `token` stands for."""
        old, token = part.tokens[number].resolved(), token.resolved()
        if old is not token:
            token.holders += old.holders
            old.same = token

    def _allocate(self, sink: Sink, nbytes: int, token: Token, owner: Owner) -> None:
        token = token.resolved()
        token.allocated, token.number, token.owner = True, self.offset, owner
        self.offset += 1
        sink.one(nbytes, token.number, owner)

    def _between(self, part: Part, sink: Sink) -> None:
        for step in part.score.between:
            self._step(part, step, sink)  # never layers
        for layers in part.layers:
            for layer in layers:
                self._between(layer, sink)

    def _run(self, part: Part, sink: Sink, hooks: Hooks | None, *, forward: bool) -> None:
        if hooks is not None:
            hooks.before(part, forward=forward)
        self._play(part, sink, hooks, forward=forward)
        if hooks is not None:
            hooks.after(part, forward=forward)

    def _play(self, part: Part, sink: Sink, hooks: Hooks | None, *, forward: bool) -> None:
        for step in part.score.forward if forward else part.score.backward:
            if not isinstance(step, Layers):
                self._step(part, step, sink)
                continue
            layers = part.layers[step.gap]
            for layer in layers if forward else reversed(layers):
                self._run(layer, sink, hooks, forward=forward)
                if not forward:
                    self._free_added(layer, sink)

    def _step(self, part: Part, step: Step, sink: Sink) -> None:
        if isinstance(step, Chunk):
            sink.chunk(step, part)
            return
        assert isinstance(step, Shared)
        token, owner = part.tokens[step.number].resolved(), part.owner(step.number)
        self._shared(token, step.nbytes, owner, sink)

    def _free_added(self, part: Part, sink: Sink) -> None:
        sizes = {
            step.number: step.nbytes for step in part.score.backward if isinstance(step, Shared) and step.nbytes > 0
        }
        for number in part.added:
            token = part.tokens[number].resolved()
            if token.allocated:
                token.allocated = False
                sink.one(-sizes.get(number, 0), token.number, token.owner)

    def _shared(self, token: Token, nbytes: int, owner: Owner, sink: Sink) -> None:
        if nbytes > 0:
            self._allocate(sink, nbytes, token, owner)
            return
        token.holders -= 1
        if token.allocated and token.holders == 0:
            token.allocated = False
            sink.one(nbytes, token.number, token.owner)
