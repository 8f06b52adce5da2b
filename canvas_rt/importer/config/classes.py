"""What the config classes of transformers declare: each field by one name, its sorts, its default."""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from canvas_rt.ir.tasks import CAUSAL_LM, TASKS, Task
from canvas_rt.ops.class_text import class_text

CANONICAL = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "head_dim",
    "intermediate_size",
    "sliding_window",
)
"""Names by which a field is known whatever its class calls it: `hidden_size` for `n_embd`, `d_model` and `emb_dim`."""

WORDS_OF_THEIR_OWN = frozenset({"qk_rope_head_dim", "moe_intermediate_size"})
"""Fields that a class may serve under a canonical name too, but which say more by their own."""

DECODER = {
    "num_hidden_layers": ("decoder_layers", "num_decoder_layers"),
    "num_attention_heads": ("decoder_attention_heads", "num_decoder_attention_heads"),
    "intermediate_size": ("decoder_ffn_dim",),
}
"""Where a class describes an encoder and a decoder, the language model is the decoder."""

ENCODER = {
    "num_hidden_layers": ("encoder_layers", "num_encoder_layers"),
    "num_attention_heads": ("encoder_attention_heads", "num_encoder_attention_heads"),
    "intermediate_size": ("encoder_ffn_dim",),
}
"""The encoder's sizes, which follow the decoder's where there is no encoder: a cache counts layers by them."""

START = "decoder_start_token_id"
"""What a decoder starts from that an encoder feeds: not every class declares it."""

ENCODERS = frozenset(own for names in ENCODER.values() for own in names)

UNDECLARED: Mapping[str, frozenset[str]] = {
    "head_dim": frozenset({"int", "null"}),
    "rope_parameters": frozenset({"dict", "null"}),
    "rope_theta": frozenset({"int", "float", "null"}),
    "rope_scaling": frozenset({"dict", "null"}),
    "partial_rotary_factor": frozenset({"int", "float", "null"}),
}
"""Fields that a class may read without declaring them: its files say so."""

OLD_NAMES = {"n_embed": "hidden_size"}
"""Names by which published files give a field that their class, by code of its own, takes for another's."""

TEXT_MODELS = ("text_config", "decoder", "generator")
"""Where a class keeps its text model, as transformers looks for it."""


@dataclass(frozen=True, slots=True)
class Declared:
    """One field of a config class."""

    name: str
    """The name by which Canvas knows it."""

    own: str
    """The name that its class takes."""

    sorts: frozenset[str]
    """Which of int, float, str, bool, list, dict and null it may be."""

    choices: tuple[str, ...] = ()
    """The only texts that it may be, where its class lists them."""

    default: Any = None
    """What its class takes for it where it is left out; None where that follows from other fields."""

    declared: bool = True
    """Whether its class declares it; else it, or its model, reads it where a config has it."""

    holds: Any = None
    """The class of the config that it holds, where it holds one."""


@lru_cache(maxsize=8)
def task_classes(task: Task = CAUSAL_LM) -> Mapping[str, str]:
    """The name of the class that a task has, for each model type that has one."""
    from transformers.models.auto import modeling_auto

    names: Mapping[str, Any] = getattr(modeling_auto, f"MODEL_FOR_{(task.mapping or task.name).upper()}_MAPPING_NAMES")
    # Of several the first is the one that transformers makes from a config.
    return types.MappingProxyType({key: name if isinstance(name, str) else name[0] for key, name in names.items()})


def causal_classes() -> Mapping[str, str]:
    """The name of the causal language model's class, for each model type that has one."""
    return task_classes(CAUSAL_LM)


@lru_cache(maxsize=512)
def tasks_of(model_type: str) -> tuple[Task, ...]:
    """What models of a type can be imported as. Of an encoder with a decoder: both together, or the decoder by itself."""
    found = [task for task in TASKS.values() if model_class_name(model_type, task)]
    whole = model_type in every_type() and getattr(config_class(model_type), "is_encoder_decoder", False)
    return tuple(task for task in found if (task.generates if whole else not task.decodes))


def task_of(config: Mapping[str, Any]) -> Task:
    """What a config's model is for: as the class that it was saved from says, or as its model type has it.

    A type that decodes only where it is told to is an encoder; one that has both halves is its decoder by itself, unless
    the config says that it has both, or what the decoder starts from.
    """
    model_type = str(config.get("model_type"))
    offered = tasks_of(model_type)
    for name in config.get("architectures") or ():
        for task in offered:
            if name == model_class_name(model_type, task):
                return task
    if config.get("is_encoder_decoder", START in config):
        return next((task for task in offered if task.decodes), next(iter(offered), CAUSAL_LM))
    if len(offered) < 2 or "is_decoder" not in declared(model_type) or all(task.generates for task in offered):
        return next(iter(offered), CAUSAL_LM)
    return next(task for task in offered if task.generates == bool(config.get("is_decoder")))


@lru_cache(maxsize=1)
def supported() -> tuple[str, ...]:
    """Every model type that Canvas imports by itself: all causal language models of transformers."""
    return tuple(causal_classes())


@lru_cache(maxsize=1)
def every_type() -> frozenset[str]:
    """Every model type of transformers, whatever it is for."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return frozenset(CONFIG_MAPPING_NAMES)


@lru_cache(maxsize=512)
def config_class(model_type: str) -> Any:
    """The config class of a model type that transformers has."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type]


@lru_cache(maxsize=512)
def text_field(model_type: str) -> str | None:
    """The field that holds the text model of a multimodal model type; None for text models."""
    held = config_class(model_type).sub_configs_defaults
    return next((field for field in TEXT_MODELS if field in held), None)


def text_type(model_type: str, field: str, text: Mapping[str, Any]) -> Any:
    """The model type of the text model that a multimodal config holds."""
    from transformers import PretrainedConfig

    held = config_class(model_type).sub_configs_defaults[field]
    if issubclass(held.config_class, PretrainedConfig):
        return held.config_class.model_type
    return text.get("model_type") or held.model_type


@lru_cache(maxsize=1)
def _parents() -> Mapping[str, str]:
    """Text models that have no entry of their own among causal language models, by the model type that has it."""
    parents = {}
    for model_type in causal_classes():
        field = text_field(model_type)
        own = text_type(model_type, field, {}) if field else model_type
        if own not in causal_classes():
            parents[own] = model_type
    return parents


def model_class_name(model_type: str, task: Task = CAUSAL_LM) -> str | None:
    """The class that a task has for a model type, or for the text model of one; None where there is none."""
    own = task_classes(task).get(model_type)
    return own or (causal_classes().get(_parents().get(model_type, "")) if task is CAUSAL_LM else None)


def declared(model_type: str) -> Mapping[str, Declared]:
    """The fields that a model type's class has for its architecture, by name, in the class's order."""
    return fields_of(config_class(model_type))


@lru_cache(maxsize=1024)
def fields_of(cls: Any) -> Mapping[str, Declared]:
    """The fields that a config class has for its architecture, by name, in its order."""
    from transformers import PretrainedConfig

    common = {field.name for field in dataclasses.fields(PretrainedConfig)}
    fields = [field for field in dataclasses.fields(cls) if field.name not in common]
    names = canonical_names({field.name for field in fields}, cls.attribute_map)
    found = {names[field.name]: _declared(field, names[field.name], cls) for field in fields}
    taken = found.keys() | cls.attribute_map.keys()
    read = [name for name in UNDECLARED if name not in taken and _reads(cls, name)]
    found |= {name: Declared(name, name, UNDECLARED[name], declared=False) for name in read}
    old = sorted(_legacy(cls) - found.keys() - common - set(names))
    return types.MappingProxyType(found | {name: Declared(name, name, frozenset(), declared=False) for name in old})


@lru_cache(maxsize=1024)
def spellings(cls: Any) -> Mapping[str, str]:
    """Every name that a config class takes for a field, and the one by which Canvas knows it."""
    fields = fields_of(cls)
    found = {field.own: name for name, field in fields.items()}
    for alias, stored in cls.attribute_map.items():
        if stored in found:
            found.setdefault(alias, found[stored])
        elif alias in found:
            found[stored] = found[alias]
    old = {name: field for name, field in OLD_NAMES.items() if name in _legacy(cls) and field in fields}
    return types.MappingProxyType({**found, **{name: name for name in fields}, **old})


def own_values(model_type: str, values: Mapping[str, Any], task: Task = CAUSAL_LM) -> dict[str, Any]:
    """Values under the names that a model type's class takes; without an encoder, its sizes follow the decoder's."""
    fields = declared(model_type)
    given = {fields[name].own if name in fields else name: value for name, value in values.items()}
    for name, encoders in ENCODER.items() if not task.decodes else ():
        field = fields.get(name)
        if field and field.own in DECODER[name] and name in values:
            given.update({own: values[name] for own in encoders if own in fields})
    return given


def canonical_names(own: set[str], aliases: Mapping[str, str]) -> dict[str, str]:
    """For each name of a class's own, the one by which Canvas knows the field."""
    names = {name: name for name in own}
    taken = set(own)
    for canonical in CANONICAL:
        decoder = next((name for name in DECODER.get(canonical, ()) if name in own), None)
        other = decoder or aliases.get(canonical)
        if other is None:
            continue
        strange = other not in own or other in WORDS_OF_THEIR_OWN or (other != decoder and other in ENCODERS)
        if canonical in taken or strange or names[other] != other:
            continue
        names[other] = canonical
        taken.add(canonical)
    return names


def _declared(field: "dataclasses.Field[Any]", name: str, cls: Any) -> Declared:
    default = field.default
    if default is dataclasses.MISSING:
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
    if isinstance(default, property) or not isinstance(default, bool | int | float | str | list | tuple | dict):
        default = None
    leaves = tuple(_leaves(field.type))
    choices = tuple(value for leaf in leaves for value in typing.get_args(leaf) if isinstance(value, str))
    sorts = frozenset(map(_sort, leaves))
    return Declared(name, field.name, sorts, choices, default, holds=_held(field.name, leaves, cls))


def _leaves(annotation: Any) -> Iterator[Any]:
    """The members of a union, however deep."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from _leaves(part)
    else:
        yield annotation


_SORTS = {int: "int", float: "float", str: "str", bool: "bool", types.NoneType: "null", list: "list", tuple: "list"}


def _sort(annotation: Any) -> str:
    """The sort of value that one annotation allows."""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return "str"
    return _SORTS.get(origin or annotation, "dict")


def _held(own: str, leaves: tuple[Any, ...], cls: Any) -> Any:
    """The class of the config that a field holds; None where it holds none."""
    from transformers import PretrainedConfig

    spec = cls.sub_configs_defaults.get(own)
    if spec is not None:
        return spec.config_class if issubclass(spec.config_class, PretrainedConfig) else config_class(spec.model_type)
    configs = (leaf for leaf in leaves if isinstance(leaf, type) and issubclass(leaf, PretrainedConfig))
    return next((leaf for leaf in configs if leaf is not PretrainedConfig), None)


# what a class's files say


def own_classes(cls: Any) -> list[type]:
    """A config class and those that it builds on, without the base of all."""
    from transformers import PretrainedConfig

    return [base for base in cls.__mro__ if issubclass(base, PretrainedConfig) and base is not PretrainedConfig]


@lru_cache(maxsize=512)
def config_source(cls: Any) -> str:
    """The text of a config class and of those that it builds on, without the base of all."""
    return "\n".join(class_text(base) for base in own_classes(cls))


@lru_cache(maxsize=512)
def model_source(cls: Any) -> str:
    """The text of the files that build a config class's model."""
    folder = Path(inspect.getfile(cls)).parent
    return "\n".join(path.read_text() for path in sorted(folder.glob("modeling_*.py")))


def _legacy(cls: Any) -> set[str]:
    """Fields of older configs that a class still takes."""
    pattern = r'kwargs\.(?:pop|get)\(\s*"(\w+)"|kwargs\["(\w+)"\]\s*(?!=)|"(\w+)" (?:not )?in kwargs'
    text = config_source(cls)
    found = {name for names in re.findall(pattern, text) for name in names if name}
    if 'kwargs.pop(f"swa_{name}"' in text:  # a loop over the sizes of attention
        found |= {f"swa_{name}" for name in ("num_attention_heads", "num_key_value_heads", "head_dim", "v_head_dim")}
        found |= {"swa_q_lora_rank", "swa_kv_lora_rank", "swa_qk_nope_head_dim"}
    return found


def _reads(cls: Any, name: str) -> bool:
    """Whether a class or its model reads a field that the class does not declare."""
    if name.startswith("rope_"):
        return any(f"config.{read}" in model_source(cls) for read in ("rope_parameters", name))
    return f'"{name}"' in model_source(cls) or name in config_source(cls)
