"""What a picture is made of: boxes, some with a panel of boxes and wires inside, each with its place."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Point = tuple[float, float]

PAD = 14.0
"""Between a frame and what it holds."""

HEADER = 34.0
"""From a frame's upper edge to its first row: half a port, and the frame's name."""

GAP_X = 14.0
GAP_Y = 30.0
"""Between the boxes of a row, and between rows: room for a wire to bend, and for its shape."""

LANE = 10.0
"""Between wires that pass by the boxes."""


@dataclass(frozen=True, slots=True)
class Wire:
    """A value's way from a box to another."""

    way: tuple[Point, ...]
    """Where it starts, bends and ends: it goes up and down in straight lines, and bends between rows."""

    shape: str = ""
    """What it carries, if that is known and not said beside it already."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph that is laid out, from the top to the bottom."""

    width: float
    height: float
    boxes: tuple[tuple[Point, "Box"], ...]
    """Boxes and their upper left corners."""

    wires: tuple[Wire, ...] = ()
    inputs: Mapping[str, float] = field(default_factory=dict)
    """For each input, how far to the right it comes in."""

    outputs: Mapping[str, float] = field(default_factory=dict)
    """For each output, how far to the right it goes out."""


@dataclass(frozen=True, slots=True)
class Box:
    """A node's card, a port, a word on what is left out, or a frame around a panel."""

    sort: str
    """`card`, `port`, `note`, `frame`, `layer` or `stack`."""

    width: float
    height: float
    name: str
    """What it is called."""

    title: str = ""
    """What it is: an op's title, or a block's name."""

    lines: tuple[str, ...] = ()
    """What matters of it, in the model's own sizes."""

    group: str = "function"
    """The sort of op, which gives the colour."""

    hint: str = ""
    """All that there was to say, where the lines had no room for it."""

    badge: str = ""
    """How often a layer is repeated, or which layers are such."""

    panel: Panel | None = None
    """What a frame holds."""

    inputs: tuple[str, ...] = ()
    """The ports that are fed, in order."""

    outputs: tuple[str, ...] = ()
    """The ports that are read, in order."""

    def entry(self, port: str) -> float:
        """How far to the right a port is fed."""
        if self.panel is not None and port in self.panel.inputs:
            return PAD + self.panel.inputs[port]
        return (
            self.width * (self.inputs.index(port) + 1) / (len(self.inputs) + 1)
            if port in self.inputs
            else self.width / 2
        )

    def exit(self, port: str) -> float:
        """How far to the right a port is read."""
        if self.panel is not None and self.panel.outputs:
            return PAD + self.panel.outputs.get(port, next(iter(self.panel.outputs.values())))
        if port not in self.outputs:
            return self.width / 2
        return self.width * (self.outputs.index(port) + 1) / (len(self.outputs) + 1)


def framed(sort: str, name: str, title: str, panel: Panel, *, badge: str = "", group: str = "block") -> Box:
    """A frame around a panel, wide enough for its own name."""
    wanted = text_width(name, title, badge) + 2 * PAD
    inner = panel if panel.width + 2 * PAD >= wanted else widened(panel, wanted - 2 * PAD)
    width, height = inner.width + 2 * PAD, inner.height + HEADER + PAD
    return Box(sort, width, height, name, title, group=group, badge=badge, panel=inner)


def widened(panel: Panel, width: float) -> Panel:
    """The same panel in the middle of more room."""
    by = (width - panel.width) / 2
    return Panel(
        width,
        panel.height,
        tuple(((x + by, y), box) for (x, y), box in panel.boxes),
        tuple(Wire(tuple((x + by, y) for x, y in wire.way), wire.shape) for wire in panel.wires),
        {name: x + by for name, x in panel.inputs.items()},
        {name: x + by for name, x in panel.outputs.items()},
    )


def text_width(name: str, title: str = "", badge: str = "") -> float:
    """An upper bound of how wide a heading is: names in a monospaced face, titles and badges in a proportional one."""
    parts = [len(name) * 7.2, len(title) * 6.6, len(badge) * 6.6]
    return sum(parts) + 10 * sum(1 for part in parts if part)
