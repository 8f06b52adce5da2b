"""Name the dimensions of values: run the same graph with a prime for each size, and read each dimension back."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import LAYER, Block, Document, LayerKind, Node
from canvas_rt.ir.expressions import Expression, expression, is_expression
from canvas_rt.ir.frozen import FrozenMap

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


BATCH, SEQUENCE = prime(0), prime(1)


def label_environment(document: Document) -> FrozenMap[str, Any]:
    """Each size as a prime of its own, one that follows from others too; config values as they are."""
    primes = {name: prime(2 + index) for index, name in enumerate(sorted(document.sizes))}
    if {"image_size", "patch_size"} <= primes.keys():  # whole patches, as many as make another prime
        primes["image_size"] *= primes["patch_size"]
    return FrozenMap({**document.config, **primes})


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
        if label in (BATCH, SEQUENCE):
            return "batch" if label == BATCH else "seq"
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
    names = {environment[name]: name for name in environment if name in sizes}
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
