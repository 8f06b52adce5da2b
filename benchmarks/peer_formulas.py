"""What other tools say of a model's memory and time: their own code where it is installed, else their published formulas."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# ---------------------------------------------------------------------------------------------------------------------
# accelerate estimate-memory
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accelerate:
    """What `accelerate estimate-memory` prints, in bytes."""

    weights: Mapping[str, float]
    """To load it, by dtype."""

    training: Mapping[str, float]
    """With Adam and a batch of one, by dtype."""


def accelerate_estimate(config: Any) -> Accelerate:
    """Its own functions, on the model that it makes of a config: `AutoModel`, so there is no language-model head.

    Source: `create_empty_model` and `gather_data` in accelerate/commands/estimate.py. Only asking the hub is left out.
    """
    import torch
    from accelerate import init_empty_weights
    from accelerate.commands.estimate import estimate_training_usage
    from accelerate.utils import calculate_maximum_sizes
    from transformers import AutoModel

    with init_empty_weights():
        model = AutoModel.from_config(config, dtype=torch.float32)
    total, _ = calculate_maximum_sizes(model)
    training = {dtype: max(estimate_training_usage(total, dtype).values()) for dtype in ("float32", "float16")}
    return Accelerate({"float32": total, "float16": total / 2}, training)


# ---------------------------------------------------------------------------------------------------------------------
# DeepSpeed's ZeRO estimators
# ---------------------------------------------------------------------------------------------------------------------


def zero2_bytes(parameters: float, cards: int = 1, *, offload: bool = False) -> int:
    """Bytes on each GPU for weights, gradients and optimizer states: activations are not counted.

    Source: `estimate_zero2_model_states_mem_needs` in deepspeed/runtime/zero/stage_1_and_2.py, DeepSpeed 0.19.8. The page
    https://deepspeed.readthedocs.io/en/latest/memory.html says 4 + 16 / GPUs bytes for a parameter; the code 2 + 18 / GPUs.
    """
    return int(2 * parameters) if offload else int(2 * parameters) + int(18 * parameters / cards)


def zero3_bytes(
    parameters: float, largest_layer: float, cards: int = 1, *, offload: bool = False, offload_weights: bool = False
) -> int:
    """The same for stage 3, which gathers one layer at a time.

    Source: `estimate_zero3_model_states_mem_needs` in deepspeed/runtime/zero/stage3.py, DeepSpeed 0.19.8.
    """
    layer = int(4 * largest_layer)
    if offload and offload_weights:
        return layer
    return layer + int((2 if offload else 18) * parameters / cards)


def largest_layer(model: Any) -> int:
    """Parameters of the largest module, those of the modules in it left out, as `model_to_params` of DeepSpeed has it."""
    return max(sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules())


# ---------------------------------------------------------------------------------------------------------------------
# LLM-Viewer
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of a layer, as LLM-Viewer sees it: operations, and bytes that it loads and stores."""

    operations: float
    weights: float = 0
    read: float = 0
    written: float = 0
    cache_read: float = 0
    cache_written: float = 0

    @property
    def moved(self) -> float:
        return self.weights + self.read + self.written + self.cache_read + self.cache_written

    def seconds(self, peak: float, bandwidth: float) -> float:
        """The roofline: whichever takes longer."""
        return max(self.operations / peak, self.moved / bandwidth)


@dataclass(frozen=True, slots=True)
class Viewed:
    """What LLM-Viewer says of one forward of a model."""

    layer: Mapping[str, Op]
    head: Op
    layers: int

    def total(self, figure: str) -> float:
        return self.layers * sum(getattr(op, figure) for op in self.layer.values())

    @property
    def weights(self) -> float:
        """Bytes: of the layers' linears alone."""
        return self.total("weights")

    @property
    def operations(self) -> float:
        return self.total("operations") + self.head.operations

    def seconds(self, peak: float, bandwidth: float) -> float:
        inside = sum(op.seconds(peak, bandwidth) for op in self.layer.values())
        return self.layers * inside + self.head.seconds(peak, bandwidth)


def viewed(sizes: Mapping[str, int], *, batch: int, sequence: int, decode: bool, item: int = 2) -> Viewed:
    """One prefill, or one token against a cache of `sequence`, without FlashAttention.

    Written afresh from Yuan et al. 2024, LLM Inference Unveiled: Survey and Roofline Model Insights (arXiv 2402.16363),
    section 2, and from what github.com/hahnyuan/LLM-Viewer computes (model_analyzer.py and configs/Llama.py, read at commits
    01b269d and 7c82f0a): every head is hidden_size / num_attention_heads wide, windows are not known, and embeddings,
    norms' weights and, in memory, the head are left out. Operations on numbers count too: 7 for each number of a norm,
    5 of a softmax, 2 of an activation, 1 of an addition, and 1 for each weight of the head and each sequence.
    """
    hidden, heads, inner = (sizes[name] for name in ("hidden_size", "num_attention_heads", "intermediate_size"))
    groups = sizes["num_key_value_heads"]
    new = 1 if decode else sequence
    rows = batch * new
    narrow = hidden * groups // heads
    one_head = hidden // heads

    def linear(wide: int, out: int, *, cached: bool = False) -> Op:
        stored = out * rows * item
        return Op(
            2 * wide * out * rows,
            weights=wide * out * item,
            read=wide * rows * item,
            written=0 if cached else stored,
            cache_written=stored if cached else 0,
        )

    def pointwise(operations: int, read: int = 1) -> Op:
        return Op(operations * rows * hidden, read=read * rows * hidden * item, written=rows * hidden * item)

    scores = batch * heads * new * sequence
    kept = batch * groups * sequence * one_head * item
    product, mixed = 2 * scores * one_head, batch * heads * new * one_head * item
    layer = {
        "q_proj": linear(hidden, hidden),
        "k_proj": linear(hidden, narrow, cached=True),
        "v_proj": linear(hidden, narrow, cached=True),
        "out_proj": linear(hidden, hidden),
        "gate_proj": linear(hidden, inner),
        "up_proj": linear(hidden, inner),
        "down_proj": linear(inner, hidden),
        # In a prefill it takes queries for as large as keys, and counts both as read from the cache.
        "qk_matmul": Op(
            product, read=mixed if decode else 0, written=scores * item, cache_read=kept if decode else 2 * kept
        ),
        "sv_matmul": Op(product, read=scores * item, written=mixed, cache_read=kept),
        "softmax": Op(5 * scores, read=scores * item, written=scores * item),
        **dict.fromkeys(("attn_norm", "mlp_norm"), pointwise(7)),
        **dict.fromkeys(("attn_add", "mlp_add"), pointwise(1)),
        "mlp_act": pointwise(2, read=2),
    }
    vocabulary = sizes["vocab_size"]
    head = Op(
        batch * hidden * vocabulary,
        weights=hidden * vocabulary * item,
        read=hidden * item,
        written=vocabulary * item,
    )
    return Viewed(layer, head, sizes["num_hidden_layers"])


def viewed_memory(sizes: Mapping[str, int], *, batch: int, sequence: int, item: int = 2) -> dict[str, float]:
    """Its memory of a prefill: the layers' linears, the cache, and all that one layer writes."""
    one = viewed(sizes, batch=batch, sequence=sequence, decode=False, item=item)
    weights, cache = one.weights, one.total("cache_written")
    written = sum(op.written for op in one.layer.values())
    return {"weights": weights, "cache": cache, "total": weights + cache + written}
