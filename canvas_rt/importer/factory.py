"""Make configs and small models of one architecture: a stock one of transformers, or one that Canvas emitted."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from canvas_rt.errors import ConfigError
from canvas_rt.importer.trace import TRACED, quiet

KEPT_BASE_FIELDS = ("dtype", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
"""Of what every config of transformers has, the fields that describe the model."""


class Factory(Protocol):
    """One architecture, at any size."""

    def config(self, values: Mapping[str, Any]) -> Any:
        """A config object. Raises what transformers raises."""

    def model(self, config: Any, dtype: torch.dtype, device: str) -> nn.Module:
        """A causal language model in eval mode, its attention and its experts traced as one node each."""


class StockFactory:
    """An architecture that transformers has."""

    def __init__(self, model_type: str) -> None:
        self.model_type = model_type

    def config(self, values: Mapping[str, Any]) -> Any:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        values = {name: value for name, value in values.items() if name != "model_type"}
        with quiet():
            return CONFIG_MAPPING[self.model_type](**values)

    def model(self, config: Any, dtype: torch.dtype, device: str) -> nn.Module:
        from transformers import AutoModelForCausalLM

        with quiet(), torch.device(device):
            return AutoModelForCausalLM.from_config(  # type: ignore[no-any-return]
                config,
                attn_implementation=TRACED,
                experts_implementation=TRACED,
                dtype=dtype,
                trust_remote_code=False,
            ).eval()


class ClassFactory:
    """An architecture given by its classes, as emitted code defines them."""

    kind: ClassVar[str] = "emitted"

    def __init__(self, config_class: type, model_class: type) -> None:
        self.config_class = config_class
        self.model_class = model_class

    def config(self, values: Mapping[str, Any]) -> Any:
        values = {name: value for name, value in values.items() if name != "model_type"}
        with quiet():
            return self.config_class(**values)

    def model(self, config: Any, dtype: torch.dtype, device: str) -> nn.Module:
        config._attn_implementation = TRACED
        own: Any = self.model_class
        with quiet(), torch.device(device):
            return own._from_config(  # type: ignore[no-any-return]
                config, attn_implementation=TRACED, experts_implementation=TRACED, dtype=dtype
            ).eval()


def own_fields(config: Any) -> list[str]:
    """The fields that a config's class declares for its architecture, and those of all configs that matter."""
    from transformers import PretrainedConfig

    names: dict[str, None] = {}
    for cls in reversed(type(config).__mro__):
        if issubclass(cls, PretrainedConfig) and cls is not PretrainedConfig:
            names.update(dict.fromkeys(cls.__annotations__))
    fields = config.to_dict()
    # Layer lists restate what the graph says itself: they are made anew when it is emitted.
    hidden = {
        "layer_types",
        "layer_kinds",
        "model_type",
        "attribute_map",
        "keys_to_ignore_at_inference",
        "base_model_tp_plan",
        "base_model_pp_plan",
    }
    return [
        name
        for name in (*names, *(n for n in KEPT_BASE_FIELDS if n not in names))
        if name in fields and name not in hidden
    ]


def make_config(factory: Factory, values: Mapping[str, Any], name: str) -> Any:
    """A config object, or a `ConfigError` with transformers' own reason."""
    try:
        return factory.config(values)
    except Exception as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        field = next((field for field in sorted(values, key=len, reverse=True) if f"'{field}'" in reason), "")
        raise ConfigError(f"transformers refuses it: {reason}", path=f"{name}: {field}" if field else name) from error
