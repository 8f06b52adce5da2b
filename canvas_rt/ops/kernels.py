"""What each op computes, in PyTorch: run on meta for shapes and costs, on CPU or CUDA for numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from canvas_rt.ops.catalogue import ALIASES
from canvas_rt.ops.experts import grouped, one_by_one, route

Backend = Literal["shape", "sdpa", "eager", "math", "flash", "efficient", "cpu"]
"""How attention runs. `shape`: not at all, an empty result. `sdpa`: as PyTorch chooses. `eager`: as transformers'
`eager_attention_forward`. `math`: PyTorch's composite. `flash`, `efficient` and `cpu`: the fused kernels by name, which on
meta allocate what the real ones do."""


@dataclass(slots=True)
class Context:
    """What a run knows beside its values."""

    batch: int
    sequence: int
    """New tokens per sequence."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    """Of what flows between layers."""

    backend: Backend = "sdpa"
    past: int = 0
    """Tokens already in the cache."""

    grouped: bool = False
    """Whether experts run all in grouped products, whatever the backend."""

    exchange: "Callable[[Tensor], Tensor] | None" = None
    """Sends rows to the cards that have their experts, and back, where experts are on several."""

    linear: "Callable[[Tensor, Tensor, Tensor | None], Tensor] | None" = None
    """How a linear multiplies, where it is not `F.linear`: in 8 bits, dequantised, with an adapter."""

    scores: "Callable[[Tensor], None] | None" = None
    """Is given the weights of eager attention, which transformers' functions give back beside the result."""

    mask: "Callable[[Tensor, Tensor, int | None], Tensor] | None" = None
    """Gives the mask of visible pairs for queries and keys, where the model made it before."""


Values = Mapping[str, Tensor]
Kernel = Callable[[Values, Mapping[str, Any], Values, Context], tuple[Tensor, ...]]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def _squared_relu(x: Tensor) -> Tensor:
    return F.relu(x).square()


ACTIVATION_KERNELS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_new": lambda x: 0.5 * x * (1.0 + torch.tanh((2.0 / torch.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3.0)))),
    "relu": F.relu,
    "relu2": _squared_relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "mish": F.mish,
    "linear": lambda x: x,
}


def inverse_frequencies(attrs: Mapping[str, Any], positions: Tensor, device: torch.device) -> tuple[Tensor, float]:
    """The rotation speed of each pair of channels, [head_dim / 2], and the factor on cosines and sines.

    Computed by transformers' own table of scalings. On meta only the shape matters.
    """
    if device.type == "meta":
        return torch.empty(attrs["head_dim"] // 2, dtype=torch.float32, device=device), 1.0
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = dict(attrs["parameters"])
    kind = parameters["rope_type"]
    if kind == "default":
        exponents = torch.arange(0, attrs["head_dim"], 2, dtype=torch.float) / attrs["head_dim"]
        return (1.0 / parameters["rope_theta"] ** exponents).to(device), 1.0
    config = SimpleNamespace(
        rope_parameters=parameters,
        head_dim=attrs["head_dim"],
        hidden_size=attrs["head_dim"],
        num_attention_heads=1,
        max_position_embeddings=attrs["max_position_embeddings"],
        standardize_rope_params=lambda: None,
    )
    length = None
    if kind == "dynamic":  # the frequencies stretch once a sequence outgrows what the model was trained for
        length = max(int(positions.max()) + 1, attrs["max_position_embeddings"])
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, device, seq_len=length)
    return frequencies, factor


def _rotary_embedding(
    inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context
) -> tuple[Tensor, ...]:
    positions = inputs["position_ids"]
    dtype = context.dtype
    with torch.no_grad():
        frequencies, factor = inverse_frequencies(attrs, positions, positions.device)
        angles = positions[..., None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)


def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def _apply_rotary(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    cos, sin = inputs["cos"].unsqueeze(1), inputs["sin"].unsqueeze(1)
    q, k = inputs["q"], inputs["k"]
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


def attention_mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Which keys each query may see: those before it, and with a window only the nearest. [1, 1, queries, keys]"""
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)[None, :]
    visible = key <= query
    if window is not None:
        visible = visible & (key > query - window)
    return visible[None, None]


def repeat_heads(x: Tensor, groups: int) -> Tensor:
    """Each key/value head as often as query heads share it, as transformers' `repeat_kv` does."""
    if groups == 1:
        return x
    batch, heads, length, width = x.shape
    return x[:, :, None].expand(batch, heads, groups, length, width).reshape(batch, heads * groups, length, width)


def needs_mask(queries: int, keys: int, window: int | None) -> bool:
    """Whether plain causality does not say which keys are visible: transformers builds a mask then."""
    return window is not None and keys >= window


def _visible(q: Tensor, k: Tensor, window: int | None, context: Context) -> Tensor:
    if context.mask is not None:
        return context.mask(q, k, window)
    return attention_mask(q.shape[2], k.shape[2], window, q.device)


def _eager(q: Tensor, k: Tensor, v: Tensor, attrs: Mapping[str, Any], context: Context) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    keys, values = repeat_heads(k, groups), repeat_heads(v, groups)
    scores = torch.matmul(q, keys.transpose(2, 3)) * attrs["scale"]
    mask = _visible(q, k, attrs["window"], context)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype is torch.bool else scores + mask
    scores = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    if context.scores is not None:
        context.scores(scores)
    return torch.matmul(scores, values)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, attrs: Mapping[str, Any], context: Context) -> Tensor:
    # Where plain causality says it all, no mask is built: faster, and what transformers does too.
    window, scale = attrs["window"], attrs["scale"]
    if needs_mask(q.shape[2], k.shape[2], window):
        mask = _visible(q, k, window, context)
        return _masked(q, k, v, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask, scale=scale))
    grouped = k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(q, k, v, None, 0.0, q.shape[2] > 1, scale=scale, enable_gqa=grouped)


def _masked(q: Tensor, k: Tensor, v: Tensor, run: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Attention with a mask, as transformers' `sdpa_attention_forward` calls it: one query is packed with those that share
    its keys, of several queries each gets keys of its own."""
    batch, heads, queries, width = q.shape
    groups = heads // k.shape[1]
    if queries == 1 and groups > 1:
        return run(q.reshape(batch, k.shape[1], groups, width), k, v).reshape(batch, heads, 1, v.shape[-1])
    return run(q, repeat_heads(k, groups), repeat_heads(v, groups))


def _flash(q: Tensor, k: Tensor, v: Tensor, attrs: Mapping[str, Any], context: Context) -> Tensor:
    # The kernel serves grouped heads as they are, and windows without a mask.
    aten = torch.ops.aten
    return aten._scaled_dot_product_flash_attention(  # type: ignore[no-any-return]
        q, k, v, 0.0, q.shape[2] > 1, False, scale=attrs["scale"]
    )[0]


def _bias(q: Tensor, visible: Tensor) -> Tensor:
    """A mask as the numbers that PyTorch makes of it, once in each attention, and keeps for the backward."""
    zero, never = (torch.full((), value, dtype=q.dtype, device=q.device) for value in (0.0, float("-inf")))
    return torch.where(visible.expand(q.shape[0], 1, -1, -1), zero, never).expand(-1, q.shape[1], q.shape[2], -1)


def _efficient(q: Tensor, k: Tensor, v: Tensor, attrs: Mapping[str, Any], context: Context) -> Tensor:
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    keep = q.requires_grad or k.requires_grad or v.requires_grad

    def run(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        bias = None if visible is None else _bias(q, visible)
        causal = bias is None and q.shape[2] > 1
        return kernel(q, k, v, bias, keep, 0.0, causal, scale=attrs["scale"])[0]  # type: ignore[no-any-return]

    if needs_mask(q.shape[2], k.shape[2], attrs["window"]):
        visible = _visible(q, k, attrs["window"], context)
        return _masked(q, k, v, lambda q, k, v: run(q, k, v, visible))
    groups = q.shape[1] // k.shape[1]
    return run(q, repeat_heads(k, groups), repeat_heads(v, groups))


def _cpu(q: Tensor, k: Tensor, v: Tensor, attrs: Mapping[str, Any], context: Context) -> Tensor:
    kernel, scale = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, attrs["scale"]
    if needs_mask(q.shape[2], k.shape[2], attrs["window"]):
        visible = _visible(q, k, attrs["window"], context)
        return _masked(q, k, v, lambda q, k, v: kernel(q, k, v, attn_mask=_bias(q, visible), scale=scale)[0])
    return kernel(q, k, v, 0.0, q.shape[2] > 1, scale=scale)[0]  # type: ignore[no-any-return]


ATTENTION: Mapping[str, Callable[[Tensor, Tensor, Tensor, Mapping[str, Any], Context], Tensor]] = {
    "eager": _eager,
    "sdpa": _sdpa,
    "math": _sdpa,  # on meta PyTorch chooses the composite
    "flash": _flash,
    "efficient": _efficient,
    "cpu": _cpu,
}
"""Attention by backend: [batch, heads, queries, width] of q, and k and v with their own heads, to the same of v's width."""


def _attention(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    if context.backend == "shape":
        return (q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[-1]),)
    return (ATTENTION[context.backend](q, k, v, attrs, context).transpose(1, 2).contiguous(),)


def _linear(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    multiply = context.linear or F.linear
    return (multiply(inputs["x"], parameters["weight"], parameters.get("bias")),)


def _split_heads(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    x = inputs["x"]
    return (x.view(*x.shape[:2], attrs["heads"], attrs["head_dim"]).transpose(1, 2),)


def _position_ids(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    return ((torch.arange(context.sequence, device=context.device) + context.past).unsqueeze(0),)


def _router(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    x = inputs["x"]
    if context.backend == "shape":
        shape = (*x.shape[:-1], attrs["top_k"])
        return x.new_empty(shape, dtype=torch.int64), x.new_empty(shape)
    return route(x, parameters["weight"], attrs)


def _experts(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    x = inputs["x"]
    if context.backend == "shape":
        return (torch.empty_like(x),)
    # Where shapes must not depend on what is chosen, as on meta, experts run as a GPU's kernels do.
    together = context.grouped or context.backend in ("flash", "efficient")
    run = partial(grouped, exchange=context.exchange) if together else one_by_one
    tokens, indices, weights = (inputs[port].flatten(0, 1) for port in ("x", "indices", "weights"))
    act = ACTIVATION_KERNELS[ALIASES.get(attrs["fn"], attrs["fn"])]
    return (run(tokens, indices, weights, parameters["gate_up_proj"], parameters["down_proj"], act).view_as(x),)


def _simple(function: Callable[[Values, Mapping[str, Any], Values], Tensor]) -> Kernel:
    return lambda inputs, attrs, parameters, context: (function(inputs, attrs, parameters),)


KERNELS: Mapping[str, Kernel] = {
    "embedding": _simple(lambda i, a, p: F.embedding(i["ids"], p["weight"], a["padding_idx"])),
    "position_ids": _position_ids,
    "rotary_embedding": _rotary_embedding,
    "apply_rotary": _apply_rotary,
    "linear": _linear,
    "rms_norm": _simple(lambda i, a, p: rms_norm(i["x"], p["weight"], a["eps"])),
    "layer_norm": _simple(lambda i, a, p: F.layer_norm(i["x"], (a["size"],), p["weight"], p.get("bias"), a["eps"])),
    "split_heads": _split_heads,
    "merge_heads": _simple(lambda i, a, p: i["x"].reshape(*i["x"].shape[:2], -1)),
    "attention": _attention,
    "activation": _simple(lambda i, a, p: ACTIVATION_KERNELS[ALIASES.get(a["fn"], a["fn"])](i["x"])),
    "router": _router,
    "experts": _experts,
    "dropout": _simple(lambda i, a, p: i["x"]),
    "scale": _simple(lambda i, a, p: i["x"] * a["factor"]),
    "softmax": _simple(lambda i, a, p: i["x"].softmax(dim=-1)),
    "add": _simple(lambda i, a, p: i["a"] + i["b"]),
    "sub": _simple(lambda i, a, p: i["a"] - i["b"]),
    "mul": _simple(lambda i, a, p: i["a"] * i["b"]),
}
