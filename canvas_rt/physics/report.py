"""What a model costs, as data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from canvas_rt.diagnostics import Diagnostic
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.physics.scenario import Scenario

Bound = Literal["compute", "memory", "launch", "communication"]


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Numbers that the model learns; tied ones count once."""

    total: int
    active: int
    """Those that one token passes through."""

    trained: int
    """Those that a step changes, adapters among them; 0 where nothing is trained."""


@dataclass(frozen=True, slots=True)
class Flops:
    """Operations of one run, a multiplication and an addition counting as two. Matrix products only."""

    forward: int
    """As `torch.utils.flop_counter.FlopCounterMode` counts: attention over the full square of positions."""

    backward: int
    """What is recomputed is among it."""

    recomputed: int
    executed: int
    """What the kernels run: flash attention skips pairs that the mask hides and recomputes scores in its backward."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, on one card. The first five sum up to `peak_allocated`."""

    weights: int
    gradients: int
    """Of all that is trained, as they stand when the backward is done."""

    optimizer: int
    """State that lives from step to step."""

    activations: int
    """What the peak holds beyond the rest: activations, temporaries, token ids, cuBLAS' workspaces, rounding to 512."""

    kv_cache: int
    peak_allocated: int
    """The most that tensors take at once, in the second step, when the optimizer's state exists."""

    peak_reserved: int
    """The most that PyTorch's caching allocator takes from the driver."""

    device_total: int
    """With the CUDA context and NCCL's buffers: what the card must have."""


@dataclass(frozen=True, slots=True)
class Time:
    """Seconds of one run (of a step, all its accumulated batches; of a chat, prompt and answer), by the roofline.

    Each kernel takes as long as its arithmetic, its traffic or its launch, whichever is longest: with datasheet peaks a
    lower bound, with a calibration an estimate.
    """

    total_s: float
    compute_s: float
    """In kernels that arithmetic bounds."""

    memory_s: float
    """In kernels that memory traffic bounds."""

    launch_s: float
    """In kernels so short that the host cannot issue them fast enough."""

    communication_s: float
    """Waiting for other cards."""

    tokens_per_s: float
    """Of all cards together; in a chat, of those that are generated."""

    mfu: float
    """Share of the cards' peak that the model's own FLOPs take: recomputation is not among them."""

    first_token_s: float = 0.0
    """From the prompt to its first token."""

    next_token_s: float = 0.0
    """From one generated token to the next; in a chat on average."""


@dataclass(frozen=True, slots=True)
class Communication:
    """Bytes that one card sends to others in a run (of a step, for all its batches), as rings send them."""

    all_gather: int = 0
    reduce_scatter: int = 0
    all_reduce: int = 0
    all_to_all: int = 0
    point_to_point: int = 0

    @property
    def total(self) -> int:
        return self.all_gather + self.reduce_scatter + self.all_reduce + self.all_to_all + self.point_to_point


@dataclass(frozen=True, slots=True)
class Allocation:
    """How the caching allocator fared on a card of that capacity."""

    retries: int
    """How often it gave back what it had cached, and asked again."""

    out_of_memory: bool
    allocated: int
    """The most that it handed out: with what was too little to be split off, more than tensors asked for."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a number of tokens costs."""

    tokens: int
    gpu_hours: float
    energy_kwh: float
    """At the card's board power."""


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
    weights: int
    """Bytes of its weights, and of the gradients and optimizer state that belong to them."""
    gradients: int
    optimizer: int
    memory: int
    """Bytes that are its own when the model holds most: over all nodes, exactly `memory.peak_allocated`."""

    formulas: Mapping[str, str] = FrozenMap()
    """In a thorough report, for each of the whole numbers above a formula in the model's own sizes, `batch` and `seq`, which
    evaluates to it: `explain.evaluate(formula, names)`."""


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
    """Over the nodes, everything sums up to the totals: parameters, FLOPs, bytes, time and memory. Beside the model's own
    nodes there are `loss`, `labels`, `optimizer`, `cublas`, `communication` and the model's inputs, where they take
    something. Over several cards, a node's parameters are the whole model's and all else is one card's."""

    diagnostics: tuple[Diagnostic, ...] = ()
    """What is odd about the scenario, though it runs."""

    allocator: Allocation | None = None
    """How the allocator fared, where it was followed through every layer."""

    budget: Budget | None = None
    """Where the scenario says how many tokens are to be processed."""

    communication: Communication = Communication()
    """What one card sends to others."""

    def to_json(self) -> dict[str, Any]:
        return {
            "parameters": asdict(self.parameters),
            "flops": asdict(self.flops),
            "memory": asdict(self.memory),
            "time": asdict(self.time),
            "fits": self.fits,
            "hardware": self.hardware,
            "cards": self.scenario.cards,
            "scenario": asdict(self.scenario),
            "allocator": None if self.allocator is None else asdict(self.allocator),
            "communication": asdict(self.communication),
            "budget": None if self.budget is None else asdict(self.budget),
            "diagnostics": [diagnostic.to_json() for diagnostic in self.diagnostics],
            "by_node": {
                path: {**asdict(replace(cost, formulas=FrozenMap())), "formulas": dict(cost.formulas)}
                for path, cost in self.by_node.items()
            },
        }
