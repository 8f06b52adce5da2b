"""Apply edits to a document, all or none, and compute what undoes them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from canvas_rt.edits import blocks, layers, layout, nodes, ports, sizes, whole
from canvas_rt.edits.data import AddBlock, Edit, RenameBlock, Restore, dump
from canvas_rt.edits.settle import check_sound, check_structure, settle
from canvas_rt.errors import CanvasError, EditError
from canvas_rt.ir.document import Document
from canvas_rt.ir.frozen import FrozenMap, freeze

CHANGES: Mapping[str, Callable[[Document, Any], Document]] = {
    "set_size": sizes.set_size,
    "set_config": sizes.set_config,
    "set_attr": nodes.set_attr,
    "add_size": sizes.add_size,
    "remove_size": sizes.remove_size,
    "add_config": sizes.add_config,
    "set_name": whole.set_name,
    "set_tokenizer": whole.set_tokenizer,
    "add_block": whole.add_block,
    "rename_block": whole.rename_block,
    "place_nodes": layout.place_nodes,
    "add_node": nodes.add_node,
    "remove_node": nodes.remove_node,
    "connect": nodes.connect,
    "disconnect": nodes.disconnect,
    "rename_node": nodes.rename_node,
    "set_weights": nodes.set_weights,
    "bypass": nodes.bypass,
    "set_output": nodes.set_output,
    "add_input": ports.add_input,
    "remove_input": ports.remove_input,
    "insert_layer": layers.insert_layer,
    "delete_layers": layers.delete_layers,
    "duplicate_layers": layers.duplicate_layers,
    "move_layers": layers.move_layers,
    "swap_layers": layers.swap_layers,
    "replace_block": blocks.replace_block,
    "group_nodes": blocks.group_nodes,
    "ungroup": blocks.ungroup,
    "make_unique": blocks.make_unique,
}
"""What each kind of edit does."""

UNLOGGED = frozenset({"set_name", "set_tokenizer", "place_nodes", "restore"})
"""Edits that leave the architecture as it is, and `Restore`, which takes entries out of the log."""

PARTS = ("name", "root", "sizes", "config", "ties", "layout", "tokenizer")
"""The parts of a document that `Restore` puts back whole."""


def apply(document: Document, *edits: Edit) -> Document:
    """A document with the edits made, each recorded in its log if it changes the architecture.

    Raises `EditError` where one cannot be made; nothing is changed then, since a document never changes.
    """
    for edit in edits:
        try:
            document = _restored(document, edit) if isinstance(edit, Restore) else _edited(document, edit)
        except EditError:
            raise
        except CanvasError as error:
            path = error.path or getattr(edit, "path", getattr(edit, "block_path", ""))
            raise EditError(error.message, path=path, hint=error.hint) from error
    return document


def _edited(document: Document, edit: Edit) -> Document:
    check_structure(document)
    changed = settle(document, CHANGES[edit.kind](document, edit), _named(edit))
    return changed if edit.kind in UNLOGGED else changed.replace(log=(*document.log, freeze(dump(edit))))


def _named(edit: Edit) -> str | None:
    """The block that an edit gives its name, which is kept though nothing may use it yet."""
    return edit.name if isinstance(edit, AddBlock) else edit.new_name if isinstance(edit, RenameBlock) else None


def _restored(document: Document, edit: Restore) -> Document:
    if edit.entries > len(document.log):
        raise EditError(f"takes back {edit.entries} edits, but the log holds {len(document.log)}")
    changes = {part: former for part in PARTS if (former := getattr(edit, part)) is not None}
    kept = {**document.blocks, **edit.blocks}
    former = {name: block for name, block in kept.items() if block is not None}
    if edit.order is not None:
        if former.keys() != set(edit.order):
            raise EditError("its order does not name the blocks that there are", path="restore.order")
        former = {name: former[name] for name in edit.order}
    log = document.log[: len(document.log) - edit.entries]
    restored: Document = document.replace(**changes, blocks=FrozenMap(former), log=log)
    check_sound(restored)
    return restored


def inverse(document: Document, edits: Edit | Sequence[Edit]) -> Restore:
    """What undoes edits of this document: `apply(apply(d, *edits), inverse(d, edits)) == d`.

    Raises `EditError` where the edits cannot be made.
    """
    after = apply(document, *(edits if isinstance(edits, Sequence) else (edits,)))
    return difference(document, after)


def difference(before: Document, after: Document) -> Restore:
    """What leads from a document back to the one that it was edited from."""
    parts = {part: getattr(before, part) for part in PARTS if not _same(getattr(before, part), getattr(after, part))}
    names = dict.fromkeys((*before.blocks, *after.blocks))
    blocks = {name: before.blocks.get(name) for name in names if not _same_block(before, after, name)}
    kept = {**dict.fromkeys(after.blocks), **blocks}
    order = [name for name in kept if name in before.blocks]
    return Restore(
        **parts,
        entries=len(after.log) - len(before.log),
        blocks=FrozenMap(blocks),
        order=None if order == list(before.blocks) else tuple(before.blocks),
    )


def _same(a: Any, b: Any) -> bool:
    """Equal, and in the same order: reading order is part of a document's text."""
    return bool(a == b and (not isinstance(a, Mapping) or list(a) == list(b)))


def _same_block(before: Document, after: Document, name: str) -> bool:
    a, b = before.blocks.get(name), after.blocks.get(name)
    return a is b or (a is not None and b is not None and a.model_dump_json() == b.model_dump_json())
