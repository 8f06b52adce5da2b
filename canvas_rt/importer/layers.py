"""Read the layers of a stack as a trace calls them: what they carry, what all take, what each has of a table, what one hands on."""

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor, fx

from canvas_rt.importer.calls import is_one_of_several, shape_of
from canvas_rt.importer.recognition.ports import stream_first
from canvas_rt.importer.recognition.reader import Reader
from canvas_rt.importer.recognition.traced import stand_in
from canvas_rt.importer.trace import TraceError
from canvas_rt.ir.document import Block, LayerKind, Node, Stack, Use
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import head

PART = torch.ops.aten.select.int
"""The function by which a layer has its own part of a table."""

TABLE, OWN = "layer_inputs", "layer_inputs_part"
"""A value of which each layer takes the part that has its number, and that part."""


class Layers:
    """The layers of one stack, in a block that is being read."""

    def __init__(self, reader: Reader, container: str) -> None:
        self.reader = reader
        self.container = container
        self.name = container.rpartition(".")[2]
        self.indices = reader.recogniser.kept[container]
        """What the traced layers are in the whole model."""
        for alias in reader.graph.find_nodes(op="call_function", target=torch.ops.aten.alias.default):
            alias.replace_all_uses_with(alias.args[0])  # all of a value is that value
        paths = {node: reader.path_of(node) for node in reader.graph.nodes if node.op == "call_module"}
        self.calls = [node for node, path in paths.items() if path.rpartition(".")[0] == container]
        self.done = 0
        """How many of them are read."""
        self.carried: tuple[int, ...] = ()
        """The shape of what flows from layer to layer."""
        self.handed: dict[fx.Node, str] = {}
        """What layers hand on so far, and its name."""
        self.latest: dict[str, fx.Node] = {}
        """For each name, what the last layer that had it handed on."""

    def read(self, node: fx.Node, path: str) -> None:
        """A layer, after those before it: the first one opens the stack, each other must take what the one before gives."""
        for earlier in self.calls[self.done : self.calls.index(node)]:
            self.reader.ref(earlier)
        self.done = max(self.done, self.calls.index(node) + 1)
        arguments = [arg for arg in node.args if isinstance(arg, fx.Node)]
        ports = self.ports(node, arguments)
        self.reader.recogniser.block(path, tuple(ports[arg] for arg in arguments))
        block = stand_in(path)
        for arg in arguments:
            if arg in self.parts:
                self.take_part(block, ports[arg], arg, self.indices[self.calls.index(node)])
        self.name_outputs(node, block, dict(zip(arguments, map(ports.__getitem__, arguments), strict=True)))
        inputs = stream_first(
            [(ports[arg], self.reader.ref(self.parts.get(arg, arg))) for arg in arguments if arg not in self.handed]
        )
        stack, kind = self.stack, LayerKind(block=block)
        if stack is None:
            self.reader.names.add(self.name)
            self.reader.put(node, Stack(id=self.name, repeat=1, kinds=(kind,), inputs=inputs))
        else:
            self.grow(stack, kind, inputs, path)

    @property
    def stack(self) -> Stack | None:
        """The stack as far as it is read."""
        return next((item for item in self.reader.items if isinstance(item, Stack) and item.id == self.name), None)

    # what layers are given

    def ports(self, node: fx.Node, arguments: list[fx.Node]) -> dict[fx.Node, str]:
        """Names for a layer's inputs: those that its stack has for the same values, and others that it has not."""
        named = {arg: self.handed[arg] for arg in arguments if arg in self.handed}
        tables = {arg: self.parts.get(arg, arg) for arg in arguments if arg in self.parts or arg in self.tables}
        for number, source in enumerate(dict.fromkeys(tables.values())):
            name = TABLE if not number else f"{TABLE}_{number + 1}"
            named |= {arg: name for arg, own in tables.items() if own is source}
        rest = [arg for arg in arguments if arg not in named]
        for arg in (*rest, *tables.values()):
            self.reader.ref(arg)
        stack = self.stack
        if stack is None:
            given = [shape for _, shape in self.given(node)]
            carried = next((arg for arg in rest if shape_of(arg) in given and may_be_carried(arg)), None)
            self.carried = () if carried is None else shape_of(carried)
            rest = sorted(rest, key=lambda arg: arg is not carried)
            return named | dict(zip(rest, self.reader.ports(rest, set(named.values())), strict=True))
        first = next(iter(stack.inputs))
        known = {ref: port for port, ref in stack.inputs.items() if port != first} | {stack.id: first}
        named |= {arg: known[self.reader.ref(arg)] for arg in rest if self.reader.ref(arg) in known}
        fresh = [arg for arg in rest if arg not in named]
        taken = {*stack.inputs, *named.values()}
        return named | dict(zip(fresh, self.reader.ports(fresh, taken), strict=True))

    @staticmethod
    def given(node: fx.Node) -> list[tuple[fx.Node, tuple[int, ...]]]:
        """What is read of what a layer gives, in the order in which it gives it, and the shapes."""
        if isinstance(node.meta.get("val"), Tensor):
            return [(node, shape_of(node))]
        return [(user, shape_of(user)) for user in sorted(node.users, key=place_of)]

    @cached_property
    def parts(self) -> Mapping[fx.Node, fx.Node]:
        """What each layer is given that is the part of a value with the layer's own number; and that value."""
        found: dict[tuple[fx.Node, int], dict[int, fx.Node]] = {}
        for position, call in enumerate(self.calls):
            for arg in call.all_input_nodes:
                if arg.target is PART and arg.args[2] == position:
                    found.setdefault((arg.args[0], arg.args[1]), {})[position] = arg
        whole = [(source, own) for (source, _), own in found.items() if 1 < len(own) == len(self.calls)]
        return {arg: source for source, own in whole for arg in own.values()}

    @cached_property
    def tables(self) -> frozenset[fx.Node]:
        """What all layers are given and each takes the part with its own number of."""
        common = set.intersection(*({*call.all_input_nodes} for call in self.calls)) if len(self.calls) > 1 else set()
        return frozenset(arg for arg in common if all(self.takes_own(arg, call) for call in self.calls))

    def takes_own(self, arg: fx.Node, call: fx.Node) -> bool:
        graph = self.reader.recogniser.graph(self.reader.path_of(call))
        given = [node for node in graph.nodes if node.op == "placeholder" and node.users]
        place = [one for one in call.args if isinstance(one, fx.Node)].index(arg)
        index = self.indices[self.calls.index(call)]
        return all(user.target is PART and user.args[2] == index for user in given[place].users)

    def take_part(self, layer: str, port: str, arg: fx.Node, index: int) -> None:
        """Let a layer's block take its part of a table itself."""
        block = self.reader.recogniser.blocks[layer]
        own = OWN if port == TABLE else f"{port}_part"
        part = Node(
            id=own, op="torch.select", attrs=FrozenMap({"dim": arg.args[1], "index": index}), inputs=FrozenMap(x=port)
        )
        items = [_reading(item, port, own) for item in block.nodes]
        first = next(i for i, item in enumerate(items) if item != block.nodes[i])
        self.reader.recogniser.blocks[layer] = block.replace(nodes=(*items[:first], part, *items[first:]))

    # what they give

    def name_outputs(self, node: fx.Node, layer: str, given: Mapping[fx.Node, str]) -> None:
        """A layer's first value is carried on; others are handed to later layers, under names that these read them by."""
        block = self.reader.recogniser.blocks[layer]
        ports, refs = {port: arg for arg, port in given.items()}, list(block.outputs.values())
        outputs: dict[str, str] = {}
        fresh: list[fx.Node] = []
        for user, shape in self.given(node):
            ref = refs[place_of(user)]
            if ref in ports and ports[ref] in self.handed:  # what it was given
                self.handed[user] = self.handed[ports[ref]]
            elif ref in ports:
                self.reader.refs[user] = self.reader.ref(ports[ref])
            elif not outputs and shape in (self.carried, ()):
                outputs["out"] = ref
                self.reader.refs[user] = self.name
            elif user.users:
                fresh.append(user)
        for user in fresh:
            ref = refs[place_of(user)]
            name = self.hand_on(user, node, block, ref)
            if self.is_zero(block, ref):  # it adds nothing, wherever it is handed
                self.reader.recogniser.nothing.add(name)
            else:
                outputs[name] = ref
        self.reader.refs.setdefault(node, self.name)
        self.reader.recogniser.blocks[layer] = block.replace(outputs=FrozenMap(outputs))

    def hand_on(self, value: fx.Node, call: fx.Node, block: Block, ref: str) -> str:
        """The name of what a layer hands on: that of an earlier value, unless a later layer still reads that one."""
        position = self.calls.index(call)
        if any(user not in self.calls for user in value.users):
            raise TraceError(f"{self.reader.where}: {self.name} gives more than one value")
        base = name = f"prev_{self.made(block, ref)[1]}"
        number = 1
        while name in self.latest and any(user in self.calls[position + 1 :] for user in self.latest[name].users):
            number += 1
            name = f"{base}_{number}"
        self.handed[value], self.latest[name] = name, value
        self.reader.recogniser.handed.add(name)
        return name

    def is_zero(self, block: Block, ref: str) -> bool:
        """Whether a value is zero all over where it is made."""
        item, _ = self.made(block, ref)
        return isinstance(item, Node) and item.op == "torch.zeros"

    def made(self, block: Block, ref: str) -> tuple[Node | Use | Stack | None, str]:
        """What makes a value, however deep it stands, and what the value is called there."""
        name, _, port = ref.partition(".")
        item = block.node(name)
        while isinstance(item, Use):
            block = self.reader.recogniser.blocks[item.block]
            name, _, port = (block.outputs[port] if port else next(iter(block.outputs.values()))).partition(".")
            item = block.node(name)
        return item, port or name

    def grow(self, stack: Stack, kind: LayerKind, inputs: FrozenMap[str, str], path: str) -> None:
        """Add a layer. All layers of a stack take the same values, whether or not each has a use for all of them."""
        blocks = self.reader.recogniser.blocks
        carried = next(iter(stack.inputs))
        invariants = {port: ref for port, ref in inputs.items() if port != carried}
        known = stack.inputs.without(carried)
        clash = [port for port, ref in invariants.items() if known.get(port, ref) != ref]
        if inputs.get(carried) != stack.id or clash:
            raise TraceError(f"{path}: layers do not simply follow one another")
        merged = stream_first([(carried, stack.inputs[carried]), *{**known, **invariants}.items()])
        kinds = (*stack.kinds, kind)
        for layer in kinds:
            block = blocks[layer.block]
            own = tuple(name for name in self.latest if name in block.inputs)
            blocks[layer.block] = block.replace(inputs=(*merged, *own))
        grown = stack.replace(kinds=kinds, repeat=len(kinds), inputs=merged)
        self.reader.items[self.reader.items.index(stack)] = grown


def place_of(node: fx.Node) -> int:
    """Which of several values a node is; the only one is the first."""
    place = node.args[1] if is_one_of_several(node) else 0
    assert isinstance(place, int)
    return place


def may_be_carried(node: fx.Node) -> bool:
    """Whether a value may be what layers carry: tables of rotations, which layers may pass on too, are not."""
    return not is_one_of_several(node) and not node.meta["val"].is_complex()


def _reading(item: Node | Use | Stack, port: str, other: str) -> Node | Use | Stack:
    """An item that reads another value in place of an input."""
    refs = {one: other if head(ref) == port else ref for one, ref in item.inputs.items()}
    return item if dict(item.inputs) == refs else item.replace(inputs=FrozenMap(refs))


__all__ = ["Layers"]
