"""Modules that keep a state along the sequence, as one node each: what they read of the config, and what they learn."""

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from canvas_rt.importer.trace import TraceError
from canvas_rt.ir.document import Node
from canvas_rt.ir.frozen import freeze
from canvas_rt.ops.class_text import class_text
from canvas_rt.ops.learned import MODULE
from canvas_rt.ops.modules import (
    CACHES,
    calls_for_state,
    config_class,
    fields_read,
    keeps_state,
    made_with_more,
    source_name,
)


def stateful_node(
    module: nn.Module, name: str, config: Mapping[str, Any], of_layer: Mapping[str, Any] | None = None
) -> Node:
    """The node that a module kept whole is, without what feeds it.

    `config`: the values of the model's config. `of_layer`: what stands for the module's layer in the config's lists.
    Raises `TraceError` where a config does not say all that the module is made with.
    """
    if more := made_with_more(type(module)):
        raise TraceError(f"{type(module).__name__} keeps a state, and is made with {', '.join(more)} beside its config")
    source, own = source_name(type(module)), of_layer or {}
    said = [field for field in fields_read(source) if field not in own and is_said(source, field, config)]
    attrs = {
        "source": source,
        "fields": {field: config[field] for field in said},
        "keys": {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()},
    }
    also = {"by_layer": own, "buffers": given_buffers(module, config)}
    return Node(id=name, op=MODULE, attrs=freeze(attrs | {name: value for name, value in also.items() if value}))


def stray_state(model: nn.Module) -> str | None:
    """Why a model cannot be followed in which a module keeps a state that is no node of its own; None where there is none."""
    covered = tuple(f"{path}." for path, module in model.named_modules() if keeps_state(type(module)))
    for path, module in model.named_modules():
        cls: type = type(module)
        own = calls_for_state(cls) and not keeps_state(cls)
        if own and not path.startswith(covered):
            return f"{type(module).__name__} keeps a state in the cache beside what it gives"
    return None


def given_buffers(module: nn.Module, config: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors that a module uses, is given by the model that holds it, and that no checkpoint has: by runs of one number.

    A number that is one of the config's, rounded to the tensor's dtype, is that number.
    Raises `TraceError` for one that is of another sort.
    """
    written = "".join(class_text(cls) for cls in type(module).__mro__ if source_name(cls))
    found = {}
    for name in sorted(module._non_persistent_buffers_set):
        value = getattr(module, name)
        if re.search(rf"self\.{name}\b[^\n=]*=[^=]|register_buffer\(\s*['\"]{name}['\"]", written):
            continue  # it makes that itself
        if value is None or value.numel() != value.shape[-1]:
            raise TraceError(f"{type(module).__name__} is given a tensor '{name}' that no rule knows")
        numbers, counts = value.detach().float().flatten().unique_consecutive(return_counts=True)
        known = {float(torch.tensor(number, dtype=value.dtype)): number for number in _numbers_in(config)}
        said = [known.get(number, number) for number in numbers.tolist()]
        found[name] = {"sizes": counts.tolist(), "values": said, "rank": value.dim()}
    return found


def _numbers_in(value: Any) -> Iterator[float]:
    """All fractional numbers in plain data."""
    if isinstance(value, float) and math.isfinite(value):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers_in(part)


def is_said(source: str, field: str, config: Mapping[str, Any]) -> bool:
    """Whether a document says what a field is: a list only where it is unlike the class's own, any other value always."""
    if field not in config or config[field] is None:
        return False
    value = config[field]
    if isinstance(value, list | tuple):
        return bool(value != getattr(config_class(source)(), field, None) and freeze(value) == value)
    return True


OWN_STATES = frozenset({"state", "mems", "past_buckets_states", "cache"})
"""Arguments in which a model carries what came before, where it does without transformers' caches."""


def own_cache(model: nn.Module) -> str | None:
    """What a model keeps its state in, if that is no cache of transformers."""
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    classes: set[type] = {type(module) for module in model.modules()}
    caches = DynamicCache(), EncoderDecoderCache(DynamicCache(), DynamicCache())
    for cls in sorted(filter(source_name, classes), key=source_name):
        for name in re.findall(rf"\b(?:{'|'.join(CACHES)})\.([a-z]\w*)\b", class_text(cls)):
            if not any(hasattr(cache, name) for cache in caches):
                return f"{cls.__name__} keeps its state in a cache of its own class, by '{name}'"
    for name in inspect.signature(model.forward).parameters:
        if name in OWN_STATES and source_name(type(model)):
            return f"{type(model).__name__} carries what came before in an argument of its own, '{name}'"
    return None


__all__ = ["given_buffers", "own_cache", "stateful_node"]
