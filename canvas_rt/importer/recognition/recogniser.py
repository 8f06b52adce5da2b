"""Read the graphs of one traced model: which modules are one node, and a block for each of the others."""

import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn
from torch.utils import _pytree as pytree

from canvas_rt.importer.calls import inlined, without_mutation
from canvas_rt.importer.dissolve import dissolve, own_path
from canvas_rt.importer.holding import hold_backbone
from canvas_rt.importer.inside import given_out, move_in, shares_inlined, with_chunks, with_transposes, without_lists
from canvas_rt.importer.recognition.functions import read_function
from canvas_rt.importer.recognition.modules import read_module
from canvas_rt.importer.recognition.reader import Read, Reader
from canvas_rt.importer.recognition.tensors import read_tensor
from canvas_rt.importer.recognition.traced import Traced, stand_in
from canvas_rt.importer.rotary import called_for, is_rotary, rotary_rule
from canvas_rt.importer.rules import recognised
from canvas_rt.importer.stateful import stateful_node
from canvas_rt.importer.trace import TraceError
from canvas_rt.importer.unread import without_unread
from canvas_rt.importer.whole import call_in, of_layer, own_config, whole_node
from canvas_rt.ir.document import Block, Node
from canvas_rt.ir.frozen import freeze
from canvas_rt.ir.tasks import CAUSAL_LM, Task
from canvas_rt.ops.modules import keeps_state, read_by_layer, source_name

READERS: Mapping[str, Read] = {
    "call_module": read_module,
    "call_function": read_function,
    "get_attr": read_tensor,
}
"""What reads each sort of node in a graph."""


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
        reader = Reader(self, path, ports, READERS)
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


def gives_first(graph: fx.Graph) -> None:
    """Let a graph give nothing but the first of what it gives."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    output.args = ((next(one for one in pytree.tree_leaves(output.args) if isinstance(one, fx.Node)),),)
    for node in reversed(list(graph.nodes)):
        if node.target is operator.getitem and not node.users:
            graph.erase_node(node)
