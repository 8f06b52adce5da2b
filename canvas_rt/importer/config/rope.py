"""Check the tables of rotary positions, and spell them in one way."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from canvas_rt.errors import ConfigError, suggest
from canvas_rt.importer.config.classes import config_source, model_source, spellings
from canvas_rt.importer.config.fields import LAYER_KINDS, flag, number, plain, theta, whole
from canvas_rt.importer.config.refused import whole_heads
from canvas_rt.ir.files import shown

ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
RARE_TYPES = ("proportional", "su")
"""Types that only those model types take whose class names them."""

RENAMED = {"su": "longrope"}
"""What old configs call a scaling."""

MOST = 2.0**20


def _factor(value: Any, path: str) -> None:
    number(value, path, 1, MOST)


def _positive(value: Any, path: str) -> None:
    number(value, path, 0, MOST, above=True)


def _scale(value: Any, path: str) -> None:
    number(value, path, 0, MOST)


def _part(value: Any, path: str) -> None:
    number(value, path, 0, 1, above=True)


def _theta(value: Any, path: str) -> None:
    if value is not None:
        theta(value, path)


def _factors(value: Any, path: str) -> None:
    if not isinstance(value, list | tuple) or not value or len(value) > 2**16:
        raise ConfigError(f"must be a list of numbers, not {shown(value)}", path=path)
    for index, one in enumerate(value):
        _positive(one, f"{path}[{index}]")


def _sections(value: Any, path: str) -> None:
    if not isinstance(value, list | tuple) or len(value) not in (2, 3, 4):
        raise ConfigError(f"must be a list of three sizes, not {shown(value)}", path=path)
    for index, one in enumerate(value):
        whole(one, f"{path}[{index}]", 0)


ROPE_FIELDS: Mapping[str, Callable[[Any, str], None]] = {
    "rope_theta": _theta,
    "factor": _factor,
    "low_freq_factor": _positive,
    "high_freq_factor": _positive,
    "original_max_position_embeddings": whole,
    "attention_factor": _positive,
    "beta_fast": _positive,
    "beta_slow": _positive,
    "mscale": _scale,
    "mscale_all_dim": _scale,
    "truncate": flag,
    "short_factor": _factors,
    "long_factor": _factors,
    "short_mscale": _positive,
    "long_mscale": _positive,
    "mrope_section": _sections,
    "mrope_interleaved": flag,
}

ROPE_NEEDS: Mapping[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "longrope": ("short_factor", "long_factor"),
    "su": ("short_factor", "long_factor"),
}
"""What each scaling must give, beside `rope_theta`."""

ORDERED = (("llama3", "low_freq_factor", 1, "high_freq_factor", 4), ("yarn", "beta_slow", 1, "beta_fast", 32))
"""For a scaling, a field that must be smaller than another, and what they are where they are left out."""


@dataclass(frozen=True, slots=True)
class Rotary:
    """What a config class takes of rotary parameters."""

    kinds: tuple[str, ...]
    """The scalings that its class knows."""

    parts: tuple[str, ...]
    """The kinds of layers that may have a table each; none where all layers share one."""

    partial: bool
    """Whether a share of a head's channels may be turned."""

    nests: bool
    """Whether its class reads old spellings in a way of its own, so that they are left as they are."""

    whole: bool
    """Whether one table may stand for all layers."""

    own: frozenset[str]
    """Further fields of a table that its files read."""


@lru_cache(maxsize=1024)
def rotary(cls: Any) -> Rotary:
    """What a config class takes of rotary parameters, by its own files."""
    from transformers.modeling_rope_utils import RotaryEmbeddingConfigMixin

    text = config_source(cls) + model_source(cls)
    labels = getattr(cls, "_rope_type_labels", None) or ()
    by_layer = LAYER_KINDS if {"layer_types", "layers_block_type"} & set(spellings(cls)) else ()
    return Rotary(
        kinds=(*ROPE_TYPES, *(kind for kind in RARE_TYPES if f'"{kind}"' in text)),
        parts=(*by_layer, *(labels if isinstance(labels, list | tuple | set) else ())),
        partial="partial_rotary_factor" in text,
        nests=cls.convert_rope_params_to_dict is not RotaryEmbeddingConfigMixin.convert_rope_params_to_dict,
        whole="rope_parameters[layer_type]" not in text or _spreads(cls),
        own=frozenset(key for key in ("llama_4_scaling_beta", "max_position_embeddings") if f'"{key}"' in text),
    )


def _spreads(cls: Any) -> bool:
    """Whether a config class makes one table into one for each kind of layer, as its model reads them."""
    from canvas_rt.importer.trace import quiet

    try:
        with quiet():
            made = cls(rope_parameters={"rope_type": "default", "rope_theta": 10000.0}).rope_parameters
    except Exception:  # whatever its class objects to
        return False
    return any(isinstance(inner, Mapping) for inner in made.values())


def check_rope(config: dict[str, Any], takes: Rotary, name: str) -> None:
    """Check the rotary parameters, and spell them in one way: `rope_type`, and known fields only."""
    given = {field: config.pop(field) or {} for field in ("rope_scaling", "rope_parameters") if field in config}
    filled = {field: _tables(rope, takes, f"{name}: {field}") for field, rope in given.items() if rope}
    if len(filled) == 2 and filled["rope_scaling"] != filled["rope_parameters"]:
        raise ConfigError("differs from rope_parameters", path=f"{name}: rope_scaling", hint="Give one of them.")
    for field, rope in filled.items():
        if takes.nests:
            config[field] = rope
            continue
        given_theta = config.get("rope_theta")
        if (
            "rope_type" in rope
            and given_theta is not None
            and rope.setdefault("rope_theta", given_theta) != given_theta
        ):
            raise ConfigError(
                f"is {shown(given_theta)}, but {field} has {shown(rope['rope_theta'])}",
                path=f"{name}: rope_theta",
                hint="Give one of them.",
            )
        config["rope_parameters"] = rope
    if config.get("rope_theta", 0) is None:
        del config["rope_theta"]


def rotary_tables(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every table of rotary parameters in a config, with the path to it."""
    for field in ("rope_scaling", "rope_parameters"):
        rope = config.get(field) or {}
        if "rope_type" in rope:
            yield field, rope
        else:
            yield from ((f"{field}: {part}", inner) for part, inner in rope.items() if inner)


def _tables(rope: Any, takes: Rotary, path: str) -> dict[str, Any]:
    """One table for all layers, or one for each kind of layer."""
    parts = [part for part in rope if part in takes.parts]
    if not parts and takes.whole:
        return _scaling(rope, takes, path)
    if not parts:
        raise ConfigError(
            "must hold a table for each kind of layer",
            path=path,
            hint='As in {"full_attention": {"rope_type": "default"}}.',
        )
    tables: dict[str, Any] = {}
    for part in parts:
        inner = rope[part]
        if inner is not None and not isinstance(inner, Mapping):
            raise ConfigError(f"must be an object or null, not {shown(inner)}", path=f"{path}: {part}")
        tables[part] = None if inner is None else _scaling(inner, takes, f"{path}: {part}")
    return tables


def _scaling(rope: Mapping[str, Any], takes: Rotary, path: str) -> dict[str, Any]:
    """One table of rotary parameters, checked."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(kind, str) or kind not in takes.kinds:
        raise ConfigError(
            f"{shown(kind)} is not supported", path=f"{path}: rope_type", hint=suggest(shown(kind), takes.kinds)
        )
    if rope.get("type", kind) != kind:
        raise ConfigError(
            f"is {shown(rope['type'])}, but rope_type is {shown(kind)}", path=f"{path}: type", hint="Remove type."
        )
    for field in ROPE_NEEDS.get(kind, ()):
        if rope.get(field) is None:
            raise ConfigError(f"is missing: rope_type '{kind}' needs it", path=f"{path}: {field}", hint="Add it.")
    nested = next((field for field, value in rope.items() if isinstance(value, Mapping)), None)
    if nested is not None:
        raise ConfigError(f"holds {shown(nested)} for some layers", path=path, hint="Give one set for all layers.")
    checked = dict(_checked(rope, takes, path))
    for of, smaller, least, larger, most in ORDERED:
        low, high = checked.get(smaller, least), checked.get(larger, most)
        # Llama 4 is published with equal factors: no frequency lies between, to be blended.
        ordered = low <= high if kind == "llama3" else low < high
        if kind == of and not ordered:
            least_text = "at least" if kind == "llama3" else "greater than"
            raise ConfigError(
                f"({shown(high)}) must be {least_text} {smaller} ({shown(low)})", path=f"{path}: {larger}"
            )
    return {"rope_type": RENAMED.get(kind, kind), **checked}


def _checked(rope: Mapping[str, Any], takes: Rotary, path: str) -> Iterator[tuple[str, Any]]:
    for field, check in ROPE_FIELDS.items():
        if rope.get(field) is not None:
            check(rope[field], f"{path}: {field}")
            yield field, rope[field]
    for field in takes.own & rope.keys():
        plain(rope[field], f"{path}: {field}")
        yield field, rope[field]
    share = rope.get("partial_rotary_factor")
    if share is None:
        return
    if not takes.partial:
        return whole_heads(share, f"{path}: partial_rotary_factor")
    _part(share, f"{path}: partial_rotary_factor")
    yield "partial_rotary_factor", share
