"""Walk a document: order of execution, paths, and which names a block depends on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from canvas_rt.errors import CanvasError, suggest
from canvas_rt.ir.document import Block, Document, LayerKind, Node, Stack, Use, layer_environment
from canvas_rt.ir.expressions import names_in, resolve

Item = Node | Use | Stack


class PathError(CanvasError):
    """A path leads nowhere in this document."""


@lru_cache(maxsize=4096)
def execution_order(block: Block) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """The block's nodes, each after what feeds it and otherwise in reading order; and the ids that stand in a cycle."""
    ids = {node.id for node in block.nodes}
    pending = {node.id: ({head(ref) for ref in node.inputs.values()} & ids) for node in block.nodes}
    ordered: list[Item] = []
    waiting = list(block.nodes)
    while waiting:
        ready = next((node for node in waiting if not pending[node.id]), None)
        if ready is None:
            return tuple(ordered), tuple(node.id for node in waiting if _reaches_itself(node.id, pending))
        ordered.append(ready)
        waiting.remove(ready)
        for needs in pending.values():
            needs.discard(ready.id)
    return tuple(ordered), ()


def _reaches_itself(start: str, edges: Mapping[str, set[str]]) -> bool:
    seen: set[str] = set()
    frontier = [start]
    while frontier:
        for node_id in edges.get(frontier.pop(), ()):
            if node_id == start:
                return True
            if node_id not in seen:
                seen.add(node_id)
                frontier.append(node_id)
    return False


def head(ref: str) -> str:
    """The node or block input that a reference names, without the port."""
    return ref.partition(".")[0]


def key_of(item: Item) -> str:
    """What an item is called in the checkpoint, within its block."""
    return (not isinstance(item, Stack) and item.key) or item.id


@lru_cache(maxsize=4096)
def key_clashes(block: Block) -> Mapping[str, str]:
    """Items that cannot be kept beside one ahead of them: of its key but another module, or around it or within it."""
    if not any(key_of(item) != item.id for item in block.nodes):
        return {}  # ids are unique
    clashes: dict[str, str] = {}
    ends: dict[str, Item] = {}
    passed: dict[str, str] = {}
    for item in block.nodes:
        parts = key_of(item).split(".")
        *around, own = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        other = next((ends[key].id for key in around if key in ends), passed.get(own))
        if other is None and own in ends and not one_module(ends[own], item):
            other = ends[own].id
        if other is not None:
            clashes[item.id] = other
        ends.setdefault(own, item)
        passed |= {key: item.id for key in around if key not in passed}
    return clashes


def one_module(first: Item, second: Item) -> bool:
    """Whether two items of one key can be one module that is used twice."""
    if isinstance(first, Node) and isinstance(second, Node):
        return first.op == second.op and first.attrs == second.attrs
    return isinstance(first, Use) and isinstance(second, Use) and first.block == second.block


def consumers(block: Block, node_id: str) -> tuple[tuple[str, str], ...]:
    """Who reads a node: (node id, port) pairs; the block's own outputs as ("", output)."""
    readers = [(node.id, port) for node in block.nodes for port, ref in node.inputs.items() if head(ref) == node_id]
    return (*readers, *(("", name) for name, ref in block.outputs.items() if head(ref) == node_id))


def live(block: Block) -> frozenset[str]:
    """Ids of the nodes on which a block's outputs depend."""

    def sources(refs: Iterator[str]) -> Iterator[str]:
        for ref in refs:
            if block.node(head(ref)) is not None:
                yield head(ref)

    found: set[str] = set()
    frontier = list(sources(iter(block.outputs.values())))
    while frontier:
        name = frontier.pop()
        if name not in found:
            found.add(name)
            item = block.node(name)
            assert item is not None
            frontier += sources(iter(item.inputs.values()))
    return frozenset(found)


@lru_cache(maxsize=4096)
def running_order(block: Block) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """`execution_order` without the nodes on which no output depends: what runs, costs and is emitted."""
    needed = live(block)
    ordered, cycle = execution_order(block)
    return tuple(item for item in ordered if item.id in needed), tuple(name for name in cycle if name in needed)


def blocks_of(item: Item) -> tuple[str, ...]:
    """The blocks that an item makes use of."""
    if isinstance(item, Use):
        return (item.block,)
    if isinstance(item, Stack):
        return tuple(dict.fromkeys(kind.block for kind in item.kinds))
    return ()


def handed_on(stack: Stack, blocks: Mapping[str, Block]) -> tuple[str, ...]:
    """Names of what layers of a stack hand to later ones: further outputs of a kind's block that are inputs of a kind's."""
    known = [blocks[name] for name in blocks_of(stack) if name in blocks]
    taken = {port for block in known for port in block.inputs}
    return tuple(dict.fromkeys(port for block in known for port in [*block.outputs][1:] if port in taken))


def given_alike(stack: Stack, blocks: Mapping[str, Block]) -> tuple[str, ...]:
    """What every layer of a stack takes from around it, what is carried first: inputs that no layer hands on."""
    handed = handed_on(stack, blocks)
    block = blocks.get(stack.kinds[0].block)
    return tuple(port for port in block.inputs if port not in handed or port in stack.inputs) if block else ()


def reachable_blocks(document: Document, start: str | None = None) -> tuple[str, ...]:
    """Names of the blocks in use, each before those that use it: the order in which to define them."""
    done: dict[str, None] = {}
    active: set[str] = set()

    def visit(name: str) -> None:
        if name in done or name in active or name not in document.blocks:
            return
        active.add(name)
        for item in document.blocks[name].nodes:
            for inner in blocks_of(item):
                visit(inner)
        active.discard(name)
        done[name] = None

    visit(start or document.root)
    return tuple(done)


def recursive_blocks(document: Document) -> tuple[str, ...]:
    """Blocks that contain themselves, directly or through others: no such model can exist."""
    uses = {name: {b for item in block.nodes for b in blocks_of(item)} for name, block in document.blocks.items()}
    return tuple(name for name in document.blocks if _reaches_itself(name, uses))


def own_names(item: Item) -> frozenset[str]:
    """The sizes and config values that an item itself refers to."""
    if isinstance(item, Node):
        return names_in(item.attrs)
    if isinstance(item, Stack):
        return names_in(item.repeat).union(*(names_in(kind.sizes) for kind in item.kinds))
    return frozenset()


def names_used(document: Document, block: str, _seen: frozenset[str] = frozenset()) -> frozenset[str]:
    """The sizes and config values that a block refers to, its inner blocks included."""
    if block in _seen or block not in document.blocks:
        return frozenset()
    names: frozenset[str] = frozenset()
    for item in document.blocks[block].nodes:
        names |= own_names(item)
        for inner in blocks_of(item):
            names |= names_used(document, inner, _seen | {block})
    return names


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path leads."""

    block: str
    """The block that holds the item; for the root itself, the root block's name."""

    item: Item | None
    """What stands there; None for the root."""

    layers: range | None
    """The range of layers chosen in the innermost stack that the path passes through or ends at."""

    stack: tuple[str, str] | None
    """That stack: the block that holds it and its id."""

    inside: tuple[str, ...]
    """Node ids from the layers' block down to the item; empty where the path ends at layers."""


def parse_layers(text: str) -> tuple[int, int] | None:
    """`7` and `8-15` as a first layer and one past the last; None for what is no range of layers."""
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()) or len(first) > 6 or len(last) > 6:
        return None
    return int(first), (int(last) if dash else int(first)) + 1


def layer_count(document: Document, stack: Stack) -> int:
    """How many layers a stack has."""
    count = resolve(stack.repeat, document.environment)
    if isinstance(count, bool) or not isinstance(count, int):
        raise PathError(f"{stack.id}: the number of layers must be an integer, not {count!r}")
    return count


def find(document: Document, path: str) -> Place:
    """Follow a path such as `model.layers.8-15.self_attn.q_proj`; the empty path is the root.

    Raises `PathError`, naming the first part that leads nowhere and what stands there instead.
    """
    block_name, item = document.root, None
    holder = document.root
    layers: range | None = None
    stack: tuple[str, str] | None = None
    inside: tuple[str, ...] = ()
    walked: list[str] = []
    parts = path.split(".") if path else []
    while parts:
        part = parts.pop(0)
        if isinstance(item, Stack) and item.id == (walked[-1] if walked else ""):
            chosen = parse_layers(part)
            if chosen is not None:
                count = layer_count(document, item)
                if not 0 <= chosen[0] < chosen[1] <= count:
                    raise PathError(
                        f"layers {part} do not exist: {'.'.join(walked)} has {count} layers, 0 to {count - 1}",
                        path=path,
                    )
                layers = range(*chosen)
                walked.append(part)
                kinds = {item.kind_indices(count)[layer] for layer in layers}
                block_name = item.kinds[min(kinds)].block
                if not parts:
                    break
                part = parts.pop(0)
        block = document.blocks[block_name]
        found = block.node(part)
        if found is None:
            where = ".".join(walked) or document.root
            raise PathError(
                f"there is no '{part}' in {where}", path=path, hint=suggest(part, [node.id for node in block.nodes])
            )
        holder, item = block_name, found
        walked.append(part)
        inside = (*inside, part)
        if isinstance(found, Stack):
            stack, inside = (holder, found.id), ()
            layers = range(layer_count(document, found))
            block_name = found.kinds[0].block
        elif isinstance(found, Use):
            block_name = found.block
    return Place(holder, item, layers, stack, inside)


def checkpoint_path(document: Document, path: str) -> str:
    """A path by ids as the checkpoint has it: layers by number, one of them or a range."""
    return _renamed(document, path, lambda block, item: key_of(item))


def first_path(document: Document, path: str) -> str:
    """A path by ids, of items that are one module by the first of them."""

    def first(block: Block, item: Item) -> str:
        return next(other.id for other in block.nodes if key_of(other) == key_of(item))

    return _renamed(document, path, first)


def _renamed(document: Document, path: str, name: Callable[[Block, Item], str]) -> str:
    block: str = document.root
    stack: Stack | None = None
    parts: list[str] = []
    for part in path.split("."):
        chosen = parse_layers(part)
        if stack is not None and chosen is not None:
            block = stack.kinds[stack.kind_indices(chosen[1])[chosen[0]]].block
            parts.append(part)
            stack = None
            continue
        item = document.blocks[block].node(part)
        parts.append(part if item is None else name(document.blocks[block], item))
        stack = item if isinstance(item, Stack) else None
        block = item.block if isinstance(item, Use) else block
    return ".".join(parts)


@dataclass(frozen=True, slots=True)
class Visit:
    """One item as it stands in the whole model, alike in all the layers that `path` names."""

    path: str
    """As in `model.layers.0-31.self_attn.q_proj`."""

    key: str
    """The same by what items are called in the checkpoint: `model.layers.0-31.mlp.0` may be the path `….mlp_0`."""

    block: str
    """The block that holds the item."""

    item: Item
    environment: Mapping[str, Any]
    """What names stand for here."""

    times: int
    """How often the model holds it."""


def layer_runs(kinds: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Kinds, layer by layer, as (first, last, kind) ranges in order."""
    start = 0
    for layer in range(1, len(kinds) + 1):
        if layer == len(kinds) or kinds[layer] != kinds[start]:
            yield start, layer - 1, kinds[start]
            start = layer


def walk(document: Document) -> Iterator[Visit]:
    """Every item that the model's outputs depend on, from the root down; layers alike that stand together once."""

    def inside(
        block: str, prefix: str, keys: str, environment: Mapping[str, Any], times: int, depth: int
    ) -> Iterator[Visit]:
        if depth > 32 or block not in document.blocks:
            return
        needed = live(document.blocks[block])
        for item in document.blocks[block].nodes:
            if item.id not in needed:
                continue
            path, key = f"{prefix}{item.id}", f"{keys}{key_of(item)}"
            yield Visit(path, key, block, item, environment, times)
            if isinstance(item, Use):
                yield from inside(item.block, f"{path}.", f"{key}.", environment, times, depth + 1)
            elif isinstance(item, Stack):
                for first, last, kind in layer_runs(item.kind_indices(resolve(item.repeat, environment))):
                    layers = f"{first}" if first == last else f"{first}-{last}"
                    inner = layer_environment(environment, item.kinds[kind])
                    count = times * (last - first + 1)
                    places = f"{path}.{layers}.", f"{key}.{layers}."
                    yield from inside(item.kinds[kind].block, *places, inner, count, depth + 1)

    yield from inside(document.root, "", "", document.environment, 1, 0)


__all__ = [
    "Item",
    "LayerKind",
    "PathError",
    "Place",
    "Visit",
    "blocks_of",
    "checkpoint_path",
    "consumers",
    "execution_order",
    "find",
    "first_path",
    "given_alike",
    "handed_on",
    "head",
    "key_clashes",
    "key_of",
    "layer_count",
    "layer_runs",
    "live",
    "names_used",
    "one_module",
    "own_names",
    "parse_layers",
    "reachable_blocks",
    "recursive_blocks",
    "running_order",
    "walk",
]
