"""Where a level of the graph stands: its block, what names mean there, and under which paths its values are filed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from canvas_rt.edits.data import OUTPUTS
from canvas_rt.edits.paths import parse_path
from canvas_rt.errors import EditError, suggest
from canvas_rt.ir.document import Block, Document, LayerKind, Node, Stack, Use, layer_environment
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.graph import Item, layer_runs, parse_layers


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers that a level stands for, in the innermost stack above it."""

    path: str
    """The stack's path."""

    stack: Stack
    chosen: range
    count: int
    """Layers of the whole stack."""

    kinds: tuple[int, ...]
    """The kind of each layer."""

    @property
    def partial(self) -> bool:
        """Whether the level stands for some of the layers only."""
        return len(self.chosen) < self.count

    @property
    def text(self) -> str:
        return span(self.chosen.start, self.chosen.stop - 1)


@dataclass(frozen=True)
class Scope:
    """One level of a document."""

    document: Document
    path: str
    """As paths name it; layers as a range: `model.layers.0-31.self_attn`."""

    block_name: str
    environment: Mapping[str, Any]
    """What names stand for here; where layers of several kinds are meant, in the first of them."""

    filed: tuple[tuple[str, float], ...]
    """Paths under which `check` and `measure` file what is here, and the part of each that belongs here."""

    layers: Layers | None

    @cached_property
    def block(self) -> Block:
        return self.document.blocks[self.block_name]

    def inside(self, name: str) -> str:
        """The path of something in this level."""
        return f"{self.path}.{name}" if self.path else name

    def enter(self, item: Use) -> "Scope":
        """The level inside a use of a block."""
        filed = tuple((f"{path}.{item.id}".lstrip("."), part) for path, part in self.filed)
        return Scope(self.document, self.inside(item.id), item.block, self.environment, filed, self.layers)

    def descend(self, stack: Stack, chosen: range | None = None) -> "Scope":
        """The level inside some layers of a stack: all of them, if none are named."""
        count = _layer_count(stack, self.environment)
        if count < 1:
            raise EditError("has no layers to look into", path=self.inside(stack.id), hint="Give it one first.")
        chosen = range(count) if chosen is None else chosen
        if not 0 <= chosen.start < chosen.stop <= count:
            raise EditError(f"{stack.id} has {count} layers, 0 to {count - 1}", path=self.inside(stack.id))
        kinds = stack.kind_indices(count)
        kind: LayerKind = stack.kinds[kinds[chosen.start]]
        filed = []
        for path, part in self.filed:
            for first, last, index in layer_runs(kinds):
                common = min(last + 1, chosen.stop) - max(first, chosen.start)
                if common > 0 and stack.kinds[index].block == kind.block:
                    here = f"{path}.{stack.id}.{span(first, last)}".lstrip(".")
                    filed.append((here, part * common / (last - first + 1)))
        layers = Layers(self.inside(stack.id), stack, chosen, count, kinds)
        path = f"{self.inside(stack.id)}.{layers.text}"
        environment = layer_environment(self.environment, kind)
        return Scope(self.document, path, kind.block, environment, tuple(filed), layers)

    def first(self, name: str) -> str:
        """The path under which `check` files a value of this level."""
        head = self.filed[0][0] if self.filed else ""
        return f"{head}.{name}" if head else name


def span(first: int, last: int) -> str:
    """Layers, as paths name them."""
    return str(first) if first == last else f"{first}-{last}"


def _layer_count(stack: Stack, environment: Mapping[str, Any]) -> int:
    count = resolve(stack.repeat, environment)
    if isinstance(count, bool) or not isinstance(count, int):
        raise EditError(f"the number of layers must be a whole number, not {count!r}", path=stack.id)
    return count


def root_scope(document: Document) -> Scope:
    return Scope(document, "", document.root, document.environment, (("", 1.0),), None)


def scope_at(document: Document, path: str) -> Scope:
    """The level that a path leads to. A path that ends at a stack means the inside of all its layers.

    Raises `EditError` naming the first part that leads nowhere.
    """
    here = root_scope(document)
    for step in parse_path(path):
        item = here.block.node(step.id)
        if item is None:
            known = [item.id for item in here.block.nodes]
            raise EditError(f"there is no '{step.id}' here", path=step.path, hint=suggest(step.id, known))
        if isinstance(item, Node):
            raise EditError(f"{item.id} is a node ({item.op}): nothing is inside it", path=step.path)
        here = here.enter(item) if isinstance(item, Use) else here.descend(item, step.layers)
    return here


def nearest_scope(document: Document, path: str) -> Scope:
    """The level that a path leads to, or as much of the way as there is."""
    while path:
        try:
            return scope_at(document, path)
        except EditError:
            path = path.rpartition(".")[0]
    return root_scope(document)


def split(path: str) -> tuple[str, str]:
    """A node's path as the path of its level and its name there."""
    level, _, name = path.rpartition(".")
    return level, name


def item_at(document: Document, path: str) -> tuple[Scope, Item | str]:
    """The level that holds a path's end, and what stands there: an item, the name of a block's input, or `return`."""
    level, name = split(path)
    scope = scope_at(document, level)
    if name == OUTPUTS or name in scope.block.inputs:
        return scope, name
    item = scope.block.node(name)
    if item is None:
        raise EditError(
            f"there is no '{name}' here", path=path, hint=suggest(name, [item.id for item in scope.block.nodes])
        )
    return scope, item


def lies_in(path: str, other: str) -> bool:
    """Whether a path leads to a node or to something inside it; ranges of layers need only have layers in common."""
    inner, outer = path.split("."), other.split(".")
    return len(inner) >= len(outer) and all(a == b or _overlap(a, b) for a, b in zip(inner, outer, strict=False))


def _overlap(a: str, b: str) -> bool:
    one, two = parse_layers(a), parse_layers(b)
    return one is not None and two is not None and one[0] < two[1] and two[0] < one[1]
