"""Whether two computations are the same, told by running both."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def same(a: Any, b: Any) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)


def proved(equal: Callable[[torch.dtype], bool]) -> bool:
    """Whether two computations agree to the last bit, in fp32 and in bf16. What cannot be run is not proved."""
    try:
        with torch.no_grad():
            return all(equal(dtype) for dtype in (torch.float32, torch.bfloat16))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
