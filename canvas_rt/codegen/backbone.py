"""The class that holds embedding, layers and final norm."""

import ast
from functools import cached_property
from typing import Any, cast

from torch import fx

from canvas_rt.codegen.access import embedding_access
from canvas_rt.codegen.blocks import BlockWriter, indent
from canvas_rt.codegen.given import given_names, signature
from canvas_rt.codegen.masks import Masks
from canvas_rt.codegen.mixture import balanced
from canvas_rt.codegen.pretrained import records
from canvas_rt.codegen.printer import Layout, print_graph
from canvas_rt.codegen.syntax import quote, statements, unparse
from canvas_rt.ir.document import Node
from canvas_rt.ir.graph import key_of, reachable_blocks

PADDED_POSITIONS = """
def padded_positions(ids: Tensor, past: Tensor, padding_idx: int) -> Tensor:
    real = ids.ne(padding_idx).int()  # [batch, seq]
    return ((real.cumsum(dim=1).type_as(real) + past) * real).long() + padding_idx
"""


class BackboneWriter(BlockWriter):
    """Writes the class that holds embedding, layers and final norm."""

    @cached_property
    def part(self) -> str:
        """Which half of the model it is, where there are two."""
        tower = self.plan.tower_at(self.name)
        return tower.part if tower is not None else ""

    @property
    def generates(self) -> bool:
        """Whether it has a cache."""
        return self.plan.task.generates and self.part != "encoder"

    def init(self) -> str:
        body = statements("super().__init__(config)") + self.owner_statements()
        for name, value in self.own_attributes.items():
            body += statements("self._name_ = value", _name_=name, value=value)
        body += self.module_attributes()
        if self.generates and self.plan.without_attention and not (self.plan.stateful or self.plan.whole):
            body += self.cache_places()
        body += statements("self.gradient_checkpointing = False\nself.post_init()")
        return "\n".join([f"def __init__(self, config: {self.plan.names.config}) -> None:", *indent(unparse(body))])

    def cache_places(self) -> list[ast.stmt]:
        """Layers without attention have no place in the cache: those with one are numbered without gaps."""
        if self.part:
            return statements(
                "attentions = [module for module in self.modules() if hasattr(module, 'is_causal')]\n"
                "for causal in (True, False):\n"
                "    for place, module in enumerate(one for one in attentions if one.is_causal == causal):\n"
                "        module.layer_idx = place",
            )
        return statements(
            "attentions = [module for module in self.modules() if hasattr(module, 'is_causal')]\n"
            "for place, module in enumerate(attentions):\n"
            "    module.layer_idx = place",
        )

    def add_node(self, graph: fx.Graph, node: Node, take: Any) -> fx.Node:
        if node.op == "position_ids":
            return self.given(graph, "position_ids")
        if node == self.token_embedding():
            return self.given(graph, "inputs_embeds")
        return super().add_node(graph, node, take)

    def embedded(self, graph: fx.Graph) -> fx.Node:
        """The embedded tokens: given, or made by the first embedding of the block, or by what it takes the tokens to."""
        if self.token_embedding() is not None:
            return self.given(graph, "inputs_embeds")
        ids = {item.id for item in self.order if isinstance(item, Node) and item.op == "embedding"}
        made = [node for node in graph.nodes if node.op == "call_module"]
        found = [node for node in made if node.target in ids]
        found += [n for n in made if any(arg.target == "input_ids" for arg in n.all_input_nodes)]
        return found[0] if found else self.given(graph, "inputs_embeds")

    def given(self, graph: fx.Graph, name: str) -> fx.Node:
        """A value that the statements before the graph compute."""
        for node in graph.nodes:
            if node.op == "placeholder" and node.target == name:
                return cast(fx.Node, node)
        first = next(iter(graph.nodes))
        with graph.inserting_before(first):
            return graph.placeholder(name)

    def token_embedding(self) -> Node | None:
        """The embedding that `inputs_embeds` stands in for: the one that reads the tokens, if there is just one."""
        readers = [item for item in self.block.nodes if "input_ids" in item.inputs.values()]
        if len(readers) == 1 and isinstance(readers[0], Node) and readers[0].op == "embedding":
            return readers[0]
        return None

    def layout(self, graph: fx.Graph) -> Layout:
        if not self.plan.task.of_tokens:
            return self.image_layout(graph)
        embedding = self.token_embedding()
        needs_positions = any(node.op == "placeholder" and node.target == "position_ids" for node in graph.nodes)
        needs_positions = needs_positions or "padded_positions" in {getattr(i, "op", "") for i in self.order}
        inside = reachable_blocks(self.plan.document, self.name)
        needs_positions = needs_positions or bool(self.plan.positioned & {*inside})
        needs_positions = needs_positions or (self.plan.attention_anywhere and self.part != "encoder")
        if embedding is None:
            before = statements(
                "if input_ids is None or inputs_embeds is not None:\n"
                "    raise ValueError('give input_ids, and no inputs_embeds: the tokens are embedded within a block')\n"
            )
        else:
            before = statements(
                "if (input_ids is None) == (inputs_embeds is None):\n"
                "    raise ValueError('give exactly one of input_ids and inputs_embeds')\n"
                "if inputs_embeds is None:\n    inputs_embeds = held(input_ids)",
                held=self.held[key_of(embedding)],
            )
        for name in self.plan.given[1:] if not self.part else ():
            source = "input_ids" if embedding is None else "inputs_embeds[..., 0]"
            before += statements(
                f"if _name_ is None:\n    _name_ = torch.zeros_like({source}, dtype=torch.long)", _name_=name
            )
        cached = self.context and self.generates
        if cached:
            made = "DynamicCache(config=self.config)"
            made = f"EncoderDecoderCache({made}, {made})" if self.part else made
            before += statements(f"if use_cache and past_key_values is None:\n    past_key_values = {made}")
        given = "inputs_embeds" if embedding is not None else "input_ids"
        if needs_positions:
            past = "past_key_values.get_seq_length() if past_key_values is not None else 0" if cached else "0"
            told = f"    past = {past}\n" if self.generates else ""
            numbered = f"torch.arange({given}.shape[1], device={given}.device)"
            before += statements(
                f"position_ids = {numbered}.unsqueeze(0)"
                if self.part == "encoder"
                else f"if position_ids is None:\n{told}    position_ids = ({numbered}{' + past' if told else ''})[None]\n"
            )
        before += self.masks(embedding is not None)
        before += self.read_sizes(graph)
        context = self.told_layers() if self.context else []
        shared = {"position_ids", "use_cache"}
        wired = {port for name in self.plan.layer_blocks for port in self.plan.document.blocks[name].inputs}
        if shared <= {word.arg for word in context} and not self.plan.positioned and not shared & wired:
            before += statements("kwargs.update(position_ids=position_ids, use_cache=use_cache)")  # for all layers
            context = [word for word in context if word.arg not in shared]
        gives = "BaseModelOutputWithPast" if self.generates else "BaseModelOutput"
        gives += "AndCrossAttentions" if self.part == "decoder" else ""
        gives = "MoeModelOutputWithPast" if balanced(self.plan) is not None else gives
        more = ", past_key_values=past_key_values" if self.generates else ""
        return Layout(
            signature(self.plan, self.part),
            gives,
            before,
            {name: name for name in (self.block.inputs if self.part else self.plan.given)},
            lambda value: statements(f"return {gives}(last_hidden_state=value{more})", value=value),
            context,
            self.comments(graph),
            ("merge_with_config_defaults", "capture_outputs"),
        )

    def masks(self, embedded: bool) -> list[ast.stmt]:
        """What makes them, where anything in the block is told."""
        if not self.context:
            return []
        return Masks(self.plan, self.name, self.plan.tower_at(self.name), self.generates, embedded).statements()

    def told_layers(self) -> list[ast.keyword]:
        """What layers are told beside their values, by keyword."""
        mask = "mask" if self.plan.attention_anywhere else "attention_mask"
        told = {"attention_mask": mask}
        if self.plan.stateful:
            told["recurrent_mask"] = "recurrent_mask"
        if self.part == "decoder":
            told["encoder_attention_mask"] = "encoder_mask"
        names: tuple[str, ...] = ("past_key_values", "position_ids", "use_cache")
        if self.part:  # attention that looks across would take the decoder's positions for its keys'
            inside = reachable_blocks(self.plan.document, self.name)
            names = ("past_key_values", *(["position_ids"] if self.plan.positioned & {*inside} else []))
        given = (*given_names(self.plan, self.part), "position_ids")  # which an encoder counts itself
        told |= {name: name for name in names if name in given}
        wanted = {n for name in self.plan.layer_blocks for n in self.plan.wants(name)} if self.part else told.keys()
        kept = {name: value for name, value in told.items() if name in wanted or name == "position_ids"}
        return [*(ast.keyword(n, ast.Name(v, ast.Load())) for n, v in kept.items()), ast.keyword(None, quote("kwargs"))]

    def image_layout(self, graph: fx.Graph) -> Layout:
        """Of a model that takes images: it numbers no tokens, and masks nothing."""
        takes = self.plan.task.takes
        before = statements("if x is None:\n    raise ValueError('give pixel_values')", x=takes)
        return Layout(
            signature(self.plan),
            "BaseModelOutput",
            [*before, *self.read_sizes(graph)],
            {takes: takes},
            lambda value: statements("return BaseModelOutput(last_hidden_state=value)", value=value),
            [ast.keyword(None, ast.Name("kwargs", ast.Load()))] if self.context else [],
            self.comments(graph),
            ("merge_with_config_defaults", "capture_outputs"),
        )

    def source(self) -> str:
        graph = self.graph()
        forward = print_graph(graph, self.layout(graph))
        lines = [
            f"class {self.plan.names.of(self.name)}({self.plan.names.pretrained}):",
            *(records(self.plan, reachable_blocks(self.plan.document, self.name)).splitlines() if self.part else []),
            *([""] if self.part else []),
            *indent(self.init()),
            *indent(embedding_access(self.plan, self.name)),
            "",
            *indent(forward),
        ]
        return "\n".join(lines) + "\n"
