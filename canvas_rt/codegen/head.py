"""The whole model's class: what runs before the head, the head, and the loss."""

import ast
from collections.abc import Mapping
from typing import Any

from torch import fx

from canvas_rt.codegen import sharding
from canvas_rt.codegen.access import embedding_access, output_access
from canvas_rt.codegen.blocks import BlockWriter, indent
from canvas_rt.codegen.given import given_names, signature
from canvas_rt.codegen.halves import DECODER_IDS, FROM_LABELS, HANDED_ON, OF_BOTH, halves_run
from canvas_rt.codegen.mixture import balanced
from canvas_rt.codegen.pretrained import OWN_MASKS, backbone_use
from canvas_rt.codegen.printer import Layout, print_graph
from canvas_rt.codegen.syntax import constant, setting, statements, unparse
from canvas_rt.ir.document import Node
from canvas_rt.ir.graph import key_of


class HeadWriter(BlockWriter):
    """Writes the whole model: backbone, head, loss."""

    def init(self) -> str:
        body = [*statements("super().__init__(config)"), *self.owner_statements()]
        for name, value in self.own_attributes.items():
            body += statements("self._name_ = value", _name_=name, value=value)
        body += [*self.module_attributes(), *statements("self.post_init()")]
        return "\n".join([f"def __init__(self, config: {self.plan.names.config}) -> None:", *indent(unparse(body))])

    @property
    def held_parts(self) -> tuple[str, ...]:
        """What runs before the head: the backbone, or an encoder and a decoder."""
        halves = self.plan.halves
        if halves is None or halves.holder != self.name:
            return (backbone_use(self.plan),)
        return key_of(halves.encoder), key_of(halves.decoder)

    def add(self, graph: fx.Graph, values: dict[str, fx.Node], item: Any) -> None:
        if key_of(item) in self.held_parts:
            if key_of(item) == self.held_parts[-1]:
                values[item.id] = graph.placeholder("hidden_states")
            return
        super().add(graph, values, item)

    def add_node(self, graph: fx.Graph, node: Node, take: Any) -> fx.Node:
        made = super().add_node(graph, node, take)
        if node.op == "add":  # these are scores, and no stream
            made.meta.update(residual=False, named=False, variable=node.id)
        return made

    def module(self, item: Any) -> ast.expr | None:
        if key_of(item) in self.held_parts:
            return ast.Call(ast.Name(self.plan.names.of(item.block), ast.Load()), [ast.Name("config", ast.Load())], [])
        return super().module(item)

    def layout(self, graph: fx.Graph) -> Layout:
        task, part = self.plan.task, "both" if self.plan.halves else ""
        named = [name if name != "use_cache" else "use_cache=use_cache" for name in given_names(self.plan, part)]
        given = ", ".join(named)  # in the order in which the backbone takes them
        before = statements(FROM_LABELS) if part else []
        gives, router = task.gives, balanced(self.plan)
        if router is not None:
            given += ", output_router_logits=output_router_logits"
            gives = "MoeCausalLMOutputWithPast"
            before += statements(
                "if output_router_logits is None:\n    output_router_logits = self.config.output_router_logits"
            )
        if len(self.held_parts) > 1:
            before += halves_run(self.plan)
        else:
            before += statements(f"outputs = self._name_({given}, **kwargs)", _name_=backbone_use(self.plan))
        if task.generates and not part:
            before += statements(
                "kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep\n"
                "hidden_states = outputs.last_hidden_state[:, kept, :]"
            )
        else:
            before += statements("hidden_states = outputs.last_hidden_state")
        cache = " past_key_values=outputs.past_key_values," if task.generates else ""
        more = f"{cache} hidden_states=outputs.hidden_states, attentions=outputs.attentions"
        if part:
            more = OF_BOTH if len(self.held_parts) > 1 else HANDED_ON
        loss = "logits, labels, self.config.vocab_size"
        if task.classifies:
            loss = "labels, logits, self.config"
        if part:  # the decoder reads them one place later: they stand where their scores do
            loss += ", shift_labels=labels"
        self.note_sizes(graph)
        for dim, name in enumerate(("batch", "seq")):
            if name in self.sizes_used:  # of the tokens that logits are made for
                before += statements("name = hidden_states.shape[dim]", name=name, dim=ast.Constant(dim))
        ending = f"logits = value\nloss = None if labels is None else self.loss_function({loss}, **kwargs)\n"
        if router is not None:
            ending += self.balance(router[1])
            more += ", aux_loss=aux_loss, router_logits=outputs.router_logits"
        plain = "loss, logits, " + ", ".join(word.partition("=")[2] for word in more.split(","))
        ending += (
            f"return {gives}({plain if gives == task.gives and not part else f'loss=loss, logits=logits, {more}'})"
        )
        return Layout(
            signature(self.plan, part, head=True),
            gives,
            before,
            {},
            lambda value: statements(ending, value=value),
            (),
            self.comments(graph),
            ("can_return_tuple",),
        )

    def balance(self, attrs: Mapping[str, Any]) -> str:
        """The loss of experts that are chosen unevenly."""
        count, chosen = (unparse(setting(attrs[name], "self.config")) for name in ("num_experts", "top_k"))
        return (
            "aux_loss = None\n"
            "if output_router_logits:\n"
            f"    aux_loss = load_balancing_loss_func(outputs.router_logits, {count}, {chosen}, attention_mask)\n"
            "    if loss is not None:\n"
            "        loss = loss + self.config.router_aux_loss_coef * aux_loss.to(loss.device)\n"
        )

    def source(self) -> str:
        graph = self.graph()
        forward = print_graph(graph, self.layout(graph))
        ties = dict(self.plan.document.ties)
        mixed = ", GenerationMixin" if self.plan.task.generates else ""
        lines = [f"class {self.plan.names.model}({self.plan.names.pretrained}{mixed}):"]
        lines += [f"    _tied_weights_keys = {unparse(constant(ties))}"] if ties else []
        lines += [*sharding.head_lines(self.plan), ""]
        lines += [
            *indent(self.init()),
            *(indent(embedding_access(self.plan, self.name)) if len(self.held_parts) > 1 else []),
            *([""] if (access := output_access(self.plan)) else []),
            *indent(access),
            *(indent(DECODER_IDS) if self.plan.halves else []),
            *(indent(OWN_MASKS) if self.plan.own_masks and mixed else []),
            "",
            *indent(forward),
        ]
        return "\n".join(lines) + "\n"


__all__ = ["HeadWriter"]
