"""What FSDP2 keeps on each card beside a layer's own tensors: gathered weights, gradients on their way, buffers.

The traces of the parts are those of a single card. Around each part's forward and backward this plays what
`fully_shard`, applied to each layer of the stacks and then to the root, allocates and frees there. The order is that of
PyTorch's `_fsdp_param_group.py`, `_fsdp_state.py` and `_fsdp_collectives.py`: methods here have the names of those that
they follow. FSDP2 keeps tensors of its side streams alive by reference, so what is allocated does not depend on streams;
what is reserved does, a little, as each stream has blocks of its own, which the allocator's simulation does not know.

The order of a group's tensors is the document's, and that of emitted models. It tells which gradient is freed last while
they are reduced: transformers' own layers end in a norm, and hold a linear's gradient less there.

Checked byte for byte against real `fully_shard` runs of whole models in tests/physics/test_sharded.py.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Literal

import torch

from canvas_rt.ir.document import Document
from canvas_rt.ir.graph import parse_layers
from canvas_rt.physics.regimes import Treatment
from canvas_rt.physics.roofline import Roof
from canvas_rt.physics.scenario import Scenario
from canvas_rt.physics.setup import Setup
from canvas_rt.physics.tape import Event, Form, rounded
from canvas_rt.physics.tiling import Chunk, Holding, Part, Score, Sink, Tiling, chunk_of
from canvas_rt.physics.trace import Trace
from canvas_rt.physics.traffic import COMMUNICATION, Traffic, halves, places, ring
from canvas_rt.physics.weights import Held
from canvas_rt.physics.whole import Model, model


@dataclass(frozen=True, slots=True)
class Share:
    """One tensor of a group, as its cards hold it."""

    owner: str
    """The path of its node."""

    key: str
    """Its name within the part."""

    numbers: int
    """On one card, with padding."""

    stored: torch.dtype
    gathered: torch.dtype
    """What it is computed with, once it is whole."""

    trained: bool
    ranks: int
    """Cards that hold it together."""

    @property
    def whole_bytes(self) -> int:
        return self.ranks * self.numbers * self.gathered.itemsize


@dataclass(frozen=True, eq=False)
class Group:
    """What one `fully_shard` manages: the tensors of a layer, or those of the root that are in no layer. Frozen."""

    path: str
    shares: tuple[Share, ...]
    granule: int
    reduced: torch.dtype | None
    """In what gradients are summed; None for what they are computed in."""

    def _size(self, nbytes: int) -> int:
        return rounded(nbytes, self.granule)

    @property
    def gather_bytes(self) -> int:
        """Bytes of the whole tensors together."""
        return sum(share.whole_bytes for share in self.shares)

    @cached_property
    def gather(self) -> Chunk:
        """`foreach_all_gather`: room for all cards' parts; what is stored in other numbers is cast into a buffer first."""
        cast = self._size(sum(s.numbers * s.gathered.itemsize for s in self.shares if s.gathered is not s.stored))
        out = self._size(self.gather_bytes)
        return chunk_of([(cast, 1), (out, 0), (-cast, 1)] if cast else [(out, 0)])

    @cached_property
    def dropped(self) -> Chunk:
        """The gathered buffer goes."""
        return chunk_of([(-self._size(self.gather_bytes), 0)])

    @cached_property
    def unshard(self) -> Chunk:
        """`foreach_all_gather_copy_out`: the whole tensors, each in a storage of its own."""
        return chunk_of(self._whole(1))

    @cached_property
    def reshard(self) -> Chunk:
        """`free_unsharded_param`."""
        return chunk_of(self._whole(-1))

    def _whole(self, sign: int) -> list[Event]:
        sizes = [self._size(share.whole_bytes) for share in self.shares]
        return [(sign * size, number) for number, size in enumerate(sizes)]

    @cached_property
    def buffer_makers(self) -> Score:
        return _makers((COMMUNICATION,) * 2)

    @cached_property
    def weight_makers(self) -> Score:
        return _makers(tuple(share.owner for share in self.shares))

    @property
    def owners(self) -> tuple[tuple[str, int], ...]:
        """For each trained tensor its node, and how many numbers one card has of it."""
        return tuple((share.owner, share.numbers) for share in self.shares if share.trained)

    def reduce(self, trace: Trace) -> "Reduce | None":
        """What reduces the gradients that a trace leaves."""
        if trace not in self._reduces:
            self._reduces[trace] = _reduce(self, trace)
        return self._reduces[trace]

    @cached_property
    def _reduces(self) -> "dict[Trace, Reduce | None]":
        return {}


@dataclass(frozen=True, eq=False, slots=True)
class Reduce:
    """`foreach_reduce` of one group's gradients."""

    input: Chunk
    """The buffer that they are copied to."""

    freed: Chunk | None
    """They go, all but the last, which a variable of a loop still names."""

    output: Chunk
    """This card's part of the sums: the gradients that stay."""

    last: Chunk
    """The last gradient goes."""

    input_gone: Chunk
    output_gone: Chunk
    nbytes: int
    """Of the buffer that gradients are sent from."""

    sent: int

    makers: Score


def _reduce(group: Group, trace: Trace) -> Reduce | None:
    left = {learned.key: learned.number for learned in trace.learned}
    shares = [share for share in group.shares if share.trained and share.key in left]
    if not shares:
        return None
    sizes = {number: nbytes for nbytes, number in trace.backward if nbytes > 0}
    freed: list[Event] = [(-sizes.get(left[share.key], 0), left[share.key]) for share in shares]
    item = (group.reduced or shares[0].gathered).itemsize
    output = sum(share.numbers for share in shares) * item
    whole = sum(share.ranks * share.numbers for share in shares) * item
    into, out = rounded(whole, group.granule), rounded(output, group.granule)
    return Reduce(
        input=chunk_of([(into, 0)]),
        freed=chunk_of(freed[:-1]) if len(freed) > 1 else None,
        output=chunk_of([(out, 1)]),
        last=chunk_of(freed[-1:]),
        input_gone=chunk_of([(-into, 0)]),
        output_gone=chunk_of([(-out, 1)]),
        nbytes=whole,
        sent=sum(ring("reduce_scatter", share.ranks * share.numbers * item, share.ranks) for share in shares),
        makers=_makers((COMMUNICATION, f"{GRADIENTS}{group.path}")),
    )


def _dealt(nbytes: int, owners: Sequence[tuple[str, int]]) -> Counter[str]:
    """Bytes in proportion to weights, to the last one."""
    found: Counter[str] = Counter()
    rest = sum(weight for _, weight in owners)
    for owner, weight in owners:
        part = nbytes * weight // rest
        found[owner] += part
        nbytes, rest = nbytes - part, rest - weight
    return found


UNTOLD: Form = ((), 0)
"""What a buffer holds: nothing with a shape of its own."""

GRADIENTS = "gradients of "
"""Before a group's path: one storage holds the gradients of several nodes."""


def _makers(makers: tuple[str, ...]) -> Score:
    return Score((), (), (), frozenset(), frozenset(), len(makers), makers, (UNTOLD,) * len(makers))


# ---------------------------------------------------------------------------------------------------------------------
# Groups
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sharding:
    """How FSDP2 shares a model's weights. Frozen."""

    rows: tuple[Held, ...]
    reshard: bool
    granule: int
    mixed: bool
    """`MixedPrecisionPolicy(param_dtype=bfloat16, reduce_dtype=float32)` in autocast's place."""

    accumulating: bool = False
    """Whether gradients are there already, and new ones are added to them."""

    @cached_property
    def _groups(self) -> dict[str, Group]:
        return {}

    def group(self, path: str) -> Group:
        """Of the layers at a path, which ends with a dot; of the root without one."""
        if path not in self._groups:
            shares = tuple(self._share(row, local) for row, local in _within(self.rows, path))
            reduced = torch.float32 if self.mixed else None
            self._groups[path] = Group(path, shares, self.granule, reduced)
        return self._groups[path]

    def _share(self, row: Held, local: str) -> Share:
        gathered = torch.bfloat16 if self.mixed else row.dtype
        key, numbers = f"{local}.{row.row.name}", prod(row.local)
        return Share(row.row.path, key, numbers, row.dtype, gathered, row.trained, row.ranks)

    def hooks(self, tiling: Tiling, sink: Sink) -> "Fsdp":
        return Fsdp(self, tiling, sink)

    def owned(self, held: Holding) -> Holding:
        """What one storage holds for several nodes is dealt out to them."""
        found = {owner: pair for owner, pair in held.items() if not owner[0].startswith(GRADIENTS)}
        for (path, _), (_, nbytes) in held.items():
            if path.startswith(GRADIENTS):
                for node, part in _dealt(nbytes, self.group(path.removeprefix(GRADIENTS)).owners).items():
                    count, total = found.get((node, UNTOLD), (0, 0))
                    found[node, UNTOLD] = count + 1, total + part
        return found

    def again(self) -> "Sharding":
        """The same for a further batch of a step."""
        return replace(self, accumulating=True)


def models(
    document: Document, setup: Setup, treatment: Treatment, scenario: Scenario, rows: tuple[Held, ...]
) -> tuple[Model, Model | None]:
    """What one card runs: a first batch, and a further one of the same step where gradients accumulate."""
    sharding = Sharding(rows, scenario.reshard, setup.granule, scenario.dtype == "mixed")
    whole = replace(model(document, traced(setup), treatment), around=sharding)
    again = replace(whole, around=sharding.again()) if scenario.accumulation > 1 else None
    return whole, again


def traced(setup: Setup) -> Setup:
    """What a card computes under FSDP2: its policy takes autocast's place, and activations are in 16 bits throughout."""
    return replace(setup, dtype="bf16") if setup.dtype == "mixed" else setup


def _within(rows: Sequence[Held], path: str) -> Iterator[tuple[Held, str]]:
    """The tensors of the layers at a path that are in no stack within them, with their nodes' paths in the layer."""
    wanted = path.split(".")[:-1]
    for row in rows:
        parts = row.row.path.split(".")
        depth = 1 + max((place for place, part in enumerate(parts) if parse_layers(part)), default=-1)
        if row.count and depth == len(wanted) and all(map(_covers, parts, wanted)):
            yield row, ".".join(parts[depth:])


def _covers(part: str, wanted: str) -> bool:
    if part == wanted:
        return True
    span, inner = parse_layers(part), parse_layers(wanted)
    return span is not None and inner is not None and span[0] <= inner[0] and inner[1] <= span[1]


# ---------------------------------------------------------------------------------------------------------------------
# One step
# ---------------------------------------------------------------------------------------------------------------------

State = Literal["idle", "forward", "pre-backward", "post-backward"]


@dataclass(eq=False, slots=True)
class Live:
    """A group while a step runs: `FSDPParamGroup`."""

    group: Group
    part: Part
    reshards: bool
    """After its forward. The root does not."""

    state: State = "idle"
    whole: Part | None = None
    """Its whole tensors, while it is unsharded."""

    gathered: Part | None = None
    """`_all_gather_result`."""

    order: list[int] = field(default_factory=list)
    """`_post_forward_indices`."""


class Fsdp:
    """Plays FSDP2's allocations around the parts of a model."""

    def __init__(self, sharding: Sharding, tiling: Tiling, sink: Sink) -> None:
        self.sharding = sharding
        self.tiling = tiling
        self.sink = sink
        self.states = {id(part): self._live(part) for part in _parts(tiling.root)}
        """Of the parts in the order of their modules, the root first."""
        self.kept: tuple[Chunk, Part] | None = None
        """`comm_ctx.all_gather_state`: the gathered buffer of the part before, and what frees it."""
        self.sent: list[tuple[Chunk, Part]] = []
        """`comm_ctx.reduce_scatter_states`: what frees the buffers that gradients are sent from."""
        self.post_forward_order: list[Live] = []

    def _live(self, part: Part) -> Live:
        reshards = self.sharding.reshard and part is not self.tiling.root
        return Live(self.sharding.group(part.path), part, reshards)

    # -- hooks

    def before(self, part: Part, *, forward: bool) -> None:
        live = self.states[id(part)]
        if forward:
            self.pre_forward(live)
        elif part.trace.backward:
            self.pre_backward(live)

    def after(self, part: Part, *, forward: bool) -> None:
        live, root = self.states[id(part)], part is self.tiling.root
        if forward:
            self.post_forward(live)
            if root:
                self._free_kept()
        elif root:
            self.final_callback()
        elif _takes_gradients(part.trace):
            self.post_backward(live)

    # -- FSDPParamGroup

    def pre_forward(self, live: Live) -> None:
        live.state = "forward"
        self.unshard(live)
        self.wait_for_unshard(live)

    def post_forward(self, live: Live) -> None:
        if live.reshards:
            self.reshard(live)
        if live.group.shares:
            live.order.append(len(self.post_forward_order))
            self.post_forward_order.append(live)
        live.state = "idle"

    def pre_backward(self, live: Live) -> None:
        live.state = "pre-backward"
        self.unshard(live)
        self.wait_for_unshard(live)
        if live.order and (place := live.order.pop()) > 0:
            self.unshard(self.post_forward_order[place - 1])

    def unshard(self, live: Live) -> None:
        if live.gathered is None and live.whole is None and live.group.shares:
            live.gathered = self._numbered(live.group.buffer_makers)
            self.sink.chunk(live.group.gather, live.gathered)

    def wait_for_unshard(self, live: Live) -> None:
        if live.gathered is None:
            return
        live.whole = self._numbered(live.group.weight_makers)
        self.sink.chunk(live.group.unshard, live.whole)
        gone = live.group.dropped, live.gathered
        live.gathered = None
        if live.state != "forward":
            self.sink.chunk(*gone)
            return
        self._free_kept()  # late: a variable of `wait_for_unshard` names it to its end
        self.kept = gone

    def reshard(self, live: Live) -> None:
        if live.whole is not None:
            self.sink.chunk(live.group.reshard, live.whole)
            live.whole = None

    def post_backward(self, live: Live) -> None:
        live.state = "post-backward"
        if not live.group.shares:
            return
        self.reshard(live)
        self._free_sent()
        reduce = live.group.reduce(live.part.trace)
        if reduce is not None:
            self.foreach_reduce(reduce, live.part)

    def foreach_reduce(self, reduce: Reduce, part: Part) -> None:
        buffers = self._numbered(reduce.makers)
        self.sink.chunk(reduce.input, buffers)
        if reduce.freed is not None:
            self.sink.chunk(reduce.freed, part)
        self.sink.chunk(reduce.output, buffers)
        self.sink.chunk(reduce.last, part)
        if self.sharding.accumulating:
            self.sink.chunk(reduce.output_gone, buffers)
        self.sent.append((reduce.input_gone, buffers))

    # -- FSDPState

    def final_callback(self) -> None:
        """`_root_post_backward_final_callback`."""
        for live in self.states.values():
            if live.state != "post-backward":
                self.post_backward(live)
            if live.gathered is not None:  # gathered ahead, for a backward that did not come
                self.sink.chunk(live.group.dropped, live.gathered)
                live.gathered = None
        self._free_sent()

    def _free_kept(self) -> None:
        if self.kept is not None:
            self.sink.chunk(*self.kept)
            self.kept = None

    def _free_sent(self) -> None:
        for gone in self.sent:
            self.sink.chunk(*gone)
        self.sent.clear()

    def _numbered(self, makers: Score) -> Part:
        """New storages, whose they are told by full paths."""
        return Part(makers, {}, self.tiling.numbers(makers.count), "", self.tiling.root.trace)


def _parts(part: Part) -> Iterator[Part]:
    yield part
    for layers in part.layers:
        for layer in layers:
            yield from _parts(layer)


def _takes_gradients(trace: Trace) -> bool:
    """Whether anything that a layer is given wants a gradient: else FSDP2 does not learn when its backward is done."""
    return trace.passed >= 0 or any(number >= 0 for number in trace.passed_others)


# ---------------------------------------------------------------------------------------------------------------------
# What travels
# ---------------------------------------------------------------------------------------------------------------------


def travelling(whole: Model, limit: Roof) -> Traffic:
    """What FSDP2 sends for one batch.

    A layer's weights travel while the layer before it computes, forward and backward, and its gradients with them: what is
    waited for is what takes longer than that. Nothing hides the root's weights at the start and its gradients at the end.
    """
    total = Traffic()
    assert isinstance(whole.around, Sharding)
    for place in places(whole):
        total.add(_of_part(whole.around, place.path, place.trace, limit), place.times)
    return total


def _of_part(sharding: Sharding, path: str, trace: Trace, limit: Roof) -> Traffic:
    group, traffic, link = sharding.group(path), Traffic(), limit.card.link_bandwidth
    if not group.shares:
        return traffic
    gather = sum(ring("all_gather", share.whole_bytes, share.ranks) for share in group.shares)
    again = bool(path) and sharding.reshard and bool(trace.backward)
    reduce = group.reduce(trace)
    scatter = 0 if reduce is None else reduce.sent
    traffic.send("all_gather", gather * (2 if again else 1))
    traffic.send("reduce_scatter", scatter)
    traffic.copy(group.gather_bytes * (2 if again else 1) + (0 if reduce is None else reduce.nbytes), limit)
    forward, backward = halves(trace, limit) if path else (0.0, 0.0)
    traffic.wait(gather / link - forward)
    traffic.wait(((gather if again else 0) + scatter) / link - backward)
    return traffic
