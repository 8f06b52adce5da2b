"""Attention's scores and the shares that they become: ways to compute them that differ in the last bits, and their bias."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def scores_of(q: Tensor, k: Tensor, bias: Tensor | None, attrs: Mapping[str, Any]) -> Tensor:
    """Products of queries and keys, scaled, with their bias. [batch, heads, queries, keys]"""
    factor = attrs["scale"]
    if attrs["precision"] == "scores":
        q, k = q.float(), k.float()
    if attrs["scaling"] == "fused":
        return _fused(q, k, bias, factor)
    scores = torch.matmul(q, k.transpose(2, 3))
    if attrs["scaling"] == "multiplied":
        scores = scores * factor
    elif attrs["scaling"] == "divided":
        scores = scores / (1 / factor)
    if bias is not None:
        scores = scores + bias
    return scores * factor if attrs["scaling"] == "biased" else scores


def _fused(q: Tensor, k: Tensor, bias: Tensor | None, factor: float) -> Tensor:
    """Product, factor and sum in one call."""
    batch, heads, queries, width = q.shape
    if bias is None:
        rows = q.new_zeros(batch * heads, queries, k.shape[2])
    else:
        rows = bias.expand(batch, heads, -1, -1).reshape(batch * heads, *bias.shape[2:])
    left, right = q.reshape(batch * heads, queries, width), k.reshape(batch * heads, -1, width)
    return torch.baddbmm(rows, left, right.transpose(1, 2), alpha=factor).view(batch, heads, queries, -1)


def shares_of(scores: Tensor, dtype: torch.dtype, precision: str) -> Tensor:
    """Scores as shares of one."""
    if precision == "model":
        return F.softmax(scores, dim=-1).to(dtype)
    return F.softmax(scores, dim=-1, dtype=torch.float32).to(dtype)


def slopes(heads: int, order: str, steepest: float = 8.0, device: torch.device | None = None) -> Tensor:
    """How fast each head's bias grows, in fp32: powers of two for a power of two of heads, others from between these."""
    if order == "interleaved":
        count = 2 ** math.ceil(math.log2(heads))
        powers = torch.arange(1, count + 1, dtype=torch.int64, device=device).float() * (steepest / count)
        found = 1.0 / torch.pow(2, powers)
        return found if count == heads else torch.concat([found[1::2], found[::2]])[:heads]
    count = 2 ** math.floor(math.log2(heads))
    found = _powers(count, count, 1, steepest, device)
    if count == heads:
        return found
    more = min(count, heads - count)
    return torch.cat([found, _powers(2 * count, more, 2, steepest, device)])


def _powers(of: int, count: int, step: int, steepest: float, device: torch.device | None) -> Tensor:
    base = torch.full((), 2 ** (-steepest / of), dtype=torch.float32, device=device)
    return torch.pow(base, torch.arange(1, 1 + step * count, step, dtype=torch.int32, device=device))


def alibi(keys: int, attrs: Mapping[str, Any], dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """What each head adds to its scores, growing along the keys. [1, heads, 1, keys]"""
    found = slopes(attrs["heads"], attrs["order"], attrs["steepest"], device)
    first = 1 - keys if attrs["counts"] == "from_last" else 0
    places = torch.arange(first, first + keys, device=device)
    if attrs["rounding"] == "slopes":
        found = found.bfloat16()
    bias = found[None, :, None, None] * places
    return bias if attrs["rounding"] == "none" else bias.to(dtype)


def distance_buckets(distance: Tensor, buckets: int, farthest: int, both_ways: bool) -> Tensor:
    """Which of so many buckets a distance from query to key falls into: the near ones have one each, farther ones share.

    Source: Raffel et al. 2019, T5 (arXiv:1910.10683), as transformers computes it.
    """
    found = torch.zeros_like(distance)
    if both_ways:
        buckets //= 2
        found = (distance > 0).to(torch.long) * buckets
        distance = distance.abs()
    else:
        distance = -torch.min(distance, torch.zeros_like(distance))
    exact = buckets // 2
    steps = torch.log(distance.float() / exact) / math.log(farthest / exact) * (buckets - exact)
    shared = torch.min(exact + steps.to(torch.long), torch.full_like(distance, buckets - 1))
    return found + torch.where(distance < exact, distance, shared)


def relative_bias(positions: Tensor, keys: int, weight: Tensor, attrs: Mapping[str, Any]) -> Tensor:
    """What each head adds to its scores for how far a key is from a query. [1, heads, queries, keys]"""
    distance = torch.arange(keys, device=positions.device)[None, :] - positions[0][:, None]
    chosen = distance_buckets(distance, attrs["buckets"], attrs["farthest"], attrs["both_ways"])
    return F.embedding(chosen, weight).permute(2, 0, 1).unsqueeze(0)


__all__ = ["alibi", "distance_buckets", "relative_bias", "scores_of", "shares_of", "slopes"]
