"""How a model is run, as far as a trace of its blocks depends on it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from canvas_rt.errors import CanvasError
from canvas_rt.ir.tasks import CAUSAL_LM, Task
from canvas_rt.ops.kernels import Backend, Context, needs_mask
from canvas_rt.physics.hardware import Hardware
from canvas_rt.physics.scenario import Mode, Scenario, as_mode
from canvas_rt.physics.tape import GRANULE

META = torch.device("meta")

DTYPES: Mapping[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "mixed": torch.float32,
    "fp8": torch.bfloat16,
}
"""Of learned numbers, and of what flows between layers."""

Device = Literal["cuda", "cpu"]

WIDEST_FLASH = 256
"""FlashAttention 2 has kernels for heads up to this width."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a trace depends on beside the block and the values of its sizes: a part of the cache's key."""

    mode: Mode
    batch: int
    sequence: int
    """Tokens of a sequence; in `decode`, those that the cache holds already."""

    dtype: str
    attention: str = "auto"
    recompute: tuple[str, ...] = ()
    """Nothing; `full` or `selective`; or names of what is recomputed within a layer."""

    loss: str = "plain"
    loss_chunks: int = 8
    accumulating: bool = False
    """Whether gradients are there already, and new ones are added to them."""

    cache: str = "same"
    page: int = 0
    eight: bool = False
    """Whether 8-bit weights are multiplied in 8 bits, which only some cards can."""

    context_ranks: int = 1
    """Cards that each have so many tokens of a sequence as `sequence` says, and gather all keys and values."""

    expert_ranks: int = 1
    """Cards that share the experts, and send each other rows."""

    task: Task = CAUSAL_LM
    """What the model is for: only one that generates has a cache, and needs no more than the last token of a prompt."""

    source: int = 0
    """What an encoder reads of each sequence, if there is one. Its decoder starts from one token: no prompt is its own."""

    device: Device = "cuda"
    """Whose kernels and whose allocator: the CPU's are there to be compared with what really happens on one."""

    @property
    def new_tokens(self) -> int:
        starts = self.mode == "prefill" and self.task.decodes
        return 1 if self.mode == "decode" or starts else self.sequence

    @property
    def tokens(self) -> int:
        """Tokens of each sequence that a run works through: of a prompt those that an encoder reads."""
        return self.source if self.mode == "prefill" and self.task.decodes else self.new_tokens

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Sequences, new tokens of each, and what an encoder reads of each."""
        return self.batch, self.new_tokens, self.source

    @property
    def remembers(self) -> bool:
        """Whether an encoder has run before, and what attention makes of its states is in the cache."""
        return self.mode == "decode" and bool(self.task.decodes)

    @property
    def train(self) -> bool:
        return self.mode == "train"

    @property
    def cached(self) -> bool:
        """Whether keys and values are kept."""
        return self.task.generates and not self.train

    @property
    def labelled(self) -> tuple[int, ...]:
        """The shape of labels: one for each token, or one for each image."""
        return (self.batch, self.new_tokens) if self.task.of_tokens else (self.batch,)

    @property
    def granule(self) -> int:
        """Bytes to whose multiple the device's allocator rounds up."""
        return GRANULE if self.device == "cuda" else 1

    @property
    def weight_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def product_dtype(self) -> torch.dtype:
        """What attention multiplies."""
        return torch.bfloat16 if self.dtype == "mixed" else self.weight_dtype

    def context(self) -> Context:
        past = self.sequence if self.mode == "decode" else 0
        source = self.source
        drop = (_drop_on_card if self.device == "cuda" else F.dropout) if self.train else None
        return Context(
            self.batch, self.new_tokens, META, self.weight_dtype, "flash", past, source, grouped=True, drop=drop
        )

    def backend(self, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Backend:
        """The kernel that attention runs as, for these queries and all keys and values, those of the cache among them.

        `auto` is `scaled_dot_product_attention` as transformers calls it. Sources: `sdp_utils.cpp` of PyTorch, where the
        memory-efficient kernel refuses grouped heads and flash refuses masks, fp32, wide heads and values of another width;
        `sdpa_attention_forward` of transformers, which repeats heads only where there is a mask.
        """
        if self.attention != "auto":
            return "flash" if self.attention == "flex" else self.attention  # type: ignore[return-value]
        if self.context_ranks > 1:
            return "flash"
        masked = needs_mask(q.shape[2], k.shape[2], window)
        grouped = q.shape[1] != k.shape[1]
        if self.device == "cpu":
            return "cpu"
        if masked:
            return "efficient"
        if self.product_dtype is not torch.float32 and q.shape[3] == v.shape[3] <= WIDEST_FLASH:
            return "flash"
        return "math" if grouped else "efficient"


def _drop_on_card(x: Tensor, share: float) -> Tensor:
    """As PyTorch's fused kernel does, which keeps a byte for each value; on a CPU it keeps the noise itself."""
    return torch.native_dropout(x, share, True)[0]


def setup_of(
    scenario: Scenario,
    card: Hardware,
    *,
    task: Task = CAUSAL_LM,
    source: int | None = None,
    device: Device = "cuda",
    eager: bool = False,
) -> Setup:
    """The setup of one forward (and backward) of a scenario. An encoder reads `source` tokens of each sequence; left out,
    as many as the scenario's sequences are long. `eager`: what `auto` attention is, where no other serves all of the model.

    Raises `CanvasError` for what a card cannot run, or a model of such a task cannot do.
    """
    if scenario.mode in ("decode", "chat") and not task.generates:
        hint = "Choose mode prefill, one forward of all that it is given, or train."
        raise CanvasError(f"{task.words} generates nothing", path="mode", hint=hint)
    cut = next(
        (n for n in ("tensor", "context", "pipeline", "expert") if task.decodes and getattr(scenario, n) > 1), ""
    )
    if cut:
        message = f"{task.words} has two stacks of layers, which Canvas cuts between cards by their parameters alone"
        raise CanvasError(message, path=cut, hint=f"Set {cut} to 1, and data to as many cards.")
    if scenario.attention == "flash" and scenario.dtype == "fp32":
        raise CanvasError(
            "FlashAttention has no kernel for fp32", path="attention", hint="Try attention efficient, or dtype bf16."
        )
    eight = "fp8" in card.peak_flops
    if scenario.dtype == "fp8" and not eight:
        raise CanvasError(
            f"{card.name} has no units for fp8", path="dtype", hint="Try dtype bf16, or hardware h100-80gb."
        )
    return Setup(
        mode=as_mode(scenario),
        batch=scenario.batch,
        sequence=scenario.sequence // scenario.context,
        dtype=scenario.dtype,
        attention="eager" if eager and scenario.attention == "auto" else scenario.attention,
        recompute=recomputed(scenario.recompute) if scenario.train else (),
        loss=scenario.loss if scenario.train else "plain",
        loss_chunks=scenario.loss_chunks if scenario.train and scenario.loss == "chunked" else 1,
        cache="same" if scenario.train else scenario.cache,
        page=0 if scenario.train else scenario.page,
        eight=eight and scenario.weights == "fp8" and not scenario.train,
        context_ranks=scenario.context,
        expert_ranks=scenario.expert,
        task=task,
        source=0 if not task.decodes else scenario.sequence if source is None else source,
        device=device,
    )


def recomputed(text: str) -> tuple[str, ...]:
    """What is recomputed, as a tuple: nothing for `none`."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    return () if names == ("none",) else names


@dataclass(frozen=True, slots=True)
class Arriving:
    """A tensor that a block is given."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool

    def make(self) -> Tensor:
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=META)

    def graded(self, requires_grad: bool) -> "Arriving":
        """The same, but for whether it wants a gradient."""
        return self if requires_grad == self.requires_grad else replace(self, requires_grad=requires_grad)


def arriving(tensor: Tensor) -> Arriving:
    return Arriving(tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype, tensor.requires_grad)


__all__ = ["DTYPES", "META", "Arriving", "Device", "Setup", "arriving", "recomputed", "setup_of"]
