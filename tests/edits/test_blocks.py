"""Blocks can be replaced, grouped, ungrouped and set apart."""

from typing import Any

import pytest

from canvas_rt.edits import AddNode, GroupNodes, MakeUnique, ReplaceBlock, SetAttr, SetOutput, Ungroup, apply
from canvas_rt.errors import EditError
from canvas_rt.ir.document import Block, Document, Node, Use
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import walk

GATE = GroupNodes("model.layers.mlp", ("gate_proj", "act_fn", "up_proj", "gated"), "Gate", "gate")


def second_mlp(document: Document) -> Document:
    """A document in which each layer uses its MLP twice."""
    again = Use(id="again", block="LlamaMLP", inputs=FrozenMap({"hidden_states": "mlp_residual"}))
    return apply(document, AddNode("model.layers", again), SetOutput("model.layers", "out", "again"))


def test_grouped_nodes_become_a_block_of_their_own(document: Document) -> None:
    edited = apply(document, GATE)
    assert [item.id for item in edited.blocks["LlamaMLP"].nodes] == ["gate", "down_proj"]
    assert edited.blocks["LlamaMLP"].by_id["down_proj"].inputs == {"x": "gate"}
    gate = edited.blocks["Gate"]
    assert (gate.inputs, dict(gate.outputs)) == (("hidden_states",), {"out": "gated"})


def test_a_group_keeps_the_names_of_rotary_values_and_gives_all_that_is_read(document: Document) -> None:
    edited = apply(document, GroupNodes("model.layers.self_attn", ("rotary", "q", "k"), "Turn", "turn"))
    turn = edited.blocks["Turn"]
    assert turn.inputs == ("hidden_states", "hidden_states_1", "cos", "sin")
    assert turn.outputs == {"q": "rotary.q", "k": "rotary.k"}
    assert edited.blocks["LlamaAttention"].by_id["attention"].inputs == {"q": "turn.q", "k": "turn.k", "v": "v"}


def test_ungrouping_a_group_gives_the_block_it_came_from(document: Document) -> None:
    assert apply(document, GATE, Ungroup("model.layers.mlp.gate")).blocks == document.blocks


def test_ungrouping_renames_nodes_whose_ids_are_taken(document: Document) -> None:
    extra = Node(id="gate_proj", op="dropout", inputs=FrozenMap({"x": "hidden_states"}))
    edited = apply(document, AddNode("model.layers", extra), Ungroup("model.layers.mlp"))
    block = edited.blocks["LlamaDecoderLayer"]
    assert block.by_id["act_fn"].inputs == {"x": "mlp_gate_proj"}
    assert "LlamaMLP" not in edited.blocks


def test_ties_follow_into_groups_and_out_of_them(document: Document) -> None:
    grouped = apply(document, GroupNodes("model", ("embed_tokens",), "Words", "words"))
    assert grouped.ties == {"lm_head.weight": "model.words.embed_tokens.weight"}
    assert apply(grouped, Ungroup("model.words")).ties == document.ties
    assert apply(document, Ungroup("model")).ties == {"lm_head.weight": "embed_tokens.weight"}


def test_layout_follows_into_groups_and_out_of_them(document: Document) -> None:
    drawn = document.replace(layout=FrozenMap({"LlamaMLP/gated": (1.0, 2.0)}))
    grouped = apply(drawn, GATE)
    assert grouped.layout == {"Gate/gated": (1.0, 2.0), "LlamaMLP/gate": (1.0, 2.0)}
    assert apply(grouped, Ungroup("model.layers.mlp.gate")).layout == drawn.layout


def test_a_copied_block_is_drawn_like_the_original(document: Document) -> None:
    drawn = document.replace(layout=FrozenMap({"LlamaMLP/gated": (1.0, 2.0)}))
    edited = apply(drawn, MakeUnique("model.layers.0.mlp"))
    assert edited.layout == {"LlamaMLP/gated": (1.0, 2.0), "LlamaMLP2/gated": (1.0, 2.0)}


def test_a_linked_use_set_apart_no_longer_follows(document: Document) -> None:
    twice = second_mlp(document)
    linked = apply(twice, SetAttr("model.layers.again.act_fn", "fn", "relu"))
    assert linked.blocks.keys() == document.blocks.keys()
    apart = apply(twice, MakeUnique("model.layers.again"), SetAttr("model.layers.again.act_fn", "fn", "relu"))
    assert apart.blocks["LlamaMLP"] == document.blocks["LlamaMLP"]
    assert apart.blocks["LlamaDecoderLayer"].by_id["again"].block == "LlamaMLP2"  # type: ignore[union-attr]


def test_uses_in_one_layer_stay_linked_when_the_layer_is_set_apart(document: Document) -> None:
    edited = apply(second_mlp(document), SetAttr("model.layers.3.mlp.act_fn", "fn", "relu"))
    block = edited.blocks["LlamaDecoderLayer2"]
    assert {item.block for item in block.nodes if isinstance(item, Use)} == {"LlamaAttention", "LlamaMLP2"}


def test_layers_can_be_of_another_block(document: Document) -> None:
    spare = document.with_block("Plain", document.blocks["LlamaDecoderLayer"].replace(role="plain"))
    edited = apply(spare, ReplaceBlock("model.layers.0-3", "Plain"))
    assert {visit.block for visit in walk(edited) if visit.path == "model.layers.0-3.mlp"} == {"Plain"}
    back = apply(edited, ReplaceBlock("model.layers.0-3", "LlamaDecoderLayer"))
    assert back.blocks["LlamaModel"] == document.blocks["LlamaModel"]


def test_a_use_of_another_block_keeps_its_stream(document: Document) -> None:
    body = Block(inputs=("x",), nodes=(), outputs=FrozenMap({"y": "x"}))
    edited = apply(document.with_block("Through", body), ReplaceBlock("model.layers.self_attn", "Through"))
    use = edited.blocks["LlamaDecoderLayer"].by_id["self_attn"]
    assert use == Use(id="self_attn", block="Through", inputs=FrozenMap({"x": "input_layernorm"}))
    assert edited.blocks["LlamaDecoderLayer"].by_id["self_attn_residual"].inputs["b"] == "self_attn"


def test_a_block_that_was_unused_before_the_edit_stays(document: Document) -> None:
    spare = document.with_block("Spare", document.blocks["LlamaMLP"])
    assert "Spare" in apply(spare, Ungroup("model.layers.mlp")).blocks


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (ReplaceBlock("model.layers.mlp", "Nope"), "there is no block 'Nope'"),
        (ReplaceBlock("model.layers.mlp", "LlamaMLP"), "mlp is of LlamaMLP already"),
        (ReplaceBlock("model.layers.2-3", "LlamaDecoderLayer"), "these layers are of LlamaDecoderLayer already"),
        (ReplaceBlock("model.layers.mlp", "LlamaModel"), "would contain itself"),
        (ReplaceBlock("model.layers.2-3", "LlamaMLP"), "LlamaMLP takes hidden_states, but the layers of layers take"),
        (ReplaceBlock("model.norm", "LlamaMLP"), "norm is a node .rms_norm., not a use of a block"),
        (GroupNodes("model", ("norm",), "LlamaMLP", "x"), "there is a block 'LlamaMLP' already"),
        (GroupNodes("model", ("nrom",), "New", "x"), "there is no 'nrom' in LlamaModel\n.*norm"),
        (GroupNodes("model", ("norm",), "New", "layers"), "there is a 'layers' already"),
        (GroupNodes("model.layers.mlp", ("gate_proj", "gated"), "New", "x"), "act_fn stands between them"),
        (Ungroup("model.norm"), "norm is not a use of a block"),
        (Ungroup("model.layers"), "layers is not a use of a block"),
        (MakeUnique("model.layers.mlp"), "mlp shares its block with nothing"),
        (MakeUnique("model.layers"), "layers shares its block with nothing"),
        (MakeUnique("model.norm"), "norm is a node"),
        (MakeUnique(""), "the empty path is the whole model, not a block"),
    ],
)
def test_a_change_of_blocks_that_cannot_be_is_refused(document: Document, edit: Any, message: str) -> None:
    with pytest.raises(EditError, match=message):
        apply(document, edit)
