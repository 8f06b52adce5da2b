"""Blocks are added and renamed, the document gets another name, and its sizes and config values come and go."""

import inspect
from typing import Any

import pytest
from transformers import PretrainedConfig

from canvas_rt.edits import (
    AddBlock,
    AddConfig,
    AddNode,
    AddSize,
    RemoveSize,
    RenameBlock,
    ReplaceBlock,
    SetAttr,
    SetName,
    SetSize,
    apply,
)
from canvas_rt.edits.reserved import CONFIG_NAMES
from canvas_rt.errors import EditError
from canvas_rt.ir.document import RESERVED, Block, Document, LayerKind, Node, Stack, Use
from canvas_rt.ir.files import fingerprint
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import walk


def block(*nodes: Any, inputs: tuple[str, ...] = ("x",), **outputs: str) -> Block:
    return Block(inputs=inputs, nodes=nodes, outputs=FrozenMap(outputs))


def dropout(id: str, x: str) -> Node:
    return Node(id=id, op="dropout", inputs=FrozenMap({"x": x}))


THROUGH = block(dropout("a", "x"), y="a")


def test_a_new_block_stays_though_nothing_uses_it_and_can_be_used(document: Document) -> None:
    added = apply(document, AddBlock("Through", THROUGH))
    assert added.blocks["Through"] == THROUGH
    renamed = apply(added, SetName("Mine"), RenameBlock("Through", "Other"), SetSize("", "hidden_size", 64))
    assert renamed.blocks["Other"] == THROUGH and "Through" not in renamed.blocks
    used = apply(added, ReplaceBlock("model.layers.mlp", "Through"))
    assert {visit.block for visit in walk(used) if visit.path == "model.layers.0-31.mlp.a"} == {"Through"}


def test_a_new_block_is_kept_in_an_order_of_execution_and_in_the_usual_spelling(document: Document) -> None:
    added = apply(document, AddBlock("New", block(dropout("b", "a.out"), dropout("a", "x"), y="b.out")))
    assert added.blocks["New"] == block(dropout("a", "x"), dropout("b", "a"), y="b")


def test_a_stack_can_be_added_with_layers_of_several_kinds(document: Document) -> None:
    stack = Stack(
        id="more",
        repeat=3,
        kinds=(LayerKind(block="LlamaMLP"), LayerKind(block="LlamaMLP", sizes=FrozenMap({"intermediate_size": 8}))),
        runs=({"start": 1, "stop": 2, "kind": 1},),
        inputs=FrozenMap({"hidden_states": "norm.out"}),
    )
    edited = apply(document, AddNode("model", stack))
    assert edited.blocks["LlamaModel"].by_id["more"] == stack.replace(inputs=FrozenMap({"hidden_states": "norm"}))


def test_a_renamed_block_is_renamed_wherever_it_is_used(document: Document) -> None:
    edited = apply(
        document,
        RenameBlock("LlamaMLP", "Gated"),
        RenameBlock("LlamaDecoderLayer", "Layer"),
        RenameBlock("LlamaForCausalLM", "Whole"),
    )
    assert tuple(edited.blocks) == ("LlamaAttention", "Gated", "Layer", "LlamaModel", "Whole")
    assert edited.root == "Whole"
    before, after = list(walk(document)), list(walk(edited))
    assert [visit.path for visit in after] == [visit.path for visit in before]
    assert edited.ties == document.ties


def test_a_name_is_no_part_of_the_architecture(document: Document) -> None:
    edited = apply(document, SetName("Mine"))
    assert (edited.name, edited.log, fingerprint(edited)) == ("Mine", (), fingerprint(document))


def test_a_new_size_can_be_named_and_a_removed_one_is_gone(document: Document) -> None:
    edited = apply(document, AddSize("rank", "=head_dim // 8"), SetAttr("lm_head", "out_features", "=rank"))
    assert edited.environment["rank"] == 16
    with pytest.raises(EditError, match=r"LlamaForCausalLM.lm_head names it\nSet what names it"):
        apply(edited, RemoveSize("rank"))
    assert apply(edited, SetAttr("lm_head", "out_features", 16), RemoveSize("rank")).sizes == document.sizes


def test_a_size_that_only_layers_or_unused_blocks_name_is_kept(document: Document) -> None:
    own = LayerKind(block="LlamaMLP", sizes=FrozenMap({"rank": 4}))
    stack = Stack(id="more", repeat=1, kinds=(own,), inputs=FrozenMap({"hidden_states": "norm"}))
    sized = apply(document, AddSize("rank", 8))
    with pytest.raises(EditError, match=r"LlamaModel.more names it"):
        apply(sized, AddNode("model", stack), RemoveSize("rank"))
    spare = block(Node(id="p", op="scale", attrs=FrozenMap({"factor": "=rank"}), inputs=FrozenMap(x="x")), y="p")
    with pytest.raises(EditError, match=r"Spare.p names it"):
        apply(sized, AddBlock("Spare", spare), RemoveSize("rank"))


def test_a_config_value_can_be_added(document: Document) -> None:
    assert apply(document, AddConfig("factors", (0.5, 2))).config["factors"] == (0.5, 2)


def test_names_that_configs_have_for_themselves_are_known() -> None:
    def own(name: str) -> bool:
        value = inspect.getattr_static(PretrainedConfig, name)
        return isinstance(value, property) or callable(getattr(PretrainedConfig, name))

    assert {name for name in dir(PretrainedConfig) if name[0] != "_" and own(name)} <= CONFIG_NAMES | RESERVED


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (AddBlock("LlamaMLP", THROUGH), "LlamaMLP: there is a block 'LlamaMLP' already\nChoose another name"),
        (AddBlock("New", block(Use(id="a", block="Nope"), y="a")), r"New\.a: there is no block 'Nope'"),
        (AddBlock("New", block(Use(id="a", block="New"), y="a")), r"New\.a: there is no block 'New'"),
        (AddBlock("New", block(Node(id="a", op="dropuot"), y="a")), r"New\.a: there is no op 'dropuot'\n.*dropout"),
        (
            AddBlock("New", block(Node(id="a", op="scale", attrs=FrozenMap({"factor": "=nope"})), y="a")),
            "'nope' is no size of this model",
        ),
        (
            AddBlock("New", block(Node(id="a", op="scale", attrs=FrozenMap({"factor": True})), y="a")),
            "factor must be a number, not True",
        ),
        (AddBlock("New", block(dropout("a", "z"), y="a")), r"New\.a: there is no value 'z' here"),
        (AddBlock("New", block(Node(id="a", op="dropout", inputs=FrozenMap(z="x")), y="a")), "a has no input 'z'"),
        (AddBlock("New", block(y="b")), r"New\.y: there is no value 'b' here"),
        (
            AddBlock("New", block(dropout("a", "b"), dropout("b", "a"), y="b")),
            "New: a and b would feed one another in a circle\nCut one of the wires",
        ),
        (
            AddBlock("New", block(*(Use(id=f"a{i}", block="LlamaModel") for i in range(1000)), y="x")),
            "New: unfolds into .* nodes; a document has at most",
        ),
        (
            AddNode("model", Stack(id="more", repeat=2, kinds=(LayerKind(block="Nope"),))),
            r"model\.more: there is no block 'Nope'",
        ),
        (
            AddNode("model", Stack(id="more", repeat="=nope", kinds=(LayerKind(block="LlamaMLP"),))),
            r"model\.more\.repeat: 'nope' is no size of this model",
        ),
        (
            AddNode("model", Stack(id="more", repeat=0, kinds=(LayerKind(block="LlamaMLP"),))),
            "the number of layers must be a whole number of at least 1",
        ),
        (
            AddNode(
                "model",
                Stack(
                    id="more",
                    repeat=2,
                    kinds=tuple(map(LayerKind.model_validate, ({"block": "LlamaMLP"}, {"block": "LlamaAttention"}))),
                ),
            ),
            "LlamaAttention takes hidden_states, cos, sin, but the layers of more take hidden_states",
        ),
        (
            AddNode(
                "model",
                Stack(id="more", repeat=2, kinds=(LayerKind(block="LlamaMLP", sizes=FrozenMap({"width": 2})),)),
            ),
            "there is no size 'width'",
        ),
        (
            AddNode(
                "model", Stack(id="more", repeat=2, kinds=(LayerKind(block="LlamaMLP"),), inputs=FrozenMap(x="norm"))
            ),
            "more has no input 'x'",
        ),
        (
            AddNode("model", Stack(id="norm", repeat=2, kinds=(LayerKind(block="LlamaMLP"),))),
            "there is a 'norm' already",
        ),
        (RenameBlock("LamaMLP", "Other"), "there is no block 'LamaMLP'\n.*LlamaMLP"),
        (RenameBlock("LlamaMLP", "LlamaModel"), "there is a block 'LlamaModel' already"),
        (SetName(" \n"), "a document is called something"),
        (AddSize("head_dim", 4), "head_dim: there is a size 'head_dim' already\nSetSize changes it"),
        (AddSize("hidden_act", 4), "hidden_act: there is a config value 'hidden_act' already\nSetConfig changes it"),
        (AddSize("to_dict", 4), "to_dict: is a name that every config has for itself\nChoose another name"),
        (AddSize("rank", "=rnak"), "rank: 'rnak' is no size of this model"),
        (AddSize("rank", 0), "rank: must be a whole number from 1 to"),
        (AddConfig("model_type", "x"), "model_type: is a name that every config has for itself"),
        (AddConfig("head_dim", "x"), "there is a size 'head_dim' already"),
        (RemoveSize("hed_dim"), "there is no size 'hed_dim'\n.*head_dim"),
        (RemoveSize("vocab_size"), "vocab_size: stands in every Hugging Face config\nSetSize gives it another value"),
        (RemoveSize("intermediate_size"), "LlamaMLP.gate_proj, LlamaMLP.up_proj, LlamaMLP.down_proj name it"),
    ],
)
def test_what_cannot_be_is_refused(document: Document, edit: Any, message: str) -> None:
    with pytest.raises(EditError, match=message):
        apply(document, edit)


def test_a_block_that_gives_nothing_cannot_be_a_layer(document: Document) -> None:
    silent = apply(document, AddBlock("Silent", block(inputs=("hidden_states",))))
    stack = Stack(id="more", repeat=2, kinds=(LayerKind(block="Silent"),))
    with pytest.raises(EditError, match="Silent gives nothing, so it cannot carry a value from layer to layer"):
        apply(silent, AddNode("model", stack))
