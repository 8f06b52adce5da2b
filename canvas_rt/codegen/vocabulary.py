"""What the functions of an emitted graph are, and how each is written in Python."""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from canvas_rt.codegen.syntax import constant, quote

Write = Callable[[Sequence[ast.expr], Mapping[str, Any]], ast.expr]
"""From the inputs' expressions and the node's details to the expression that computes it."""


def split_heads(x: Any, width: Any) -> Any:
    """[batch, seq, heads · width] → [batch, heads, seq, width]."""


def merge_heads(x: Any) -> Any:
    """[batch, seq, heads, width] → [batch, seq, heads · width]."""


def apply_rotary(q: Any, k: Any, cos: Any, sin: Any) -> Any:
    """Queries and keys turned by position."""


def attention(q: Any, k: Any, v: Any) -> Any:
    """Causal attention through the attention interface, with the cache."""


def stack(carried: Any, *invariants: Any) -> Any:
    """Layers, one after the other."""


def scale(x: Any, factor: float) -> Any:
    """Times a constant."""


def softmax(x: Any) -> Any:
    """Probabilities along the last dimension."""


def port(values: Any, name: str) -> Any:
    """One of several outputs."""


EXPRESSIONS: Mapping[Any, Write] = {
    operator.add: lambda inputs, details: quote("a + b", a=inputs[0], b=inputs[1]),
    operator.sub: lambda inputs, details: quote("a - b", a=inputs[0], b=inputs[1]),
    operator.mul: lambda inputs, details: quote("a * b", a=inputs[0], b=inputs[1]),
    split_heads: lambda inputs, details: quote(
        "x.view(batch, seq, -1, width).transpose(1, 2)", x=inputs[0], width=details["width"]
    ),
    merge_heads: lambda inputs, details: quote("x.reshape(batch, seq, -1)", x=inputs[0]),
    scale: lambda inputs, details: quote("x * factor", x=inputs[0], factor=details["factor"]),
    softmax: lambda inputs, details: quote("x.softmax(dim=-1)", x=inputs[0]),
    apply_rotary: lambda inputs, details: quote(
        "apply_rotary(q, k, cos, sin)", **dict(zip(("q", "k", "cos", "sin"), inputs, strict=True))
    ),
}

NEEDS_SIZES = frozenset({split_heads, merge_heads})
"""Functions written with `batch` and `seq`."""

HELPERS: Mapping[Any, str] = {apply_rotary: "apply_rotary", attention: "eager_attention_forward"}
"""Functions that the module defines where they are used."""

__all__ = ["EXPRESSIONS", "HELPERS", "NEEDS_SIZES", "constant"]
