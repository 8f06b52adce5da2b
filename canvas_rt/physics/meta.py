"""Results of common operations on meta tensors, made directly: PyTorch decomposes many in Python at ~240 µs each.

A kernel here gives exactly the shape, strides and dtype that PyTorch would, or `NotImplemented` where it is not sure.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
FastKernel = Callable[..., Any]


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A contiguous meta tensor."""
    return torch.empty_strided(shape, contiguous_strides(shape), dtype=dtype, device="meta")


def _like(x: Tensor, dtype: torch.dtype | None = None) -> Any:
    """A tensor laid out like `x`, as pointwise operations and `empty_like` give."""
    if x.stride() == contiguous_strides(x.shape):
        return empty(x.shape, dtype or x.dtype)
    if 1 in x.shape[1:] or (x.shape[0] == 1 and not _canonical(x)) or not _dense(x):
        return NotImplemented
    return torch.empty_strided(x.shape, x.stride(), dtype=dtype or x.dtype, device="meta")


def _dense(x: Tensor) -> bool:
    """Whether its elements fill their storage without gaps or overlap."""
    step = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _canonical(x: Tensor) -> bool:
    """Whether a first dimension of 1 has the stride that PyTorch would give it: that of all the rest."""
    return x.stride(0) == x.numel()


def _pointwise(x: Tensor, *args: Any, **kwargs: Any) -> Any:
    if kwargs or not x.is_floating_point() or x.device.type != "meta":
        return NotImplemented
    return _like(x)


def _binary(x: Any, y: Any, **kwargs: Any) -> Any:
    if kwargs or not isinstance(x, Tensor) or not x.is_floating_point() or x.device.type != "meta":
        return NotImplemented
    if not isinstance(y, Tensor):
        return _like(x)
    if y.dtype != x.dtype:
        return NotImplemented
    if x.shape == y.shape:
        return _like(x) if x.stride() == y.stride() or (x.is_contiguous() and y.is_contiguous()) else NotImplemented
    if _spreads(y, x):
        return _like(x)
    return _like(y) if _spreads(x, y) and x.is_contiguous() and y.is_contiguous() else NotImplemented


def _spreads(small: Tensor, large: Tensor) -> bool:
    """Whether `small` is repeated to the shape of `large` and leaves that shape as it is."""
    if small.dim() > large.dim():
        return False
    return all(s in (1, w) for s, w in zip(reversed(small.shape), reversed(large.shape), strict=False))


def _to_copy(x: Tensor, **kwargs: Any) -> Any:
    if kwargs.keys() - {"dtype"} or x.device.type != "meta":
        return NotImplemented
    return _like(x, kwargs.get("dtype"))


def _reduce(x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False, **kwargs: Any) -> Any:
    if kwargs or not dim or not x.is_floating_point() or not x.is_contiguous():
        return NotImplemented
    reduced = {axis % x.dim() for axis in dim}
    shape = [1 if axis in reduced else size for axis, size in enumerate(x.shape) if keepdim or axis not in reduced]
    return empty(shape, x.dtype)


def _mm(x: Tensor, y: Tensor) -> Any:
    if x.dtype != y.dtype or x.shape[1] != y.shape[0]:
        return NotImplemented
    return empty((x.shape[0], y.shape[1]), x.dtype)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    first = tensors[0]
    axis = dim % first.dim()
    for tensor in tensors:
        alike = tensor.dtype == first.dtype and tensor.dim() == first.dim() and tensor.device.type == "meta"
        if not alike or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)):
            return NotImplemented
        if tensor.shape[:axis] != first.shape[:axis] or tensor.shape[axis + 1 :] != first.shape[axis + 1 :]:
            return NotImplemented
    shape = list(first.shape)
    shape[axis] = sum(tensor.shape[axis] for tensor in tensors)
    return empty(shape, first.dtype)


def _slice_backward(grad: Tensor, sizes: Sequence[int], *args: Any) -> Any:
    return empty(sizes, grad.dtype)


def _clone(x: Tensor, memory_format: torch.memory_format | None = None) -> Any:
    if x.device.type != "meta":
        return NotImplemented
    if memory_format is torch.contiguous_format:
        return empty(x.shape, x.dtype)
    return _like(x) if memory_format in (None, torch.preserve_format) else NotImplemented


def _embedding(weight: Tensor, ids: Tensor, *args: Any) -> Any:
    return empty((*ids.shape, weight.shape[1]), weight.dtype)


def _embedding_backward(grad: Tensor, ids: Tensor, count: int, *args: Any) -> Any:
    return empty((count, grad.shape[-1]), grad.dtype)


def _silu_backward(grad: Tensor, x: Tensor) -> Any:
    return _binary(grad, x)


def _softmax(x: Tensor, dim: int, half_to_float: bool) -> Any:
    return NotImplemented if half_to_float or not x.is_contiguous() else _pointwise(x)


def _softmax_backward(grad: Tensor, out: Tensor, dim: int, dtype: torch.dtype) -> Any:
    return _binary(grad, out) if dtype == grad.dtype and grad.is_contiguous() else NotImplemented


def _flash(
    q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, causal: bool = False, *args: Any, **kwargs: Any
) -> Any:
    out = _like(q)
    if out is NotImplemented or (args and args[0]):
        return NotImplemented
    scores = empty(q.shape[:3], torch.float32)
    seed, offset = empty((2,), torch.uint64), empty((), torch.uint64)
    return out, scores, None, None, q.shape[2], k.shape[2], seed, offset, empty((0,), q.dtype)


def _flash_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
    gradients = (_like(q), _like(k), _like(v))
    return NotImplemented if any(g is NotImplemented for g in gradients) else gradients


FAST: Mapping[Any, FastKernel] = {
    aten.add.Tensor: _binary,
    aten.sub.Tensor: _binary,
    aten.mul.Tensor: _binary,
    aten.div.Tensor: _binary,
    aten.mul.Scalar: _binary,
    aten.div.Scalar: _binary,
    aten.neg.default: _pointwise,
    aten.rsqrt.default: _pointwise,
    aten.pow.Tensor_Scalar: _pointwise,
    aten.cos.default: _pointwise,
    aten.sin.default: _pointwise,
    aten.silu.default: _pointwise,
    aten.relu.default: _pointwise,
    aten.gelu.default: lambda x, **kwargs: _pointwise(x),
    aten.silu_backward.default: _silu_backward,
    aten._softmax.default: _softmax,
    aten._softmax_backward_data.default: _softmax_backward,
    aten._to_copy.default: _to_copy,
    aten.sum.dim_IntList: _reduce,
    aten.mean.dim: _reduce,
    aten.mm.default: _mm,
    aten.cat.default: _cat,
    aten.slice_backward.default: _slice_backward,
    aten.clone.default: _clone,
    aten.embedding.default: _embedding,
    aten.embedding_dense_backward.default: _embedding_backward,
    aten._scaled_dot_product_flash_attention.default: _flash,
    aten._scaled_dot_product_flash_attention_backward.default: _flash_backward,
}


def run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What an operation gives on meta tensors."""
    kernel = FAST.get(func)
    if kernel is not None:
        out = kernel(*args, **kwargs)
        if out is not NotImplemented:
            return out
    return func(*args, **kwargs)


class FastMeta(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operations on meta tensors by the kernels above where it can."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})
