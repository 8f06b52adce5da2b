"""A size is set where the path says and nowhere else, by the widest means that does so."""

from typing import Any

import pytest

from canvas_rt.edits import DeleteLayers, SetAttr, SetConfig, SetSize, apply
from canvas_rt.errors import EditError
from canvas_rt.ir.document import Document, LayerKind, Node, Stack
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import find, walk


def layers_of(document: Document) -> Stack:
    stack = find(document, "model.layers").item
    assert isinstance(stack, Stack)
    return stack


def settings(document: Document) -> dict[str, Any]:
    """Every node's settings as numbers, layer by layer."""
    found: dict[str, Any] = {}
    for visit in walk(document):
        if isinstance(visit.item, Node):
            start, _, rest = visit.path.partition(".layers.")
            span, _, tail = rest.partition(".")
            first, _, last = span.partition("-")
            paths = (
                [f"{start}.layers.{i}.{tail}" for i in range(int(first), int(last or first) + 1)] if rest else [start]
            )
            found |= dict.fromkeys(paths, resolve(visit.item.attrs, visit.environment))
    return found


def changed(before: Document, after: Document) -> dict[str, Any]:
    """The settings that differ."""
    old, new = settings(before), settings(after)
    return {path: attrs for path, attrs in new.items() if old.get(path) != attrs}


def test_the_empty_path_sets_the_model_s_size(document: Document) -> None:
    edited = apply(document, SetSize("", "intermediate_size", 8192))
    assert edited.sizes == {**document.sizes, "intermediate_size": 8192}
    assert edited.blocks == document.blocks


def test_layers_get_a_size_of_their_own(document: Document) -> None:
    edited = apply(document, SetSize("model.layers.8-15.self_attn", "num_key_value_heads", 4))
    kinds = (
        LayerKind(block="LlamaDecoderLayer"),
        LayerKind(block="LlamaDecoderLayer", sizes=FrozenMap({"num_key_value_heads": 4})),
    )
    assert layers_of(edited).kinds == kinds
    assert edited.blocks.keys() == document.blocks.keys()
    assert {path.split(".")[2] for path in changed(document, edited)} == {str(i) for i in range(8, 16)}


def test_a_size_that_the_rest_of_the_layer_uses_is_written_into_a_copy(document: Document) -> None:
    edited = apply(document, SetSize("model.layers.3.mlp", "hidden_size", 1024))
    assert changed(document, edited) == {
        "model.layers.3.mlp.gate_proj": {"in_features": 1024, "out_features": 11008, "bias": False},
        "model.layers.3.mlp.up_proj": {"in_features": 1024, "out_features": 11008, "bias": False},
        "model.layers.3.mlp.down_proj": {"in_features": 11008, "out_features": 1024, "bias": False},
    }
    assert [kind.block for kind in layers_of(edited).kinds] == ["LlamaDecoderLayer", "LlamaDecoderLayer2"]


def test_an_expression_is_written_into_a_copy_as_one(document: Document) -> None:
    edited = apply(document, SetSize("model.layers.3.mlp", "hidden_size", "=hidden_size // 2"))
    node = edited.blocks["LlamaMLP2"].node("gate_proj")
    assert isinstance(node, Node) and node.attrs["in_features"] == "=hidden_size // 2"


@pytest.mark.parametrize("path", ["model.layers.mlp", "model.layers.0-31.mlp", "model.layers", "model.layers.0-31"])
def test_all_layers_get_the_model_s_size_where_nothing_else_uses_it(document: Document, path: str) -> None:
    edited = apply(document, SetSize(path, "intermediate_size", 8192))
    assert edited.sizes["intermediate_size"] == 8192
    assert edited.blocks == document.blocks


def test_all_layers_get_their_own_size_where_something_else_uses_it(document: Document) -> None:
    edited = apply(document, SetSize("model.layers.self_attn", "head_dim", 64))
    assert edited.sizes == document.sizes
    assert layers_of(edited).kinds == (LayerKind(block="LlamaDecoderLayer", sizes=FrozenMap({"head_dim": 64})),)


def test_a_size_that_others_follow_is_not_set_for_the_model_by_a_block(document: Document) -> None:
    edited = apply(document, SetSize("model.layers.self_attn", "num_attention_heads", 16))
    assert edited.sizes == document.sizes
    assert edited.environment["head_dim"] == document.environment["head_dim"]


def test_setting_all_layers_ends_what_some_had_for_themselves(document: Document) -> None:
    edited = apply(
        document,
        SetSize("model.layers.3", "intermediate_size", 100),
        SetSize("model.layers", "intermediate_size", 200),
    )
    assert layers_of(edited).kinds == (LayerKind(block="LlamaDecoderLayer"),)


def test_a_size_set_back_to_the_model_s_is_the_model_s(document: Document) -> None:
    there = apply(document, SetSize("model.layers.3", "intermediate_size", 100))
    assert apply(there, SetSize("model.layers.3", "intermediate_size", 11008)).blocks == document.blocks


def test_the_number_of_layers_is_a_size_of_the_stack(document: Document) -> None:
    edited = apply(document, SetSize("model.layers", "num_hidden_layers", 16))
    assert edited.sizes["num_hidden_layers"] == 16


def test_a_whole_block_sets_its_layers_and_its_own_nodes(document: Document) -> None:
    edited = apply(document, SetSize("model", "hidden_size", 1024))
    difference = changed(document, edited)
    assert "lm_head" not in difference
    assert difference["model.norm"]["size"] == difference["model.layers.9.input_layernorm"]["size"] == 1024


def test_layers_already_apart_can_be_set_again(document: Document) -> None:
    edited = apply(
        document,
        SetAttr("model.layers.3.self_attn.attention", "window", 64),
        SetSize("model.layers.2-3", "num_key_value_heads", 4),
        DeleteLayers("model.layers.0"),
    )
    assert edited.sizes["num_hidden_layers"] == 31
    assert layers_of(edited).kind_indices(31)[:4] == (0, 1, 2, 0)


@pytest.mark.parametrize("value", ["relu", None])
def test_a_config_value_is_set(document: Document, value: Any) -> None:
    assert apply(document, SetConfig("hidden_act", value)).config == {**document.config, "hidden_act": value}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (SetSize("", "hiden_size", 1), "there is no size 'hiden_size'\nDid you mean hidden_size"),
        (SetSize("", "rms_norm_eps", 1), "is one value for the whole model, not a size\nSetConfig sets it"),
        (SetSize("", "hidden_size", 0), "hidden_size: must be a whole number from 1 to 2147483647, not 0"),
        (SetSize("", "hidden_size", 2**31), "must be a whole number from 1 to 2147483647, not 2147483648"),
        (SetSize("", "hidden_size", "=vocab_size // 64000"), "vocab_size // 64000 gives 0, but must be a whole number"),
        (SetSize("", "hidden_size", "=vocab_size / 2"), "gives 16000.0, but must be a whole number"),
        (SetSize("", "hidden_size", "=vocab // 2"), "'vocab' is no size of this model\nDid you mean vocab_size"),
        (SetSize("", "hidden_size", "=head_dim * 4"), "hidden_size.* follows from .*head_dim.*: a circle"),
        (SetSize("", "vocab_size", "=vocab_size * 2"), "vocab_size follows from vocab_size: a circle"),
        (
            SetSize("model.layers.3.mlp", "head_dim", 4),
            "nothing here uses head_dim\nIt uses hidden_size, intermediate_size",
        ),
        (SetSize("lm_head", "vocab_size", 4), "lm_head is a node .linear.\nSetAttr changes one of its settings"),
        (SetConfig("rms_eps", 1), "rms_eps: is no config value of this model\nDid you mean rms_norm_eps"),
        (SetConfig("hidden_size", 1), "hidden_size: is a size\nSetSize sets it"),
        (SetConfig("rms_norm_eps", "small"), "must be a number, as 1e-06 is, not 'small'"),
        (SetConfig("tie_word_embeddings", 1), "must be true or false, as False is, not 1"),
        (SetConfig("tie_word_embeddings", None), "must be true or false"),
        (SetConfig("rope_parameters", 1), "must be a table"),
    ],
)
def test_a_value_that_cannot_be_is_refused(document: Document, edit: Any, message: str) -> None:
    with pytest.raises(EditError, match=message):
        apply(document, edit)
