"""Make one parameter of an edited model of the origin's tensors, as its recipe says, a few rows at a time."""

import zlib
from collections.abc import Callable, Iterator
from math import prod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from canvas_rt.ops.op import Shape
from canvas_rt.weights.axes import Places
from canvas_rt.weights.plan import Recipe

SLAB = 2**25
"""Bytes of a parameter that are made at a time, or one row of it where that is more."""

SEED = 0
"""What is new is drawn from this seed and its key, so the same plan always gives the same weights."""


class Rows(Protocol):
    """Gives some rows of a tensor of the origin: those from `first` up to `last`, or all of a tensor without dimensions."""

    def __call__(self, key: str, first: int, last: int) -> Tensor: ...


def make(recipe: Recipe, read: Callable[[str], Tensor], dtype: torch.dtype) -> Tensor:
    """One parameter, of its recipe's shape. `read` gives the origin's tensors by key; `dtype` is that of what is new."""
    held = {part.key: read(part.key) for part in recipe.parts}
    shapes = {key: tuple(tensor.shape) for key, tensor in held.items()}
    slabs = list(
        make_slabs(recipe, shapes.__getitem__, lambda key, a, b: held[key][a:b] if shapes[key] else held[key], dtype)
    )
    return torch.cat(slabs) if recipe.shape else slabs[0]


@torch.no_grad()
def make_slabs(recipe: Recipe, shape_of: Callable[[str], Shape], rows: Rows, dtype: torch.dtype) -> Iterator[Tensor]:
    """The same, as tensors that follow one another along the first dimension. Never more of any is in memory."""
    maker = _Maker(recipe, shape_of, rows, dtype)
    if not recipe.shape:
        yield rows(recipe.parts[0].key, 0, 1) if recipe.parts else maker.new(0, 1).reshape(())
        return
    step = max(1, SLAB // max(1, prod(recipe.shape[1:]) * max(2, dtype.itemsize)))
    for first in range(0, recipe.shape[0], step):
        yield maker.slab(first, min(first + step, recipe.shape[0]))


class _Maker:
    def __init__(self, recipe: Recipe, shape_of: Callable[[str], Shape], rows: Rows, dtype: torch.dtype) -> None:
        self.recipe = recipe
        self.dtype = dtype
        self.rows = rows
        self.generator = torch.Generator().manual_seed(SEED * 1_000_003 + zlib.crc32(recipe.key.encode()))
        self.ranges = [(part.key, *(part.rows or (0, (shape_of(part.key) or (1,))[0]))) for part in recipe.parts]
        axes = dict(recipe.axes)
        self.first: Places | None = axes.pop(0, None)
        self.others = tuple(axes.items())
        self.mean = self._mean() if recipe.fill == "mean" and self.first is not None else None

    def slab(self, first: int, last: int) -> Tensor:
        """Rows of the parameter."""
        if not self.recipe.parts:
            return self.new(first, last)
        places = None if self.first is None else self.first[first:last]
        made = self._joined(first, last) if places is None else self._taken(places)
        for axis, others in self.others:
            made = _gathered(made, axis, others)
        fresh = places is not None and bool((places[:, 0] < 0).any())
        if fresh or any((others[:, 0] < 0).any() for _, others in self.others):
            made = self._filled(made, places, first, last)
        return made.contiguous()

    def _joined(self, first: int, last: int) -> Tensor:
        """Rows of the origin's tensors, as if they were one."""
        parts, start = [], 0
        for key, begin, end in self.ranges:
            a, b = max(first, start), min(last, start + end - begin)
            if a < b:
                parts.append(self.rows(key, begin + a - start, begin + b - start))
            start += end - begin
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _taken(self, places: Places) -> Tensor:
        """The rows that some places name, or their means. What is new is whatever comes first, until it is filled."""
        known = places[places >= 0]
        if not known.size:
            lowest, highest = 0, 1
        else:
            lowest, highest = int(known.min()), int(known.max()) + 1
        if highest - lowest <= 4 * max(1, places.size):
            return _gathered(self._joined(lowest, highest), 0, np.maximum(places - lowest, -1))
        return torch.cat([self._taken(row[None]) if row.size == 1 else self._spread(row) for row in places])

    def _spread(self, row: Places) -> Tensor:
        """The mean of rows that lie far apart."""
        parts = torch.cat([self._joined(int(place), int(place) + 1) for place in np.maximum(row, 0)])
        return parts.float().mean(0, keepdim=True).to(parts.dtype)

    def _filled(self, made: Tensor, places: Places | None, first: int, last: int) -> Tensor:
        """Rows with their new entries filled: as their op begins, but so that what was there gives what it gave."""
        new = torch.zeros(made.shape, dtype=torch.bool)
        silent = torch.zeros(made.shape, dtype=torch.bool)
        carried = torch.ones(made.shape, dtype=torch.bool)
        for axis, taken in ((0, places), *self.others):
            if taken is None:
                continue
            fresh = torch.from_numpy(taken[:, 0] < 0).view([-1 if i == axis else 1 for i in range(made.dim())])
            new |= fresh
            if axis in self.recipe.quiet:
                silent |= fresh
            else:
                carried &= ~fresh
        filled = torch.where(new, self.new(first, last).to(made.dtype), made)
        return torch.where(silent & carried, torch.zeros((), dtype=made.dtype), filled)

    def _mean(self) -> Tensor:
        """The mean of the rows that are carried over, for those that are not."""
        assert self.first is not None
        kept = np.unique(self.first[self.first[:, 0] >= 0])
        width = prod(self.recipe.shape[1:]) * 4
        step, total = max(1, SLAB // max(1, width)), torch.zeros(())
        for start in range(0, len(kept), step):
            total = total + self._taken(kept[start : start + step, None]).double().sum(0)
        mean = (total / len(kept)).float()[None]
        for axis, others in self.others:
            mean = _gathered(mean, axis, others)
        return mean

    def new(self, first: int, last: int) -> Tensor:
        """Rows as if all of them were new."""
        shape = (last - first, *self.recipe.shape[1:])
        if self.mean is not None:
            return self.mean.expand(shape)
        match self.recipe.fill:
            case "identity":
                columns = torch.arange(shape[1])
                return (torch.arange(first, last)[:, None] == columns).to(self.dtype)
            case "zeros" | "ones":
                return torch.full(shape, float(self.recipe.fill == "ones"), dtype=self.dtype)
        return torch.empty(shape, dtype=self.dtype).normal_(0.0, self.recipe.std, generator=self.generator)


def _gathered(tensor: Tensor, axis: int, places: Places) -> Tensor:
    """The entries that a dimension takes, or their means."""
    if places.shape[1] == 1 and len(places) <= tensor.shape[axis] and (places[:, 0] == np.arange(len(places))).all():
        return tensor.narrow(axis, 0, len(places))
    where = torch.from_numpy(np.maximum(places, 0))
    if places.shape[1] == 1:
        return tensor.index_select(axis, where[:, 0])
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    total = tensor.index_select(axis, where[:, 0]).to(wide)
    for column in range(1, where.shape[1]):
        total += tensor.index_select(axis, where[:, column])
    return (total / where.shape[1]).to(tensor.dtype)
