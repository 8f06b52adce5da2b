"""What the rope parameters of a config say of a rotary embedding: its table, and how many channels it turns. Needs no torch."""

from collections.abc import Mapping
from typing import Any


def rotary_table(attrs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rope parameters that a rotary embedding goes by: those of its layer type, where there are several."""
    table = attrs["parameters"]
    if attrs["layer_type"] is not None and isinstance(table, Mapping):
        table = table.get(attrs["layer_type"])
    return table if isinstance(table, Mapping) else {}


def rotary_channels(attrs: Mapping[str, Any]) -> int:
    """How many channels of a head its parameters say are turned. `proportional` turns all, some of them not at all fast."""
    table = rotary_table(attrs)
    if table.get("rope_type") == "proportional":
        return int(attrs["head_dim"])
    factor = table.get("partial_rotary_factor")
    return int(attrs["head_dim"] * (1.0 if factor is None else factor))


def rotary_width(attrs: Mapping[str, Any]) -> int:
    """How many channels of a head are turned: they come in pairs, so an odd number is one short."""
    return 2 * ((rotary_channels(attrs) + 1) // 2)
