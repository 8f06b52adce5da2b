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
    if 1 in x.shape[1:] and x.stride() != contiguous_strides(x.shape) and not _dense(x.shape, x.stride()):
        return NotImplemented  # several orders are as good, and `empty_like` takes another than operations on two
    return _laid_out(x.shape, (x.stride(),), dtype or x.dtype)


def _laid_out(shape: Sequence[int], strides: Sequence[Sequence[int]], dtype: torch.dtype) -> Tensor:
    """What a pointwise operation over tensors of a shape and these strides gives."""
    natural = contiguous_strides(shape)
    if any(given != natural for given in strides):
        natural = _ordered(shape, strides)
    return torch.empty_strided(shape, natural, dtype=dtype, device="meta")


def _ordered(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Dense strides in the order in which the tensors' dimensions lie in memory.

    Source: `TensorIteratorBase::reorder_dimensions` of PyTorch, which leaves open what strides alone do not tell.
    """
    if len(strides) == 1 and _dense(shape, strides[0]):
        return tuple(strides[0])
    if all(_contiguous(shape, given) for given in strides):
        return contiguous_strides(shape)
    order = list(reversed(range(len(shape))))
    for place in range(1, len(order)):
        here = place
        for before in reversed(range(place)):
            comparison = _compare(order[before], order[here], shape, strides)
            if comparison > 0:
                order[before], order[here] = order[here], order[before]
                here = before
            elif comparison < 0:
                break
    found, step = [0] * len(order), 1
    for axis in order:
        found[axis] = step
        step *= max(shape[axis], 1)
    return tuple(found)


def _compare(a: int, b: int, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> int:
    """Whether dimension `a` lies within `b` (-1), around it (1), or either way (0)."""
    for given in strides:
        inner, outer = given[a], given[b]
        if not inner or not outer or (inner == outer and shape[a] <= shape[b]):
            continue
        if inner == outer:
            return 1
        return -1 if inner < outer else 1
    return 0


def _contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """As `is_contiguous` has it: the stride of a dimension of 1 says nothing."""
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether elements fill their storage without gaps or overlap."""
    step = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _pointwise(x: Tensor, *args: Any, **kwargs: Any) -> Any:
    if kwargs or not x.is_floating_point() or x.device.type != "meta":
        return NotImplemented
    return _like(x)


def _binary(x: Any, y: Any, **kwargs: Any) -> Any:
    if kwargs or not isinstance(x, Tensor) or not x.is_floating_point() or x.device.type != "meta":
        return NotImplemented
    if not isinstance(y, Tensor):
        return _like(x)
    if y.dtype != x.dtype or not x.dim() or not y.dim():
        return NotImplemented
    if x.shape == y.shape:
        return _laid_out(x.shape, (x.stride(), y.stride()), x.dtype)
    shape = _spread(x.shape, y.shape)
    if shape is None:
        return NotImplemented
    return _laid_out(shape, tuple(_expanded(z, shape) for z in (x, y)), x.dtype)


def _spread(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...] | None:
    """The shape that both are repeated to, or None."""
    long, short = (a, b) if len(a) >= len(b) else (b, a)
    short = (1,) * (len(long) - len(short)) + tuple(short)
    if any(m != n and 1 not in (m, n) for m, n in zip(long, short, strict=True)):
        return None
    return tuple(n if m == 1 else m for m, n in zip(long, short, strict=True))


def _expanded(x: Tensor, shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a tensor that is repeated to a shape."""
    missing = len(shape) - x.dim()
    own = zip(x.shape, x.stride(), shape[missing:], strict=True)
    return (0,) * missing + tuple(0 if size == 1 and wanted != 1 else stride for size, stride, wanted in own)


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


def _log_softmax(x: Tensor, dim: int, half_to_float: bool) -> Any:
    return NotImplemented if half_to_float or not x.is_contiguous() else empty(x.shape, x.dtype)


def _log_softmax_backward(grad: Tensor, out: Tensor, dim: int, dtype: torch.dtype) -> Any:
    return empty(out.shape, dtype) if dtype == grad.dtype and grad.is_contiguous() else NotImplemented


def _nll_loss(x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignored: int) -> Any:
    if weight is not None or reduction == 0 or x.dim() != 2:
        return NotImplemented
    return empty((), x.dtype), empty((), x.dtype)


def _nll_loss_backward(grad: Tensor, x: Tensor, *args: Any) -> Any:
    return empty(x.shape, x.dtype) if x.is_contiguous() else NotImplemented


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
    aten._log_softmax.default: _log_softmax,
    aten._log_softmax_backward_data.default: _log_softmax_backward,
    aten.nll_loss_forward.default: _nll_loss,
    aten.nll_loss_backward.default: _nll_loss_backward,
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
