"""Modules of transformers that are kept whole: those that carry a state of their own along the sequence."""

import importlib
import inspect
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from canvas_rt.errors import CanvasError
from canvas_rt.ir.frozen import FrozenMap, freeze, thaw
from canvas_rt.ops.kernels import Context, Values

STATES = ("update_conv_state(", "update_recurrent_state(")
"""What a module calls that keeps a state in transformers' cache."""

CACHES = ("past_key_values", "past_key_value", "cache_params")
"""What modules call the cache that they are given."""

PACKAGE = "transformers.models"


def source_name(cls: type) -> str:
    """A class of transformers as documents name it: `mamba2.Mamba2Mixer`. Empty for any other class."""
    package, _, _ = cls.__module__.rpartition(".modeling_")
    folder = package.removeprefix(f"{PACKAGE}.")
    return f"{folder}.{cls.__name__}" if package.startswith(f"{PACKAGE}.") and "." not in folder else ""


def keeps_state(cls: type) -> bool:
    """Whether modules of a class carry a state of their own along the sequence, as state-space and linear attention do."""
    return _keeps_state(cls)


@lru_cache(maxsize=512)
def _keeps_state(cls: type) -> bool:
    if not source_name(cls):
        return False
    try:
        text = inspect.getsource(cls)
    except (OSError, TypeError):
        return False
    forward: Any = getattr(cls, "forward", None)
    required = [
        p
        for p in inspect.signature(forward).parameters.values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    return any(call in text for call in STATES) and len(required) == 2  # itself, and one value


@lru_cache(maxsize=128)
def module_class(source: str) -> type[nn.Module]:
    """The class behind a name. Raises `CanvasError` for what is no module of transformers that keeps a state."""
    folder, _, name = source.partition(".")
    if folder.isidentifier() and name.isidentifier():
        try:
            found = getattr(importlib.import_module(f"{PACKAGE}.{folder}.modeling_{folder}"), name, None)
        except ImportError:
            found = None
        if isinstance(found, type) and issubclass(found, nn.Module) and keeps_state(found):
            return found
    raise CanvasError(
        f"'{source[:80]}' is no module of transformers that keeps a state", hint="As in `mamba2.Mamba2Mixer`."
    )


@lru_cache(maxsize=128)
def config_class(source: str) -> Any:
    """The config class of the module behind a name: the first of its folder that has all that the module reads."""
    from transformers import PretrainedConfig

    folder = source.partition(".")[0]
    text = inspect.getsource(module_class(source))
    read = set(re.findall(r"config\.([a-z]\w*)", text))
    module = importlib.import_module(f"{PACKAGE}.{folder}.configuration_{folder}")
    classes = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, PretrainedConfig)]
    own = [cls for cls in classes if cls.__module__ == module.__name__]
    return max(own, key=lambda cls: len(read & _fields(cls)))


@lru_cache(maxsize=128)
def cache_argument(source: str) -> str:
    """What a module calls the cache that it is given."""
    forward: Any = module_class(source).forward
    return next(name for name in CACHES if name in inspect.signature(forward).parameters)


def _fields(cls: type) -> set[str]:
    return {name for base in cls.__mro__ for name in getattr(base, "__annotations__", {})}


@lru_cache(maxsize=128)
def fields_read(source: str) -> tuple[str, ...]:
    """The fields of its config that a module reads, as its class says."""
    text = inspect.getsource(module_class(source))
    read = set(re.findall(r"config\.([a-z]\w*)", text)) - NOT_ITS_OWN
    known = _fields(config_class(source))
    through = {name for name in read - known if isinstance(getattr(config_class(source), name, None), property)}
    for name in through:
        read |= set(re.findall(r"self\.([a-z]\w*)", inspect.getsource(getattr(config_class(source), name).fget)))
    if read - known - through:  # what the config works out when it is made
        read |= set(re.findall(r"self\.([a-z]\w*)", inspect.getsource(config_class(source).__post_init__)))
    return tuple(sorted((read & known) - NOT_ITS_OWN))


NOT_ITS_OWN = frozenset({"layer_types", "num_hidden_layers", "dtype"})
"""What a module reads of the model at large."""


@lru_cache(maxsize=64)
def _made(source: str, fields: FrozenMap[str, Any], device: str) -> nn.Module:
    cls: Any = module_class(source)
    config = config_class(source)(**thaw(fields))
    with torch.device(device):
        made: nn.Module = cls(config, layer_idx=0)
    return made.eval().requires_grad_(False)


def run_module(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    """What the module gives without a state before it: x [batch, seq, size] to the same shape."""
    if context.backend == "shape":
        return (torch.empty_like(inputs["x"]),)
    module = _made(attrs["source"], freeze(attrs["fields"]), context.device.type)
    return (functional_call(module, dict(parameters), (inputs["x"],)),)


__all__ = ["CACHES", "config_class", "fields_read", "keeps_state", "module_class", "run_module", "source_name"]
