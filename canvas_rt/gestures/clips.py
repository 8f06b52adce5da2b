"""Copy and paste nodes, within a document and between documents."""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import Field, ValidationError

from canvas_rt.edits import AddBlock, AddConfig, AddNode, AddSize, Edit, apply
from canvas_rt.edits.wires import unused_name
from canvas_rt.errors import CanvasError, EditError
from canvas_rt.gestures.insert import placed
from canvas_rt.gestures.scope import scope_at, split
from canvas_rt.ir.document import Block, Document, Identifier, Item, Model, Node, Size, Stack, Use
from canvas_rt.ir.expressions import names_in
from canvas_rt.ir.files import parse_json
from canvas_rt.ir.frozen import Frozen, FrozenMap
from canvas_rt.ir.graph import blocks_of, head, names_used, own_names, reachable_blocks

Position = tuple[float, float]


class Clip(Model):
    """Nodes with all that they depend on."""

    canvas_clip: int = Field(ge=1, le=1)
    """The version of this form."""

    items: tuple[Item, ...] = Field(max_length=1024)
    blocks: FrozenMap[Identifier, Block] = FrozenMap()
    sizes: FrozenMap[Identifier, Size] = FrozenMap()
    config: FrozenMap[Identifier, Frozen] = FrozenMap()
    layout: FrozenMap[str, Position] = FrozenMap()
    """Where nodes stood, as far as people placed them."""


def copy(document: Document, paths: Sequence[str]) -> str:
    """Nodes of one level as a clip. Inputs and outputs of the level are left out."""
    level = split(paths[0])[0] if paths else ""
    scope = scope_at(document, level)
    chosen = {split(path)[1] for path in paths if split(path)[0] == level}
    items = tuple(item for item in scope.block.nodes if item.id in chosen)
    if not items:
        raise EditError("nothing is selected that can be copied", hint="Select nodes, not a block's inputs or outputs.")
    inner = dict.fromkeys(
        name for item in items for start in blocks_of(item) for name in reachable_blocks(document, start)
    )
    names: set[str] = set()
    for item in items:
        names |= own_names(item).union(*(names_used(document, block) for block in blocks_of(item)))
    sizes = _with_those_named(document, names)
    keys = {item.id: f"{scope.block_name}/{item.id}" for item in items}
    clip = Clip(
        canvas_clip=1,
        items=items,
        blocks=FrozenMap({name: document.blocks[name] for name in inner}),
        sizes=FrozenMap(sizes),
        config=FrozenMap({name: document.config[name] for name in sorted(names) if name in document.config}),
        layout=FrozenMap({id: document.layout[key] for id, key in keys.items() if key in document.layout}),
    )
    return clip.model_dump_json()


def _with_those_named(document: Document, names: set[str]) -> dict[str, Any]:
    """Sizes by name, with those that their expressions name, in the document's order."""
    pending, wanted = list(names), set(names)
    while pending:
        for name in names_in(document.sizes.get(pending.pop(), 0)) - wanted:
            wanted.add(name)
            pending.append(name)
    names |= wanted
    return {name: value for name, value in document.sizes.items() if name in wanted}


def read(text: str) -> Clip:
    """A clip out of text from anywhere. Raises `EditError` where it is none."""
    try:
        return Clip.model_validate_json(json.dumps(parse_json(text, "clip")))
    except (CanvasError, ValidationError, ValueError, RecursionError) as error:
        raise EditError(
            "what was pasted is not a piece of a graph", hint="Copy nodes of a Canvas graph first."
        ) from error


def paste(
    document: Document, text: str, level: str, position: Position | None = None
) -> tuple[tuple[Edit, ...], tuple[str, ...]]:
    """Edits that put a clip into a level, and the paths of what they add.

    Ids that are taken get a number. Wires among the pasted nodes stay; those from elsewhere stay where the level has
    such a value. Blocks that the document has already are used again.
    """
    clip, scope = read(text), scope_at(document, level)
    edits: list[Edit] = [*_names(document, clip)]
    blocks, new = _blocks(document, clip)
    edits += new
    taken = {*scope.block.inputs, *scope.block.by_id}
    ids: dict[str, str] = {}
    for item in clip.items:
        ids[item.id] = unused_name(item.id, taken)
        taken.add(ids[item.id])
    known = {*scope.block.inputs, *scope.block.by_id}
    places: dict[str, Position | None] = {}
    for item in clip.items:
        wires = {}
        for port, ref in item.inputs.items():
            if head(ref) in ids:
                wires[port] = ids[head(ref)] + ref[len(head(ref)) :]
            elif head(ref) in known:
                wires[port] = ref
        fresh = item if isinstance(item, Stack) else item.replace(key="")  # what is pasted learns for itself
        edits.append(AddNode(level, _renamed(fresh, ids[item.id], blocks, wires)))
    if position is not None:
        corner = _corner(clip)
        for offset, item in enumerate(clip.items):
            x, y = clip.layout.get(item.id, (corner[0], corner[1] + 90.0 * offset))
            places[ids[item.id]] = (position[0] + x - corner[0], position[1] + y - corner[1])
        edits += placed(apply(document, *edits), level, places)
    return tuple(edits), tuple(scope.inside(ids[item.id]) for item in clip.items)


def _corner(clip: Clip) -> Position:
    places = list(clip.layout.values()) or [(0.0, 0.0)]
    return min(x for x, _ in places), min(y for _, y in places)


def _names(document: Document, clip: Clip) -> list[Edit]:
    known = document.sizes.keys() | document.config.keys()
    added: list[Edit] = [AddConfig(name, value) for name, value in clip.config.items() if name not in known]
    missing = {name: value for name, value in clip.sizes.items() if name not in known}
    while missing:  # each after those that its expression names
        ready = [name for name, value in missing.items() if not names_in(value) & missing.keys()]
        if not ready:
            raise EditError("the pasted sizes refer to one another in a circle")
        added += [AddSize(name, missing.pop(name)) for name in ready]
    return added


def _blocks(document: Document, clip: Clip) -> tuple[dict[str, str], list[Edit]]:
    """What the clip's blocks are called in the document, and the edits that add those it lacks."""
    names: dict[str, str] = {}
    added: list[Edit] = []
    taken = set(document.blocks)
    for name, block in clip.blocks.items():  # inner ones first
        renamed = block.replace(nodes=tuple(_renamed(item, item.id, names, dict(item.inputs)) for item in block.nodes))
        if document.blocks.get(name) == renamed:
            names[name] = name
            continue
        names[name] = unused_name(name, taken)
        taken.add(names[name])
        added.append(AddBlock(names[name], renamed))
    return names, added


def _renamed(item: Item, new_id: str, blocks: dict[str, str], wires: dict[str, str]) -> Item:
    inputs = FrozenMap(wires)
    if isinstance(item, Node):
        return item.replace(id=new_id, inputs=inputs)
    missing = [name for name in blocks_of(item) if name not in blocks]
    if missing:
        raise EditError(f"what was pasted lacks the block {missing[0]}", hint="Copy it again.")
    if isinstance(item, Use):
        return item.replace(id=new_id, block=blocks[item.block], inputs=inputs)
    assert isinstance(item, Stack)
    kinds = tuple(kind.replace(block=blocks[kind.block]) for kind in item.kinds)
    return item.replace(id=new_id, kinds=kinds, source=None, inputs=inputs)
