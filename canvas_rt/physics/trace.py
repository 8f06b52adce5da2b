"""What one block does, as data: allocations, kernels, and the storages that it shares with its surroundings."""

from dataclasses import dataclass

import torch

from canvas_rt.ir.document import Stack
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.physics.keys import Environment
from canvas_rt.physics.setup import Arriving
from canvas_rt.physics.tape import Event, Form, Work

GAP = -1
"""In place of a storage's number: the layers of a stack stand here. The event's bytes are the stack's index."""


LOSS = "loss"
"""Whose the work of the loss is, in tables by node."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A stack within a traced block, with the numbers of the storages that its layers share with it."""

    path: str
    stack: Stack
    environment: Environment
    carry: Arriving
    others: FrozenMap[str, Arriving]
    given: int
    """What flows into the first layer."""
    given_others: tuple[int, ...]
    result: int
    """What the last layer gives."""
    gradient: int = -1
    """The result's gradient, on its way into the last layer's backward."""
    passed: int = -1
    """The gradient that comes out of the first layer."""
    passed_others: tuple[int, ...] = ()
    """The gradients of `given_others`, summed over the layers; -1 for those that need none."""


@dataclass(frozen=True, slots=True)
class Learned:
    """A parameter's gradient, as the backward leaves it."""

    key: str
    """The parameter's, within the block."""
    number: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Handed:
    """What a layer hands to later ones."""

    name: str
    value: Arriving
    number: int
    gradient: int = -1
    """The value's gradient, on its way into the layer's backward."""


@dataclass(frozen=True, eq=False, slots=True)
class Trace:
    """What one block does. Storages are numbered; those that it shares with its surroundings are named here.

    Equal only to itself: as a cache's key, comparing thousands of events would cost more than it saves.
    """

    forward: tuple[Event, ...]
    between: tuple[Event, ...]
    """What happens when the whole model's forward is done: casts of weights are dropped."""
    backward: tuple[Event, ...]
    work: tuple[Work, ...]
    gaps: tuple[Gap, ...]
    makers: tuple[str, ...]
    """Whose each storage is, by its number."""
    forms: tuple[Form, ...] = ()
    """What each storage holds, by its number."""
    cached: tuple[Event, ...] = ()
    """What the cache holds before this runs."""
    learned: tuple[Learned, ...] = ()
    given: int = -1
    given_others: tuple[int, ...] = ()
    taken: tuple[str, ...] = ()
    """What the last of `given_others` are called that an earlier layer hands on."""
    result: int = -1
    gives: torch.dtype | None = None
    """The result's numbers: where a residual stream is wider than the model, layers are given another sort than the first."""
    handed: tuple[Handed, ...] = ()
    gradient: int = -1
    passed: int = -1
    passed_others: tuple[int, ...] = ()
