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


def view_heads(x: Any, width: Any) -> Any:
    """[batch, seq, heads · width] → [batch, seq, heads, width]."""


def heads_first(x: Any) -> Any:
    """[batch, seq, heads, width] → [batch, heads, seq, width]."""


def in_a_row(x: Any) -> Any:
    """[batch, seq, size] → [tokens, size]."""


def padded_positions(ids: Any) -> Any:
    """Positions in which padding does not count."""


def attribute() -> Any:
    """A tensor that the module keeps."""


def function(*inputs: Any) -> Any:
    """A plain function of torch."""


def merge_heads(x: Any) -> Any:
    """[batch, seq, heads, width] → [batch, seq, heads · width]."""


def apply_rotary(q: Any, k: Any, cos: Any, sin: Any) -> Any:
    """Queries and keys turned by position."""


def rotate(x: Any, cos: Any, sin: Any) -> Any:
    """One value turned by position."""


def rotation_suffix(attrs: Mapping[str, Any]) -> str:
    """What sets the function of a rotation's settings apart from the usual: `_interleaved_wide`."""
    words = [attrs["style"]] if attrs["style"] != "half" else []
    words += [attrs["tables"]] if attrs["tables"] != "full" else []
    words += [name for name in ("tail", "wide", "tokens_first") if attrs[name]]
    words += ["part"] if attrs["joined"] else []
    return "".join(f"_{word}" for word in words)


def _call(function: str) -> Write:
    """A call of a function that the module defines, one for each way to compute it."""
    return lambda inputs, details: ast.Call(
        ast.Name(function + details.get("suffix", ""), ast.Load()), list(inputs), []
    )


def attention(q: Any, k: Any, v: Any) -> Any:
    """Causal attention through the attention interface, with the cache."""


def alibi() -> Any:
    """A bias of attention, made for the keys that it meets: those of the cache, and new ones."""


def relative_bias(position_ids: Any) -> Any:
    """A bias that is learned by distance, made for the keys that it meets."""


def stack(carried: Any, *invariants: Any) -> Any:
    """Layers, one after the other."""


def scale(x: Any, factor: float) -> Any:
    """Times a constant."""


def softmax(x: Any) -> Any:
    """Probabilities along the last dimension."""


def keys_and_values(*inputs: Any) -> Any:
    """Keys and values of what an encoder gives: the cache keeps them once they are made."""


def port(values: Any, name: str) -> Any:
    """One of several outputs."""


EXPRESSIONS: Mapping[Any, Write] = {
    operator.add: lambda inputs, details: quote("a + b", a=inputs[0], b=inputs[1]),
    operator.sub: lambda inputs, details: quote("a - b", a=inputs[0], b=inputs[1]),
    operator.mul: lambda inputs, details: quote("a * b", a=inputs[0], b=inputs[1]),
    split_heads: lambda inputs, details: quote(
        "x.view(batch, seq, -1, width).transpose(1, 2)", x=inputs[0], width=details["width"], seq=details["length"]
    ),
    view_heads: lambda inputs, details: quote(
        "x.view(batch, seq, -1, width)", x=inputs[0], width=details["width"], seq=details["length"]
    ),
    heads_first: lambda inputs, details: quote("x.transpose(1, 2)", x=inputs[0]),
    padded_positions: lambda inputs, details: quote(
        "padded_positions(ids, position_ids[:, :1], padding)", ids=inputs[0], padding=details["padding_idx"]
    ),
    in_a_row: lambda inputs, details: quote("x.flatten(0, -2)", x=inputs[0]),
    attribute: lambda inputs, details: details["value"],
    function: lambda inputs, details: details["write"](inputs),
    merge_heads: lambda inputs, details: quote("x.reshape(batch, seq, -1)", x=inputs[0], seq=details["length"]),
    scale: lambda inputs, details: quote("x * factor", x=inputs[0], factor=details["factor"]),
    softmax: lambda inputs, details: quote("x.softmax(dim=-1)", x=inputs[0]),
    apply_rotary: _call("apply_rotary"),
    rotate: _call("rotate"),
}

SHAPING = frozenset({split_heads, view_heads, heads_first, merge_heads, in_a_row, attribute, port})
"""Functions that compute nothing: when they are called makes no difference."""

NEEDS_SIZES = frozenset({split_heads, view_heads, merge_heads})
"""Functions written with `batch` and a length."""

HELPERS: Mapping[Any, str] = {apply_rotary: "apply_rotary", attention: "eager_attention_forward"}
"""Functions that the module defines where they are used."""

__all__ = ["EXPRESSIONS", "HELPERS", "NEEDS_SIZES", "constant"]
