"""Turn the kernels of a trace into time on a card: each is bound by arithmetic, by memory traffic or by its launch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from canvas_rt.physics.calibration import Calibration
from canvas_rt.physics.hardware import Hardware
from canvas_rt.physics.report import Bound
from canvas_rt.physics.tape import Work
from canvas_rt.physics.trace import Trace

Limit = Literal["compute", "memory", "launch"]


@dataclass(slots=True)
class Cost:
    """A sum over kernels."""

    parameters: int = 0
    forward: int = 0
    backward: int = 0
    recomputed: int = 0
    executed: int = 0
    useful: int = 0
    """What is executed and belongs to the model: no recomputation, and of attention only what is visible."""
    moved: int = 0
    kernels: int = 0
    sent: int = 0
    """Bytes that go over the links between cards."""
    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    memory: int = 0
    """Bytes that it holds when the model holds most."""
    seconds: dict[Bound, float] = field(default_factory=dict)
    """By what bounds the kernels that take them."""

    def add(self, other: "Cost", times: int = 1) -> None:
        """Add so many of the other's runs. What is held is not run, and stays."""
        self.forward += times * other.forward
        self.backward += times * other.backward
        self.recomputed += times * other.recomputed
        self.executed += times * other.executed
        self.useful += times * other.useful
        self.moved += times * other.moved
        self.kernels += times * other.kernels
        self.sent += times * other.sent
        for bound, seconds in other.seconds.items():
            self.spend(bound, seconds * times)

    def series(self, last: "Cost", count: int) -> "Cost":
        """The sum of so many costs that grow along a line from this one to the last."""

        def total(a: int, b: int) -> int:
            return count * (a + b) // 2

        seconds = {
            bound: count * (self.seconds.get(bound, 0.0) + last.seconds.get(bound, 0.0)) / 2
            for bound in {*self.seconds, *last.seconds}
        }
        names = ("forward", "backward", "recomputed", "executed", "useful", "moved", "kernels", "sent")
        return Cost(**{name: total(getattr(self, name), getattr(last, name)) for name in names}, seconds=seconds)

    def spend(self, bound: Bound, seconds: float) -> None:
        self.seconds[bound] = self.seconds.get(bound, 0.0) + seconds

    @property
    def bound(self) -> Bound:
        """What bounds most of its time."""
        return max(self.seconds, key=lambda bound: self.seconds[bound], default="memory")


@dataclass(frozen=True, slots=True)
class Roof:
    """A card's limits, as its datasheet gives them or as they were measured on one."""

    card: Hardware
    calibration: Calibration | None = None

    @property
    def launch_s(self) -> float:
        """Seconds from one kernel to the next where they are short."""
        return LAUNCH_S if self.calibration is None else self.calibration.launch_s

    @property
    def bandwidth(self) -> float:
        """Bytes per second."""
        return self.card.bandwidth * (1.0 if self.calibration is None else self.calibration.bandwidth_share)

    def peak(self, rate: str) -> float:
        """FLOP/s for products of these numbers. fp32 is computed in fp32, as PyTorch does unless told otherwise; so are
        numbers that the card has no fast path for."""
        return self.card.peak_flops.get(rate, self.card.peak_flops["fp32"])

    def seconds(self, work: Work, *, launched: bool = True) -> tuple[float, Limit]:
        """How long a kernel takes, and what bounds it."""
        peak = self.peak(work.rate)
        if self.calibration is not None and work.product:
            peak *= self.calibration.share(work)
        compute, memory = work.executed / peak, work.moved / self.bandwidth
        launch = self.launch_s if launched else 0.0
        if launch > compute and launch > memory:
            return launch, "launch"
        return (compute, "compute") if compute > memory else (memory, "memory")


LAUNCH_S = 4.5e-6
"""From one kernel's launch to the next's, where eager PyTorch issues them: the host's work, not the card's.
Source: the launch latency of 4 to 5 µs that NVIDIA's profiling guides give; a calibration measures it."""


@lru_cache(maxsize=512)
def trace_costs(trace: Trace, limit: Roof) -> Mapping[str, Cost]:
    """What each node of a trace costs, by its path within the trace."""
    return work_costs(trace.work, limit)


def work_costs(works: tuple[Work, ...], limit: Roof, *, launched: bool = True) -> dict[str, Cost]:
    """What each owner's kernels cost. Many kernels in one launch (fused, foreach) are not `launched` each."""
    costs: dict[str, Cost] = {}
    for work in works:
        cost = costs.setdefault(work.owner, Cost())
        if work.backward:
            cost.backward += work.flops
        else:
            cost.forward += work.flops
        if work.again:
            cost.recomputed += work.flops
        else:
            cost.useful += min(work.flops, work.executed)
        cost.executed += work.executed
        cost.moved += work.moved
        cost.kernels += 1
        seconds, bound = limit.seconds(work, launched=launched)
        cost.spend(bound, seconds)
    return costs
