"""What is called by a function alone gets a name by what it is for; names of modules are keys and stay."""

import pytest

from canvas_rt.importer import import_model
from canvas_rt.importer.names import Places, named_by_use, names_of_blocks, words_of_kinds
from canvas_rt.importer.small import small_config
from canvas_rt.ir.document import Block, Node
from canvas_rt.ir.frozen import FrozenMap


def test_parts_of_a_fused_projection_are_queries_keys_and_values() -> None:
    document, _ = import_model(small_config("gpt2"))
    names = document.blocks["GPT2Attention"].by_id
    assert {"c_attn", "qkv_parts", "q", "k", "v", "attention", "merged", "c_proj"} <= names.keys()
    assert {"attn_residual", "mlp_residual"} <= document.blocks["GPT2Block"].by_id.keys()


def test_no_name_of_a_module_changes() -> None:
    block = Block(
        inputs=("hidden_states",),
        nodes=(
            node("slice_1", "linear", x="hidden_states"),
            node("view", "torch.view", x="slice_1"),
            node("view_1", "torch.view", x="view"),
        ),
        outputs=FrozenMap({"out": "view_1"}),
    )
    named = named_by_use(block, made={"view", "view_1"})
    assert [item.id for item in named.nodes] == ["slice_1", "slice_1_view", "view_1"]
    assert named.outputs["out"] == "view_1"
    assert named_by_use(block, made=()) == block


def test_a_taken_name_stays_with_its_module() -> None:
    block = Block(
        inputs=("hidden_states",),
        nodes=(
            node("q", "linear", x="hidden_states"),
            node("view", "torch.view", x="q"),
            node("attention", "attention", q="view", k="hidden_states", v="hidden_states"),
        ),
        outputs=FrozenMap({"out": "attention"}),
    )
    named = named_by_use(block, made={"view", "attention"})
    assert [item.id for item in named.nodes] == ["q", "q_view", "attention"]


@pytest.mark.parametrize(
    ("said", "sparse", "words"),
    [
        ([["sliding_attention"], ["full_attention"]], [False, False], ["sliding", "full"]),
        ([["mamba"], ["attention"]], [False, True], ["mamba", "attention"]),
        ([[], []], [False, True], ["dense", "sparse"]),
        (
            [["mamba"], ["mamba"], ["attention"]],
            [False, True, True],
            ["mamba_dense", "mamba_sparse", "attention_sparse"],
        ),
        ([["full"], ["full"]], [True, True], ["", ""]),
        ([["chunked"], ["full"], ["full"]], [True, True, True], ["chunked", "full", "full"]),
        ([[""], ["full"]], [True, True], ["", "full"]),
        ([], [], []),
    ],
)
def test_kinds_are_called_by_what_tells_them_apart(said: list[list[str]], sparse: list[bool], words: list[str]) -> None:
    mixed = ["sparse" if one else "dense" for one in sparse]
    assert words_of_kinds(said, mixed) == words


def test_blocks_of_one_class_are_called_by_where_they_stand() -> None:
    places = {
        "XMLP": Places("XMLP", {"mlp"}, {"dense"}),
        "XMLP2": Places("XMLP", {"shared_experts"}, {"sparse"}),
        "XAttention": Places("XAttention", {"self_attn"}, {"sliding"}),
        "XAttention2": Places("XAttention", {"self_attn"}, {"full"}),
        "XLayer": Places("XLayer", set(), set()),
        "XLayer2": Places("XLayer", set(), set()),
    }
    assert names_of_blocks(places) == {
        "XMLP": "XMLP",
        "XMLP2": "XSharedExpertsMLP",
        "XAttention": "XSlidingAttention",
        "XAttention2": "XFullAttention",
        "XLayer": "XLayer",
        "XLayer2": "XLayer2",
    }


def test_layers_of_gemma_and_deepseek() -> None:
    gemma, _ = import_model(small_config("gemma3_text"))
    assert {"Gemma3SlidingDecoderLayer", "Gemma3FullDecoderLayer"} <= gemma.blocks.keys()
    deepseek, _ = import_model(small_config("deepseek_v3"))
    assert {"DeepseekV3DenseDecoderLayer", "DeepseekV3SparseDecoderLayer"} <= deepseek.blocks.keys()
    assert not any(name[-1] == "2" for name in {*gemma.blocks, *deepseek.blocks})


def node(name: str, op: str, **inputs: str) -> Node:
    return Node(id=name, op=op, inputs=FrozenMap(inputs))
