"""Check one field of a config: of the right sort, in range, and by a word that is known."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from canvas_rt.errors import ConfigError, suggest
from canvas_rt.importer.config.classes import Declared
from canvas_rt.ir.document import MOST_LAYERS
from canvas_rt.ir.files import shown

LARGEST_SIZE = 2**31 - 1
MOST_PARTS = 2**16
"""Heads, experts or groups: more than any model has, and few enough to make one by one."""

LARGEST_NUMBER = 2.0**40
DTYPES = ("bfloat16", "float16", "float32", "float64")

Check = Callable[[Any, str], None]


# numbers


def whole(value: Any, path: str, low: int = 1, high: int = LARGEST_SIZE) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"must be a whole number, not {shown(value)}", path=path, hint=f"From {low} to {high}.")
    if not low <= value <= high:
        raise ConfigError(f"must be between {low} and {high}, not {shown(value)}", path=path)


def flag(value: Any, path: str) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"must be true or false, not {shown(value)}", path=path)


def number(value: Any, path: str, low: float, high: float, *, above: bool = False) -> None:
    """A finite number from `low` to `high`; with `above`, not `low` itself."""
    proper = isinstance(value, int | float) and not isinstance(value, bool)
    if not proper or not (low < value if above else low <= value) or not value <= high:
        span = f"above {low:g} and up to {high:g}" if above else f"from {low:g} to {high:g}"
        raise ConfigError(f"must be a number {span}, not {shown(value)}", path=path)


def share(value: Any, path: str) -> None:
    number(value, path, 0, 1)


def positive_share(value: Any, path: str) -> None:
    number(value, path, 0, 1, above=True)


def epsilon(value: Any, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigError(f"must be a number between 0 and 1, not {shown(value)}", path=path, hint="As in 1e-05.")


def theta(value: Any, path: str) -> None:
    number(value, path, 1, 1e15, above=True)


def positive(value: Any, path: str) -> None:
    number(value, path, 0, LARGEST_NUMBER, above=True)


def at_least_nothing(value: Any, path: str) -> None:
    number(value, path, 0, LARGEST_NUMBER)


def finite(value: Any, path: str) -> None:
    number(value, path, -LARGEST_NUMBER, LARGEST_NUMBER)


# tokens, words, tables


def token_id(value: Any, path: str) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not -1 <= value <= LARGEST_SIZE):
        raise ConfigError(f"must be a token id or null, not {shown(value)}", path=path, hint="Set it to null.")


def token_ids(value: Any, path: str) -> None:
    if not isinstance(value, list | tuple):
        token_id(value, path)
        return
    if not value or len(value) > 256 or any(one is None for one in value):
        raise ConfigError(f"must be a token id, a list of them or null, not {shown(value)}", path=path)
    for index, one in enumerate(value):
        token_id(one, f"{path}[{index}]")


def activation(value: Any, path: str) -> None:
    from transformers.activations import ACT2FN

    from canvas_rt.ops.choices import ACTIVATIONS, ALIASES

    known = (*ACTIVATIONS, *ALIASES, *ACT2FN)
    if not isinstance(value, str) or value not in known:
        raise ConfigError(
            f"{shown(value)} is not an activation that Canvas knows", path=path, hint=suggest(shown(value), known)
        )


def dtype(value: Any, path: str) -> None:
    if value is not None and value not in DTYPES:
        raise ConfigError(
            f"{shown(value)} is not a dtype of weights", path=path, hint="One of " + ", ".join(DTYPES) + "."
        )


def only_one(value: Any, path: str) -> None:
    # Once it changed the arithmetic: any other value would be silently ignored.
    if value is not None and (isinstance(value, bool) or value != 1):
        raise ConfigError(f"must be 1, not {shown(value)}: other values have no effect", path=path, hint="Remove it.")


def word(value: Any, path: str, known: Iterable[str]) -> None:
    """One of a few texts."""
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{shown(value)} is not supported", path=path, hint="One of " + ", ".join(known) + ".")


def table(value: Any, path: str) -> None:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"must be an object or null, not {shown(value)}", path=path, hint='As in {"rope_type": "default"}.'
        )


def plain(value: Any, path: str) -> None:
    """A value of an old or rare field: numbers, flags and short texts, alone or in short lists and tables."""
    if isinstance(value, Mapping):
        if len(value) > MOST_LAYERS or not all(isinstance(key, str) and re.fullmatch(r"\w+", key) for key in value):
            raise ConfigError(f"must be an object of few plain fields, not {shown(value)}", path=path)
        for key, inner in value.items():
            plain(inner, f"{path}: {key}")
    elif isinstance(value, list | tuple):
        if len(value) > MOST_LAYERS:
            raise ConfigError(f"has {len(value)} entries; Canvas stops at {MOST_LAYERS}", path=path)
        for index, inner in enumerate(value):
            plain(inner, f"{path}[{index}]")
    elif isinstance(value, str):
        if len(value) > MOST_LAYERS or not value.isprintable():
            raise ConfigError(f"must be a short text, not {shown(value)}", path=path)
    elif isinstance(value, int) and not isinstance(value, bool):
        whole(value, path, -1)
    elif isinstance(value, float):
        finite(value, path)


# lists


def listed(value: Any, path: str, element: Check, most: int = MOST_LAYERS) -> None:
    """A list, each entry checked by itself."""
    if not isinstance(value, list | tuple):
        raise ConfigError(f"must be a list, not {shown(value)}", path=path)
    if len(value) > most:
        raise ConfigError(f"has {len(value)} entries; Canvas stops at {most}", path=path)
    for index, one in enumerate(value):
        element(one, f"{path}[{index}]")


def layer_index(value: Any, path: str) -> None:
    whole(value, path, 0, MOST_LAYERS)


def zero_or_one(value: Any, path: str) -> None:
    whole(int(value) if isinstance(value, bool) else value, path, 0, 1)


def _words(*known: str) -> Check:
    return lambda value, path: word(value, path, known)


LAYER_KINDS = (
    "full_attention",
    "sliding_attention",
    "chunked_attention",
    "indexed_attention",
    "compressed_sparse_attention",
    "heavily_compressed_attention",
    "minimax_m3_sparse",
    "linear_attention",
    "conv",
    "moe",
    "mlp",
    "hybrid",
    "hybrid_sliding",
    "mamba",
    "attention",
    "recurrent",
    "deepseek_sparse_attention",
    "qwen_sparse_attention",
)
"""Kinds of layers, in the words of `layer_types`; old words are those that transformers still translates."""

MLP_KINDS = ("dense", "sparse", "hash_moe", "moe")

NAMED = frozenset({"default_language"})
"""Texts that the config itself gives a meaning to."""

LISTS: Mapping[str, tuple[Check, bool]] = {
    "layer_types": (_words(*LAYER_KINDS), True),
    "layers_block_type": (_words(*LAYER_KINDS), True),
    "mlp_layer_types": (_words(*MLP_KINDS), True),
    "mtp_layer_types": (_words(*LAYER_KINDS), False),
    "mtp_mlp_layer_types": (_words(*MLP_KINDS), False),
    "mtp_layers_block_type": (_words(*LAYER_KINDS), False),
    "indexer_types": (_words("full", "shared"), True),
    "block_types": (_words("recurrent", "attention"), False),
    "attn_layers": (_words("local", "lsh"), False),
    "no_rope_layers": (zero_or_one, True),
    "moe_layer_freq": (zero_or_one, True),
    "mlp_only_layers": (layer_index, False),
    "moe_layers": (layer_index, False),
    "attn_layer_indices": (layer_index, False),
    "full_attn_idxs": (layer_index, False),
    "local_layer_ids": (layer_index, False),
    "mtp_local_layer_ids": (layer_index, False),
    "ple_layer_ids": (layer_index, False),
    "layer_rope_theta": (lambda value, path: number(value, path, 0, 1e15), True),
    "activation_sparsity_pattern": (share, True),
    "num_attention_heads_per_layer": (lambda value, path: whole(value, path, 1, MOST_PARTS), True),
    "time_step_limit": (lambda value, path: number(value, path, 0, math.inf), False),
    "mlp_multipliers": (finite, False),
    "ssm_multipliers": (finite, False),
    "axial_pos_shape": (whole, False),
    "axial_pos_embds_dim": (whole, False),
    "L_bp_cycles": (lambda value, path: whole(value, path, 0, MOST_LAYERS), False),
    "languages": (plain, False),
    "attention_types": (plain, False),
}
"""Fields that are lists: the check of an entry, and whether there is one entry for each layer."""

NOT_EMPTY = ("block_types", "attn_layers")
LENGTHS = {"time_step_limit": 2, "mlp_multipliers": 2, "ssm_multipliers": 5, "axial_pos_shape": 2}
LENGTHS |= {"axial_pos_embds_dim": 2}
"""Lists of one length."""


# which check, by name

ACTIVATED = r"hidden_act|.*_act|(.*_)?activation(_function)?|afn|act_fn|output_gate_type"

WORDS: Mapping[str, tuple[str, ...]] = {
    "attention_type": ("block_sparse", "original_full"),
    "topk_method": ("greedy", "group_limited_greedy", "noaux_tc"),
    "scoring_func": ("softmax", "sigmoid", "sqrtsoftplus"),
    "expert_selection_fn": ("softmax", "sigmoid"),
    "shared_expert_combination_strategy": ("average", "sum"),
    "position_embedding_type": ("rope", "nope", "absolute"),
    "logit_scale": ("inv_sqrt_d_model",),
    "gating": ("per-head", "per-channel"),
    "patching_mode": ("entropy", "space"),
    "pooling": ("eos", "mean"),
    "mamba_ssm_cache_dtype": DTYPES,
}
"""What a text may be, beside its class's default."""

FLOATS: tuple[tuple[str, Check], ...] = (
    (r".*dropout.*|.*_?pdrop|.*layerdrop|.*_prob|.*jitter.*", share),
    (r"initializer_range|.*_std|.*initializer_range", share),
    (r"(.*_)?(eps|epsilon)(_.*)?", epsilon),
    (r".*rope_theta|.*rotary_emb_base|rope_local_base_freq", theta),
    (r"partial_rotary_factor|rotary_pct", positive_share),
    (r".*softcap(ping)?|.*_soft_cap", positive),
    (r".*dim_multiplier|.*_factor|.*_ratio|.*fraction|.*_(min|max|floor)|.*_scale|.*limit", positive),
    (r".*coef(ficient)?", at_least_nothing),
)
"""What a number may be, by its name; any finite number where none fits."""

LAYERS = r"(num_)?(.*_)?layers|n_layers?|num_layers_per_stack|num_blocks|n_layer"
PARTS = (
    r"(num|n)_(?!embd|inner|ctx|positions|embed)\w+|.*_heads|.*experts?(_per_tok\w*)?|top_?k\w*|.*_(topk|top_k)|moe_k"
    r"|.*(kernel|kernel_size|kernel_dim|d_conv)|conv1d_width|conv_L_cache|.*_cycles|.*iters|ngram(_size)?|heads_per_ngram|split_ngram_parts|.*_inputs|expand"
    r"|.*_expand|expansion_ratio|hc_\w+|.*(period|interval|step|offset|freq|pattern|every\w*)"
)
FROM_NOTHING = (
    r"first_k_dense_replace|.*shared_experts?|.*shared\w*_size|num_kv_shared_layers|num_nextn_\w+|num_mtp_layers"
    r"|num_dense_layers|.*offset|.*_start_index|zero_expert_num|max_window_layers|num_hash_layers|.*_active_idx"
    r"|hidden_size_per_layer_input|.*_num_chunks_before|.*_min_masks|num_logits_to_keep|.*seed"
)
"""Counts of what a model may do without."""


NEVER_NULL = (
    rf"{ACTIVATED}|.*dropout.*|.*_?pdrop|.*_prob|.*eps(ilon)?|.*_head_dim|first_k_dense_replace|vocab_size|hidden_size"
    r"|.*experts.*|moe_layer_\w+|cross_attn_k|encoder_hash_\w+_(vocab|functions)|lambda_std_dev|max_window_layers"
    r"|lsh_\w+|block_types|global_head_dim|num_attention_heads|num_hidden_layers|num_dense_layers|.*_size(?!_per)|expand|mamba_(expand|d_\w+|n_\w+)|chunk_size"
)
"""Fields that a class may allow to be null, and its model cannot do without unless the class itself leaves them open."""


def _fits(pattern: str, name: str) -> bool:
    return re.fullmatch(pattern, name) is not None


def bounds(field: Declared) -> tuple[int, int]:
    """The least and the most that a whole number may be."""
    name, default = field.name, field.default
    least = default if isinstance(default, int) and not isinstance(default, bool) and default < 1 else 1
    if _fits(FROM_NOTHING, name):
        least = min(least, 0)
    if _fits(LAYERS, name):
        return least, MOST_LAYERS
    return least, MOST_PARTS if _fits(PARTS, name) else LARGEST_SIZE


def check_whole(field: Declared, value: Any, path: str) -> None:
    """A whole number, in the range of its name."""
    least, most = bounds(field)
    whole(value, path, least, LARGEST_SIZE if most == MOST_LAYERS else most)
    if most == MOST_LAYERS and value > MOST_LAYERS:
        raise ConfigError(f"is {value}; Canvas stops at {MOST_LAYERS} layers", path=path)


def check_float(field: Declared, value: Any, path: str) -> None:
    """A number with a fraction, in the range of its name."""
    check = next((check for pattern, check in FLOATS if _fits(pattern, field.name)), finite)
    lenient = isinstance(field.default, int | float) and not isinstance(field.default, bool)
    if lenient and field.default <= 0 and check in (positive, epsilon):
        check = at_least_nothing if field.default == 0 else finite
    check(value, path)


def check_field(field: Declared, value: Any, path: str, layers: int | None) -> None:
    """One field's value. Raises `ConfigError` that names the field, its value, and a way out."""
    name, sorts = field.name, field.sorts
    if name in ("dtype", "torch_dtype"):
        return dtype(value, path)
    if name.endswith("_num_chunks_after"):
        return whole(value, path, 0, 0)
    if name == "pretraining_tp":
        return only_one(value, path)
    if name == "eos_token_id":
        return token_ids(value, path)
    if _is_token(name):
        return token_id(value, path)
    if value is None and _may_be_null(field):
        return None
    if name == "attention_types" and isinstance(value, list | tuple):
        return _schedule(value, path, layers)
    if name in LISTS:
        return check_list(name, value, path, layers)
    if _fits(ACTIVATED, name) and "str" in sorts:
        return activation(value, path)
    return _by_sort(field, value, path, layers)


def _is_token(name: str) -> bool:
    return name.endswith(("_token_id", "_token_index")) or name in (
        "bos_index",
        "eos_index",
        "pad_index",
        "unk_index",
        "mask_index",
    )


def _may_be_null(field: Declared) -> bool:
    if (field.default is not None or not field.sorts) and _fits(NEVER_NULL, field.name):
        return False
    # Old configs write null for as many key/value heads as query heads, whatever their class takes now.
    return "null" in field.sorts or not field.sorts or field.name == "num_key_value_heads"


def _by_sort(field: Declared, value: Any, path: str, layers: int | None) -> None:
    sorts = field.sorts
    if not sorts:
        return _undeclared(field, value, path)
    if isinstance(value, str) and "str" in sorts and field.name in NAMED:
        return plain(value, path)
    if isinstance(value, str) and "str" in sorts:
        known = field.choices or (
            *WORDS.get(field.name, ()),
            *([field.default] if isinstance(field.default, str) else []),
        )
        return word(value, path, known)
    if isinstance(value, bool) and "bool" in sorts:
        return None
    if isinstance(value, list | tuple) and "list" in sorts:
        return _numbers_by_layer(field, value, path, layers)
    if "float" in sorts:
        return check_float(field, value, path)
    if "int" in sorts:
        return check_whole(field, value, path)
    if "dict" in sorts:
        table(value, path)
        return plain(value, path)
    if "bool" in sorts:
        return flag(value, path)
    if "list" in sorts:
        raise ConfigError(f"must be a list, not {shown(value)}", path=path)
    return word(value, path, field.choices or (*WORDS.get(field.name, ()), *([field.default] if field.default else [])))


def _undeclared(field: Declared, value: Any, path: str) -> None:
    """An old field, by what it looks like."""
    if field.name.endswith(("_dim", "_heads", "_size", "_rank")):
        return whole(value, path)
    if isinstance(value, int) and not isinstance(value, bool) and not any(_fits(p, field.name) for p, _ in FLOATS):
        return whole(value, path, -1, MOST_LAYERS if _fits(f"{LAYERS}|{PARTS}", field.name) else LARGEST_SIZE)
    if isinstance(value, float | int) and not isinstance(value, bool):
        return check_float(field, value, path)
    return plain(value, path)


def _numbers_by_layer(field: Declared, value: Any, path: str, layers: int | None) -> None:
    """A number that layers may have each for themselves."""
    if field.name not in LISTS and not {"int", "float"} & field.sorts:
        return plain(value, path)
    each = check_float if "float" in field.sorts else check_whole
    listed(value, path, lambda one, inner: each(field, one, inner))
    return _as_many(value, path, layers)


def _schedule(value: Any, path: str, layers: int | None) -> None:
    """Kinds of attention in turn, and how often: `[[["global", "local"], 12]]` is for 24 layers."""
    count = 0
    for index, part in enumerate(value):
        proper = isinstance(part, list | tuple) and len(part) == 2 and isinstance(part[0], list | tuple)
        if not proper or not part[0]:
            raise ConfigError(
                f'must be a list such as [["global", "local"], 12], not {shown(part)}', path=f"{path}[{index}]"
            )
        listed(part[0], f"{path}[{index}]", _words("global", "local"))
        whole(part[1], f"{path}[{index}]", 1, MOST_LAYERS)
        count += len(part[0]) * part[1]
    if layers is not None and count != layers:
        raise ConfigError(f"is for {count} layers, but num_hidden_layers is {layers}", path=path)


def check_list(name: str, value: Any, path: str, layers: int | None) -> None:
    """A list by its name: its entries, and how many there are."""
    element, by_layer = LISTS[name]
    if name in NOT_EMPTY and not value:
        raise ConfigError("is empty", path=path, hint="Name a kind of layer.")
    listed(value, path, element)
    if name in LENGTHS and len(value) != LENGTHS[name]:
        raise ConfigError(f"has {len(value)} entries, not {LENGTHS[name]}", path=path)
    if by_layer:
        _as_many(value, path, layers)


def _as_many(value: Any, path: str, layers: int | None) -> None:
    if layers is not None and len(value) != layers:
        raise ConfigError(
            f"has {len(value)} entries, but num_hidden_layers is {layers}", path=path, hint="Give one for each layer."
        )


def is_float(field: Declared) -> bool:
    """Whether a class takes a number with a fraction, so that `0` stands for `0.0`."""
    return "float" in field.sorts and ("int" not in field.sorts or isinstance(field.default, float))


__all__ = ["DTYPES", "LARGEST_SIZE", "MOST_PARTS", "bounds", "check_field", "check_list", "is_float"]
