"""Check a stranger's config before any model is made: every flaw is named by its field."""

from collections.abc import Mapping
from typing import Any

from canvas_rt.errors import ConfigError, UnsupportedModelError, suggest
from canvas_rt.importer.config.classes import (
    Declared,
    causal_classes,
    config_class,
    declared,
    every_type,
    model_class_name,
    spellings,
    supported,
    text_field,
    text_type,
)
from canvas_rt.importer.config.fields import check_field, dtype, is_float, table
from canvas_rt.importer.config.refused import INERT, REFUSED, UNLESS_DECLARED, check_architectures, says_nothing
from canvas_rt.importer.config.relations import Facts, check_relations, fill_groups
from canvas_rt.importer.config.rope import check_rope, rotary
from canvas_rt.ir.files import shown

REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
"""Sizes that every published config gives: a class's default for one of them would be another model's."""

ALWAYS = ("dtype", "torch_dtype")
"""Fields of all configs that reach transformers."""

_ROPE = ("rope_scaling", "rope_parameters", "rope_theta")


def check_config(raw: Any, name: str = "config.json") -> dict[str, Any]:
    """A config's values, safe to hand to transformers: those that its model type knows, each of the right sort.

    Fields have canonical names: `hidden_size` for what a class calls `n_embd`. Of a multimodal config it is the text
    model's. Raises `ConfigError` that names the field, its value and a way out, and `UnsupportedModelError` for model
    types that Canvas does not import.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"holds {_sort(raw)}, not an object of fields", path=name, hint="A config.json is {…}.")
    model_type = _model_type(raw, name)
    for field, refuse in REFUSED.items():
        if field in raw and not (field == "add_cross_attention" and _encodes(model_type)):
            refuse(raw[field], f"{name}: {field}")
    if model_type not in every_type():
        raise _unsupported(model_type, name)
    check_architectures(raw.get("architectures"), f"{name}: architectures", _saved_as(model_type))
    text = text_field(model_type)
    if text is not None and _imports_text(model_type):
        return _text(raw, text, model_type, name)
    if model_class_name(model_type) is None:
        raise _unsupported(model_type, name)
    return _checked(raw, model_type, name, whole=True)


def ignored_fields(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields of a config that its model type does not know, so that nothing depends on them."""
    model_type = raw.get("model_type")
    known: set[str] = set(REFUSED) | set(UNLESS_DECLARED) | INERT | set(ALWAYS)
    if isinstance(model_type, str) and model_type in every_type():
        known |= set(spellings(model_type))
        known |= {field.name for field in declared(model_type).values()}
    strange = (str(field) for field in raw if field not in known)
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
    known = f"Known: llama, mistral, qwen3, gemma3_text, gpt2 and {len(supported()) - 5} more."
    if "model_type" not in raw:
        raise ConfigError("is missing", path=f"{name}: model_type", hint=f"A model's config.json has it. {known}")
    raise ConfigError(f"must be a model type's name, not {shown(model_type)}", path=f"{name}: model_type", hint=known)


def _unsupported(model_type: str, name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"model type {shown(model_type)} cannot be imported yet",
        path=f"{name}: model_type",
        hint=suggest(model_type[:80], supported()),
    )


def _saved_as(model_type: str) -> str | None:
    """The class, named after no causal model, that configs of a model type may say they were saved from."""
    if text_field(model_type) is None:
        return causal_classes().get(model_type)
    return str(config_class(model_type).__name__).removesuffix("Config") + "ForConditionalGeneration"


def _encodes(model_type: str) -> bool:
    """Whether a class names cross attention always, as those of a decoder alone that serves an encoder do."""
    return model_type in every_type() and config_class(model_type).__dict__.get("add_cross_attention") is True


# the text model of a multimodal config


def _imports_text(model_type: str) -> bool:
    """Whether a multimodal model type is imported as its text model: always, but where its own class is another."""
    field = text_field(model_type)
    return field is not None and not model_type.endswith("_assistant")


def _text(raw: Mapping[str, Any], field: str, model_type: str, name: str) -> dict[str, Any]:
    text = raw.get(field)
    if text is not None:
        table(text, f"{name}: {field}")
    own = text_type(model_type, field, text or {})
    inner = f"{name}: {field}"
    if not isinstance(own, str) or own not in every_type() or model_class_name(own) is None:
        raise _unsupported(own if isinstance(own, str) else model_type, f"{inner}" if text else name)
    for refused, refuse in REFUSED.items():
        if refused in (text or {}):
            refuse((text or {})[refused], f"{inner}: {refused}")
    return _checked(text or {}, own, inner, whole=False)


# one config


def _checked(raw: Mapping[str, Any], model_type: str, name: str, whole: bool) -> dict[str, Any]:
    """A text model's fields by canonical names; with `whole`, every size must be there."""
    fields = declared(model_type)
    for field, refuse in UNLESS_DECLARED.items():
        if field in raw and (field not in spellings(model_type) or _drops(fields[spellings(model_type)[field]])):
            refuse(raw[field], f"{name}: {field}")
    given = _canonical(raw, model_type, name)
    for field in REQUIRED if whole else ():
        if field in fields and isinstance(fields[field].default, int) and field not in given:
            raise ConfigError(
                "is missing",
                path=f"{name}: {_spelt(fields[field])}",
                hint=f"Every {model_type} config gives it: add it.",
            )
    config: dict[str, Any] = {"model_type": model_type}
    layers = _depth(given, fields, name)
    for field, value in given.items():
        spelling = _given_as(raw, field, model_type)
        check_field(fields[field], value, f"{name}: {spelling}", layers)
        config[field] = float(value) if is_float(fields[field]) and isinstance(value, int) else value
    for field in ALWAYS:
        if field in raw:
            dtype(raw[field], f"{name}: {field}")
            config[field] = raw[field]
    facts = Facts(config, fields, model_type, name)
    fill_groups(facts)
    if "rope_parameters" in fields:
        check_rope(config, rotary(model_type), name)
    check_relations(facts)
    if "is_decoder" in fields:
        config["is_decoder"] = True  # an encoder's class looks ahead unless it is told that it decodes
    return config


def _drops(field: Declared) -> bool:
    """Whether a class takes a field only to drop it."""
    return not field.sorts and field.name == "layer_types"


def _canonical(raw: Mapping[str, Any], model_type: str, name: str) -> dict[str, Any]:
    """The fields that a model type knows, by their canonical names, in the class's order."""
    fields, names = declared(model_type), spellings(model_type)
    found: dict[str, Any] = {}
    for spelling, value in raw.items():
        field = names.get(spelling)
        if field is None or field in INERT or _drops(fields[field]):
            continue
        if field in found and found[field] != value:
            raise ConfigError(
                f"is {shown(value)}, but {_given_as(raw, field, model_type)} says {shown(found[field])}",
                path=f"{name}: {spelling}",
                hint="They are two names of one field: give one of them.",
            )
        found[field] = value
    return {field: found[field] for field in fields if field in found}


def _given_as(raw: Mapping[str, Any], field: str, model_type: str) -> str:
    """The name by which a config gives a field."""
    names = spellings(model_type)
    return next((spelling for spelling in raw if names.get(spelling) == field), field)


def _spelt(field: Declared) -> str:
    return field.own


def _depth(given: Mapping[str, Any], fields: Mapping[str, Declared], name: str) -> int | None:
    """How many layers the lists of a config are for; None where that cannot be told."""
    layers = given.get(
        "num_hidden_layers", fields["num_hidden_layers"].default if "num_hidden_layers" in fields else None
    )
    return layers if isinstance(layers, int) and not isinstance(layers, bool) else None


__all__ = ["check_config", "ignored_fields", "says_nothing"]
