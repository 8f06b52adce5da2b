"""One module's graph as it is read into a block: the items so far, their names, and what each value of the trace is there."""

import operator
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from canvas_rt.importer.calls import is_one_of_several, shape_of
from canvas_rt.importer.dissolve import own_path
from canvas_rt.importer.handwritten import find_attentions
from canvas_rt.importer.names import named_by_use
from canvas_rt.importer.patterns import find_rotations
from canvas_rt.importer.recognition.ports import ENCODED, KEPT_PORTS, is_encoded, output_ports, place_of_port
from canvas_rt.importer.recognition.traced import stand_in
from canvas_rt.importer.trace import TraceError
from canvas_rt.ir.document import Block, Node, Stack, Use
from canvas_rt.ir.frozen import FrozenMap, freeze

if TYPE_CHECKING:
    from canvas_rt.importer.layers import Layers
    from canvas_rt.importer.recognition.recogniser import Recogniser

Read = Callable[["Reader", fx.Node], None]
"""What reads a node of a trace: from then on the reader knows what its value is."""


class Reader:
    """Reads one module's graph into a block."""

    def __init__(
        self, recogniser: "Recogniser", path: str, ports: tuple[str, ...], readers: Mapping[str, Read]
    ) -> None:
        self.recogniser = recogniser
        self.path = path
        self.readers = readers
        """By the sort of a node, what reads it."""
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
            inputs=tuple(sorted(self.inputs, key=place_of_port)),
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
        if node.op not in self.readers:
            raise TraceError(f"{self.where}: no rule knows what it does with {node.target}")
        self.readers[node.op](self, node)

    @property
    def where(self) -> str:
        return f"{self.path or 'the model'} ({self.kind})"

    def path_of(self, node: fx.Node) -> str:
        """The path of the module that a node calls."""
        return f"{self.path}.{node.target}".lstrip(".")

    def key(self, target: str) -> str:
        """What a module is called in the checkpoint, where that can be no id: it stands in a list or a table, or is used again."""
        path = f"{self.path}.{target}".lstrip(".")
        own = own_path(target)
        learns = any(True for _ in self.recogniser.submodule(path).parameters())
        listed = own.rpartition(".")[2].isdecimal() and "@" not in target
        again = learns and own in self.used
        return own if again or ("." in own and (learns or listed)) else ""

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

    def put_module(self, node: fx.Node, target: str, item: Node, inputs: Mapping[str, str]) -> str:
        """File a module that is one node, and say where it stands."""
        key = self.key(target)
        self.used.add(own_path(target))
        name = self.unique(key.replace(".", "_") or item.id)
        self.put(node, item.replace(id=name, inputs=FrozenMap(inputs), key=key))
        self.recogniser.ids[f"{self.path}.{target}".lstrip(".")] = stand_in(self.path), name
        return name

    def ports(self, arguments: list[fx.Node], taken: Collection[str] = ()) -> tuple[str, ...]:
        """Names for a module's inputs: semantic values keep theirs, anything else is the stream."""
        names: list[str] = []
        for arg in sorted(arguments, key=is_one_of_several):
            self.ref(arg)  # the stream is read first, so that reading order follows it
        refs = [self.ref(arg) for arg in arguments]
        shapes = [shape_of(arg) for arg in arguments]
        for arg in arguments:
            ref = self.ref(arg)
            port = "phases" if arg.meta["val"].is_complex() else ref.rpartition(".")[2]
            if is_encoded(shape_of(arg), shapes, self.recogniser.given):
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

    def kept(self, name: str) -> Tensor | None:
        """A tensor that the module keeps without learning it."""
        held, graphs = self.recogniser.submodule(self.path), self.recogniser.graphs
        value = reached(held, name)
        if not isinstance(value, Tensor):
            value = reached(graphs.get_submodule(self.path) if self.path else graphs, name)
        return value if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) else None


def called_in(graph: fx.Graph) -> list[str]:
    """The modules that a graph calls."""
    return [str(node.target) for node in graph.nodes if node.op == "call_module"]


def reached(module: Any, path: str) -> Any:
    """What a dotted name leads to, or nothing."""
    for part in path.split(".") if path else ():
        module = getattr(module, part, None)
    return module
