"""Turn traced graphs into blocks of known ops. What is recognised is run beside what it replaces, and must be equal."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from canvas_rt.importer.patterns import find_rotations
from canvas_rt.importer.rules import MODULES
from canvas_rt.importer.trace import TraceError
from canvas_rt.ir.document import Block, LayerKind, Node, Stack, Use
from canvas_rt.ir.frozen import FrozenMap, freeze
from canvas_rt.ops.catalogue import OPS

aten = torch.ops.aten

TRANSPARENT = {
    aten.alias.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.detach.default,
    aten.dropout.default,
    aten.lift_fresh_copy.default,
}
"""Functions that change no value in eval mode."""

SEMANTIC_PORTS = ("cos", "sin", "position_ids")
"""Ports that keep their name from block to block; any other value that flows in is the stream, `hidden_states`."""


@dataclass(frozen=True)
class Traced:
    """A model as blocks, one for each module instance, with numbers where a document has expressions."""

    root: str
    blocks: Mapping[str, Block]
    """By the module's path with `__` for dots; the whole model is `root`."""

    classes: Mapping[str, str]
    """The class of each of those modules."""

    layers: Mapping[str, tuple[int, ...]]
    """For each stack's path, the index that its traced layers have in the whole model."""


@dataclass
class Recogniser:
    """Reads the graphs of one traced model."""

    model: nn.Module
    """The model that was traced, with real weights: recognition is proved by running its modules."""

    graphs: nn.Module
    """Its unflattened trace."""

    kept: Mapping[str, tuple[int, ...]]
    """For each `nn.ModuleList` of layers, the original indices of those that were traced."""

    blocks: dict[str, Block] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    leaves: dict[str, Node | None] = field(default_factory=dict)
    """What the proofs have told, by the module's path."""

    def run(self) -> Traced:
        self.block("", ("input_ids",))
        return Traced("root", self.blocks, self.classes, self.kept)

    def graph(self, path: str) -> fx.Graph:
        module = self.graphs.get_submodule(path) if path else self.graphs
        return module.graph  # type: ignore[return-value]

    def block(self, path: str, ports: tuple[str, ...]) -> None:
        """Read one module's graph. `ports` names its used inputs, in the order of its placeholders."""
        reader = _Reader(self, path, ports)
        self.classes[_stand_in(path)] = type(self.model.get_submodule(path) if path else self.model).__name__
        self.blocks[_stand_in(path)] = reader.read()

    def leaf(self, path: str) -> Node | None:
        """The node that a whole module is, if it is one of those known; without inputs."""
        if path not in self.leaves:
            found = next(filter(None, (rule(self.model.get_submodule(path)) for rule in MODULES)), None)
            self.leaves[path] = found and Node(id=path.rpartition(".")[2], op=found[0], attrs=freeze(found[1]))
        return self.leaves[path]


class _Reader:
    """Reads one module's graph into a block."""

    def __init__(self, recogniser: Recogniser, path: str, ports: tuple[str, ...]) -> None:
        self.recogniser = recogniser
        self.path = path
        self.graph = recogniser.graph(path)
        self.kind = type(recogniser.model.get_submodule(path)).__name__
        self.refs: dict[fx.Node, str] = {}
        self.items: list[Node | Use | Stack] = []
        self.names: set[str] = set()
        placeholders = [node for node in self.graph.nodes if node.op == "placeholder" and node.users]
        assert len(placeholders) == len(ports), (path, placeholders, ports)
        self.inputs = tuple(dict.fromkeys(ports))
        self.refs.update(zip(placeholders, ports, strict=True))
        self.names |= set(ports)
        self.rotations = find_rotations(self.graph)

    def read(self) -> Block:
        """Start at what the module gives and read what that needs: whatever has no effect is never looked at."""
        output = next(node for node in self.graph.nodes if node.op == "output")
        results = output.args[0] if isinstance(output.args[0], tuple | list) else (output.args[0],)
        outputs = tuple(self.ref(result) for result in results if isinstance(result, fx.Node))
        ports = ("logits",) if not self.path else ("out",)
        if len(outputs) != len(ports):
            raise TraceError(
                f"{self.path or 'the model'} gives {len(outputs)} values; Canvas knows modules that give one"
            )
        return Block(
            inputs=tuple(sorted(self.inputs, key=_place)),
            nodes=tuple(self.items),
            outputs=FrozenMap(dict(zip(ports, outputs, strict=True))),
        )

    def ref(self, node: fx.Node) -> str:
        if node not in self.refs:
            self.read_node(node)
        return self.refs[node]

    def unique(self, name: str) -> str:
        candidate, number = name, 1
        while candidate in self.names:
            candidate = f"{name}_{number}"
            number += 1
        self.names.add(candidate)
        return candidate

    def add(
        self, node: fx.Node, name: str, op: str, inputs: Mapping[str, str], attrs: Mapping[str, Any] | None = None
    ) -> str:
        name = self.unique(name)
        self.items.append(Node(id=name, op=op, attrs=freeze(attrs or {}), inputs=FrozenMap(inputs)))
        self.refs[node] = name
        return name

    def read_node(self, node: fx.Node) -> None:
        if node.op == "call_module":
            self.read_module(node)
        elif node.op == "call_function":
            self.read_function(node)
        else:
            what = f"its own '{node.target}'" if node.op == "get_attr" else f"a {node.op} node"
            raise TraceError(f"{self.path or 'the model'} ({self.kind}): no rule knows what it does with {what}")

    # modules

    def read_module(self, node: fx.Node) -> None:
        target = str(node.target)
        path = f"{self.path}.{target}" if self.path else target
        container, _, index = path.rpartition(".")
        if container in self.recogniser.kept and index.isdecimal():
            self.read_layer(node, container, int(index), path)
            return
        arguments = [arg for arg in node.args if isinstance(arg, fx.Node)]
        leaf = self.recogniser.leaf(path)
        if leaf is not None:
            self.read_leaf(node, leaf, path, arguments)
            return
        ports = self.ports(arguments)
        self.recogniser.block(path, ports)
        name = self.unique(target)
        inputs = self.wires(ports, arguments)
        self.items.append(Use(id=name, block=_stand_in(path), inputs=inputs))
        self.refs[node] = name

    def read_leaf(self, node: fx.Node, leaf: Node, path: str, arguments: list[fx.Node]) -> None:
        """A module that is one node."""
        ports: tuple[str, ...] = OPS[leaf.op].inputs
        if len(arguments) != len(ports):
            raise TraceError(f"{path}: {leaf.op} takes {len(ports)} values, not {len(arguments)}")
        if leaf.op == "experts":
            ports = experts_ports(self.recogniser.graph(path))
        wires = {port: self.ref(arg) for port, arg in zip(ports, arguments, strict=True)}
        name = self.unique(leaf.id)
        inputs = FrozenMap({port: wires[port] for port in OPS[leaf.op].inputs})
        self.items.append(leaf.replace(id=name, inputs=inputs))
        self.bind_outputs(node, name, leaf.op)

    def bind_outputs(self, node: fx.Node, name: str, op: str) -> None:
        outputs = OPS[op].outputs
        if len(outputs) == 1:
            self.refs[node] = name
            return
        if op == "router":
            # A trace gives what is read of what the module gives, in an order of its own: the sorts tell them apart.
            for given in [node] if isinstance(node.meta.get("val"), Tensor) else list(node.users):
                port = "weights" if given.meta["val"].is_floating_point() else "indices"
                self.refs[given] = f"{name}.{port}"
            return
        for user in node.users:
            index = user.args[1]
            assert isinstance(index, int)
            self.refs[user] = f"{name}.{outputs[index]}"

    def wires(self, ports: tuple[str, ...], arguments: list[fx.Node]) -> FrozenMap[str, str]:
        """What feeds a block, the stream first."""
        pairs = sorted(zip(ports, arguments, strict=True), key=lambda pair: _place(pair[0]))
        return FrozenMap({port: self.ref(arg) for port, arg in pairs})

    def ports(self, arguments: list[fx.Node]) -> tuple[str, ...]:
        """Names for a module's inputs: semantic values keep theirs, anything else is the stream."""
        names: list[str] = []
        for arg in sorted(arguments, key=_is_table):
            self.ref(arg)  # the stream is read first, so that reading order follows it
        for arg in arguments:
            port = self.ref(arg).rpartition(".")[2]
            name = port if port in SEMANTIC_PORTS or port == "input_ids" else "hidden_states"
            number = 1
            while name in names:
                name = f"hidden_states_{number}"
                number += 1
            names.append(name)
        return tuple(names)

    def read_layer(self, node: fx.Node, container: str, index: int, path: str) -> None:
        """A layer of a stack: the first one opens it, each next must take what the one before gives."""
        arguments = [arg for arg in node.args if isinstance(arg, fx.Node)]
        ports = self.ports(arguments)
        self.recogniser.block(path, ports)
        kind = LayerKind(block=_stand_in(path))
        inputs = self.wires(ports, arguments)
        name = container.rpartition(".")[2]
        stack = next((item for item in self.items if isinstance(item, Stack) and item.id == name), None)
        if stack is None:
            self.names.add(name)
            self.items.append(Stack(id=name, repeat=1, kinds=(kind,), inputs=inputs))
        else:
            self.grow(stack, kind, inputs, path)
        self.refs[node] = name

    def grow(self, stack: Stack, kind: LayerKind, inputs: FrozenMap[str, str], path: str) -> None:
        """Add a layer. All layers of a stack take the same values, whether or not each has a use for all of them."""
        carried = next(iter(stack.inputs))
        invariants = {port: ref for port, ref in inputs.items() if port != carried}
        known = stack.inputs.without(carried)
        clash = [port for port, ref in invariants.items() if known.get(port, ref) != ref]
        if inputs.get(carried) != stack.id or clash:
            raise TraceError(f"{path}: layers do not simply follow one another")
        together = sorted({**known, **invariants}.items(), key=lambda pair: _place(pair[0]))
        merged = FrozenMap({carried: stack.inputs[carried], **dict(together)})
        kinds = (*stack.kinds, kind)
        for layer in kinds:
            block = self.recogniser.blocks[layer.block]
            self.recogniser.blocks[layer.block] = block.replace(inputs=tuple(merged))
        grown = stack.replace(kinds=kinds, repeat=len(kinds), inputs=merged)
        self.items[self.items.index(stack)] = grown

    # functions

    def read_function(self, node: fx.Node) -> None:
        rules = (
            self.passes_on,
            self.is_one_of_several,
            self.rotates,
            self.attends,
            self.lines_up_tokens,
            self.splits_heads,
            self.merges_heads,
            self.counts_positions,
            self.combines,
            self.scales,
            self.activates,
            self.softens,
        )
        if not any(rule(node) for rule in rules):
            raise TraceError(f"{self.path or 'the model'}: no rule knows {node.target}")

    def passes_on(self, node: fx.Node) -> bool:
        """Functions that change no value."""
        if node.target in TRANSPARENT or (node.target is aten.slice.Tensor and _takes_all(node)):
            self.refs[node] = self.ref(source_of(node))
            return True
        return False

    def is_one_of_several(self, node: fx.Node) -> bool:
        if node.target is not operator.getitem:
            return False
        self.read_node(source_of(node))  # binds all that it gives
        return node in self.refs

    def rotates(self, node: fx.Node) -> bool:
        """The two rotations that share cosines and sines are one node: queries and keys."""
        if node not in self.rotations:
            return False
        bound = self.rotations[node]
        pair = [n for n, b in self.rotations.items() if (b["cos"], b["sin"]) == (bound["cos"], bound["sin"])]
        if len(pair) != 2:
            raise TraceError(f"{self.path}: rotary positions turn {len(pair)} values, not queries and keys")
        q, k = pair
        inputs = {
            "q": self.ref(self.rotations[q]["x"]),
            "k": self.ref(self.rotations[k]["x"]),
            "cos": self.ref(bound["cos"]),
            "sin": self.ref(bound["sin"]),
        }
        name = self.add(q, "rotary", "apply_rotary", inputs)
        self.refs[q], self.refs[k] = f"{name}.q", f"{name}.k"
        return True

    def attends(self, node: fx.Node) -> bool:
        if node.target is not torch.ops.canvas_rt.attention.default:
            return False
        q, k, v, scale, window, dropout = node.args
        inputs = {"q": self.ref(q), "k": self.ref(k), "v": self.ref(v)}  # type: ignore[arg-type]
        self.add(node, "attention", "attention", inputs, {"scale": scale, "window": window, "dropout": dropout})
        return True

    def lines_up_tokens(self, node: fx.Node) -> bool:
        """Routers and experts may take all tokens in a row, whatever their sequence: the nodes take them as they are."""
        if node.target not in RESHAPES or not isinstance(node.args[0], fx.Node):
            return False
        source, before, after = node.args[0], *(n.meta["val"].shape for n in (node.args[0], node))
        if before[-1] != after[-1]:
            return False
        into = (
            len(before) == 3 and len(after) == 2 and all(self.is_of(user, "router", "experts") for user in node.users)
        )
        back = len(before) == 2 and len(after) == 3 and self.is_of(source, "experts")
        if into or back:
            self.refs[node] = self.ref(source)
        return into or back

    def is_of(self, node: fx.Node, *ops: str) -> bool:
        """Whether a node is a module that is one of these ops."""
        if node.op != "call_module":
            return False
        leaf = self.recogniser.leaf(f"{self.path}.{node.target}".lstrip("."))
        return leaf is not None and leaf.op in ops

    def splits_heads(self, node: fx.Node) -> bool:
        view, *dims = node.args
        if (
            not isinstance(view, fx.Node)
            or view.target not in (aten.view.default, aten.reshape.default)
            or dims != [1, 2]
        ):
            return False
        source, shape = view.args[0], view.meta["val"].shape
        if not isinstance(source, fx.Node) or source.meta["val"].dim() != 3 or len(shape) != 4:
            return False
        if tuple(shape[:2]) != tuple(source.meta["val"].shape[:2]):
            return False
        ref = self.ref(source)
        name = ref.removesuffix("_proj") if ref.endswith("_proj") else f"{ref}_heads"
        self.add(node, name, "split_heads", {"x": ref}, {"heads": int(shape[2]), "head_dim": int(shape[3])})
        return True

    def merges_heads(self, node: fx.Node) -> bool:
        if node.target not in (aten.reshape.default, aten.view.default):
            return False
        source = node.args[0]
        if not isinstance(source, fx.Node) or source.meta["val"].dim() != 4 or node.meta["val"].dim() != 3:
            return False
        if tuple(node.meta["val"].shape[:2]) != tuple(source.meta["val"].shape[:2]):
            return False
        self.add(node, "merged", "merge_heads", {"x": self.ref(source)})
        return True

    def counts_positions(self, node: fx.Node) -> bool:
        """`(arange(seq) + past)[None]`."""
        if node.target is not aten.unsqueeze.default:
            return False
        source = node.args[0]
        if isinstance(source, fx.Node) and source.target is aten.add.Tensor and source.args[1] == 0:
            source = source.args[0]
        if not isinstance(source, fx.Node) or source.target is not aten.arange.default or node.args[1] != 0:
            return False
        self.add(node, "position_ids", "position_ids", {})
        return True

    def combines(self, node: fx.Node) -> bool:
        op = BINARY.get(node.target)
        if op is None or node.kwargs or not all(isinstance(arg, fx.Node) for arg in node.args[:2]):
            return False
        a, b = (self.ref(arg) for arg in node.args[:2])  # type: ignore[arg-type]
        module = next((ref for ref in (b, a) if ref not in self.inputs), "")
        name = f"{module}_residual" if op == "add" and a in self._stream() else {"mul": "gated"}.get(op, op)
        self.add(node, name, op, {"a": a, "b": b})
        return True

    def scales(self, node: fx.Node) -> bool:
        if node.target is not aten.mul.Tensor or not isinstance(node.args[1], int | float):
            return False
        self.add(node, "scaled", "scale", {"x": self.ref(source_of(node))}, {"factor": float(node.args[1])})
        return True

    def activates(self, node: fx.Node) -> bool:
        fn = FUNCTION_ACTIVATIONS.get(node.target)
        if fn is None or len(node.args) != 1 or node.kwargs:
            return False
        self.add(node, "activation", "activation", {"x": self.ref(source_of(node))}, {"fn": fn})
        return True

    def softens(self, node: fx.Node) -> bool:
        """A softmax along the last dimension, in the dtype that it is given."""
        if node.target is not aten.softmax.int or len(node.args) != 2 or node.kwargs:
            return False
        source = source_of(node)
        if node.args[1] not in (-1, source.meta["val"].dim() - 1):
            return False
        self.add(node, "probabilities", "softmax", {"x": self.ref(source)})
        return True

    def _stream(self) -> set[str]:
        """The values that a residual path carries: the block's own stream, and sums onto it."""
        return {
            "hidden_states",
            *(item.id for item in self.items if isinstance(item, Node) and item.id.endswith("_residual")),
        }


RESHAPES = (aten.flatten.using_ints, aten.view.default, aten.reshape.default, aten.view_as.default)
BINARY: Mapping[Any, str] = {aten.add.Tensor: "add", aten.sub.Tensor: "sub", aten.mul.Tensor: "mul"}
FUNCTION_ACTIVATIONS: Mapping[Any, str] = {
    aten.silu.default: "silu",
    aten.gelu.default: "gelu",
    aten.relu.default: "relu",
    aten.tanh.default: "tanh",
    aten.sigmoid.default: "sigmoid",
}


def experts_ports(graph: fx.Graph) -> tuple[str, ...]:
    """Which port each input of an experts module is: a trace gives them in an order of its own."""
    call = next(node for node in graph.nodes if node.target is torch.ops.canvas_rt.experts.default)
    feeds = dict(zip(call.args, OPS["experts"].inputs, strict=True))
    return tuple(feeds[node] for node in graph.nodes if node.op == "placeholder" and node.users)


def source_of(node: fx.Node) -> fx.Node:
    """What a function of one value is applied to."""
    source = node.args[0]
    assert isinstance(source, fx.Node), node
    return source


def _takes_all(node: fx.Node) -> bool:
    """`x[:, 0:]` and the like, which take all."""
    return tuple(source_of(node).meta["val"].shape) == tuple(node.meta["val"].shape)


def _place(port: str) -> int:
    return SEMANTIC_PORTS.index(port) if port in SEMANTIC_PORTS else -1


def _is_table(node: fx.Node) -> bool:
    """Whether a value is one of several that its source gives, as cosines and sines are."""
    return node.target is operator.getitem


def _stand_in(path: str) -> str:
    """A module's path as a block's name, until blocks get their class's."""
    return path.replace(".", "__") or "root"
