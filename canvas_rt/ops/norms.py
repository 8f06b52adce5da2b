"""Norms: what each variant computes. Variants agree but for rounding, so each says in which dtype it does what."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from canvas_rt.ops.activations import ACTIVATION_KERNELS


def rms_norm(x: Tensor, weight: Tensor | None, attrs: Mapping[str, Any]) -> Tensor:
    """Each vector at unit root mean square, times its weight where it has one: one plus the weight if that is zero-centred."""
    eps, form, centred = attrs["eps"], attrs["form"], attrs["zero_centred"]
    if form == "fused":
        return _weigh(
            F.rms_norm(x, x.shape[-1:], None if centred else weight, eps), weight if centred else None, centred
        )
    if form == "uncast":
        return _weigh(x * _inverse_root(x, attrs), weight, centred)
    wide = x.to(torch.float32)
    if form == "factor_cast":
        return _weigh(x * _inverse_root(wide, attrs).to(x.dtype), weight, centred)
    wide = wide * _inverse_root(wide, attrs)
    if form == "weight_then_cast":
        return _weigh(wide, None if weight is None else weight.float(), centred).to(x.dtype)
    return _weigh(wide.to(x.dtype), weight, centred)


def _inverse_root(x: Tensor, attrs: Mapping[str, Any]) -> Tensor:
    square = x.pow(2).mean(-1, keepdim=True) + attrs["eps"]
    return torch.pow(square, -0.5) if attrs.get("power") else torch.rsqrt(square)


def _weigh(x: Tensor, weight: Tensor | None, zero_centred: bool) -> Tensor:
    if weight is None:
        return x
    return (1.0 + weight if zero_centred else weight) * x


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, attrs: Mapping[str, Any]) -> Tensor:
    """An RMSNorm over groups of channels, of a gated value (`gate_first`) or with its result gated."""
    act = ACTIVATION_KERNELS[attrs["fn"]]
    wide = x.to(torch.float32)
    if attrs["gate_first"]:
        wide = wide * act(gate.to(torch.float32))
    groups = wide.view(*wide.shape[:-1], -1, attrs["group_size"] or wide.shape[-1])
    groups = groups * torch.rsqrt(groups.pow(2).mean(-1, keepdim=True) + attrs["eps"])
    wide = groups.view(wide.shape)
    normed = weight.float() * wide if attrs["form"] == "weight_then_cast" else weight * wide.to(x.dtype)
    if not attrs["gate_first"]:
        normed = normed * act(gate.to(torch.float32))
    return normed.to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, attrs: Mapping[str, Any]) -> Tensor:
    """Each vector centred and at unit variance, times a weight, plus a bias."""
    form, eps = attrs["form"], attrs["eps"]
    if attrs.get("zero_centred") and weight is not None:
        weight = weight + 1.0
    if form == "fused":
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    wide = x.to(torch.float32)
    if form == "fused_in_fp32":
        weight, bias = (None if part is None else part.float() for part in (weight, bias))
        return F.layer_norm(wide, x.shape[-1:], weight, bias, eps).to(x.dtype)
    mean = wide.mean(-1, keepdim=True)
    # Centred twice, as in transformers: gradients are summed in another order otherwise.
    variance = (wide - mean).pow(2).mean(-1, keepdim=True)
    normed = (wide - mean) * torch.rsqrt(variance + eps)
    normed = normed if weight is None else weight.float() * normed
    return (normed if bias is None else normed + bias.float()).to(x.dtype)


__all__ = ["gated_rms_norm", "layer_norm", "rms_norm"]
