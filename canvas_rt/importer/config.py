"""Check a stranger's config before any library sees it: every flaw is named by its field."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from canvas_rt.errors import ConfigError, UnsupportedModelError, suggest
from canvas_rt.ir.document import MOST_LAYERS
from canvas_rt.ir.files import shown

SUPPORTED = ("llama", "mistral")
"""Model types whose round trip is proven by tests."""

LARGEST_SIZE = 2**31 - 1
LARGEST_TENSOR = 2**48
"""No matrix of any model comes near as many numbers; beyond, byte counts leave 64 bits."""

ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")
DTYPES = ("bfloat16", "float16", "float32", "float64")
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
HEAD_KINDS = ("ForCausalLM", "LMHeadModel")
"""How the class names of causal language models end."""

REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
"""Sizes that every published config gives: a class's default for one of them would be another model's."""

DEFAULTS: Mapping[str, Mapping[str, Any]] = {"llama": {}, "mistral": {"num_key_value_heads": 8}}
"""What a model type's class takes for a field that is left out, where fields must agree with it."""

BOTH = ("llama", "mistral")
FRACTIONS = ("initializer_range", "attention_dropout")
"""Numbers that may be written `0` and are yet no whole numbers."""


def check_config(raw: Any, name: str = "config.json") -> dict[str, Any]:
    """A config's values, safe to hand to transformers: those that its model type knows, each of the right sort.

    Raises `ConfigError` that names the field, its value and a way out, and `UnsupportedModelError` for model types
    that Canvas does not import.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"holds {_sort(raw)}, not an object of fields", path=name, hint="A config.json is {…}.")
    model_type = _model_type(raw, name)
    for field, refuse in REFUSED.items():
        if refuse is not None and field in raw:
            refuse(raw[field], f"{name}: {field}")
    if model_type not in SUPPORTED:
        raise UnsupportedModelError(
            f"model type {shown(model_type)} cannot be imported yet",
            path=f"{name}: model_type",
            hint=suggest(model_type, SUPPORTED),
        )
    for field in REQUIRED:
        if field not in raw:
            raise ConfigError(
                "is missing", path=f"{name}: {field}", hint=f"Every {model_type} config gives it: add it."
            )
    config: dict[str, Any] = {"model_type": model_type}
    for field, (check, types) in FIELDS.items():
        if field in raw and model_type in types:
            check(raw[field], f"{name}: {field}")
            config[field] = float(raw[field]) if field in FRACTIONS else raw[field]
    _layers(config, name)
    _heads(config, name)
    _padding(config, name)
    _matrices(config, name)
    _rope(config, name)
    return config


def ignored_fields(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields of a config that its model type does not know, so that nothing depends on them."""
    known = {field for field, (_, types) in FIELDS.items() if raw.get("model_type") in types}
    strange = (str(field) for field in raw if field not in known and field not in REFUSED and field not in INERT)
    return tuple(field if field.isprintable() and len(field) <= 60 else shown(field) for field in strange)


def _sort(value: Any) -> str:
    if value is None:
        return "null"
    sorts = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", tuple: "a list"}
    return sorts.get(type(value), type(value).__name__)


def _model_type(raw: Mapping[str, Any], name: str) -> str:
    model_type = raw.get("model_type")
    if isinstance(model_type, str) and model_type:
        return model_type
    known = "Known: " + ", ".join(SUPPORTED) + "."
    if "model_type" not in raw:
        raise ConfigError("is missing", path=f"{name}: model_type", hint=f"A model's config.json has it. {known}")
    raise ConfigError(f"must be a model type's name, not {shown(model_type)}", path=f"{name}: model_type", hint=known)


# fields that ask for what Canvas does not do

Refusal = Callable[[Any, str], None]


def _never(message: str, hint: str) -> Refusal:
    """Refuse a field unless it says nothing."""

    def refuse(value: Any, path: str) -> None:
        if value is None or value is False or value in ("", [], (), {}):
            return
        raise ConfigError(message, path=path, hint=hint)

    return refuse


def _own_attention(value: Any, path: str) -> None:
    if value is not None and value not in ATTENTIONS:
        raise ConfigError(
            f"{shown(value)} is not accepted: Canvas never loads kernels that a config names",
            path=path,
            hint="Remove the field: how attention runs is chosen when the model is loaded.",
        )


def _causal(value: Any, path: str) -> None:
    if value is None:
        return
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise ConfigError(f"must be a list of class names, not {shown(value)}", path=path, hint="Remove the field.")
    other = next((one for one in value if not one.endswith(HEAD_KINDS)), None)
    if other is not None:
        raise ConfigError(
            f"{shown(other)} is no causal language model, which is all that Canvas imports",
            path=path,
            hint="Remove the field to import its backbone with a language model's head.",
        )


def _whole_heads(value: Any, path: str) -> None:
    if value is None or (value == 1 and not isinstance(value, bool)):
        return
    raise ConfigError(
        f"must be 1, not {shown(value)}: this architecture turns all channels of a head", path=path, hint="Remove it."
    )


_CODE = _never(
    "is not accepted: Canvas never runs code that a config names",
    "Remove the field and import the stock architecture that it builds on.",
)
_BY_LAYER = _never(
    "is not supported: layers of this model type are alike",
    "Remove the field; layers of an imported document can then be edited one by one.",
)
_NESTED = _never(
    "is not supported: a config within the config", "Save the text model's config as a config.json of its own."
)
_ENCODER = _never("is not supported: Canvas imports causal language models", "Remove the field.")

REFUSED: Mapping[str, Refusal | None] = {
    "auto_map": _CODE,
    "custom_pipelines": _CODE,
    "trust_remote_code": _CODE,
    "quantization_config": _never("is not supported", "Import the unquantised config."),
    "attn_implementation": _own_attention,
    "_attn_implementation": _own_attention,
    "_attn_implementation_internal": _own_attention,
    "experts_implementation": _own_attention,
    "_experts_implementation": _own_attention,
    "_experts_implementation_internal": _own_attention,
    "architectures": _causal,
    "layer_types": _BY_LAYER,
    "per_layer_config": _BY_LAYER,
    "text_config": _NESTED,
    "vision_config": _NESTED,
    "audio_config": _NESTED,
    "is_encoder_decoder": _ENCODER,
    "add_cross_attention": _ENCODER,
    "partial_rotary_factor": _whole_heads,
}
"""Fields that are accepted only while they say nothing; none reaches transformers."""

_INERT = (
    "_name_or_path name_or_path _commit_hash transformers_version model_type tokenizer_class torchscript return_dict "
    "use_return_dict output_attentions output_hidden_states use_bfloat16 chunk_size_feed_forward id2label label2id "
    "num_labels problem_type finetuning_task task_specific_params pruned_heads tf_legacy_loss is_decoder "
    "cross_attention_hidden_size prefix sep_token_id decoder_start_token_id forced_bos_token_id forced_eos_token_id "
    "max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p "
    "typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids "
    "num_return_sequences output_scores return_dict_in_generate remove_invalid_values suppress_tokens "
    "begin_suppress_tokens exponential_decay_length_penalty"
)
INERT = frozenset(_INERT.split())
"""Fields of all configs that say nothing of an architecture: they are dropped without a word."""


# one field


def _whole(value: Any, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"must be a whole number, not {shown(value)}", path=path, hint=f"From 1 to {LARGEST_SIZE}.")
    if not 1 <= value <= LARGEST_SIZE:
        raise ConfigError(f"must be between 1 and {LARGEST_SIZE}, not {shown(value)}", path=path)


def _whole_or_null(value: Any, path: str) -> None:
    if value is not None:
        _whole(value, path)


def _flag(value: Any, path: str) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"must be true or false, not {shown(value)}", path=path)


def _number(value: Any, path: str, low: float, high: float, *, above: bool = False) -> None:
    """A finite number from `low` to `high`; with `above`, not `low` itself."""
    proper = isinstance(value, int | float) and not isinstance(value, bool)
    if not proper or not (low < value if above else low <= value) or not value <= high:
        span = f"above {low:g} and up to {high:g}" if above else f"from {low:g} to {high:g}"
        raise ConfigError(f"must be a number {span}, not {shown(value)}", path=path)


def _share(value: Any, path: str) -> None:
    _number(value, path, 0, 1)


def _epsilon(value: Any, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigError(f"must be a number between 0 and 1, not {shown(value)}", path=path, hint="As in 1e-05.")


def _token_id(value: Any, path: str) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not -1 <= value <= LARGEST_SIZE):
        raise ConfigError(f"must be a token id or null, not {shown(value)}", path=path, hint="Set it to null.")


def _token_ids(value: Any, path: str) -> None:
    if not isinstance(value, list | tuple):
        _token_id(value, path)
        return
    if not value or len(value) > 256 or any(one is None for one in value):
        raise ConfigError(f"must be a token id, a list of them or null, not {shown(value)}", path=path)
    for index, one in enumerate(value):
        _token_id(one, f"{path}[{index}]")


def _activation(value: Any, path: str) -> None:
    from canvas_rt.ops.catalogue import ACTIVATIONS, ALIASES

    if not isinstance(value, str) or value not in (*ACTIVATIONS, *ALIASES):
        hint = suggest(shown(value), (*ACTIVATIONS, *ALIASES))
        raise ConfigError(f"{shown(value)} is not an activation that Canvas knows", path=path, hint=hint)


def _dtype(value: Any, path: str) -> None:
    if value is not None and value not in DTYPES:
        raise ConfigError(
            f"{shown(value)} is not a dtype of weights", path=path, hint="One of " + ", ".join(DTYPES) + "."
        )


def _only_one(value: Any, path: str) -> None:
    # Once it changed the arithmetic: any other value would be silently ignored.
    if value is not None and (isinstance(value, bool) or value != 1):
        raise ConfigError(f"must be 1, not {shown(value)}: other values have no effect", path=path, hint="Remove it.")


def _theta(value: Any, path: str) -> None:
    if value is not None:
        _number(value, path, 1, 1e15, above=True)


def _table(value: Any, path: str) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(
            f"must be an object or null, not {shown(value)}", path=path, hint='As in {"rope_type": "default"}.'
        )


FIELDS: Mapping[str, tuple[Callable[[Any, str], None], tuple[str, ...]]] = {
    "vocab_size": (_whole, BOTH),
    "hidden_size": (_whole, BOTH),
    "intermediate_size": (_whole, BOTH),
    "num_hidden_layers": (_whole, BOTH),
    "num_attention_heads": (_whole, BOTH),
    "num_key_value_heads": (_whole_or_null, BOTH),
    "head_dim": (_whole_or_null, BOTH),
    "max_position_embeddings": (_whole, BOTH),
    "sliding_window": (_whole_or_null, ("mistral",)),
    "hidden_act": (_activation, BOTH),
    "rms_norm_eps": (_epsilon, BOTH),
    "initializer_range": (_share, BOTH),
    "attention_dropout": (_share, BOTH),
    "attention_bias": (_flag, ("llama",)),
    "mlp_bias": (_flag, ("llama",)),
    "tie_word_embeddings": (_flag, BOTH),
    "use_cache": (_flag, BOTH),
    "bos_token_id": (_token_id, BOTH),
    "eos_token_id": (_token_ids, BOTH),
    "pad_token_id": (_token_id, BOTH),
    "pretraining_tp": (_only_one, ("llama",)),
    "dtype": (_dtype, BOTH),
    "torch_dtype": (_dtype, BOTH),
    "rope_theta": (_theta, BOTH),
    "rope_scaling": (_table, BOTH),
    "rope_parameters": (_table, BOTH),
}
"""Every field that reaches transformers: its check, and the model types that know it."""


# fields together


def _layers(config: Mapping[str, Any], name: str) -> None:
    if config["num_hidden_layers"] > MOST_LAYERS:
        raise ConfigError(
            f"is {config['num_hidden_layers']}; Canvas stops at {MOST_LAYERS} layers", path=f"{name}: num_hidden_layers"
        )


def _heads(config: dict[str, Any], name: str) -> None:
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    default = DEFAULTS[config["model_type"]].get("num_key_value_heads")
    groups = config.get("num_key_value_heads", default) or heads  # null: as many as there are query heads
    if heads % groups:
        given = "num_key_value_heads" in config
        raise ConfigError(
            f"num_attention_heads ({heads}) is not a multiple of num_key_value_heads ({groups}{'' if given else ', left out'})",
            path=f"{name}: num_key_value_heads",
            hint="Each key/value head serves an equal group of query heads.",
        )
    if config.get("num_key_value_heads", 0) is None and default is not None:
        config["num_key_value_heads"] = heads  # its class takes no null
    width = config.get("head_dim")
    if hidden % heads and (width is None or config["model_type"] == "llama"):
        raise ConfigError(
            f"hidden_size ({hidden}) is not a multiple of num_attention_heads ({heads})",
            path=f"{name}: hidden_size",
            hint="Make it a multiple." if config["model_type"] == "llama" else "Set head_dim, or make it a multiple.",
        )
    if width is None and (hidden // heads) % 2:
        raise ConfigError(
            f"gives heads of {hidden // heads} channels; rotary positions turn pairs",
            path=f"{name}: hidden_size",
            hint="Set an even head_dim.",
        )
    if width is not None and width % 2:
        raise ConfigError(f"{width} is odd; rotary positions turn pairs of channels", path=f"{name}: head_dim")


def _padding(config: Mapping[str, Any], name: str) -> None:
    token, vocabulary = config.get("pad_token_id"), config["vocab_size"]
    if token is not None and token >= vocabulary:
        raise ConfigError(
            f"is {token}, beyond the last token, {vocabulary - 1}",
            path=f"{name}: pad_token_id",
            hint="Set it to null, or make vocab_size larger.",
        )


def _matrices(config: Mapping[str, Any], name: str) -> None:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    widths = {field: config[field] for field in ("vocab_size", "intermediate_size", "hidden_size")}
    if config.get("head_dim") is not None:
        widths["head_dim"] = config["head_dim"] * heads
    for field, width in widths.items():
        if width * hidden > LARGEST_TENSOR:
            raise ConfigError(
                f"gives a matrix of {width} × {hidden} numbers (hidden_size is {hidden}), which is out of range",
                path=f"{name}: {field}",
                hint=f"Canvas stops at 2**{LARGEST_TENSOR.bit_length() - 1} numbers.",
            )


# rotary positions


def _factor(value: Any, path: str) -> None:
    _number(value, path, 1, 2**20)


def _positive(value: Any, path: str) -> None:
    _number(value, path, 0, 2**20, above=True)


def _scale(value: Any, path: str) -> None:
    _number(value, path, 0, 2**20)


ROPE_FIELDS: Mapping[str, Callable[[Any, str], None]] = {
    "rope_theta": _theta,
    "factor": _factor,
    "low_freq_factor": _positive,
    "high_freq_factor": _positive,
    "original_max_position_embeddings": _whole,
    "attention_factor": _positive,
    "beta_fast": _positive,
    "beta_slow": _positive,
    "mscale": _scale,
    "mscale_all_dim": _scale,
    "truncate": _flag,
    "partial_rotary_factor": _whole_heads,
}

ROPE_NEEDS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""What each scaling must give, beside `rope_theta`."""

ORDERED = (("llama3", "low_freq_factor", 1, "high_freq_factor", 4), ("yarn", "beta_slow", 1, "beta_fast", 32))
"""For a scaling, a field that must be smaller than another, and what they are where they are left out."""


def _rope(config: dict[str, Any], name: str) -> None:
    """Check the rotary parameters, and spell them in one way: `rope_type`, and known fields only."""
    given = {field: config.pop(field) or {} for field in ("rope_scaling", "rope_parameters") if field in config}
    filled = {field: _scaling(rope, f"{name}: {field}") for field, rope in given.items() if rope}
    if len(filled) == 2 and filled["rope_scaling"] != filled["rope_parameters"]:
        raise ConfigError("differs from rope_parameters", path=f"{name}: rope_scaling", hint="Give one of them.")
    for field, rope in filled.items():
        theta = config.get("rope_theta")
        if theta is not None and rope.setdefault("rope_theta", theta) != theta:
            raise ConfigError(
                f"is {shown(theta)}, but {field} has {shown(rope['rope_theta'])}",
                path=f"{name}: rope_theta",
                hint="Give one of them.",
            )
        config["rope_parameters"] = rope
    if config.get("rope_theta", 0) is None:
        del config["rope_theta"]


def _scaling(rope: Mapping[str, Any], path: str) -> dict[str, Any]:
    """One table of rotary parameters, checked."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPE_TYPES:
        raise ConfigError(
            f"{shown(kind)} is not supported", path=f"{path}: rope_type", hint=suggest(shown(kind), ROPE_TYPES)
        )
    if rope.get("type", kind) != kind:
        raise ConfigError(
            f"is {shown(rope['type'])}, but rope_type is {shown(kind)}", path=f"{path}: type", hint="Remove type."
        )
    for field in ROPE_NEEDS[kind]:
        if rope.get(field) is None:
            raise ConfigError(f"is missing: rope_type '{kind}' needs it", path=f"{path}: {field}", hint="Add it.")
    nested = next((field for field, value in rope.items() if isinstance(value, Mapping)), None)
    if nested is not None:
        raise ConfigError(f"holds {shown(nested)} for some layers", path=path, hint="Give one set for all layers.")
    checked = dict(_checked(rope, path))
    for of, smaller, least, larger, most in ORDERED:
        low, high = checked.get(smaller, least), checked.get(larger, most)
        if kind == of and not low < high:
            raise ConfigError(
                f"({shown(high)}) must be greater than {smaller} ({shown(low)})", path=f"{path}: {larger}"
            )
    return {"rope_type": kind, **checked}


def _checked(rope: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for field, check in ROPE_FIELDS.items():
        if rope.get(field) is None:
            continue
        check(rope[field], f"{path}: {field}")
        if field != "partial_rotary_factor":
            yield field, rope[field]


__all__ = ["LARGEST_SIZE", "SUPPORTED", "check_config", "ignored_fields"]
