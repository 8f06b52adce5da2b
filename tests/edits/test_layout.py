"""Where nodes are drawn is data of the document, follows them about, and is no part of the architecture."""

from typing import Any

import pytest

from canvas_rt.edits import (
    AddInput,
    Bypass,
    GroupNodes,
    MakeUnique,
    PlaceNodes,
    RemoveInput,
    RenameBlock,
    RenameNode,
    SetAttr,
    Ungroup,
    apply,
    inverse,
)
from canvas_rt.errors import EditError
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import fingerprint, structure
from canvas_rt.ir.frozen import FrozenMap

PLACED = PlaceNodes("LlamaMLP", FrozenMap({"hidden_states": (0.0, 5.0), "act_fn": (1.0, 2.0), "return": (3.0, 4.0)}))


def test_nodes_inputs_and_outputs_are_placed_and_set_free(document: Document) -> None:
    drawn = apply(document, PLACED)
    assert drawn.layout == {
        "LlamaMLP/hidden_states": (0.0, 5.0),
        "LlamaMLP/act_fn": (1.0, 2.0),
        "LlamaMLP/return": (3.0, 4.0),
    }
    freed = apply(drawn, PlaceNodes("LlamaMLP", FrozenMap({"act_fn": None, "up_proj": None, "return": (5.0, 6.0)})))
    assert freed.layout == {"LlamaMLP/hidden_states": (0.0, 5.0), "LlamaMLP/return": (5.0, 6.0)}


def test_places_are_not_logged_and_no_part_of_the_architecture(document: Document) -> None:
    drawn = apply(document, PLACED)
    assert drawn.log == document.log
    assert (fingerprint(drawn), structure(drawn)) == (fingerprint(document), structure(document))
    assert apply(drawn, inverse(document, PLACED)) == document


def test_places_follow_renamed_nodes_and_blocks(document: Document) -> None:
    edited = apply(document, PLACED, RenameNode("model.layers.mlp.act_fn", "gate"), RenameBlock("LlamaMLP", "Gated"))
    assert edited.layout == {"Gated/hidden_states": (0.0, 5.0), "Gated/gate": (1.0, 2.0), "Gated/return": (3.0, 4.0)}


def test_places_of_what_is_gone_are_gone(document: Document) -> None:
    edited = apply(document, PLACED, Bypass("model.layers.mlp.act_fn"))
    assert edited.layout == {"LlamaMLP/hidden_states": (0.0, 5.0), "LlamaMLP/return": (3.0, 4.0)}
    place = PlaceNodes("LlamaMLP", FrozenMap({"before": (1.0, 1.0)}))
    added = apply(document, AddInput("model.layers.mlp", "before"), place)
    assert apply(added, RemoveInput("model.layers.mlp", "before")).layout == {}
    assert apply(document, PLACED, Ungroup("model.layers.mlp")).layout == {"LlamaDecoderLayer/act_fn": (1.0, 2.0)}


def test_layers_set_apart_are_drawn_as_they_were(document: Document) -> None:
    for edit in (MakeUnique("model.layers.3.mlp"), SetAttr("model.layers.3.mlp.act_fn", "fn", "relu")):
        layout = apply(document, PLACED, edit).layout
        assert {key: layout[key.replace("MLP2", "MLP")] for key in layout} == layout
        assert {key for key in layout if "MLP2" in key} == {f"LlamaMLP2/{name}" for name in PLACED.positions}


def test_a_group_stands_where_its_nodes_stood_and_gives_them_back_there(document: Document) -> None:
    drawn = apply(document, PlaceNodes("LlamaMLP", FrozenMap({"act_fn": (10.0, 40.0), "gated": (30.0, 20.0)})))
    grouped = apply(drawn, GroupNodes("model.layers.mlp", ("act_fn", "gated"), "Gate", "gate"))
    assert grouped.layout == {"Gate/act_fn": (10.0, 40.0), "Gate/gated": (30.0, 20.0), "LlamaMLP/gate": (10.0, 20.0)}
    moved = apply(grouped, PlaceNodes("LlamaMLP", FrozenMap({"gate": (110.0, 20.0)})))
    assert apply(grouped, Ungroup("model.layers.mlp.gate")).layout == drawn.layout
    assert apply(moved, Ungroup("model.layers.mlp.gate")).layout == {
        "LlamaMLP/act_fn": (110.0, 40.0),
        "LlamaMLP/gated": (130.0, 20.0),
    }


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (PlaceNodes("LamaMLP", FrozenMap()), "there is no block 'LamaMLP'\n.*LlamaMLP"),
        (PlaceNodes("LlamaMLP", FrozenMap({"act": (0.0, 0.0)})), "there is no 'act' in LlamaMLP\n.*act_fn"),
    ],
)
def test_what_is_not_there_cannot_be_placed(document: Document, edit: Any, message: str) -> None:
    with pytest.raises(EditError, match=message):
        apply(document, edit)


@pytest.mark.parametrize("place", [(float("nan"), 0.0), (0.0, float("inf")), (0.0,), ("a", 0.0), (True, 0.0)])
def test_places_are_two_finite_numbers(place: Any) -> None:
    with pytest.raises(EditError, match=r"positions\.act_fn"):
        PlaceNodes("LlamaMLP", FrozenMap({"act_fn": place}))
