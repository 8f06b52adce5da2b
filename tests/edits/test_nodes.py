"""Nodes and wires can be changed, and a change that breaks others says which."""

from typing import Any

import pytest

from canvas_rt.edits import (
    AddNode,
    Bypass,
    Connect,
    Disconnect,
    RemoveNode,
    RenameNode,
    SetAttr,
    SetOutput,
    apply,
)
from canvas_rt.errors import EditError
from canvas_rt.ir.document import Document, Node, Stack, Use
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import find


def layers_of(document: Document) -> Stack:
    stack = find(document, "model.layers").item
    assert isinstance(stack, Stack)
    return stack


def add(**inputs: str) -> Node:
    return Node(id="extra", op="add", inputs=FrozenMap(inputs))


def test_a_setting_of_a_linked_block_changes_in_every_use(document: Document) -> None:
    edited = apply(document, SetAttr("model.layers.self_attn.attention", "window", 512))
    node = edited.blocks["LlamaAttention"].node("attention")
    assert isinstance(node, Node) and node.attrs["window"] == 512
    assert edited.blocks.keys() == document.blocks.keys()


def test_a_setting_in_some_layers_gives_them_blocks_of_their_own(document: Document) -> None:
    edited = apply(document, SetAttr("model.layers.8-15.self_attn.attention", "window", 512))
    stack = layers_of(edited)
    assert [kind.block for kind in stack.kinds] == ["LlamaDecoderLayer", "LlamaDecoderLayer2"]
    assert [(run.start, run.stop, run.kind) for run in stack.runs] == [(8, 16, 1)]
    assert edited.blocks["LlamaDecoderLayer2"].by_id["self_attn"].block == "LlamaAttention2"  # type: ignore[union-attr]
    assert edited.blocks["LlamaAttention"] == document.blocks["LlamaAttention"]
    assert edited.blocks["LlamaDecoderLayer"] == document.blocks["LlamaDecoderLayer"]


def test_a_second_edit_of_the_same_layers_makes_no_further_copies(document: Document) -> None:
    once = apply(document, SetAttr("model.layers.8-15.self_attn.attention", "window", 512))
    twice = apply(once, SetAttr("model.layers.8-15.self_attn.attention", "window", 256))
    assert twice.blocks.keys() == once.blocks.keys()


def test_layers_set_back_by_hand_keep_one_kind_of_each_block(document: Document) -> None:
    edited = document
    for layer in (3, 5):
        edited = apply(edited, SetAttr(f"model.layers.{layer}.self_attn.attention", "window", 512))
    assert [kind.block for kind in layers_of(edited).kinds] == [
        "LlamaDecoderLayer",
        "LlamaDecoderLayer2",
        "LlamaDecoderLayer3",
    ]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (SetAttr("model.norm", "epsilon", 1), "model.norm: rms_norm has no setting 'epsilon'\n.*eps"),
        (SetAttr("model.norm", "size", 1.5), "size must be a whole number of at least 1, not 1.5"),
        (SetAttr("model.norm", "size", "=hiden_size"), "'hiden_size' is no size of this model\n.*hidden_size"),
        (SetAttr("model.layers.mlp.act_fn", "fn", "sillu"), "fn must be one of silu, gelu"),
        (SetAttr("model.layers.mlp", "size", 4), "mlp is a use of LlamaMLP, which has no settings"),
        (SetAttr("model.layers.3", "size", 4), "layers are not a node"),
        (
            SetAttr("model.layer.3.mlp.act_fn", "fn", "relu"),
            "model.layer.3: there is no 'layer' in LlamaModel\nDid you mean layers",
        ),
        (SetAttr("model.layers.99.mlp.act_fn", "fn", "relu"), "layers has 32 layers, 0 to 31"),
        (SetAttr("model.norm.deeper", "size", 4), "norm is a node .rms_norm.: nothing is inside it"),
        (SetAttr("", "size", 4), "the empty path is the whole model, not a node"),
        (RemoveNode("model.norm"), "norm feeds the output out\nBypass it"),
        (RemoveNode("model.layers.self_attn.q_proj"), "q_proj feeds q\n"),
        (RemoveNode("model.rotary_emb"), "rotary_emb feeds layers"),
        (Connect("lm_head", "y", "model"), "lm_head has no input 'y'"),
        (Connect("lm_head", "x", "modle"), "there is no value 'modle' here\nDid you mean model"),
        (Connect("model.layers", "cos", "rotary_emb"), "rotary_emb gives cos and sin: say which"),
        (Connect("model.layers", "cos", "rotary_emb.tan"), "rotary_emb gives no 'tan'"),
        (Connect("model.layers.mlp.gate_proj", "x", "gated"), "gate_proj feeds gated: the wire would close a circle"),
        (Disconnect("model.layers.mlp.gate_proj", "y"), "gate_proj has no input 'y'"),
        (RenameNode("model.norm", "layers"), "there is a 'layers' already"),
        (RenameNode("model.norm", "input_ids"), "'input_ids' is an input of the block"),
        (Bypass("model.layers.mlp_residual"), "mlp_residual takes a, b: say which passes through"),
        (Bypass("model.position_ids"), "position_ids has no input that could take its place"),
        (AddNode("", add(), before="a", after="b"), "not both"),
        (AddNode("", add(), before="lm_haed"), "there is no 'lm_haed' to stand beside\n.*lm_head"),
        (AddNode("", add(a="nothing")), "extra.*there is no value 'nothing' here"),
        (AddNode("", Node(id="x", op="ad")), "there is no op 'ad'"),
        (AddNode("", Node(id="lm_head", op="add")), "there is a 'lm_head' already"),
        (AddNode("", Node(id="x", op="add", attrs=FrozenMap({"p": 1}))), "add has no setting 'p'\nIt has none"),
        (AddNode("", Use(id="x", block="Nope")), "there is no block 'Nope'"),
        (AddNode("model.layers.mlp", Use(id="x", block="LlamaDecoderLayer")), "would contain itself"),
        (SetOutput("", "logits", None), "logits is the only output of LlamaForCausalLM"),
        (SetOutput("", "hidden", None), "LlamaForCausalLM has no output 'hidden'"),
        (SetOutput("", "hidden", "nowhere"), "there is no value 'nowhere' here"),
    ],
)
def test_an_edit_that_cannot_be_made_says_what_stands_in_the_way(document: Document, edit: Any, message: str) -> None:
    with pytest.raises(EditError, match=message):
        apply(document, edit)


def test_removing_a_node_names_all_that_use_it(document: Document) -> None:
    twice = apply(document, AddNode("model.layers.mlp", add(a="gate_proj", b="up_proj")))
    with pytest.raises(EditError, match=r"model\.layers\.mlp\.gate_proj: gate_proj feeds act_fn and extra"):
        apply(twice, RemoveNode("model.layers.mlp.gate_proj"))


def test_a_node_that_nothing_reads_can_go(document: Document) -> None:
    added = apply(document, AddNode("model", add(a="norm", b="layers")))
    assert apply(added, RemoveNode("model.extra")).blocks == document.blocks


def test_a_removed_node_takes_its_tie_along(document: Document) -> None:
    assert "lm_head.weight" in document.ties
    edited = apply(document, SetOutput("", "logits", "model"), RemoveNode("lm_head"))
    assert edited.ties == {}


def test_an_added_node_stands_where_it_is_told(document: Document) -> None:
    node = Node(id="drop", op="dropout", inputs=FrozenMap({"x": "norm"}))
    before = apply(document, AddNode("model", node.replace(inputs=FrozenMap()), before="norm"))
    after = apply(document, AddNode("model", node, after="norm"))
    assert [item.id for item in before.blocks["LlamaModel"].nodes][-2:] == ["drop", "norm"]
    assert [item.id for item in after.blocks["LlamaModel"].nodes][-2:] == ["norm", "drop"]


def test_reading_order_stays_an_order_of_execution(document: Document) -> None:
    node = Node(id="drop", op="dropout", inputs=FrozenMap({"x": "embed_tokens"}))
    edited = apply(document, AddNode("model", node), Connect("model.layers", "hidden_states", "drop"))
    ids = [item.id for item in edited.blocks["LlamaModel"].nodes]
    assert ids.index("drop") < ids.index("layers")


def test_a_reference_may_spell_out_the_only_port(document: Document) -> None:
    edited = apply(document, Connect("lm_head", "x", "model.out"))
    assert edited.blocks == document.blocks


def test_a_disconnected_port_reads_nothing(document: Document) -> None:
    edited = apply(document, Disconnect("model.layers.mlp.gate_proj", "x"))
    assert edited.blocks["LlamaMLP"].by_id["gate_proj"].inputs == {}
    with pytest.raises(EditError, match="nothing feeds x"):
        apply(edited, Disconnect("model.layers.mlp.gate_proj", "x"))


def test_renaming_follows_references_ties_and_layout(document: Document) -> None:
    drawn = document.replace(layout=FrozenMap({"LlamaModel/embed_tokens": (1.0, 2.0), "LlamaModel/norm": (3.0, 4.0)}))
    edited = apply(drawn, RenameNode("model.embed_tokens", "words"), RenameNode("lm_head", "head"))
    assert edited.blocks["LlamaModel"].by_id["layers"].inputs["hidden_states"] == "words"
    assert edited.blocks["LlamaForCausalLM"].outputs == {"logits": "head"}
    assert edited.ties == {"head.weight": "model.words.weight"}
    assert edited.layout == {"LlamaModel/words": (1.0, 2.0), "LlamaModel/norm": (3.0, 4.0)}


def test_renaming_keeps_the_ports_of_references(document: Document) -> None:
    edited = apply(document, RenameNode("model.rotary_emb", "rope"))
    assert edited.blocks["LlamaModel"].by_id["layers"].inputs["cos"] == "rope.cos"


def test_bypassing_a_use_gives_its_readers_the_stream(document: Document) -> None:
    edited = apply(document, Bypass("model.layers.0.self_attn"))
    block = edited.blocks["LlamaDecoderLayer2"]
    assert block.node("self_attn") is None
    assert block.by_id["self_attn_residual"].inputs == {"a": "hidden_states", "b": "input_layernorm"}


def test_bypassing_a_rotation_passes_each_value_through_by_name(document: Document) -> None:
    edited = apply(document, Bypass("model.layers.self_attn.rotary"))
    assert edited.blocks["LlamaAttention"].by_id["attention"].inputs == {"q": "q", "k": "k", "v": "v"}


def test_bypassing_a_sum_keeps_the_side_that_is_named(document: Document) -> None:
    edited = apply(document, Bypass("model.layers.mlp_residual", "a"))
    assert edited.blocks["LlamaDecoderLayer"].outputs == {"out": "self_attn_residual"}


def test_a_second_output_changes_how_uses_are_referred_to(document: Document) -> None:
    edited = apply(document, SetOutput("model.layers.mlp", "gate", "act_fn"))
    residual = edited.blocks["LlamaDecoderLayer"].by_id["mlp_residual"]
    assert residual.inputs["b"] == "mlp.out"
    back = apply(edited, SetOutput("model.layers.mlp", "gate", None))
    assert back.blocks == document.blocks


def test_an_output_that_is_read_cannot_go(document: Document) -> None:
    edited = apply(document, SetOutput("model.layers.mlp", "gate", "act_fn"))
    with pytest.raises(EditError, match="LlamaDecoderLayer reads out of mlp"):
        apply(edited, SetOutput("model.layers.mlp", "out", None))
