"""What an optimizer keeps and makes: PyTorch's own are run on meta, one tensor of each shape at a time."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor

from canvas_rt.ops.op import Shape
from canvas_rt.physics.setup import META, Device
from canvas_rt.physics.tape import GRANULE, Event, Tape, Work, rounded

LEAST_8BIT = 4096
"""bitsandbytes keeps the state of smaller tensors in fp32 (`min_8bit_size`)."""
BLOCK_8BIT = 256
"""Numbers that share a scale (`blocksize` of bitsandbytes' block-wise optimizers)."""

STEP_BYTES = 4
"""Adam counts its steps in one fp32 number for each tensor; on the device where it is fused, else on the host."""


Learner = tuple[Shape, torch.dtype]
"""Shape and dtype of a tensor that is trained."""


@dataclass(frozen=True, eq=False, slots=True)
class Update:
    """What updating one tensor takes, and leaves behind."""

    states: tuple[int, ...]
    """Bytes of each state tensor on the device, rounded as its allocator does."""

    moments: int
    """Bytes of the state without the allocator's rounding and the count of steps."""

    events: tuple[Event, ...]
    """Temporaries of a step after the first. Of 0 bytes: here the one of that number that the tensor before left dies."""

    left: tuple[Event, ...]
    """Temporaries that still live when the next tensor's turn comes: the loop's variables name them."""

    work: tuple[Work, ...]

    things: tuple[int, ...] = ()
    """Of foreach: bytes of each temporary in the order in which they are made; 0 for what the device does not count."""


class Lion(torch.optim.Optimizer):
    """Source: Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, algorithm 2."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99)
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": 1e-2})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            fast, slow = group["betas"]
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                average, gradient = state["exp_avg"], parameter.grad
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = average.clone().mul_(fast).add(gradient, alpha=1 - fast).sign_()
                parameter.add_(update, alpha=-group["lr"])
                average.mul_(slow).add_(gradient, alpha=1 - slow)


def _make(name: str, parameters: Sequence[Tensor], foreach: bool) -> torch.optim.Optimizer:
    if name == "muon" and parameters[0].dim() != 2:
        name = "adamw"  # as its authors do with what is no matrix
    match name:
        case "adamw":
            return torch.optim.AdamW(parameters, foreach=foreach)
        case "adam":
            return torch.optim.Adam(parameters, foreach=foreach)
        case "sgd":
            return torch.optim.SGD(parameters, foreach=foreach)
        case "sgd-momentum":
            return torch.optim.SGD(parameters, momentum=0.9, foreach=foreach)
        case "adafactor":
            return torch.optim.Adafactor(parameters, foreach=foreach)
        case "muon":
            return torch.optim.Muon(parameters)
        case "lion":
            return Lion(parameters)
    raise AssertionError(name)


class _Counting(Tape):  # type: ignore[no-untyped-call]
    """Remembers how many events there were before each operation."""

    def __init__(self, granule: int) -> None:
        super().__init__(granule=granule)
        self.starts: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.starts.append(len(self.events))
        return super().__torch_dispatch__(func, types, args, kwargs)


@lru_cache(maxsize=4096)
def update(name: str, implementation: str, shape: Shape, dtype: torch.dtype, device: Device = "cuda") -> Update:
    """One tensor's update in a step after the first."""
    granule = GRANULE if device == "cuda" else 1
    if implementation == "fused":
        return _fused(name, shape, dtype, granule)
    foreach = implementation == "foreach"
    # Of a loop, the second of two tensors shows what the one before it leaves.
    tape, state = _run(name, [(shape, dtype)] * (1 if foreach else 2), foreach, GRANULE if foreach else granule)
    states = tuple(rounded(v.nbytes, granule) for v in state if v.device.type == "meta" or device == "cpu")
    moments = sum(value.nbytes for value in state if value.dim())
    if foreach:
        made = [tape.forms[number] for nbytes, number in tape.events if nbytes > 0]
        things = tuple(rounded(prod(form) * item, granule) for form, item in made)
        return Update(states, moments, (), (), tuple(tape.work), things)
    half = tape.starts[len(tape.starts) // 2]
    events, left = _second(tape.events[:half], tape.events[half:])
    return Update(states, moments, events, left, tuple(tape.work[len(tape.work) // 2 :]))


def _run(name: str, learners: Sequence[Learner], foreach: bool, granule: int) -> tuple[_Counting, tuple[Tensor, ...]]:
    """A step after the first over some tensors, and the state of the last of them."""
    parameters = [torch.empty(shape, dtype=dtype, device=META, requires_grad=True) for shape, dtype in learners]
    tape = _Counting(granule)
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    optimizer = _make(name, parameters, foreach)
    with tape, tape.unseen():
        optimizer.step()  # the first, which makes the state
    tape.starts.clear()
    states = [tuple(v for v in optimizer.state[p].values() if isinstance(v, Tensor)) for p in parameters]
    for tensor in (*parameters, *(p.grad for p in parameters), *(v for state in states for v in state)):
        assert tensor is not None
        tape.resident(tensor)
    tape.owner = OPTIMIZER
    with tape:
        optimizer.step()
    tape.close()
    return tape, states[-1]


def _second(before: Sequence[Event], after: Sequence[Event]) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
    """The events of the second of two tensors, numbered from 0, and what it leaves."""
    places = [
        {n: place for place, n in enumerate(dict.fromkeys(n for b, n in half if b > 0))} for half in (before, after)
    ]
    left = {places[0][n] for b, n in after if b < 0 and n in places[0]}
    events = [
        (0, places[0][n]) if n in places[0] else (b, places[1][n])
        for b, n in after
        if n in places[0] or not (b < 0 and places[1][n] in left)
    ]
    return tuple(events), tuple((b, n) for b, n in events if b > 0 and n in left)


OPTIMIZER = "optimizer"
"""Whose the work of an update is, in a tape."""


def _fused(name: str, shape: Shape, dtype: torch.dtype, granule: int) -> Update:
    """One kernel reads weight, gradient and state, and writes weight and state: nothing else is made."""
    count, item = prod(shape), dtype.itemsize
    sizes = _fused_states(name, count, item)
    steps = (STEP_BYTES,) if name in ("adam", "adamw") else ()
    moved = count * item * 3 + 2 * sum(sizes)
    work = Work(OPTIMIZER, True, 0, 0, moved)
    return Update(tuple(rounded(size, granule) for size in (*steps, *sizes)), sum(sizes), (), (), (work,))


def _fused_states(name: str, count: int, item: int) -> tuple[int, ...]:
    match name:
        case "adam" | "adamw":
            return count * item, count * item
        case "sgd-momentum":
            return (count * item,)
        case "sgd":
            return ()
        case "adamw-8bit":
            if count < LEAST_8BIT:
                return 4 * count, 4 * count
            scales = 4 * -(-count // BLOCK_8BIT)
            return count, count, scales, scales
    raise AssertionError(name)


Beat = tuple[int, int, int]
"""1 or -1, a group, and which of the things that the group makes for each tensor is made, or dropped, for all of them."""


@dataclass(frozen=True, slots=True)
class Step:
    """An optimizer's step over all tensors that it trains."""

    states: tuple[int, ...]
    """Bytes of each state tensor, rounded as the allocator does, in the order in which the first step makes them."""

    peak: int
    """The most bytes of temporaries at once."""

    updates: tuple[Update, ...]
    """One for each tensor, in the model's order."""

    by_learner: Mapping[Learner, Update]
    shared: tuple[int, ...]
    """Of the state, what serves all tensors."""

    together: bool
    """Whether an operation runs over all tensors before the next begins."""

    def of(self, shape: Shape, dtype: torch.dtype) -> Update:
        """The update of a tensor that is trained."""
        return self.by_learner[shape, dtype]

    beats: tuple[Beat, ...] = ()
    """Of foreach, what is made and dropped, in order."""

    groups: tuple[tuple[Update, ...], ...] = ()
    """Tensors that are updated together; of a loop, those that follow one another in it."""

    def events(self) -> Iterator[Event]:
        """Allocations and frees of temporaries, in order, with numbers of their own from 0."""
        return _together(self.beats, self.groups) if self.together else _in_turns(self.groups)


def _in_turns(turns: Sequence[Sequence[Update]]) -> Iterator[Event]:
    number = 0
    for turn in turns:
        yield from _in_turn(turn, number)
        number += sum(1 + max((n for _, n in one.events), default=-1) for one in turn)


def _in_turn(updates: Sequence[Update], number: int) -> Iterator[Event]:
    left = dict[int, Event]()
    for one in updates:
        for nbytes, n in one.events:
            if nbytes:
                yield nbytes, number + n
            elif n in left:
                size, old = left.pop(n)
                yield -size, old
        yield from ((-size, old) for size, old in left.values())
        left = {n: (nbytes, number + n) for nbytes, n in one.left}
        number += 1 + max((n for _, n in one.events), default=-1)
    yield from ((-size, old) for size, old in left.values())


# -- foreach: an operation runs over all tensors of a group before the next begins


@lru_cache(maxsize=256)
def _beats(name: str, firsts: tuple[Learner, ...], device: Device) -> tuple[Beat, ...]:
    """What a step over one tensor of each group makes and drops, in order. Lists of one group may outlive its turn."""
    counts = [len(update(name, "foreach", *each, device).things) for each in firsts]
    tape = _run(name, firsts, True, GRANULE)[0]
    starts = [sum(counts[:group]) for group in range(len(counts))]
    made = {n: place for place, n in enumerate(n for nbytes, n in tape.events if nbytes > 0)}
    beats = []
    for nbytes, number in tape.events:
        group = max(g for g, start in enumerate(starts) if start <= made[number] and counts[g])
        beats.append((1 if nbytes > 0 else -1, group, made[number] - starts[group]))
    return tuple(beats)


def _groups(name: str, learners: Sequence[Learner]) -> list[list[Learner]]:
    """foreach optimizers take tensors of one dtype at a time, and Adafactor matrices apart from vectors."""
    groups: dict[Any, list[Learner]] = {}
    for shape, dtype in learners:
        groups.setdefault((dtype, len(shape) > 1 if name == "adafactor" else None), []).append((shape, dtype))
    return list(groups.values())


def _together(beats: Sequence[Beat], groups: Sequence[Sequence[Update]]) -> Iterator[Event]:
    sizes = [[one.things for one in group] for group in groups]
    starts = [sum(len(group) * len(group[0]) for group in sizes[:place]) for place in range(len(sizes))]
    for sign, group, thing in beats:
        for place, of in enumerate(sizes[group]):
            if of[thing]:
                yield sign * of[thing], starts[group] + place * len(of) + thing


def _peak_together(beats: Sequence[Beat], groups: Sequence[Sequence[Update]]) -> int:
    totals = []
    for group in groups:
        counts = Counter(group)
        things = len(group[0].things)
        totals.append([sum(count * one.things[thing] for one, count in counts.items()) for thing in range(things)])
    now = most = 0
    for sign, place, thing in beats:
        now += sign * totals[place][thing]
        most = max(most, now)
    return most


def step(name: str, implementation: str, learners: Sequence[Learner], device: Device = "cuda") -> Step:
    """A step over these tensors: exact, for a trace of one tensor of each shape."""
    known = {each: update(name, implementation, *each, device) for each in dict.fromkeys(learners)}
    updates = tuple(known[each] for each in learners)
    # bitsandbytes maps 8 bits to numbers by two tables of 256.
    shared = (rounded(4 * 256),) * 2 if name == "adamw-8bit" else ()
    states = (*shared, *(size for one in updates for size in one.states))
    if implementation != "foreach":
        turns = _turns(name, learners, updates)
        pairs = {pair for turn in turns for pair in pairwise((None, *turn))}
        peak = max((_peak_after(before, one) for before, one in pairs if one), default=0)
        return Step(states, peak, updates, known, shared, together=False, groups=turns)
    members = _groups(name, learners)
    beats = _beats(name, tuple(group[0] for group in members), device)
    groups = tuple(tuple(known[each] for each in group) for group in members)
    return Step(states, _peak_together(beats, groups), updates, known, shared, True, beats, groups)


def _turns(name: str, learners: Sequence[Learner], updates: Sequence[Update]) -> tuple[tuple[Update, ...], ...]:
    """Loops that follow one another: Muon's over matrices, then AdamW's over the rest."""
    if name != "muon":
        return (tuple(updates),)
    pairs = tuple(zip(learners, updates, strict=True))
    matrices = tuple(one for (shape, _), one in pairs if len(shape) == 2)
    return matrices, tuple(one for (shape, _), one in pairs if len(shape) != 2)


def _peak_after(before: Update | None, one: Update) -> int:
    left = {} if before is None else {n: nbytes for nbytes, n in before.left}
    now = most = sum(left.values())
    for nbytes, n in one.events:
        now += nbytes or -left.pop(n, 0)
        most = max(most, now)
    return most


__all__ = ["Learner", "Step", "Update", "step", "update"]
