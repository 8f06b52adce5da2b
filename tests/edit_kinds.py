"""One edit of each kind, on the small Llama: what is proven through `apply` is also tried through the command line."""

from typing import Any

from canvas_rt.edits import (
    AddBlock,
    AddConfig,
    AddInput,
    AddNode,
    AddSize,
    Bypass,
    Connect,
    DeleteLayers,
    Disconnect,
    DuplicateLayers,
    GroupNodes,
    InsertLayer,
    MakeUnique,
    MoveLayers,
    PlaceNodes,
    RemoveInput,
    RemoveNode,
    RemoveSize,
    RenameBlock,
    RenameNode,
    ReplaceBlock,
    SetAttr,
    SetConfig,
    SetName,
    SetOutput,
    SetSize,
    SetTokenizer,
    SetWeights,
    SwapLayers,
    Ungroup,
)

LAYER = "model.layers"
LOW_RANK = {
    "inputs": ("hidden_states",),
    "nodes": (
        {
            "id": "down_proj",
            "op": "linear",
            "attrs": {"in_features": "=hidden_size", "out_features": "=rank"},
            "inputs": {"x": "hidden_states"},
        },
        {
            "id": "up_proj",
            "op": "linear",
            "attrs": {"in_features": "=rank", "out_features": "=hidden_size"},
            "inputs": {"x": "down_proj"},
        },
    ),
    "outputs": {"out": "up_proj"},
}
MIXTURE = {
    "inputs": ("hidden_states",),
    "nodes": (
        {
            "id": "gate",
            "op": "router",
            "attrs": {"size": "=hidden_size", "num_experts": "=num_experts", "top_k": "=num_experts_per_tok"},
            "inputs": {"x": "hidden_states"},
        },
        {
            "id": "experts",
            "op": "experts",
            "attrs": {
                "size": "=hidden_size",
                "intermediate_size": "=moe_intermediate_size",
                "num_experts": "=num_experts",
                "fn": "=hidden_act",
            },
            "inputs": {"x": "hidden_states", "indices": "gate.indices", "weights": "gate.weights"},
        },
    ),
    "outputs": {"out": "experts"},
    "role": "moe",
}
"""A block [router, experts], as Mixtral and Qwen3-MoE have it."""


def mixture(where: str = "model.layers.mlp") -> tuple[Any, ...]:
    """Edits that replace MLPs by eight experts, of which two serve a token."""
    return (
        AddSize("num_experts", 8),
        AddSize("num_experts_per_tok", 2),
        AddSize("moe_intermediate_size", 32),
        AddBlock("LlamaSparseMoeBlock", MIXTURE),  # type: ignore[arg-type]
        ReplaceBlock(where, "LlamaSparseMoeBlock"),
    )


NORM = {"size": "=hidden_size", "eps": "=rms_norm_eps"}
EDITS: dict[str, tuple[Any, ...]] = {
    "a size of the model": (SetSize("", "intermediate_size", 112),),
    "its width": (SetSize("", "hidden_size", 96),),
    "depth": (SetSize("", "num_hidden_layers", 6),),
    "heads of some layers": (SetSize(f"{LAYER}.1-2.self_attn", "num_key_value_heads", 3),),
    "two sizes of unlike layers": (
        SetSize(f"{LAYER}.0.mlp", "intermediate_size", 64),
        SetSize(f"{LAYER}.3.self_attn", "num_key_value_heads", 1),
    ),
    "an activation": (SetConfig("hidden_act", "gelu"),),
    "a bias": (SetConfig("attention_bias", True),),
    "ties": (SetConfig("tie_word_embeddings", True),),
    "a window in one layer": (SetAttr(f"{LAYER}.2.self_attn.attention", "window", 6),),
    "a scale": (SetAttr(f"{LAYER}.self_attn.attention", "scale", 0.25),),
    "a bias in one place": (SetAttr(f"{LAYER}.0.mlp.down_proj", "bias", True),),
    "a norm more": (
        AddNode("model", {"id": "embedding_norm", "op": "rms_norm", "attrs": NORM, "inputs": {"x": "embed_tokens"}}),
        Connect("model.layers", "hidden_states", "embedding_norm"),
    ),
    "a factor on the logits": (
        AddNode("", {"id": "softened", "op": "scale", "attrs": {"factor": 0.5}, "inputs": {"x": "lm_head"}}),
        SetOutput("", "logits", "softened"),
    ),
    "probabilities for logits": (
        AddNode("", {"id": "probabilities", "op": "softmax", "inputs": {"x": "lm_head"}}),
        SetOutput("", "logits", "probabilities"),
    ),
    "a softmax before a norm": (
        AddNode(f"{LAYER}.mlp", {"id": "choice", "op": "softmax", "inputs": {"x": "gated"}}),
        Connect(f"{LAYER}.mlp.down_proj", "x", "choice"),
        AddNode(LAYER, {"id": "weighed", "op": "softmax", "inputs": {"x": "self_attn_residual"}}),
        Connect(f"{LAYER}.post_attention_layernorm", "x", "weighed"),
    ),
    "experts": mixture(),
    "experts in some layers": mixture(f"{LAYER}.1-2.mlp"),
    "experts that differ": (
        *mixture(),
        SetSize(f"{LAYER}.0.mlp", "num_experts", 4),
        SetSize(f"{LAYER}.2.mlp", "num_experts_per_tok", 3),
        SetAttr(f"{LAYER}.3.mlp.gate", "scoring", "sigmoid"),
        SetAttr(f"{LAYER}.3.mlp.gate", "normalise", False),
        SetAttr(f"{LAYER}.3.mlp.experts", "fn", "gelu"),
    ),
    "nodes of a mixture": (
        *mixture(f"{LAYER}.0.mlp"),
        Ungroup(f"{LAYER}.0.mlp"),
        AddNode(
            f"{LAYER}.0", {"id": "halved", "op": "scale", "attrs": {"factor": 0.5}, "inputs": {"x": "gate.weights"}}
        ),
        Connect(f"{LAYER}.0.experts", "weights", "halved"),
    ),
    "a norm on queries": (
        AddNode(
            f"{LAYER}.self_attn",
            {"id": "q_norm", "op": "rms_norm", "attrs": {"size": "=head_dim"}, "inputs": {"x": "q"}},
        ),
        Connect(f"{LAYER}.self_attn.rotary", "q", "q_norm"),
    ),
    "a parallel residual": (Connect(f"{LAYER}.post_attention_layernorm", "x", "hidden_states"),),
    "no attention in a layer": (Bypass(f"{LAYER}.0.self_attn_residual", "a"),),
    "no norm at the end": (Bypass("model.norm", "x"),),
    "a name": (RenameNode(f"{LAYER}.mlp.gated", "product"), RenameNode(f"{LAYER}.mlp.up_proj", "widen")),
    "a layer more": (InsertLayer(LAYER, 2),),
    "layers fewer": (DeleteLayers(f"{LAYER}.1-2"),),
    "layers twice": (DuplicateLayers(f"{LAYER}.1-2"),),
    "layers elsewhere": (MoveLayers(f"{LAYER}.0-1", 2),),
    "layers swapped": (SwapLayers(LAYER, 0, 3),),
    "a group": (GroupNodes(f"{LAYER}.mlp", ("act_fn", "gated"), "Gate", "gate"),),
    "a group undone": (Ungroup(f"{LAYER}.mlp"),),
    "a copy of a block": (MakeUnique(f"{LAYER}.1.mlp"), SetAttr(f"{LAYER}.1.mlp.act_fn", "fn", "relu")),
    "another block": (
        MakeUnique(f"{LAYER}.1"),
        SetAttr(f"{LAYER}.1.mlp.act_fn", "fn", "relu"),
        ReplaceBlock(f"{LAYER}.3", "LlamaDecoderLayer2"),
    ),
    "a wire cut and joined elsewhere": (
        Disconnect(f"{LAYER}.mlp.down_proj", "x"),
        Connect(f"{LAYER}.mlp.down_proj", "x", "act_fn"),
    ),
    "a plain MLP": (
        Connect(f"{LAYER}.mlp.down_proj", "x", "act_fn"),
        RemoveNode(f"{LAYER}.mlp.gated"),
        RemoveNode(f"{LAYER}.mlp.up_proj"),
    ),
    "a new block": (
        AddSize("rank", 8),
        AddBlock("LowRank", LOW_RANK),
        ReplaceBlock(f"{LAYER}.1.mlp", "LowRank"),
    ),
    "a stack of other layers": (
        AddNode(
            "model",
            {
                "id": "blocks",
                "repeat": 3,
                "kinds": ({"block": "LlamaDecoderLayer"},),
                "inputs": {"hidden_states": "embed_tokens", "cos": "rotary_emb.cos", "sin": "rotary_emb.sin"},
            },
        ),
        Connect("model.norm", "x", "blocks"),
        RemoveNode("model.layers"),
    ),
    "another input": (
        AddInput(f"{LAYER}.mlp", "before"),
        Connect(f"{LAYER}.mlp", "before", "hidden_states"),
        AddNode(f"{LAYER}.mlp", {"id": "again", "op": "add", "inputs": {"a": "down_proj", "b": "before"}}),
        SetOutput(f"{LAYER}.mlp", "out", "again"),
    ),
    "an input less": (
        AddInput(f"{LAYER}.mlp", "before"),
        Connect(f"{LAYER}.mlp", "before", "hidden_states"),
        RemoveInput(f"{LAYER}.mlp", "before"),
    ),
    "all but the graph": (
        SetName("Mine"),
        SetTokenizer({"name": "llama-3", "vocab_size": 128256}),
        RenameBlock("LlamaMLP", "GatedMLP"),
        PlaceNodes("GatedMLP", {"act_fn": (1.0, 2.0), "return": (3.0, 4.0)}),
        AddSize("rank", 8),
        RemoveSize("rank"),
        AddSize("width", "=hidden_size // 2"),
        AddConfig("note", {"of": ["the", 1]}),
    ),
    "weights of its own": (SetWeights(f"{LAYER}.0.mlp.up_proj", "=zeros"),),
    "a node less": (Bypass(f"{LAYER}.mlp.act_fn", "x"),),
}
PRESERVING = {
    "a size of the model",
    "depth",
    "a bias",
    "a bias in one place",
    "a name",
    "a layer more",
    "a group",
    "a group undone",
    "an input less",
    "all but the graph",
}
"""Those after which the model still computes what it did, with the weights that it had."""
