"""Expressions over a model's sizes, such as `num_attention_heads * head_dim`: parsed by a whitelist, never executed."""

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from canvas_rt.errors import CanvasError
from canvas_rt.ir.frozen import FrozenMap

Number = int | float
Environment = Mapping[str, Any]
"""What the names in an expression stand for: sizes and other config values."""

LIMIT = 2**62
"""No size, and no step on the way to one, may exceed what fits a tensor's index."""

LONGEST = 400
DEEPEST = 24


class ExpressionError(CanvasError):
    """An expression is malformed, names something unknown, or has no sensible value."""


def _bounded(value: Number, text: str) -> Number:
    if value != value or abs(value) > LIMIT:
        raise ExpressionError(f"'{text}' is out of range: {value!r}")
    return value


def _power(base: Number, exponent: Number) -> Number:
    if abs(exponent) > 16 or (base == 0 and exponent < 0) or (base < 0 and not isinstance(exponent, int)):
        raise ExpressionError(f"{base} ** {exponent} is not allowed in a size")
    return base**exponent


OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Number]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Div: lambda a, b: a / b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: _power,
}


@dataclass(frozen=True)
class Expression:
    """An arithmetic expression over named config values."""

    tree: ast.expr
    """Holds only names, numbers and the operators of `OPERATORS`."""

    text: str
    """Canonical spelling, as Python prints it."""

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name))

    def evaluate(self, environment: Environment) -> Any:
        """The expression's value. A lone name may stand for any config value; arithmetic needs numbers.

        Raises `ExpressionError` for a name that `environment` lacks, division by zero and values out of range.
        """
        return self._evaluate(self.tree, environment)

    def _evaluate(self, node: ast.expr, environment: Environment) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            if node.id not in environment:
                raise ExpressionError(f"'{self.text}' names '{node.id}', which is not a size of this model")
            return environment[node.id]
        if isinstance(node, ast.UnaryOp):
            return -self._number(node.operand, environment)
        assert isinstance(node, ast.BinOp)
        left, right = self._number(node.left, environment), self._number(node.right, environment)
        try:
            return _bounded(OPERATORS[type(node.op)](left, right), self.text)
        except (ZeroDivisionError, OverflowError) as error:
            raise ExpressionError(f"'{self.text}' has no value: {error}") from error

    def _number(self, node: ast.expr, environment: Environment) -> Number:
        value = self._evaluate(node, environment)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ExpressionError(f"'{self.text}' needs a number where it has {ast.unparse(node)} = {value!r}")
        return value

    def replace(self, names: Mapping[str, ast.expr]) -> "Expression":
        """The same expression with some names replaced by others or by whole expressions."""

        class Renamer(ast.NodeTransformer):
            def visit_Name(self, node: ast.Name) -> ast.expr:
                return names.get(node.id, node)

        copied = ast.parse(self.text, mode="eval").body
        return from_tree(Renamer().visit(copied))


def _validate(node: ast.AST, text: str, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise ExpressionError(f"'{text[:60]}…' is nested too deeply")
    match node:
        case ast.Constant(value=bool()):
            raise ExpressionError(f"'{text}' may hold only numbers and names, not true or false")
        case ast.Constant(value=int() | float() as value):
            _bounded(value, text)
        case ast.Name():
            pass
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            _validate(operand, text, depth + 1)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            _validate(left, text, depth + 1)
            _validate(right, text, depth + 1)
        case _:
            raise ExpressionError(f"'{text}' may hold only names, numbers and + - * / // % **")


def from_tree(tree: ast.expr) -> Expression:
    text = re.sub(r"\*\* \((-[\d.]+)\)", r"** \1", ast.unparse(tree))
    _validate(tree, text)
    return Expression(tree, text)


@lru_cache(maxsize=65536)
def parse(text: str) -> Expression:
    """Read an expression; raises `ExpressionError` for anything but arithmetic over names and numbers."""
    if len(text) > LONGEST:
        raise ExpressionError(f"an expression of {len(text)} characters is longer than {LONGEST}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"'{text}' is not an expression") from error
    return from_tree(tree)


def is_expression(value: object) -> bool:
    """In a document, text that begins with `=` is an expression over the model's sizes; all else is a constant."""
    return isinstance(value, str) and value.startswith("=")


def expression(value: str) -> Expression:
    """The expression behind a document value such as `=head_dim * 2`."""
    return parse(value[1:])


def resolve(value: Any, environment: Environment) -> Any:
    """A document value with its expressions replaced by what they stand for; lists and tables are walked."""
    if isinstance(value, str):
        return expression(value).evaluate(environment) if value.startswith("=") else value
    if isinstance(value, tuple):
        return tuple(resolve(item, environment) for item in value)
    if isinstance(value, Mapping):
        return FrozenMap({key: resolve(item, environment) for key, item in value.items()})
    return value


def names_in(value: Any) -> frozenset[str]:
    """Every size or config value that a document value refers to."""
    if isinstance(value, str):
        return expression(value).names if value.startswith("=") else frozenset()
    if isinstance(value, tuple):
        return frozenset().union(*(names_in(item) for item in value))
    if isinstance(value, Mapping):
        return frozenset().union(*(names_in(item) for item in value.values()))
    return frozenset()


def numbers_in(value: Any) -> frozenset[Number]:
    """The numbers that are written out in an expression; a number is itself."""
    if not is_expression(value):
        return frozenset({value})
    constants = (node.value for node in ast.walk(expression(value).tree) if isinstance(node, ast.Constant))
    return frozenset(number for number in constants if isinstance(number, int | float))


def display(value: Any) -> str:
    """How a document value is shown to people: expressions without their `=`."""
    if isinstance(value, str):
        return value[1:] if value.startswith("=") else value
    if isinstance(value, tuple):
        return "[" + ", ".join(display(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {display(item)}" for key, item in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
