"""Layers can be inserted, deleted, duplicated, moved and swapped; kinds, weights and the count go along."""

from typing import Any

import pytest

from canvas_rt.edits import (
    DeleteLayers,
    DuplicateLayers,
    InsertLayer,
    MoveLayers,
    SetAttr,
    SetSize,
    SwapLayers,
    apply,
)
from canvas_rt.errors import EditError
from canvas_rt.ir.document import Document, Stack
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import find


def layers_of(document: Document) -> Stack:
    stack = find(document, "model.layers").item
    assert isinstance(stack, Stack)
    return stack


def weights(document: Document) -> list[int | None]:
    """For each layer, the layer of the origin whose weights it takes."""
    return [layers_of(document).source_of(i) for i in range(document.environment["num_hidden_layers"])]


@pytest.fixture
def short(document: Document) -> Document:
    """Six layers, of which 4 and 5 have fewer key/value heads."""
    return apply(document, SetSize("", "num_hidden_layers", 6), SetSize("model.layers.4-5", "num_key_value_heads", 8))


def kinds(document: Document) -> tuple[int, ...]:
    return layers_of(document).kind_indices(document.environment["num_hidden_layers"])


def test_a_fresh_layer_takes_no_weights(short: Document) -> None:
    edited = apply(short, InsertLayer("model.layers", 2))
    assert weights(edited) == [0, 1, None, 2, 3, 4, 5]
    assert kinds(edited) == (0, 0, 0, 0, 0, 1, 1)


def test_a_layer_is_inserted_at_the_end_like_the_last(short: Document) -> None:
    assert kinds(apply(short, InsertLayer("model.layers"))) == (0, 0, 0, 0, 1, 1, 1)


def test_a_layer_can_be_inserted_like_another(short: Document) -> None:
    assert kinds(apply(short, InsertLayer("model.layers", 0, like=5))) == (1, 0, 0, 0, 0, 1, 1)


def test_a_layer_can_be_inserted_of_another_block(short: Document) -> None:
    edited = apply(short, SetAttr("model.layers.0.self_attn.attention", "window", 64))
    edited = apply(edited, InsertLayer("model.layers", block="LlamaDecoderLayer2"))
    assert layers_of(edited).kinds[kinds(edited)[-1]].block == "LlamaDecoderLayer2"
    assert kinds(edited)[0] == kinds(edited)[-1]


def test_deleting_layers_keeps_the_others_weights(short: Document) -> None:
    edited = apply(short, DeleteLayers("model.layers.1-3"))
    assert edited.sizes["num_hidden_layers"] == 3
    assert weights(edited) == [0, 4, 5]
    assert kinds(edited) == (0, 1, 1)


def test_deleting_the_last_layers_leaves_each_its_own_weights(short: Document) -> None:
    edited = apply(short, DeleteLayers("model.layers.4-5"))
    assert layers_of(edited).source is None
    assert layers_of(edited) == layers_of(apply(short, SetSize("", "num_hidden_layers", 4)))


def test_a_duplicate_takes_the_weights_of_its_original(short: Document) -> None:
    assert weights(apply(short, DuplicateLayers("model.layers.3-4"))) == [0, 1, 2, 3, 4, 3, 4, 5]
    assert weights(apply(short, DuplicateLayers("model.layers.3-4", 0))) == [3, 4, 0, 1, 2, 3, 4, 5]


def test_layers_move_with_weights_and_kind(short: Document) -> None:
    edited = apply(short, MoveLayers("model.layers.4-5", 1))
    assert weights(edited) == [0, 4, 5, 1, 2, 3]
    assert kinds(edited) == (0, 1, 1, 0, 0, 0)
    assert apply(edited, MoveLayers("model.layers.1-2", 4)).blocks == short.blocks


def test_two_layers_change_places(short: Document) -> None:
    edited = apply(short, SwapLayers("model.layers", 0, 5))
    assert weights(edited) == [5, 1, 2, 3, 4, 0]
    assert apply(edited, SwapLayers("model.layers", 5, 0)).blocks == short.blocks


def test_a_kind_without_layers_is_gone(short: Document) -> None:
    edited = apply(short, DeleteLayers("model.layers.0-3"))
    assert kinds(edited) == (0, 0)
    assert [kind.sizes for kind in layers_of(edited).kinds] == [{"num_key_value_heads": 8}]


def test_blocks_of_deleted_layers_are_gone(document: Document) -> None:
    edited = apply(
        document, SetAttr("model.layers.7.self_attn.attention", "window", 64), DeleteLayers("model.layers.7")
    )
    assert edited.blocks.keys() == document.blocks.keys()


def test_a_larger_count_gives_fresh_layers_where_sources_are_given(short: Document) -> None:
    edited = apply(short, SwapLayers("model.layers", 0, 1), SetSize("", "num_hidden_layers", 8))
    assert weights(edited) == [1, 0, 2, 3, 4, 5, None, None]


def test_a_smaller_count_cuts_runs_and_sources(short: Document) -> None:
    edited = apply(short, SwapLayers("model.layers", 0, 1), SetSize("", "num_hidden_layers", 5))
    assert weights(edited) == [1, 0, 2, 3, 4]
    assert [(run.start, run.stop) for run in layers_of(edited).runs] == [(4, 5)]


def test_a_literal_count_is_changed_itself(short: Document) -> None:
    literal = short.with_block(
        "LlamaModel",
        short.blocks["LlamaModel"].replace(
            nodes=tuple(
                item.replace(repeat=6) if isinstance(item, Stack) else item for item in short.blocks["LlamaModel"].nodes
            )
        ),
    )
    edited = apply(literal, DeleteLayers("model.layers.0"))
    assert layers_of(edited).repeat == 5
    assert edited.sizes == literal.sizes


def test_a_count_that_something_else_uses_is_not_changed(short: Document) -> None:
    used = apply(short, SetAttr("lm_head", "out_features", "=num_hidden_layers * 8"))
    with pytest.raises(EditError, match="num_hidden_layers is also used by lm_head in LlamaForCausalLM"):
        apply(used, DeleteLayers("model.layers.0"))


def test_a_count_that_follows_from_other_sizes_is_not_changed(short: Document) -> None:
    follows = apply(short, SetSize("", "num_hidden_layers", "=num_attention_heads // 4"))
    with pytest.raises(EditError, match=r"num_hidden_layers follows from other sizes \(num_attention_heads // 4\)"):
        apply(follows, DeleteLayers("model.layers.0"))


def test_a_tie_into_a_layer_follows_that_layer(short: Document) -> None:
    tied = short.replace(ties=FrozenMap({"lm_head.weight": "model.layers.2.mlp.up_proj.weight"}))
    assert apply(tied, DeleteLayers("model.layers.0")).ties == {"lm_head.weight": "model.layers.1.mlp.up_proj.weight"}
    assert apply(tied, DeleteLayers("model.layers.2")).ties == {}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (DeleteLayers("model.layers.0-5"), "would leave the stack without layers\nKeep at least one"),
        (DeleteLayers("model.layers"), "names no layers\nAs in model.layers.8-15"),
        (DeleteLayers("model.layers.5-2"), "layers has 6 layers, 0 to 5"),
        (DeleteLayers("model.layers.6"), "layers has 6 layers, 0 to 5"),
        (DeleteLayers("model.norm"), "norm is no stack and has no layers"),
        (DeleteLayers("3"), "'3' does not follow a stack"),
        (DeleteLayers("model.layers.1.2"), "'2' does not follow a stack"),
        (InsertLayer("model.layers", 7), "layers cannot stand at 7\nThe last place is 6"),
        (InsertLayer("model.layers.3"), "must be a stack, without layers"),
        (InsertLayer("model.layers", like=6), "there is no layer 6: the layers are 0 to 5"),
        (InsertLayer("model.layers", like=1, block="LlamaMLP"), "'like' or 'block', not both"),
        (InsertLayer("model.layers", block="LlamaMLP"), "LlamaMLP takes hidden_states, but the layers of layers take"),
        (
            InsertLayer("model.layers", block="LlamaDecoder"),
            "there is no block 'LlamaDecoder'\nDid you mean LlamaDecoderLayer",
        ),
        (MoveLayers("model.layers.4-5", 5), "layers cannot stand at 5\nThe last place is 4"),
        (SwapLayers("model.layers", 0, 6), "there is no layer 6"),
        (SetSize("", "num_hidden_layers", 4097), "num_hidden_layers = 4097: a stack has at most 4096 layers"),
    ],
)
def test_layers_that_cannot_be_are_refused(short: Document, edit: Any, message: str) -> None:
    with pytest.raises(EditError, match=message):
        apply(short, edit)


def test_no_stack_grows_beyond_the_most_layers(document: Document) -> None:
    most = apply(document, SetSize("", "num_hidden_layers", 4096))
    with pytest.raises(EditError, match="would give 4097 layers; a stack has at most 4096"):
        apply(most, DuplicateLayers("model.layers.0"))
