"""Bytes that travel between cards, and the time that they are waited for."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from canvas_rt.physics.report import Communication
from canvas_rt.physics.roofline import Cost, Roof
from canvas_rt.physics.trace import Trace
from canvas_rt.physics.whole import Model

COMMUNICATION = "communication"
"""Whose the buffers and the waiting are that bytes travel with, in tables by node."""

Collective = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "point_to_point"]


def ring(collective: Collective, nbytes: int, ranks: int) -> int:
    """Bytes that each of `ranks` cards sends, of `nbytes` that all hold (or have sent to each other) in the end.

    Source: the ring algorithms of NCCL, docs of nccl-tests (PERFORMANCE.md).
    """
    if collective == "point_to_point":
        return nbytes
    return (2 if collective == "all_reduce" else 1) * nbytes * (ranks - 1) // ranks


@dataclass(slots=True)
class Traffic:
    """What one card sends in a step, and what that costs it."""

    sent: Counter[str] = field(default_factory=Counter)
    """Bytes, by collective."""

    cost: Cost = field(default_factory=Cost)
    """Waiting, and copies to and from buffers."""

    def send(self, collective: Collective, nbytes: int) -> None:
        self.sent[collective] += nbytes
        self.cost.sent += nbytes

    def copy(self, nbytes: int, limit: Roof) -> None:
        """Read and write so many bytes."""
        self.cost.moved += 2 * nbytes
        self.cost.spend("memory", 2 * nbytes / limit.bandwidth)

    def wait(self, seconds: float) -> None:
        self.cost.spend("communication", max(0.0, seconds))

    def add(self, other: "Traffic", times: int = 1) -> None:
        for collective, nbytes in other.sent.items():
            self.sent[collective] += times * nbytes
        self.cost.add(other.cost, times)

    @property
    def seconds(self) -> float:
        return sum(self.cost.seconds.values())

    @property
    def communication(self) -> Communication:
        return Communication(**self.sent)


@dataclass(frozen=True, slots=True)
class Place:
    """Layers that are alike, or the root."""

    path: str
    trace: Trace
    times: int


def places(whole: Model) -> Iterator[Place]:
    """The root, then the layers of its stacks."""
    yield Place("", whole.root, 1)
    yield from _inside(whole, whole.root, "", 1)


def _inside(whole: Model, trace: Trace, prefix: str, times: int) -> Iterator[Place]:
    for gap in trace.gaps:
        for span in whole.spans(gap, prefix):
            layer, count = whole.layer(gap, span), times * span.count
            yield Place(span.path, layer, count)
            yield from _inside(whole, layer, span.path, count)


@lru_cache(maxsize=512)
def halves(trace: Trace, limit: Roof) -> tuple[float, float]:
    """Seconds of a part's own forward and backward."""
    seconds = [0.0, 0.0]
    for work in trace.work:
        seconds[work.backward] += limit.seconds(work)[0]
    return seconds[0], seconds[1]
