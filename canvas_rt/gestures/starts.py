"""Documents to begin from when there is no model to import."""

from canvas_rt.gestures.recipes import (
    USUAL,
    USUAL_CONFIG,
    attention,
    decoder_layer,
    gated_mlp,
    linear,
    node,
    norm,
    stack,
    use,
)
from canvas_rt.ir.document import Block, Document, Origin
from canvas_rt.ir.files import with_origin
from canvas_rt.ir.frozen import FrozenMap

_ALWAYS = {
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": True,
}


def skeleton() -> Document:
    """The usual decoder-only language model, small, with every size symbolic."""
    blocks = {
        "Attention": attention("num_key_value_heads"),
        "MLP": gated_mlp(),
        "DecoderLayer": decoder_layer("Attention", "MLP"),
        "Model": Block(
            inputs=("input_ids",),
            nodes=(
                node(
                    "embed_tokens",
                    "embedding",
                    {"ids": "input_ids"},
                    num_embeddings="=vocab_size",
                    embedding_dim="=hidden_size",
                    padding_idx="=pad_token_id",
                ),
                node("position_ids", "position_ids", {}),
                node(
                    "rotary_emb",
                    "rotary_embedding",
                    {"position_ids": "position_ids"},
                    head_dim="=head_dim",
                    parameters="=rope_parameters",
                    max_position_embeddings="=max_position_embeddings",
                ),
                stack(
                    "layers", "DecoderLayer", hidden_states="embed_tokens", cos="rotary_emb.cos", sin="rotary_emb.sin"
                ),
                norm("norm", "layers"),
            ),
            outputs=FrozenMap({"out": "norm"}),
            role="backbone",
        ),
        "ForCausalLM": Block(
            inputs=("input_ids",),
            nodes=(
                use("model", "Model", input_ids="input_ids"),
                linear("lm_head", "model", "hidden_size", "vocab_size"),
            ),
            outputs=FrozenMap({"logits": "lm_head"}),
            role="causal_lm",
        ),
    }
    names = [name for name in USUAL if name not in ("num_experts", "num_experts_per_tok", "sliding_window")]
    document = Document(
        name="skeleton",
        root="ForCausalLM",
        sizes=FrozenMap({name: USUAL[name] for name in names}),
        config=FrozenMap({**USUAL_CONFIG, **_ALWAYS}),
        blocks=FrozenMap(blocks),
        ties=FrozenMap({"lm_head.weight": "model.embed_tokens.weight"}),
    )
    return with_origin(document, Origin(source="skeleton"))


def blank() -> Document:
    """A model that reads token ids and does nothing with them yet: the stack, the backbone and the head are to be drawn."""
    full = skeleton()
    embed = full.blocks["Model"].by_id["embed_tokens"]
    model = Block(inputs=("input_ids",), nodes=(embed,), outputs=FrozenMap({"out": "embed_tokens"}), role="backbone")
    blocks = FrozenMap({"Model": model, "ForCausalLM": full.blocks["ForCausalLM"]})
    document = full.replace(name="blank", blocks=blocks, origin=Origin())
    return with_origin(Document.model_validate(document.model_dump()), Origin(source="blank"))
