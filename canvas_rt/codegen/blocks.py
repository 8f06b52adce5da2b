"""A block as one `nn.Module` class: its attributes, and its graph for torch.fx."""

import ast
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import fx, nn

from canvas_rt.codegen import vocabulary
from canvas_rt.codegen.modules import CONSTRUCT, Classes
from canvas_rt.codegen.printer import Layout, print_graph
from canvas_rt.codegen.syntax import fresh, quote, setting, statements, unparse
from canvas_rt.errors import EmitError
from canvas_rt.ir.document import Block, Document, Node, Stack, Use
from canvas_rt.ir.expressions import expression, is_expression
from canvas_rt.ir.graph import Item, blocks_of, execution_order, head, reachable_blocks, running_order
from canvas_rt.ops.catalogue import OPS, complete

PREFIX = "Canvas"
RESERVED = frozenset(dir(nn.Module)) | {
    "config",
    "layer_idx",
    "scaling",
    "sliding_window",
    "num_key_value_groups",
    "attention_dropout",
    "is_causal",
    "gradient_checkpointing",
    "training",
    "post_init",
    "generate",
    "loss_function",
}
"""Attributes that a module has for itself: a node with one of these ids could not be an attribute."""

RESULTS = {"router": ("", "weights", "indices")}
"""For modules that give a tuple in another order than the op's outputs: the outputs in that order, or nothing."""

BINARY = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}


@dataclass(frozen=True)
class Names:
    """What an emitted module calls its classes."""

    root: str
    """The root block's name."""

    @property
    def prefix(self) -> str:
        return PREFIX + self.root.removesuffix("ForCausalLM")

    def of(self, block: str) -> str:
        return self.causal_lm if block == self.root else PREFIX + block

    @property
    def causal_lm(self) -> str:
        return f"{self.prefix}ForCausalLM"

    @property
    def config(self) -> str:
        return f"{self.prefix}Config"

    @property
    def pretrained(self) -> str:
        return f"{self.prefix}PreTrainedModel"

    @property
    def classes(self) -> Classes:
        return Classes(self.prefix)

    @property
    def taken(self) -> frozenset[str]:
        """Classes that an emitted module may have, whatever its blocks are called."""
        return frozenset({self.config, self.pretrained, *self.classes.all})


@dataclass
class Plan:
    """What emission knows of a document as a whole."""

    document: Document
    comments: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Shapes to write beside lines, by block and node."""

    @cached_property
    def names(self) -> Names:
        return Names(self.document.root)

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Blocks in use, each before those that use it."""
        return reachable_blocks(self.document)

    def items(self, block: str) -> tuple[Item, ...]:
        """What runs of a block."""
        return running_order(self.document.blocks[block])[0]

    @cached_property
    def attending(self) -> frozenset[str]:
        """Blocks that contain attention, themselves or further in."""
        found: set[str] = set()
        for name in self.order:
            for item in self.items(name):
                if (isinstance(item, Node) and item.op == "attention") or any(
                    inner in found for inner in blocks_of(item)
                ):
                    found.add(name)
        return frozenset(found)

    @cached_property
    def backbone(self) -> tuple[str, Stack]:
        """The block that holds the stack of layers, and the stack."""
        stacks = [(n, i) for n in self.order for i in self.document.blocks[n].nodes if isinstance(i, Stack)]
        if len(stacks) != 1:
            raise EmitError(
                f"the model has {len(stacks)} stacks of layers; a Hugging Face model has one",
                hint="Move all layers into one stack: layers of unlike kinds may follow one another in it.",
            )
        return stacks[0]

    @cached_property
    def layer_blocks(self) -> tuple[str, ...]:
        """The blocks that layers are."""
        return blocks_of(self.backbone[1])

    @cached_property
    def inner(self) -> frozenset[str]:
        """Blocks that stand inside layers, the layers' own included."""
        return frozenset(n for layer in self.layer_blocks for n in reachable_blocks(self.document, layer))

    @cached_property
    def heterogeneous(self) -> bool:
        """Whether some layers have sizes of their own."""
        return any(kind.sizes for kind in self.backbone[1].kinds)

    @cached_property
    def several_classes(self) -> bool:
        return len(self.layer_blocks) > 1

    @cached_property
    def windows(self) -> frozenset[str]:
        """Every attention window, as written."""
        nodes = [node for name in self.order for node in self.attention_nodes(name)]
        overridden = {
            f"{name}={value}"
            for kind in self.backbone[1].kinds
            for name, value in kind.sizes.items()
            if any(f"={name}" == complete(node)["window"] for node in nodes)
        }
        return frozenset({str(complete(node)["window"]) for node in nodes} | overridden)

    @cached_property
    def masks(self) -> bool:
        """Whether layers see unlike windows, so that each takes its own mask."""
        return len(self.windows) > 1

    @property
    def own_masks(self) -> bool:
        """Whether masks say more than transformers can tell from the config, so that only the model can make them."""
        return self.windows not in ({"None"}, {"=sliding_window"}, set())

    @cached_property
    def without_attention(self) -> frozenset[str]:
        """Layer blocks that hold no attention, and so no place in the cache."""
        return frozenset(layer for layer in self.layer_blocks if layer not in self.attending)

    def attention_nodes(self, block: str) -> list[Node]:
        return [item for item in self.items(block) if isinstance(item, Node) and item.op == "attention"]

    def gives_weights(self, block: str) -> bool:
        """Whether a block's `forward` gives attention weights beside its value, as modules that attend do."""
        return bool(self.attention_nodes(block)) and block not in self.layer_blocks

    def attentions_in(self, block: str) -> int:
        """How many times a block attends, inner blocks counted by use."""
        own = len(self.attention_nodes(block))
        return own + sum(self.attentions_in(inner) for item in self.items(block) for inner in blocks_of(item))

    def validate(self) -> None:
        """Raise `EmitError` for a graph that no Hugging Face model can be."""
        backbone, _stack = self.backbone
        for name in self.attending:
            if name not in self.inner and name not in (backbone, self.document.root):
                raise EmitError(
                    "attends outside the layers", path=name, hint="Move the attention into a layer of the stack."
                )
        for name in (backbone, self.document.root):
            if self.attention_nodes(name):
                raise EmitError(
                    "attends outside the layers", path=name, hint="Move the attention into a layer of the stack."
                )
        for layer in self.layer_blocks:
            if self.attentions_in(layer) > 1:
                raise EmitError(
                    f"attends {self.attentions_in(layer)} times; each layer has one place in the key/value cache",
                    path=layer,
                    hint="Put the second attention into a layer of its own.",
                )
        root = self.document.blocks[self.document.root]
        uses = [item for item in root.nodes if isinstance(item, Use) and item.block == backbone]
        readers = [
            i.id
            for i in root.nodes
            if not (isinstance(i, Use) and i.block == backbone) and "input_ids" in i.inputs.values()
        ]
        if len(uses) != 1 or list(uses[0].inputs.values()) != ["input_ids"] or readers:
            raise EmitError(
                f"'{self.document.root}' must pass input_ids to one backbone block, and nothing else may read them",
                path=readers[0] if readers else self.document.root,
                hint="Group embedding, layers and final norm into one block.",
            )
        if self.document.blocks[backbone].inputs != ("input_ids",) or tuple(root.outputs) != ("logits",):
            raise EmitError("takes input_ids and gives logits in every Hugging Face model", path=self.document.root)
        for name in self.order:
            if self.names.of(name) in self.names.taken or (
                self.names.of(name) == self.names.causal_lm and name != self.document.root
            ):
                raise EmitError(
                    f"would be emitted as {self.names.of(name)}, a class that every model has for itself",
                    path=name,
                    hint="Call the block otherwise.",
                )
            self.validate_block(name)

    def validate_block(self, name: str) -> None:
        block = self.document.blocks[name]
        if execution_order(block)[1]:
            raise EmitError("stands in a cycle", path=f"{name}.{execution_order(block)[1][0]}")
        for item in block.nodes:
            if item.id in RESERVED and not (isinstance(item, Node) and item.op not in CONSTRUCT):
                raise EmitError(
                    f"'{item.id}' is a name that every module has for itself",
                    path=f"{name}.{item.id}",
                    hint="Rename the node.",
                )


class BlockWriter:
    """Writes one block's class."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan = plan
        self.name = name
        self.block: Block = plan.document.blocks[name]
        self.order = running_order(self.block)[0]
        self.attends = bool(plan.attention_nodes(name))
        # All layers are called alike, those without attention too.
        self.context = name in plan.attending or (name in plan.layer_blocks and bool(plan.attending))
        self.owner = "layer" if plan.heterogeneous and name in plan.inner else "config"
        self.own_attributes: dict[str, ast.expr] = {}
        taken = {"attention_mask", "past_key_values", "layer_idx", "layer", "batch", "seq"}
        self.arguments = {port: fresh(port, taken) for port in self.block.inputs}

    # the class

    @property
    def takes_index(self) -> bool:
        return self.context or self.owner == "layer" or self.name in self.plan.layer_blocks

    def source(self) -> str:
        """The class as text."""
        base = "GradientCheckpointingLayer" if self.name in self.plan.layer_blocks else "nn.Module"
        forward = self.forward()
        lines = [f"class {self.plan.names.of(self.name)}({base}):", *indent(self.init()), "", *indent(forward)]
        return "\n".join(lines) + "\n"

    def init(self) -> str:
        index = ", layer_idx: int" if self.takes_index else ""
        body = statements("super().__init__()")
        if self.owner == "layer":
            body += statements("layer = config.per_layer_config[layer_idx]")
        if self.attends:
            body += self.attention_attributes()
        for name, value in self.own_attributes.items():
            body += statements("self._name_ = value", _name_=name, value=value)
        body += self.module_attributes()
        header = f"def __init__(self, config: {self.plan.names.config}{index}) -> None:"
        return "\n".join([header, *indent(unparse(body))])

    def attention_attributes(self) -> list[ast.stmt]:
        (node,) = self.plan.attention_nodes(self.name)
        attrs = complete(node)
        body = statements("self.config = config\nself.layer_idx = layer_idx\nself.is_causal = True")
        body += statements("self.scaling = value", value=setting(attrs["scale"], self.owner))
        body += statements("self.attention_dropout = value", value=setting(attrs["dropout"], self.owner))
        if attrs["window"] is not None or self.plan.masks:
            body += statements("self.sliding_window = value", value=setting(attrs["window"], self.owner))
        groups = self.groups(node)
        if groups is not None:
            body += statements("self.num_key_value_groups = value", value=groups)
        return body

    def groups(self, node: Node) -> ast.expr | None:
        """Query heads for each key/value head, where both are told by the nodes that split them."""
        heads = [self.heads_behind(node.inputs.get(port, "")) for port in ("q", "k")]
        if None in heads:
            return None
        query, key = (setting(value, self.owner) for value in heads)
        return quote("query // key", query=query, key=key)

    def heads_behind(self, ref: str) -> Any:
        for _ in range(8):
            node = self.block.node(head(ref))
            if not isinstance(node, Node):
                return None
            if node.op == "split_heads":
                return complete(node)["heads"]
            port = ref.partition(".")[2] or next(iter(OPS[node.op].inputs), "")
            ref = node.inputs.get(port, "")
        return None

    def module_attributes(self) -> list[ast.stmt]:
        body: list[ast.stmt] = []
        for item in self.order:
            made = self.module(item)
            if made is not None:
                body += statements("self._name_ = made", _name_=item.id, made=made)
        return body

    def module(self, item: Node | Use | Stack) -> ast.expr | None:
        """What constructs an item's module, or None for functions."""
        if isinstance(item, Use):
            index = [ast.Name("layer_idx", ast.Load())] if BlockWriter(self.plan, item.block).takes_index else []
            return ast.Call(
                ast.Name(self.plan.names.of(item.block), ast.Load()), [ast.Name("config", ast.Load()), *index], []
            )
        if isinstance(item, Stack):
            return None
        construct = CONSTRUCT.get(item.op)
        if construct is None:
            return None
        attrs = {name: setting(value, self.owner) for name, value in complete(item).items()}
        return construct(item, attrs, self.plan.names.classes)

    # forward

    def graph(self) -> fx.Graph:
        """The block as a torch.fx graph over the vocabulary of emitted functions."""
        graph = fx.Graph()
        values: dict[str, fx.Node] = {name: graph.placeholder(name) for name in self.block.inputs}
        for item in self.order:
            self.add(graph, values, item)
        for output, ref in list(self.block.outputs.items())[:1]:
            graph.output(self.value(values, ref, output, self.name))
        return graph

    def value(self, values: Mapping[str, fx.Node], ref: str, port: str, where: str) -> fx.Node:
        """What a reference stands for."""
        if ref in values:
            return values[ref]
        source = self.block.node(head(ref))
        if isinstance(source, Use) and "." in ref:
            raise EmitError(
                f"{port} reads {ref}, but an emitted module gives one value: the first of its block",
                path=where,
                hint=f"Ungroup {source.id}, or group what reads it with it.",
            )
        raise EmitError(f"nothing feeds {port}", path=where, hint="Connect it first.")

    def add(self, graph: fx.Graph, values: dict[str, fx.Node], item: Node | Use | Stack) -> None:
        def take(port: str) -> fx.Node:
            return self.value(values, item.inputs.get(port, ""), port, f"{self.name}.{item.id}")

        if isinstance(item, Use):
            inner = self.plan.document.blocks[item.block]
            made = graph.call_module(item.id, tuple(take(port) for port in inner.inputs))
            made.meta["context"] = item.block in self.plan.attending
            made.meta["tuple"] = self.plan.gives_weights(item.block)
        elif isinstance(item, Stack):
            inner = self.plan.document.blocks[item.kinds[0].block]
            made = graph.call_function(vocabulary.stack, tuple(take(port) for port in inner.inputs))
            made.meta["attribute"] = item.id
        else:
            made = self.add_node(graph, item, take)
        if (self.name, item.id) in self.plan.comments:
            made.meta["comment"] = self.plan.comments[self.name, item.id]
        outputs = OPS[item.op].outputs if isinstance(item, Node) else ("out",)
        if len(outputs) == 1:
            values[item.id] = made
            if isinstance(item, Use):
                values[f"{item.id}.{next(iter(inner.outputs), '')}"] = made
            return
        # An output that has the name of an input is its next value: `q, k = apply_rotary(q, k, cos, sin)`.
        made.meta["ports"] = {port: values.get(item.inputs.get(port, "")) for port in outputs}
        for port in outputs:
            values[f"{item.id}.{port}"] = graph.call_function(vocabulary.port, (made, port))

    def add_node(self, graph: fx.Graph, node: Node, take: Any) -> fx.Node:
        attrs = complete(node)
        ports = OPS[node.op].inputs
        if node.op in CONSTRUCT:
            made = graph.call_module(node.id, tuple(take(port) for port in ports))
            made.meta.update(tokens=node.op == "experts", results=RESULTS.get(node.op))
        elif node.op in BINARY:
            made = graph.call_function(BINARY[node.op], tuple(take(port) for port in ports))
            if node.op == "add":
                made.meta.update(residual=True, named=True, variable="hidden_states")
        elif node.op == "split_heads":
            made = graph.call_function(vocabulary.split_heads, (take("x"),))
            made.meta.update(width=self.attribute(node, "head_dim", attrs["head_dim"]), named=True, variable=node.id)
        elif node.op == "merge_heads":
            made = graph.call_function(vocabulary.merge_heads, (take("x"),))
        elif node.op == "scale":
            made = graph.call_function(vocabulary.scale, (take("x"),))
            made.meta["factor"] = self.attribute(node, "factor", attrs["factor"])
        elif node.op == "softmax":
            made = graph.call_function(vocabulary.softmax, (take("x"),))
        elif node.op == "apply_rotary":
            made = graph.call_function(vocabulary.apply_rotary, tuple(take(port) for port in ports))
        elif node.op == "attention":
            made = graph.call_function(vocabulary.attention, tuple(take(port) for port in ports))
            made.meta["window"] = attrs["window"] is not None
            made.meta["masks"] = self.plan.masks
            made.meta["groups_at_run_time"] = self.groups(node) is None
        else:
            raise EmitError(f"'{node.op}' stands where no code can be written for it", path=f"{self.name}.{node.id}")
        return made

    def attribute(self, node: Node, name: str, value: Any) -> ast.expr:
        """A setting that `forward` needs: a constant in place, anything else kept by `__init__`."""
        if not is_expression(value):
            return setting(value)
        parsed = expression(value)
        bare = (
            isinstance(parsed.tree, ast.Name) and self.block.node(parsed.text) is None and parsed.text not in RESERVED
        )
        attribute = parsed.text if bare else fresh(f"{node.id}_{name}", {item.id for item in self.block.nodes})
        self.own_attributes[attribute] = setting(value, self.owner)
        return quote("self._name_", _name_=attribute)

    def layout(self, graph: fx.Graph) -> Layout:
        arguments = [ast.arg(name, quote("torch.Tensor")) for name in self.arguments.values()]
        defaults: list[ast.expr] = []
        context: list[ast.keyword] = []
        if self.context:
            mask = "dict[int | None, torch.Tensor | None] | None" if self.plan.masks else "torch.Tensor | None"
            arguments += [ast.arg("attention_mask", quote(mask)), ast.arg("past_key_values", quote("Cache | None"))]
            defaults = [ast.Constant(None), ast.Constant(None)]
            context = [ast.keyword(n, ast.Name(n, ast.Load())) for n in ("attention_mask", "past_key_values")]
            context.append(ast.keyword(None, ast.Name("kwargs", ast.Load())))
        signature = ast.arguments(
            posonlyargs=[],
            args=[ast.arg("self"), *arguments],
            kwonlyargs=[],
            kw_defaults=[],
            defaults=defaults,
            kwarg=ast.arg("kwargs", quote("Any")) if self.context else None,
        )
        uses_sizes = any(node.target in vocabulary.NEEDS_SIZES for node in graph.nodes if node.op == "call_function")
        before = statements("batch, seq, _ = x.shape", x=self.arguments[self.block.inputs[0]]) if uses_sizes else []
        layout = Layout(
            signature, "torch.Tensor", before, self.arguments, context=context, comments=self.comments(graph)
        )
        if self.plan.gives_weights(self.name):
            layout.returns = "tuple[torch.Tensor, torch.Tensor | None]"
            layout.result = lambda value: statements("return value, attn_weights", value=value)
        return layout

    def comments(self, graph: fx.Graph) -> dict[str, str]:
        return {node.name: node.meta["comment"] for node in graph.nodes if "comment" in node.meta}

    def forward(self) -> str:
        graph = self.graph()
        return print_graph(graph, self.layout(graph))


def indent(text: str | Sequence[str]) -> list[str]:
    lines = text.splitlines() if isinstance(text, str) else text
    return [f"    {line}" if line else "" for line in lines]
