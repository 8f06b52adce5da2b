"""Where the canvas draws what is in a block: `Block/node` → x, y. It follows nodes that are renamed or moved."""

from collections.abc import Iterable, Mapping

from canvas_rt.edits.data import OUTPUTS, PlaceNodes
from canvas_rt.errors import EditError, suggest
from canvas_rt.ir.document import Block, Document
from canvas_rt.ir.frozen import FrozenMap

Place = tuple[float, float]


def place_nodes(document: Document, edit: PlaceNodes) -> Document:
    if edit.block not in document.blocks:
        raise EditError(f"there is no block '{edit.block}'", path=edit.block, hint=suggest(edit.block, document.blocks))
    known = drawn(document.blocks[edit.block])
    for name in edit.positions:
        if name not in known:
            raise EditError(f"there is no '{name}' in {edit.block}", path=edit.block, hint=suggest(name, known))
    places = {f"{edit.block}/{name}": place for name, place in edit.positions.items()}
    layout = document.layout.without(*(key for key, place in places.items() if place is None))
    return document.replace(layout=layout.with_items({key: place for key, place in places.items() if place}))


def drawn(block: Block) -> tuple[str, ...]:
    """What the canvas draws of a block."""
    return (*block.inputs, *block.by_id, OUTPUTS)


def redrawn(document: Document, keys: Mapping[str, str]) -> Document:
    """A document whose layout follows renamed nodes, given as old and new `Block/node`."""
    if not keys.keys() & document.layout.keys():
        return document
    layout = {keys.get(key, key): place for key, place in document.layout.items()}
    return document.replace(layout=FrozenMap(layout))


def block_renamed(document: Document, block: str, new: str) -> Document:
    return redrawn(document, {key: f"{new}/{rest}" for key, rest in _of_block(document, block)})


def block_copied(document: Document, block: str, copy: str) -> Document:
    """A document in which a copy of a block is drawn as the original is."""
    places = {f"{copy}/{rest}": document.layout[key] for key, rest in _of_block(document, block)}
    return document.replace(layout=document.layout.with_items(places)) if places else document


def _of_block(document: Document, block: str) -> list[tuple[str, str]]:
    """The layout's keys of one block, each with what it names there."""
    parts = [(key, *key.partition("/")) for key in document.layout]
    return [(key, rest) for key, name, _, rest in parts if name == block]


def grouped(document: Document, holder: str, ids: Iterable[str], new: str, use: str) -> Document:
    """A document in which nodes moved into a block of their own, whose use stands where they stood."""
    corner = _corner(document, holder, ids)
    document = redrawn(document, {f"{holder}/{id}": f"{new}/{id}" for id in ids})
    if corner is None:
        return document
    return document.replace(layout=document.layout.with_items({f"{holder}/{use}": corner}))


def ungrouped(document: Document, holder: str, use: str, block: str, ids: Mapping[str, str]) -> Document:
    """A document in which the nodes of a use stand in its place, as far apart as they stood in their block."""
    corner, place = _corner(document, block, ids), document.layout.get(f"{holder}/{use}")
    if corner is None:
        return document
    dx, dy = (place[0] - corner[0], place[1] - corner[1]) if place else (0.0, 0.0)
    moved = {}
    for old, new in ids.items():
        if f"{block}/{old}" in document.layout:
            x, y = document.layout[f"{block}/{old}"]
            moved[f"{holder}/{new}"] = (x + dx, y + dy)
    rest = document.layout.without(f"{holder}/{use}")
    return document.replace(layout=rest.with_items(moved))


def _corner(document: Document, block: str, ids: Iterable[str]) -> Place | None:
    """The upper left corner of the nodes that have a place."""
    places = [document.layout[f"{block}/{id}"] for id in ids if f"{block}/{id}" in document.layout]
    return (min(x for x, _ in places), min(y for _, y in places)) if places else None


def pruned(document: Document) -> Document:
    """A document without the places of what is gone."""
    if not document.layout:
        return document
    known = {f"{name}/{id}" for name, block in document.blocks.items() for id in drawn(block)}
    gone = [key for key in document.layout if key not in known]
    return document.replace(layout=document.layout.without(*gone)) if gone else document
