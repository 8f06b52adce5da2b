"""A block as one `nn.Module` class: its attributes, and its graph for torch.fx."""

import ast
import operator
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from torch import fx

from canvas_rt.codegen import vocabulary
from canvas_rt.codegen.functions import Anchor, expression_of
from canvas_rt.codegen.holders import Holder, holding
from canvas_rt.codegen.modules import CONSTRUCT, buffer_value
from canvas_rt.codegen.plan import RESERVED, Plan, is_tensor, place_of, settings_read
from canvas_rt.codegen.printer import Layout, print_graph
from canvas_rt.codegen.syntax import fill, fresh, quote, setting, statements, unparse
from canvas_rt.errors import EmitError
from canvas_rt.ir.document import LAYER, Block, Node, Stack, Use
from canvas_rt.ir.expressions import expression, is_expression, names_in
from canvas_rt.ir.graph import Item, blocks_of, head, key_of, running_order
from canvas_rt.ops.catalogue import OPS, complete
from canvas_rt.ops.functions import RUN_TIME, function_named, is_function
from canvas_rt.ops.learned import CONSTANT, MODULE, PARAMETER
from canvas_rt.ops.modules import cache_argument, named_arguments

RESULTS = {"router": ("", "weights", "indices")}
"""For modules that give a tuple in another order than the op's outputs: the outputs in that order, or nothing."""

BINARY = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}


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
        self.owner = "config"
        if plan.heterogeneous and name in plan.inner:
            self.owner = "layer"
        elif plan.layers_own & names_in(tuple(map(settings_read, self.order))):
            self.owner = "general"
        self.own_attributes: dict[str, ast.expr] = {}
        self.sizes_used: set[str] = set()
        """Which of `batch`, `seq` and `source` the block's functions name."""
        taken = {"attention_mask", "past_key_values", "layer_idx", "layer", "general", *RUN_TIME, "recurrent_mask"}
        self.arguments = {port: fresh(port, taken) for port in self.inputs}

    @property
    def inputs(self) -> tuple[str, ...]:
        """What `forward` is given. All layers take what any takes, and what is handed on, be it for others."""
        stack = self.plan.stack_of_layers(self.name)
        if stack is None:
            return self.block.inputs
        return tuple(dict.fromkeys((*self.plan.given_alike(stack), *self.plan.handed_on(stack))))

    # where its parts are

    @cached_property
    def holder(self) -> Holder:
        """The lists and tables in which the block keeps modules that are no attributes of its own."""
        keys = [key_of(i) for i in self.order if not isinstance(i, Node) or i.op in CONSTRUCT]
        return holding(keys, [place_of(item) for item in self.order if is_tensor(item)])

    @cached_property
    def held(self) -> Mapping[str, ast.expr]:
        """How `forward` reaches each module, by its key: `self.norm`, `self.ffn[0]`."""
        return dict(self.holder.accesses(ast.Name("self", ast.Load())))

    def held_tensor(self, node: Node) -> ast.expr:
        """How `forward` reaches a tensor of the block's own."""
        around, _, name = place_of(node).rpartition(".")
        return quote("owner._name_", owner=self.held[around] if around else ast.Name("self", ast.Load()), _name_=name)

    # the class

    @property
    def base(self) -> str:
        """The class that it builds on."""
        return "GradientCheckpointingLayer" if self.name in self.plan.layer_blocks else "nn.Module"

    @property
    def takes_index(self) -> bool:
        inside = self.name in self.plan.inner
        needs = self.context or self.owner == "layer" or self.name in self.plan.numbered
        return inside and (needs or self.name in self.plan.layer_blocks)

    def source(self) -> str:
        """The class as text."""
        forward = self.forward()
        lines = [f"class {self.plan.names.of(self.name)}({self.base}):", *indent(self.init()), "", *indent(forward)]
        return "\n".join(lines) + "\n"

    def init(self) -> str:
        index = ", layer_idx: int" if self.takes_index else ""
        body = statements("super().__init__()")
        body += self.owner_statements() + self.told_statements()
        told = {target.attr for target in map(_assigned, body) if target is not None}
        for name, value in self.own_attributes.items():
            if name not in told:
                body += statements("self._name_ = value", _name_=name, value=value)
        body += self.module_attributes()
        header = f"def __init__(self, config: {self.plan.names.config}{index}) -> None:"
        return "\n".join([header, *indent(unparse(body))])

    def owner_statements(self) -> list[ast.stmt]:
        """What gives the sizes of the layer at hand, or those of the model at large where layers have some for themselves."""
        found = {"layer": "layer = config.per_layer_config[layer_idx]", "general": "general = with_values(config)"}
        return statements(found[self.owner]) if self.owner in found else []

    def told_statements(self) -> list[ast.stmt]:
        """What a module keeps for transformers to find."""
        if self.attends:
            return self.attention_attributes()
        return statements("self.config = config") if self.holds_stack else []

    def attention_attributes(self) -> list[ast.stmt]:
        nodes = self.plan.attention_nodes(self.name)
        if len(nodes) > 1:
            raise EmitError(
                f"attends {len(nodes)} times in one block", path=self.name, hint="Group each attention on its own."
            )
        (node,) = nodes
        attrs = complete(node)
        body = statements("self.config = config\nself.layer_idx = layer_idx")
        body += statements("self.is_causal = causal", causal=ast.Constant(attrs["causal"]))
        body += statements("self.scaling = value", value=setting(attrs["scale"], self.owner))
        body += statements("self.attention_dropout = value", value=setting(attrs["dropout"], self.owner))
        if attrs["window"] is not None or (self.plan.masks and attrs["chunk"] is None):
            body += statements("self.sliding_window = value", value=setting(attrs["window"], self.owner))
        if attrs["chunk"] is not None:
            body += statements("self.attention_chunk_size = value", value=setting(attrs["chunk"], self.owner))
        if attrs["softcap"] is not None:
            body += statements("self.softcap = value", value=setting(attrs["softcap"], self.owner))
        groups = self.groups(node)
        if groups is not None:
            body += statements("self.num_key_value_groups = value", value=groups)
        return body

    def groups(self, node: Node) -> ast.expr | None:
        """Query heads for each key/value head, where both are told by the nodes that split them; one where products broadcast."""
        if complete(node)["sharing"] == "broadcast":
            return ast.Constant(1)
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
            if node.op in ("split_heads", "view_heads"):
                return complete(node)["heads"]
            if is_function(node.op) and complete(node).get("dim", -1) not in (-1, 3):
                return None  # it may take some of the heads
            port = ref.partition(".")[2] or next(iter(OPS[node.op].inputs), "")
            ref = node.inputs.get(port, "")
        return None

    def module_attributes(self) -> list[ast.stmt]:
        body: list[ast.stmt] = []
        made = {key_of(item): module for item in self.order if (module := self.module(item)) is not None}
        begun: set[str] = set()
        for item in self.order:
            tensor, key = is_tensor(item), place_of(item)
            first, _, rest = key.partition(".")
            if not tensor and key not in made:
                continue
            if first not in begun and (rest or not tensor):
                begun.add(first)
                inner = self.holder.parts[first]
                value = made[first] if inner is None else inner.expression(made, first)
                body += self.layer_classes(item)
                body += statements("self._name_ = made", _name_=first, made=value)
            if isinstance(item, Node):
                body += self.parameter(item) if tensor else self.given_buffers(item) if item.op == MODULE else []
        return body

    def given_buffers(self, node: Node) -> list[ast.stmt]:
        """What gives a module kept whole the tensors that it does not make itself."""
        body: list[ast.stmt] = []
        for name, parts in complete(node)["buffers"].items():
            body += statements(
                "held.register_buffer(name, value, persistent=False)",
                held=self.held[key_of(node)],
                name=ast.Constant(name),
                value=buffer_value(parts, self.owner),
            )
        return body

    def parameter(self, node: Node) -> list[ast.stmt]:
        """What makes a learned tensor, or one that is only kept in the checkpoint."""
        attrs = complete(node)
        shape = ast.Tuple([setting(size, self.owner) for size in attrs["shape"]], ast.Load())
        around, _, name = place_of(node).rpartition(".")
        flat = len(attrs["shape"]) == 1 and name.endswith("weight")
        value = quote("torch.ones(shape)" if flat else "torch.zeros(shape)", shape=shape)
        owner = self.held[around] if around else quote("self")
        if attrs["learned"]:
            return statements("owner._name_ = nn.Parameter(value)", owner=owner, _name_=name, value=value)
        return statements("owner.register_buffer(name, value)", owner=owner, name=ast.Constant(name), value=value)

    @property
    def holds_stack(self) -> bool:
        return any(isinstance(item, Stack) for item in self.order)

    def layers(self) -> ast.expr:
        """What constructs the stack."""
        tower = self.plan.tower_at(self.name)
        assert tower is not None, self.name
        names = blocks_of(tower.stack)
        if not tower.several_classes:
            layer, count = ast.Name(self.plan.names.of(names[0]), ast.Load()), self.depth()
            if not self.indexes(names[0]):
                return quote("nn.ModuleList(layer(config) for _ in range(count))", layer=layer, count=count)
            return quote("nn.ModuleList(layer(config, index) for index in range(count))", layer=layer, count=count)
        if not self.indexes(names[0]):
            return quote("nn.ModuleList(classes[kind](config) for kind in config._listed_)", _listed_=tower.kinds_field)
        return quote(
            "nn.ModuleList(classes[kind](config, index) for index, kind in enumerate(config._listed_))",
            _listed_=tower.kinds_field,
        )

    def indexes(self, block: str) -> bool:
        """Whether a block within this one is made with the number of its layer."""
        return BlockWriter(self.plan, block).takes_index

    def layer_classes(self, item: Item) -> list[ast.stmt]:
        """The table of a stack's classes, where it has several."""
        tower = self.plan.tower_at(self.name)
        if not isinstance(item, Stack) or tower is None or not tower.several_classes:
            return []
        names = blocks_of(tower.stack)
        known = [ast.Name(self.plan.names.of(name), ast.Load()) for name in names]
        table = ast.Dict([ast.Constant(name) for name in names], list(known))
        return statements("classes: dict[str, Any] = table", table=table)

    def depth(self) -> ast.expr:
        """How many layers the stack has: an encoder's may have a field of their own, or be a number."""
        tower = self.plan.tower_at(self.name)
        encodes = tower is not None and tower.part == "encoder"
        return setting(tower.stack.repeat) if tower and encodes else quote("config.num_hidden_layers")

    def module(self, item: Node | Use | Stack) -> ast.expr | None:
        """What constructs an item's module, or None for functions."""
        if isinstance(item, Use):
            index = [ast.Name("layer_idx", ast.Load())] if self.indexes(item.block) else []
            return ast.Call(
                ast.Name(self.plan.names.of(item.block), ast.Load()), [ast.Name("config", ast.Load()), *index], []
            )
        if isinstance(item, Stack):
            return self.layers()
        construct = CONSTRUCT.get(item.op)
        if construct is None:
            return None
        attrs = {name: setting(value, self.owner) for name, value in complete(item).items()}
        return construct(item, attrs, self.plan.classes)

    # forward

    def graph(self) -> fx.Graph:
        """The block as a torch.fx graph over the vocabulary of emitted functions."""
        graph = fx.Graph()
        self.rows: dict[str, fx.Node] = {}
        """Rows of tokens that routers share with experts, by the router's node."""
        values: dict[str, fx.Node] = {name: graph.placeholder(name) for name in self.inputs}
        for item in self.order:
            self.add(graph, values, item)
        results = tuple(self.value(values, ref, port, self.name) for port, ref in self.results().items())
        graph.output(results[0] if len(results) == 1 else results)
        return graph

    def results(self) -> Mapping[str, str]:
        """What the block gives: a layer the value that it carries on, and what is handed on; any other block all."""
        outputs = self.block.outputs
        stack = self.plan.stack_of_layers(self.name)
        if stack is None:
            return outputs
        handed = self.plan.handed_on(stack)
        return {**dict(list(outputs.items())[:1]), **{name: outputs.get(name, name) for name in handed}}

    def value(self, values: Mapping[str, fx.Node], ref: str, port: str, where: str) -> fx.Node:
        """What a reference stands for."""
        if ref in values:
            return values[ref]
        raise EmitError(f"nothing feeds {port}", path=where, hint="Connect it first.")

    def add(self, graph: fx.Graph, values: dict[str, fx.Node], item: Node | Use | Stack) -> None:
        def take(port: str) -> fx.Node:
            return self.value(values, item.inputs.get(port, ""), port, f"{self.name}.{item.id}")

        if isinstance(item, Use):
            inner = self.plan.document.blocks[item.block]
            made = graph.call_module(item.id, tuple(take(port) for port in inner.inputs))
            made.meta["held"] = self.held[key_of(item)]
            made.meta["context"] = self.plan.wants(item.block) if item.block in self.plan.attending else ()
            made.meta["positions"] = item.block in self.plan.positioned
            made.meta["tuple"] = self.plan.gives_weights(item.block)
        elif isinstance(item, Stack):
            ports, handed = self.plan.given_alike(item), self.plan.handed_on(item)
            made = graph.call_function(vocabulary.stack, tuple(take(port) for port in ports))
            made.meta.update(attribute=item.id, taken=ports, handed=handed, encodes=self.name in self.plan.encoding)
        else:
            made = self.add_node(graph, item, take)
        if (self.name, item.id) in self.plan.comments:
            made.meta["comment"] = self.plan.comments[self.name, item.id]
        outputs = OPS[item.op].outputs if isinstance(item, Node) else ("out",)
        if isinstance(item, Use):
            outputs = tuple(inner.outputs) or ("out",)
        if len(outputs) == 1:
            values[item.id] = values[f"{item.id}.{outputs[0]}"] = made
            return
        if made.meta.get("tuple"):
            made.meta["more"] = True  # its attention weights come last
        # An output that has the name of an input is its next value: `q, k = apply_rotary(q, k, cos, sin)`.
        made.meta["ports"] = {port: values.get(item.inputs.get(port, "")) for port in outputs}
        for port in outputs:
            values[f"{item.id}.{port}"] = graph.call_function(vocabulary.port, (made, port))

    def add_node(self, graph: fx.Graph, node: Node, take: Any) -> fx.Node:
        attrs = complete(node)
        ports = OPS[node.op].fed(node.inputs)
        if node.op == "router" and self.shares_row(node):
            x = take("x")
            known = [row for row in self.rows.values() if row.args == (x,)]
            row = self.rows[node.id] = known[0] if known else graph.call_function(vocabulary.in_a_row, (x,))
            row.meta.update(named=True, variable="tokens")
            made = graph.call_module(node.id, (row,))
            made.meta["results"] = RESULTS["router"]
        elif node.op == "experts" and head(node.inputs.get("indices", "")) in self.rows:
            row = self.rows[head(node.inputs["indices"])]
            made = graph.call_module(node.id, (take("x"), row, take("indices"), take("weights")))
            made.meta.update(tokens=True, in_a_row=True)
        elif node.op == "relative_bias":
            made = graph.call_function(vocabulary.relative_bias, (take("position_ids"),))
            made.meta.update(table=self.held[key_of(node)], both_ways=attrs["both_ways"])
            made.meta["farthest"] = self.attribute(node, "farthest", attrs["farthest"])
        elif node.op in CONSTRUCT:
            made = graph.call_module(node.id, tuple(take(port) for port in ports))
            made.meta.update(tokens=node.op == "experts", results=RESULTS.get(node.op))
            made.meta["residual"] = node.op in ("layer_norm", "rms_norm")  # it may be the stream from then on
            if node.op == "rotary_embedding":  # its first argument tells device and dtype
                made.args = (self.embedded(graph), *made.args)
            if node.op == MODULE:
                made.meta.update(
                    state=not attrs["arguments"], cache=self.plan.task.generates and cache_argument(attrs["source"])
                )
                made.meta.update(arguments=named_arguments(attrs), mask=attrs["mask"], place=attrs["place"])
                made.meta["sees"] = self.seen_by(node) if attrs["mask"] else None
        elif is_function(node.op):
            made = self.add_function(graph, node, take)
        elif node.op == "padded_positions":
            made = graph.call_function(vocabulary.padded_positions, (take("ids"),))
            made.meta["padding_idx"] = self.attribute(node, "padding_idx", attrs["padding_idx"])
            made.meta["variable"] = "positions"
        elif node.op == "position_ids":
            made = graph.call_function(vocabulary.attribute, ())
            made.meta["value"] = ast.Name("position_ids", ast.Load())
        elif node.op == PARAMETER:
            made = graph.call_function(vocabulary.attribute, ())
            made.meta["value"] = self.held_tensor(node)
        elif node.op == CONSTANT:
            made = graph.call_function(vocabulary.attribute, ())
            anchor = self.anchor()
            dtype = anchor.dtype if attrs["dtype"] == "model" else quote("torch._name_", _name_=attrs["dtype"])
            number = self.attribute(node, "value", attrs["value"])
            made.meta["value"] = quote(
                "torch.tensor(number, dtype=dtype, device=device)", number=number, dtype=dtype, device=anchor.device
            )
        elif node.op in BINARY:
            made = graph.call_function(BINARY[node.op], tuple(take(port) for port in ports))
            if node.op == "add":
                made.meta.update(residual=True, named=True, variable="hidden_states")
        elif node.op in ("split_heads", "view_heads"):
            function = vocabulary.split_heads if node.op == "split_heads" else vocabulary.view_heads
            made = graph.call_function(function, (take("x"),))
            made.meta.update(width=self.attribute(node, "head_dim", attrs["head_dim"]), named=True, variable=node.id)
            made.meta["length"] = self.length_of(node)
        elif node.op == "heads_first":
            made = graph.call_function(vocabulary.heads_first, (take("x"),))
            made.meta.update(named=True, variable=node.id)
        elif node.op == "merge_heads":
            made = graph.call_function(vocabulary.merge_heads, (take("x"),))
            made.meta["length"] = self.length_of(node)
        elif node.op == "scale":
            made = graph.call_function(vocabulary.scale, (take("x"),))
            made.meta["factor"] = self.attribute(node, "factor", attrs["factor"])
        elif node.op == "softmax":
            made = graph.call_function(vocabulary.softmax, (take("x"),))
        elif node.op in ("apply_rotary", "rotate"):
            made = graph.call_function(getattr(vocabulary, node.op), tuple(take(port) for port in ports))
            made.meta["suffix"] = vocabulary.rotation_suffix(attrs)
        elif node.op == "alibi":
            made = graph.call_function(vocabulary.alibi, ())
            made.meta["heads"] = self.attribute(node, "heads", attrs["heads"])
        elif node.op == "attention":
            made = graph.call_function(vocabulary.attention, tuple(take(port) for port in ports))
            made.meta["extra"] = ports[3:]
            made.meta["window"] = attrs["window"] is not None
            made.meta["chunk"] = attrs["chunk"] is not None
            made.meta["softcap"] = attrs["softcap"] is not None
            made.meta["masks"] = self.plan.masks
            across = (self.name, node.id) in self.plan.sides.across
            made.meta["cached"] = self.plan.cached(self.name) and attrs["cached"] and not across
            made.meta.update(across=across, halved=self.plan.halves is not None)
            # Who attends to what an earlier layer hands on must be given what the cache holds of it too.
            given = {*self.block.outputs.values()}
            made.meta["hands_on"] = self.plan.shares_keys and {node.inputs["k"], node.inputs["v"]} <= given
            made.meta["groups_at_run_time"] = self.groups(node) is None
        else:
            raise EmitError(f"'{node.op}' stands where no code can be written for it", path=f"{self.name}.{node.id}")
        if made.op == "call_module":
            made.meta["held"] = self.held[key_of(node)]
        return made

    def length_of(self, item: Item) -> str:
        """What the length of a value is called: what an encoder reads has one of its own."""
        return "source" if self.plan.sides.encoded(self.name, item.id) else "seq"

    def embedded(self, graph: fx.Graph) -> fx.Node:
        """A value of the stream."""
        stream = next((port for port in self.block.inputs if port.startswith("hidden_states")), self.block.inputs[0])
        found: fx.Node = next(node for node in graph.nodes if node.op == "placeholder" and node.target == stream)
        return found

    def shares_row(self, node: Node) -> bool:
        """Whether a router and the experts that it chooses take the same row of tokens, and nothing else reads its choice."""
        readers = [item for item in self.order if node.id in map(head, item.inputs.values())]
        of_experts = (
            isinstance(i, Node) and i.op == "experts" and i.inputs.get("x") == node.inputs.get("x") for i in readers
        )
        returned = node.id in map(head, self.block.outputs.values())
        return bool(complete(node)["in_a_row"]) and bool(readers) and all(of_experts) and not returned

    def seen_by(self, node: Node) -> ast.expr:
        """The mask of a module kept whole."""
        attrs = complete(node)
        if not self.plan.masks:
            return quote("attention_mask")
        if attrs["chunk"] is not None:
            return quote("attention_mask['chunk', size]", size=self.attribute(node, "chunk", attrs["chunk"]))
        return quote("attention_mask[window]", window=self.attribute(node, "sliding_window", attrs["window"]))

    def add_function(self, graph: fx.Graph, node: Node, take: Any) -> fx.Node:
        """A plain function of torch, written as its row of the table says."""
        found = function_named(node.op)
        assert found is not None, node.op
        function, attrs = found[0], complete(node)
        made = graph.call_function(vocabulary.function, tuple(take(port) for port in OPS[node.op].inputs))

        def write(inputs: Sequence[ast.expr]) -> ast.expr:
            return expression_of(function, inputs, attrs, partial(self.local, node), self.anchor())

        made.meta.update(write=write, variable=node.id)
        return made

    def local(self, node: Node, value: Any) -> ast.expr:
        """A setting where a function uses it: what a run is given is a variable, what the model knows an attribute."""
        if not is_expression(value):
            return setting(value)
        names = expression(value).names
        if not names & set(RUN_TIME):
            return self.attribute(node, "size", value)
        kept = {name: self.attribute(node, name, f"={name}") for name in names - set(RUN_TIME)}
        self.sizes_used |= names & set(RUN_TIME)
        given = {name: ast.Name(name, ast.Load()) for name in names & set(RUN_TIME)}
        return fill(expression(value).tree, {**kept, **given})

    def anchor(self) -> Anchor:
        """A value of the block that tells device and dtype."""
        streams = [
            name
            for port, name in self.arguments.items()
            if port not in ("input_ids", "token_type_ids", "position_ids", "indices")
        ]
        first = next(iter(streams or self.arguments.values()), "")
        learned = quote("next(self.parameters())")
        learns = any(isinstance(i, Use | Stack) or i.op in CONSTRUCT or i.op == PARAMETER for i in self.order)
        value = ast.Name(first, ast.Load()) if first else learned
        # A stream may be of a wider dtype than the model.
        typed = learned if learns or not streams else ast.Name(streams[0], ast.Load())
        return Anchor(quote("x.device", x=value), quote("x.dtype", x=typed))

    def attribute(self, node: Node, name: str, value: Any) -> ast.expr:
        """A setting that `forward` needs: a constant in place, anything else kept by `__init__`."""
        if not is_expression(value):
            return setting(value)
        parsed = expression(value)
        bare = (
            isinstance(parsed.tree, ast.Name) and self.block.node(parsed.text) is None and parsed.text not in RESERVED
        )
        written = setting(value, self.owner)
        taken = {item.id for item in self.block.nodes} | {*self.holder.parts} | RESERVED
        named = {*self.plan.document.sizes, *self.plan.document.config}
        plain = name not in ("size", "value", "factor", *named) and name not in taken
        if plain and unparse(self.own_attributes.get(name, written)) == unparse(written):
            attribute = name
        else:
            others = {n for n, v in self.own_attributes.items() if unparse(v) != unparse(written)}
            attribute = fresh(f"{node.id}_{name}", taken | others)
        if bare:
            attribute = "layer_idx" if parsed.text == LAYER else parsed.text
        self.own_attributes[attribute] = written
        return quote("self._name_", _name_=attribute)

    def layout(self, graph: fx.Graph) -> Layout:
        stack = self.plan.stack_of_layers(self.name)
        handed = self.plan.handed_on(stack) if stack is not None else ()
        tensors = {port: "Tensor | None" if port in handed else "Tensor" for port in self.inputs}
        arguments = [ast.arg(name, quote(tensors[port])) for port, name in self.arguments.items()]
        defaults: list[ast.expr] = []
        context: list[ast.keyword] = []
        if self.context:
            key = "Any" if any(span.startswith("chunk") for span in self.plan.windows) else "int | None"
            mask = f"dict[{key}, Tensor | None] | None" if self.plan.masks else "Tensor | None"
            given = list(self.plan.wants(self.name))
            cache = "Cache | None" if self.plan.halves is None else "EncoderDecoderCache | None"
            arguments += [ast.arg(n, quote(cache if n == "past_key_values" else mask)) for n in given]
            defaults += [ast.Constant(None)] * len(given)
            if self.name in self.plan.stateful:
                arguments.append(ast.arg("recurrent_mask", quote("Tensor | None")))
                defaults.append(ast.Constant(None))
                given.append("recurrent_mask")
            context = [ast.keyword(n, ast.Name(n, ast.Load())) for n in given]
            context.append(ast.keyword(None, ast.Name("kwargs", ast.Load())))
        if self.name in self.plan.positioned:
            arguments.append(ast.arg("position_ids", quote("Tensor | None")))
            defaults.append(ast.Constant(None))
            context.insert(0, ast.keyword("position_ids", ast.Name("position_ids", ast.Load())))
        signature = ast.arguments(
            posonlyargs=[],
            args=[ast.arg("self"), *arguments],
            kwonlyargs=[],
            kw_defaults=[],
            defaults=defaults,
            kwarg=ast.arg("kwargs", quote("Any")) if self.context else None,
        )
        before = self.read_sizes(graph)
        gives = ["Tensor | None" if port in handed else "Tensor" for port in self.results()]
        if self.plan.gives_weights(self.name):
            gives.append("Tensor | None")
        returns = f"tuple[{', '.join(gives)}]" if len(gives) > 1 else gives[0]
        layout = Layout(signature, returns, before, self.arguments, context=context, comments=self.comments(graph))
        if self.plan.gives_weights(self.name):
            layout.result = lambda value: statements("return value, attn_weights", value=value)
        return layout

    def note_sizes(self, graph: fx.Graph) -> None:
        """Note which of batch and sequence the block's functions name."""
        for node in graph.nodes:
            if node.op == "call_function" and node.target in vocabulary.NEEDS_SIZES:
                self.sizes_used |= {"batch", node.meta["length"]}
            if node.target is vocabulary.function:
                node.meta["write"]([ast.Name("x", ast.Load())] * len(node.args))  # notes what it names

    def read_sizes(self, graph: fx.Graph, ports: Sequence[str] = ()) -> list[ast.stmt]:
        """What tells batch and sequence, where the block needs to know; of some of its inputs, where not all are given."""
        self.note_sizes(graph)
        if not self.sizes_used:
            return []
        stream = {name: (self.block.inputs[0], i) for i, name in enumerate(("batch", "seq")) if self.block.inputs}
        places = dict(self.plan.places.get(self.name, stream))
        if ports and (found := [port for name, (port, _) in places.items() if name != "batch" and port in ports]):
            places["batch"] = found[0], 0
        known = {name: places[name] for name in self.sizes_used if name in places}
        batch = known.get("batch", ("", -1))
        length = next((n for n in RUN_TIME[1:] if batch[1] == 0 and known.get(n) == (batch[0], 1)), "")
        body: list[ast.stmt] = []
        if length:
            rank_three = not self.plan.flat.get(self.name)
            template = "batch, length, _ = x.shape" if rank_three else "batch, length = x.shape[:2]"
            body += statements(template, x=self.arguments[batch[0]], length=length)
        for name in RUN_TIME:
            if name in self.sizes_used and name not in known:
                raise EmitError(
                    f"needs to know {name}, which none of its inputs tells", path=self.name, hint="Pass it the stream."
                )
            if name in self.sizes_used and not (length and name in ("batch", length)):
                port, dim = known[name]
                body += statements("name = x.shape[dim]", name=name, x=self.arguments[port], dim=ast.Constant(dim))
        return body

    def comments(self, graph: fx.Graph) -> dict[str, str]:
        return {node.name: node.meta["comment"] for node in graph.nodes if "comment" in node.meta}

    def forward(self) -> str:
        graph = self.graph()
        return print_graph(graph, self.layout(graph))


def _assigned(statement: ast.stmt) -> ast.Attribute | None:
    """The attribute that a statement sets."""
    target = statement.targets[0] if isinstance(statement, ast.Assign) else None
    return target if isinstance(target, ast.Attribute) else None


def indent(text: str | Sequence[str]) -> list[str]:
    lines = text.splitlines() if isinstance(text, str) else text
    return [f"    {line}" if line else "" for line in lines]
