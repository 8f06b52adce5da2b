"""Edits of blocks as wholes: replace, group, ungroup, set apart."""

from collections.abc import Sequence

from canvas_rt.edits.data import GroupNodes, MakeUnique, ReplaceBlock, Ungroup
from canvas_rt.edits.layout import grouped, ungrouped
from canvas_rt.edits.nodes import at_items, in_blocks, weights_kept
from canvas_rt.edits.paths import (
    clone,
    fresh_name,
    isolate,
    item_at,
    layer_kinds,
    layers_at,
    part_layers,
    scope,
    sources,
    split_path,
    users,
    with_item,
    with_layers,
)
from canvas_rt.edits.wires import (
    Trail,
    check_layer_block,
    free_id,
    ordered,
    port_ref,
    retied,
    rewired,
    unused_name,
    without,
)
from canvas_rt.errors import EditError, suggest
from canvas_rt.ir.document import PASSED_THROUGH, Block, Document, Node, Stack, Use
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import Item, execution_order, head, key_of, names_used
from canvas_rt.ops.parameters import may_learn

SEMANTIC = ("encoder_hidden_states", "input_ids", "decoder_input_ids", "position_ids", "cos", "sin")
"""Values that keep their name from block to block and come after the stream; all else is `hidden_states`."""


def replace_block(document: Document, edit: ReplaceBlock) -> Document:
    if edit.block not in document.blocks:
        raise EditError(f"there is no block '{edit.block}'", path=edit.path, hint=suggest(edit.block, document.blocks))
    steps, last = split_path(edit.path, "block")
    document = isolate(document, steps)
    for holder in scope(document, steps):
        item = item_at(document, holder, last)
        if isinstance(item, Node):
            raise EditError(
                f"{item.id} is a node ({item.op}), not a use of a block", path=edit.path, hint="Group it first."
            )
        if isinstance(item, Stack):
            document = _replace_layers(document, holder, item, layers_at(document, item, last), edit)
        else:
            document = _replace_use(document, holder, item, edit)
    return document


def _replace_layers(document: Document, holder: str, stack: Stack, layers: range, edit: ReplaceBlock) -> Document:
    check_layer_block(document, stack, edit.block, edit.path)
    used = names_used(document, edit.block)
    kinds = layer_kinds(document, stack)
    if all(kinds[layer].block == edit.block for layer in layers):
        raise EditError(f"these layers are of {edit.block} already", path=edit.path)
    for layer in layers:
        sizes = {name: value for name, value in kinds[layer].sizes.items() if name in used}
        kinds[layer] = kinds[layer].replace(block=edit.block, sizes=FrozenMap(sizes))
    return with_item(document, holder, with_layers(stack, kinds, sources(stack, len(kinds))))


def _replace_use(document: Document, holder: str, use: Use, edit: ReplaceBlock) -> Document:
    if use.block == edit.block:
        raise EditError(f"{use.id} is of {edit.block} already", path=edit.path)
    old, new = document.blocks[use.block], document.blocks[edit.block]
    stream = {old.inputs[0]: new.inputs[0]} if old.inputs and new.inputs and old.inputs[0] not in new.inputs else {}
    wires = {stream.get(port, port): ref for port, ref in use.inputs.items()}
    replaced = use.replace(block=edit.block, inputs=FrozenMap({p: r for p, r in wires.items() if p in new.inputs}))
    spelled: dict[str, str | None] = {}
    for index, port in enumerate(old.outputs):
        # What a block gives first is its stream, whatever it is called.
        target = port if port in new.outputs else next(iter(new.outputs), None) if index == 0 else None
        spelled[port_ref(document, use, port)] = None if target is None else port_ref(document, replaced, target)
    block = document.blocks[holder]
    for ref in [*block.outputs.values(), *(r for item in block.nodes for r in item.inputs.values())]:
        if spelled.get(ref, ref) is None:
            raise EditError(
                f"{edit.block} has no output '{ref.partition('.')[2]}', which {holder} reads", path=edit.path
            )
    document = document.with_block(holder, rewired(block, lambda ref: spelled.get(ref, ref)))
    return with_item(document, holder, replaced)


def group_nodes(document: Document, edit: GroupNodes) -> Document:
    if edit.block in document.blocks:
        raise EditError(f"there is a block '{edit.block}' already", path=edit.block_path, hint="Choose another name.")

    def change(document: Document, name: str) -> Document:
        block = document.blocks[name]
        for id in edit.ids:
            if block.node(id) is None:
                hint = suggest(id, [item.id for item in block.nodes])
                raise EditError(f"there is no '{id}' in {name}", path=edit.block_path, hint=hint)
        if edit.new_id not in edit.ids:
            free_id(block, edit.new_id, edit.block_path)
        inner, outer = _grouped(block, edit, edit.block_path)
        new = edit.block
        if document.blocks.get(new, inner) != inner:
            new = fresh_name(document, new)
        outer = outer.replace(
            nodes=tuple(i.replace(block=new) if i.id == edit.new_id and isinstance(i, Use) else i for i in outer.nodes)
        )
        document = retied(
            document,
            lambda t, i: (edit.new_id, t[i][1]) if t[i][0] == name and t[i][1] in edit.ids else (t[i][1],),
        )
        document = grouped(document, name, edit.ids, new, edit.new_id)
        return document.with_block(new, inner).with_block(name, outer)

    return in_blocks(document, edit.block_path, change)


def _grouped(block: Block, edit: GroupNodes, path: str) -> tuple[Block, Block]:
    """The new block, and the one that now uses it."""
    members = [item for item in block.nodes if item.id in edit.ids]
    ids = {item.id for item in members}
    fed = _group_inputs(block, members)
    given = _group_outputs(block, members)
    if not given:
        raise EditError(f"nothing reads what {' and '.join(edit.ids)} give", path=path, hint="Connect them first.")
    inputs = tuple(sorted(fed.values(), key=lambda port: SEMANTIC.index(port) if port in SEMANTIC else -1))
    body = Block(inputs=inputs, nodes=tuple(members), outputs=FrozenMap({out: ref for ref, out in given.items()}))
    body = rewired(body, lambda ref: ref if head(ref) in ids else fed[ref])
    wires = {port: ref for ref, port in fed.items()}
    ports = FrozenMap({port: wires[port] for port in inputs})
    weights = PASSED_THROUGH if any(map(may_learn, members)) else ""
    use = Use(id=edit.new_id, block=edit.block, inputs=ports, weights=weights)
    spelled = {ref: edit.new_id if len(given) == 1 else f"{edit.new_id}.{out}" for ref, out in given.items()}
    rest = rewired(without(block, ids), lambda ref: spelled.get(ref, ref))
    outer = rest.replace(nodes=_with_use(block, rest, use, ids))
    cycle = execution_order(outer)[1]
    if cycle:
        between = [id for id in cycle if id != use.id]
        raise EditError(
            f"{', '.join(between)} stands between them: it reads some and feeds others",
            path=path,
            hint="Group it with them.",
        )
    return body, ordered(outer)


def _with_use(block: Block, rest: Block, use: Use, ids: set[str]) -> tuple[Item, ...]:
    """The use where the first of its members stood."""
    at = next(index for index, item in enumerate(block.nodes) if item.id in ids)
    return (*rest.nodes[:at], use, *rest.nodes[at:])


def _group_inputs(block: Block, members: Sequence[Item]) -> dict[str, str]:
    """For each value from outside that members read, the name of the new block's input."""
    ids = {item.id for item in members}
    names: dict[str, str] = {}
    for ref in [ref for item in members for ref in item.inputs.values()]:
        if head(ref) not in ids and ref not in names:
            last = ref.rpartition(".")[2]
            name = last if last in SEMANTIC else "hidden_states"
            names[ref] = unused_name(name, {*ids, *names.values()})
    return names


def _group_outputs(block: Block, members: Sequence[Item]) -> dict[str, str]:
    """For each value of members that something outside reads, the name of the new block's output."""
    ids = {item.id for item in members}
    outside = [ref for item in block.nodes if item.id not in ids for ref in item.inputs.values()]
    read = list(dict.fromkeys(ref for ref in [*outside, *block.outputs.values()] if head(ref) in ids))
    if len(read) == 1:
        return {read[0]: "out"}
    names: dict[str, str] = {}
    for ref in read:
        names[ref] = unused_name(ref.rpartition(".")[2], names.values())
    return names


def ungroup(document: Document, edit: Ungroup) -> Document:
    def change(document: Document, holder: str, item: Item) -> Document:
        if not isinstance(item, Use):
            raise EditError(f"{item.id} is not a use of a block", path=edit.path)
        block, body = document.blocks[holder], document.blocks[item.block]
        rest = without(block, [item.id])
        taken = {*block.inputs, *(node.id for node in rest.nodes)}
        ids: dict[str, str] = {}
        for node in body.nodes:
            ids[node.id] = node.id if node.id not in taken else unused_name(f"{item.id[:40]}_{node.id[:20]}", taken)
            taken.add(ids[node.id])

        def inward(ref: str) -> str | None:
            if ref in body.inputs:
                return item.inputs.get(ref)
            return ids.get(head(ref), head(ref)) + ref[len(head(ref)) :]

        given = {port_ref(document, item, port): inward(ref) for port, ref in body.outputs.items()}
        moved = rewired(body, inward).nodes
        heads = {key_of(node).partition(".")[0] for node in rest.nodes}
        within = item.weights or key_of(item)
        inlined = tuple(_moved(node, ids[node.id], heads, within) for node in moved)
        at = block.nodes.index(item)
        joined = rest.replace(nodes=(*rest.nodes[:at], *inlined, *rest.nodes[at:]))
        _check_passed_through(joined, given, item, edit.path)
        joined = rewired(joined, lambda ref: given.get(ref, ref))
        document = _ungrouped_names(document, holder, item, ids)
        return document.with_block(holder, joined)

    return at_items(document, edit.path, change)


def _moved(item: Item, new_id: str, taken: set[str], within: str) -> Item:
    """An item in another block: the checkpoint calls it as before where nothing else is called so there.

    `within`: what the origin calls the block in which it was.
    """
    lost = not isinstance(item, Stack) and item.key.partition(".")[0] in taken
    moved = item.replace(id=new_id, key="") if lost else item.replace(id=new_id)
    return moved.replace(weights=weights_kept(item, moved, within))


def _check_passed_through(block: Block, given: dict[str, str | None], use: Use, path: str) -> None:
    read = {*block.outputs.values(), *(ref for item in block.nodes for ref in item.inputs.values())}
    for ref, inner in given.items():
        if inner is None and ref in read:
            raise EditError(f"{use.id} passes on an input that nothing feeds", path=path, hint="Connect it first.")


def _ungrouped_names(document: Document, holder: str, use: Use, ids: dict[str, str]) -> Document:
    """Ties and layout, after the nodes of a use moved out of it."""

    def change(trail: Trail, index: int) -> tuple[str, ...]:
        if trail[index] == (holder, use.id):
            return ()
        if index and trail[index - 1] == (holder, use.id):
            return (ids.get(trail[index][1], trail[index][1]),)
        return (trail[index][1],)

    return ungrouped(retied(document, change), holder, use.id, use.block, ids)


def make_unique(document: Document, edit: MakeUnique) -> Document:
    steps, last = split_path(edit.path, "block")
    before = document
    document = isolate(document, steps)
    for holder in scope(document, steps):
        item = item_at(document, holder, last)
        if isinstance(item, Node):
            raise EditError(f"{item.id} is a node ({item.op}), not a use of a block", path=edit.path)
        if isinstance(item, Stack):
            document = part_layers(document, holder, item, layers_at(document, item, last))
        elif users(document, item.block) != [(holder, item.id)]:
            document, copy = clone(document, item.block)
            document = with_item(document, holder, item.replace(block=copy))
    if document == before:
        raise EditError(
            f"{last.id} shares its block with nothing", path=edit.path, hint="Edit it: nothing else changes with it."
        )
    return document
