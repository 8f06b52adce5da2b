"""Mixture of experts: what a router and its experts compute, one expert after the other or all in grouped products."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.utils.flop_counter import register_flop_formula

from canvas_rt.ops.catalogue import VARIANTS

_library: Any = torch.library.Library("canvas_rt", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("grouped_mm(Tensor x, Tensor weight, Tensor ends) -> Tensor")
_library.define("grouped_mm_weight(Tensor gradient, Tensor x, Tensor ends) -> Tensor")


def route(
    x: Tensor, weight: Tensor, attrs: Mapping[str, Any], bias: Tensor | None = None, correction: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """For each token the experts that serve it, best first unless unsorted, and their weights: both [batch, seq, top_k].

    A correction sways the choice and leaves the weights as they are. Source: DeepSeek-AI 2024, DeepSeek-V3 (arXiv:2412.19437).
    """
    attrs = {**VARIANTS["router"], **attrs}
    logits = _logits(x, weight, bias, attrs)
    scores = logits if attrs["after_top_k"] else _score(logits, attrs)
    if correction is None and attrs["groups"] is None:
        weights, indices = scores.topk(attrs["top_k"], dim=-1, sorted=attrs["sorted"])
    else:
        choice = scores if correction is None else scores + correction
        choice = choice if attrs["groups"] is None else _best_groups(choice, attrs)
        weights, indices = choice.topk(attrs["top_k"], dim=-1, sorted=attrs["sorted"])
        if correction is not None or attrs["outside"] != "zero":
            weights = scores.gather(-1, indices)
    weights = _score(weights, attrs) if attrs["after_top_k"] else weights
    if attrs["normalise"]:
        total = weights.sum(dim=-1, keepdim=True)
        weights = weights / (total + attrs["norm_eps"] if attrs["norm_eps"] else total)
    if attrs["factor"] != 1:
        weights = weights * attrs["factor"]
    return indices, weights if attrs["wide_weights"] else weights.to(x.dtype)


def _logits(x: Tensor, weight: Tensor, bias: Tensor | None, attrs: Mapping[str, Any]) -> Tensor:
    """Each token's affinity to each expert. Compared in fp32 as a rule: in bf16 experts would tie."""
    if attrs["precision"] == "logits":
        logits = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    else:
        logits = F.linear(x, weight, bias)
    if attrs["precision"] == "scores" and (attrs["scoring"] != "softmax" or attrs["after_top_k"] or attrs["softcap"]):
        logits = logits.float()  # a softmax over all casts by itself
    return logits if attrs["softcap"] is None else torch.tanh(logits / attrs["softcap"]) * attrs["softcap"]


def _score(logits: Tensor, attrs: Mapping[str, Any]) -> Tensor:
    if attrs["scoring"] == "softmax":
        return logits.softmax(-1, dtype=None if attrs["precision"] == "model" else torch.float32)
    return logits.sigmoid() if attrs["scoring"] == "sigmoid" else F.softplus(logits).sqrt()


def _best_groups(choice: Tensor, attrs: Mapping[str, Any]) -> Tensor:
    """Experts outside the best groups are out of the question. A group counts as much as its best expert, or its best two."""
    groups = choice.view(*choice.shape[:-1], attrs["groups"], -1)
    best = groups.topk(2, dim=-1)[0].sum(dim=-1) if attrs["group_score"] == "best_two" else groups.max(dim=-1).values
    kept = best.topk(attrs["top_groups"], dim=-1, sorted=attrs["sorted"])[1]
    chosen = torch.zeros_like(best).scatter_(-1, kept, 1)
    outside = 0.0 if attrs["outside"] == "zero" else float("-inf")
    return groups.masked_fill(~chosen.unsqueeze(-1).bool(), outside).flatten(-2)


@dataclass(frozen=True)
class Held:
    """The weights of all experts, and what each does between its two products."""

    up: Tensor
    """[experts, out, in], or [experts, in, out] where `transposed`: gate and up projection together, or the up projection."""

    down: Tensor
    between: Callable[[Tensor], Tensor]
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None
    transposed: bool = False
    sum_dtype: str = "model"
    """In which dtype what experts give is summed: the model's, that of the weights, or fp32."""


def held(parameters: Mapping[str, Tensor], attrs: Mapping[str, Any], act: Callable[[Tensor], Tensor]) -> Held:
    """A node's experts."""
    attrs = {**VARIANTS["experts"], **attrs}
    up = "gate_up_proj" if attrs["gated"] else "up_proj"
    up_bias, down_bias = (parameters[f"{name}_bias"] if attrs["bias"] else None for name in (up, "down_proj"))
    between = _gate(attrs, act) if attrs["gated"] else act
    return Held(
        parameters[up], parameters["down_proj"], between, up_bias, down_bias, attrs["transposed"], attrs["sum_dtype"]
    )


def _gate(attrs: Mapping[str, Any], act: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What becomes of gate and up projection."""
    limit, alpha = attrs["limit"], attrs["alpha"]

    def between(states: Tensor) -> Tensor:
        gate, up = (states[..., ::2], states[..., 1::2]) if attrs["interleaved"] else states.chunk(2, dim=-1)
        if limit is not None:
            gate, up = gate.clamp(max=limit), up.clamp(min=-limit, max=limit)
        gated = act(gate) if alpha is None else gate * torch.sigmoid(gate * alpha)
        return gated * (up + 1 if attrs["shifted"] else up)

    return between


def one_by_one(x: Tensor, indices: Tensor, weights: Tensor, experts: Held) -> Tensor:
    """Experts in turn, each on the tokens that chose it: as the modules of transformers and ours do by themselves.

    x: [tokens, size]; indices and weights: [tokens, top_k].
    """
    out = torch.zeros_like(x, dtype={"weights": weights.dtype, "fp32": torch.float32}.get(experts.sum_dtype))
    chosen = indices.T  # [top_k, tokens]
    for expert in torch.unique(indices):
        place, token = torch.where(chosen == expert)
        states = experts.between(_project(x[token], experts.up, experts.up_bias, expert, experts.transposed))
        states = _project(states, experts.down, experts.down_bias, expert, experts.transposed)
        out.index_add_(0, token, (states * weights[token, place, None]).to(out.dtype))
    return out.to(x.dtype)


def _project(x: Tensor, weight: Tensor, bias: Tensor | None, expert: Tensor, transposed: bool) -> Tensor:
    own = None if bias is None else bias[expert]
    if not transposed:
        return F.linear(x, weight[expert], own)
    product = x @ weight[expert]
    return product if own is None else product + own


def grouped(
    x: Tensor,
    indices: Tensor,
    weights: Tensor,
    experts: Held,
    exchange: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """All experts in two grouped products: what `grouped_mm_experts_forward` of transformers runs on a GPU.

    Its shapes follow from those of its inputs, so on meta it costs what it costs for any choice of experts. Names live
    as long as they do there, so that memory is the same to the byte. Where experts are on several cards, `exchange` sends
    rows to those of their experts, and back.
    """
    rows, weight = indices.reshape(-1), weights.reshape(-1)  # [tokens · top_k]
    expert, order = torch.sort(rows)
    states = x[order // indices.shape[-1]]
    weight = weight[order]
    counted = expert.float() if x.device.type == "cpu" else expert.int()  # histc counts no integers on the CPU
    lengths = torch.histc(counted, experts.up.shape[0], 0, experts.up.shape[0] - 1)
    ends = torch.cumsum(lengths, 0, dtype=torch.int32)
    up, down = (w.transpose(1, 2) if experts.transposed else w for w in (experts.up, experts.down))
    if exchange is not None:
        states = exchange(states)
    states = _GroupedLinear.apply(states, up, ends)  # type: ignore[no-untyped-call]
    if experts.up_bias is not None:
        states = states + experts.up_bias[expert]
    states = experts.between(states)
    states = _GroupedLinear.apply(states, down, ends)  # type: ignore[no-untyped-call]
    if experts.down_bias is not None:
        states = states + experts.down_bias[expert]
    if exchange is not None:
        states = exchange(states)
    weighted = states * weight.unsqueeze(-1)
    back = torch.empty_like(order)
    back[order] = torch.arange(order.shape[0], device=order.device)
    weighted = weighted[back]
    out: Tensor = weighted.view(*indices.shape, -1).sum(dim=1)
    return out.to(x.dtype)


class _GroupedLinear(Function):
    """Rows in groups, each group times the weight of its expert."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, ends)
        return torch.ops.canvas_rt.grouped_mm(x, weight, ends)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, ends = ctx.saved_tensors
        into = torch.ops.canvas_rt.grouped_mm(gradient, weight.transpose(1, 2), ends)
        return into, torch.ops.canvas_rt.grouped_mm_weight(gradient, x, ends), None


def _groups(ends: Tensor) -> list[tuple[int, int]]:
    stops = ends.tolist()
    return list(zip([0, *stops], stops, strict=False))


def _grouped_mm(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return torch.cat([F.linear(x[start:end], weight[e]) for e, (start, end) in enumerate(_groups(ends))])


def _grouped_mm_weight(gradient: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    return torch.stack([gradient[start:end].T @ x[start:end] for start, end in _groups(ends)])


def _grouped_mm_shape(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


def _grouped_mm_weight_shape(gradient: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(ends.shape[0], gradient.shape[1], x.shape[1])


_library.impl("grouped_mm", _grouped_mm, "CompositeExplicitAutograd")
_library.impl("grouped_mm_weight", _grouped_mm_weight, "CompositeExplicitAutograd")
_library.impl("grouped_mm", _grouped_mm_shape, "Meta")
_library.impl("grouped_mm_weight", _grouped_mm_weight_shape, "Meta")


@register_flop_formula(torch.ops.canvas_rt.grouped_mm)
def _grouped_mm_flops(x: Any, weight: Any, ends: Any, *args: Any, **kwargs: Any) -> int:
    """Each row meets one expert's weight."""
    return int(2 * x[0] * weight[1] * weight[2])


@register_flop_formula(torch.ops.canvas_rt.grouped_mm_weight)
def _grouped_mm_weight_flops(gradient: Any, x: Any, ends: Any, *args: Any, **kwargs: Any) -> int:
    return int(2 * x[0] * gradient[1] * x[1])


__all__ = ["Held", "grouped", "held", "one_by_one", "route"]
