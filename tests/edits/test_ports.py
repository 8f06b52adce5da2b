"""Blocks get inputs and lose them, with the wires that fed them."""

from typing import Any

import pytest

from canvas_rt.edits import AddInput, Connect, RemoveInput, SetAttr, SetOutput, apply
from canvas_rt.errors import EditError
from canvas_rt.ir.document import Document, Stack


def test_a_new_input_comes_last_and_is_fed_once_connected(document: Document) -> None:
    edited = apply(
        document, AddInput("model.layers.mlp", "before"), Connect("model.layers.mlp", "before", "hidden_states")
    )
    assert edited.blocks["LlamaMLP"].inputs == ("hidden_states", "before")
    assert edited.blocks["LlamaDecoderLayer"].by_id["mlp"].inputs["before"] == "hidden_states"
    back = apply(edited, RemoveInput("model.layers.mlp", "before"))
    assert back.blocks == document.blocks


def test_layers_of_unlike_kinds_get_an_input_together(document: Document) -> None:
    unlike = apply(document, SetAttr("model.layers.3.mlp.act_fn", "fn", "relu"))
    edited = apply(unlike, AddInput("model.layers", "mask"), Connect("model.layers", "mask", "embed_tokens"))
    inputs = ("hidden_states", "cos", "sin", "mask")
    assert {edited.blocks[name].inputs for name in ("LlamaDecoderLayer", "LlamaDecoderLayer2")} == {inputs}
    back = apply(edited, RemoveInput("model.layers", "mask"))
    assert back.blocks == unlike.blocks


def test_an_input_of_one_layers_inner_block_is_its_own(document: Document) -> None:
    edited = apply(document, AddInput("model.layers.3.mlp", "before"))
    assert (edited.blocks["LlamaMLP"].inputs, edited.blocks["LlamaMLP2"].inputs) == (
        ("hidden_states",),
        ("hidden_states", "before"),
    )


def test_the_wire_to_a_stack_goes_with_the_input(document: Document) -> None:
    free = apply(document, AddInput("model.layers", "mask"), Connect("model.layers", "mask", "embed_tokens"))
    stack = apply(free, RemoveInput("model.layers", "mask")).blocks["LlamaModel"].by_id["layers"]
    assert isinstance(stack, Stack) and set(stack.inputs) == {"hidden_states", "cos", "sin"}


def test_an_input_that_is_passed_on_is_read(document: Document) -> None:
    passed = apply(document, AddInput("model.layers.mlp", "before"), SetOutput("model.layers.mlp", "out", "before"))
    with pytest.raises(EditError, match="the output out of LlamaMLP reads before"):
        apply(passed, RemoveInput("model.layers.mlp", "before"))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (AddInput("model.layers.mlp", "act_fn"), "there is a 'act_fn' already"),
        (AddInput("model.layers.mlp", "hidden_states"), "'hidden_states' is an input of the block"),
        (
            AddInput("model.layers.0-3", "mask"),
            "of the layers of layers, .* would take hidden_states, cos, sin, but .* take hidden_states, cos, sin, mask\n"
            "Layers of one stack take the same inputs: add it for all of them",
        ),
        (AddInput("model.norm", "mask"), "norm is a node"),
        (
            RemoveInput("model.layers.self_attn", "cos"),
            "model.layers.self_attn.cos: rotary of LlamaAttention reads cos\nConnect what reads it",
        ),
        (RemoveInput("model.layers.mlp", "hidden"), "LlamaMLP has no input 'hidden'\n.*hidden_states"),
        (
            RemoveInput("model.layers", "hidden_states"),
            "input_layernorm and self_attn_residual of LlamaDecoderLayer read hidden_states",
        ),
    ],
)
def test_a_change_of_inputs_that_cannot_be_is_refused(document: Document, edit: Any, message: str) -> None:
    with pytest.raises(EditError, match=message):
        apply(document, edit)


def test_what_layers_carry_stays_an_input_though_nothing_reads_it(document: Document) -> None:
    unread = apply(
        document,
        AddInput("model.layers", "mask"),
        Connect("model.layers.input_layernorm", "x", "mask"),
        Connect("model.layers.self_attn_residual", "a", "mask"),
    )
    with pytest.raises(
        EditError, match="hidden_states is what the layers of layers carry from one to the next\nA layer"
    ):
        apply(unread, RemoveInput("model.layers", "hidden_states"))
