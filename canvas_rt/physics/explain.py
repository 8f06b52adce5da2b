"""Where a node's numbers come from: formulas in the model's own sizes, each of which evaluates to its number."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document, Node, Stack
from canvas_rt.ir.expressions import display, resolve
from canvas_rt.ir.graph import parse_layers, walk
from canvas_rt.ops.catalogue import complete
from canvas_rt.ops.functions import RUN_TIME
from canvas_rt.physics.shapes import Check

Dims = tuple[int, ...]


@dataclass(slots=True)
class Terms:
    """A sum of products of sizes."""

    counts: dict[Dims, int] = field(default_factory=dict)
    """How often each product occurs, by its factors in ascending order."""

    order: dict[Dims, Dims] = field(default_factory=dict)
    """The factors as they came first: outputs before inputs, as a shape has them."""

    def add(self, dims: Iterable[int], count: int = 1) -> None:
        given = tuple(dim for dim in dims if dim != 1)
        key = tuple(sorted(given))
        self.order.setdefault(key, given)
        self.counts[key] = self.counts.get(key, 0) + count

    @property
    def value(self) -> int:
        return sum(count * prod(dims) for dims, count in self.counts.items())


@dataclass(frozen=True)
class Place:
    """A node, with the names that its numbers may have."""

    node: Node | None
    environment: Mapping[str, Any]
    known: Mapping[int, str]
    """Numbers that have a name here, as a factor of a product."""

    depths: tuple[tuple[int, str], ...]
    """Of the stacks around it: layers alike, and what they are called."""

    def text(self, terms: Terms, value: int) -> str:
        """A formula for a value; what the terms leave, such as rounding, is added as a number."""
        times = prod(count for count, _ in self.depths)
        each = {dims: count // times for dims, count in terms.counts.items() if count and count % times == 0}
        others = {dims: count for dims, count in terms.counts.items() if count and count % times}
        inside = [self._product(terms.order[dims], count) for dims, count in each.items()]
        layers = "".join(f" × {name}" for count, name in self.depths if count > 1)
        parts = [f"({' + '.join(inside)}){layers}" if layers and len(inside) > 1 else f"{' + '.join(inside)}{layers}"]
        parts = [part for part in parts if inside] + [self._product(terms.order[d], n) for d, n in others.items()]
        text, rest = " + ".join(parts), value - terms.value
        if rest:
            text = f"{text} {'+' if rest > 0 else '-'} {abs(rest)}" if text else str(rest)
        return text or "0"

    def _product(self, dims: Dims, count: int) -> str:
        factors = [self._name(dim) for dim in dims]
        return " × ".join([*([str(count)] if count != 1 or not factors else []), *factors])

    def _name(self, dim: int) -> str:
        if dim in self.known:
            return self.known[dim]
        for first, name in self.known.items():
            if first > 1 and dim % first == 0 and dim // first in self.known:
                return f"{name} × {self.known[dim // first]}"
        return str(dim)


class Explainer:
    """Names the numbers of a document's nodes."""

    def __init__(self, document: Document, checked: Check, batch: int, sequence: int) -> None:
        self.document = document
        self.checked = checked
        self.batch, self.sequence = batch, sequence
        self.run_time = dict(zip(RUN_TIME, (batch, sequence, sequence), strict=True))

    @cached_property
    def visits(self) -> Mapping[str, tuple[Node, Mapping[str, Any]]]:
        """Every node with the sizes that it sees."""
        return {v.path: (v.item, v.environment) for v in walk(self.document) if isinstance(v.item, Node)}

    @cached_property
    def stacks(self) -> Mapping[str, str]:
        """What the number of layers of each stack is called."""
        return {v.path: display(v.item.repeat) for v in walk(self.document) if isinstance(v.item, Stack)}

    def names(self, path: str) -> dict[str, Any]:
        """What the formulas of a path may refer to."""
        _, environment = self._visit(path)
        return {**environment, **self.run_time}

    def place(self, path: str) -> Place:
        node, environment = self._visit(path)
        return Place(node, environment, self._known(path, node, environment), tuple(self._depths(path)))

    def _visit(self, path: str) -> tuple[Node | None, Mapping[str, Any]]:
        found = self.visits.get(path)
        if found is None:  # a part of the layers that `walk` puts together
            found = next((visit for known, visit in self.visits.items() if _within(path, known)), None)
        return found if found is not None else (None, self.document.environment)

    def _known(self, path: str, node: Node | None, environment: Mapping[str, Any]) -> Mapping[int, str]:
        known: dict[int, str] = {}
        if node is not None:
            for value in complete(node).values():
                if isinstance(value, str) and value.startswith("="):
                    _learn(known, resolve(value, {**environment, **self.run_time}), _factor(display(value)))
        for symbolic, actual in self._shapes(path):
            for name, size in zip(symbolic, actual, strict=True):
                _learn(known, size, _factor(name))
        for name, size in (("batch", self.batch), ("seq", self.sequence), ("(seq + 1)", self.sequence + 1)):
            _learn(known, size, name)
        for name in self.document.sizes:
            _learn(known, environment.get(name), name)
        return known

    def _shapes(self, path: str) -> Iterator[tuple[Sequence[str], Sequence[int]]]:
        for known, shapes in self.checked.shapes.items():
            if known == path or _within(path, known):
                yield from ((shape.symbolic, shape.actual) for shape in shapes if shape is not None)

    def _depths(self, path: str) -> Iterator[tuple[int, str]]:
        parts = path.split(".")
        for index, part in enumerate(parts):
            span = parse_layers(part)
            if span is None or index == 0:
                continue
            stack = ".".join(parts[:index])
            count = span[1] - span[0]
            name = self.stacks.get(stack, "")
            whole = name.isidentifier() and self.document.environment.get(name) == count
            yield count, name if whole else str(count)


def _learn(known: dict[int, str], size: Any, name: str) -> None:
    if isinstance(size, int) and not isinstance(size, bool) and size > 1 and not name.isdecimal():
        known.setdefault(size, name)


def _factor(text: str) -> str:
    """An expression as a factor of a product."""
    if any(sign in text for sign in "+-/%"):
        return f"({text})"
    return text.replace("**", "^").replace("*", "×").replace("^", "**")


def _within(path: str, known: str) -> bool:
    """Whether a path names some of the layers that another names."""
    parts, others = path.split("."), known.split(".")
    if len(parts) != len(others):
        return False
    for part, other in zip(parts, others, strict=True):
        if part == other:
            continue
        inner, outer = parse_layers(part), parse_layers(other)
        if inner is None or outer is None or not (outer[0] <= inner[0] and inner[1] <= outer[1]):
            return False
    return True


def evaluate(formula: str, names: Mapping[str, Any]) -> int:
    """What a formula comes to. Raises `CanvasError` for one that has no value."""
    value = resolve("=" + formula.replace("×", "*"), names)
    if not isinstance(value, int):
        raise CanvasError(f"{formula} is no whole number")
    return value
