"""What only a model with an encoder and a decoder has: attention that looks across, and the class that holds both."""

import ast
from typing import Any

from torch import fx

from canvas_rt.codegen import vocabulary
from canvas_rt.codegen.access import embedding_access
from canvas_rt.codegen.blocks import BlockWriter, indent
from canvas_rt.codegen.given import signature
from canvas_rt.codegen.plan import ENCODED, Plan
from canvas_rt.codegen.pretrained import backbone_use
from canvas_rt.codegen.printer import Layout, print_graph
from canvas_rt.codegen.syntax import constant, quote, statements, unparse
from canvas_rt.errors import EmitError
from canvas_rt.ir.document import Node
from canvas_rt.ir.graph import Item, head, key_of, reachable_blocks
from canvas_rt.ir.halves import Halves


class AcrossWriter(BlockWriter):
    """Writes a block whose attention looks at what the encoder gives: what it makes of that is a method of its own."""

    def attending(self) -> Node:
        """The attention."""
        return self.plan.attention_nodes(self.name)[0]

    def apart(self) -> tuple[Item, ...]:
        """What makes keys and values of the encoder's states; nothing where something else reads of it too."""
        attention = self.attending()
        ends = {head(attention.inputs[port]) for port in ("k", "v")}
        found: dict[str, Item] = {}
        for item in reversed(self.order):
            readers = [other.id for other in self.order if item.id in map(head, other.inputs.values())]
            inside = item.id in ends or bool(readers)
            only = all(r in found or (r == attention.id and item.id in ends) for r in readers)
            if inside and only and self.plan.sides.items[self.name].get(item.id) is not False:
                found[item.id] = item
        others = {head(attention.inputs[port]) for port in attention.inputs if port not in ("k", "v")}
        returned = set(map(head, self.block.outputs.values()))
        whole = ends <= found.keys() and not (others | returned) & found.keys()
        return tuple(item for item in self.order if item.id in found) if whole else ()

    def given(self) -> tuple[str, ...]:
        """The block's inputs that keys and values are made of."""
        read = {head(ref) for item in self.apart() for ref in item.inputs.values()}
        return tuple(name for name in self.block.inputs if name in read)

    def graph(self) -> fx.Graph:
        inside = {item.id for item in self.apart()}
        if not inside:
            return super().graph()
        graph = fx.Graph()
        self.rows = {}
        values: dict[str, fx.Node] = {name: graph.placeholder(name) for name in self.block.inputs}
        attention = self.attending()
        for item in self.order:
            if item is attention:
                made = graph.call_function(vocabulary.keys_and_values, tuple(values[name] for name in self.given()))
                made.meta["cached"] = self.plan.cached(self.name)
                for port in ("k", "v"):
                    values[attention.inputs[port]] = graph.call_function(vocabulary.port, (made, port))
            if item.id not in inside:
                self.add(graph, values, item)
        results = tuple(self.value(values, ref, port, self.name) for port, ref in self.results().items())
        graph.output(results[0] if len(results) == 1 else results)
        return graph

    def forward(self) -> str:
        text = super().forward()
        return f"{text}\n{self.keys_and_values()}" if self.apart() else text

    def keys_and_values(self) -> str:
        """The method that makes keys and values of the encoder's states."""
        graph, names = fx.Graph(), self.given()
        values: dict[str, fx.Node] = {name: graph.placeholder(name) for name in names}
        for item in self.apart():
            self.add(graph, values, item)
        attention = self.attending()
        graph.output(tuple(self.value(values, attention.inputs[port], port, self.name) for port in ("k", "v")))
        self.sizes_used = set()
        arguments = [ast.arg("self"), *(ast.arg(self.arguments[name], quote("Tensor")) for name in names)]
        signature = ast.arguments(posonlyargs=[], args=arguments, kwonlyargs=[], kw_defaults=[], defaults=[])
        returns = "tuple[Tensor, Tensor]"
        bound = {name: self.arguments[name] for name in names}
        before = self.read_sizes(graph, names)
        comments = self.comments(graph)
        return print_graph(graph, Layout(signature, returns, before, bound, comments=comments, name="keys_and_values"))


def validate_halves(plan: Plan, halves: Halves) -> None:
    """Raise `EmitError` where an encoder and a decoder are not wired as those of a Hugging Face model."""
    holder, root = plan.document.blocks[halves.holder], plan.document.blocks[plan.document.root]
    encoder, decoder = halves.encoder, halves.decoder
    wanted = {"input_ids": halves.decodes, ENCODED: encoder.id}
    if dict(encoder.inputs) != {"input_ids": halves.takes} or dict(decoder.inputs) != wanted:
        message = (
            f"must pass {halves.takes} to the encoder alone, and {halves.decodes} and what that gives to the decoder"
        )
        hint = f"Wire {encoder.id} to {ENCODED} of {decoder.id}, and put what stands between into one of them."
        raise EmitError(message, path=halves.holder, hint=hint)
    others = [item for item in plan.items(halves.holder) if item not in (encoder, decoder)]
    given = {halves.takes, halves.decodes, encoder.id}
    readers = [item.id for item in others if given & {head(ref) for ref in item.inputs.values()}]
    inside = halves.holder != plan.document.root
    if inside:
        plan.validate_backbone(halves.holder)
    if readers or (inside and (others or [head(ref) for ref in holder.outputs.values()] != [decoder.id])):
        message = "must give what the decoder gives: what stands beside encoder and decoder has no place"
        hint = "Move it into one of them, or behind the decoder."
        raise EmitError(
            message, path=f"{halves.holder}.{(readers or [o.id for o in others] or [decoder.id])[0]}", hint=hint
        )
    if tuple(root.outputs) != ("logits",) or any("." in key_of(use) for use in (encoder, decoder)):
        raise EmitError(
            f"takes {', '.join(plan.given)} and gives logits in every {plan.task.words}", path=plan.document.root
        )
    if plan.windows != {"None"} or plan.stateful or plan.whole:
        message = "windows, chunks, states and modules kept whole are not emitted in a model with an encoder"
        raise EmitError(message, path=plan.document.root, hint="Set window and chunk to null on every attention node.")
    if any(kind.sizes for kind in plan.towers[0].stack.kinds):
        message = (
            "layers of an encoder cannot have sizes of their own: a config says them of the decoder's layers alone"
        )
        raise EmitError(message, path=plan.towers[0].holder, hint="Write the numbers into a block of its own.")
    shared = [
        n for n in reachable_blocks(plan.document, encoder.block) if n not in plan.encoding and n in plan.attending
    ]
    if shared:
        message = "attends in the encoder and in the decoder, where it keeps keys and values"
        raise EmitError(message, path=shared[0], hint="Give each a block of its own.")


ENCODED_ONCE = """
if encoder_outputs is None:
    encoder_outputs = encoder(
        input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
    )
elif not isinstance(encoder_outputs, BaseModelOutput):
    encoder_outputs = BaseModelOutput(*encoder_outputs)
outputs = decoder(
    input_ids=decoder_input_ids,
    attention_mask=decoder_attention_mask,
    encoder_hidden_states=encoder_outputs.last_hidden_state,
    encoder_attention_mask=attention_mask,
    past_key_values=past_key_values,
    inputs_embeds=decoder_inputs_embeds,
    use_cache=use_cache,
    **kwargs,
)
"""
"""While a model generates, it is given what its encoder made of the input the first time."""

OF_BOTH = """
    past_key_values=outputs.past_key_values,
    decoder_hidden_states=outputs.hidden_states,
    decoder_attentions=outputs.attentions,
    cross_attentions=outputs.cross_attentions,
    encoder_last_hidden_state=encoder_outputs.last_hidden_state,
    encoder_hidden_states=encoder_outputs.hidden_states,
    encoder_attentions=encoder_outputs.attentions,
"""
"""What a model gives beside its result, of its two halves."""

HANDED_ON = """
    past_key_values=outputs.past_key_values,
    decoder_hidden_states=outputs.decoder_hidden_states,
    decoder_attentions=outputs.decoder_attentions,
    cross_attentions=outputs.cross_attentions,
    encoder_last_hidden_state=outputs.encoder_last_hidden_state,
    encoder_hidden_states=outputs.encoder_hidden_states,
    encoder_attentions=outputs.encoder_attentions,
"""
"""The same, of a whole model that holds both in a class of their own."""

DECODER_IDS = '''
def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
    """What the decoder reads to give the labels: the token that it starts from, then every label but the last."""
    start, padding = self.config.decoder_start_token_id, self.config.pad_token_id
    if start is None or padding is None:
        raise ValueError("give decoder_input_ids: the config has no decoder_start_token_id, or no pad_token_id")
    ids = torch.cat([labels.new_full((labels.shape[0], 1), start), labels[:, :-1]], dim=1)
    return ids.masked_fill(ids == -100, padding)  # a label of -100 counts for nothing
'''

FROM_LABELS = """
if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
    decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
"""


def halves_run(plan: Plan) -> list[ast.stmt]:
    """The statements that run encoder and decoder."""
    assert plan.halves is not None
    encoder, decoder = (quote("self._name_", _name_=key_of(use)) for use in (plan.halves.encoder, plan.halves.decoder))
    return statements(ENCODED_ONCE, encoder=encoder, decoder=decoder)


def ties_within(plan: Plan) -> dict[str, str]:
    """The ties of parameters of the trunk, as it calls them."""
    prefix, ties = f"{backbone_use(plan)}.", plan.document.ties
    inside = {key: source for key, source in ties.items() if key.startswith(prefix) and source.startswith(prefix)}
    return {old.removeprefix(prefix): new.removeprefix(prefix) for old, new in inside.items()}


class TrunkWriter(BlockWriter):
    """Writes the class that holds encoder and decoder, and nothing else."""

    def source(self) -> str:
        plan = self.plan
        init = [*statements("super().__init__(config)"), *self.module_attributes(), *statements("self.post_init()")]
        ending = quote(f"Seq2SeqModelOutput(last_hidden_state=outputs.last_hidden_state, {OF_BOTH})")
        function = ast.FunctionDef(
            name="forward",
            args=signature(plan, "both"),
            body=[*halves_run(plan), ast.Return(ending)],
            decorator_list=[quote("can_return_tuple")],
            returns=quote("Seq2SeqModelOutput"),
        )
        function.type_params = []  # type: ignore[attr-defined]  # Python 3.12 and later
        ties = ties_within(plan)
        lines = [
            f"class {plan.names.of(self.name)}({plan.names.pretrained}):",
            *([f"    _tied_weights_keys = {unparse(constant(ties))}", ""] if ties else []),
            f"    def __init__(self, config: {plan.names.config}) -> None:",
            *indent(indent(unparse(init))),
            "",
            *indent(embedding_access(plan, self.name)),
            "",
            *indent(unparse(function)),
        ]
        return "\n".join(lines) + "\n"

    def module(self, item: Any) -> ast.expr | None:
        return ast.Call(ast.Name(self.plan.names.of(item.block), ast.Load()), [ast.Name("config", ast.Load())], [])


__all__ = [
    "DECODER_IDS",
    "FROM_LABELS",
    "HANDED_ON",
    "OF_BOTH",
    "AcrossWriter",
    "TrunkWriter",
    "halves_run",
    "validate_halves",
]
