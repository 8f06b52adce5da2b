"""How a class's own eager attention rounds: told by running it beside our forms."""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from canvas_rt.importer.proof import DTYPES, generator
from canvas_rt.ops.catalogue import VARIANTS
from canvas_rt.ops.choices import PRECISIONS, SCALINGS, SHARINGS
from canvas_rt.ops.kernels import KERNELS, Context

Form = tuple[str, str, str]
"""How scores are scaled, what is computed in fp32, and how heads share keys."""

USUAL = SCALINGS[0], PRECISIONS[0], SHARINGS[0]


def form_of(module: nn.Module) -> Form | None:
    """The form of the eager function beside a module's class; the usual one where none tells; None for one of no form."""
    function = getattr(sys.modules.get(type(module).__module__), "eager_attention_forward", None)
    if function is None:
        return USUAL
    # A thread of its own has none of the modes under which a trace runs.
    with ThreadPoolExecutor(max_workers=1) as apart:
        return apart.submit(_form, function).result()


@lru_cache(maxsize=512)
def _form(function: Any) -> Form | None:
    noted = _noted(function)
    # Where few numbers are seen, several forms may give the same: how the softmax is called tells the likely one.
    # With sinks the softmax is in the dtype of the scores either way.
    narrow = noted.narrow and not _takes_sinks(function)
    precisions = sorted(PRECISIONS, key=lambda name: (name == "model") is not narrow)
    forms = ((scaling, precision) for precision, scaling in product(precisions, SCALINGS))
    try:
        found = next((form for form in forms if _is_alike(function, *form)), None)
    except Exception:  # a stranger's function may raise anything
        found = USUAL[:2]
    return found and (*found, "broadcast" if noted.heads == {1} else "repeated")


class _Notes(TorchFunctionMode):
    """Notes how many heads of keys products are given, and whether the softmax gives what is narrower than fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: set[int] = set()
        self.narrow = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.matmul, torch.Tensor.matmul):
            self.heads.add(args[1].shape[1])
        if func in (torch.softmax, torch.Tensor.softmax, nn.functional.softmax):
            self.narrow = result.dtype is torch.bfloat16
        return result


def _noted(function: Any) -> _Notes:
    """How a function goes about three heads of queries that share one of keys, in bf16."""
    q, k, v = (torch.ones(1, heads, 4, 4, dtype=torch.bfloat16) for heads in (3, 1, 1))
    holder = _holder(3)
    holder.num_key_value_groups = 3
    notes = _Notes()
    try:
        with notes:
            function(holder, q, k, v, None, scaling=1.0, dropout=0.0)
    except Exception:  # a stranger's function may raise anything
        return _Notes()
    return notes


class _Holder(nn.Module):
    """What an eager function may ask of the module that it serves."""

    num_key_value_groups = 1
    is_causal = True
    sinks: torch.Tensor


def _takes_sinks(function: Any) -> bool:
    """Whether a function asks for sinks: of its module, or by an argument."""
    code = getattr(function, "__code__", None)
    return "sinks" in getattr(code, "co_names", ()) or "s_aux" in getattr(code, "co_varnames", ())


def _holder(heads: int) -> "_Holder":
    """A module with sinks, which only some functions ask for."""
    holder = _Holder().eval()
    holder.sinks = torch.randn(heads, generator=generator())
    return holder


def _is_alike(function: Any, scaling: str, precision: str) -> bool:
    """Whether a function gives what our eager attention gives in one form, in fp32 and in bf16. Raises what it raises."""
    attrs = {**VARIANTS["attention"], "scale": 0.37, "scaling": scaling, "precision": precision}
    arguments = getattr(getattr(function, "__code__", None), "co_varnames", ())
    named = next((name for name in ("bias", "position_bias") if name in arguments), "")
    sunk = _takes_sinks(function)
    random = generator()
    for dtype in DTYPES:
        q, k, v = (torch.randn(2, 3, 9, 12, generator=random).to(dtype) for _ in range(3))
        given = {named: torch.randn(1, 3, 1, 9, generator=random).to(dtype)} if named else {}
        holder = _holder(3).to(dtype)
        holder.sinks = holder.sinks.to(dtype)
        known = ({"bias": given[named]} if named else {}) | ({"sinks": holder.sinks} if sunk else {})
        given |= {"s_aux": holder.sinks} if "s_aux" in arguments else {}
        context = Context(2, 9, q.device, dtype, backend="eager")
        (ours,) = KERNELS["attention"]({"q": q, "k": k, "v": v, **known}, attrs, {}, context)
        hidden = torch.ones(9, 9, dtype=torch.bool).triu(1)[None, None]
        mask = torch.zeros(2, 1, 9, 9, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
        theirs = function(holder, q, k, v, mask, scaling=0.37, dropout=0.0, **given)[0]
        if theirs.dtype != ours.dtype or not torch.equal(theirs, ours):
            return False
    return True


__all__ = ["USUAL", "form_of"]
