"""Turn the kernels of a trace into time on a card: each is bound by arithmetic or by memory traffic."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from canvas_rt.physics.hardware import Hardware
from canvas_rt.physics.report import Bound, NodeCost
from canvas_rt.physics.trace import Trace


@dataclass(slots=True)
class Cost:
    """A sum over kernels."""

    parameters: int = 0
    forward: int = 0
    backward: int = 0
    executed: int = 0
    moved: int = 0
    compute_s: float = 0.0
    memory_s: float = 0.0

    def add(self, other: "Cost", times: int = 1) -> None:
        self.parameters += times * other.parameters
        self.forward += times * other.forward
        self.backward += times * other.backward
        self.executed += times * other.executed
        self.moved += times * other.moved
        self.compute_s += times * other.compute_s
        self.memory_s += times * other.memory_s

    def as_node(self) -> NodeCost:
        bound: Bound = "compute" if self.compute_s > self.memory_s else "memory"
        return NodeCost(self.parameters, self.forward, self.backward, self.moved, self.compute_s + self.memory_s, bound)


@dataclass(frozen=True, slots=True)
class Roof:
    """A card's two limits for one dtype."""

    flops: float
    bandwidth: float


def roof(card: Hardware, dtype: str) -> Roof:
    """fp32 is computed in fp32, as PyTorch does unless told otherwise; so is a dtype without a fast path."""
    return Roof(card.peak_flops.get(dtype, card.peak_flops["fp32"]), card.bandwidth)


@lru_cache(maxsize=512)
def trace_costs(trace: Trace, limit: Roof) -> Mapping[str, Cost]:
    """What each node of a trace costs, by its path within the trace."""
    costs: dict[str, Cost] = {}
    for work in trace.work:
        cost = costs.setdefault(work.owner, Cost())
        if work.backward:
            cost.backward += work.flops
        else:
            cost.forward += work.flops
        cost.executed += work.executed
        cost.moved += work.moved
        compute, memory = work.executed / limit.flops, work.moved / limit.bandwidth
        if compute > memory:
            cost.compute_s += compute
        else:
            cost.memory_s += memory
    return costs
