"""Make one parameter of an edited model of the origin's tensors, as its recipe says."""

import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from canvas_rt.weights.axes import Places
from canvas_rt.weights.plan import Recipe

SEED = 0
"""What is new is drawn from this seed and its key, so the same plan always gives the same weights."""


@torch.no_grad()
def make(recipe: Recipe, read: Callable[[str], Tensor], dtype: torch.dtype) -> Tensor:
    """One parameter, of its recipe's shape. `read` gives the origin's tensors by key; `dtype` is that of what is new."""
    if not recipe.parts:
        return _new(recipe, recipe.shape, dtype)
    tensor = _joined(recipe, read)
    for axis, places in recipe.axes:
        tensor = _taken(tensor, axis, places)
    if any((places[:, 0] < 0).any() for _, places in recipe.axes):
        tensor = _filled(recipe, tensor)
    return tensor.contiguous()


def _joined(recipe: Recipe, read: Callable[[str], Tensor]) -> Tensor:
    parts = []
    for part in recipe.parts:
        tensor = read(part.key)
        parts.append(tensor if part.rows is None else tensor[part.rows[0] : part.rows[1]])
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _taken(tensor: Tensor, axis: int, places: Places) -> Tensor:
    """The entries that a dimension takes; what is new is whatever stands first, until it is filled."""
    where = torch.from_numpy(np.maximum(places, 0))
    if places.shape[1] == 1:
        return tensor.index_select(axis, where[:, 0])
    total = tensor.index_select(axis, where[:, 0]).double() if tensor.dtype == torch.float64 else None
    total = tensor.index_select(axis, where[:, 0]).float() if total is None else total
    for column in range(1, where.shape[1]):
        total += tensor.index_select(axis, where[:, column])
    return (total / where.shape[1]).to(tensor.dtype)


def _filled(recipe: Recipe, tensor: Tensor) -> Tensor:
    """A tensor with its new entries filled: as its op initialises them, but so that what was there gives what it gave."""
    new = torch.zeros(tensor.shape, dtype=torch.bool)
    silent = torch.zeros(tensor.shape, dtype=torch.bool)
    carried = torch.ones(tensor.shape, dtype=torch.bool)
    for axis, places in recipe.axes:
        fresh = torch.from_numpy(places[:, 0] < 0).view([-1 if i == axis else 1 for i in range(tensor.dim())])
        new |= fresh
        if axis in recipe.quiet:
            silent |= fresh
        else:
            carried &= ~fresh
    if recipe.fill == "mean":
        axis, places = recipe.axes[0]
        kept = torch.from_numpy(np.flatnonzero(places[:, 0] >= 0))
        mean = tensor.index_select(axis, kept).float().mean(axis, keepdim=True).to(tensor.dtype)
        filled = torch.where(new, mean, tensor)
    else:
        filled = torch.where(new, _new(recipe, tuple(tensor.shape), tensor.dtype), tensor)
    return torch.where(silent & carried, torch.zeros((), dtype=tensor.dtype), filled)


def _new(recipe: Recipe, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if recipe.fill == "identity":
        return torch.eye(*shape, dtype=dtype)
    if recipe.fill in ("zeros", "ones"):
        return torch.full(shape, float(recipe.fill == "ones"), dtype=dtype)
    generator = torch.Generator().manual_seed(SEED * 1_000_003 + zlib.crc32(recipe.key.encode()))
    return torch.empty(shape, dtype=dtype).normal_(0.0, recipe.std, generator=generator)
