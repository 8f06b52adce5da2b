"""Trace a transformers model into graphs, one per module, with attention, rotary embeddings and experts as single nodes."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

TRACED = "canvas"
"""The name under which our functions for attention, masks and experts are registered with transformers."""

_library: Any = torch.library.Library("canvas_rt", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("attention(Tensor q, Tensor k, Tensor v, float scale, int? window, float dropout) -> Tensor")
_library.define("rotary_embedding(Tensor position_ids, int head_dim) -> (Tensor, Tensor)")
_library.define("experts(Tensor x, Tensor indices, Tensor weights) -> Tensor")


def _attention_shape(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, dropout: float) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[-1])


def _rotary_shape(position_ids: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    shape = (*position_ids.shape, head_dim)
    dtype = torch.get_default_dtype()
    return tuple(torch.empty(shape, dtype=dtype, device=position_ids.device) for _ in range(2))  # type: ignore[return-value]


def _experts_shape(x: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    return torch.empty_like(x)


# The tracer asks only for shapes; numbers come from canvas_rt.ops.kernels.
_library.impl("attention", _attention_shape, "CompositeExplicitAutograd")
_library.impl("rotary_embedding", _rotary_shape, "CompositeExplicitAutograd")
_library.impl("experts", _experts_shape, "CompositeExplicitAutograd")


class TraceError(Exception):
    """The model cannot be traced as it is."""


def _traced_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    known = {"position_ids", "use_cache", "return_dict"}
    known |= {"output_attentions", "output_hidden_states", "output_router_logits"}
    effective = {name for name, given in kwargs.items() if given is not None and name not in known}
    if effective:
        raise TraceError(f"attention takes {', '.join(sorted(effective))}, which Canvas does not know")
    if not (is_causal if is_causal is not None else getattr(module, "is_causal", True)):
        raise TraceError("attention is not causal")
    # A model in eval mode passes dropout 0: the module knows what it passes in training.
    trained = float(getattr(module, "attention_dropout", 0.0) or 0.0)
    scale = float(scaling if scaling is not None else query.shape[-1] ** -0.5)
    return torch.ops.canvas_rt.attention(query, key, value, scale, sliding_window, trained), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Masks are no part of the graph: an attention node knows which keys each query may see."""


def _traced_experts(module: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Which tokens an expert serves depends on data: what the module computes is told by running it (`rules.py`)."""
    return torch.ops.canvas_rt.experts(hidden_states, top_k_index, top_k_weights)  # type: ignore[no-any-return]


def register_functions() -> None:
    """Tell transformers of our functions, through its public extension points."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(TRACED, _traced_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(TRACED, _no_mask)
    ALL_EXPERTS_FUNCTIONS.register(TRACED, _traced_experts)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the chatter of torch and transformers about small random models from the user."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def is_rotary(module: nn.Module) -> bool:
    """Whether a module holds rotary frequencies and knows its scaling."""
    return isinstance(getattr(module, "inv_freq", None), Tensor) and hasattr(module, "attention_scaling")


def rotary_width(module: nn.Module) -> int:
    """Channels of the heads that a rotary module turns: it keeps one frequency for each pair."""
    frequencies = module.inv_freq
    assert isinstance(frequencies, Tensor)
    return 2 * frequencies.shape[0]


@contextlib.contextmanager
def _rotary_as_one_node(model: nn.Module) -> Iterator[None]:
    """While tracing, rotary embeddings are one op: dynamic scalings branch on data, which no trace can follow."""
    replaced: list[tuple[nn.Module, Callable[..., Any] | None]] = []
    for module in model.modules():
        if is_rotary(module):
            width = rotary_width(module)
            replaced.append((module, module.__dict__.get("forward")))

            def forward(x: Tensor, position_ids: Tensor, width: int = width) -> Any:
                return torch.ops.canvas_rt.rotary_embedding(position_ids, width)

            module.forward = forward
    try:
        yield
    finally:
        for module, original in replaced:
            if original is None:
                del module.forward
            else:
                module.forward = original


def trace(model: nn.Module, batch: int, sequence: int) -> nn.Module:
    """The model as `torch.export` sees it, unflattened into its module hierarchy: every module has its own graph.

    Raises `TraceError` with torch's own reason where the model's control flow depends on data.
    """
    ids = torch.zeros(batch, sequence, dtype=torch.long, device=next(model.parameters()).device)
    previous = torch.get_default_dtype()
    try:
        with quiet(), torch.no_grad(), _rotary_as_one_node(model):
            torch.set_default_dtype(next(model.parameters()).dtype)
            program = torch.export.export(model, (), kwargs={"input_ids": ids, "use_cache": False}, strict=False)
            return torch.export.unflatten(program)
    except TraceError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise TraceError(f"torch.export: {reason[0][:300]}") from error
    finally:
        torch.set_default_dtype(previous)
