"""Mixture of experts: what a router and its experts compute, one expert after the other or all in grouped products."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.utils.flop_counter import register_flop_formula

Act = Callable[[Tensor], Tensor]

_library: Any = torch.library.Library("canvas_rt", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("grouped_mm(Tensor x, Tensor weight, Tensor ends) -> Tensor")
_library.define("grouped_mm_weight(Tensor gradient, Tensor x, Tensor ends) -> Tensor")


def route(x: Tensor, weight: Tensor, attrs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """For each token the experts that serve it, best first, and their weights: both [batch, seq, top_k].

    Scores are compared in fp32, as transformers does: in bf16 experts would tie.
    """
    logits = F.linear(x, weight)
    scores = logits.softmax(-1, dtype=torch.float32) if attrs["scoring"] == "softmax" else logits.float().sigmoid()
    weights, indices = scores.topk(attrs["top_k"], dim=-1)
    if attrs["normalise"]:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return indices, weights.to(x.dtype)


def one_by_one(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, act: Act) -> Tensor:
    """Experts in turn, each on the tokens that chose it: as the modules of transformers and ours do by themselves.

    x: [tokens, size]; indices and weights: [tokens, top_k]; gate_up: [experts, 2 · width, size]; down: [experts, size, width].
    """
    out = torch.zeros_like(x)
    chosen = indices.T  # [top_k, tokens]
    for expert in torch.unique(indices):
        place, token = torch.where(chosen == expert)
        gate, up = F.linear(x[token], gate_up[expert]).chunk(2, dim=-1)
        states = F.linear(act(gate) * up, down[expert]) * weights[token, place, None]
        out.index_add_(0, token, states.to(out.dtype))
    return out


def grouped(
    x: Tensor,
    indices: Tensor,
    weights: Tensor,
    gate_up: Tensor,
    down: Tensor,
    act: Act,
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
    lengths = torch.histc(counted, gate_up.shape[0], 0, gate_up.shape[0] - 1)
    ends = torch.cumsum(lengths, 0, dtype=torch.int32)
    if exchange is not None:
        states = exchange(states)
    states = _GroupedLinear.apply(states, gate_up, ends)  # type: ignore[no-untyped-call]
    states = _gated(states, act)
    states = _GroupedLinear.apply(states, down, ends)  # type: ignore[no-untyped-call]
    if exchange is not None:
        states = exchange(states)
    weighted = states * weight.unsqueeze(-1)
    back = torch.empty_like(order)
    back[order] = torch.arange(order.shape[0], device=order.device)
    weighted = weighted[back]
    out: Tensor = weighted.view(*indices.shape, -1).sum(dim=1)
    return out.to(x.dtype)


def _gated(states: Tensor, act: Act) -> Tensor:
    gate, up = states.chunk(2, dim=-1)
    return act(gate) * up


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


__all__ = ["grouped", "one_by_one", "route"]
