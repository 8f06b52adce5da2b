"""Turn traced graphs into blocks of known ops. What is recognised is run beside what it replaces, and must be equal."""

import operator
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from canvas_rt.importer.buffers import Buffer, buffer_of
from canvas_rt.importer.calls import DTYPES, MODEL_DTYPE, as_setting, bind, inlined, shape_of, without_mutation
from canvas_rt.importer.dissolve import dissolve, own_path
from canvas_rt.importer.handwritten import alibi_in, find_attentions
from canvas_rt.importer.holding import hold_backbone
from canvas_rt.importer.inside import given_out, move_in, shares_inlined, with_chunks, with_transposes, without_lists
from canvas_rt.importer.layers import Layers, is_one_of_several
from canvas_rt.importer.names import named_by_use
from canvas_rt.importer.patterns import find_rotations
from canvas_rt.importer.positions import counted_after_padding, numbers_each, numbers_tokens, repeats_positions
from canvas_rt.importer.proof import written
from canvas_rt.importer.relative import Relative, adds_nothing, relative_in
from canvas_rt.importer.rotary import called_for, is_rotary, rotary_rule
from canvas_rt.importer.rules import recognised
from canvas_rt.importer.sinusoids import sinusoids_in
from canvas_rt.importer.stateful import stateful_node
from canvas_rt.importer.trace import TraceError
from canvas_rt.importer.unread import without_unread
from canvas_rt.importer.whole import call_in, of_layer, own_config, ports_of, whole_node
from canvas_rt.ir.document import Block, Node, Stack, Use
from canvas_rt.ir.frozen import FrozenMap, freeze
from canvas_rt.ir.tasks import CAUSAL_LM, Task
from canvas_rt.ops.catalogue import OPS, VARIANTS
from canvas_rt.ops.learned import MODULE, PARAMETER
from canvas_rt.ops.modules import keeps_state, read_by_layer, source_name

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

SEMANTIC_PORTS = ("cos", "sin", "phases", "position_ids")
ENCODED = "encoder_hidden_states"
"""The port of what an encoder gives, where a decoder's own stream flows in too."""

KEPT_PORTS = (
    *SEMANTIC_PORTS,
    "input_ids",
    "decoder_input_ids",
    ENCODED,
    "token_type_ids",
    "pixel_values",
    "indices",
    "weights",
)
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

    hands_on: bool = False
    """Whether layers hand values to later ones, beside what they carry."""

    leaves: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """For each module that is one node, by its path, the block that it stands in and its id there."""


@dataclass
class Recogniser:
    """Reads the graphs of one traced model."""

    model: nn.Module
    """The model that was traced, with real weights: recognition is proved by running its modules."""

    graphs: nn.Module
    """Its unflattened trace."""

    kept: Mapping[str, tuple[int, ...]]
    """For each `nn.ModuleList` of layers, the original indices of those that were traced."""

    given: tuple[int, ...] = (0, 0)
    """Sequences that the trace was given, tokens of each, and what an encoder read of each, if there is one."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """The values of the model's config."""

    whole: Collection[type] = ()
    """Classes of modules that are kept whole, whatever they do."""

    task: Task = CAUSAL_LM
    """What the model is for."""

    blocks: dict[str, Block] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    ids: dict[str, tuple[str, str]] = field(default_factory=dict)
    prepared: set[str] = field(default_factory=set)
    leaves: dict[str, Node | None] = field(default_factory=dict)
    """What the proofs have told, by the module's path."""

    handed: set[str] = field(default_factory=set)
    """What layers hand on to later ones, by name."""

    nothing: set[str] = field(default_factory=set)
    """Of that, what is zero all over, and is only added to something."""

    shared: dict[str, frozenset[str]] = field(default_factory=dict)
    """For each module the ports whose values are read elsewhere too."""

    @property
    def inputs(self) -> tuple[int, int]:
        """Sequences that the trace was given, and tokens of each."""
        return self.given[0], self.given[1]

    def is_stream(self, shape: tuple[int, ...]) -> bool:
        """Whether a shape begins as what flows through the layers: sequences, and tokens of each."""
        return len(shape) > 1 and shape[0] == self.given[0] and shape[1] in self.given[1:]

    def run(self) -> Traced:
        dissolve(self.graphs, self.model)
        if self.task.decodes:
            gives_first(self.graph(""))
        move_in(self.graph, self.graphs, self.inputs[1])
        given_out(self.graph, self.graphs)
        given = [node for node in self.graph("").nodes if node.op == "placeholder" and node.users]
        known = (self.task.takes, self.task.decodes, *self.task.also)
        # All placeholders of a plain model are tokens; a trace names what else it is given.
        names = tuple(str(node.target) if str(node.target) in known else self.task.takes for node in given)
        self.block("", names)
        if self.nothing:
            without_unread(self.blocks, "root", self.nothing)
        hold_backbone(self.blocks, self.classes, lambda path: type(self.submodule(path)).__name__)
        return Traced("root", self.blocks, self.classes, self.kept, bool(self.handed), self.ids)

    @staticmethod
    def stand_in(path: str) -> str:
        """What a module's block is filed under."""
        return stand_in(path)

    def graph(self, path: str) -> fx.Graph:
        module = self.graphs.get_submodule(path) if path else self.graphs
        if path not in self.prepared:
            self.prepared.add(path)
            inlined(module, module.graph)  # type: ignore[arg-type]
            without_mutation(module.graph)  # type: ignore[arg-type]
            with_transposes(module.graph)  # type: ignore[arg-type]
            with_chunks(module.graph)  # type: ignore[arg-type]
            without_lists(module, module.graph)  # type: ignore[arg-type]
            shares_inlined(module, module.graph)  # type: ignore[arg-type]
        return module.graph  # type: ignore[return-value]

    def submodule(self, path: str) -> nn.Module:
        """The module behind a path; a second call of one is traced as `path@1`."""
        return self.model.get_submodule(own_path(path)) if path else self.model

    def block(self, path: str, ports: tuple[str, ...]) -> None:
        """Read one module's graph. `ports` names its used inputs, in the order of its placeholders."""
        reader = Reader(self, path, ports)
        self.classes[stand_in(path)] = type(self.submodule(path)).__name__
        try:
            block = self.blocks[stand_in(path)] = reader.read()
            times = sum(isinstance(item, Node) and item.op == "attention" for item in block.nodes)
            if times > 1:
                raise TraceError(f"{reader.where} attends {times} times, and has one place in the cache")
        except TraceError as error:
            error.module = own_path(path) if error.module is None else error.module
            raise

    def leaf(self, path: str) -> Node | None:
        """The node that a whole module is, if it is one of those known; without inputs."""
        if path not in self.leaves:
            module, parts = self.submodule(path), own_path(path).split(".")
            listed = next((i for i, part in enumerate(reversed(parts)) if not part.isdecimal()), 0)
            name = "_".join(parts[-1 - listed :])  # it may stand in a list, which stands in another
            if type(module) in self.whole:
                call = call_in(self.graph(path))
                layer = self.layer_of(path)
                self.leaves[path] = None if call is None else whole_node(module, name, call, self.model.config, layer)
            elif keeps_state(type(module)):
                self.leaves[path] = stateful_node(module, name, self.config, self.of_layer(path))
            else:
                found = rotary_rule(module, called_for(self.graph(path))) if is_rotary(module) else recognised(module)
                self.leaves[path] = found and Node(id=name, op=found[0], attrs=freeze(found[1]))
        return self.leaves[path]

    def layer_of(self, path: str) -> int | None:
        """In which of the traced layers a module stands."""
        return next((int(part) for part in own_path(path).split(".") if part.isdecimal()), None)

    def of_layer(self, path: str) -> dict[str, Any]:
        """What stands for a module's layer in the lists that it reads of its config."""
        module = self.submodule(path)
        source = source_name(type(module))
        own = own_config(module, self.model.config, source)
        return of_layer(read_by_layer(source), own, self.layer_of(path))


class Reader:
    """Reads one module's graph into a block."""

    def __init__(self, recogniser: Recogniser, path: str, ports: tuple[str, ...]) -> None:
        self.recogniser = recogniser
        self.path = path
        self.graph = recogniser.graph(path)
        self.kind = type(recogniser.submodule(path)).__name__
        self.refs: dict[fx.Node, str] = {}
        self.items: list[Node | Use | Stack] = []
        self.names: set[str] = set()
        self.made: set[str] = set()
        """What functions give, and no modules of the original."""
        placeholders = [node for node in self.graph.nodes if node.op == "placeholder" and node.users]
        assert len(placeholders) == len(ports), (path, placeholders, ports)
        self.inputs = tuple(dict.fromkeys(ports))
        self.refs.update(zip(placeholders, ports, strict=True))
        self.names |= set(ports)
        self.stacks: dict[str, Layers] = {}
        self.used: set[str] = set()
        """Modules that the block uses, as far as it is read."""
        keys = [key for key in map(self.key, called_in(self.graph)) if "." in key]
        self.holders = {key.partition(".")[0] for key in keys}
        """What the lists and tables are called in which modules stand that are used here."""
        self.names |= self.holders
        self.rotations = find_rotations(self.graph)
        self.attentions = find_attentions(self.graph, self.kept)
        self.order = {node: index for index, node in enumerate(self.graph.nodes)}
        self.places: dict[str, int] = {}
        """Where in the trace each item is computed: sums of gradients depend on the order of a model's parts."""

    def read(self) -> Block:
        """Start at what the module gives and read what that needs: whatever has no effect is never looked at."""
        output = next(node for node in self.graph.nodes if node.op == "output")
        results = pytree.tree_leaves(output.args)
        outputs = [self.ref(result) for result in results if isinstance(result, fx.Node)]
        # A whole model may give states and losses beside its logits, which come first.
        ports = ["logits"] if not self.path else output_ports(len(outputs))
        self.settle_tables()
        block = Block(
            inputs=tuple(sorted(self.inputs, key=_place)),
            nodes=tuple(sorted(self.items, key=lambda item: self.places.get(item.id, -1))),
            outputs=FrozenMap(dict(zip(ports, outputs, strict=False))),
        )
        return named_by_use(block, self.made)

    def settle_tables(self) -> None:
        """Put rotary tables of the same positions in the order in which they are read.

        transformers makes them by walking over a set of names, whose order is another in each process.
        """
        tables: dict[Any, list[str]] = {}
        for item in self.items:
            if isinstance(item, Node) and item.op == "rotary_embedding":
                tables.setdefault(item.inputs, []).append(item.id)
        for names in tables.values():
            self.places.update(zip(names, sorted(self.places[name] for name in names), strict=True))

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
        self.put(node, Node(id=name, op=op, attrs=freeze(attrs or {}), inputs=FrozenMap(inputs)))
        self.refs[node] = name
        self.made.add(name)
        return name

    def put(self, node: fx.Node, item: Node | Use | Stack) -> None:
        """File an item where the trace computes it."""
        self.items.append(item)
        self.places[item.id] = self.order[node]

    def read_node(self, node: fx.Node) -> None:
        if node.op == "call_module":
            self.read_module(node)
        elif node.op == "call_function":
            self.read_function(node)
        elif node.op == "get_attr":
            self.read_tensor(node)
        else:
            raise TraceError(f"{self.where}: no rule knows what it does with {node.target}")

    @property
    def where(self) -> str:
        return f"{self.path or 'the model'} ({self.kind})"

    # tensors

    def read_tensor(self, node: fx.Node) -> None:
        """A tensor that the module keeps: learned, kept in the checkpoint, or made anew."""
        name = str(node.target)
        owner, _, last = name.rpartition(".")
        holder = _reached(self.recogniser.submodule(self.path), owner)
        value = getattr(holder, last, None)
        stored = last in getattr(holder, "_buffers", ()) and last not in holder._non_persistent_buffers_set
        if isinstance(value, nn.Parameter) or (isinstance(value, Tensor) and stored):
            self.read_parameter(node, name, value)
            return
        value = self.kept(name)
        buffer = None if value is None else buffer_of(value)
        if buffer is None or buffer.positions:
            held = "" if value is None else f" {list(value.shape)}"
            raise TraceError(f"{self.where}: no rule knows what it does with its own '{name}'{held}")
        self.read_buffer(node, name.replace(".", "_"), buffer)

    def read_parameter(self, node: fx.Node, name: str, value: Tensor) -> None:
        first, _, rest = name.partition(".")
        listed = "." in rest or first in self.holders
        if first in self.names and not listed:
            raise TraceError(f"{self.where}: uses {name}, which another module holds")
        attrs: dict[str, Any] = {"shape": tuple(value.shape)}
        if rest and not listed:
            attrs["key"] = rest
        if not (isinstance(value, nn.Parameter) and value.requires_grad):
            attrs["learned"] = False
        own = self.add(node, name.replace(".", "_") if listed else first, PARAMETER, {}, attrs)
        if listed:
            self.items = [item.replace(key=name) if item.id == own else item for item in self.items]

    def read_buffer(self, node: fx.Node, name: str, buffer: Buffer) -> None:
        ref = ""
        for index, (op, attrs) in enumerate(buffer.steps):
            inputs = {"x": ref} if index else {}
            label = name if index == len(buffer.steps) - 1 else f"{name}_{op.rpartition('.')[2]}"
            ref = self.add(node, label, op, inputs, attrs)

    # modules

    def path_of(self, node: fx.Node) -> str:
        """The path of the module that a node calls."""
        return f"{self.path}.{node.target}".lstrip(".")

    def read_module(self, node: fx.Node) -> None:
        target, path = str(node.target), self.path_of(node)
        container, _, index = path.rpartition(".")
        if container in self.recogniser.kept and index.isdecimal():
            self.stacks.setdefault(container, Layers(self, container)).read(node, path)
            return
        arguments = [arg for arg in node.args if isinstance(arg, fx.Node)]
        learns = any(True for _ in self.recogniser.submodule(path).parameters())
        leaf = self.recogniser.leaf(path)
        if leaf is not None and self.read_leaf(node, leaf, path, arguments):
            return
        ports = self.ports(arguments)
        elsewhere = (port for port, arg in zip(ports, arguments, strict=True) if len(arg.users) > 1)
        self.recogniser.shared[path] = frozenset(elsewhere)
        self.recogniser.block(path, ports)
        node = self.without_passed(node, path, dict(zip(ports, arguments, strict=True)))
        key, own = self.key(target), own_path(target)
        self.used.add(own)
        if learns and not key and own in self.names:
            raise TraceError(f"{self.where}: {own} stands beside its own name")
        last = own.rpartition(".")[2]
        name = self.unique((key or (own if last.isdecimal() else last)).replace(".", "_"))
        inputs = self.wires([(port, self.ref(arg)) for port, arg in zip(ports, arguments, strict=True)])
        self.put(node, Use(id=name, block=stand_in(path), inputs=inputs, key=key))
        self.bind_values(node, name, tuple(self.recogniser.blocks[stand_in(path)].outputs))

    def key(self, target: str) -> str:
        """What a module is called in the checkpoint, where that can be no id: it stands in a list or a table, or is used again."""
        path = f"{self.path}.{target}".lstrip(".")
        own = own_path(target)
        learns = any(True for _ in self.recogniser.submodule(path).parameters())
        listed = own.rpartition(".")[2].isdecimal() and "@" not in target
        again = learns and own in self.used
        return own if again or ("." in own and (learns or listed)) else ""

    def without_passed(self, node: fx.Node, path: str, given: Mapping[str, fx.Node]) -> fx.Node:
        """What a module gives that it was given is that itself: its block gives the rest. The call, or what takes the rest."""
        block = self.recogniser.blocks[stand_in(path)]
        kept = [place for place, ref in enumerate(block.outputs.values()) if ref not in block.inputs]
        if self.recogniser.task.decodes:  # an encoder's states are given beside a decoder's, and mostly not read
            read = {user.args[1] for user in node.users if user.users and user.target is operator.getitem}
            kept = [place for place in kept if place in read] or kept
        if not 0 < len(kept) < len(block.outputs) or isinstance(node.meta.get("val"), Tensor):
            return node
        refs = list(block.outputs.values())
        for user in node.users:
            place = user.args[1]
            if place not in kept and refs[place] in given:  # type: ignore[index]
                self.refs[user] = self.ref(given[refs[place]])  # type: ignore[index]
        left = [user for user in node.users if user.args[1] in kept]
        if len(kept) > 1:
            return node
        outputs = FrozenMap({"out": refs[kept[0]]})
        self.recogniser.blocks[stand_in(path)] = block.replace(outputs=outputs)
        return left[0] if left else node

    def read_leaf(self, node: fx.Node, leaf: Node, path: str, arguments: list[fx.Node]) -> bool:
        """A module that is one node."""
        if leaf.op == MODULE and leaf.attrs.get("arguments"):
            return self.read_whole(node, leaf, path, arguments)
        ports: tuple[str, ...] = OPS[leaf.op].fed(())
        alone = leaf.op == "position_embedding" and not arguments
        if len(arguments) != len(ports) and not alone:
            return False
        if leaf.op == "experts":
            ports = experts_ports(self.recogniser.graph(path))
        if leaf.op == "router" and self.in_a_row(arguments[0]):
            leaf = leaf.replace(attrs=leaf.attrs.with_items({"in_a_row": True}))
        several = leaf.op == "rotary_embedding" and len(shape_of(arguments[0])) != 2
        if alone:
            encoded = self.numbered_within(path, int(leaf.attrs.get("offset", 0)))
            if encoded is None:
                return False
            wires = {"position_ids": self.positions(node, encoded)}
        elif several and repeats_positions(arguments[0], self.recogniser.inputs[1]):
            wires = {"position_ids": self.positions(arguments[0])}
        else:
            wires = {port: self.ref(arg) for port, arg in zip(ports, arguments, strict=True)}
        key = self.key(str(node.target))
        self.used.add(own_path(str(node.target)))
        name = self.unique(key.replace(".", "_") or leaf.id)
        inputs = FrozenMap({port: wires[port] for port in ports})
        self.put(node, leaf.replace(id=name, inputs=inputs, key=key))
        self.recogniser.ids[path] = stand_in(self.path), name
        self.bind_outputs(node, name, leaf.op)
        if alone and len(shape_of(node)) == 2:  # numbers that are no row of a batch
            self.add(node, f"{name}_row", "torch.select", {"x": name}, {"dim": 0, "index": 0})
        return True

    def read_whole(self, node: fx.Node, leaf: Node, path: str, arguments: list[fx.Node]) -> bool:
        """A module that is kept whole, with whatever it is given."""
        graph = self.recogniser.graph(path)
        call = call_in(graph)
        assert call is not None
        fed = ports_of(graph, call)
        if sum(map(len, fed)) != len(call.args[0]):  # type: ignore[arg-type]
            return False
        wires = {port: self.ref(arg) for ports, arg in zip(fed, arguments, strict=True) for port in ports}
        key = self.key(str(node.target))
        self.used.add(own_path(str(node.target)))
        name = self.unique(key.replace(".", "_") or leaf.id)
        inputs = FrozenMap({port: wires[port] for port in OPS[MODULE].inputs if port in wires})
        self.put(node, leaf.replace(id=name, inputs=inputs, key=key))
        self.recogniser.ids[path] = stand_in(self.path), name
        self.bind_values(node, name, ("out",))
        return True

    def bind_values(self, node: fx.Node, name: str, outputs: tuple[str, ...]) -> None:
        """Say what each value is that an item gives."""
        if len(outputs) == 1:
            self.refs[node] = name
            for user in node.users:  # a module may give a list of one
                if user.target is operator.getitem and not isinstance(node.meta.get("val"), Tensor):
                    if user.args[1] != 0:
                        raise TraceError(f"{self.where}: {name} gives more than one value")
                    self.refs[user] = name
            return
        for user in node.users:
            index = user.args[1]
            assert isinstance(index, int)
            self.refs[user] = f"{name}.{outputs[index]}"

    def bind_outputs(self, node: fx.Node, name: str, op: str) -> None:
        outputs = OPS[op].outputs
        if op == "router":
            # A trace gives what is read of what the module gives, in an order of its own: the sorts tell them apart.
            for given in [node] if isinstance(node.meta.get("val"), Tensor) else list(node.users):
                port = "weights" if given.meta["val"].is_floating_point() else "indices"
                self.refs[given] = f"{name}.{port}"
            return
        self.bind_values(node, name, outputs)

    @staticmethod
    def wires(pairs: Iterable[tuple[str, str]]) -> FrozenMap[str, str]:
        """What feeds a block, the stream first."""
        return FrozenMap(dict(sorted(pairs, key=lambda pair: _place(pair[0]))))

    def ports(self, arguments: list[fx.Node], taken: Collection[str] = ()) -> tuple[str, ...]:
        """Names for a module's inputs: semantic values keep theirs, anything else is the stream."""
        names: list[str] = []
        for arg in sorted(arguments, key=is_one_of_several):
            self.ref(arg)  # the stream is read first, so that reading order follows it
        refs = [self.ref(arg) for arg in arguments]
        for arg in arguments:
            ref = self.ref(arg)
            port = "phases" if arg.meta["val"].is_complex() else ref.rpartition(".")[2]
            if self.is_encoded(arg, arguments):
                port = ENCODED
            elif port == self.recogniser.task.decodes and self.recogniser.task.takes not in refs:
                port = self.recogniser.task.takes  # a decoder by itself takes tokens as any model does
            kept = port in KEPT_PORTS or (ref in self.inputs and ref in self.recogniser.handed)
            plain = name = port if kept else "hidden_states"
            number = 1
            while name in names or name in taken:
                name = f"{plain}_{number}"
                number += 1
            names.append(name)
        return tuple(names)

    def is_encoded(self, arg: fx.Node, arguments: list[fx.Node]) -> bool:
        """Whether a value is what an encoder gives, and stands beside a decoder's own stream."""
        batch, sequence, *source = self.recogniser.given
        shapes = [shape_of(other) for other in arguments]
        streams = any(shape[:2] == (batch, sequence) for shape in shapes)
        return streams and len(shape_of(arg)) == 3 and list(shape_of(arg)[:2]) == [batch, *source]

    # functions

    def read_function(self, node: fx.Node) -> None:
        rules = (
            self.passes_on,
            self.is_one_of_several,
            self.is_filled,
            self.looks_up_sinusoids,
            self.learns_distances,
            self.rotates,
            self.attends,
            self.attends_by_hand,
            self.lines_up_tokens,
            self.splits_heads,
            self.merges_heads,
            self.counts_positions,
            self.counts_after_padding,
            self.combines,
            self.scales,
            self.activates,
            self.softens,
            self.casts,
            self.is_plain,
        )
        if not any(rule(node) for rule in rules):
            raise TraceError(f"{self.where}: no rule knows {node.target}")

    def casts(self, node: fx.Node) -> bool:
        """A change of dtype: none where the value has it already."""
        if node.target not in CASTS:
            return False
        source = source_of(node)
        before, after = source.meta["val"].dtype, node.meta["val"].dtype
        if before == after and (after is not torch.float32 or not _is_explicit(node)):
            self.refs[node] = self.ref(source)
            return True
        if after is MODEL_DTYPE:
            like = next(
                (n for n in self.graph.nodes if n.op == "placeholder" and n in self.refs and _is_model(n)), None
            )
            if like is not None:
                self.add(node, "cast", "torch.type_as", {"x": self.ref(source), "other": self.ref(like)})
                return True
        dtype = DTYPES.get(after, str(after).removeprefix("torch."))
        self.add(node, "cast", "torch.to", {"x": self.ref(source)}, {"dtype": dtype})
        return True

    def is_filled(self, node: fx.Node) -> bool:
        """A part of a buffer that is one number all over."""
        source: Any = node
        while isinstance(source, fx.Node) and source.target in PARTS:
            source = source.args[0]
        if source is node or not isinstance(source, fx.Node) or source.op != "get_attr":
            return False
        value = self.kept(str(source.target))
        if value is None or not value.dim() or not value.numel() or not bool((value == value.flatten()[0]).all()):
            return False
        number = as_setting(value.flatten()[0].item())
        attrs = {"size": shape_of(node), "value": number, "dtype": DTYPES[value.dtype]}
        self.add(node, str(source.target).replace(".", "_"), "torch.full", {}, attrs)
        return True

    def is_plain(self, node: fx.Node) -> bool:
        """Whatever no rule knows stays the function that it is."""
        bound = bind(node)
        if bound is None:
            return False
        op, ports, attrs = bound
        if op == "torch.view" and _laid_out_anew(source_of(node)):
            op = "torch.reshape"  # `contiguous` is passed over: without it no view can be had
        inputs = {port: self.ref(source) for port, source in ports.items()}
        name = self.add(node, op.split(".")[1], op, inputs, attrs)
        outputs = OPS[op].outputs
        if len(outputs) > 1:
            self.bind_values(node, name, outputs)
        return True

    def passes_on(self, node: fx.Node) -> bool:
        """Functions that change no value. What is laid out anew for attention has gradients that are rounded in another order,
        and what is copied beside other uses has its gradients added last."""
        if node.target is aten.clone.default and len(source_of(node).users) > 1 and source_of(node).op != "placeholder":
            return False
        attends = any(user.target is torch.ops.canvas_rt.attention.default for user in node.users)
        if node.target is aten.contiguous.default and attends and not source_of(node).meta["val"].is_contiguous():
            return False
        if node.target in TRANSPARENT or (node.target in RESHAPED and _takes_all(node)):
            self.refs[node] = self.ref(source_of(node))
            return True
        return False

    def is_one_of_several(self, node: fx.Node) -> bool:
        if node.target is not operator.getitem:
            return False
        self.read_node(source_of(node))  # binds all that it gives
        return node in self.refs

    def looks_up_sinusoids(self, node: fx.Node) -> bool:
        """Sines and cosines by position, in a table that the module keeps."""
        found = sinusoids_in(node, self.kept)
        if found is None:
            return False
        positions, name, attrs = found
        settings = written(attrs, VARIANTS["sinusoid"])
        self.add(node, name.replace(".", "_"), "sinusoid", {"position_ids": self.ref(positions)}, settings)
        return True

    def rotates(self, node: fx.Node) -> bool:
        """Two values that are turned alike by the same cosines and sines are one node: queries and keys. Any other is its own."""
        if node not in self.rotations:
            return False
        bound = self.rotations[node]
        alike = [
            n for n, b in self.rotations.items() if all(b[key] == bound[key] for key in ("cos", "sin", "@settings"))
        ]
        tables = {"cos": self.ref(bound["cos"]), "sin": self.ref(bound["sin"])}
        if len(alike) != 2:
            self.add(node, "rotary", "rotate", {"x": self.ref(bound["x"]), **tables}, bound["@settings"])
            return True
        q, k = alike
        inputs = {"q": self.ref(self.rotations[q]["x"]), "k": self.ref(self.rotations[k]["x"]), **tables}
        name = self.add(q, "rotary", "apply_rotary", inputs, bound["@settings"])
        self.refs[q], self.refs[k] = f"{name}.q", f"{name}.k"
        self.places[name] = max(self.order[q], self.order[k])
        return True

    def attends(self, node: fx.Node) -> bool:
        if node.target is not torch.ops.canvas_rt.attention.default:
            return False
        q, k, v, sinks, bias, *settings = node.args
        inputs = {"q": self.ref(q), "k": self.ref(k), "v": self.ref(v)}  # type: ignore[arg-type]
        if sinks is not None:
            inputs["sinks"] = self.ref(sinks)  # type: ignore[arg-type]
        if isinstance(bias, fx.Node) and not (adds_nothing(bias) or self.is_nothing(bias)):
            inputs["bias"] = self.bias(bias, shape_of(node)[2])
        names = ("scale", "causal", "window", "chunk", "softcap", "dropout", "scaling", "precision", "sharing")
        attrs = dict(zip(names, settings, strict=True))
        attrs["cached"] = not {inputs["k"], inputs["v"]} <= self.recogniser.handed & {*self.inputs}
        self.add(node, "attention", "attention", inputs, attention_settings(attrs))
        return True

    def is_nothing(self, node: fx.Node) -> bool:
        """Whether a value is of zeros alone, which other layers hand on."""
        return self.refs.get(node, "") in self.recogniser.nothing

    def attends_by_hand(self, node: fx.Node) -> bool:
        """Attention that the module writes with functions of its own."""
        found = self.attentions.get(node)
        if found is None:
            return False
        inputs = {"q": self.ref(found.q), "k": self.ref(found.k), "v": self.ref(found.v)}
        if found.alibi is not None:
            inputs["bias"] = self.add(node, "alibi", "alibi", {}, written(dict(found.alibi), VARIANTS["alibi"]))
        self.add(node, "attention", "attention", inputs, attention_settings(found.attrs))
        return True

    def learns_distances(self, node: fx.Node) -> bool:
        """A bias of attention that is learned by distance."""
        numbers = (n for n in self.recogniser.config.values() if isinstance(n, int) and not isinstance(n, bool))
        learned = relative_in(node, numbers)
        if learned is not None:
            self.relative(node, learned)
        return learned is not None

    def bias(self, node: fx.Node, heads: int) -> str:
        """What attention adds to its scores."""
        if node in self.refs or self.learns_distances(node):
            return self.refs[node]
        found = alibi_in(node, heads, self.kept)
        if found is None:
            raise TraceError(f"{self.where}: no rule knows the bias of its attention")
        return self.add(node, "alibi", "alibi", {}, written(found, VARIANTS["alibi"]))

    def relative(self, node: fx.Node, found: Relative) -> None:
        """A bias that is learned by distance: the embedding that holds it, and what chooses among it, as one node."""
        target = str(found.table.target)
        path = f"{self.path}.{target}".lstrip(".")
        module = self.recogniser.submodule(path)
        if not isinstance(module, nn.Embedding):
            raise TraceError(f"{self.where}: no rule knows the bias of its attention")
        encoded = self.recogniser.given[1:].index(shape_of(found.table)[0])
        positions = self.positions(node, encoded) if found.positions is None else self.ref(found.positions)
        key = self.key(target)
        self.used.add(own_path(target))
        name = self.unique(key.replace(".", "_") or own_path(target).rpartition(".")[2])
        attrs = {"buckets": module.num_embeddings, "heads": module.embedding_dim, "farthest": found.farthest}
        attrs |= {"both_ways": True} if found.both_ways else {}
        item = Node(
            id=name, op="relative_bias", attrs=freeze(attrs), inputs=FrozenMap({"position_ids": positions}), key=key
        )
        self.put(found.table, item)
        self.refs[node] = name
        self.recogniser.ids[path] = stand_in(self.path), name

    def kept(self, name: str) -> Tensor | None:
        """A tensor that the module keeps without learning it."""
        held, graphs = self.recogniser.submodule(self.path), self.recogniser.graphs
        value = _reached(held, name)
        if not isinstance(value, Tensor):
            value = _reached(graphs.get_submodule(self.path) if self.path else graphs, name)
        return value if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) else None

    def lines_up_tokens(self, node: fx.Node) -> bool:
        """Routers and experts may take all tokens in a row, whatever their sequence: the nodes take them as they are."""
        if node.target not in RESHAPES or not isinstance(node.args[0], fx.Node):
            return False
        source, before, after = node.args[0], *(n.meta["val"].shape for n in (node.args[0], node))
        if node.target is aten.flatten.using_ints and before == after:
            self.refs[node] = self.ref(source)
            return True
        if before[-1] != after[-1]:
            return False
        into = self.lines_up(node)
        fed = source.args if self.is_of(source, "experts") else ()
        back = len(before) == 2 and len(after) == 3 and any(isinstance(a, fx.Node) and self.lines_up(a) for a in fed)
        if into or back:
            self.refs[node] = self.ref(source)
        return into or back

    def lines_up(self, node: fx.Node) -> bool:
        """Whether a function only puts tokens in a row for routers and experts, whose results get their sequences back."""
        if node.target not in RESHAPES or not isinstance(node.args[0], fx.Node):
            return False
        before, after = shape_of(node.args[0]), shape_of(node)
        if len(before) != 3 or len(after) != 2 or before[-1] != after[-1]:
            return False
        if not all(self.is_of(user, "router", "experts") for user in node.users):
            return False
        return all(_goes_back(user) for user in node.users if self.is_of(user, "experts"))

    def in_a_row(self, node: fx.Node) -> bool:
        """Whether a router takes the very row of tokens that experts take, of a value that is read elsewhere too.

        Gradients are summed within the row first.
        """
        if not self.lines_up(node) or not any(self.is_of(user, "experts") for user in node.users):
            return False
        source = source_of(node)
        elsewhere = self.recogniser.shared.get(self.path, ())
        return len(source.users) > 1 or (source.op == "placeholder" and self.refs[source] in elsewhere)

    def is_of(self, node: fx.Node, *ops: str) -> bool:
        """Whether a node is a module that is one of these ops."""
        if node.op != "call_module":
            return False
        leaf = self.recogniser.leaf(self.path_of(node))
        return leaf is not None and leaf.op in ops

    def splits_heads(self, node: fx.Node) -> bool:
        """`[batch, seq, heads · width]` as heads, with the heads first or in their place."""
        if node.target is aten.transpose.int and list(node.args[1:]) in ([1, 2], [2, 1]):
            view = node.args[0]
            if isinstance(view, fx.Node) and self.views_heads(view) and view not in self.refs:
                return self.add_heads(node, view, "split_heads")
            if len(shape_of(node)) == 4 and isinstance(view, fx.Node):
                ref = self.ref(view)
                name = (
                    ref.removesuffix("_norm").removesuffix("_heads")
                    if ref.endswith(("_norm", "_heads"))
                    else f"{ref}_heads"
                )
                self.add(node, name.partition(".")[0], "heads_first", {"x": ref})
                return True
        return self.views_heads(node) and self.add_heads(node, node, "view_heads")

    def views_heads(self, node: fx.Node) -> bool:
        if node.target not in VIEWS or not isinstance(node.args[0], fx.Node):
            return False
        before, after = shape_of(node.args[0]), shape_of(node)
        return len(before) == 3 and len(after) == 4 and before[:2] == after[:2] and self.recogniser.is_stream(after)

    def add_heads(self, node: fx.Node, view: fx.Node, op: str) -> bool:
        shape = shape_of(view)
        ref = self.ref(source_of(view))
        name = ref.removesuffix("_proj") if ref.endswith("_proj") else f"{ref.partition('.')[0]}_heads"
        if op == "view_heads" and ref.endswith("_proj"):
            name += "_heads"
        self.add(node, name, op, {"x": ref}, {"heads": int(shape[2]), "head_dim": int(shape[3])})
        return True

    def merges_heads(self, node: fx.Node) -> bool:
        if node.target not in VIEWS or not isinstance(node.args[0], fx.Node):
            return False
        before, after = shape_of(node.args[0]), shape_of(node)
        if len(before) != 4 or len(after) != 3 or before[:2] != after[:2] or not self.recogniser.is_stream(after):
            return False
        self.add(node, "merged", "merge_heads", {"x": self.ref(node.args[0])})
        return True

    def counts_positions(self, node: fx.Node) -> bool:
        """`(arange(seq) + past)[None]`, the first rows of a buffer that numbers them, and either for each sequence."""
        batch, *lengths = self.recogniser.given
        return any(self.counts(node, (batch, length), encoded) for encoded, length in enumerate(lengths))

    def counts(self, node: fx.Node, inputs: tuple[int, int], encoded: int) -> bool:
        """The same for tokens of one length: a decoder's, or those that an encoder reads."""
        first = node.args[0] if node.args else None
        if numbers_each(node, inputs):
            self.refs[node] = self.positions(node, encoded)
            return True
        if node.target is aten.unsqueeze.default and node.args[1] == 0 and numbers_tokens(first, inputs[1]):
            self.refs[node] = self.positions(node, encoded)
            return True
        if node.target is aten.slice.Tensor and self.is_numbered(first) and shape_of(node)[-1:] == inputs[1:]:
            if len(shape_of(node)) == 2:
                self.refs[node] = self.positions(node, encoded)
            else:
                positions = self.positions(node, encoded)
                self.add(node, "positions", "torch.select", {"x": positions}, {"dim": 0, "index": 0})
            return True
        if numbers_tokens(node, inputs[1]):
            positions = self.positions(node, encoded)
            self.add(node, "positions", "torch.select", {"x": positions}, {"dim": 0, "index": 0})
            return True
        return False

    def positions(self, node: fx.Node, encoded: int = 0) -> str:
        """What numbers the tokens: one node in a block, where the first stands that does. `encoded`: those of an encoder."""
        attrs = freeze({"source": True} if encoded else {})
        numbering = (item for item in self.items if isinstance(item, Node) and item.op == "position_ids")
        known = next((item.id for item in numbering if item.attrs == attrs), None)
        if known is None:
            known = self.unique("position_ids")
            self.items.append(Node(id=known, op="position_ids", attrs=attrs))
        self.places[known] = min(self.order[node], self.places.get(known, self.order[node]))
        return known

    def numbered_within(self, path: str, offset: int) -> int | None:
        """Whose tokens a module numbers by itself to look up a vector for each: 0 for a decoder's, 1 for an encoder's."""
        looked = [node for node in self.recogniser.graph(path).nodes if node.target is aten.embedding.default]
        if len(looked) != 1 or not isinstance(ids := looked[0].args[1], fx.Node):
            return None
        lengths = self.recogniser.given[1:]
        return next((place for place, length in enumerate(lengths) if repeats_positions(ids, length, offset)), None)

    def counts_after_padding(self, node: fx.Node) -> bool:
        """Positions in which padding does not count."""
        ids = counted_after_padding(node, self.recogniser.inputs)
        if ids is None:
            return False
        self.add(node, "positions", "padded_positions", {"ids": self.ref(ids)}, {"padding_idx": node.args[1]})
        return True

    def is_numbered(self, node: Any) -> bool:
        """Whether a value is a buffer that numbers positions."""
        while isinstance(node, fx.Node) and (
            (node.target is aten.slice.Tensor and _takes_all(node)) or node.target is aten.unsqueeze.default
        ):
            node = node.args[0]
        value = self.kept(str(node.target)) if isinstance(node, fx.Node) and node.op == "get_attr" else None
        buffer = None if value is None else buffer_of(value)
        return buffer is not None and buffer.positions

    def combines(self, node: fx.Node) -> bool:
        op = BINARY.get(node.target)
        if op is None or node.kwargs or not all(isinstance(arg, fx.Node) for arg in node.args[:2]):
            return False
        a, b = (self.ref(arg) for arg in node.args[:2])  # type: ignore[arg-type]
        stream = self._stream()
        joins = op == "add" and (a in stream or b in stream)
        module = next((ref for ref in (b, a) if ref not in stream), b)
        name = f"{module.replace('.', '_')}_residual" if joins else {"mul": "gated"}.get(op, op)
        self.add(node, name, op, {"a": a, "b": b})
        return True

    def scales(self, node: fx.Node) -> bool:
        if node.target is not aten.mul.Tensor or not isinstance(node.args[1], int | float):
            return False
        # A whole number times a whole number is one: such as a place in a table.
        factor = node.args[1] if not node.meta["val"].is_floating_point() else float(node.args[1])
        self.add(node, "scaled", "scale", {"x": self.ref(source_of(node))}, {"factor": factor})
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


def attention_settings(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an attention without those that are as usual, but for those that every attention shows."""
    shown = ("scale", "window", "dropout")
    return {n: value for n, value in attrs.items() if n in shown or value != VARIANTS["attention"][n]}


RESHAPED = (
    aten.slice.Tensor,
    aten.view.default,
    aten.reshape.default,
    aten.view_as.default,
    aten.reshape_as.default,
    aten.expand.default,
    aten.expand_as.default,
)
"""Functions that change nothing where the shape stays as it is."""

PARTS = (aten.slice.Tensor, aten.expand.default, aten.gather.default, aten.select.int, aten.unsqueeze.default)
"""Functions that give a part of a value, or repeat it."""

VIEWS = (aten.view.default, aten.reshape.default)
CASTS = (aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.type_as.default, aten._to_copy.default)
RESHAPES = (aten.flatten.using_ints, aten.view.default, aten.reshape.default, aten.view_as.default)
BINARY: Mapping[Any, str] = {aten.add.Tensor: "add", aten.sub.Tensor: "sub", aten.mul.Tensor: "mul"}
FUNCTION_ACTIVATIONS: Mapping[Any, str] = {
    aten.silu.default: "silu",
    aten.gelu.default: "gelu",
    aten.relu.default: "relu",
    aten.tanh.default: "tanh",
    aten.sigmoid.default: "sigmoid",
}


def gives_first(graph: fx.Graph) -> None:
    """Let a graph give nothing but the first of what it gives."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    output.args = ((next(one for one in pytree.tree_leaves(output.args) if isinstance(one, fx.Node)),),)
    for node in reversed(list(graph.nodes)):
        if node.target is operator.getitem and not node.users:
            graph.erase_node(node)


def called_in(graph: fx.Graph) -> list[str]:
    """The modules that a graph calls."""
    return [str(node.target) for node in graph.nodes if node.op == "call_module"]


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
    """`x[:, 0:]` and the like, which take all as it is."""
    return tuple(source_of(node).meta["val"].shape) == tuple(node.meta["val"].shape)


def _laid_out_anew(node: fx.Node) -> bool:
    """Whether a value is another's numbers in the order of its dimensions, which that one has them not in."""
    return node.target is aten.contiguous.default and not source_of(node).meta["val"].is_contiguous()


def _place(port: str) -> tuple[int, int]:
    """Where an input stands among others: the stream first, what follows from positions last, each sine beside its cosine."""
    if port == "hidden_states":
        return -2, 0
    if port == "token_type_ids":  # which go with the tokens
        return 0, 0
    stem, _, number = port.rpartition("_")
    stem, place = (stem, int(number)) if number.isdecimal() else (port, 0)
    return (place, SEMANTIC_PORTS.index(stem)) if stem in SEMANTIC_PORTS else (-1, 0)


def _reached(module: Any, path: str) -> Any:
    """What a dotted name leads to, or nothing."""
    for part in path.split(".") if path else ():
        module = getattr(module, part, None)
    return module


def _is_model(node: fx.Node) -> bool:
    """Whether a value is in the model's own dtype."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype is MODEL_DTYPE


def _goes_back(node: fx.Node) -> bool:
    """Whether all that reads a value of tokens in a row gives them their sequences back first."""
    return all(user.target in RESHAPES and len(shape_of(user)) == 3 for user in node.users)


def _is_explicit(node: fx.Node) -> bool:
    """Whether a cast names its dtype, so that it holds whatever it is given."""
    return node.target in (aten.to.dtype, aten.to.dtype_layout) and bool(node.kwargs.get("dtype") or len(node.args) > 1)


def output_ports(count: int) -> list[str]:
    """Names of what a block gives."""
    return ["out", *(f"out_{index}" for index in range(1, count))]


def stand_in(path: str) -> str:
    """A module's path as a block's name, until blocks get their class's."""
    return path.replace(".", "__").replace("@", "_again_") or "root"
