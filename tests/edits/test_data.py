"""Edits go to JSON and back, and what is no edit is refused with its place."""

from pathlib import Path

import pytest

from canvas_rt.edits import (
    AddBlock,
    AddConfig,
    AddInput,
    AddNode,
    AddSize,
    Connect,
    Edit,
    GroupNodes,
    MoveLayers,
    PlaceNodes,
    RemoveInput,
    RemoveSize,
    RenameBlock,
    RenameNode,
    Restore,
    SetAttr,
    SetConfig,
    SetName,
    SetOutput,
    SetSize,
    SetTokenizer,
    dump,
    parse_edits,
)
from canvas_rt.edits.data import KINDS
from canvas_rt.errors import EditError
from canvas_rt.ir.document import Block, LayerKind, Node, Run, Stack, Use
from canvas_rt.ir.frozen import FrozenMap

SAMPLES: list[Edit] = [
    SetSize("model.layers.3", "head_dim", "=hidden_size // 32"),
    SetConfig("rope_parameters", FrozenMap({"rope_theta": 1e6, "factors": (1, 2)})),
    SetAttr("model.norm", "eps", 1e-5),
    SetAttr("model.layers.attention", "window", None),
    AddNode("", Node(id="extra", op="dropout", attrs=FrozenMap({"p": 0.1})), before="lm_head"),
    AddNode("model", Use(id="again", block="LlamaMLP")),
    AddNode(
        "model",
        Stack(
            id="more",
            repeat="=num_hidden_layers",
            kinds=(LayerKind(block="LlamaDecoderLayer"), LayerKind(block="LlamaDecoderLayer", sizes=FrozenMap(a=2))),
            runs=(Run(start=1, stop=2, kind=1),),
        ),
    ),
    AddSize("rank", "=head_dim // 8"),
    RemoveSize("rank"),
    AddConfig("note", FrozenMap({"list": (1, None)})),
    SetName("Mine"),
    SetTokenizer(FrozenMap({"name": "gpt2"})),
    AddBlock("Through", Block(inputs=("x",), nodes=(), outputs=FrozenMap(y="x"))),
    RenameBlock("LlamaMLP", "GatedMLP"),
    PlaceNodes("LlamaMLP", FrozenMap({"act_fn": (1.5, -2.0), "return": (3.0, 4.0), "hidden_states": None})),
    AddInput("model.layers", "mask"),
    RemoveInput("model.layers", "mask"),
    Connect("lm_head", "x", "model"),
    MoveLayers("model.layers.0-3", 4),
    GroupNodes("model.layers.mlp", ("gate_proj", "act_fn"), "Gate", "gate"),
    SetOutput("", "logits", None),
    Restore(entries=2, blocks=FrozenMap({"LlamaMLP2": None})),
]


@pytest.mark.parametrize("edit", SAMPLES, ids=lambda edit: edit.kind)
def test_an_edit_survives_json(edit: Edit) -> None:
    assert parse_edits(dump(edit)) == (edit,)


def test_fields_may_be_given_by_position() -> None:
    assert SetSize("model", "head_dim", 64) == SetSize(path="model", name="head_dim", value=64)


def test_too_many_positions_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="SetSize takes path, name, value"):
        SetSize("model", "head_dim", 64, 65)  # type: ignore[call-arg]


def test_a_field_of_the_wrong_sort_is_refused_by_name() -> None:
    with pytest.raises(EditError, match="new_id: 'two words' is not a Python identifier"):
        RenameNode("model.norm", "two words")


def test_every_kind_has_one_class() -> None:
    assert {kind: edit.model_fields["kind"].default for kind, edit in KINDS.items()} == {kind: kind for kind in KINDS}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            [{"kind": "remove_node", "path": "a"}, {"kind": "set_siz"}],
            r"edit 1: kind: there is no edit 'set_siz'\n.*set_size",
        ),
        ([{"path": "a"}], "edit 0: has no 'kind'"),
        (["remove"], "edit 0: must be an object with a 'kind'"),
        (7, "edit 0: must be an object"),
        ([{"kind": "set_size", "path": "", "name": "head_dim"}], r"edit 0 \(set_size\): value: Field required"),
        (
            [{"kind": "set_size", "path": "", "name": "head_dim", "value": 1.5}],
            "value: must be an integer or an expression",
        ),
        ([{"kind": "set_size", "path": "", "name": "head_dim", "value": "=a("}], "value: 'a.' is not an expression"),
        ([{"kind": "move_layers", "path": "a", "to": -1}], "to: Input should be greater than or equal to 0"),
        ([{"kind": "remove_node", "path": "a", "why": 1}], "why: Extra inputs are not permitted"),
        ([{"kind": "set_config", "name": "a", "value": float("nan")}], r"edit 0 \(set_config\)"),
        ([{"kind": "add_node", "block_path": "", "node": {"id": "a"}}], "node.node.op: Field required"),
        (
            [{"kind": "add_node", "block_path": "", "node": {"id": "a", "repeat": 2, "kinds": []}}],
            "node.stack.kinds: Tuple should have at least 1 item",
        ),
        ([{"kind": "place_nodes", "block": "A", "positions": {"b": [float("inf"), 0]}}], "should be a finite number"),
        ([{"kind": "place_nodes", "block": "A", "positions": {"b": [0]}}], "positions.b"),
        ([{"kind": "place_nodes", "block": "A", "positions": {"class": [0, 0]}}], "'class' is not a Python identifier"),
        ([{"kind": "set_name", "name": ""}], "name: String should have at least 1 character"),
        ([{"kind": "add_block", "name": "A", "block": {"inputs": []}}], "block.nodes: Field required"),
    ],
)
def test_what_is_no_edit_is_refused_with_index_and_field(data: object, message: str) -> None:
    with pytest.raises(EditError, match=message):
        parse_edits(data)


def test_the_docs_list_every_kind() -> None:
    text = (Path(__file__).parents[2] / "docs" / "edits.md").read_text()
    assert set(KINDS) == {
        kind for line in text.splitlines() if line[:3] == "| `" for kind in KINDS if f"`{kind}`" in line.split("|")[1]
    }
