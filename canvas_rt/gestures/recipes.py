"""Blocks to start from: attention and MLPs in their usual kinds, a decoder layer, a mixture of experts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from canvas_rt.ir.document import Block, Item, LayerKind, Node, Stack, Use
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ops.catalogue import OPS

USUAL: Mapping[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": "=hidden_size // num_attention_heads",
    "max_position_embeddings": 4096,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": 1024,
}
"""Sizes that recipes name, for documents that lack them."""

USUAL_CONFIG: Mapping[str, Any] = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_parameters": FrozenMap({"rope_type": "default", "rope_theta": 10000.0}),
    "attention_dropout": 0.0,
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A block, and those inside it, that the palette offers ready made."""

    id: str
    title: str
    group: str
    summary: str
    source: str
    """The paper."""

    block: str
    """What its block is called in a document."""

    new_id: str
    """The id of its use."""

    build: Callable[[Callable[[str, Block], str]], Block]
    """Makes the block, handing inner ones to its argument, which says what they are called."""


def node(id: str, op: str, inputs: Mapping[str, str], **attrs: Any) -> Node:
    return Node(id=id, op=op, attrs=FrozenMap(attrs), inputs=FrozenMap(inputs))


def linear(id: str, x: str, into: str, out: str) -> Node:
    return node(id, "linear", {"x": x}, in_features=f"={into}", out_features=f"={out}", bias=False)


def block(inputs: Sequence[str], nodes: Sequence[Item], out: str, role: str) -> Block:
    return Block(inputs=tuple(inputs), nodes=tuple(nodes), outputs=FrozenMap({"out": out}), role=role)


def attention(kv_heads: str, window: str | None = None, rotary: bool = True) -> Block:
    """Attention whose keys and values have `kv_heads` heads; with `rotary`, turned by position."""
    nodes: list[Item] = []
    for name, heads in (("q", "num_attention_heads"), ("k", kv_heads), ("v", kv_heads)):
        nodes.append(
            linear(
                f"{name}_proj", "hidden_states", "hidden_size", f"{heads} * head_dim" if heads != "1" else "head_dim"
            )
        )
        count = f"={heads}" if heads != "1" else 1
        nodes.append(node(name, "split_heads", {"x": f"{name}_proj"}, heads=count, head_dim="=head_dim"))
    q, k = "q", "k"
    if rotary:
        nodes.append(node("rotary", "apply_rotary", {"q": "q", "k": "k", "cos": "cos", "sin": "sin"}))
        q, k = "rotary.q", "rotary.k"
    nodes.append(
        node(
            "attention",
            "attention",
            {"q": q, "k": k, "v": "v"},
            scale="=head_dim ** -0.5",
            window=f"={window}" if window else None,
            dropout="=attention_dropout",
        )
    )
    nodes.append(node("merged", "merge_heads", {"x": "attention"}))
    nodes.append(linear("o_proj", "merged", "num_attention_heads * head_dim", "hidden_size"))
    return block(["hidden_states", "cos", "sin"] if rotary else ["hidden_states"], nodes, "o_proj", "attention")


def gated_mlp() -> Block:
    return block(
        ["hidden_states"],
        [
            linear("gate_proj", "hidden_states", "hidden_size", "intermediate_size"),
            node("act_fn", "activation", {"x": "gate_proj"}, fn="=hidden_act"),
            linear("up_proj", "hidden_states", "hidden_size", "intermediate_size"),
            node("gated", "mul", {"a": "act_fn", "b": "up_proj"}),
            linear("down_proj", "gated", "intermediate_size", "hidden_size"),
        ],
        "down_proj",
        "gated_mlp",
    )


def plain_mlp() -> Block:
    return block(
        ["hidden_states"],
        [
            linear("up_proj", "hidden_states", "hidden_size", "intermediate_size"),
            node("act_fn", "activation", {"x": "up_proj"}, fn="gelu"),
            linear("down_proj", "act_fn", "intermediate_size", "hidden_size"),
        ],
        "down_proj",
        "mlp",
    )


def experts_mlp() -> Block:
    return block(
        ["hidden_states"],
        [
            node(
                "gate",
                "router",
                {"x": "hidden_states"},
                size="=hidden_size",
                num_experts="=num_experts",
                top_k="=num_experts_per_tok",
            ),
            node(
                "experts",
                "experts",
                {"x": "hidden_states", "indices": "gate.indices", "weights": "gate.weights"},
                size="=hidden_size",
                intermediate_size="=intermediate_size",
                num_experts="=num_experts",
                fn="=hidden_act",
            ),
        ],
        "experts",
        "moe",
    )


def decoder_layer(attention_block: str, mlp_block: str) -> Block:
    """A pre-norm layer: attention and MLP, each on a norm of the stream and added back to it."""
    return block(
        ["hidden_states", "cos", "sin"],
        [
            norm("input_layernorm", "hidden_states"),
            use("self_attn", attention_block, hidden_states="input_layernorm", cos="cos", sin="sin"),
            node("self_attn_residual", "add", {"a": "hidden_states", "b": "self_attn"}),
            norm("post_attention_layernorm", "self_attn_residual"),
            use("mlp", mlp_block, hidden_states="post_attention_layernorm"),
            node("mlp_residual", "add", {"a": "self_attn_residual", "b": "mlp"}),
        ],
        "mlp_residual",
        "decoder_layer",
    )


def norm(id: str, x: str) -> Node:
    return node(id, "rms_norm", {"x": x}, size="=hidden_size", eps="=rms_norm_eps")


def use(id: str, name: str, **inputs: str) -> Use:
    return Use(id=id, block=name, inputs=FrozenMap(inputs))


def stack(id: str, name: str, **inputs: str) -> Stack:
    return Stack(id=id, repeat="=num_hidden_layers", kinds=(LayerKind(block=name),), inputs=FrozenMap(inputs))


def _attention_recipe(id: str, title: str, summary: str, source: str, **kind: Any) -> Recipe:
    made = attention(**kind)
    name = "".join(word.capitalize() for word in id.split("_"))
    return Recipe(id, title, "attention", summary, source, name, "self_attn", lambda _: made)


def _layer(inner: Callable[[str, Block], str]) -> Block:
    return decoder_layer(inner("Attention", attention("num_key_value_heads")), inner("MLP", gated_mlp()))


def _experts_layer(inner: Callable[[str, Block], str]) -> Block:
    return decoder_layer(inner("Attention", attention("num_key_value_heads")), inner("SparseMoeBlock", experts_mlp()))


_GQA = "Ainslie et al. 2023, GQA (arXiv:2305.13245)"
_SWIGLU = "Shazeer 2020, GLU Variants Improve Transformer (arXiv:2002.05202)"
_MOE = "Shazeer et al. 2017 (arXiv:1701.06538); Jiang et al. 2024, Mixtral (arXiv:2401.04088)"

RECIPES: Mapping[str, Recipe] = {
    recipe.id: recipe
    for recipe in (
        _attention_recipe(
            "grouped_query_attention",
            "Grouped-query attention",
            "Groups of query heads share a key/value head.",
            _GQA,
            kv_heads="num_key_value_heads",
        ),
        _attention_recipe(
            "multi_head_attention",
            "Multi-head attention",
            "Each query head has keys and values of its own.",
            "Vaswani et al. 2017 (arXiv:1706.03762)",
            kv_heads="num_attention_heads",
        ),
        _attention_recipe(
            "multi_query_attention",
            "Multi-query attention",
            "All query heads share one key/value head.",
            "Shazeer 2019, Fast Transformer Decoding (arXiv:1911.02150)",
            kv_heads="1",
        ),
        _attention_recipe(
            "sliding_window_attention",
            "Sliding-window attention",
            "Each token sees only the last sliding_window tokens.",
            "Beltagy et al. 2020, Longformer (arXiv:2004.05150)",
            kv_heads="num_key_value_heads",
            window="sliding_window",
        ),
        _attention_recipe(
            "nope_attention",
            "Attention without positions",
            "Grouped-query attention that does not turn queries and keys.",
            "Kazemnejad et al. 2023, NoPE (arXiv:2305.19466)",
            kv_heads="num_key_value_heads",
            rotary=False,
        ),
        Recipe(
            "gated_mlp",
            "Gated MLP",
            "mlp",
            "Gate and up projections, multiplied, then down: SwiGLU and its kin.",
            _SWIGLU,
            "GatedMLP",
            "mlp",
            lambda _: gated_mlp(),
        ),
        Recipe(
            "mlp",
            "MLP",
            "mlp",
            "Up, activation, down.",
            "Vaswani et al. 2017 (arXiv:1706.03762)",
            "MLP",
            "mlp",
            lambda _: plain_mlp(),
        ),
        Recipe(
            "decoder_layer",
            "Decoder layer",
            "stack",
            "Pre-norm: attention and a gated MLP, each added to the stream.",
            "Touvron et al. 2023, LLaMA (arXiv:2302.13971)",
            "DecoderLayer",
            "layer",
            _layer,
        ),
        *(
            (
                Recipe(
                    "mixture_of_experts",
                    "Mixture of experts",
                    "moe",
                    "A router picks num_experts_per_tok of num_experts MLPs for each token.",
                    _MOE,
                    "SparseMoeBlock",
                    "mlp",
                    lambda _: experts_mlp(),
                ),
                Recipe(
                    "moe_decoder_layer",
                    "MoE decoder layer",
                    "moe",
                    "A decoder layer whose MLP is a mixture of experts.",
                    _MOE,
                    "MoeDecoderLayer",
                    "layer",
                    _experts_layer,
                ),
            )
            if {"router", "experts"} <= OPS.keys()
            else ()
        ),
    )
}
"""The palette's ready-made blocks."""
