"""Sines and cosines that stand for positions, added to a stream or turning its channels."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def frequencies(width: int, attrs: Mapping[str, Any], dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """How fast each sine turns, the fastest first. [width // 2]"""
    if attrs["spacing"] == "whole":  # from 1 to 1/10000, both included
        step = math.log(10000) / (width // 2 - 1)
        return torch.exp(torch.arange(width // 2, dtype=torch.int64, device=device).float() * -step)
    exact = dtype if attrs["rounding"] == "frequencies" else torch.float32
    return 1.0 / (10000 ** (torch.arange(0, width, 2, dtype=torch.int64, device=device).to(exact) / width))


def sinusoids(positions: Tensor, attrs: Mapping[str, Any], dtype: torch.dtype) -> Tensor:
    """Sines, then cosines, of every position, or the other way round. [..., width]"""
    turns = frequencies(attrs["width"], attrs, dtype, positions.device)
    places = (positions + attrs["offset"])[..., None]
    angles = places.float() * turns
    parts = [torch.sin(angles), torch.cos(angles)]
    both = torch.cat(parts if attrs["first"] == "sines" else parts[::-1], dim=-1)
    if attrs["zero"] is not None:
        both = both.masked_fill(places == attrs["zero"], 0.0)
    return both.to(dtype) if attrs["rounding"] == "values" else both


__all__ = ["frequencies", "sinusoids"]
