"""Choose small, valid and unlike values for the numbers of a config, so that a trace tells which is which."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from canvas_rt.importer.config.fields import LAYERS
from canvas_rt.importer.config.relations import CHOSEN, EXPERTS
from canvas_rt.ir.expressions import parse
from canvas_rt.ops.choices import ACTIVATIONS

PROBES = 3
"""Traces that a number must agree in. The values are unlike, so a chance agreement in all three does not happen."""

Assignment = Mapping[str, Any]
Three = tuple[int, int, int]

UNPROBED = ("num_hidden_layers", "initializer_range", "pretraining_tp")
"""Numbers that shape no tensor of a layer: depth becomes a stack's count, the others act at initialisation or not at all."""

KNOWN: Mapping[str, Three] = {
    "num_key_value_heads": (2, 3, 5),
    "num_attention_heads": (4, 12, 15),
    **dict.fromkeys(("encoder_attention_heads", "num_encoder_attention_heads"), (6, 8, 10)),
    "hidden_size": (72, 96, 330),
    "head_dim": (6, 10, 14),
    "intermediate_size": (44, 52, 76),
    "vocab_size": (118, 134, 146),
    "max_position_embeddings": (256, 320, 448),
    "pad_token_id": (3, 7, 9),
    # images in patches
    "image_size": (60, 56, 65),
    "patch_size": (10, 7, 13),
    "num_channels": (3, 2, 5),
    # a second kind of attention
    "num_kv_heads": (2, 3, 5),
    "swa_num_key_value_heads": (3, 2, 4),
    "swa_num_attention_heads": (9, 14, 8),
    "swa_head_dim": (16, 20, 26),
    "global_head_dim": (18, 22, 30),
    "qk_rope_head_dim": (8, 12, 20),
    "rotary_dim": (4, 6, 10),
    "index_n_heads": (7, 4, 6),
    "index_topk": (5, 9, 8),
    "index_head_dim": (24, 36, 42),
    # linear attention
    "linear_num_key_heads": (2, 5, 3),
    "linear_num_value_heads": (6, 10, 12),
    "linear_num_heads": (7, 8, 11),
    "linear_head_dim": (10, 14, 24),
    "linear_key_head_dim": (10, 14, 24),
    "linear_value_head_dim": (12, 18, 28),
    # state spaces: expand × hidden_size = heads × channels of a head
    "mamba_expand": (2, 3, 4),
    "expand": (2, 3, 4),
    "num_heads": (16, 18, 40),
    "mamba_n_heads": (16, 18, 40),
    "n_mamba_heads": (16, 18, 40),
    "mamba_num_heads": (16, 18, 40),
    "mamba_d_head": (9, 16, 33),
    "mamba_head_dim": (10, 16, 34),
    "mamba_n_groups": (4, 6, 8),
    "mamba_ngroups": (4, 6, 8),
    "n_groups": (4, 6, 8),
    "mamba_d_conv": (3, 5, 6),
    "conv_kernel": (3, 5, 6),
    "linear_conv_kernel_dim": (3, 5, 6),
    "conv_kernel_size": (3, 5, 6),
    "short_conv_kernel_size": (3, 5, 6),
    "conv_L_cache": (3, 5, 6),
    "conv1d_width": (3, 5, 6),
    # experts in groups
    "n_group": (2, 3, 4),
    "num_expert_group": (2, 3, 4),
    "topk_group": (1, 2, 3),
    **dict.fromkeys(EXPERTS, (10, 18, 28)),
    **dict.fromkeys(CHOSEN, (3, 5, 11)),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), (3, 2, 6)),
    "moe_intermediate_size": (20, 28, 38),
    "expert_ffn_hidden_size": (20, 28, 38),
    "shared_expert_intermediate_size": (22, 30, 46),
    "moe_shared_expert_intermediate_size": (22, 30, 46),
    "shared_intermediate_size": (22, 30, 46),
    "shared_experts_intermediate_size": (22, 30, 46),
    # a block-diagonal projection of the heads' output
    "o_groups": (2, 4, 3),
    # factors of a width
    "expansion_ratio": (4, 3, 6),
    "intermediate_multiple_size": (4, 3, 6),
    "adapter_reduction_factor": (4, 3, 6),
    # smaller vocabularies and lengths than the model's own
    "unpadded_vocab_size": (114, 130, 142),
    "vocab_size_per_layer_input": (122, 138, 150),
    "original_max_position_embeddings": (64, 80, 112),
}
"""Values that go with one another, one for each probe: heads come in equal groups, hidden_size in even heads."""

DERIVED: tuple[tuple[str, str, str], ...] = (
    ("num_key_value_heads", "num_attention_heads", "kv_lora_rank"),
    ("head_dim", "qk_rope_head_dim", "kv_lora_rank"),
    ("head_dim", "qk_nope_head_dim + qk_rope_head_dim", "kv_lora_rank"),
    ("qk_head_dim", "qk_nope_head_dim + qk_rope_head_dim", ""),
    ("attention_hidden_size", "2 * hidden_size", ""),
    ("attention_hidden_size", "hidden_size", ""),
    ("d_head", "hidden_size // num_attention_heads", ""),
    ("decoder_vocab_size", "vocab_size", ""),
    ("mamba_d_head", "mamba_expand * hidden_size // mamba_n_heads", ""),
    ("mamba_d_ssm", "mamba_n_heads * mamba_d_head", ""),
    ("head_dim", "expand * hidden_size // num_heads", "expand"),
    ("lru_width", "hidden_size", ""),
    ("embedding_dim", "hidden_size", ""),
    ("embedding_size", "hidden_size", ""),
    ("word_embed_proj_dim", "hidden_size", ""),
    ("input_embedding_size", "hidden_size", ""),
    ("output_embedding_size", "hidden_size", ""),
    ("num_kv_heads", "num_attention_heads", ""),
)
"""Numbers that equal an expression in others, where a config has the field of the third column: what holds in the config
holds in the probes."""

OF_A_TYPE: Mapping[str, Mapping[str, Three | str | None]] = {
    "codegen": {"num_attention_heads": (4, 12, 20)},  # weights are kept in four parts
    "diffllama": {"attention_dropout": None, "num_key_value_heads": (2, 4, 6), "num_attention_heads": (4, 8, 18)},
    "esmc": {"num_key_value_heads": "num_attention_heads", "head_dim": "hidden_size // num_attention_heads"},
    "helium": {"head_dim": "hidden_size // num_attention_heads"},
    "mimo_v2_flash": {"num_attention_heads": (4, 12, 20)},  # windowed layers have twice as many key/value heads
    "qwen4_exp_text": {"ple_embed_dim": None},
    "reformer": {"hidden_size": None},  # a list of widths makes it up
    "xlstm": {"hidden_size": (128, 256, 384), "num_heads": (4, 8, 16), "ffn_round_up_to_multiple_of": None},
}
"""What single model types insist on: values, an expression in others, or (None) what the config has."""

WITH_A_LIST = {"num_attention_heads_per_layer": ("num_attention_heads", "num_key_value_heads")}
"""Numbers that keep their values where layers have theirs in a list."""

PINNED = (
    r"first_k_dense_replace|num_nextn_\w+|num_hidden_groups|inner_group_num|indexer_\w+|cross_attn_k|encoder_hash_\w+|local_attention_window_len"
    r"|\w*(period|offset|interval|step|pattern|freq|every\w*|_index|_idx)"
    r"|\w*codebooks|altup_\w+|\w+_cycles|\w*iters|num_hashes|\w*ngram\w*|hc_count|hc_mult|seed|hash_seed"
    r"|num_buckets|time_step_\w+|\w+_std|\w*factor|\w*dim_multiplier|embedding_fraction|\w*patch\w*|\w*image\w*|\w+_channels"
)
"""Fields that say how a model is put together rather than how large it is, by name: they keep their values."""

IMAGES = frozenset({"image_size", "patch_size", "num_channels"})
"""Sizes of an image and its patches, where a config has them all: those of a model that takes images."""

SCALES = r"(routed_scaling|router_scaling|moe_routed_scaling|attn_scale)_factor"
"""Factors that are plain numbers of the graph, whatever their name looks like."""


FAMILIES = (
    r".*(expert|topk|top_k|group|moe).*",
    r".*(mamba|linear|conv|chunk|state|expand|ssm|time_step).*|num_heads",
    r".*(rope|rotary|head_dim).*",
)
"""Numbers that are pinned together where a model cannot be made at others."""

BASIC = ("vocab_size", "intermediate_size", "hidden_size", "num_attention_heads", "num_key_value_heads")
"""Sizes that stay unlike longest."""


def probe_assignments(
    config: Mapping[str, Any],
    pinned: Collection[str] = (),
    overrides: Collection[Mapping[str, Any]] = (),
    model_type: str | None = None,
    builds: Callable[[Assignment], bool] | None = None,
) -> tuple[dict[str, Any], ...]:
    """Small, valid and mutually unlike values for every number in a config; those in `pinned` keep theirs.

    Query heads stay a multiple of key/value heads, hidden_size an even multiple of query heads, and head_dim even: the
    tables above say what goes together. Other integers, `overrides` of layers included, stay in order: experts chosen for
    a token are not more than there are. With `builds`, which tells whether a model can be made, families of numbers are
    pinned one after the other until all three can.
    """
    own = OF_A_TYPE.get((model_type or "").removeprefix("canvas_"), {})
    for also in _attempts(config) if builds is not None else (frozenset[str](),):
        kept = frozenset(pinned) | also | {name for name, rule in own.items() if rule is None}
        found = tuple(_assignment(config, probe, kept, overrides, own) for probe in range(PROBES))
        if builds is None or all(map(builds, found)):
            break
    return found


def _attempts(config: Mapping[str, Any]) -> Iterator[frozenset[str]]:
    """Fields to pin, fewest first."""
    pinned: frozenset[str] = frozenset()
    yield pinned
    for family in FAMILIES:
        more = frozenset(name for name in config if re.fullmatch(family, name))
        if more - pinned:
            pinned |= more
            yield pinned
    yield frozenset(config) - frozenset(BASIC)
    yield frozenset(config)


def probe_override(
    name: str, value: int, probe: int, config: Mapping[str, Any], overrides: Collection[Mapping[str, Any]]
) -> int | None:
    """The value in a probe of a size that layers have for themselves; None where it goes by what it is called."""
    rank = _ranks(config, overrides).get((name, value))
    return None if rank is None else _unlike(rank, probe)


def is_probed(name: str, value: Any) -> bool:
    """Whether a config value is a number that a graph may depend on."""
    if isinstance(value, bool) or not isinstance(value, int | float) or name in UNPROBED:
        return False
    if re.fullmatch(LAYERS, name):  # a count of layers is the config's own
        return False
    if name == "pad_token_id":  # it is the embedding's padding_idx; a negative one counts from the end
        return value >= 0
    return not name.endswith(("_token_id", "_ids", "_token_index"))


def _is_pinned(name: str, value: Any) -> bool:
    """Whether a number keeps its value: by its name, or because nothing is what it counts."""
    if re.fullmatch(SCALES, name):
        return False
    if re.fullmatch(PINNED, name):
        return True
    if isinstance(value, float):
        return value != value or abs(value) == float("inf") or (value <= 0 and not _is_share(name))
    alone = name in CHOSEN or name in ("n_group", "num_expert_group", "topk_group")
    return value <= (1 if alone else 0) and name != "pad_token_id"


def _is_share(name: str) -> bool:
    return re.fullmatch(r".*(dropout|pdrop|layerdrop|_prob|jitter).*", name) is not None


# numbers without a rule of their own

Ranks = Mapping[tuple[str, int], int]


def _ranks(config: Mapping[str, Any], overrides: Collection[Mapping[str, Any]]) -> Ranks:
    """Integers without a rule of their own, smallest first."""
    order = {name: index for index, name in enumerate(config)}
    ruled = _known(config, overrides)
    found = {
        (name, value)
        for table in (config, *overrides)
        for name, value in table.items()
        if isinstance(value, int) and is_probed(name, value) and name not in ruled
    }
    return {
        pair: rank for rank, pair in enumerate(sorted(found, key=lambda pair: (pair[1], order.get(pair[0], 0), pair)))
    }


def _known(config: Mapping[str, Any], overrides: Collection[Mapping[str, Any]]) -> frozenset[str]:
    """Fields whose values are in the tables. Experts stay in order with those that layers have for themselves."""
    experts = frozenset((*EXPERTS, *CHOSEN))
    by_layer = any(experts & own.keys() for own in overrides)
    chosen = [config[name] for name in CHOSEN if isinstance(config.get(name), int)]
    many = [config[name] for name in EXPERTS if isinstance(config.get(name), int)]
    unordered = by_layer or (chosen and many and max(chosen) >= min(many))
    return frozenset(KNOWN) - (experts if unordered else frozenset())


def _unlike(rank: int, probe: int) -> int:
    """An even number: larger by rank, and by uneven steps, so that no two pairs have the same sum in every probe."""
    return 2 * (17 + 23 * probe + 7 * rank + (rank * rank * (5 + probe) + rank * probe) % 7)


# one assignment


def _assignment(
    config: Mapping[str, Any],
    probe: int,
    pinned: frozenset[str],
    overrides: Collection[Mapping[str, Any]],
    own: Mapping[str, Three | str | None],
) -> dict[str, Any]:
    names = [name for name, value in config.items() if is_probed(name, value)]
    known, ranks = _known(config, overrides), _ranks(config, overrides)
    listed = {name for field, names in WITH_A_LIST.items() if config.get(field) for name in names}
    sizes = IMAGES if all(is_probed(name, config.get(name)) for name in IMAGES) else frozenset[str]()
    kept = {n for n in names if n in pinned | listed or (n not in sizes and _is_pinned(n, config[n]))}
    values: dict[str, Any] = {}
    for index, name in enumerate(names):
        if name in kept:
            values[name] = config[name]
        elif isinstance(config[name], float):
            values[name] = _number(name, index, probe)
        elif name in known:
            rule = own.get(name)
            values[name] = (rule if isinstance(rule, tuple) else KNOWN[name])[probe]
        else:
            values[name] = _unlike(ranks[name, config[name]], probe)
    for fit in (_fit_heads, _fit_derived, _fit_rotary):
        fit(values, config, probe, kept | own.keys())
    for name, rule in own.items():
        if isinstance(rule, str) and name in values and name not in pinned:
            values[name] = parse(rule).evaluate(values)
    return values


def _number(name: str, index: int, probe: int) -> float:
    """A number with a fraction: unlike every other, and of a size that goes with its name."""
    value = (1 + probe) * (0.011 + 0.0017 * index)
    if name.endswith("theta"):
        return 1e5 * value
    return value * (1e-4 if name.endswith(("eps", "epsilon")) else 1)


def _fit_heads(values: dict[str, Any], config: Mapping[str, Any], probe: int, kept: Collection[str]) -> None:
    """Heads in equal groups and hidden_size in equal heads, also where one of these keeps its value."""
    groups = _nested_groups(config) or (values.get("num_key_value_heads") if "num_key_value_heads" in kept else None)
    if groups and "num_attention_heads" in values and "num_attention_heads" not in kept:
        values["num_attention_heads"] = groups * (2, 4, 3)[probe]
    if "hidden_size" in kept or "num_attention_heads" in kept:
        for name in ("num_attention_heads", "num_key_value_heads"):
            if name in values:
                values[name] = config[name]
    heads = values.get("num_attention_heads")
    if heads and "hidden_size" in values and "hidden_size" not in kept:
        values["hidden_size"] = heads * _head_width(config, probe)
    for name in {"encoder_attention_heads", "num_encoder_attention_heads"} & values.keys():
        if values.get("hidden_size", 0) % values[name]:
            values[name] = config[name] if name in kept else heads


def _nested_groups(config: Mapping[str, Any]) -> int | None:
    """Key/value heads that a config within the config gives."""
    table = config.get("attn_config")
    return table.get("kv_n_heads") if isinstance(table, Mapping) else None


def _head_width(config: Mapping[str, Any], probe: int) -> int:
    return _turned((18, 8, 22)[probe], rotary_share(config))


def rotary_share(config: Mapping[str, Any]) -> float:
    """The share of a head's channels that rotary positions turn."""
    tables = [config.get("rope_parameters"), *(config.get("rope_parameters") or {}).values()]
    shares = [table.get("partial_rotary_factor") for table in tables if isinstance(table, Mapping)]
    shares.append(config.get("partial_rotary_factor"))
    return min((share for share in shares if isinstance(share, int | float)), default=1.0)


def _turned(width: int, share: float) -> int:
    """The next even width of which the turned share is even too."""
    while share < 1 and (int(width * share) % 2 or int(width * share) < 2):
        width += 2
        if width > 512:
            return width
    return width


def _fit_derived(values: dict[str, Any], config: Mapping[str, Any], probe: int, kept: Collection[str]) -> None:
    """What equals an expression in the config equals it in the probe."""
    for name, text, needs in DERIVED:
        names = parse(text).names
        if name not in values or name in kept or (needs and needs not in config) or not names <= config.keys():
            continue
        if all(isinstance(config[other], int) for other in names) and parse(text).evaluate(config) == config[name]:
            values[name] = parse(text).evaluate({**config, **values})


def _fit_rotary(values: dict[str, Any], config: Mapping[str, Any], probe: int, kept: Collection[str]) -> None:
    """Widths of heads of which an even share is turned, and rotary tables with as many entries as channels turn."""
    if "head_dim" in values and "head_dim" not in kept and not _is_derived("head_dim", config):
        values["head_dim"] = _turned(values["head_dim"], rotary_share(config))
    rope, heads, hidden = config.get("rope_parameters"), values.get("num_attention_heads"), values.get("hidden_size")
    width = values.get("qk_rope_head_dim") or values.get("head_dim") or (hidden // heads if hidden and heads else 0)
    if isinstance(rope, Mapping) and width:
        resized = resize_rotary(rope, width)
        if resized != rope:
            values["rope_parameters"] = resized


def resize_rotary(rope: Mapping[str, Any], width: int) -> dict[str, Any]:
    """A table of rotary parameters whose lists are as long as heads of a width ask for."""
    if any(isinstance(inner, Mapping) for inner in rope.values()):
        return {key: resize_rotary(t, width) if isinstance(t, Mapping) else t for key, t in rope.items()}
    pairs = int(width * (rope.get("partial_rotary_factor") or 1.0)) // 2
    resized = dict(rope)
    for name in ("short_factor", "long_factor"):
        if rope.get(name):
            resized[name] = [rope[name][index % len(rope[name])] for index in range(pairs)]
    if rope.get("mrope_section") and sum(rope["mrope_section"]) != pairs:
        others = len(rope["mrope_section"]) - 1
        each = pairs // (others + 1)
        resized["mrope_section"] = [pairs - others * each, *[each] * others]
    return resized


def _is_derived(name: str, config: Mapping[str, Any]) -> bool:
    return any(
        name == own
        and (not needs or needs in config)
        and parse(text).names <= config.keys()
        and all(isinstance(config[other], int) for other in parse(text).names)
        and parse(text).evaluate(config) == config[name]
        for own, text, needs in DERIVED
    )


def alternative(name: str, value: Any) -> Any:
    """Another valid value for a flag, an activation or an unset number; None where there is none to try."""
    if name == "tie_word_embeddings":  # changes which parameters there are, never the graph
        return None
    if isinstance(value, bool):
        return not value
    if isinstance(value, str) and value in ACTIVATIONS:
        return "relu" if value != "relu" else "silu"
    if value is None and name in ("sliding_window", "pad_token_id"):
        return 11
    return None


def inputs_of(probe: int) -> tuple[int, int, int]:
    """Batch, sequence, and what an encoder reads, of a probe: unlike each other and every size."""
    return (3, 2, 4)[probe], (19, 31, 23)[probe], (29, 13, 37)[probe]
