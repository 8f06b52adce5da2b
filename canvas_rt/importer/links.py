"""Which setting follows which field of a config: told by models that differ in one field, traced or by their modules alone."""

import inspect
import json
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from canvas_rt.importer.recognition.traced import Traced
from canvas_rt.ir.document import Node
from canvas_rt.ops.activations import ACTIVATION_KERNELS
from canvas_rt.ops.choices import ALIASES


def followed(base: Traced, changed: Traced, own: Any, value: Any) -> list[tuple[str, str, str]] | None:
    """The settings that were `own` and became `value`; None where the graph changed in any other way."""
    if base.blocks.keys() != changed.blocks.keys():
        return None
    followers: list[tuple[str, str, str]] = []
    for name, block in base.blocks.items():
        other = changed.blocks[name]
        if len(block.nodes) != len(other.nodes) or (block.inputs, block.outputs) != (other.inputs, other.outputs):
            return None
        for before, after in zip(block.nodes, other.nodes, strict=True):
            if before == after:
                continue
            if (
                not isinstance(before, Node)
                or not isinstance(after, Node)
                or before.replace(attrs=after.attrs) != after
            ):
                return None
            for setting in before.attrs.keys() | after.attrs.keys():
                if before.attrs.get(setting) != after.attrs.get(setting):
                    if after.attrs.get(setting) != value or not stands_for(own, before.attrs.get(setting)):
                        return None
                    followers.append((name, before.id, setting))
    return followers


def stands_for(own: Any, setting: Any) -> bool:
    """Whether a config's value says what a setting says. Of activations, classes may read names in a way of their own."""
    if not isinstance(own, str) or not isinstance(setting, str) or own == setting:
        return True
    kernels = [ACTIVATION_KERNELS.get(ALIASES.get(name, name)) for name in (own, setting)]
    x = torch.linspace(-6, 6, 257)
    return None in kernels or all(torch.equal(kernels[0](x), kernel(x)) for kernel in kernels if kernel)  # type: ignore[misc]


def around(path: str) -> list[str]:
    """The paths of a module and of those that hold it, from the inside."""
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def only_keeps(module: nn.Module, other: nn.Module) -> bool:
    """Whether a module that holds others differs from another in numbers alone that it keeps and never reads."""
    if type(module) is not type(other) or not list(module.children()) or vars(module).keys() != vars(other).keys():
        return False
    ours, theirs = plain_of(module), plain_of(other)
    cls: Any = type(module)
    return not any(is_read(cls, name) for name in ours if ours[name] != theirs[name])


@lru_cache(maxsize=1024)
def is_read(cls: type, attribute: str) -> bool:
    """Whether a module's code, but for what makes it, names an attribute."""
    # What every model of transformers has beside, loads, resizes and saves it.
    own = [base for base in cls.__mro__ if not base.__module__.startswith(("torch.", "transformers.modeling_utils"))]
    making = ("__init__", "_init_weights")
    codes = [f.__code__ for base in own for n, f in vars(base).items() if n not in making and inspect.isfunction(f)]
    return any(attribute in code.co_names or attribute in code.co_consts for code in codes)


def plain_of(module: nn.Module) -> dict[str, Any]:
    """What a module keeps that is neither a tensor nor a module."""
    return {n: v for n, v in sorted(vars(module).items()) if isinstance(v, bool | int | float | str | type(None))}


def parts_of(model: nn.Module) -> dict[str, str]:
    """All that tells a model's modules from others, module by module."""
    parts: dict[str, str] = {}
    for path, module in model.named_modules():
        plain = plain_of(module)
        tensors = {name: list(p.shape) for name, p in module.named_parameters(recurse=False)}
        own = "" if list(module.children()) else repr(module)
        parts[path] = json.dumps([type(module).__name__, plain, tensors, own], default=str)
    return parts


@lru_cache(maxsize=256)
def _source(cls: type) -> str:
    try:
        return inspect.getsource(inspect.getmodule(cls) or cls)
    except (OSError, TypeError):
        return ""


def reads_when_run(model: nn.Module, field: str) -> bool:
    """Whether the code of a model's modules may look a field up when it runs."""
    classes: set[type] = {type(module) for module in model.modules()}
    texts = {_source(cls) for cls in classes if not cls.__module__.startswith("torch.")}
    return any(f"self.config.{field}" in text or f'(self.config, "{field}"' in text for text in texts)
