"""Check a stranger's config before any model is made: every flaw is named by its field."""

import math
from collections.abc import Mapping
from typing import Any

from canvas_rt.errors import ConfigError, UnsupportedModelError, suggest
from canvas_rt.importer.config.classes import (
    START,
    Declared,
    config_class,
    every_type,
    fields_of,
    model_class_name,
    spellings,
    supported,
    task_of,
    tasks_of,
    text_field,
    text_type,
)
from canvas_rt.importer.config.fields import check_field, dtype, is_float, table, whole
from canvas_rt.importer.config.refused import INERT, REFUSED, UNLESS_DECLARED, check_architectures, encoder
from canvas_rt.importer.config.relations import Facts, check_relations, fill_groups
from canvas_rt.importer.config.rope import check_rope, rotary
from canvas_rt.ir.files import shown

REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
"""Sizes that every published config gives: a class's default for one of them would be another model's."""

ALWAYS = ("dtype", "torch_dtype")
"""Fields of all configs that reach transformers."""

MOST_LABELS = 2**17
"""transformers names every label of a config by itself."""

UNSUPPORTED: Mapping[str, str] = {
    "gemma4_assistant": "it reads the keys and values of the model that it drafts for",
    "gemma4_unified_assistant": "it reads the keys and values of the model that it drafts for",
}
"""Model types that transformers calls causal language models, but which do not go from tokens to scores."""

SWITCHED = {"sliding_window": "use_sliding_window"}
"""Numbers that a class writes as 0 where a flag of its own says that they are not used."""


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
        if field in raw and not (refuse is encoder and _encodes(model_type, field)):
            refuse(raw[field], f"{name}: {field}")
    if model_type not in every_type():
        raise _unsupported(model_type, name)
    if model_type in UNSUPPORTED:
        raise UnsupportedModelError(
            f"model type '{model_type}' cannot be imported: {UNSUPPORTED[model_type]}", path=f"{name}: model_type"
        )
    check_architectures(raw.get("architectures"), f"{name}: architectures", _saved_as(model_type))
    text = text_field(model_type)
    if text is not None and imports_text(model_type):
        return _text(raw, text, model_type, name)
    if not tasks_of(model_type):
        raise _unsupported(model_type, name)
    return _checked(raw, model_type, name, whole=True)


def ignored_fields(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields of a config that its model type does not know, so that nothing depends on them."""
    model_type = raw.get("model_type")
    known: set[str] = set(REFUSED) | set(UNLESS_DECLARED) | INERT | set(ALWAYS)
    if isinstance(model_type, str) and model_type in every_type():
        known |= set(spellings(config_class(model_type)))
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


def _saved_as(model_type: str) -> tuple[str | None, ...]:
    """The classes, named after no causal model, that configs of a model type may say they were saved from."""
    if text_field(model_type) is None:
        return tuple(model_class_name(model_type, task) for task in tasks_of(model_type))
    return (str(config_class(model_type).__name__).removesuffix("Config") + "ForConditionalGeneration",)


def _encodes(model_type: str, field: str) -> bool:
    """Whether a class says so always, as those of an encoder with a decoder do, or of a decoder that serves an encoder."""
    return model_type in every_type() and config_class(model_type).__dict__.get(field) is True


# the text model of a multimodal config


def imports_text(model_type: str) -> bool:
    """Whether a multimodal model type is imported as its text model: always, but where its own class is another."""
    return text_field(model_type) is not None and model_type not in UNSUPPORTED


def _text(raw: Mapping[str, Any], field: str, model_type: str, name: str) -> dict[str, Any]:
    """The text model's fields, in a config of their own or, in some published ones, among the others."""
    text = raw.get(field)
    if text is not None:
        table(text, f"{name}: {field}")
    inner = f"{name}: {field}"
    own = text_type(model_type, field, text or {})
    if not isinstance(own, str) or own not in every_type() or model_class_name(own) is None:
        raise _unsupported(own if isinstance(own, str) else model_type, inner if text else name)
    if text is None and "hidden_size" in raw:
        return _checked(raw, own, name, whole=True)
    for refused, refuse in REFUSED.items():
        if refused in (text or {}):
            refuse((text or {})[refused], f"{inner}: {refused}")
    return _checked(text or {}, own, inner, whole=False)


# one config


def _checked(raw: Mapping[str, Any], model_type: str, name: str, whole: bool) -> dict[str, Any]:
    """A text model's fields by canonical names; with `whole`, every size must be there."""
    cls = config_class(model_type)
    fields, names = fields_of(cls), spellings(cls)
    for field, refuse in UNLESS_DECLARED.items():
        if field in raw and (field not in names or _drops(fields[names[field]])):
            refuse(raw[field], f"{name}: {field}")
    given = _canonical(raw, cls, name)
    for field in REQUIRED if whole else ():
        if field in fields and isinstance(fields[field].default, int) and field not in given:
            hint = f"Every {model_type} config gives it: add it."
            raise ConfigError("is missing", path=f"{name}: {fields[field].own}", hint=hint)
    task = task_of({**raw, "model_type": model_type})
    config = {"model_type": model_type, **_values(given, raw, cls, name)}
    for field in ALWAYS:
        if field in raw:
            dtype(raw[field], f"{name}: {field}")
            config[field] = raw[field]
    _together(config, cls, name)
    if "is_decoder" in fields:
        if config.get("is_decoder") and not task.generates:
            raise ConfigError(
                f"is true, but {task.words} looks both ways",
                path=f"{name}: is_decoder",
                hint="Remove it, or remove 'architectures' to import a causal language model.",
            )
        config["is_decoder"] = (
            task.generates and not task.decodes
        )  # an encoder's class looks ahead unless it is told that it decodes
    if task.classifies:
        config["num_labels"] = _labels(raw, cls, name)
    if task.decodes:
        config[START] = _start(raw, cls, config, name)
    return config


def _start(raw: Mapping[str, Any], cls: Any, config: Mapping[str, Any], name: str) -> int | None:
    """The token that a decoder starts from: the config's, or its class's own; None where neither says."""
    told: int | None = raw.get(START, getattr(cls, START, None))
    if told is not None:
        whole(told, f"{name}: {START}", 0, max(0, int(config.get("vocab_size", 1)) - 1))
    return told


def _labels(raw: Mapping[str, Any], cls: Any, name: str) -> int:
    """How many labels a classifier tells apart: as many as have a name, or as its config says, or as by default."""
    named = raw.get("id2label")
    if named is not None:
        table(named, f"{name}: id2label")
    told = raw.get("num_labels", len(named) if named else cls().num_labels)
    whole(told, f"{name}: num_labels", 1, MOST_LABELS)
    if named and len(named) != told:
        hint = "Give one of the two."
        raise ConfigError(f"is {told}, but id2label names {len(named)}", path=f"{name}: num_labels", hint=hint)
    return int(told)


def _together(config: dict[str, Any], cls: Any, name: str) -> None:
    """Check the fields of one config with one another."""
    facts = Facts(config, fields_of(cls), cls, name)
    fill_groups(facts)
    if "rope_parameters" in facts.fields:
        check_rope(config, rotary(cls), name)
    check_relations(facts)


def _values(given: Mapping[str, Any], raw: Mapping[str, Any], cls: Any, name: str) -> dict[str, Any]:
    """Each field's value, checked by itself."""
    fields = fields_of(cls)
    depth = fields.get("num_hidden_layers")
    layers = given.get("num_hidden_layers", depth.default if depth else None)
    layers = layers if isinstance(layers, int) and not isinstance(layers, bool) else None
    values: dict[str, Any] = {}
    for field, value in given.items():
        path = f"{name}: {_given_as(raw, field, cls)}"
        finite, value = value, _spelt_out(value)
        if value != finite and value == _as_list(fields[field].default):
            continue  # what a class has by itself, and no JSON can say
        if field == "per_layer_config":
            values[field] = _by_layer(value, cls, path, layers)
        elif fields[field].holds is not None and value is not None:
            values[field] = _nested(value, fields[field].holds, path)
        elif not (value == 0 and SWITCHED.get(field) in fields):
            check_field(fields[field], value, path, layers)
            if value is None and not fields[field].declared:
                continue  # as if it were not there
            values[field] = float(value) if is_float(fields[field]) and isinstance(value, int) else value
    return values


TAGS = {"Infinity": math.inf, "-Infinity": -math.inf}


def _spelt_out(value: Any) -> Any:
    """A value with the numbers that transformers saves as `{"__float__": "Infinity"}`."""
    if isinstance(value, Mapping):
        tag = value.get("__float__")
        return TAGS[tag] if len(value) == 1 and isinstance(tag, str) and tag in TAGS else value
    return [_spelt_out(item) for item in value] if isinstance(value, list) else value


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _nested(value: Any, cls: Any, path: str) -> dict[str, Any]:
    """A config within the config: the fields that its class knows, under the class's own names."""
    table(value, path)
    own = value.get("model_type")
    if isinstance(own, str) and own in every_type() and cls.model_type:
        cls = config_class(own)
    for field, refuse in REFUSED.items():
        if field in value and refuse is not encoder:
            refuse(value[field], f"{path}: {field}")
    config = _values(_canonical(value, cls, path), value, cls, path)
    _together(config, cls, path)
    kept = {"model_type": own} if cls.model_type == own else {}
    return {**kept, **{fields_of(cls)[name].own if name in fields_of(cls) else name: v for name, v in config.items()}}


def _by_layer(value: Any, cls: Any, path: str, layers: int | None) -> Any:
    """What single layers have for themselves, checked as the fields that they stand in for."""
    if value is None:
        return None
    table(value, path)
    checked: dict[str, Any] = {}
    for layer, own in value.items():
        index = int(layer) if str(layer).isascii() and str(layer).isdecimal() and len(str(layer)) < 6 else -1
        if not 0 <= index < (layers if layers is not None else index + 1):
            raise ConfigError(f"{shown(layer)} is no layer", path=path, hint="Layers count from 0.")
        table(own, f"{path}: {layer}")
        checked[str(index)] = _values(_canonical(own, cls, f"{path}: {layer}"), own, cls, f"{path}: {layer}")
    return checked


def _drops(field: Declared) -> bool:
    """Whether a class takes a field only to drop it."""
    return not field.sorts and field.name == "layer_types"


def _canonical(raw: Mapping[str, Any], cls: Any, name: str) -> dict[str, Any]:
    """The fields that a config class knows, by their canonical names, in the class's order."""
    fields, names = fields_of(cls), spellings(cls)
    found: dict[str, Any] = {}
    for spelling, value in raw.items():
        field = names.get(spelling)
        if field is None or field in INERT or _drops(fields[field]) or _restates(raw, spelling, fields[field], cls):
            continue
        if field in found and found[field] != value:
            raise ConfigError(
                f"is {shown(value)}, but {_given_as(raw, field, cls)} says {shown(found[field])}",
                path=f"{name}: {spelling}",
                hint="They are two names of one field: give one of them.",
            )
        found[field] = value
    return {field: found[field] for field in fields if field in found}


def _restates(raw: Mapping[str, Any], spelling: str, field: Declared, cls: Any) -> bool:
    """Whether a name only says again what another field says: of a class with both halves, `num_hidden_layers` may be the
    encoder's count, and stand beside the decoder's own."""
    stored = cls.attribute_map.get(spelling)
    return stored not in (None, field.own) and field.own in raw and raw.get(stored) == raw[spelling]


def _given_as(raw: Mapping[str, Any], field: str, cls: Any) -> str:
    """The name by which a config gives a field."""
    names = spellings(cls)
    return next((spelling for spelling in raw if names.get(spelling) == field), field)


__all__ = ["check_config", "ignored_fields"]
