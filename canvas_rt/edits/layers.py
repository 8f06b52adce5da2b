"""Edits of the layers of a stack: insert, delete, duplicate, move, swap."""

from collections.abc import Callable
from dataclasses import dataclass

from canvas_rt.edits.data import DeleteLayers, DuplicateLayers, InsertLayer, MoveLayers, SwapLayers
from canvas_rt.edits.paths import (
    isolate,
    item_at,
    layer_kinds,
    layers_at,
    scope,
    sources,
    split_path,
    with_item,
    with_layers,
)
from canvas_rt.edits.wires import Trail, check_layer_block, retied
from canvas_rt.errors import EditError, suggest
from canvas_rt.ir.document import LAYER, MOST_LAYERS, Document, LayerKind, Stack
from canvas_rt.ir.expressions import expression, is_expression, names_in
from canvas_rt.ir.graph import Item, names_used, own_names, reachable_blocks


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer while layers are rearranged."""

    kind: LayerKind
    source: int | None
    """The origin's layer whose weights it takes."""

    was: int | None
    """Its index before."""


Rearrange = Callable[[Document, Stack, list[Layer], range], list[Layer]]


def _rearranged(document: Document, path: str, change: Rearrange, *, chosen: bool) -> Document:
    """A document in which a stack's layers are what `change` makes of them and of those that the path names."""
    steps, last = split_path(path, "stack")
    document = isolate(document, steps)
    for holder in scope(document, steps):
        stack = _stack_at(item_at(document, holder, last), path)
        if (last.layers is not None) != chosen:
            hint = f"As in {path}.8-15." if chosen else "The place in the stack is a field of its own."
            raise EditError("names no layers" if chosen else "must be a stack, without layers", path=path, hint=hint)
        kinds = layer_kinds(document, stack)
        layers = [
            Layer(kind, source, i)
            for i, (kind, source) in enumerate(zip(kinds, sources(stack, len(kinds)), strict=True))
        ]
        result = change(document, stack, layers, layers_at(document, stack, last))
        document = _with_layers(document, holder, stack, layers, result, path)
    return document


def _stack_at(item: Item, path: str) -> Stack:
    if not isinstance(item, Stack):
        raise EditError(f"{item.id} is no stack and has no layers", path=path)
    return item


def _with_layers(
    document: Document, holder: str, stack: Stack, before: list[Layer], after: list[Layer], path: str
) -> Document:
    if not after:
        raise EditError(
            "would leave the stack without layers", path=path, hint="Keep at least one, or bypass the stack."
        )
    if len(after) > MOST_LAYERS:
        raise EditError(f"would give {len(after)} layers; a stack has at most {MOST_LAYERS}", path=path)
    document = _layers_retied(document, (holder, stack.id), after)
    stack = with_layers(stack, [layer.kind for layer in after], [layer.source for layer in after])
    if len(after) != len(before):
        document, stack = _recounted(document, holder, stack, len(after), path)
    return with_item(document, holder, stack)


def _recounted(document: Document, holder: str, stack: Stack, total: int, path: str) -> tuple[Document, Stack]:
    """A stack of that many layers: the size that counts them is set where there is one, else the number itself."""
    name = expression(stack.repeat).text if is_expression(stack.repeat) else ""
    if name not in document.sizes:
        return document, stack.replace(repeat=total)
    if is_expression(document.sizes[name]):
        raise EditError(
            f"{name} follows from other sizes ({document.sizes[name][1:]})",
            path=path,
            hint=f"Set {name} to a number first.",
        )
    other = _other_use(document, name, holder, stack)
    if other:
        raise EditError(
            f"{name} is also used by {other}",
            path=path,
            hint=f"Set what uses it there to a number, or set {name} as a whole.",
        )
    return document.replace(sizes=document.sizes.with_items({name: total})), stack


def _other_use(document: Document, name: str, holder: str, stack: Stack) -> str | None:
    """What uses a size, other than a stack and its layers. Where layers go by their number, it may count their parts."""
    within = {block for kind in stack.kinds for block in reachable_blocks(document, kind.block)}
    if any(LAYER in names_used(document, kind.block) for kind in stack.kinds):
        return None
    for size, value in document.sizes.items():
        if name in names_in(value):
            return f"the size {size}"
    for block in reachable_blocks(document):
        for item in document.blocks[block].nodes:
            if name in own_names(item) and block not in within and (block, item.id) != (holder, stack.id):
                return f"{item.id} in {block}"
    return None


def _layers_retied(document: Document, stack: tuple[str, str], after: list[Layer]) -> Document:
    """Ties into layers follow those layers; a tie to a layer that is gone is dropped."""
    now = {layer.was: index for index, layer in reversed(list(enumerate(after))) if layer.was is not None}

    def change(trail: Trail, index: int) -> tuple[str, ...] | None:
        part = trail[index][1]
        if not index or trail[index - 1] != stack or not part.isdecimal():
            return (part,)
        return (str(now[int(part)]),) if int(part) in now else None

    return retied(document, change)


def insert_layer(document: Document, edit: InsertLayer) -> Document:
    if edit.like is not None and edit.block is not None:
        raise EditError("give 'like' or 'block', not both", path=edit.path)

    def change(document: Document, stack: Stack, layers: list[Layer], chosen: range) -> list[Layer]:
        at = _place(edit.at, len(layers), len(layers), edit.path)
        like = layers[_existing(edit.like, layers, edit.path) if edit.like is not None else max(at - 1, 0)].kind
        if edit.block is not None:
            if edit.block not in document.blocks:
                hint = suggest(edit.block, document.blocks)
                raise EditError(f"there is no block '{edit.block}'", path=edit.path, hint=hint)
            check_layer_block(document, stack, edit.block, edit.path)
            like = LayerKind(block=edit.block)
        return [*layers[:at], Layer(like, None, None), *layers[at:]]

    return _rearranged(document, edit.path, change, chosen=False)


def delete_layers(document: Document, edit: DeleteLayers) -> Document:
    def change(document: Document, stack: Stack, layers: list[Layer], chosen: range) -> list[Layer]:
        return [*layers[: chosen.start], *layers[chosen.stop :]]

    return _rearranged(document, edit.path, change, chosen=True)


def duplicate_layers(document: Document, edit: DuplicateLayers) -> Document:
    def change(document: Document, stack: Stack, layers: list[Layer], chosen: range) -> list[Layer]:
        at = _place(edit.at, chosen.stop, len(layers), edit.path)
        copies = [Layer(layers[i].kind, layers[i].source, None) for i in chosen]
        return [*layers[:at], *copies, *layers[at:]]

    return _rearranged(document, edit.path, change, chosen=True)


def move_layers(document: Document, edit: MoveLayers) -> Document:
    def change(document: Document, stack: Stack, layers: list[Layer], chosen: range) -> list[Layer]:
        rest = [*layers[: chosen.start], *layers[chosen.stop :]]
        to = _place(edit.to, 0, len(rest), edit.path)
        return [*rest[:to], *layers[chosen.start : chosen.stop], *rest[to:]]

    return _rearranged(document, edit.path, change, chosen=True)


def swap_layers(document: Document, edit: SwapLayers) -> Document:
    def change(document: Document, stack: Stack, layers: list[Layer], chosen: range) -> list[Layer]:
        a, b = _existing(edit.a, layers, edit.path), _existing(edit.b, layers, edit.path)
        layers = list(layers)
        layers[a], layers[b] = layers[b], layers[a]
        return layers

    return _rearranged(document, edit.path, change, chosen=False)


def _existing(index: int, layers: list[Layer], path: str) -> int:
    if index >= len(layers):
        raise EditError(f"there is no layer {index}: the layers are 0 to {len(layers) - 1}", path=path)
    return index


def _place(at: int | None, default: int, last: int, path: str) -> int:
    if at is not None and at > last:
        raise EditError(f"layers cannot stand at {at}", path=path, hint=f"The last place is {last}.")
    return default if at is None else at
