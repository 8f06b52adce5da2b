"""Follow a path to the blocks that it means, and set them apart from the rest where it means only some layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from canvas_rt.edits.layout import block_copied
from canvas_rt.errors import EditError, suggest
from canvas_rt.ir.document import Block, Document, LayerKind, Node, Stack, Use, runs_of
from canvas_rt.ir.graph import Item, layer_count, parse_layers


@dataclass(frozen=True, slots=True)
class Step:
    """One id of a path."""

    id: str
    path: str
    """The path up to here, for messages."""

    layers: range | None = None
    """The layers that follow the id."""


def parse_path(path: str) -> tuple[Step, ...]:
    """A path as steps; layers belong to the id before them."""
    steps: list[Step] = []
    for part in path.split(".") if path else []:
        chosen = parse_layers(part)
        if chosen is None:
            steps.append(Step(part, f"{steps[-1].path}.{part}" if steps else part))
            continue
        if not steps or steps[-1].layers is not None:
            raise EditError(f"'{part}' does not follow a stack", path=path, hint="As in model.layers.8-15.")
        steps[-1] = Step(steps[-1].id, f"{steps[-1].path}.{part}", range(*chosen))
    return tuple(steps)


def split_path(path: str, what: str = "node") -> tuple[tuple[Step, ...], Step]:
    """A path's steps to a block, and the last one, to an item in it."""
    steps = parse_path(path)
    if not steps:
        raise EditError(f"the empty path is the whole model, not a {what}")
    return steps[:-1], steps[-1]


def item_at(document: Document, block: str, step: Step) -> Item:
    """The item that a step leads to in a block."""
    found = document.blocks[block].node(step.id)
    if found is None:
        raise EditError(
            f"there is no '{step.id}' in {block}",
            path=step.path,
            hint=suggest(step.id, [item.id for item in document.blocks[block].nodes]),
        )
    if step.layers is not None and not isinstance(found, Stack):
        raise EditError(f"{step.id} is no stack and has no layers", path=step.path)
    return found


def layers_at(document: Document, stack: Stack, step: Step) -> range:
    """The layers of a stack that a step means: those it names, or all."""
    total = layer_count(document, stack)
    if step.layers is None:
        return range(total)
    if not 0 <= step.layers.start < step.layers.stop <= total:
        raise EditError(f"{stack.id} has {total} layers, 0 to {total - 1}", path=step.path)
    return step.layers


def is_part(document: Document, item: Item, step: Step) -> bool:
    """Whether a step means only some of a stack's layers."""
    return isinstance(item, Stack) and len(layers_at(document, item, step)) < layer_count(document, item)


def inner_blocks(document: Document, blocks: Sequence[str], step: Step) -> tuple[str, ...]:
    """The blocks one step further."""
    found: dict[str, None] = {}
    for name in blocks:
        item = item_at(document, name, step)
        if isinstance(item, Node):
            raise EditError(f"{item.id} is a node ({item.op}): nothing is inside it", path=step.path)
        if isinstance(item, Use):
            found[item.block] = None
        else:
            kinds = layer_kinds(document, item)
            found.update(dict.fromkeys(kinds[layer].block for layer in layers_at(document, item, step)))
    return tuple(found)


def scope(document: Document, steps: Sequence[Step]) -> tuple[str, ...]:
    """The blocks that a path means: several where its layers are of several kinds."""
    blocks: tuple[str, ...] = (document.root,)
    for step in steps:
        blocks = inner_blocks(document, blocks, step)
    return blocks


def isolate(document: Document, steps: Sequence[Step]) -> Document:
    """A document in which the blocks that a path means serve nothing else, from the first choice of layers on.

    Before that, and where a path names no layers or all of them, uses of a block stay linked.
    """
    blocks: tuple[str, ...] = (document.root,)
    apart = False
    for step in steps:
        for name in blocks:
            item = item_at(document, name, step)
            apart = apart or is_part(document, item, step)
            if apart and isinstance(item, Stack):
                document = part_layers(document, name, item, layers_at(document, item, step))
        if apart:
            document = _part_uses(document, blocks, step)
        blocks = inner_blocks(document, blocks, step)
    return document


def part_layers(document: Document, holder: str, stack: Stack, layers: range) -> Document:
    """Give some layers blocks that nothing else uses."""
    kinds = layer_kinds(document, stack)
    for name in dict.fromkeys(kinds[layer].block for layer in layers):
        others = any(kind.block == name for layer, kind in enumerate(kinds) if layer not in layers)
        if others or users(document, name) != [(holder, stack.id)]:
            document, copy = clone(document, name)
            kinds = [
                kind.replace(block=copy) if layer in layers and kind.block == name else kind
                for layer, kind in enumerate(kinds)
            ]
    return with_item(document, holder, with_layers(stack, kinds, sources(stack, len(kinds))))


def _part_uses(document: Document, blocks: Sequence[str], step: Step) -> Document:
    """Give the uses in `blocks` that a step leads to blocks that nothing outside `blocks` uses."""
    items = [item_at(document, name, step) for name in blocks]
    for inner in dict.fromkeys(item.block for item in items if isinstance(item, Use)):
        if any(
            holder not in blocks or isinstance(_item(document, holder, id), Stack)
            for holder, id in users(document, inner)
        ):
            document, copy = clone(document, inner)
            for name in blocks:
                for item in document.blocks[name].nodes:
                    if isinstance(item, Use) and item.block == inner:
                        document = with_item(document, name, item.replace(block=copy))
    return document


def own_use(document: Document, holder: str, use: Use) -> tuple[Document, str]:
    """A document in which only `holder` uses the block of one of its uses, and that block's name."""
    document = _part_uses(document, (holder,), Step(use.id, use.id))
    item = document.blocks[holder].by_id[use.id]
    assert isinstance(item, Use)
    return document, item.block


def _item(document: Document, block: str, node_id: str) -> Item:
    return document.blocks[block].by_id[node_id]


def users(document: Document, block: str) -> list[tuple[str, str]]:
    """Who uses a block: (block, id) of uses and stacks."""
    return [
        (name, item.id)
        for name, holder in document.blocks.items()
        for item in holder.nodes
        if (isinstance(item, Use) and item.block == block)
        or (isinstance(item, Stack) and any(kind.block == block for kind in item.kinds))
    ]


def fresh_name(document: Document, name: str) -> str:
    """A block name not in use: `LlamaMLP2` after `LlamaMLP`."""
    stem = name.rstrip("0123456789")
    base = (stem if stem in document.blocks else name)[:56]
    joint = "_" if base[-1].isdecimal() else ""
    return next(candidate for n in count(2) if (candidate := f"{base}{joint}{n}") not in document.blocks)


def clone(document: Document, name: str) -> tuple[Document, str]:
    """A document with a copy of a block, drawn where the original is, and the copy's name."""
    copy = fresh_name(document, name)
    return block_copied(document.with_block(copy, document.blocks[name]), name, copy), copy


def with_item(document: Document, block: str, item: Item) -> Document:
    """A document in which a block's item of that id is another."""
    held = document.blocks[block]
    return document.with_block(block, with_nodes(held, [item if old.id == item.id else old for old in held.nodes]))


def with_nodes(block: Block, nodes: Sequence[Item]) -> Block:
    return block.replace(nodes=tuple(nodes))


def layer_kinds(document: Document, stack: Stack) -> list[LayerKind]:
    """The kind of each layer."""
    return [stack.kinds[index] for index in stack.kind_indices(layer_count(document, stack))]


def sources(stack: Stack, total: int) -> list[int | None]:
    """For each layer, the layer of the origin whose weights it takes."""
    return [stack.source_of(layer) for layer in range(total)]


def with_layers(stack: Stack, kinds: Sequence[LayerKind], source: Sequence[int | None]) -> Stack:
    """A stack with these layers: equal kinds are one, kinds without layers are gone. The count is the caller's."""
    used = set(kinds)
    table = [kind for kind in dict.fromkeys((*stack.kinds, *kinds)) if kind in used]
    own = list(source) == list(range(len(kinds)))
    return stack.replace(
        kinds=tuple(table),
        runs=runs_of(tuple(table.index(kind) for kind in kinds)),
        source=None if own else tuple(source),
    )
