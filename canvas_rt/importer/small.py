"""Make a small valid config of any model type: few parameters, and a layer of every kind."""

import re
from collections.abc import Mapping
from typing import Any

from canvas_rt.importer.config.check import REQUIRED, imports_text
from canvas_rt.importer.config.classes import (
    DECODER,
    ENCODERS,
    START,
    config_class,
    fields_of,
    model_class_name,
    tasks_of,
    text_field,
    text_type,
)
from canvas_rt.importer.config.fields import LISTS
from canvas_rt.importer.config.refused import INERT
from canvas_rt.importer.trace import quiet
from canvas_rt.ir.tasks import Task

SIZES: tuple[tuple[str, int], ...] = (
    (r"vocab_size|decoder_vocab_size|vocab_size_per_layer_input|unpadded_vocab_size", 96),
    (r"hidden_size|hidden_size_global|input_embedding_size|output_embedding_size", 64),
    (
        r"intermediate_size|d_inner|dff|dim_ff|ffn_dim|feed_forward_size|ffn_hidden_size|intermediate_size_mlp|encoder_ffn_dim",
        80,
    ),
    (r"num_attention_heads|swa_num_attention_heads|linear_num_value_heads|num_heads|index_n_heads|linear_num_heads", 4),
    (r"(num_)?encoder_attention_heads", 2),
    (r"num_key_value_heads|swa_num_key_value_heads|linear_num_key_heads|n_groups|mamba_ngroups|kv_n_heads", 2),
    (r"moe_intermediate_size|shared_\w+_size|moe_shared_\w+_size|dense_intermediate_size|expert_ffn_hidden_size", 48),
    (r"n_routed_experts|num_experts|num_local_experts|moe_num_experts", 8),
    (r"num_experts_per_tok|moe_topk|moe_k|top_k_experts|moe_top_k|n_group|num_expert_group", 2),
    (r"topk_group|first_k_dense_replace|num_dense_layers|n_shared_experts|num_shared_experts|num_layers_per_stack", 1),
    (r"zero_expert_num|index_topk_blocks", 4),
    (r"num_layers|num_blocks|depth|(num_)?encoder_layers", 2),
    (r"max_position_embeddings|n_ctx|max_target_positions|max_source_positions", 128),
    (r"original_max_position_embeddings|position_bias_max_distance|relative_max_distance|rel_extent", 32),
    (r"sliding_window|window_size|local_attention|index_topk|index_block_size|keep_window_size", 8),
    (r"attention_chunk_size|lru_width|laurel_rank|gated_norm_rank|hc_lowrank|router_hidden_size|adapter_rank", 16),
    (r"head_dim|swa_head_dim|qk_nope_head_dim|v_head_dim|index_head_dim|dim_head|attention_head_size", 16),
    (r"qk_rope_head_dim|rotary_dim|hidden_size_per_layer_input|d_rel", 8),
    (r"kv_lora_rank|q_lora_rank|o_lora_rank|embedding_size|pronunciation_embed_dim|shape_embed_dim", 24),
    (r"linear_key_head_dim|linear_value_head_dim|linear_head_dim|mamba_d_state|state_size|ssm_state_size", 8),
    (r"mamba_chunk_size|chunk_size|\w+_chunk_length|block_size|position_bias_num_buckets|num_buckets", 8),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", 8),
    (r"mamba_head_dim|mamba_d_head", 16),
    (r"shape_vocab_size|pronunciation_vocab_size|prompt_types|prompt_length|segment_types|prompt_mid_dim", 16),
)
"""What a size becomes, by its name, where its class's default is larger. Heads of 16 channels make up hidden_size, since
some classes insist on it."""

LARGEST_LEFT = 32
"""A number without a rule is left as it is up to here."""

_LATE_HEADS = {"head_dim": 16}
_WIDE = {"global_head_dim": 32}
_CODEBOOK = {"num_codebooks": 1}  # with more, a batch holds a row of tokens for each

SPECIAL: Mapping[str, Mapping[str, Any]] = {
    "bamba": {"num_hidden_layers": 3, "attn_layer_indices": [1]},
    "blt": {"use_cache": False},
    "cohere_compass_text": {
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
        },
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_hidden_layers": 3, "first_k_dense_replace": 1, "num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {
        "num_hidden_layers": 4,
        "layer_types": ["indexed_attention", "indexed_attention", "sliding_attention", "indexed_attention"],
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "sliding_window": 8,
        "head_dim": 24,
        "per_layer_config": {
            "2": {
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "q_lora_rank": 24,
                "kv_lora_rank": 16,
                "head_dim": 32,
                "qk_nope_head_dim": 24,
                "v_head_dim": 16,
                "qk_rope_head_dim": 8,
            }
        },
    },
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.95],
    },
    "gemma4_text": _WIDE,
    "gemma4_unified_text": _WIDE,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {
        "num_hidden_layers": 3,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    },
    "hunyuan_v1_dense": _LATE_HEADS,
    "hunyuan_v1_moe": _LATE_HEADS,
    "jamba": {"num_hidden_layers": 5, "attn_layer_period": 3, "attn_layer_offset": 1},
    "laguna": {"num_attention_heads_per_layer": [4, 4, 8]},
    "lfm2_moe": {
        "num_hidden_layers": 4,
        "num_dense_layers": 1,
        "layer_types": ["conv", "conv", "full_attention", "conv"],
    },
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "ministral": _LATE_HEADS,
    "musicgen_decoder": _CODEBOOK,
    "musicgen_melody_decoder": _CODEBOOK,
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    "qwen4_exp_text": {
        "eos_token_id": 2,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
        "ngram_vocab_size_base": 64,
        "ple_layer_ids": [1],
    },
    "recurrent_gemma": {"num_hidden_layers": 4},
    "reformer": {"attn_layers": ["local", "lsh"], "axial_pos_shape": [8, 16], "axial_pos_embds_dim": [16, 48]},
    "xlstm": {"hidden_size": 128},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
    },
}
"""What the constraints of a model type ask for, or what its class leaves open that its model cannot do without."""

EQUAL = (("num_key_value_heads", "num_attention_heads"), ("head_dim", "qk_rope_head_dim"))
"""Sizes that stay equal where a class's defaults are."""


def small_config(model_type: str, task: Task | None = None) -> dict[str, Any]:
    """A small config as a config.json holds it; of a multimodal model type, one that holds the text model's.

    `task`: what it is for; left out, the first of those that its type offers.
    """
    text = text_field(model_type)
    if text is not None and imports_text(model_type):
        return {"model_type": model_type, text: small_config(text_type(model_type, text, {}))}
    small = {"model_type": model_type, **_shrunk(config_class(model_type), task), **SPECIAL.get(model_type, {})}
    offered = tasks_of(model_type)
    if task and task.decodes:
        start = getattr(config_class(model_type), START, None)  # every published config gives one
        small |= {START: 0} if start is None else {START: 3} if start >= small.get("vocab_size", 1) else {}
    if len(offered) > 1:
        small["architectures"] = [model_class_name(model_type, task or offered[0])]
    return small


def _shrunk(cls: Any, task: Task | None = None) -> dict[str, Any]:
    """The fields of a config class whose defaults are too large, made small; an encoder's only where there is one."""
    fields = fields_of(cls)
    alone = any(field.own in DECODER.get(name, ()) for name, field in fields.items()) and not (task and task.decodes)
    small: dict[str, Any] = {}
    for name, field in fields.items():
        if name in INERT or (alone and name in ENCODERS):
            continue
        if field.holds is not None and name not in ("text_config",):
            small[name] = _shrunk(field.holds)
        elif isinstance(field.default, int) and not isinstance(field.default, bool):
            value = _small(name, field.default)
            if value != field.default or name in REQUIRED:
                small[name] = value
    for size, other in EQUAL:
        if size in small and other in small and fields[size].default == fields[other].default:
            small[size] = small[other]
    return {**small, **_layers(cls, small)}


def _small(name: str, default: int) -> int:
    if name.endswith(("_token_id", "_token_index", "_index")):
        known = {"pad": 0, "bos": 1, "eos": 2}
        return known.get(name[:3], 3) if default > 3 else default
    size = next((size for pattern, size in SIZES if re.fullmatch(pattern, name)), LARGEST_LEFT)
    return min(size, default)


def _layers(cls: Any, small: Mapping[str, Any]) -> dict[str, Any]:
    """How many layers show each kind and one more, and the lists that say which is which."""
    if "num_hidden_layers" not in fields_of(cls):
        return {}
    plain = {"num_hidden_layers": 3 if small.get("first_k_dense_replace") else 2}
    try:
        with quiet():
            default = cls()
        values = default.to_dict()
        depth = default.num_hidden_layers
    except Exception:
        return plain
    lists = {
        name: values[name]
        for name in fields_of(cls)
        if name in LISTS and LISTS[name][1] and isinstance(values.get(name), list) and len(values[name]) == depth
    }
    first: dict[str, int] = {}
    for index in range(depth if lists else 0):
        first.setdefault(repr([items[index] for items in lists.values()]), index)
    if len(first) < 2:
        return plain
    kept = sorted({*first.values(), *range(depth)[-1:]})
    return {"num_hidden_layers": len(kept), **{name: [items[i] for i in kept] for name, items in lists.items()}}
