"""What is dropped on a canvas fits where it lands."""

import pytest

from canvas_rt import apply, check, emit, open_zoo
from canvas_rt.errors import CanvasError, EditError
from canvas_rt.gestures.insert import GROUPS, Spot, insert, palette
from canvas_rt.gestures.remove import delete
from canvas_rt.gestures.scope import scope_at
from canvas_rt.gestures.starts import blank, skeleton
from canvas_rt.gestures.tokenizers import tokenizer_of, use_tokenizer
from canvas_rt.ir.document import Document

LLAMA = open_zoo("llama-3.2-1b")
LAYERS = "model.layers.0-15"
ENTRIES = [entry.id for entry in palette(LLAMA)]


def put(document: Document, what: str, spot: Spot) -> tuple[Document, str]:
    edits, path = insert(document, what, spot, check(document).shapes)
    return apply(document, *edits), path


def test_the_palette_has_every_group_that_it_names() -> None:
    assert {entry.group for entry in palette(LLAMA)} == set(GROUPS)
    assert all(entry.summary for entry in palette(LLAMA))


@pytest.mark.parametrize("what", ENTRIES)
@pytest.mark.parametrize("level", ["model", LAYERS, f"{LAYERS}.mlp"])
def test_everything_can_be_added_free_without_breaking_the_model(what: str, level: str) -> None:
    if what in ("io:output", "io:tokenizer") or (what == "io:input" and level == LAYERS):
        return  # these need a value, belong before the whole model, and must be the same for all layers of a stack
    try:
        edited, path = put(LLAMA, what, Spot(level, position=(10.0, 20.0)))
    except EditError as error:
        assert "contains" in error.message or "itself" in error.message, error  # a block within itself
        return
    assert path.startswith(f"{level}.")
    if what != "io:input":
        assert check(edited).ok, check(edited).diagnostics
    assert (10.0, 20.0) in edited.layout.values()


@pytest.mark.parametrize(
    "what", ["op:rms_norm", "op:layer_norm", "op:linear", "op:dropout", "op:scale", "op:activation", "recipe:gated_mlp",
             "recipe:mlp", "recipe:mixture_of_experts",
             "recipe:grouped_query_attention", "recipe:multi_query_attention", "recipe:decoder_layer",
             "recipe:sliding_window_attention", "block:LlamaMLP", "block:LlamaAttention", "op:softmax"],
)  # fmt: skip
def test_what_is_dropped_on_the_stream_of_a_layer_fits(what: str) -> None:
    edited, path = put(LLAMA, what, Spot(LAYERS, wire=(f"{LAYERS}.mlp", "hidden_states")))
    assert check(edited).ok, check(edited).diagnostics
    layer = edited.blocks["LlamaDecoderLayer"]
    new = path.rpartition(".")[2]
    assert layer.by_id["mlp"].inputs["hidden_states"] == new
    assert "post_attention_layernorm" in layer.by_id[new].inputs.values()
    if "attention" not in what.lower() and what != "recipe:decoder_layer":  # a layer that is written attends once
        assert emit(edited).files["model.py"]


def test_settings_follow_the_width_of_what_arrives() -> None:
    edited, path = put(LLAMA, "op:rms_norm", Spot("", wire=(f"{LAYERS}.mlp.down_proj", "x")))
    assert path == f"{LAYERS}.mlp.norm"
    assert edited.blocks["LlamaMLP"].by_id["norm"].attrs["size"] == "=intermediate_size"  # type: ignore[union-attr]


def test_a_node_dragged_out_of_a_port_reads_it() -> None:
    edited, path = put(LLAMA, "op:linear", Spot(LAYERS, source=(f"{LAYERS}.self_attn", "out")))
    assert edited.blocks["LlamaDecoderLayer"].by_id[path.rpartition(".")[2]].inputs == {"x": "self_attn"}


def test_a_node_dragged_out_of_an_input_feeds_it() -> None:
    edited, path = put(LLAMA, "op:dropout", Spot(LAYERS, target=(f"{LAYERS}.mlp", "hidden_states")))
    assert edited.blocks["LlamaDecoderLayer"].by_id["mlp"].inputs["hidden_states"] == path.rpartition(".")[2]


def test_inserting_and_deleting_again_changes_nothing_but_the_log() -> None:
    edited, path = put(LLAMA, "op:rms_norm", Spot(LAYERS, wire=(f"{LAYERS}.mlp", "hidden_states")))
    again = apply(edited, *delete(edited, [path]))
    assert again.blocks == LLAMA.blocks


def test_deleting_some_layers_nodes_leaves_the_others_alone() -> None:
    edited = apply(LLAMA, *delete(LLAMA, ["model.layers.3.post_attention_layernorm"]))
    assert edited.blocks["LlamaDecoderLayer"] == LLAMA.blocks["LlamaDecoderLayer"]
    assert check(edited).ok


def test_deleting_without_reconnecting_leaves_readers_unfed() -> None:
    edited = apply(LLAMA, *delete(LLAMA, [f"{LAYERS}.post_attention_layernorm"], reconnect=False))
    assert "hidden_states" not in edited.blocks["LlamaDecoderLayer"].by_id["mlp"].inputs


@pytest.mark.parametrize("level", [LAYERS, f"{LAYERS}.mlp", f"{LAYERS}.self_attn"])
def test_deleting_all_of_a_level_leaves_its_input_as_its_output(level: str) -> None:
    everything = [f"{level}.{item.id}" for item in scope_at(LLAMA, level).block.nodes]
    edited = apply(LLAMA, *delete(LLAMA, everything))
    block = scope_at(edited, level).block
    assert block.nodes == () and dict(block.outputs) == {"out": "hidden_states"}
    assert check(edited).ok


def test_deleting_a_residual_leaves_the_stream() -> None:
    edited = apply(LLAMA, *delete(LLAMA, [f"{LAYERS}.mlp_residual"]))
    assert edited.blocks["LlamaDecoderLayer"].outputs == {"out": "self_attn_residual"}


def test_outputs_cannot_be_deleted() -> None:
    with pytest.raises(EditError, match="outputs stay"):
        delete(LLAMA, [f"{LAYERS}.return"])


def test_in_some_layers_a_node_is_placed_in_the_block_that_they_get() -> None:
    edited, path = put(LLAMA, "op:dropout", Spot("model.layers.5", position=(1.0, 2.0)))
    assert path == "model.layers.5.dropout"
    assert "LlamaDecoderLayer/dropout" not in edited.layout
    assert (1.0, 2.0) in edited.layout.values()


def test_a_tokenizer_sets_the_vocabulary() -> None:
    edited, path = put(LLAMA, "io:tokenizer", Spot(""))
    assert path == "input_ids" and edited.tokenizer["name"] == "llama-3"
    smaller = apply(edited, *use_tokenizer(edited, "gpt2"))
    assert (tokenizer_of(smaller), smaller.sizes["vocab_size"]) == ("gpt2", 50257)
    with pytest.raises(EditError, match="outermost level"):
        put(LLAMA, "io:tokenizer", Spot(LAYERS))
    with pytest.raises(CanvasError, match="no tokenizer 'gpt9'"):
        use_tokenizer(LLAMA, "gpt9")


def test_an_unknown_entry_is_refused() -> None:
    with pytest.raises(CanvasError, match="no op 'nothing'"):
        put(LLAMA, "op:nothing", Spot(LAYERS))


def test_a_model_can_be_drawn_from_a_blank_page() -> None:
    """The path of somebody who starts with nothing: positions, a stack, a norm, and it can be written."""
    document = blank()
    assert check(document).ok
    document, _ = put(document, "op:position_ids", Spot("model"))
    document, _ = put(document, "op:rotary_embedding", Spot("model"))
    assert document.blocks["Model"].by_id["rotary_embedding"].inputs == {"position_ids": "position_ids"}
    document, _ = put(document, "recipe:stack", Spot("model", wire=("lm_head", "x")))
    document, _ = put(document, "op:rms_norm", Spot("model", wire=("lm_head", "x")))
    assert document.blocks["Model"].outputs == {"out": "norm"}
    assert check(document).ok, check(document).diagnostics
    assert emit(document).files["model.py"]


@pytest.mark.parametrize(("level", "path"), [("model", "model.dropout"), ("", "dropout")])
def test_on_a_wire_into_an_open_frame_a_node_lands_on_the_side_where_it_was_dropped(level: str, path: str) -> None:
    edited, found = put(LLAMA, "op:dropout", Spot(level, wire=("lm_head", "x")))
    assert found == path
    assert check(edited).ok


def test_the_skeleton_is_a_whole_model() -> None:
    assert check(skeleton()).ok
    assert "class" in emit(skeleton()).files["model.py"]
