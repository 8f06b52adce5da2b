"""Name the dimensions of values: run the same graph with a prime for each size, and read each dimension back."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import LAYER, Block, Document, LayerKind, Node
from canvas_rt.ir.expressions import Expression, expression, is_expression
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ops.functions import RUN_TIME

FIRST_PRIME = 1009
"""Large enough that few literals are multiples of a size's prime, small enough that no tensor has 2**63 elements."""


@lru_cache(maxsize=1)
def _primes() -> list[int]:
    return []


def prime(index: int) -> int:
    """The prime that stands for the `index`-th name."""
    found = _primes()
    candidate = found[-1] + 2 if found else FIRST_PRIME
    while len(found) <= index:
        if all(candidate % divisor for divisor in range(3, int(candidate**0.5) + 1, 2)):
            found.append(candidate)
        candidate += 2
    return found[index]


BATCH, SEQUENCE, SOURCE = prime(0), prime(1), 997
RUN_TIME_LABELS: Mapping[int, str] = dict(zip((BATCH, SEQUENCE, SOURCE), RUN_TIME, strict=True))


def label_environment(document: Document) -> FrozenMap[str, Any]:
    """Each size as a prime of its own, one that follows from others too; config values as they are.

    A size that others divide is a multiple of theirs, so that its parts are whole: heads, or patches of an image.
    """
    primes = {name: prime(2 + index) for index, name in enumerate(sorted(document.sizes))}
    divided = _divided(document.blocks)
    for name in sorted(primes.keys() & divided.keys()):
        if not divided.keys() & divided[name] and len(divided[name]) <= MOST_DIVISORS:
            primes[name] *= prod(primes[other] for other in divided[name] & primes.keys())
    return FrozenMap({**document.config, **primes})


MOST_DIVISORS = 2
"""With more, a tensor could have more elements than can be counted."""


@lru_cache(maxsize=64)
def _divided(blocks: FrozenMap[str, Block]) -> Mapping[str, frozenset[str]]:
    """For each name that settings divide, the names that they divide it by."""
    found: dict[str, set[str]] = {}
    settings = (v for block in blocks.values() for i in block.nodes if isinstance(i, Node) for v in i.attrs.values())
    for value in settings:
        for part in value if isinstance(value, tuple) else (value,):
            for step in ast.walk(expression(part).tree) if is_expression(part) else ():
                match step:
                    case ast.BinOp(left=ast.Name(id=name), op=ast.FloorDiv(), right=ast.Name(id=other)):
                        found.setdefault(name, set()).add(other)
    return {name: frozenset(others) for name, others in found.items()}


def layer_label_environment(environment: Mapping[str, Any], kind: LayerKind) -> FrozenMap[str, Any]:
    """Sizes that a kind of layer has for itself are other numbers than the model's of the same name."""
    names = sorted(environment)
    own = {name: prime(2 + len(names) + names.index(name)) for name in kind.sizes if name in environment}
    return FrozenMap({**environment, **own, LAYER: 0})


@dataclass(frozen=True)
class Reader:
    """Reads dimensions of one block."""

    names: Mapping[int, str]
    """Primes, and the sizes that they stand for."""

    expressions: Mapping[int, Expression]
    """Other numbers that settings of the block's nodes come to."""

    def read(
        self, labels: tuple[int, ...] | None, actual: tuple[int, ...], environment: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """A shape in the model's own sizes; a number where no expression is known to give it."""
        if labels is None or len(labels) != len(actual):
            return tuple(map(str, actual))
        return tuple(self._one(label, size, environment) for label, size in zip(labels, actual, strict=True))

    def _one(self, label: int, actual: int, environment: Mapping[str, Any]) -> str:
        known = self._expression(label)
        if known is None:
            return str(actual)
        if isinstance(known, str):
            return known
        try:
            # What the primes suggest must hold for the real sizes too: a literal may be a prime's multiple by chance.
            return known.text if known.evaluate(environment) == actual else str(actual)
        except CanvasError:
            return str(actual)

    def _expression(self, label: int) -> Expression | str | None:
        if label in RUN_TIME_LABELS:
            return RUN_TIME_LABELS[label]
        if label in self.expressions:
            return self.expressions[label]
        if not label:
            return None  # with primes for sizes, a part may be empty that is not so with the real ones
        rest, factors = label, []
        for number, name in self.names.items():
            while rest % number == 0:
                rest //= number
                factors.append(name)
        if not factors:
            return None
        return expression("=" + " * ".join(factors if rest == 1 else [str(rest), *factors]))


@lru_cache(maxsize=1024)
def reader(block: Block, environment: FrozenMap[str, Any], sizes: frozenset[str]) -> Reader:
    """What reads the dimensions in a block whose labels were made in `environment`."""
    # What is a multiple of others comes first: it is read whole.
    names = {environment[name]: name for name in sorted(sizes & environment.keys(), key=lambda n: -environment[n])}
    expressions: dict[int, Expression] = {}
    for node in block.nodes:
        for value in node.attrs.values() if isinstance(node, Node) else ():
            for part in value if isinstance(value, tuple) else (value,):
                if is_expression(part):
                    _add(expressions, expression(part), environment)
    return Reader(names, expressions)


def _add(expressions: dict[int, Expression], known: Expression, environment: Mapping[str, Any]) -> None:
    try:
        value = known.evaluate(environment)
    except CanvasError:
        return
    if isinstance(value, int) and not isinstance(value, bool) and value >= FIRST_PRIME // 4:
        expressions.setdefault(value, known)
