"""Recipes, planned on a Llama of the zoo: nothing is traced, and no weight is read."""

import numpy as np
import pytest
import torch
from edit_kinds import EDITS, LOW_RANK

from canvas_rt import CanvasError, Document, apply, open_zoo
from canvas_rt.edits import (
    AddBlock,
    AddNode,
    AddSize,
    Connect,
    DeleteLayers,
    DuplicateLayers,
    GroupNodes,
    InsertLayer,
    RenameNode,
    ReplaceBlock,
    SetAttr,
    SetConfig,
    SetSize,
    SetWeights,
    SwapLayers,
    Ungroup,
)
from canvas_rt.ops.parameters import parameter_keys
from canvas_rt.weights import Recipe, WeightPlan, weight_plan
from canvas_rt.weights.make import make
from canvas_rt.weights.plan import branch_ends

LLAMA = open_zoo("llama-3.2-1b")
HELD = {key: shape for key, shape in parameter_keys(LLAMA).items() if key not in LLAMA.tied}
LAYER = "model.layers"


def planned(*edits: object, document: Document = LLAMA) -> WeightPlan:
    return weight_plan(apply(document, *edits), HELD)  # type: ignore[arg-type]


def recipe(plan: WeightPlan, key: str) -> Recipe:
    (found,) = (recipe for recipe in plan.recipes if recipe.key == key)
    return found


def sources(plan: WeightPlan) -> dict[str, str]:
    """For each parameter that is made of one tensor as it is, that tensor."""
    return {recipe.key: recipe.parts[0].key for recipe in plan.recipes if recipe.how == "copy"}


def test_what_was_not_edited_is_copied_and_what_is_tied_has_no_recipe() -> None:
    assert sources(planned()) == {key: key for key in HELD}
    assert planned().dropped == ()


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_leaves_a_recipe_for_every_parameter(name: str) -> None:
    document = apply(open_zoo("smollm-135m"), *EDITS[name])
    held = parameter_keys(open_zoo("smollm-135m"))
    plan = weight_plan(document, held)
    expected = {key: shape for key, shape in parameter_keys(document).items() if key not in document.tied}
    assert {recipe.key: recipe.shape for recipe in plan.recipes} == expected


def test_layers_keep_their_weights_wherever_they_stand() -> None:
    deleted = sources(planned(DeleteLayers(f"{LAYER}.1-2")))
    assert deleted[f"{LAYER}.1.mlp.up_proj.weight"] == f"{LAYER}.3.mlp.up_proj.weight"
    doubled = sources(planned(DuplicateLayers(f"{LAYER}.1")))
    assert doubled[f"{LAYER}.2.mlp.up_proj.weight"] == f"{LAYER}.1.mlp.up_proj.weight"
    swapped = sources(planned(SwapLayers(LAYER, 0, 3)))
    assert swapped[f"{LAYER}.0.mlp.up_proj.weight"] == f"{LAYER}.3.mlp.up_proj.weight"


def test_deleted_layers_are_dropped() -> None:
    dropped = planned(DeleteLayers(f"{LAYER}.1")).dropped
    assert {key.rpartition(".")[0].rpartition(".")[0] for key in dropped if "mlp" in key} == {f"{LAYER}.1.mlp"}
    assert len(dropped) == 9


@pytest.mark.parametrize(
    "deeper", [InsertLayer(LAYER, 2), SetSize("", "num_hidden_layers", 17)], ids=["insert", "size"]
)
def test_a_new_layer_passes_on_what_it_gets(deeper: object) -> None:
    plan = planned(deeper)
    new = {r.key.split(".", 3)[3]: r.how for r in plan.recipes if r.key.startswith(f"{LAYER}.") and not r.parts}
    assert new == {
        "input_layernorm.weight": "ones",
        "self_attn.q_proj.weight": "initialise",
        "self_attn.k_proj.weight": "initialise",
        "self_attn.v_proj.weight": "initialise",
        "self_attn.o_proj.weight": "zeros",
        "post_attention_layernorm.weight": "ones",
        "mlp.gate_proj.weight": "initialise",
        "mlp.up_proj.weight": "initialise",
        "mlp.down_proj.weight": "zeros",
    }


def test_fewer_key_heads_are_means_of_groups_and_more_are_repeated() -> None:
    assert recipe(planned(SetSize("", "num_key_value_heads", 2)), f"{LAYER}.0.self_attn.k_proj.weight").how == (
        "mean over groups"
    )
    assert recipe(planned(SetSize("", "num_key_value_heads", 16)), f"{LAYER}.0.self_attn.k_proj.weight").how == "repeat"


def test_the_mean_is_that_of_heads_that_served_the_same_queries() -> None:
    plan = planned(SetSize(f"{LAYER}.3.self_attn", "num_key_value_heads", 4))
    ((axis, places),) = recipe(plan, f"{LAYER}.3.self_attn.v_proj.weight").axes
    assert axis == 0 and places.shape == (4 * 64, 2)
    assert places[:2].tolist() == [[0, 64], [1, 65]]
    assert recipe(plan, f"{LAYER}.2.self_attn.v_proj.weight").how == "copy"


def test_query_heads_grow_within_the_groups_that_share_a_key() -> None:
    ((_, places),) = recipe(planned(SetSize("", "num_attention_heads", 40)), f"{LAYER}.0.self_attn.q_proj.weight").axes
    heads = places[::64, 0] // 64
    assert heads.tolist()[:10] == [0, 1, 2, 3, -1, 4, 5, 6, 7, -1]


def test_a_head_that_is_divided_by_no_group_keeps_the_first() -> None:
    ((_, places),) = recipe(planned(SetSize("", "num_key_value_heads", 3)), f"{LAYER}.0.self_attn.k_proj.weight").axes
    assert np.array_equal(places[:, 0], np.arange(3 * 64))


def test_wider_layers_give_what_they_gave() -> None:
    torch.manual_seed(0)
    plan = planned(SetSize("", "intermediate_size", 8200))
    x = torch.randn(3, 2048)
    held = {key: torch.randn(HELD[key]) * 0.02 for key in HELD if key.startswith(f"{LAYER}.0.mlp")}

    def mlp(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        gate, up, down = (weights[f"{LAYER}.0.mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        hidden = torch.nn.functional.silu(x @ gate.T) * (x @ up.T)
        return hidden @ down.T

    wider = {key: make(recipe(plan, key), held.__getitem__, torch.float32) for key in held}
    assert wider[f"{LAYER}.0.mlp.up_proj.weight"][8192:].std() == pytest.approx(0.02, rel=0.05)
    torch.testing.assert_close(mlp(wider), mlp(held))


def test_new_tokens_are_the_mean_of_those_that_were_there() -> None:
    plan = planned(SetSize("", "vocab_size", HELD["model.embed_tokens.weight"][0] + 2))
    made = recipe(plan, "model.embed_tokens.weight")
    few = Recipe(made.key, (5, 2), made.parts, ((0, made.axes[0][1][[0, 1, 2, -1, -2]]),), made.fill, made.quiet)
    tensor = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
    assert make(few, lambda key: tensor, torch.float32).tolist() == [*tensor.tolist(), [3.0, 5.0], [3.0, 5.0]]


def test_names_may_change_and_weights_follow() -> None:
    renamed = sources(planned(RenameNode(f"{LAYER}.mlp.up_proj", "widen"), RenameNode(f"{LAYER}.mlp", "ffn")))
    assert renamed[f"{LAYER}.4.ffn.widen.weight"] == f"{LAYER}.4.mlp.up_proj.weight"
    back = apply(LLAMA, RenameNode(f"{LAYER}.mlp", "ffn"), RenameNode(f"{LAYER}.ffn", "mlp"))
    assert back.blocks == LLAMA.blocks
    grouped = sources(planned(GroupNodes(f"{LAYER}.mlp", ("gate_proj", "up_proj", "act_fn", "gated"), "Gate", "gate")))
    assert grouped[f"{LAYER}.4.mlp.gate.up_proj.weight"] == f"{LAYER}.4.mlp.up_proj.weight"
    ungrouped = sources(planned(Ungroup(f"{LAYER}.mlp"), RenameNode(f"{LAYER}.up_proj", "widen")))
    assert ungrouped[f"{LAYER}.4.widen.weight"] == f"{LAYER}.4.mlp.up_proj.weight"
    both = sources(
        planned(
            GroupNodes(f"{LAYER}.mlp", ("gate_proj", "up_proj", "act_fn", "gated"), "Gate", "gate"),
            Ungroup(f"{LAYER}.mlp.gate"),
        )
    )
    assert both == {key: key for key in HELD}


def test_a_stack_may_be_called_otherwise() -> None:
    renamed = sources(planned(RenameNode(LAYER, "blocks"), DeleteLayers("model.blocks.0")))
    assert renamed["model.blocks.0.mlp.up_proj.weight"] == f"{LAYER}.1.mlp.up_proj.weight"


def test_what_takes_a_former_name_does_not_take_its_weights() -> None:
    plan = planned(
        RenameNode(f"{LAYER}.mlp.up_proj", "widen"),
        AddNode(
            f"{LAYER}.mlp",
            {
                "id": "up_proj",
                "op": "linear",
                "attrs": {"in_features": "=hidden_size", "out_features": "=intermediate_size"},
                "inputs": {"x": "hidden_states"},
            },
        ),
        AddNode(f"{LAYER}.mlp", {"id": "both", "op": "add", "inputs": {"a": "up_proj", "b": "widen"}}),
        Connect(f"{LAYER}.mlp.gated", "b", "both"),
    )
    assert recipe(plan, f"{LAYER}.0.mlp.widen.weight").parts[0].key == f"{LAYER}.0.mlp.up_proj.weight"
    assert recipe(plan, f"{LAYER}.0.mlp.up_proj.weight").how == "initialise"


def test_another_block_does_not_take_what_only_has_its_name() -> None:
    plan = planned(AddSize("rank", 8), AddBlock("LowRank", LOW_RANK), ReplaceBlock(f"{LAYER}.1.mlp", "LowRank"))
    found = recipe(plan, f"{LAYER}.1.mlp.down_proj.weight")
    assert found.how == "initialise"
    assert found.why == f"{LAYER}.1.mlp.down_proj.weight is [2048, 8192]: nothing says what belongs together"


def test_untied_logits_start_from_the_embedding() -> None:
    plan = planned(SetConfig("tie_word_embeddings", False))
    assert recipe(plan, "lm_head.weight").parts[0].key == "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("weights", "how", "parts"),
    [
        ("=zeros", "zeros", []),
        ("=initialise", "initialise", []),
        ("k_proj", "copy", ["k_proj"]),
        ("q_proj[0:num_key_value_heads * head_dim]", "slice", ["q_proj"]),
        ("q_proj[0:256] + k_proj[256:512]", "concatenate", ["q_proj", "k_proj"]),
    ],
)
def test_weights_may_be_said(weights: str, how: str, parts: list[str]) -> None:
    plan = planned(SetWeights(f"{LAYER}.0.self_attn.v_proj", weights))
    found = recipe(plan, f"{LAYER}.0.self_attn.v_proj.weight")
    assert found.how == how
    assert [part.key for part in found.parts] == [f"{LAYER}.0.self_attn.{name}.weight" for name in parts]
    assert recipe(plan, f"{LAYER}.1.self_attn.v_proj.weight").how == "copy"


def test_an_identity_is_square() -> None:
    assert recipe(
        planned(SetWeights(f"{LAYER}.0.self_attn.o_proj", "=identity")), f"{LAYER}.0.self_attn.o_proj.weight"
    ).how == ("identity")
    with pytest.raises(CanvasError, match=r"cannot be an identity: it is \[512, 2048\]"):
        planned(SetWeights(f"{LAYER}.0.self_attn.k_proj", "=identity"))


def test_weights_that_the_origin_lacks_are_named() -> None:
    with pytest.raises(CanvasError, match=r"takes rows 0 to 9999 of .*q_proj\.weight, which has 2048"):
        planned(SetWeights(f"{LAYER}.0.self_attn.v_proj", "q_proj[0:9999]"))
    with pytest.raises(CanvasError, match="which the origin does not have"):
        planned(SetWeights(f"{LAYER}.0.self_attn.v_proj", "k_proj + qq_proj"))


def test_what_a_renamed_node_has_more_than_the_origin_is_new() -> None:
    plan = planned(
        RenameNode(f"{LAYER}.mlp.down_proj", "out"), SetAttr(f"{LAYER}.mlp.out", "bias", True), document=LLAMA
    )
    assert recipe(plan, f"{LAYER}.0.mlp.out.weight").how == "copy"
    bias = recipe(plan, f"{LAYER}.0.mlp.out.bias")
    assert (bias.how, bias.why) == ("zeros", f"the origin has no {LAYER}.0.mlp.down_proj.bias")


@pytest.mark.parametrize("text", ["=ones + q", "a b", "q[0]", "q[__import__('os'):2]", "..", "q[0:1"])
def test_nonsense_is_no_weights(text: str) -> None:
    with pytest.raises(CanvasError, match="weights"):
        SetWeights(f"{LAYER}.0.self_attn.v_proj", text)


def test_saying_where_weights_are_from_leaves_the_graph_as_it_was() -> None:
    from canvas_rt.ir.files import structure

    assert structure(apply(LLAMA, SetWeights(f"{LAYER}.self_attn.v_proj", "=zeros"))) == structure(LLAMA)


def test_heads_of_a_number_of_their_own_are_understood() -> None:
    """Keys for all heads become keys for some, by another expression: the old number is told from the tensor."""
    document = open_zoo("gpt2")
    held = parameter_keys(document)
    assert all(r.how == "copy" for r in weight_plan(document, held).recipes)
    unlike = apply(LLAMA, SetAttr(f"{LAYER}.self_attn.k_proj", "out_features", "=num_key_value_heads * head_dim * 1"))
    assert recipe(weight_plan(unlike, HELD), f"{LAYER}.0.self_attn.k_proj.weight").how == "copy"


def test_rows_that_take_turns_grow_in_pairs() -> None:
    document = open_zoo("gpt-oss-20b")
    plan = weight_plan(apply(document, SetSize("", "intermediate_size", 2881)), parameter_keys(document))
    ((axis, places),) = recipe(plan, f"{LAYER}.0.mlp.experts.gate_up_proj").axes
    assert axis == 2 and places[:, 0].tolist() == [*range(2 * 2880), -1, -1]


@pytest.mark.parametrize(
    ("name", "block", "ends"),
    [
        ("gpt2", "GPT2Block", {"attn.c_proj", "mlp.c_proj"}),
        ("phi-3-mini-4k", "Phi3DecoderLayer", {"self_attn.o_proj", "mlp.down_proj"}),
        ("bloom-560m", "BloomBlock", {"self_attention.dense", "mlp.dense_4h_to_h"}),
        ("pythia-160m", "GPTNeoXLayer", {"attention.dense", "mlp.dense_4h_to_h"}),
        (
            "deepseek-v3",
            "DeepseekV3SparseDecoderLayer",
            {"self_attn.o_proj", "mlp.experts", "mlp.shared_experts.down_proj"},
        ),
    ],
)
def test_branches_of_layers_are_known_by_their_ends(name: str, block: str, ends: set[str]) -> None:
    assert branch_ends(open_zoo(name), block) == ends
