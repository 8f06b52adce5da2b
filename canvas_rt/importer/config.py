"""Check a stranger's config before any library sees it: every flaw is named by its field."""

import math
from collections.abc import Mapping
from typing import Any

from canvas_rt.errors import ConfigError, UnsupportedModelError, suggest
from canvas_rt.ir.document import MOST_LAYERS

SUPPORTED = ("llama", "mistral")
"""Model types whose round trip is proven by tests."""

LARGEST_SIZE = 2**31 - 1
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")

NEVER = ("auto_map", "quantization_config")
"""Fields that ask for another's code, or for weights that are not plain tensors."""

POSITIVE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
)
POSITIVE_OR_NULL = ("num_key_value_heads", "head_dim", "sliding_window")
FLAGS = ("attention_bias", "mlp_bias", "tie_word_embeddings", "use_cache")
SHARES = ("attention_dropout", "initializer_range")
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
DEPRECATED = {"pretraining_tp": 1}
"""Fields that once changed the arithmetic: any other value would be silently ignored, so it is refused."""


def check_config(raw: Any, name: str = "config.json") -> dict[str, Any]:
    """A config's values, safe to hand to transformers.

    Raises `ConfigError` that names the field, its value and a way out, and `UnsupportedModelError` for model types
    that Canvas does not import.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"holds {type(raw).__name__}, not an object of fields", path=name)
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ConfigError("has no model_type", path=f"{name}: model_type", hint="Known: " + ", ".join(SUPPORTED) + ".")
    for field in NEVER:
        if raw.get(field):
            raise ConfigError(
                "is not accepted: Canvas never runs code that a config names" if field == "auto_map" else "is not supported",
                path=f"{name}: {field}",
                hint="Remove the field and import the stock architecture that it builds on."
                if field == "auto_map"
                else "Import the unquantised config.",
            )
    if model_type not in SUPPORTED:
        raise UnsupportedModelError(
            f"model type '{model_type}' cannot be imported yet", path=f"{name}: model_type", hint=suggest(model_type, SUPPORTED)
        )
    config = dict(raw)
    _numbers_are_sane(config, name)
    for field in POSITIVE:
        if field in config:
            _whole(config[field], f"{name}: {field}")
    for field in POSITIVE_OR_NULL:
        if config.get(field) is not None:
            _whole(config[field], f"{name}: {field}")
    for field in FLAGS:
        if field in config and not isinstance(config[field], bool):
            raise ConfigError(f"must be true or false, not {config[field]!r}", path=f"{name}: {field}")
    for field in SHARES:
        if config.get(field) is not None:
            _share(config[field], f"{name}: {field}")
    for field in TOKEN_IDS:
        _token_id(config.get(field), f"{name}: {field}")
    for field, only in DEPRECATED.items():
        if config.get(field, only) not in (only, None):
            raise ConfigError(f"must be {only}: other values have no effect", path=f"{name}: {field}", hint="Remove it.")
    if isinstance(layers := config.get("num_hidden_layers"), int) and layers > MOST_LAYERS:
        raise ConfigError(f"is {layers}; Canvas stops at {MOST_LAYERS} layers", path=f"{name}: num_hidden_layers")
    _epsilon(config, name)
    _activation(config, name)
    _heads(config, name)
    _rope(config, name)
    return config


def _numbers_are_sane(value: Any, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"must be a finite number, not {value}", path=path)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53:
        raise ConfigError(f"{value} is out of range", path=path)
    if isinstance(value, Mapping):
        for key, item in value.items():
            _numbers_are_sane(item, f"{path}: {key}")
    if isinstance(value, list | tuple):
        if len(value) > 2**16:
            raise ConfigError(f"has {len(value)} entries", path=path)
        for index, item in enumerate(value):
            _numbers_are_sane(item, f"{path}[{index}]")


def _whole(value: Any, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"must be a whole number, not {value!r}", path=path)
    if not 1 <= value <= LARGEST_SIZE:
        raise ConfigError(f"must be between 1 and {LARGEST_SIZE}, not {value}", path=path)


def _share(value: Any, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(f"must be a number from 0 to 1, not {value!r}", path=path)


def _token_id(value: Any, path: str) -> None:
    if value is None:
        return
    ids = value if isinstance(value, list | tuple) else [value]
    if not ids or any(isinstance(i, bool) or not isinstance(i, int) for i in ids):
        raise ConfigError(f"must be a token id, a list of them or null, not {value!r}", path=path)


def _epsilon(config: Mapping[str, Any], name: str) -> None:
    value = config.get("rms_norm_eps", 1e-6)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigError(f"must be a number between 0 and 1, not {value!r}", path=f"{name}: rms_norm_eps")


def _activation(config: Mapping[str, Any], name: str) -> None:
    from canvas_rt.ops.catalogue import ACTIVATIONS, ALIASES

    value = config.get("hidden_act", "silu")
    if not isinstance(value, str) or value not in (*ACTIVATIONS, *ALIASES):
        hint = suggest(str(value), (*ACTIVATIONS, *ALIASES))
        raise ConfigError(f"{value!r} is not an activation that Canvas knows", path=f"{name}: hidden_act", hint=hint)


def _heads(config: Mapping[str, Any], name: str) -> None:
    heads = config.get("num_attention_heads")
    if not isinstance(heads, int):
        return
    groups = config.get("num_key_value_heads")
    if isinstance(groups, int) and heads % groups:
        raise ConfigError(
            f"num_attention_heads ({heads}) is not a multiple of num_key_value_heads ({groups})",
            path=f"{name}: num_key_value_heads",
            hint="Each key/value head serves an equal group of query heads.",
        )
    hidden = config.get("hidden_size")
    if config.get("head_dim") is None and isinstance(hidden, int):
        if hidden % heads:
            raise ConfigError(
                f"hidden_size ({hidden}) is not a multiple of num_attention_heads ({heads})",
                path=f"{name}: hidden_size",
                hint="Set head_dim, or make one a multiple of the other.",
            )
        if (hidden // heads) % 2:
            raise ConfigError(
                f"gives heads of {hidden // heads} channels; rotary positions turn pairs",
                path=f"{name}: hidden_size",
                hint="Set an even head_dim.",
            )
    elif isinstance(width := config.get("head_dim"), int) and width % 2:
        raise ConfigError(f"{width} is odd; rotary positions turn pairs of channels", path=f"{name}: head_dim")


ROPE_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""What each scaling must give, beside `rope_theta`."""


def _rope(config: dict[str, Any], name: str) -> None:
    theta = config.get("rope_theta")
    if theta is not None and (isinstance(theta, bool) or not isinstance(theta, int | float) or theta <= 0):
        raise ConfigError(f"must be a positive number, not {theta!r}", path=f"{name}: rope_theta")
    for field in ("rope_scaling", "rope_parameters"):
        rope = config.get(field)
        if rope is None:
            continue
        path = f"{name}: {field}"
        if not isinstance(rope, Mapping):
            raise ConfigError(f"must be an object or null, not {rope!r}", path=path)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ROPE_TYPES:
            raise ConfigError(f"{kind!r} is not supported", path=f"{path}: rope_type", hint=suggest(str(kind), ROPE_TYPES))
        for number in ROPE_NUMBERS[kind]:
            if number not in rope:
                raise ConfigError(f"rope_type '{kind}' needs it", path=f"{path}: {number}")
        for number, value in rope.items():
            if number in ("rope_type", "type"):
                continue
            if number == "truncate" and isinstance(value, bool):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ConfigError(f"must be a positive number, not {value!r}", path=f"{path}: {number}")
