"""Build Python syntax from templates: names in a template are replaced by trees, so no text from a document is pasted."""

import ast
import builtins
import copy
import keyword
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from canvas_rt.ir.document import LAYER
from canvas_rt.ir.expressions import expression, is_expression

GLOBALS = frozenset(
    {
        "torch",
        "nn",
        "copy",
        "Any",
        "Callable",
        "Tensor",
        "Cache",
        "DynamicCache",
        "strict",
        "super",
        "self",
        "config",
        "kwargs",
    }
)
"""Names that emitted modules use for themselves."""


@lru_cache(maxsize=512)
def _parsed(template: str) -> ast.Module:
    return ast.parse(template)


class _Fill(ast.NodeTransformer):
    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.AST:
        value = self.values.get(node.id)
        if value is None:
            return node
        return ast.Name(value, node.ctx) if isinstance(value, str) else copy.deepcopy(value)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        name = self.values.get(node.attr) if node.attr.startswith("_") and node.attr.endswith("_") else None
        return ast.Attribute(node.value, name, node.ctx) if isinstance(name, str) else node


def statements(template: str, **values: ast.expr | str) -> list[ast.stmt]:
    """A template's statements with some names replaced: by a tree, or by another name."""
    tree = _Fill(values).visit(copy.deepcopy(_parsed(template)))
    return tree.body  # type: ignore[no-any-return]


def quote(template: str, **values: ast.expr | str) -> ast.expr:
    """A template that is one expression."""
    (statement,) = statements(template, **values)
    assert isinstance(statement, ast.Expr)
    return statement.value


def constant(value: Any) -> ast.expr:
    """A document's constant as syntax."""
    if isinstance(value, Mapping):
        return ast.Dict([ast.Constant(key) for key in value], [constant(item) for item in value.values()])
    if isinstance(value, list | tuple):
        return ast.List([constant(item) for item in value], ast.Load())
    if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
        return ast.UnaryOp(ast.USub(), ast.Constant(-value))
    assert value is None or isinstance(value, bool | int | float | str)
    return ast.Constant(value)


def setting(value: Any, owner: str = "config") -> ast.expr:
    """A document value as syntax, its names read from `owner`: `=head_dim * 2` becomes `config.head_dim * 2`.

    A layer's number is what its class is made with.
    """
    if isinstance(value, Mapping):
        return ast.Dict([ast.Constant(key) for key in value], [setting(item, owner) for item in value.values()])
    if isinstance(value, list | tuple):
        return ast.List([setting(item, owner) for item in value], ast.Load())
    if not is_expression(value):
        return constant(value)
    parsed = expression(value)
    names: dict[str, Any] = {
        name: ast.Attribute(ast.Name(owner, ast.Load()), name, ast.Load()) for name in parsed.names
    }
    if LAYER in names:
        names[LAYER] = ast.Name("layer_idx", ast.Load())
    return _Fill(names).visit(copy.deepcopy(parsed.tree))  # type: ignore[no-any-return]


def fill(tree: ast.expr, values: Mapping[str, ast.expr | str]) -> ast.expr:
    """A tree with some of its names replaced."""
    return _Fill(values).visit(copy.deepcopy(tree))  # type: ignore[no-any-return]


def unparse(tree: ast.AST | Iterable[ast.stmt]) -> str:
    """Syntax as text."""
    if not isinstance(tree, ast.AST):
        return "\n".join(unparse(statement) for statement in tree)
    return re.sub(r"\*\* \((-[\d.]+)\)", r"** \1", ast.unparse(ast.fix_missing_locations(tree)))


def names_of(tree: ast.AST) -> frozenset[str]:
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def fresh(preferred: str, taken: set[str]) -> str:
    """A local name that collides with nothing, marked as taken."""
    name, number = preferred, 1
    while name in taken or name in GLOBALS or keyword.iskeyword(name) or hasattr(builtins, name):
        name = f"{preferred}_{number}"
        number += 1
    taken.add(name)
    return name
