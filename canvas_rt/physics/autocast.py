"""torch.autocast for CUDA, as far as language models meet it, on meta tensors, which PyTorch's own does not reach."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

NARROW: frozenset[Callable[..., Any]] = frozenset(
    {F.linear, torch.matmul, torch.mm, torch.bmm, torch.addmm, Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm}
)
"""Run in 16 bits. Source: `autocast_mode.h`, AT_FORALL_LOWER_PRECISION_FP. Attention's inputs are cast by the tracer."""

WIDE: frozenset[Callable[..., Any]] = frozenset(
    {
        F.softmax,
        F.log_softmax,
        F.layer_norm,
        F.cross_entropy,
        F.nll_loss,
        torch.softmax,
        torch.rsqrt,
        torch.pow,
        torch.sum,
        Tensor.softmax,
        Tensor.rsqrt,
        Tensor.pow,
        Tensor.sum,
    }
)
"""Run in fp32. Source: the same, AT_FORALL_FP32 and AT_FORALL_FP32_SET_OPT_DTYPE."""


class Autocast(TorchFunctionMode):
    """Casts what functions are given while it is entered. A weight is cast once, until `drop` is called."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.dtype = dtype
        self.casts: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in NARROW:
            return func(*map(self.narrow, args), **{name: self.narrow(value) for name, value in kwargs.items()})
        if func in WIDE and "dtype" not in kwargs:
            return func(*map(_wide, args), **kwargs)
        return func(*args, **kwargs)

    def narrow(self, value: Any) -> Any:
        """A tensor in 16 bits; whatever is no tensor of 32 as it is."""
        if not isinstance(value, Tensor) or value.dtype is not torch.float32:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(self.dtype)
        known = self.casts.get(id(value))
        if known is None:
            known = self.casts[id(value)] = (value, value.to(self.dtype))
        return known[1]

    def drop(self) -> None:
        """Forget the weights' casts, as leaving the outermost autocast does."""
        self.casts.clear()


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
