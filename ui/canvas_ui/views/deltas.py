"""Tell a tab only what it does not know."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

from canvas_ui.messages import Level, NodeView, WireView

T = TypeVar("T")


@dataclass
class Shown:
    """What a tab was last told."""

    parts: dict[str, Any] = field(default_factory=dict)
    level: Level | None = None
    nodes: dict[str, NodeView] = field(default_factory=dict)
    wires: dict[str, WireView] = field(default_factory=dict)

    def news(self, name: str, value: T) -> T | None:
        """The value, if the tab does not know it."""
        if name in self.parts and self.parts[name] == value:
            return None
        self.parts[name] = value
        return value

    def forget(self, name: str) -> None:
        self.parts.pop(name, None)


def delta(shown: Shown, level: Level) -> Level | None:
    """What changed of the level that the tab is shown; all of it where it is another level; nothing where nothing did."""
    before, known_nodes, known_wires = shown.level, shown.nodes, shown.wires
    shown.level = level
    shown.nodes = {node.path: node for node in level.nodes}
    shown.wires = {wire.id: wire for wire in level.wires}
    if before is None or before.path != level.path or before.block != level.block:
        return level
    nodes = [node for node in level.nodes if known_nodes.get(node.path) != node]
    wires = [wire for wire in level.wires if known_wires.get(wire.id) != wire]
    gone_nodes = [path for path in known_nodes if path not in shown.nodes]
    gone_wires = [id for id in known_wires if id not in shown.wires]
    order = list(shown.nodes)
    frame = ("crumbs", "linked", "layers", "expanded")
    same_frame = all(getattr(before, name) == getattr(level, name) for name in frame)
    moved = order != list(known_nodes)
    if not (nodes or wires or gone_nodes or gone_wires or moved) and same_frame:
        return None
    return level.model_copy(
        update={
            "whole": False,
            "nodes": nodes,
            "wires": wires,
            "gone_nodes": gone_nodes,
            "gone_wires": gone_wires,
            "order": order if moved else None,
        }
    )
