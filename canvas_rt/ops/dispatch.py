"""The kernel of any op: one with a meaning of its own, a plain function of torch, a tensor, or a module kept whole."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from canvas_rt.errors import CanvasError, suggest
from canvas_rt.ops.catalogue import OPS
from canvas_rt.ops.functions import Argument, Function, function_named
from canvas_rt.ops.kernels import KERNELS, Context, Kernel, Values
from canvas_rt.ops.learned import CONSTANT, MODULE, PARAMETER
from canvas_rt.ops.modules import run_module


@lru_cache(maxsize=1024)
def kernel(op: str) -> Kernel:
    """What an op computes. Raises `CanvasError` that offers the nearest for a name that is none."""
    own = {PARAMETER: _parameter, CONSTANT: _constant, MODULE: run_module}.get(op) or KERNELS.get(op)
    if own is not None:
        return own
    found = function_named(op)
    if found is None:
        raise CanvasError(f"there is no op '{op}'", hint=suggest(op, OPS))
    return _function(*found)


def _parameter(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    return tuple(parameters.values())


def _constant(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    return (torch.tensor(attrs["value"], dtype=dtype_named(attrs["dtype"], context), device=context.device),)


def dtype_named(name: str | None, context: Context) -> torch.dtype | None:
    """A dtype by the name that a document has for it."""
    if name is None:
        return None
    dtype: torch.dtype = context.dtype if name == "model" else getattr(torch, name)
    return dtype


def _function(function: Function, count: int) -> Kernel:
    """The kernel of a plain function: its own overload, given values and settings in the schema's order."""
    _, name, overload = function.target.split(".")
    run = getattr(getattr(torch.ops.aten, name), overload)
    formals = run._schema.arguments
    places = [
        (argument, formal.name, formal.kwarg_only)
        for argument, formal in zip(function.arguments, formals, strict=False)
    ]
    makes = "like.device" in function.text

    def kernel(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
        positional: list[Any] = []
        named: dict[str, Any] = {"device": context.device} if makes else {}
        for argument, formal, keyword in places:
            value = _given(argument, inputs, attrs, count, context)
            if keyword:
                named[formal] = value
            else:
                positional.append(value)
        results = run(*positional, **named)
        return tuple(results) if isinstance(results, tuple | list) else (results,)

    return kernel


def _given(argument: Argument, inputs: Values, attrs: Mapping[str, Any], count: int, context: Context) -> Any:
    if argument.kind == "tensor":
        return inputs[argument.name]
    if argument.kind == "tensors":
        return [inputs[f"{argument.name}_{index}"] for index in range(count)]
    if argument.kind == "none":
        return None
    value = attrs[argument.name]
    if argument.kind == "number" and isinstance(value, str):
        return float(value)
    if argument.kind == "dtype":
        return dtype_named(value, context)
    return list(value) if isinstance(value, tuple) else value


__all__ = ["dtype_named", "kernel"]
