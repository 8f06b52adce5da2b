"""Nodes can be copied and pasted, within a document and between documents."""

import pytest

from canvas_rt import apply, check, open_zoo
from canvas_rt.errors import EditError
from canvas_rt.gestures.clips import copy, paste
from canvas_rt.gestures.starts import skeleton

LLAMA = open_zoo("llama-3.2-1b")
LAYERS = "model.layers.0-15"


def test_pasted_nodes_get_ids_of_their_own_and_keep_the_wires_among_them() -> None:
    clip = copy(LLAMA, [f"{LAYERS}.post_attention_layernorm", f"{LAYERS}.mlp"])
    edits, paths = paste(LLAMA, clip, LAYERS, (100.0, 50.0))
    edited = apply(LLAMA, *edits)
    layer = edited.blocks["LlamaDecoderLayer"]
    assert paths == (f"{LAYERS}.post_attention_layernorm_1", f"{LAYERS}.mlp_1")
    assert layer.by_id["mlp_1"].inputs == {"hidden_states": "post_attention_layernorm_1"}
    assert layer.by_id["post_attention_layernorm_1"].inputs == {"x": "self_attn_residual"}
    assert edited.layout["LlamaDecoderLayer/post_attention_layernorm_1"] == (100.0, 50.0)
    assert len(edited.blocks) == len(LLAMA.blocks), "the pasted block is the one that is there"
    assert check(edited).ok


def test_a_block_goes_to_another_document_with_all_that_it_names() -> None:
    clip = copy(LLAMA, [f"{LAYERS}.self_attn"])
    other = skeleton()
    edits, _ = paste(other, clip, "model.layers.0-11")
    edited = apply(other, *edits)
    assert edited.blocks["LlamaAttention"] == LLAMA.blocks["LlamaAttention"]
    assert "attention_bias" in edited.config
    assert check(edited).ok, check(edited).diagnostics


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1",
        '{"canvas_clip": 1, "items": [{"id": "x; import os", "op": "add"}]}',
        "null",
        '{"canvas_clip":2,"items":[]}',
    ],
)
def test_what_is_no_clip_is_refused(text: str) -> None:
    with pytest.raises(EditError, match="not a piece of a graph"):
        paste(LLAMA, text, LAYERS)


def test_inputs_and_outputs_are_not_copied() -> None:
    with pytest.raises(EditError, match="nothing is selected that can be copied"):
        copy(LLAMA, [f"{LAYERS}.return", f"{LAYERS}.hidden_states"])


def test_pasting_into_some_layers_places_the_nodes_in_the_block_that_they_get() -> None:
    clip = copy(LLAMA, [f"{LAYERS}.mlp"])
    edits, paths = paste(LLAMA, clip, "model.layers.3", (7.0, 8.0))
    edited = apply(LLAMA, *edits)
    assert paths == ("model.layers.3.mlp_1",)
    assert (7.0, 8.0) in edited.layout.values()
    assert edited.blocks["LlamaDecoderLayer"] == LLAMA.blocks["LlamaDecoderLayer"]
