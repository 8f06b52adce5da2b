"""Linears as scenarios run them: in 8 bits, with weights that are stored in fewer bits, with adapters."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from canvas_rt.ops.op import Shape

Multiply = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""x: [..., in]; weight: [out, in]; bias: [out] or None; gives [..., out]."""

FP8, FP8_GRADIENT = torch.float8_e4m3fn, torch.float8_e5m2
SCALED_MULTIPLE = 16
"""`torch._scaled_mm` takes only sizes that are multiples of this; torchao leaves other linears in 16 bits."""


def stored_sizes(shape: Shape, storage: str, item: int) -> tuple[int, ...]:
    """Bytes of each tensor that a weight [..., out, in] is stored as; `item` is that of a number as it is.

    Sources: AWQ's and GPTQ's groups of 128; bitsandbytes' `functional.quantize_4bit` with double quantisation (blocks of 64,
    their scales in 8 bits in blocks of 256).
    """
    count = prod(shape)
    channels = prod(shape[:-1])
    match storage:
        case "int8":
            return count, 2 * channels
        case "fp8":
            return count, 4 * channels
        case "int4":
            groups = channels * -(-shape[-1] // 128)
            return -(-count // 2), 2 * groups, -(-groups // 2)
        case "nf4":
            blocks = -(-count // 64)
            return -(-count // 2), blocks, 4 * -(-blocks // 256), 4 * 256, 4 * 16, 4
        case _:
            return (count * item,)


def by_eights(*sizes: int) -> bool:
    """Whether the card's 8-bit product takes matrices of these sizes."""
    return all(size % SCALED_MULTIPLE == 0 for size in sizes)


def _scaled(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """x [rows, in] times weight [out, in], both in 8 bits, each with one scale."""
    one = x.new_empty((), dtype=torch.float32)
    return torch._scaled_mm(x, weight.t(), one, one, out_dtype=dtype)


def _in_eight(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Scaled by the largest of it, as torchao does tensor by tensor; compiled, so that no wide copy is made."""
    x.abs().amax()
    return x.to(dtype)


class _Float8(Function):
    """A linear whose three products run in 8 bits. What is kept for the backward is kept in 16, as torchao does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _scaled(_in_eight(x, FP8), _in_eight(weight, FP8), x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        eight = _in_eight(gradient, FP8_GRADIENT)
        into = learned = None
        if ctx.needs_input_grad[0]:
            into = _scaled(eight, _in_eight(weight, FP8).t().contiguous(), x.dtype)
        if ctx.needs_input_grad[1]:
            turned = eight.t().contiguous()
            learned = _scaled(turned, _in_eight(x, FP8).t().contiguous(), x.dtype)
        return into, learned


def float8(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As torchao's float8 training runs a linear, with tensor-wise dynamic scales."""
    rows = x.reshape(-1, x.shape[-1])
    if not by_eights(*rows.shape, *weight.shape):
        return F.linear(x, weight, bias)
    product: Tensor = _Float8.apply(rows, weight)  # type: ignore[no-untyped-call]
    out = product.view(*x.shape[:-1], -1)
    return out if bias is None else out + bias


def served_in_eight(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As engines serve weights in 8-bit floats: activations are cast for each product."""
    rows = x.reshape(-1, x.shape[-1])
    if not by_eights(*weight.shape):
        return F.linear(x, weight.to(x.dtype), bias)
    out = _scaled(rows.to(FP8), weight, x.dtype).view(*x.shape[:-1], -1)
    return out if bias is None else out + bias


class _Dequantised(Function):
    """A linear whose weight is stored in few bits: made wide for each product, forward and backward, and dropped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return F.linear(x, torch.empty_like(weight), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        return (gradient @ torch.empty_like(weight) if ctx.needs_input_grad[0] else None), None, None


def dequantised(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As bitsandbytes trains on top of a frozen base."""
    return _Dequantised.apply(x, weight, bias)  # type: ignore[no-any-return, no-untyped-call]


@dataclass(frozen=True, slots=True)
class Adapter:
    """Two small matrices beside a frozen weight, as PEFT runs them."""

    base: Multiply
    down: Tensor
    """[rank, in], in fp32 as PEFT keeps adapters of 16-bit models."""

    up: Tensor
    """[out, rank]"""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result = self.base(x, weight, bias)
        dtype = result.dtype
        x = x.to(self.down.dtype)
        result = result + F.linear(F.linear(x, self.down), self.up) * 2.0
        return result.to(dtype)


def adapter_shapes(weight: Shape, rank: int) -> tuple[tuple[str, Shape], ...]:
    """The parameters of a LoRA adapter for a weight [out, in]. Source: Hu et al. 2021, section 4.1."""
    return ("lora_A.weight", (rank, weight[1])), ("lora_B.weight", (weight[0], rank))


ADAPTER_BYTES = 4
"""PEFT keeps adapters in fp32 unless told otherwise (`autocast_adapter_dtype`)."""
