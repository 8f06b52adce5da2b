"""What a resized dimension takes from the one that it was: for each entry the old entries, told by the dimension's factors."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import lcm, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Block, Document, Node
from canvas_rt.ir.expressions import from_tree, is_expression, names_in, parse, resolve
from canvas_rt.ir.graph import head
from canvas_rt.ops.catalogue import complete, op_named
from canvas_rt.ops.op import ParameterSpec

Places = npt.NDArray[np.int64]
"""[entries, k]: the old entries of which each new one is the mean. A row of -1 takes none: it is new."""

MOST_PARTS = 8
"""A number up to this in front of a product counts parts one after the other, as in `2 * intermediate_size`."""

Rule = str
"""How a factor grows and shrinks: `keys`, `queries`, `experts`, or `plain`."""


@dataclass(frozen=True, slots=True)
class Roles:
    """What sizes count, by name, as far as that decides how tensors grow and shrink."""

    queries: frozenset[str]
    keys: frozenset[str]
    experts: frozenset[str]
    vocabulary: frozenset[str]

    def rule(self, names: frozenset[str]) -> Rule:
        """How a factor with these names grows and shrinks."""
        for rule in ("keys", "queries", "experts"):
            if names & getattr(self, rule):
                return rule
        return "plain"


def roles(document: Document) -> Roles:
    """What the sizes of a document count, as its graph says."""
    queries: set[str] = set()
    keys: set[str] = set()
    experts: set[str] = set()
    vocabulary: set[str] = {"vocab_size"}
    for block in document.blocks.values():
        for item in block.nodes:
            if not isinstance(item, Node):
                continue
            if item.op == "attention":
                queries |= _heads(block, item.inputs.get("q", ""))
                keys |= _heads(block, item.inputs.get("k", "")) | _heads(block, item.inputs.get("v", ""))
            elif item.op in ("router", "experts"):
                experts |= names_in(item.attrs.get("num_experts"))
            elif item.op == "embedding" and "input_ids" in item.inputs.values():
                vocabulary |= names_in(item.attrs.get("num_embeddings"))
    return Roles(frozenset(queries), frozenset(keys - queries), frozenset(experts), frozenset(vocabulary))


def _heads(block: Block, ref: str) -> frozenset[str]:
    """The sizes that say how many heads a value has: those of the nearest split into heads before it."""
    seen: set[str] = set()
    pending = [head(ref)] if ref else []
    found: frozenset[str] = frozenset()
    while pending:
        item = block.node(pending.pop())
        if item is None or item.id in seen:
            continue
        seen.add(item.id)
        if isinstance(item, Node) and item.op == "split_heads":
            found |= names_in(item.attrs.get("heads"))
        elif isinstance(item, Node) and item.op == "apply_rotary":
            port = ref.partition(".")[2] or "q"
            pending.append(head(item.inputs.get(port, "")))
        else:
            pending += [head(other) for other in item.inputs.values()]
    return found


class _Extent:
    """A size as it is written, which products of it stay."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __rmul__(self, factor: int) -> "_Extent":
        return _Extent(f"{factor} * ({self.text})")


Dimension = int | str
"""A number, or the text of an expression."""


def symbolic_shapes(
    node: Node, environment: Mapping[str, Any]
) -> tuple[tuple[ParameterSpec, tuple[Dimension, ...]], ...]:
    """A node's parameters, each with its dimensions as the node's settings write them."""

    def written(value: Any) -> Any:
        if is_expression(value):
            number = resolve(value, environment)
            return _Extent(value[1:]) if isinstance(number, int) and not isinstance(number, bool) else number
        if isinstance(value, tuple):
            return tuple(map(written, value))
        if isinstance(value, Mapping):
            return {key: written(item) for key, item in value.items()}
        return value

    settings = complete(node)
    op = op_named(node.op)
    numbers = op.parameters(resolve(settings, environment))
    texts = op.parameters(written(settings))
    turns = bool(settings.get("interleaved")) and node.op == "experts"  # of gate and up, row by row
    return tuple(
        (spec, tuple(_text(d, turns and spec.name.startswith("gate_up")) for d in text.shape))
        for spec, text in zip(numbers, texts, strict=True)
    )


def _text(dimension: Any, turns: bool) -> Dimension:
    if not isinstance(dimension, _Extent):
        return int(dimension)
    pairs = turns and dimension.text.startswith("2 * ")
    return f"{dimension.text[4:]} * 2" if pairs else dimension.text


@lru_cache(maxsize=4096)
def segments(text: str) -> tuple[tuple[str, ...], ...]:
    """A dimension as parts one after the other, each a product: `(a + 2 * b) * c` is `a * c`, `b * c`, `b * c`."""
    return tuple(tuple(ast.unparse(factor) for factor in part) for part in _segments(parse(text).tree))


def _segments(tree: ast.expr) -> list[list[ast.expr]]:
    match tree:
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _segments(left) + _segments(right)
        case ast.BinOp(left=ast.Constant(value=int(count)), op=ast.Mult(), right=right) if 0 < count <= MOST_PARTS:
            return _segments(right) * count
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return [[*a, *b] for a in _segments(left) for b in _segments(right)]
        case _:
            return [[tree]]


def value_of(text: str, environment: Mapping[str, Any]) -> int | None:
    """What an expression is, or None where something in it is not known."""
    try:
        value = from_tree(ast.parse(text, mode="eval").body).evaluate(environment)
    except CanvasError:
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass(frozen=True, slots=True)
class Resizing:
    """From what to what the sizes of a model went, at one place in it."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    roles: Roles

    def of(self, dimension: Dimension, held: int, new: int, *, told: bool) -> Places | None:
        """What a dimension that was `held` takes from it; None where nothing says how the two belong together.

        `told`: whether somebody said that these belong together; then entries keep their place where nothing is known.
        """
        if held == new:
            return _identity(held)
        parts = segments(dimension) if isinstance(dimension, str) else ()
        old = [[value_of(factor, self.before) for factor in part] for part in parts]
        if parts and _total(old) == held:
            return self._joined(parts, old)
        inferred = self._inferred(parts, old, held)
        if inferred is not None:
            return self._joined(parts, inferred)
        return _plain(held, new) if told else None

    def knows(self, dimension: Dimension, held: int) -> bool:
        """Whether a dimension was `held` by the sizes of before."""
        if not isinstance(dimension, str):
            return dimension == held
        old = [[value_of(factor, self.before) for factor in part] for part in segments(dimension)]
        return _total(old) == held

    def _inferred(self, parts: Sequence[Sequence[str]], old: list[list[int | None]], held: int) -> Any:
        """Old factors, where one of a single product is not what it was for the whole model: a layer's own, or heads."""
        if len(parts) != 1:
            return None
        (part,), (values,) = parts, old
        after = [value_of(factor, self.after) for factor in part]
        changed = [i for i, value in enumerate(values) if value is None or value != after[i]] or [0]
        if len(changed) != 1:
            return None
        rest = prod(value for i, value in enumerate(values) if i != changed[0] and value is not None)
        known = values[changed[0]] is not None or self._rule(part[changed[0]]) == "keys"
        if not known or not rest or held % rest:
            return None
        return [[held // rest if i == changed[0] else value for i, value in enumerate(values)]]

    def _rule(self, factor: str) -> Rule:
        return self.roles.rule(parse(factor).names)

    def _joined(self, parts: Sequence[Sequence[str]], old: Sequence[Sequence[int | None]]) -> Places | None:
        made, start = [], 0
        for part, values in zip(parts, old, strict=True):
            factors = []
            for factor, before in zip(part, values, strict=True):
                after = value_of(factor, self.after)
                if before is None or after is None:
                    return None
                rule = self._rule(factor)
                factors.append((rule, before, after, *self._groups(rule)))
            made.append(_offset(_product(tuple(factors)), start))
            start += prod(value for value in values if value is not None)
        terms = lcm(*(places.shape[1] for places in made))
        return np.concatenate([np.tile(places, (1, terms // places.shape[1])) for places in made])

    def _groups(self, rule: Rule) -> tuple[int, int]:
        """Over how many key heads query heads are spread, before and after."""
        if rule != "queries" or len(self.roles.keys) != 1:
            return 1, 1
        (name,) = self.roles.keys
        before, after = value_of(name, self.before), value_of(name, self.after)
        return before or 1, after or 1


def _total(parts: Sequence[Sequence[int | None]]) -> int | None:
    numbers = [[value for value in part if value is not None] for part in parts]
    whole = all(len(a) == len(b) for a, b in zip(numbers, parts, strict=True))
    return sum(map(prod, numbers)) if whole else None


@lru_cache(maxsize=256)
def _product(factors: tuple[tuple[Rule, int, int, int, int], ...]) -> Places:
    made = np.zeros((1, 1), np.int64)
    for rule, before, after, *groups in factors:
        made = _kron(made, _factor(rule, before, after, *groups), before)
    return made


def _factor(rule: Rule, before: int, after: int, groups_before: int, groups_after: int) -> Places:
    """What entries of one factor take: `after` of them, from `before`."""
    if rule == "keys" and before % after == 0:  # the mean of each group, as in the paper on GQA
        return np.arange(before, dtype=np.int64).reshape(after, -1)
    if rule == "keys" and after % before == 0:  # each for several queries as before
        return np.repeat(np.arange(before, dtype=np.int64), after // before)[:, None]
    if rule == "experts" and after > before:
        return (np.arange(after, dtype=np.int64) % before)[:, None]
    if rule == "queries" and groups_before == groups_after and not before % groups_before and not after % groups_after:
        within = _plain(before // groups_before, after // groups_after)
        return _kron(_identity(groups_before), within, before // groups_before)
    return _plain(before, after)


def _identity(count: int) -> Places:
    return _plain(count, count)


@lru_cache(maxsize=256)
def _plain(before: int, after: int) -> Places:
    """The first entries stay, others are new."""
    entries = np.arange(after, dtype=np.int64)
    return np.where(entries < before, entries, -1)[:, None]


def _kron(outer: Places, inner: Places, inner_before: int) -> Places:
    both = outer[:, None, :, None] * inner_before + inner[None, :, None, :]
    new = (outer[:, None, :, None] < 0) | (inner[None, :, None, :] < 0)
    joined: Places = np.where(new, -1, both).reshape(len(outer) * len(inner), -1)
    return joined


def _offset(places: Places, start: int) -> Places:
    return np.where(places < 0, -1, places + start)


def is_identity(places: Places, held: int) -> bool:
    """Whether every entry stays what and where it is."""
    return places.shape == (held, 1) and bool((places[:, 0] == np.arange(held)).all())


def words(places: Places, held: int) -> str:
    """What is done to a dimension, in the words of a report."""
    if places.shape[1] > 1:
        return "mean over groups"
    taken = places[:, 0]
    if (taken < 0).any():
        return "extend"
    return "repeat" if len(taken) > held else "slice"
