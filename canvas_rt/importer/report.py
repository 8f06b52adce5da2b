"""What an import made of a model, for people and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import made of a model."""

    nodes: int
    """Nodes of distinct blocks."""

    recognised: Mapping[str, int]
    """How many of them are of each op. Every node is recognised: an import that meets an unknown op stops and says so."""

    symbols: int
    """Settings expressed in config fields, or constant at every size."""

    literals: tuple[str, ...]
    """Settings that are one number at every size, and follow no field."""

    without_effect: tuple[str, ...]
    """Config fields on which neither the graph nor the weights depend."""

    structural: tuple[str, ...]
    """Config fields whose change alters the graph itself: they need a new import."""

    unused: tuple[str, ...] = ()
    """Keys of the original's checkpoint that take no part in its logits, and so are not in the document."""

    not_in_model: tuple[str, ...] = ()
    """Keys of the weights beside the config for which the architecture has no place."""

    notes: tuple[str, ...] = ()
    """What else was done, or was not: whether weights were compared, whether code ran."""

    def to_json(self) -> dict[str, Any]:
        return {
            "nodes": self.nodes,
            "recognised": dict(self.recognised),
            "symbols": self.symbols,
            "literals": list(self.literals),
            "without_effect": list(self.without_effect),
            "unused": list(self.unused),
            "not_in_model": list(self.not_in_model),
            "notes": list(self.notes),
            "structural": list(self.structural),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ImportReport":
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
        return cls(**values)

    def __str__(self) -> str:
        ops = ", ".join(f"{count} {op}" for op, count in sorted(self.recognised.items()))
        lines = [f"{self.nodes} nodes, all recognised: {ops}", f"{self.symbols} settings follow the config's fields"]
        if self.literals:
            lines.append("the same at every size: " + ", ".join(self.literals))
        if self.without_effect:
            lines.append("fields without effect on graph or weights: " + ", ".join(self.without_effect))
        if self.unused:
            lines.append(f"in the checkpoint, but no part of the computation: {_first(self.unused)}")
        if self.not_in_model:
            lines.append(f"in the checkpoint, but not in the architecture: {_first(self.not_in_model)}")
        if self.structural:
            lines.append("fields that change the graph (import again to change them): " + ", ".join(self.structural))
        return "\n".join([*lines, *self.notes])


def _first(names: Sequence[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
