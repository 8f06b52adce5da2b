"""Edits of nodes and wires: set, add, remove, connect, rename, bypass."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from canvas_rt.edits.data import (
    AddNode,
    Bypass,
    Connect,
    Disconnect,
    RemoveNode,
    RenameNode,
    SetAttr,
    SetOutput,
    SetWeights,
)
from canvas_rt.edits.layout import redrawn
from canvas_rt.edits.paths import Step, isolate, item_at, parse_path, scope, split_path, users, with_item, with_nodes
from canvas_rt.edits.wires import (
    check_layer_block,
    checked_inputs,
    checked_port,
    checked_ref,
    feeds,
    free_id,
    in_ports,
    ordered,
    out_ports,
    port_ref,
    refuse_if_read,
    retied,
    rewired,
    without,
)
from canvas_rt.errors import EditError, suggest
from canvas_rt.ir.document import LAYER, PASSED_THROUGH, Document, Node, Stack, Use, weight_parts
from canvas_rt.ir.expressions import is_expression, names_in
from canvas_rt.ir.graph import Item, blocks_of, head, key_of
from canvas_rt.ops.catalogue import BY_LAYER, is_name, op_named
from canvas_rt.ops.choices import ALIASES, DTYPES
from canvas_rt.ops.op import Setting
from canvas_rt.ops.parameters import may_learn


def in_blocks(document: Document, path: str, change: Callable[[Document, str], Document]) -> Document:
    """Change each block that a path means, set apart from the rest where the path names only some layers."""
    return _in_blocks(document, parse_path(path), change)


def at_items(document: Document, path: str, change: Callable[[Document, str, Item], Document]) -> Document:
    """Change each item that a path means, in the block that holds it."""
    steps, last = split_path(path)
    if last.layers is not None:
        raise EditError(
            "layers are not a node",
            path=path,
            hint=f"Give the stack, {path.rpartition('.')[0]}, or DeleteLayers, ReplaceBlock and the like the layers.",
        )
    return _in_blocks(document, steps, lambda d, block: change(d, block, item_at(d, block, last)))


def _in_blocks(document: Document, steps: tuple[Step, ...], change: Callable[[Document, str], Document]) -> Document:
    document = isolate(document, steps)
    for block in scope(document, steps):
        document = change(document, block)
        document = document.with_block(block, ordered(document.blocks[block]))
    return document


def set_attr(document: Document, edit: SetAttr) -> Document:
    def change(document: Document, block: str, item: Item) -> Document:
        if not isinstance(item, Node):
            what = f"a use of {item.block}" if isinstance(item, Use) else "a stack"
            raise EditError(
                f"{item.id} is {what}, which has no settings", path=edit.path, hint="SetSize sets its sizes."
            )
        check_setting(document, item, edit.name, edit.value, edit.path)
        attrs = item.attrs.with_items({edit.name: edit.value})
        shared = [old for old in document.blocks[block].nodes if isinstance(old, Node) and key_of(old) == key_of(item)]
        for one in shared:  # several nodes may be one module
            document = with_item(document, block, one.replace(attrs=attrs))
        return document

    return at_items(document, edit.path, change)


def check_setting(document: Document, node: Node, name: str, value: Any, path: str) -> None:
    """Refuse a setting that the op lacks, or a value of another sort than it takes."""
    settings = op_named(node.op, path).settings
    if name not in settings:
        raise EditError(
            f"{node.op} has no setting '{name}'",
            path=path,
            hint=suggest(name, settings) if settings else "It has none.",
        )
    numbers = (LAYER,) if (node.op, name) == BY_LAYER else ()
    check_names(document, value, f"{path}.{name}", (*document.purpose.run_time, *numbers))
    if not is_expression(value) and not _fits(settings[name], value):
        sort = _SORTS[settings[name].kind].format(options=", ".join(settings[name].options))
        raise EditError(f"{name} must be {sort}, not {value!r}", path=path, hint=f"It is: {settings[name].summary}.")


_SORTS = {
    "size": "a whole number of at least 1",
    "number": "a number",
    "flag": "true or false",
    "choice": "one of {options}",
    "table": "a table",
    "integer": "a whole number",
    "integers": "a list of whole numbers",
    "dtype": f"one of {', '.join(DTYPES)}",
    "text": "text",
    "name": "a name that an attribute may have",
}


def _fits(setting: Setting, value: Any) -> bool:
    if value is None:
        return setting.optional
    number = not isinstance(value, bool) and isinstance(value, int | float)
    return {
        "size": _whole(value) and value >= 1,
        "number": number,
        "flag": isinstance(value, bool),
        "choice": value in setting.options or (isinstance(value, str) and ALIASES.get(value) in setting.options),
        "table": isinstance(value, Mapping),
        "integer": _whole(value),
        "integers": isinstance(value, tuple) and all(_whole(one) or is_expression(one) for one in value),
        "dtype": value in DTYPES,
        "text": isinstance(value, str),
        "name": is_name(value),
    }[setting.kind]


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_names(document: Document, value: Any, path: str, others: Collection[str] = ()) -> None:
    """Refuse an expression that names what the document does not have, nor `others`."""
    known = document.sizes.keys() | document.config.keys() | set(others)
    for name in sorted(names_in(value) - known):
        raise EditError(f"'{name}' is no size of this model", path=path, hint=suggest(name, known))


def add_node(document: Document, edit: AddNode) -> Document:
    if edit.before and edit.after:
        raise EditError("say where the node stands by 'before' or 'after', not both", path=edit.block_path)

    def change(document: Document, name: str) -> Document:
        block = document.blocks[name]
        path = f"{edit.block_path}.{edit.node.id}".lstrip(".")
        free_id(block, edit.node.id, path)
        check_new(document, edit.node, path)
        nodes = list(block.nodes)
        nodes.insert(_position(nodes, edit, path), edit.node)
        grown = with_nodes(block, nodes)
        return with_item(document.with_block(name, grown), name, checked_inputs(document, block, edit.node, path))

    return in_blocks(document, edit.block_path, change)


def check_new(document: Document, item: Item, path: str) -> None:
    """Refuse an item of a block or an op that does not exist, or with settings or sizes that cannot be."""
    for name in blocks_of(item):
        if name not in document.blocks:
            raise EditError(f"there is no block '{name}'", path=path, hint=suggest(name, document.blocks))
    if isinstance(item, Stack):
        _check_new_stack(document, item, path)
    elif isinstance(item, Node):
        op_named(item.op, path)
        for name, value in item.attrs.items():
            check_setting(document, item, name, value, path)


def _check_new_stack(document: Document, stack: Stack, path: str) -> None:
    check_names(document, stack.repeat, f"{path}.repeat")
    for kind in stack.kinds:
        check_layer_block(document, stack, kind.block, path)
        for name, value in kind.sizes.items():
            if name not in document.sizes:
                raise EditError(f"there is no size '{name}'", path=path, hint=suggest(name, document.sizes))
            check_names(document, value, f"{path}.{name}")


def _position(nodes: list[Item], edit: AddNode, path: str) -> int:
    anchor = edit.before or edit.after
    if anchor is None:
        return len(nodes)
    ids = [item.id for item in nodes]
    if anchor not in ids:
        raise EditError(f"there is no '{anchor}' to stand beside", path=path, hint=suggest(anchor, ids))
    return ids.index(anchor) + (edit.before is None)


def remove_node(document: Document, edit: RemoveNode) -> Document:
    def change(document: Document, name: str, item: Item) -> Document:
        block = document.blocks[name]
        refuse_if_read(block, item.id, edit.path)
        document = retied(document, lambda trail, i: None if trail[i] == (name, item.id) else (trail[i][1],))
        return document.with_block(name, without(block, [item.id]))

    return at_items(document, edit.path, change)


def connect(document: Document, edit: Connect) -> Document:
    def change(document: Document, name: str, item: Item) -> Document:
        block = document.blocks[name]
        path = f"{edit.path}.{edit.port}"
        port = checked_port(document, item, edit.port, edit.path)
        ref = checked_ref(document, block, edit.source, path)
        if ref not in block.inputs and feeds(block, item.id, head(ref)):
            raise EditError(
                f"{item.id} feeds {head(ref)}: the wire would close a circle",
                path=path,
                hint="Take a value from before it, or disconnect the way back first.",
            )
        return with_item(document, name, item.replace(inputs=item.inputs.with_items({port: ref})))

    return at_items(document, edit.path, change)


def disconnect(document: Document, edit: Disconnect) -> Document:
    def change(document: Document, name: str, item: Item) -> Document:
        port = checked_port(document, item, edit.port, edit.path)
        if port not in item.inputs:
            raise EditError(f"nothing feeds {port}", path=edit.path)
        return with_item(document, name, item.replace(inputs=item.inputs.without(port)))

    return at_items(document, edit.path, change)


def rename_node(document: Document, edit: RenameNode) -> Document:
    def change(document: Document, name: str, item: Item) -> Document:
        free_id(document.blocks[name], edit.new_id, edit.path)
        document = retied(document, lambda t, i: (edit.new_id if t[i] == (name, item.id) else t[i][1],))
        document = redrawn(document, {f"{name}/{item.id}": f"{name}/{edit.new_id}"})
        block = document.blocks[name]
        # What another node shares stays where it was in the checkpoint.
        shared = any(key_of(old) == item.id != old.id for old in block.nodes)
        new = item.replace(id=edit.new_id, key=key_of(item)) if shared else item.replace(id=edit.new_id)
        new = new.replace(weights=weights_kept(item, new))
        renamed = [new if old.id == item.id else old for old in block.nodes]

        def ref(old: str) -> str:
            return edit.new_id + old[len(item.id) :] if head(old) == item.id else old

        return document.with_block(name, rewired(with_nodes(block, renamed), ref))

    return at_items(document, edit.path, change)


def weights_kept(before: Item, after: Item, within: str = "") -> str:
    """What says that an item has its weights from where it had them, now that it may have another key.

    `within`: what the origin calls the block around it that is gone.
    """
    if not may_learn(before):
        return ""
    said = before.weights or key_of(before)
    if said.startswith("=") or within.startswith("="):
        return said if said.startswith("=") else within
    if within and within != PASSED_THROUGH:
        said = within if said == PASSED_THROUGH else " + ".join(f"{within}.{part}" for part in weight_parts(said))
    return "" if said == key_of(after) else said


def set_weights(document: Document, edit: SetWeights) -> Document:
    def change(document: Document, name: str, item: Item) -> Document:
        if isinstance(item, Stack):
            raise EditError(
                f"{item.id} is a stack",
                path=edit.path,
                hint="Name a node in it, as in model.layers.3.self_attn.q_proj.",
            )
        return with_item(document, name, item.replace(weights="" if edit.weights == key_of(item) else edit.weights))

    return at_items(document, edit.path, change)


def bypass(document: Document, edit: Bypass) -> Document:
    def change(document: Document, name: str, item: Item) -> Document:
        block = document.blocks[name]
        through = _passing_port(document, item, edit)
        feed: dict[str, str] = {}
        for out in out_ports(document, item):
            port = out if edit.port is None and out in in_ports(document, item) else through
            if port not in item.inputs:
                raise EditError(
                    f"nothing feeds {item.id}.{port}", path=edit.path, hint="Connect it first, or name another port."
                )
            feed[port_ref(document, item, out)] = item.inputs[port]
        document = retied(document, lambda trail, i: None if trail[i] == (name, item.id) else (trail[i][1],))
        return document.with_block(name, rewired(without(block, [item.id]), lambda ref: feed.get(ref, ref)))

    return at_items(document, edit.path, change)


def _passing_port(document: Document, item: Item, edit: Bypass) -> str:
    """The input that takes a bypassed node's place: the only one there is, or a block's stream."""
    ports = in_ports(document, item)
    if edit.port is not None:
        return checked_port(document, item, edit.port, edit.path)
    if not ports:
        raise EditError(
            f"{item.id} has no input that could take its place", path=edit.path, hint="Disconnect its readers."
        )
    own = set(ports) >= set(out_ports(document, item))
    if len(ports) == 1 or isinstance(item, Use | Stack) or own:
        return ports[0]
    raise EditError(
        f"{item.id} takes {', '.join(ports)}: say which passes through",
        path=edit.path,
        hint=f"Give the port, such as {ports[0]}.",
    )


def set_output(document: Document, edit: SetOutput) -> Document:
    def change(document: Document, name: str) -> Document:
        block = document.blocks[name]
        path = f"{edit.block_path}.{edit.output}".lstrip(".")
        if edit.source is None:
            _check_unread_output(document, name, edit.output, path)
            outputs = block.outputs.without(edit.output)
        else:
            outputs = block.outputs.with_items({edit.output: checked_ref(document, block, edit.source, path)})
        changed = document.with_block(name, block.replace(outputs=outputs))
        return _respelled(document, changed, name)

    return in_blocks(document, edit.block_path, change)


def _check_unread_output(document: Document, name: str, output: str, path: str) -> None:
    outputs = tuple(document.blocks[name].outputs)
    if output not in outputs:
        raise EditError(f"{name} has no output '{output}'", path=path, hint=suggest(output, outputs))
    if len(outputs) == 1:
        raise EditError(f"{output} is the only output of {name}", path=path, hint="Give it another source instead.")
    for holder, id in users(document, name):
        block = document.blocks[holder]
        item = block.by_id[id]
        refs = [*block.outputs.values(), *(ref for node in block.nodes for ref in node.inputs.values())]
        if isinstance(item, Use) and port_ref(document, item, output) in refs:
            raise EditError(
                f"{holder} reads {output} of {id}", path=path, hint="Connect its reader to another value first."
            )
        if isinstance(item, Stack) and output == outputs[0]:
            raise EditError(
                f"{output} is what the layers of {id} carry on", path=path, hint="Give it another source instead."
            )


def _respelled(before: Document, document: Document, name: str) -> Document:
    """References to uses of a block by id alone where it has one output now, with the port where it has several."""
    for holder, id in users(document, name):
        item = document.blocks[holder].by_id[id]
        spelled = {
            port_ref(before, item, port): port_ref(document, item, port)
            for port in out_ports(before, item)
            if port in out_ports(document, item)
        }
        changed = rewired(document.blocks[holder], lambda ref, spelled=spelled: spelled.get(ref, ref))  # type: ignore[misc]
        document = document.with_block(holder, changed)
    return document
