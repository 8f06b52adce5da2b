"""Tensors that a module keeps without learning them: what they hold, told by looking."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from canvas_rt.importer.calls import DTYPES, as_setting


@dataclass(frozen=True, slots=True)
class Buffer:
    """A buffer as ops that make it: each takes what the one before gives."""

    steps: tuple[tuple[str, dict[str, Any]], ...] = ()
    positions: bool = False
    """Whether it numbers the positions: then rows of it are what the model's positions are."""


def _scalar(value: Tensor) -> Buffer | None:
    if value.dim() or not bool(torch.isfinite(value)):
        return None
    return Buffer((("constant", {"value": value.item(), "dtype": DTYPES[value.dtype]}),))


def _positions(value: Tensor) -> Buffer | None:
    if value.dtype is not torch.int64 or value.dim() not in (1, 2) or (value.dim() == 2 and value.shape[0] != 1):
        return None
    return Buffer(positions=True) if torch.equal(value.flatten(), torch.arange(value.numel())) else None


def _filled(value: Tensor) -> Buffer | None:
    if not value.numel() or not bool((value == value.flatten()[0]).all()):
        return None
    attrs = {"size": tuple(value.shape), "value": as_setting(value.flatten()[0].item()), "dtype": DTYPES[value.dtype]}
    return Buffer((("torch.full", attrs),))


def _triangle(value: Tensor) -> Buffer | None:
    if value.dtype is not torch.bool or value.dim() < 2:
        return None
    if not torch.equal(value, torch.ones_like(value).tril()):
        return None
    ones = {"size": tuple(value.shape), "dtype": "bool"}
    return Buffer((("torch.ones", ones), ("torch.tril", {})))


RULES: tuple[Callable[[Tensor], Buffer | None], ...] = (_scalar, _positions, _filled, _triangle)


def buffer_of(value: Tensor) -> Buffer | None:
    """What a buffer holds, if a rule knows."""
    if value.dtype not in DTYPES:
        return None
    return next(filter(None, (rule(value.detach().cpu()) for rule in RULES)), None)


__all__ = ["Buffer", "buffer_of"]
