"""Edits of the document as a whole: its name, and its blocks by name."""

from canvas_rt.edits.data import AddBlock, RenameBlock, SetName, SetTokenizer
from canvas_rt.edits.layout import block_renamed
from canvas_rt.edits.nodes import check_new
from canvas_rt.edits.wires import checked_inputs, checked_ref, listed, ordered
from canvas_rt.errors import EditError, suggest
from canvas_rt.ir.document import Block, Document, Stack, Use
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import Item, execution_order


def set_name(document: Document, edit: SetName) -> Document:
    if not edit.name.strip():
        raise EditError("a document is called something", path="name", hint="Give it a name that can be read.")
    return document.replace(name=edit.name)


def set_tokenizer(document: Document, edit: SetTokenizer) -> Document:
    return document.replace(tokenizer=edit.tokenizer)


def add_block(document: Document, edit: AddBlock) -> Document:
    _check_free(document, edit.name)
    block = _checked(document, edit.block, edit.name)
    return document.with_block(edit.name, ordered(block))


def _checked(document: Document, block: Block, name: str) -> Block:
    """A block that holds in a document, its references in their usual spelling."""
    nodes = []
    for item in block.nodes:
        path = f"{name}.{item.id}"
        check_new(document, item, path)
        nodes.append(checked_inputs(document, block, item, path))
    outputs = {port: checked_ref(document, block, ref, f"{name}.{port}") for port, ref in block.outputs.items()}
    checked = block.replace(nodes=tuple(nodes), outputs=FrozenMap(outputs))
    cycle = execution_order(checked)[1]
    if cycle:
        raise EditError(
            f"{listed(cycle)} would feed one another in a circle",
            path=name,
            hint="Cut one of the wires between them: a value can only depend on earlier ones.",
        )
    return checked


def rename_block(document: Document, edit: RenameBlock) -> Document:
    if edit.block not in document.blocks:
        raise EditError(f"there is no block '{edit.block}'", path=edit.block, hint=suggest(edit.block, document.blocks))
    _check_free(document, edit.new_name)
    names = {edit.block: edit.new_name}
    blocks = {
        names.get(name, name): block.replace(nodes=tuple(_of(item, names) for item in block.nodes))
        for name, block in document.blocks.items()
    }
    document = document.replace(root=names.get(document.root, document.root), blocks=FrozenMap(blocks))
    return block_renamed(document, edit.block, edit.new_name)


def _of(item: Item, names: dict[str, str]) -> Item:
    """An item, of blocks under their new names."""
    if isinstance(item, Use) and item.block in names:
        return item.replace(block=names[item.block])
    if isinstance(item, Stack) and any(kind.block in names for kind in item.kinds):
        kinds = tuple(kind.replace(block=names.get(kind.block, kind.block)) for kind in item.kinds)
        return item.replace(kinds=kinds)
    return item


def _check_free(document: Document, name: str) -> None:
    if name in document.blocks:
        raise EditError(f"there is a block '{name}' already", path=name, hint="Choose another name.")
