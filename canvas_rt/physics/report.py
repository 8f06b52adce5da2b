"""What a model costs, as data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Bound = Literal["compute", "memory"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """How the model is run."""

    mode: str
    """`train`: one step. `prefill`: read a prompt. `decode`: one new token."""

    batch: int
    sequence: int
    """Tokens of each sequence; in `decode`, those that the cache holds already."""

    dtype: str
    """Of weights, gradients, activations, cache and the optimizer's moments."""

    optimizer: str
    """In `train`; its fused implementation, which needs no temporaries."""


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Numbers that the model learns; tied ones count once."""

    total: int
    active: int
    """Those that one token passes through."""


@dataclass(frozen=True, slots=True)
class Flops:
    """Operations of one run, a multiplication and an addition counting as two. Matrix products only."""

    forward: int
    """As `torch.utils.flop_counter.FlopCounterMode` counts: attention over the full square of positions."""

    backward: int
    executed: int
    """What the kernels run: flash attention skips pairs that the mask hides and recomputes scores in its backward."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. The first five sum up to `peak_allocated`."""

    weights: int
    gradients: int
    """Of all parameters, as they stand when the backward is done."""

    optimizer: int
    activations: int
    """What the peak holds beyond the rest: activations, temporaries, token ids, rounding to 512 bytes."""

    kv_cache: int
    peak_allocated: int
    """The most that tensors take at once, in the second step, when the optimizer's state exists."""

    peak_reserved: int
    """The most that PyTorch's caching allocator takes from the driver."""

    device_total: int
    """With the CUDA context and cuBLAS workspaces: what the card must have."""


@dataclass(frozen=True, slots=True)
class Time:
    """Seconds, by the roofline: each kernel takes as long as its arithmetic or its traffic, whichever is longer."""

    total_s: float
    compute_s: float
    """In kernels that arithmetic bounds."""

    memory_s: float
    """In kernels that memory traffic bounds."""

    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class NodeCost:
    """What one node costs, in all the layers that its path names together."""

    parameters: int
    flops_forward: int
    flops_backward: int
    bytes: int
    """Read and written."""

    time_s: float
    bound: Bound


@dataclass(frozen=True, slots=True)
class Report:
    """What a model costs on a card in a scenario."""

    parameters: ParameterCount
    flops: Flops
    memory: Memory
    time: Time
    fits: bool
    """Whether `memory.device_total` is within what the card lets a process allocate."""

    hardware: str
    scenario: Scenario
    by_node: Mapping[str, NodeCost]
    """Parameters, FLOPs and time of the nodes sum up to the totals."""

    def to_json(self) -> dict[str, Any]:
        return {
            "parameters": asdict(self.parameters),
            "flops": asdict(self.flops),
            "memory": asdict(self.memory),
            "time": asdict(self.time),
            "fits": self.fits,
            "hardware": self.hardware,
            "scenario": asdict(self.scenario),
            "by_node": {path: asdict(cost) for path, cost in self.by_node.items()},
        }
