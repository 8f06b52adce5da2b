"""Checking finds the shape of every value and every flaw at once, each with its place, its numbers and a way out."""

from pathlib import Path
from typing import Any

import pytest

from canvas_rt.ir.document import Block, Document, LayerKind, Node, Run, Stack, Use
from canvas_rt.ir.files import load
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.physics import check
from canvas_rt.physics.shapes import Check

ZOO = Path(__file__).parents[2] / "model_zoo"
LLAMA = load(ZOO / "llama" / "document.canvas.json")
MISTRAL = load(ZOO / "mistral" / "document.canvas.json")
ATTENTION = "model.layers.0-31.self_attn"


def sized(document: Document, **sizes: object) -> Document:
    return document.replace(sizes=document.sizes.with_items(sizes))


def changed(document: Document, block: str, node_id: str, /, **changes: Any) -> Document:
    """The document with some fields of one node replaced."""
    old = document.blocks[block]
    nodes = tuple(node.replace(**changes) if node.id == node_id else node for node in old.nodes)
    return document.with_block(block, old.replace(nodes=nodes))


def with_attrs(document: Document, block: str, node_id: str, **attrs: object) -> Document:
    node = document.blocks[block].node(node_id)
    assert isinstance(node, Node)
    return changed(document, block, node_id, attrs=node.attrs.with_items(attrs))


def with_inputs(document: Document, block: str, node_id: str, **inputs: str) -> Document:
    node = document.blocks[block].node(node_id)
    assert node is not None
    return changed(document, block, node_id, inputs=node.inputs.with_items(inputs))


def told(found: Check) -> list[tuple[str, str, str]]:
    return [(diagnostic.severity, diagnostic.path, diagnostic.message) for diagnostic in found.diagnostics]


def symbolic(found: Check, path: str) -> list[str]:
    return [str(shape) for shape in found.shapes[path]]


@pytest.mark.parametrize("document", [LLAMA, MISTRAL], ids=["llama", "mistral"])
def test_an_imported_model_has_no_flaws_and_every_shape_in_its_own_sizes(document: Document) -> None:
    found = check(document, batch=2, sequence=16)
    assert found.diagnostics == ()
    numbers = {
        name
        for shapes in found.shapes.values()
        for shape in shapes
        if shape
        for name in shape.symbolic
        if name.isdigit()
    }
    assert numbers == {"1"}  # position ids are alike in the whole batch


def test_shapes_are_told_in_sizes_and_in_numbers() -> None:
    found = check(sized(LLAMA, num_key_value_heads=8), batch=2, sequence=16)
    shown = {
        path.removeprefix(ATTENTION): symbolic(found, path)
        for path in found.shapes
        if f"{path}.".startswith(f"{ATTENTION}.")
    }
    assert shown == {
        "": ["[batch, seq, hidden_size]"],
        ".q_proj": ["[batch, seq, num_attention_heads * head_dim]"],
        ".q": ["[batch, num_attention_heads, seq, head_dim]"],
        ".k_proj": ["[batch, seq, num_key_value_heads * head_dim]"],
        ".k": ["[batch, num_key_value_heads, seq, head_dim]"],
        ".rotary": ["[batch, num_attention_heads, seq, head_dim]", "[batch, num_key_value_heads, seq, head_dim]"],
        ".v_proj": ["[batch, seq, num_key_value_heads * head_dim]"],
        ".v": ["[batch, num_key_value_heads, seq, head_dim]"],
        ".attention": ["[batch, seq, num_attention_heads, head_dim]"],
        ".merged": ["[batch, seq, num_attention_heads * head_dim]"],
        ".o_proj": ["[batch, seq, hidden_size]"],
    }
    assert [shape.actual for shape in found.shapes[f"{ATTENTION}.rotary"] if shape] == [
        (2, 32, 16, 128),
        (2, 8, 16, 128),
    ]


def test_literals_and_expressions_of_settings_are_read_back() -> None:
    document = with_attrs(LLAMA, "LlamaMLP", "gate_proj", out_features="=2 * intermediate_size")
    document = with_attrs(document, "LlamaMLP", "up_proj", out_features="=intermediate_size + 512")
    document = with_attrs(document, "LlamaMLP", "down_proj", out_features=1009 * 2)
    found = check(document)
    shown = [symbolic(found, f"model.layers.0-31.mlp.{node}") for node in ("gate_proj", "up_proj", "down_proj")]
    assert shown == [
        ["[batch, seq, 2 * intermediate_size]"],
        ["[batch, seq, intermediate_size + 512]"],
        ["[batch, seq, 2018]"],
    ]


def test_a_projection_of_the_wrong_width_is_told_with_both_widths() -> None:
    found = check(with_attrs(LLAMA, "LlamaMLP", "up_proj", in_features=2048), sequence=1024)
    assert told(found) == [
        (
            "error",
            "model.layers.0-31.mlp.up_proj",
            "takes in_features = 2048, but x is [batch, seq, hidden_size] = [1, 1024, 4096]",
        )
    ]
    assert found.diagnostics[0].hint == "Set in_features to 4096, or feed it a value whose last dimension is 2048."


def test_a_literal_that_meets_a_named_size_shows_both() -> None:
    document = with_attrs(LLAMA, "LlamaAttention", "v_proj", out_features=2048)
    document = changed(document, "LlamaAttention", "o_proj", inputs=FrozenMap({"x": "v_proj"}))
    found = check(document, sequence=4096)
    assert (
        "error",
        f"{ATTENTION}.o_proj",
        "takes in_features = num_attention_heads * head_dim (4096), but x is [batch, seq, 2048] = [1, 4096, 2048]",
    ) in told(found)


def test_one_flaw_does_not_hide_another_nor_breed_more() -> None:
    document = sized(LLAMA, num_key_value_heads=5)
    document = with_attrs(document, "LlamaMLP", "gate_proj", in_features=1)
    document = with_attrs(document, "LlamaMLP", "act_fn", fn="sillu")
    document = with_attrs(document, "LlamaForCausalLM", "lm_head", in_features="=hiden_size")
    assert [path for _, path, _ in told(check(document))] == [
        "lm_head",
        f"{ATTENTION}.attention",
        "model.layers.0-31.mlp.gate_proj",
        "model.layers.0-31.mlp.act_fn",
    ]


@pytest.mark.parametrize(
    ("document", "path", "message", "hint"),
    [
        (
            sized(LLAMA, num_key_value_heads=5),
            f"{ATTENTION}.attention",
            "num_attention_heads (32) is not a multiple of num_key_value_heads (5)",
            "Each key/value head serves an equal group of query heads: try 4 or 8.",
        ),
        (
            with_attrs(LLAMA, "LlamaMLP", "down_proj", out_features="=hiden_size"),
            "model.layers.0-31.mlp.down_proj",
            "out_features = hiden_size has no value: hiden_size is not a size of this model",
            "Did you mean hidden_size",
        ),
        (
            with_attrs(MISTRAL, "MistralAttention", "attention", window=0),
            f"{ATTENTION}.attention",
            "window = 0 must be a whole number of at least 1",
            "",
        ),
        (
            with_inputs(LLAMA, "LlamaMLP", "gated", b="up_porj"),
            "model.layers.0-31.mlp.gated",
            "b reads 'up_porj', but there is no node or input 'up_porj' in its block",
            "Did you mean up_proj",
        ),
        (
            with_inputs(LLAMA, "LlamaModel", "layers", cos="rotary_emb"),
            "model.layers",
            "cos reads 'rotary_emb', but rotary_emb gives cos and sin",
            "Say which: rotary_emb.cos or rotary_emb.sin.",
        ),
        (
            with_inputs(LLAMA, "LlamaAttention", "attention", q="rotary.queries"),
            f"{ATTENTION}.attention",
            "q reads 'rotary.queries', but rotary gives only q and k",
            "Read rotary.q or rotary.k.",
        ),
        (
            changed(LLAMA, "LlamaMLP", "gated", inputs=FrozenMap({"a": "act_fn"})),
            "model.layers.0-31.mlp.gated",
            "b is not connected",
            "Connect a value to b.",
        ),
        (
            changed(LLAMA, "LlamaMLP", "act_fn", op="activaton"),
            "model.layers.0-31.mlp.act_fn",
            "there is no op 'activaton'",
            "Did you mean activation",
        ),
        (
            changed(LLAMA, "LlamaDecoderLayer", "mlp", block="LlamaMLPP"),
            "model.layers.0-31.mlp",
            "there is no block 'LlamaMLPP'",
            "Did you mean LlamaMLP",
        ),
        (
            with_inputs(LLAMA, "LlamaMLP", "gate_proj", x="down_proj"),
            "model.layers.0-31.mlp.gate_proj",
            "gate_proj, act_fn, gated and down_proj feed one another in a circle",
            "Cut one of the wires between them",
        ),
        (
            sized(LLAMA, num_hidden_layers=0),
            "model.layers",
            "the number of layers (num_hidden_layers = 0) must be a whole number of at least 1",
            "Set num_hidden_layers to 1 or more.",
        ),
        (
            sized(LLAMA, num_hidden_layers=10**7),
            "model.layers",
            "the number of layers (num_hidden_layers = 10000000) is more than 4096",
            "No model is that deep",
        ),
        (
            sized(LLAMA, head_dim="=hidden_size // num_heads"),
            "sizes.head_dim",
            "hidden_size // num_heads has no value: num_heads is not a size of this model",
            "Did you mean",
        ),
        (
            sized(LLAMA, hidden_size="=head_dim * 32"),
            "sizes.hidden_size",
            "head_dim * 32 depends on itself, by way of head_dim",
            "Give one of them a number.",
        ),
        (
            changed(LLAMA, "LlamaModel", "layers", runs=(Run(start=30, stop=40, kind=0),)),
            "model.layers",
            "layers 30-39 have a kind of their own, but the layers are 0 to 31",
            "End the range at 31, or add layers.",
        ),
        (
            changed(LLAMA, "LlamaModel", "layers", runs=(Run(start=3, stop=4, kind=2),)),
            "model.layers",
            "layers 3-3 are of kind 2, but there are only 1 kinds",
            "Choose one of them.",
        ),
        (
            with_inputs(LLAMA, "LlamaModel", "embed_tokens", ids="rotary_emb.cos"),
            "model.embed_tokens",
            "takes token ids, which are whole numbers, but ids is [1, seq, head_dim] = [1, 2048, 128] of fractions",
            "Feed it input_ids.",
        ),
        (
            sized(LLAMA, hidden_size=2**61),
            "model.embed_tokens",
            "PyTorch refuses ids [batch, seq] = [1, 2048]",
            "Compare with what Embedding takes",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_each_flaw_is_told_with_its_place_and_a_way_out(document: Document, path: str, message: str, hint: str) -> None:
    found = [diagnostic for diagnostic in check(document).diagnostics if diagnostic.path == path]
    assert found and found[0].severity == "error"
    assert found[0].message.startswith(message)
    assert found[0].hint.startswith(hint)


def test_layers_must_carry_one_shape() -> None:
    document = with_attrs(LLAMA, "LlamaDecoderLayer", "input_layernorm", size="=hidden_size")
    block = document.blocks["LlamaDecoderLayer"]
    narrow = Node(
        id="narrow",
        op="linear",
        attrs=FrozenMap({"in_features": "=hidden_size", "out_features": 2048}),
        inputs=FrozenMap({"x": "mlp_residual"}),
    )
    document = document.with_block(
        "LlamaDecoderLayer", block.replace(nodes=(*block.nodes, narrow), outputs=FrozenMap({"out": "narrow"}))
    )
    assert told(check(document, sequence=128)) == [
        (
            "error",
            "model.layers.0-31",
            "takes hidden_states = [batch, seq, hidden_size] = [1, 128, 4096],"
            " but gives [batch, seq, 2048] = [1, 128, 2048]",
        )
    ]


def test_a_flaw_of_some_layers_names_their_range() -> None:
    stack = LLAMA.blocks["LlamaModel"].node("layers")
    assert isinstance(stack, Stack)
    odd = LayerKind(block="LlamaDecoderLayer", sizes=FrozenMap({"num_key_value_heads": 5}))
    document = changed(LLAMA, "LlamaModel", "layers", kinds=(*stack.kinds, odd), runs=(Run(start=8, stop=16, kind=1),))
    assert [path for _, path, _ in told(check(document))] == ["model.layers.8-15.self_attn.attention"]


def test_kinds_with_other_inputs_are_told() -> None:
    stack = LLAMA.blocks["LlamaModel"].node("layers")
    assert isinstance(stack, Stack)
    document = changed(
        LLAMA,
        "LlamaModel",
        "layers",
        kinds=(*stack.kinds, LayerKind(block="LlamaMLP")),
        runs=(Run(start=0, stop=1, kind=1),),
    )
    assert told(check(document)) == [
        (
            "error",
            "model.layers",
            "LlamaDecoderLayer takes hidden_states, cos and sin, but LlamaMLP takes hidden_states",
        )
    ]


def test_what_nothing_reads_is_a_warning() -> None:
    block = LLAMA.blocks["LlamaMLP"]
    spare = Node(id="spare", op="activation", inputs=FrozenMap({"x": "gated"}))
    found = check(LLAMA.with_block("LlamaMLP", block.replace(nodes=(*block.nodes, spare))))
    assert (found.ok, told(found)) == (
        True,
        [("warning", "model.layers.0-31.mlp.spare", "gives a value that nothing reads")],
    )


def test_a_block_that_contains_itself_is_told_and_does_not_hang() -> None:
    block = LLAMA.blocks["LlamaMLP"]
    inner = Use(id="again", block="LlamaMLP", inputs=FrozenMap({"hidden_states": "gated"}))
    document = LLAMA.with_block("LlamaMLP", block.replace(nodes=(*block.nodes, inner)))
    assert ("error", "LlamaMLP", "this block contains itself") in told(check(document))
    itself = Block(inputs=(), nodes=(Use(id="me", block="A"),), outputs=FrozenMap({"out": "me"}))
    assert told(check(LLAMA.replace(root="A", blocks=FrozenMap({"A": itself})))) == [
        ("error", "root", "A contains itself")
    ]


def test_outputs_and_roots_that_do_not_exist_are_told() -> None:
    block = LLAMA.blocks["LlamaForCausalLM"]
    lost = LLAMA.with_block("LlamaForCausalLM", block.replace(outputs=FrozenMap({"logits": "head"})))
    assert told(check(lost))[0] == (
        "error",
        "",
        "the output 'logits' reads 'head', but there is no node or input 'head' in its block",
    )
    assert told(check(LLAMA.replace(root="Llama"))) == [("error", "root", "there is no block 'Llama'")]


def test_ties_need_two_parameters_of_one_shape() -> None:
    tied = LLAMA.replace(config=LLAMA.config.with_items({"tie_word_embeddings": True}))
    assert told(check(tied)) == []
    narrow = with_attrs(tied, "LlamaForCausalLM", "lm_head", out_features=1000)
    assert told(check(narrow)) == [
        (
            "error",
            "ties.lm_head.weight",
            "lm_head.weight [1000, 4096] cannot share the storage of model.embed_tokens.weight [32000, 4096]",
        )
    ]
    lost = tied.replace(ties=FrozenMap({"lm_head.weight": "model.embed.weight"}))
    assert told(check(lost)) == [("error", "ties.lm_head.weight", "there is no parameter 'model.embed.weight'")]


def test_the_scenario_is_checked_too() -> None:
    assert told(check(LLAMA, batch=0, sequence=0)) == [
        ("error", "batch", "must be a whole number of at least 1, not 0"),
        ("error", "sequence", "must be a whole number of at least 1, not 0"),
    ]
    beyond = check(LLAMA, sequence=4096)
    assert beyond.ok
    assert told(beyond) == [("warning", "sequence", "4096 tokens are more than max_position_embeddings (2048)")]


def test_a_check_does_not_depend_on_those_before_it() -> None:
    bad = sized(LLAMA, num_key_value_heads=5)
    first = check(bad)
    check(LLAMA)
    assert check(bad) == first
