"""Modules that keep a state along the sequence, as one node each: what they read of the config, and what they learn."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from canvas_rt.ir.document import Node
from canvas_rt.ir.frozen import freeze
from canvas_rt.ops.learned import MODULE
from canvas_rt.ops.modules import config_class, fields_read, source_name


def stateful_node(module: nn.Module, name: str, config: Mapping[str, Any]) -> Node:
    """The node that a module kept whole is, without what feeds it. `config`: the values of the model's config."""
    source = source_name(type(module))
    attrs = {
        "source": source,
        "fields": {field: config[field] for field in fields_read(source) if is_said(source, field, config)},
        "keys": {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()},
    }
    return Node(id=name, op=MODULE, attrs=freeze(attrs))


def is_said(source: str, field: str, config: Mapping[str, Any]) -> bool:
    """Whether a document says what a field is: numbers and switches always, a list only where it is unlike the class's own."""
    if field not in config or config[field] is None:
        return False
    value = config[field]
    if isinstance(value, list | tuple | Mapping):
        return bool(value != getattr(config_class(source)(), field, None) and freeze(value) == value)
    return True


__all__ = ["stateful_node"]
