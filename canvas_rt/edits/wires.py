"""What flows between the nodes of a block: ports, references, readers, and the names by which ties find a node."""

from collections.abc import Callable, Iterable, Mapping

from canvas_rt.errors import EditError, suggest
from canvas_rt.ir.document import Block, Document, Node, Stack, Use
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import Item, consumers, execution_order, given_alike, handed_on, key_of, parse_layers
from canvas_rt.ops.catalogue import op_named


def in_ports(document: Document, item: Item) -> tuple[str, ...]:
    """The input ports of an item."""
    if isinstance(item, Node):
        return op_named(item.op, item.id).inputs
    return document.blocks[item.block].inputs if isinstance(item, Use) else given_alike(item, document.blocks)


def out_ports(document: Document, item: Item) -> tuple[str, ...]:
    """The outputs of an item; a stack has one, the carried value."""
    if isinstance(item, Node):
        return op_named(item.op, item.id).outputs
    return tuple(document.blocks[item.block].outputs) if isinstance(item, Use) else ("out",)


def port_ref(document: Document, item: Item, port: str) -> str:
    """How an output is referred to: by the id alone where there is one."""
    return item.id if len(out_ports(document, item)) == 1 else f"{item.id}.{port}"


def checked_port(document: Document, item: Item, port: str, path: str) -> str:
    ports = in_ports(document, item)
    if port not in ports:
        raise EditError(
            f"{item.id} has no input '{port}'", path=path, hint=suggest(port, ports) if ports else "It has none."
        )
    return port


def checked_ref(document: Document, block: Block, ref: str, path: str) -> str:
    """A reference that holds in a block, in its usual spelling."""
    if ref in block.inputs:
        return ref
    source, _, port = ref.partition(".")
    item = block.node(source)
    if item is None:
        known = [*block.inputs, *(item.id for item in block.nodes)]
        raise EditError(f"there is no value '{ref}' here", path=path, hint=suggest(source, known))
    ports = out_ports(document, item)
    if not port and len(ports) > 1:
        raise EditError(
            f"{source} gives {listed(ports)}: say which",
            path=path,
            hint="Try " + " or ".join(f"{source}.{p}" for p in ports) + ".",
        )
    if port and port not in ports:
        raise EditError(f"{source} gives no '{port}'", path=path, hint=suggest(port, ports))
    return port_ref(document, item, port)


def checked_inputs(document: Document, block: Block, item: Item, path: str) -> Item:
    """An item whose wires hold in a block."""
    wires = {
        checked_port(document, item, port, path): checked_ref(document, block, ref, path)
        for port, ref in item.inputs.items()
    }
    return item.replace(inputs=FrozenMap(wires))


def rewired(block: Block, change: Callable[[str], str | None]) -> Block:
    """A block with each reference replaced; a wire for which `change` gives None is taken away."""

    def wires(old: Mapping[str, str]) -> FrozenMap[str, str]:
        return FrozenMap({port: new for port, ref in old.items() if (new := change(ref)) is not None})

    nodes = tuple(item.replace(inputs=wires(item.inputs)) for item in block.nodes)
    return block.replace(nodes=nodes, outputs=wires(block.outputs))


def without(block: Block, ids: Iterable[str]) -> Block:
    gone = set(ids)
    return block.replace(nodes=tuple(item for item in block.nodes if item.id not in gone))


def ordered(block: Block) -> Block:
    """A block whose reading order is also one of execution."""
    order, cycle = execution_order(block)
    return block if cycle or order == block.nodes else block.replace(nodes=order)


def free_id(block: Block, node_id: str, path: str) -> None:
    """Refuse an id that the block has already."""
    if node_id in block.inputs:
        raise EditError(f"'{node_id}' is an input of the block", path=path, hint="Choose another id.")
    if block.node(node_id):
        raise EditError(f"there is a '{node_id}' already", path=path, hint="Choose another id.")


def unused_name(name: str, taken: Iterable[str]) -> str:
    """A name that is not taken, with a number where needed."""
    names, candidate, number = set(taken), name, 1
    while candidate in names:
        candidate, number = f"{name[:60]}_{number}", number + 1
    return candidate


def readers(block: Block, node_id: str) -> tuple[str, ...]:
    """Who reads a node, in words."""
    found = consumers(block, node_id)
    nodes = dict.fromkeys(reader for reader, _ in found if reader)
    return (*nodes, *(f"the output {port}" for reader, port in found if not reader))


def refuse_if_read(block: Block, node_id: str, path: str) -> None:
    names = readers(block, node_id)
    if names:
        raise EditError(
            f"{node_id} feeds {listed(names)}",
            path=path,
            hint="Bypass it, so that they read what feeds it, or disconnect them first.",
        )


def check_layer_block(document: Document, stack: Stack, block: str, path: str) -> None:
    """Refuse a block that cannot stand among a stack's layers."""
    wanted, given = given_alike(stack, document.blocks), document.blocks[block].inputs
    handed = handed_on(stack, document.blocks)
    if wanted != tuple(port for port in given if port in wanted or port not in handed):
        raise EditError(
            f"{block} takes {', '.join(given) or 'nothing'}, but the layers of {stack.id} take {', '.join(wanted)}",
            path=path,
            hint="Layers of one stack take the same inputs in the same order.",
        )
    if not given or not document.blocks[block].outputs:
        raise EditError(
            f"{block} {'gives' if given else 'takes'} nothing, so it cannot carry a value from layer to layer",
            path=path,
            hint=f"Give it an {'output' if given else 'input'} first.",
        )


def feeds(block: Block, source: str, target: str) -> bool:
    """Whether what `source` gives reaches `target`."""
    frontier, seen = [source], {source}
    while frontier:
        current = frontier.pop()
        if current == target:
            return True
        for reader, _ in consumers(block, current):
            if reader and reader not in seen:
                seen.add(reader)
                frontier.append(reader)
    return False


def listed(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


# A parameter's key is a path; ties name two. What renames nodes must rename them there.

Trail = tuple[tuple[str, str], ...]
"""A key's parts, each with the block that holds it; layers and the parameter itself have none."""


def trail(document: Document, key: str) -> Trail:
    """Where a parameter's key leads."""
    block: str = document.root
    item: Item | None = None
    found: list[tuple[str, str]] = []
    parts = key.split(".")
    while parts:
        chosen = parse_layers(parts[0])
        if isinstance(item, Stack) and chosen is not None:
            block = item.kinds[item.kind_indices(chosen[1])[chosen[0]]].block
            found.append(("", parts.pop(0)))
            continue
        item = _called(document.blocks[block], parts) if block else None
        name = key_of(item) if item else parts[0]
        found.append((block if item else "", name))
        del parts[: name.count(".") + 1]
        block = item.block if isinstance(item, Use) else item.kinds[0].block if isinstance(item, Stack) else ""
    return tuple(found)


def _called(block: Block, parts: list[str]) -> Item | None:
    """The item that the first of a key's parts name."""
    keys = ((item, key_of(item).split(".")) for item in block.nodes)
    return next((item for item, own in keys if parts[: len(own)] == own), None)


def retied(document: Document, change: Callable[[Trail, int], tuple[str, ...] | None]) -> Document:
    """A document whose ties follow renamed nodes: `change` gives the new parts for one, or None to drop the tie."""

    def renamed(key: str) -> str | None:
        path = trail(document, key)
        parts = [change(path, index) for index in range(len(path))]
        return None if None in parts else ".".join(part for some in parts for part in some or ())

    ties = {new: other for a, b in document.ties.items() if (new := renamed(a)) and (other := renamed(b))}
    return document if ties == document.ties else document.replace(ties=FrozenMap(ties))
