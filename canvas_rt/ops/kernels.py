"""What each op computes, in PyTorch: run on meta for shapes and costs, on CPU or CUDA for numbers."""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from canvas_rt.ir.document import Node
from canvas_rt.ir.expressions import resolve
from canvas_rt.ops.activations import ACTIVATION_KERNELS
from canvas_rt.ops.catalogue import complete
from canvas_rt.ops.choices import ALIASES
from canvas_rt.ops.experts import grouped, held, one_by_one, route
from canvas_rt.ops.functions import RUN_TIME
from canvas_rt.ops.norms import gated_rms_norm, layer_norm, rms_norm
from canvas_rt.ops.rotary import rotary_tables, rotate
from canvas_rt.ops.scores import alibi, relative_bias, scores_of, shares_of
from canvas_rt.ops.sinusoids import sinusoids

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

    source: int = 0
    """What an encoder reads of each sequence, if there is one."""

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

    drop: "Callable[[Tensor, float], Tensor] | None" = None
    """Zeroes a share of values, as training does."""

    untold: list[str] = field(default_factory=list)
    """Modules kept whole whose operations depend on numbers, which meta has not: their results are only shapes."""

    def dropped(self, x: Tensor, share: float) -> Tensor:
        """A value of which a share is zeroed, where anything is."""
        return x if self.drop is None or not share else self.drop(x, share)

    def settings(self, node: Node, environment: Mapping[str, Any]) -> Mapping[str, Any]:
        """A node's settings as values: what its expressions name is the model's, or what this run is given."""
        run_time = dict(zip(RUN_TIME, (self.batch, self.sequence, self.source), strict=True))
        values: Mapping[str, Any] = resolve(complete(node), {**environment, **run_time})
        return values


Values = Mapping[str, Tensor]
Kernel = Callable[[Values, Mapping[str, Any], Values, Context], tuple[Tensor, ...]]


def _rotary_embedding(
    inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context
) -> tuple[Tensor, ...]:
    return rotary_tables(inputs["position_ids"], attrs, context.dtype)


def _apply_rotary(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    return tuple(rotate(inputs[port], inputs["cos"], inputs["sin"], attrs) for port in ("q", "k"))


def attention_mask(
    queries: int,
    keys: int,
    window: int | None,
    device: torch.device,
    *,
    causal: bool = True,
    chunk: int | None = None,
) -> Tensor:
    """Which keys each query may see: those before it, with a window the nearest, with chunks those of its own.

    [1, 1, queries, keys]
    """
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)[None, :]
    visible = key <= query if causal else torch.ones(queries, keys, dtype=torch.bool, device=device)
    if window is not None:
        visible = visible & (key > query - window)
        if not causal:
            visible = visible & (key < query + window)
    if chunk is not None:
        visible = visible & (key // chunk == query // chunk)
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


def span_of(attrs: Mapping[str, Any]) -> int | None:
    """How many keys a query sees at most; None for all."""
    span: int | None = attrs["window"] if attrs["window"] is not None else attrs["chunk"]
    return span


def _visible(q: Tensor, k: Tensor, attrs: Mapping[str, Any], context: Context) -> Tensor:
    if context.mask is not None:
        return context.mask(q, k, span_of(attrs))
    causal, chunk = attrs["causal"], attrs["chunk"]
    return attention_mask(q.shape[2], k.shape[2], attrs["window"], q.device, causal=causal, chunk=chunk)


def _probabilities(scores: Tensor, sinks: Tensor | None, q: Tensor, precision: str) -> Tensor:
    """Scores as shares of one. A sink is a score to nothing: each head has one, and it takes a share too."""
    if sinks is None:
        return shares_of(scores, q.dtype, precision)
    column = sinks.reshape(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[-2], -1)
    scores = torch.cat([scores, column], dim=-1)
    if precision == "scores":  # wide enough as they are
        return shares_of(scores, q.dtype, precision)[..., :-1]
    scores = scores - scores.max(dim=-1, keepdim=True).values
    return F.softmax(scores, dim=-1, dtype=scores.dtype)[..., :-1].to(q.dtype)


def _eager(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attrs: Mapping[str, Any],
    context: Context,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    groups = q.shape[1] // k.shape[1] if attrs["sharing"] == "repeated" else 1
    keys, values = repeat_heads(k, groups), repeat_heads(v, groups)
    scores = scores_of(q, keys, bias, attrs)
    if attrs["softcap"] is not None:
        scores = torch.tanh(scores / attrs["softcap"]) * attrs["softcap"]
    if attrs["causal"] or span_of(attrs) is not None:
        mask = _visible(q, k, attrs, context)
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype is torch.bool else scores + mask
    scores = context.dropped(_probabilities(scores, sinks, q, attrs["precision"]), attrs["dropout"])
    if context.scores is not None:
        context.scores(scores)
    return torch.matmul(scores, values)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, attrs: Mapping[str, Any], context: Context) -> Tensor:
    # Where plain causality says it all, no mask is built: faster, and what transformers does too.
    scale = attrs["scale"]
    if needs_mask(q.shape[2], k.shape[2], span_of(attrs)):
        mask = _visible(q, k, attrs, context)
        return _masked(q, k, v, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask, scale=scale))
    grouped = k.shape[1] != q.shape[1] and attrs["sharing"] == "repeated"
    causal = attrs["causal"] and q.shape[2] > 1
    return F.scaled_dot_product_attention(q, k, v, None, 0.0, causal, scale=scale, enable_gqa=grouped)


def _masked(q: Tensor, k: Tensor, v: Tensor, run: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Attention with a mask, as transformers' `sdpa_attention_forward` calls it: one query is packed with those that share
    its keys, of several queries each gets keys of its own."""
    batch, heads, queries, width = q.shape
    groups = heads // k.shape[1]
    if queries == 1 and groups > 1:
        return run(q.reshape(batch, k.shape[1], groups, width), k, v).reshape(batch, heads, 1, v.shape[-1])
    return run(q, repeat_heads(k, groups), repeat_heads(v, groups))


def _flash(q: Tensor, k: Tensor, v: Tensor, attrs: Mapping[str, Any], context: Context) -> Tensor:
    # The kernel serves grouped heads as they are, and windows without a mask. Narrower values, as in latent attention, are
    # filled up with zeros, as those who call it do.
    width = v.shape[-1]
    if width < q.shape[-1]:
        v = F.pad(v, (0, q.shape[-1] - width))
    out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
        q, k, v, 0.0, attrs["causal"] and q.shape[2] > 1, False, scale=attrs["scale"]
    )[0]
    return out[..., :width] if width < q.shape[-1] else out


def _bias(q: Tensor, visible: Tensor) -> Tensor:
    """A mask as the numbers that PyTorch makes of it, once in each attention, and keeps for the backward."""
    zero, never = (torch.full((), value, dtype=q.dtype, device=q.device) for value in (0.0, float("-inf")))
    return torch.where(visible.expand(q.shape[0], 1, -1, -1), zero, never).expand(-1, q.shape[1], q.shape[2], -1)


def _efficient(q: Tensor, k: Tensor, v: Tensor, attrs: Mapping[str, Any], context: Context) -> Tensor:
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    keep = q.requires_grad or k.requires_grad or v.requires_grad

    def run(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        bias = None if visible is None else _bias(q, visible)
        causal = bias is None and attrs["causal"] and q.shape[2] > 1
        return kernel(q, k, v, bias, keep, 0.0, causal, scale=attrs["scale"])[0]  # type: ignore[no-any-return]

    if needs_mask(q.shape[2], k.shape[2], span_of(attrs)):
        visible = _visible(q, k, attrs, context)
        return _masked(q, k, v, lambda q, k, v: run(q, k, v, visible))
    groups = q.shape[1] // k.shape[1]
    return run(q, repeat_heads(k, groups), repeat_heads(v, groups))


def _cpu(q: Tensor, k: Tensor, v: Tensor, attrs: Mapping[str, Any], context: Context) -> Tensor:
    kernel, scale = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, attrs["scale"]
    if needs_mask(q.shape[2], k.shape[2], span_of(attrs)):
        visible = _visible(q, k, attrs, context)
        return _masked(q, k, v, lambda q, k, v: kernel(q, k, v, attn_mask=_bias(q, visible), scale=scale)[0])
    return kernel(q, k, v, 0.0, attrs["causal"] and q.shape[2] > 1, scale=scale)[0]  # type: ignore[no-any-return]


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
    if inputs.keys() & {"sinks", "bias"} or attrs["softcap"] is not None:  # PyTorch's fused kernels know of none
        others = (inputs.get(port) for port in ("sinks", "bias"))
        return (_eager(q, k, v, attrs, context, *others).transpose(1, 2).contiguous(),)
    return (ATTENTION[context.backend](q, k, v, attrs, context).transpose(1, 2).contiguous(),)


def _alibi(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    return (alibi(context.past + context.sequence, attrs, context.dtype, context.device),)


def _relative_bias(
    inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context
) -> tuple[Tensor, ...]:
    positions = inputs["position_ids"]
    return (relative_bias(positions, context.past + positions.shape[-1], parameters["weight"], attrs),)


def _linear(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    x, weight, bias = inputs["x"], parameters["weight"], parameters.get("bias")
    if attrs["transposed"]:
        if context.linear is None and bias is not None:  # as transformers' Conv1D multiplies
            return (torch.addmm(bias, x.view(-1, x.shape[-1]), weight).view(*x.shape[:-1], -1),)
        weight = weight.t()
    return ((context.linear or F.linear)(x, weight, bias),)


def _embedding(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    found = F.embedding(inputs["ids"], parameters["weight"], attrs["padding_idx"])
    if attrs["factor"] == 1:
        return (found,)
    return (found * (rounded(attrs["factor"], found.dtype) if attrs["rounded"] else attrs["factor"]),)


def rounded(number: float, dtype: torch.dtype) -> float:
    """The nearest number that a dtype has. Makes no tensor, so that a run that is measured allocates none."""
    if dtype is torch.bfloat16:
        bits = int.from_bytes(struct.pack("<f", number), "little")
        bits += 0x7FFF + (bits >> 16 & 1)  # to the nearest, ties to even
        return float(struct.unpack("<f", (bits & 0xFFFF0000).to_bytes(4, "little"))[0])
    kind = {torch.float16: "<e", torch.float32: "<f"}.get(dtype, "<d")
    return float(struct.unpack(kind, struct.pack(kind, number))[0])


def _split_heads(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    x = inputs["x"]
    return (x.view(*x.shape[:2], attrs["heads"], attrs["head_dim"]).transpose(1, 2),)


def _position_ids(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    if attrs["source"]:
        return (torch.arange(context.source or context.sequence, device=context.device).unsqueeze(0),)
    return ((torch.arange(context.sequence, device=context.device) + context.past).unsqueeze(0),)


def _padded_positions(
    inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context
) -> tuple[Tensor, ...]:
    return (padded_positions(inputs["ids"], context.past, attrs["padding_idx"]),)


def padded_positions(ids: Tensor, past: int, padding_idx: int) -> Tensor:
    """The number of each token among those of its sequence that are no padding, after `padding_idx`. [batch, seq]"""
    real = ids.ne(padding_idx).int()
    return ((real.cumsum(dim=1).type_as(real) + past) * real).long() + padding_idx


def _router(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    x = inputs["x"]
    if context.backend == "shape":
        shape = (*x.shape[:-1], attrs["top_k"])
        return x.new_empty(shape, dtype=torch.int64), x.new_empty(shape)
    others = (parameters.get(name) for name in ("bias", "e_score_correction_bias"))
    return route(x, parameters["weight"], attrs, *others)


def _experts(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    x = inputs["x"]
    if context.backend == "shape":
        return (torch.empty_like(x),)
    # Where shapes must not depend on what is chosen, as on meta, experts run as a GPU's kernels do.
    together = context.grouped or context.backend in ("flash", "efficient")
    run = partial(grouped, exchange=context.exchange) if together else one_by_one
    tokens, indices, weights = (inputs[port].flatten(0, -2) for port in ("x", "indices", "weights"))
    act = ACTIVATION_KERNELS[ALIASES.get(attrs["fn"], attrs["fn"])]
    return (run(tokens, indices, weights, held(parameters, attrs, act)).view_as(x),)


def _simple(function: Callable[[Values, Mapping[str, Any], Values], Tensor]) -> Kernel:
    return lambda inputs, attrs, parameters, context: (function(inputs, attrs, parameters),)


KERNELS: Mapping[str, Kernel] = {
    "embedding": _embedding,
    "position_embedding": _simple(lambda i, a, p: F.embedding(i["position_ids"] + a["offset"], p["weight"])),
    "position_ids": _position_ids,
    "padded_positions": _padded_positions,
    "sinusoid": lambda i, a, p, context: (sinusoids(i["position_ids"], a, context.dtype),),
    "rotary_embedding": _rotary_embedding,
    "apply_rotary": _apply_rotary,
    "rotate": _simple(lambda i, a, p: rotate(i["x"], i["cos"], i["sin"], a)),
    "linear": _linear,
    "rms_norm": _simple(lambda i, a, p: rms_norm(i["x"], p.get("weight"), a)),
    "gated_rms_norm": _simple(lambda i, a, p: gated_rms_norm(i["x"], i["gate"], p["weight"], a)),
    "layer_norm": _simple(lambda i, a, p: layer_norm(i["x"], p.get("weight"), p.get("bias"), a)),
    "split_heads": _split_heads,
    "view_heads": _simple(lambda i, a, p: i["x"].view(*i["x"].shape[:2], a["heads"], a["head_dim"])),
    "heads_first": _simple(lambda i, a, p: i["x"].transpose(1, 2)),
    "merge_heads": _simple(lambda i, a, p: i["x"].reshape(*i["x"].shape[:2], -1)),
    "attention": _attention,
    "alibi": _alibi,
    "relative_bias": _relative_bias,
    "activation": _simple(lambda i, a, p: ACTIVATION_KERNELS[ALIASES.get(a["fn"], a["fn"])](i["x"])),
    "router": _router,
    "experts": _experts,
    "dropout": lambda inputs, attrs, parameters, context: (context.dropped(inputs["x"], attrs["p"]),),
    "scale": _simple(lambda i, a, p: i["x"] * a["factor"]),
    "softmax": _simple(lambda i, a, p: i["x"].softmax(dim=-1)),
    "add": _simple(lambda i, a, p: i["a"] + i["b"]),
    "sub": _simple(lambda i, a, p: i["a"] - i["b"]),
    "mul": _simple(lambda i, a, p: i["a"] * i["b"]),
}
