"""Edits of what flows into a block: give it another input, or take one away."""

from collections.abc import Callable

from canvas_rt.edits.data import AddInput, RemoveInput
from canvas_rt.edits.nodes import in_blocks
from canvas_rt.edits.paths import users, with_item
from canvas_rt.edits.wires import free_id, listed, readers
from canvas_rt.errors import EditError, suggest
from canvas_rt.ir.document import Block, Document, Stack
from canvas_rt.ir.graph import blocks_of


def add_input(document: Document, edit: AddInput) -> Document:
    path = f"{edit.block_path}.{edit.input}".lstrip(".")

    def change(document: Document, name: str) -> Document:
        block = document.blocks[name]
        free_id(block, edit.input, path)
        return document.with_block(name, block.replace(inputs=(*block.inputs, edit.input)))

    return _alike(document, edit.block_path, path, "Add", change)


def remove_input(document: Document, edit: RemoveInput) -> Document:
    path = f"{edit.block_path}.{edit.input}".lstrip(".")

    def change(document: Document, name: str) -> Document:
        block = document.blocks[name]
        _check_removable(document, name, block, edit.input, path)
        rest = tuple(port for port in block.inputs if port != edit.input)
        document = document.with_block(name, block.replace(inputs=rest))
        for holder, id in users(document, name):
            item = document.blocks[holder].by_id[id]
            document = with_item(document, holder, item.replace(inputs=item.inputs.without(edit.input)))
        return document

    return _alike(document, edit.block_path, path, "Remove", change)


def _check_removable(document: Document, name: str, block: Block, port: str, path: str) -> None:
    if port not in block.inputs:
        hint = suggest(port, block.inputs) if block.inputs else "It has none."
        raise EditError(f"{name} has no input '{port}'", path=path, hint=hint)
    reading = readers(block, port)
    if reading:
        raise EditError(
            f"{listed(reading)} of {name} {'reads' if len(reading) == 1 else 'read'} {port}",
            path=path,
            hint="Connect what reads it to another value first, or disconnect it.",
        )
    for holder, id in users(document, name):
        if isinstance(document.blocks[holder].by_id[id], Stack) and port == block.inputs[0]:
            raise EditError(
                f"{port} is what the layers of {id} carry from one to the next",
                path=path,
                hint="A layer needs it: remove another input, or take the stack out with Bypass.",
            )


def _alike(
    document: Document, block_path: str, path: str, verb: str, change: Callable[[Document, str], Document]
) -> Document:
    """The changed document, if the layers of each stack still take the same inputs."""
    document = in_blocks(document, block_path, change)
    for block in document.blocks.values():
        for item in block.nodes:
            if isinstance(item, Stack):
                _check_alike(document, item, path, verb)
    return document


def _check_alike(document: Document, stack: Stack, path: str, verb: str) -> None:
    first, *others = blocks_of(stack)
    for other in others:
        if document.blocks[other].inputs != document.blocks[first].inputs:
            taken = [", ".join(document.blocks[name].inputs) for name in (first, other)]
            raise EditError(
                f"of the layers of {stack.id}, {first} would take {taken[0]}, but {other} would take {taken[1]}",
                path=path,
                hint=f"Layers of one stack take the same inputs: {verb.lower()} it for all of them, "
                f"by the path of the stack without layers.",
            )
