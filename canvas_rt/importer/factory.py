"""Make configs and small models of one architecture: a stock one of transformers, or one that Canvas emitted."""

import copy
import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import nn

from canvas_rt.errors import ConfigError
from canvas_rt.importer.config.classes import (
    ENCODERS,
    START,
    canonical_names,
    config_class,
    declared,
    model_class_name,
    own_classes,
    own_values,
)
from canvas_rt.importer.config.refused import INERT
from canvas_rt.importer.trace import TRACED, quiet
from canvas_rt.importer.whole import noting_configs
from canvas_rt.ir.tasks import CAUSAL_LM, Task, task_of_class
from canvas_rt.ops.modules import is_keepable, keeps_state, source_name

KEPT_BASE_FIELDS = ("dtype", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
"""Of what every config of transformers has, the fields that describe the model."""


class Factory(Protocol):
    """One architecture, at any size."""

    @property
    def task(self) -> Task:
        """What its models are for."""

    def config(self, values: Mapping[str, Any]) -> Any:
        """A config object. Raises what transformers raises."""

    def model(self, config: Any, dtype: torch.dtype, device: str) -> nn.Module:
        """A model in eval mode, its attention and its experts traced as one node each."""

    def kept_whole(self, model: nn.Module) -> list[type]:
        """Classes of a model's modules that are one node each, whatever they do."""


class StockFactory:
    """An architecture that transformers has."""

    def __init__(self, model_type: str, task: Task = CAUSAL_LM) -> None:
        self.model_type = model_type
        self.task = task

    def config(self, values: Mapping[str, Any]) -> Any:
        # Both are there where a probe spells out what an old config gives as rope_scaling.
        superseded = {"model_type"} | ({"rope_scaling"} if values.get("rope_parameters") else set())
        values = {name: copy.deepcopy(value) for name, value in values.items() if name not in superseded}
        with quiet():
            return config_class(self.model_type)(**own_values(self.model_type, values, self.task))

    def model(self, config: Any, dtype: torch.dtype, device: str) -> nn.Module:
        return traced_model(self.build, config, dtype, device)

    def kept_whole(self, model: nn.Module) -> list[type]:
        return []  # what no trace can follow is told by trying

    def build(self, config: Any, **settings: Any) -> nn.Module:
        """A model of transformers' own making, by settings of `from_config`."""
        return self.model_class._from_config(config, **settings)  # type: ignore[attr-defined, no-any-return]

    @property
    def model_class(self) -> type:
        """The class that its task has: of a multimodal type, that of its text."""
        import transformers

        found: type = getattr(transformers, str(model_class_name(self.model_type, self.task)))
        return found


class ClassFactory:
    """An architecture given by its classes: those that emitted code defines, or a user's own."""

    def __init__(self, config_class: type, model_class: type) -> None:
        self.config_class = config_class
        self.model_class = model_class
        self.task = task_of_class(model_class.__name__)

    def config(self, values: Mapping[str, Any]) -> Any:
        own_class: Any = self.config_class
        own = {canonical: name for name, canonical in canonical_fields(own_class).items()}
        values = {own.get(name, name): copy.deepcopy(v) for name, v in values.items() if name != "model_type"}
        with quiet():
            return self.config_class(**values)

    def model(self, config: Any, dtype: torch.dtype, device: str) -> nn.Module:
        own: Any = self.model_class
        with noting_configs(self.imported):
            return traced_model(own._from_config, config, dtype, device)

    @property
    def imported(self) -> list[type]:
        """Classes that the code takes from transformers' models."""
        known = vars(sys.modules.get(self.model_class.__module__, object()))
        return [c for c in known.values() if isinstance(c, type) and source_name(c) and is_keepable(c)]

    def kept_whole(self, model: nn.Module) -> list[type]:
        if not str(getattr(self.config_class, "model_type", "")).startswith("canvas_"):
            return []
        # Emitted code takes modules from transformers where its document keeps them whole.
        found = {type(module) for module in model.modules()}
        return [cls for cls in found if is_keepable(cls) and not keeps_state(cls)]


def traced_model(build: Callable[..., Any], config: Any, dtype: torch.dtype, device: str) -> nn.Module:
    """A model whose attention and experts are traced as one node each, by a function that takes transformers' settings."""
    settings: dict[str, Any] = {"experts_implementation": TRACED, "dtype": dtype}
    with quiet(), torch.device(device):
        try:
            return build(config, attn_implementation=TRACED, **settings).eval()  # type: ignore[no-any-return]
        except KeyError as error:
            if error.args != (TRACED,):
                raise
        # It has a class of its own for each implementation, and none for ours: only its masks are traced as ours.
        model: nn.Module = build(config, attn_implementation="eager", **settings).eval()
        made: Any = model.config
        made._attn_implementation = TRACED
        return model


HIDDEN = frozenset(
    {
        "layer_types",
        "layer_kinds",
        "encoder_layer_kinds",
        "model_type",
        "is_encoder_decoder",
        "attribute_map",
        "keys_to_ignore_at_inference",
        "base_model_tp_plan",
        "base_model_pp_plan",
    }
)
"""Fields that are no numbers of an architecture. Layer lists restate what the graph says itself: they are made anew when
it is emitted."""

SET_BY_KEYWORD = ("head_dim",)
"""Fields that a model reads where a config has them, though its class does not declare them."""


def own_fields(config: Any) -> list[str]:
    """The fields that a config's class declares for its architecture, and those of all configs that matter.

    They have canonical names: `hidden_size` for what a class calls `n_embd`.
    """
    return list(_own_names(config, CAUSAL_LM))


def field_values(config: Any, task: Task = CAUSAL_LM) -> dict[str, Any]:
    """The value of each of `own_fields`, as plain data; a config within the config is a table.

    Of a classifier's, how many labels it tells apart, too; of a decoder's that an encoder feeds, what it starts from.
    """
    values, names = config.to_dict(), _own_names(config, task)
    found = {name: values[own] if own in values else getattr(config, own) for name, own in names.items()}
    found |= {"num_labels": config.num_labels} if task.classifies else {}
    return found | ({START: getattr(config, START, None)} if task.decodes else {})


@lru_cache(maxsize=1024)
def canonical_fields(cls: Any) -> Mapping[str, str]:
    """For each field that a config class declares, in its order, the name by which Canvas knows it."""
    from transformers import PretrainedConfig

    common = {field.name for field in dataclasses.fields(PretrainedConfig)}
    declared = [name for base in reversed(own_classes(cls)) for name in base.__annotations__]
    # A class may also declare its fields as what it is made from, and no more.
    made_from = inspect.signature(cls.__init__).parameters.values()
    declared += [one.name for one in made_from if one.kind in NAMED and one.name != "self" and one.name not in common]
    names = canonical_names(set(declared), cls.attribute_map)
    return MappingProxyType({name: names[name] for name in declared})


LEFT_OUT = frozenset({"architectures", "auto_map", "transformers_version", "_name_or_path", "model_type"})
"""What a config says that is not of the architecture."""


def canonical_values(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a config of a class says of its architecture, by the names by which Canvas knows its fields."""
    names = canonical_fields(cls)
    return {names.get(field, field): value for field, value in values.items() if field not in LEFT_OUT}


NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _own_names(config: Any, task: Task) -> dict[str, str]:
    """What the class of a config calls each field, by canonical name, in the class's order."""
    given = config.to_dict()
    own_class: Any = type(config)
    canonical = canonical_fields(own_class)
    declared = list(canonical)
    alone = "decoder" in " ".join(declared) and not task.decodes
    skipped = HIDDEN | INERT | (ENCODERS if alone else frozenset())
    aliases = type(config).attribute_map
    kept = [own for own in declared if own not in skipped and (own in given or aliases.get(own) in given)]
    names = {canonical[own]: own for own in kept}
    for name in (*SET_BY_KEYWORD, *KEPT_BASE_FIELDS):
        if name in given and name not in names:
            names[name] = name
    if "num_hidden_layers" not in names and isinstance(getattr(config, "num_hidden_layers", None), int):
        names["num_hidden_layers"] = "num_hidden_layers"  # told by a list of layers
    return names


def make_config(factory: Factory, values: Mapping[str, Any], name: str) -> Any:
    """A config object, or a `ConfigError` with transformers' own reason."""
    try:
        return factory.config(values)
    except Exception as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        field = _field_at_fault(reason, values, factory)
        raise ConfigError(f"transformers refuses it: {reason}", path=f"{name}: {field}" if field else name) from error


def make_model(factory: Factory, config: Any, dtype: torch.dtype, device: str, name: str) -> nn.Module:
    """A model, or a `ConfigError` with the reason why none can be made: what only its own code could tell."""
    try:
        return factory.model(config, dtype, device)
    except Exception as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        field = _field_at_fault(reason, own_fields(config), factory)
        raise ConfigError(f"no model can be made: {reason}", path=f"{name}: {field}" if field else name) from error


def _field_at_fault(reason: str, fields: Iterable[str], factory: Factory) -> str:
    """The field that a message of transformers is about: the one that it quotes, else the longest that it names."""
    known = declared(factory.model_type) if isinstance(factory, StockFactory) else {}
    words = set(re.findall(r"\w+", reason))
    quoted = set(re.findall(r"['`](\w+)['`]", reason))
    spelt = {field: {field, known[field].own} if field in known else {field} for field in fields}
    named = [field for field, names in spelt.items() if names & words]
    return min(named, key=lambda field: (not spelt[field] & quoted, -len(field)), default="")
