"""How a model is run: everything that its cost depends on beside the document and the card. Needs no torch."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from math import prod
from typing import Any, Literal, cast

from canvas_rt.diagnostics import Diagnostic
from canvas_rt.errors import CanvasError, suggest

Mode = Literal["train", "prefill", "decode", "chat"]

MODES = {
    "train": "one optimizer step: forward, loss, backward, update",
    "prefill": "read a prompt, fill the cache, compute logits of the last token",
    "decode": "add one token to a cache that holds `sequence` tokens",
    "chat": "read a prompt of `sequence` tokens, then generate `generate` tokens one by one",
}

DTYPES = {
    "fp32": "everything in 32 bits",
    "bf16": "everything in bfloat16",
    "fp16": "everything in IEEE half precision",
    "mixed": "fp32 weights, gradients and moments; autocast runs matrix products in bfloat16",
    "fp8": "bf16 weights; linears multiply in 8 bits, scaled tensor by tensor, as torchao's float8 training does",
}
ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "mixed": 4, "fp8": 2}
"""Bytes of one learned number."""

WEIGHTS = {
    "same": "as `dtype` says",
    "int8": "8-bit integers with a 16-bit scale for each output channel",
    "int4": "4-bit integers with a 16-bit scale and a 4-bit zero point for each 128 (as AWQ and GPTQ have it)",
    "nf4": "4-bit normal floats, blocks of 64, double quantisation (as bitsandbytes and QLoRA have it)",
    "fp8": "8-bit floats (e4m3) with a 32-bit scale for each output channel",
}

ATTENTION = {
    "auto": "what scaled_dot_product_attention chooses on a CUDA card for these shapes and this dtype",
    "flash": "FlashAttention 2; grouped heads and windows as they are",
    "efficient": "PyTorch's memory-efficient kernel; grouped heads are repeated, windows are a mask",
    "math": "PyTorch's composite of matrix products and a softmax",
    "eager": "transformers' eager_attention_forward",
    "flex": "flex_attention, compiled; windows by its block mask",
}

IMPLEMENTATIONS = ("fused", "foreach", "for-loop")
OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "adamw": ("fused", "foreach", "for-loop"),
    "adam": ("fused", "foreach", "for-loop"),
    "sgd": ("fused", "foreach", "for-loop"),
    "sgd-momentum": ("fused", "foreach", "for-loop"),
    "adafactor": ("foreach", "for-loop"),
    "muon": ("for-loop",),
    "lion": ("for-loop",),
    "adamw-8bit": ("fused",),
}
"""Each optimizer, and the implementations that there are of it, the usual one first."""

LOSSES = {
    "plain": "logits of all tokens at once, in fp32",
    "chunked": "the head and cross-entropy in turns over `loss_chunks` parts of the tokens, recomputed in the backward",
    "fused": "head and cross-entropy in one (Liger): gradients are made in the forward, logits never all at once",
}

CACHES = {"same": "as `dtype` says", "fp8": "8-bit floats", "int8": "8-bit integers", "int4": "4-bit integers"}


@dataclass(frozen=True, slots=True)
class Scenario:
    """How the model is run. Fields without an effect in a mode are ignored there."""

    mode: str = field(default="train", metadata={"help": "what it does", "choices": MODES})
    batch: int = field(default=1, metadata={"help": "sequences at a time, on each rank that has its own"})
    sequence: int = field(
        default=4096, metadata={"help": "tokens of a sequence; in decode, those that the cache holds already"}
    )
    dtype: str = field(default="bf16", metadata={"help": "numbers of weights and activations", "choices": DTYPES})
    attention: str = field(default="auto", metadata={"help": "the kernel of attention", "choices": ATTENTION})
    weights: str = field(
        default="same",
        metadata={
            "help": "storage of the stacks' linear weights: in training they are frozen then",
            "choices": WEIGHTS,
        },
    )

    optimizer: str = field(default="adamw", metadata={"help": "in training", "choices": OPTIMIZERS})
    implementation: str = field(
        default="auto",
        metadata={
            "help": "of the optimizer; auto takes the fused one where there is one",
            "choices": ("auto", *IMPLEMENTATIONS),
        },
    )
    accumulation: int = field(default=1, metadata={"help": "forwards and backwards of a step, each with its batch"})
    recompute: str = field(
        default="none",
        metadata={
            "help": "what the backward computes again: none, full (each layer), selective (all but matrix products and"
            " attention), or names of blocks, nodes or ops within a layer, as in 'mlp,rms_norm'"
        },
    )
    loss: str = field(default="plain", metadata={"help": "how the loss is computed", "choices": LOSSES})
    loss_chunks: int = field(default=8, metadata={"help": "parts of a chunked loss"})
    lora: int = field(default=0, metadata={"help": "rank of the adapters; all else is frozen then. 0: no adapters"})
    lora_targets: tuple[str, ...] = field(
        default=(), metadata={"help": "linears that get adapters: ids or paths; all in the stacks where none are named"}
    )
    frozen: tuple[str, ...] = field(
        default=(),
        metadata={"help": "what is not trained: ids or paths, as in model.embed_tokens or model.layers.0-15"},
    )

    generate: int = field(default=256, metadata={"help": "tokens that a chat generates"})
    cache: str = field(default="same", metadata={"help": "numbers of keys and values in the cache", "choices": CACHES})
    page: int = field(
        default=0,
        metadata={
            "help": "tokens of a page of the cache, as vLLM has it; 0: transformers' cache, which is copied as it grows"
        },
    )

    data: int = field(default=1, metadata={"help": "FSDP2: ranks that share parameters, each with its own batch"})
    reshard: bool = field(default=True, metadata={"help": "FSDP2: let go of a layer's parameters after its forward"})
    tensor: int = field(default=1, metadata={"help": "tensor parallel ranks"})
    context: int = field(default=1, metadata={"help": "context parallel ranks: each has a part of the sequence"})
    pipeline: int = field(default=1, metadata={"help": "pipeline stages, in the 1F1B schedule"})
    microbatches: int = field(default=0, metadata={"help": "of a pipeline's step; 0: four for each stage"})
    expert: int = field(default=1, metadata={"help": "expert parallel ranks: each holds a part of the experts"})

    expandable: bool = field(
        default=False,
        metadata={"help": "the allocator's segments grow: PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"},
    )
    tokens: int = field(default=0, metadata={"help": "tokens to process in all, for GPU-hours and energy"})

    @property
    def train(self) -> bool:
        return self.mode == "train"

    @property
    def rate(self) -> str:
        """The numbers that most products multiply, as a card's peaks are named."""
        return "bf16" if self.dtype == "mixed" else self.dtype

    @property
    def chosen_implementation(self) -> str:
        """`implementation`, with `auto` resolved."""
        return OPTIMIZERS[self.optimizer][0] if self.implementation == "auto" else self.implementation

    @property
    def cards(self) -> int:
        """How many cards the scenario takes."""
        return prod((self.data, self.tensor, self.context, self.pipeline))

    @property
    def stages(self) -> int:
        """Microbatches of a pipeline's step."""
        return self.microbatches or 4 * self.pipeline

    def but(self, **changes: Any) -> "Scenario":
        """The same with some fields changed. Raises `CanvasError` for a field that there is not."""
        _known_fields(changes)
        return replace(self, **changes)


def scenario_of(scenario: Scenario | None, changes: dict[str, Any]) -> Scenario:
    """A scenario with fields given by name, lists as tuples."""
    changes = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    return (scenario or Scenario()).but(**changes)


def _known_fields(names: dict[str, Any]) -> None:
    known = [item.name for item in fields(Scenario)]
    for name in names:
        if name not in known:
            raise CanvasError(f"a scenario has no '{name}'", path=name, hint=suggest(name, known))


# ---------------------------------------------------------------------------------------------------------------------
# What makes no sense
# ---------------------------------------------------------------------------------------------------------------------


def problems(scenario: Scenario) -> tuple[Diagnostic, ...]:
    """All that is wrong with a scenario in itself: whether a model can run in it is told by what runs it."""
    return (*_choices(scenario), *_numbers(scenario), *_combinations(scenario))


def _choices(scenario: Scenario) -> Iterator[Diagnostic]:
    for item in fields(Scenario):
        choices = item.metadata.get("choices")
        value = getattr(scenario, item.name)
        if choices is not None and value not in choices:
            yield Diagnostic("error", item.name, f"unknown {item.name} '{value}'", suggest(str(value), choices))


_LEAST = {"page": 0, "lora": 0, "microbatches": 0, "tokens": 0}


def _numbers(scenario: Scenario) -> Iterator[Diagnostic]:
    for item in fields(Scenario):
        value = getattr(scenario, item.name)
        if item.type is bool or item.type == "bool":
            if not isinstance(value, bool):
                yield Diagnostic("error", item.name, f"must be true or false, not {value!r}", "Try true.")
            continue
        if item.type not in (int, "int"):
            continue
        least = _LEAST.get(item.name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            message = f"must be a whole number of at least {least}, not {value}"
            yield Diagnostic("error", item.name, message, f"Try {item.name} {max(1, least)}.")
        elif value > 2**48:
            yield Diagnostic("error", item.name, f"{value} is more than any run has", f"At most {2**48}.")


def _combinations(scenario: Scenario) -> Iterator[Diagnostic]:
    if scenario.optimizer not in OPTIMIZERS or scenario.dtype not in DTYPES:
        return
    if scenario.train:
        yield from _training(scenario)
    else:
        yield from _inference(scenario)


def _training(scenario: Scenario) -> Iterator[Diagnostic]:
    name, implementation, dtype = scenario.optimizer, scenario.implementation, scenario.dtype
    offered = OPTIMIZERS[name]
    if implementation in IMPLEMENTATIONS and implementation not in offered:
        yield Diagnostic(
            "error", "implementation", f"there is no {implementation} {name}", f"Try {' or '.join(offered)}."
        )
    if name in ("adam", "adamw", "adamw-8bit") and dtype == "fp16":
        message = (
            f"{name} divides by the root of the second moment plus eps = 1e-8, which is 0 in fp16: updates overflow"
        )
        yield Diagnostic("warning", "optimizer", message, "Use dtype mixed or bf16, or another optimizer.")
    if scenario.weights != "same" and not scenario.lora:
        message = f"{scenario.weights} weights have no gradient: of the stacks' linears nothing is trained"
        yield Diagnostic(
            "warning", "weights", message, "Add adapters: lora 16. Or train in dtype fp8, on bf16 weights."
        )
    if scenario.cache != "same":
        yield Diagnostic("error", "cache", "training keeps no cache", "Choose mode prefill, decode or chat.")
    if scenario.loss == "fused" and dtype == "fp8":
        yield Diagnostic("error", "loss", "the fused loss multiplies in 16 or 32 bits", "Try loss chunked.")


def _inference(scenario: Scenario) -> Iterator[Diagnostic]:
    if scenario.dtype in ("mixed", "fp8"):
        hint = "Use bf16, and weights fp8 for 8-bit weights." if scenario.dtype == "fp8" else "Use bf16 or fp16."
        yield Diagnostic("error", "dtype", f"{scenario.dtype} is a way to train", hint)
    if scenario.lora:
        yield Diagnostic(
            "error", "lora", "adapters are merged before a model is served", "Leave lora out, or choose mode train."
        )


def require(scenario: Scenario) -> tuple[Diagnostic, ...]:
    """Raise `CanvasError` for a scenario that cannot be, listing all that is wrong; give its warnings."""
    found = problems(scenario)
    errors = [flaw for flaw in found if flaw.severity == "error"]
    if errors:
        first, *rest = errors
        more = "".join(f"\nalso {flaw.path}: {flaw.message}. {flaw.hint}" for flaw in rest)
        raise CanvasError(first.message + more, path=first.path, hint=first.hint)
    return found


def as_mode(scenario: Scenario) -> Mode:
    return cast(Mode, scenario.mode)
