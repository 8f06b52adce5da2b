"""Wires drawn on a canvas become edits, across the borders of blocks that are shown in place too."""

import pytest

from canvas_rt import apply, check, open_zoo
from canvas_rt.edits import Connect, SetOutput
from canvas_rt.edits.wires import out_ports
from canvas_rt.errors import EditError
from canvas_rt.gestures.scope import scope_at
from canvas_rt.gestures.wires import connect, cut

LLAMA = open_zoo("llama-3.2-1b")
LAYERS = "model.layers.0-15"


def test_a_wire_within_a_level_is_one_edit() -> None:
    edits = connect(LLAMA, (f"{LAYERS}.hidden_states", "hidden_states"), (f"{LAYERS}.mlp", "hidden_states"))
    assert edits == (Connect(f"{LAYERS}.mlp", "hidden_states", "hidden_states"),)


def test_a_wire_to_an_output_sets_the_output() -> None:
    edits = connect(LLAMA, (f"{LAYERS}.mlp", "out"), (f"{LAYERS}.return", "out"))
    assert edits == (SetOutput(LAYERS, "out", "mlp"),)


def test_a_wire_out_of_an_open_frame_uses_the_output_that_is_there() -> None:
    assert connect(LLAMA, ("model.norm", "out"), ("lm_head", "x")) == (Connect("lm_head", "x", "model"),)


def test_a_wire_out_of_an_open_frame_adds_an_output_where_there_is_none() -> None:
    edits = connect(LLAMA, ("model.layers", "out"), ("lm_head", "x"))
    edited = apply(LLAMA, *edits)
    assert edited.blocks["LlamaModel"].outputs["layers"] == "layers"
    assert edited.blocks["LlamaForCausalLM"].by_id["lm_head"].inputs["x"] == "model.layers"
    assert check(edited).ok


def test_a_wire_into_an_open_frame_adds_an_input_where_there_is_none() -> None:
    target = (f"{LAYERS}.mlp.up_proj", "x")
    edits = connect(LLAMA, (f"{LAYERS}.input_layernorm", "out"), target)
    edited = apply(LLAMA, *edits)
    mlp = edited.blocks["LlamaMLP"]
    assert mlp.inputs == ("hidden_states", "input_layernorm")
    assert mlp.by_id["up_proj"].inputs["x"] == "input_layernorm"
    assert edited.blocks["LlamaDecoderLayer"].by_id["mlp"].inputs["input_layernorm"] == "input_layernorm"
    assert check(edited).ok


def test_a_second_wire_into_a_frame_uses_the_input_that_the_first_made() -> None:
    source = (f"{LAYERS}.input_layernorm", "out")
    once = apply(LLAMA, *connect(LLAMA, source, (f"{LAYERS}.mlp.up_proj", "x")))
    assert connect(once, source, (f"{LAYERS}.mlp.gate_proj", "x")) == (
        Connect(f"{LAYERS}.mlp.gate_proj", "x", "input_layernorm"),
    )


def test_a_wire_into_a_layer_is_refused_with_the_way_to_go() -> None:
    with pytest.raises(EditError, match="cannot lead into or out of a stack's layers"):
        connect(LLAMA, ("model.embed_tokens", "out"), (f"{LAYERS}.mlp", "hidden_states"))


@pytest.mark.parametrize(
    ("source", "message"),
    [(("return", "logits"), "an output gives nothing"), (("lm_head", "q"), "has no output 'q'"), (("no", "out"), "no")],
)
def test_what_gives_no_value_is_refused(source: tuple[str, str], message: str) -> None:
    with pytest.raises(EditError, match=message):
        connect(LLAMA, source, ("lm_head", "x"))


def test_cutting_leaves_the_port_unfed() -> None:
    edited = apply(LLAMA, cut(LLAMA, ("lm_head", "x")))
    assert "lm_head" in [diagnostic.path for diagnostic in check(edited).diagnostics]


@pytest.mark.parametrize("level", ["", "model", LAYERS, f"{LAYERS}.self_attn"])
def test_drawing_a_wire_that_is_there_changes_nothing(level: str) -> None:
    scope = scope_at(LLAMA, level)
    for item in scope.block.nodes:
        for port, ref in item.inputs.items():
            name, _, out = ref.partition(".")
            giver = scope.block.node(name)
            out = out or (out_ports(LLAMA, giver)[0] if giver else name)
            edits = connect(LLAMA, (scope.inside(name), out), (scope.inside(item.id), port))
            assert apply(LLAMA, *edits).blocks == LLAMA.blocks
