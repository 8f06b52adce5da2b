"""How a plain function of torch is written in emitted code: from its row of the table, and the values it is given."""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from canvas_rt.codegen.syntax import quote
from canvas_rt.ops.choices import INFINITIES
from canvas_rt.ops.functions import Function

Write = Callable[[Any], ast.expr]
"""From a setting to the expression that gives its value where the function stands."""


@dataclass(frozen=True)
class Anchor:
    """Where a function that makes a value from nothing takes device and dtype from."""

    device: ast.expr
    dtype: ast.expr


def expression_of(
    function: Function, inputs: Sequence[ast.expr], attrs: Mapping[str, Any], local: Write, anchor: Anchor
) -> ast.expr:
    """The call as people write it. `inputs` in the order of the op's ports, `attrs` as written in the document."""
    values = dict(_values(function, inputs, attrs, local, anchor))
    if function.name in ("slice", "select"):
        return _indexed(function, values, attrs, local)
    tree = _Fill(values, anchor).visit(quote(function.text))
    return _without_defaults(function, tree, attrs)


def _values(
    function: Function, inputs: Sequence[ast.expr], attrs: Mapping[str, Any], local: Write, anchor: Anchor
) -> Any:
    given = iter(inputs)
    for argument in function.arguments:
        if argument.kind == "tensor":
            yield argument.name, next(given)
        elif argument.kind == "tensors":
            yield argument.name, ast.Tuple(list(given), ast.Load())
        elif argument.kind == "dtype":
            yield argument.name, _dtype(attrs[argument.name], anchor)
        elif argument.kind in ("ints", "dims"):
            yield argument.name, _integers(attrs[argument.name], local, single=argument.kind == "dims")
        elif argument.kind == "number" and attrs[argument.name] in INFINITIES:
            yield argument.name, quote("float(name)", name=ast.Constant(attrs[argument.name]))
        elif argument.kind != "none":
            yield argument.name, local(attrs[argument.name])


def _dtype(name: str | None, anchor: Anchor) -> ast.expr:
    if name is None:
        return ast.Constant(None)
    return anchor.dtype if name == "model" else quote("torch._name_", _name_=name)


def _integers(value: Any, local: Write, *, single: bool) -> ast.expr:
    if not isinstance(value, tuple):
        return local(value)
    if single and len(value) == 1:
        return local(value[0])
    return ast.Tuple([local(one) for one in value], ast.Load())


def _indexed(function: Function, values: Mapping[str, Any], attrs: Mapping[str, Any], local: Write) -> ast.expr:
    """`x[:, 2:]`, `x[..., -1]`."""
    dim = attrs["dim"]
    if function.name == "select":
        place: ast.expr = local(attrs["index"])
    else:
        bounds = [None if attrs[name] in (None, plain) else local(attrs[name]) for name, plain in _BOUNDS]
        place = ast.Slice(*bounds)
    before: list[ast.expr] = [ast.Constant(...)] if dim == -1 else [ast.Slice() for _ in range(dim)]
    index = ast.Tuple([*before, place], ast.Load()) if before else place
    return ast.Subscript(values["x"], index, ast.Load())


_BOUNDS = (("start", None), ("end", None), ("step", 1))


class _Fill(ast.NodeTransformer):
    """Puts values in the place of names; a starred list becomes arguments."""

    def __init__(self, values: Mapping[str, ast.expr], anchor: Anchor) -> None:
        self.values = values
        self.anchor = anchor

    def visit_Call(self, node: ast.Call) -> ast.AST:
        arguments: list[ast.expr] = []
        for argument in node.args:
            if isinstance(argument, ast.Starred) and isinstance(argument.value, ast.Name):
                value = self.values[argument.value.id]
                arguments += value.elts if isinstance(value, ast.Tuple) else [value]
            else:
                arguments.append(self.visit(argument))
        node.args = arguments
        node.func = self.visit(node.func)
        node.keywords = [ast.keyword(one.arg, self.visit(one.value)) for one in node.keywords]
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id == "like":
            return self.anchor.device
        self.generic_visit(node)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.values.get(node.id, node)


def _without_defaults(function: Function, tree: ast.expr, attrs: Mapping[str, Any]) -> ast.expr:
    """Leave out keywords that say what the function does anyway."""
    if isinstance(tree, ast.Call):
        plain = {a.name for a in function.arguments if not a.required and attrs.get(a.name) == a.default}
        tree.keywords = [one for one in tree.keywords if one.arg not in plain]
    return tree


__all__ = ["Anchor", "expression_of"]
