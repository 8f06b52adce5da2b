"""Read calls of modules: layers of a stack, modules that are one node, and all others, which become blocks of their own."""

import operator
from collections.abc import Mapping

import torch
from torch import Tensor, fx

from canvas_rt.importer.calls import shape_of
from canvas_rt.importer.dissolve import own_path
from canvas_rt.importer.layers import Layers
from canvas_rt.importer.positions import repeats_positions
from canvas_rt.importer.recognition.numbering import number_tokens, numbered_within
from canvas_rt.importer.recognition.ports import stream_first
from canvas_rt.importer.recognition.reader import Reader
from canvas_rt.importer.recognition.rows import in_a_row
from canvas_rt.importer.recognition.traced import stand_in
from canvas_rt.importer.trace import TraceError
from canvas_rt.importer.whole import call_in, ports_of
from canvas_rt.ir.document import Node, Use
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ops.catalogue import OPS
from canvas_rt.ops.learned import MODULE


def read_module(reader: Reader, node: fx.Node) -> None:
    """A call of a module: a layer of a stack, one node, or a use of a block of its own."""
    target, path = str(node.target), reader.path_of(node)
    container, _, index = path.rpartition(".")
    if container in reader.recogniser.kept and index.isdecimal():
        reader.stacks.setdefault(container, Layers(reader, container)).read(node, path)
        return
    arguments = [arg for arg in node.args if isinstance(arg, fx.Node)]
    learns = any(True for _ in reader.recogniser.submodule(path).parameters())
    leaf = reader.recogniser.leaf(path)
    if leaf is not None and read_leaf(reader, node, leaf, path, arguments):
        return
    ports = reader.ports(arguments)
    elsewhere = (port for port, arg in zip(ports, arguments, strict=True) if len(arg.users) > 1)
    reader.recogniser.shared[path] = frozenset(elsewhere)
    reader.recogniser.block(path, ports)
    node = without_passed(reader, node, path, dict(zip(ports, arguments, strict=True)))
    key, own = reader.key(target), own_path(target)
    reader.used.add(own)
    if learns and not key and own in reader.names:
        raise TraceError(f"{reader.where}: {own} stands beside its own name")
    last = own.rpartition(".")[2]
    name = reader.unique((key or (own if last.isdecimal() else last)).replace(".", "_"))
    inputs = stream_first([(port, reader.ref(arg)) for port, arg in zip(ports, arguments, strict=True)])
    reader.put(node, Use(id=name, block=stand_in(path), inputs=inputs, key=key))
    reader.bind_values(node, name, tuple(reader.recogniser.blocks[stand_in(path)].outputs))


def without_passed(reader: Reader, node: fx.Node, path: str, given: Mapping[str, fx.Node]) -> fx.Node:
    """What a module gives that it was given is that itself: its block gives the rest. The call, or what takes the rest."""
    block = reader.recogniser.blocks[stand_in(path)]
    kept = [place for place, ref in enumerate(block.outputs.values()) if ref not in block.inputs]
    if reader.recogniser.task.decodes:  # an encoder's states are given beside a decoder's, and mostly not read
        read = {user.args[1] for user in node.users if user.users and user.target is operator.getitem}
        kept = [place for place in kept if place in read] or kept
    if not 0 < len(kept) < len(block.outputs) or isinstance(node.meta.get("val"), Tensor):
        return node
    refs = list(block.outputs.values())
    for user in node.users:
        place = user.args[1]
        if place not in kept and refs[place] in given:  # type: ignore[index]
            reader.refs[user] = reader.ref(given[refs[place]])  # type: ignore[index]
    left = [user for user in node.users if user.args[1] in kept]
    if len(kept) > 1:
        return node
    outputs = FrozenMap({"out": refs[kept[0]]})
    reader.recogniser.blocks[stand_in(path)] = block.replace(outputs=outputs)
    return left[0] if left else node


def read_leaf(reader: Reader, node: fx.Node, leaf: Node, path: str, arguments: list[fx.Node]) -> bool:
    """A module that is one node."""
    if leaf.op == MODULE and leaf.attrs.get("arguments"):
        return read_whole(reader, node, leaf, path, arguments)
    ports: tuple[str, ...] = OPS[leaf.op].fed(())
    alone = leaf.op == "position_embedding" and not arguments
    if len(arguments) != len(ports) and not alone:
        return False
    if leaf.op == "experts":
        ports = experts_ports(reader.recogniser.graph(path))
    if leaf.op == "router" and in_a_row(reader, arguments[0]):
        leaf = leaf.replace(attrs=leaf.attrs.with_items({"in_a_row": True}))
    several = leaf.op == "rotary_embedding" and len(shape_of(arguments[0])) != 2
    if alone:
        encoded = numbered_within(reader, path, int(leaf.attrs.get("offset", 0)))
        if encoded is None:
            return False
        wires = {"position_ids": number_tokens(reader, node, encoded)}
    elif several and repeats_positions(arguments[0], reader.recogniser.inputs[1]):
        wires = {"position_ids": number_tokens(reader, arguments[0])}
    else:
        wires = {port: reader.ref(arg) for port, arg in zip(ports, arguments, strict=True)}
    name = reader.put_module(node, str(node.target), leaf, {port: wires[port] for port in ports})
    bind_outputs(reader, node, name, leaf.op)
    if alone and len(shape_of(node)) == 2:  # numbers that are no row of a batch
        reader.add(node, f"{name}_row", "torch.select", {"x": name}, {"dim": 0, "index": 0})
    return True


def read_whole(reader: Reader, node: fx.Node, leaf: Node, path: str, arguments: list[fx.Node]) -> bool:
    """A module that is kept whole, with whatever it is given."""
    graph = reader.recogniser.graph(path)
    call = call_in(graph)
    assert call is not None
    fed = ports_of(graph, call)
    if sum(map(len, fed)) != len(call.args[0]):  # type: ignore[arg-type]
        return False
    wires = {port: reader.ref(arg) for ports, arg in zip(fed, arguments, strict=True) for port in ports}
    inputs = {port: wires[port] for port in OPS[MODULE].inputs if port in wires}
    name = reader.put_module(node, str(node.target), leaf, inputs)
    reader.bind_values(node, name, ("out",))
    return True


def bind_outputs(reader: Reader, node: fx.Node, name: str, op: str) -> None:
    outputs = OPS[op].outputs
    if op == "router":
        # A trace gives what is read of what the module gives, in an order of its own: the sorts tell them apart.
        for given in [node] if isinstance(node.meta.get("val"), Tensor) else list(node.users):
            port = "weights" if given.meta["val"].is_floating_point() else "indices"
            reader.refs[given] = f"{name}.{port}"
        return
    reader.bind_values(node, name, outputs)


def experts_ports(graph: fx.Graph) -> tuple[str, ...]:
    """Which port each input of an experts module is: a trace gives them in an order of its own."""
    call = next(node for node in graph.nodes if node.target is torch.ops.canvas_rt.experts.default)
    feeds = dict(zip(call.args, OPS["experts"].inputs, strict=True))
    return tuple(feeds[node] for node in graph.nodes if node.op == "placeholder" and node.users)
