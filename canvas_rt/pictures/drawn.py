"""Turn a document into boxes: cards for nodes, frames for blocks, one frame for all layers that are alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Block, Document, Node, Stack, Use, layer_environment
from canvas_rt.ir.expressions import display, resolve
from canvas_rt.ir.graph import Item, execution_order, head, layer_runs
from canvas_rt.ops.catalogue import OPS
from canvas_rt.pictures.boxes import GAP_X, PAD, Box, Panel, Point, Wire, framed, text_width
from canvas_rt.pictures.layout import lay_out
from canvas_rt.text import Shapes, detail, title

MOST_DRAWN = 600
"""Nodes in a picture; what comes after them is counted."""

MOST_IN_A_BLOCK = 80
MOST_KINDS_DRAWN = 4
DEEPEST_DRAWN = 6
WIDEST = 1180.0
"""Kinds of layer stand side by side while they fit within this."""

LINE = 34
"""Characters in a line of a card."""

MOST_LINES = 3
PORT_HEIGHT = 16.0


@dataclass
class Pen:
    """What is being drawn, and what has been drawn already."""

    document: Document
    shapes: Shapes
    drawn: set[str] = field(default_factory=set)
    """Blocks that have been drawn: each is drawn once."""

    left: int = MOST_DRAWN
    omitted: int = 0

    def whole(self) -> Panel:
        """The root block."""
        root = self.document.root
        return self.block(root, "", _environment(self.document), 0)

    def block(self, name: str, prefix: str, environment: Mapping[str, Any] | None, depth: int) -> Panel:
        """A block's inside. `prefix`: the path of what it is the inside of, with a dot."""
        self.drawn.add(name)
        block = self.document.blocks[name]
        ordered, _ = execution_order(block)
        known = {item.id for item in ordered}
        every = (*ordered, *(item for item in block.nodes if item.id not in known))
        items = every[: max(0, min(MOST_IN_A_BLOCK, self.left))]
        self.left -= len(items)
        self.omitted += len(every) - len(items)
        boxes = {name: _port(name) for name in block.inputs}
        read = _read(block)
        for item in items:
            path = f"{prefix}{item.id}"
            boxes[item.id] = self.item(item, path, environment, depth, read.get(item.id, ()))
        if len(every) > len(items):
            boxes["="] = _note(f"{len(every) - len(items):,} more nodes")
        if not prefix or len(block.outputs) > 1:
            boxes |= {f"={name}": _port(name) for name in block.outputs}
        panel = lay_out(block, items, boxes, lambda source, port: self.shape(block, prefix, source, port))
        return panel if panel.outputs else _with_way_out(panel, block)

    def item(
        self, item: Item, path: str, environment: Mapping[str, Any] | None, depth: int, outputs: tuple[str, ...]
    ) -> Box:
        if isinstance(item, Stack):
            return self.stack(item, path, environment, depth)
        if isinstance(item, Node):
            return _card(item, path, environment, outputs)
        if item.block in self.drawn or depth >= DEEPEST_DRAWN or self.left <= 0:
            lines = ("as drawn above",) if item.block in self.drawn else ("not unfolded",)
            return _boxed(item, item.block, lines, "block", path, outputs)
        panel = self.block(item.block, f"{path}.", environment, depth + 1)
        return framed("frame", item.id, item.block, panel, group=_group(self.document.blocks[item.block]))

    def stack(self, stack: Stack, path: str, environment: Mapping[str, Any] | None, depth: int) -> Box:
        """Layers in a row: each block that is a layer once, with the layers that it is."""
        blocks = tuple(dict.fromkeys(kind.block for kind in stack.kinds))
        places = _places(stack, environment)
        used = [name for name in blocks if name in places] or list(blocks[:1])
        said = display(stack.repeat)
        repeat = f"{said} ×" if not places or said.isdecimal() else f"{said} = {_count(places)} ×"
        frames = [
            self.layer(stack, name, f"{path}.", places.get(name, ()), environment, depth)
            for name in used[:MOST_KINDS_DRAWN]
        ]
        if len(used) > MOST_KINDS_DRAWN:
            more = [f"{name}: {_ranges(places.get(name, ()))}" for name in used[MOST_KINDS_DRAWN:]]
            frames.append(_note("and " + "; ".join(more)))
        panel = _beside(frames)
        if len(frames) == 1 and frames[0].panel is not None:
            panel = replace(panel, inputs={name: PAD + x for name, x in frames[0].panel.inputs.items()})
        box = framed("stack", stack.id, "Stack", panel, badge=repeat, group="stack")
        return replace(box, inputs=tuple(stack.inputs))

    def layer(
        self,
        stack: Stack,
        name: str,
        prefix: str,
        layers: Sequence[tuple[int, int, int]],
        environment: Mapping[str, Any] | None,
        depth: int,
    ) -> Box:
        kinds = list(dict.fromkeys(kind for _, _, kind in layers)) or [0]
        inner = environment
        if environment is not None:
            inner = _within(stack, kinds[0], environment)
        place = f"{prefix}{_range(layers[0])}." if layers else prefix
        own = [
            f"{_ranges([run for run in layers if run[2] == kind])}: {sizes}"
            for kind in kinds
            if (sizes := ", ".join(f"{key} {display(value)}" for key, value in stack.kinds[kind].sizes.items()))
        ]
        badge = f"layers {_ranges(layers)}" if layers else ""
        if name in self.drawn or depth >= DEEPEST_DRAWN or self.left <= 0:
            panel = _beside([_note("as drawn above" if name in self.drawn else "not unfolded")])
        else:
            panel = self.block(name, place, inner, depth + 1)
        box = framed("layer", "", name, panel, badge=badge, group=_group(self.document.blocks[name]))
        return _with_hint(box, own)

    def shape(self, block: Block, prefix: str, source: str, port: str) -> str:
        """What an output carries, where `shapes` says it."""
        item = block.node(source)
        found = self.shapes.get(f"{prefix}{source}") or ()
        known = [shape for shape in found if shape is not None]
        if not known:
            return ""
        ports = OPS[item.op].outputs if isinstance(item, Node) and item.op in OPS else ()
        index = ports.index(port) if port in ports else 0
        return str(known[min(index, len(known) - 1)])


def _environment(document: Document) -> Mapping[str, Any] | None:
    """What names stand for; None in a document whose sizes lead nowhere."""
    try:
        return document.environment
    except CanvasError:
        return None


def _within(stack: Stack, kind: int, environment: Mapping[str, Any]) -> Mapping[str, Any] | None:
    try:
        return layer_environment(environment, stack.kinds[kind])
    except CanvasError:
        return None


def _places(stack: Stack, environment: Mapping[str, Any] | None) -> dict[str, list[tuple[int, int, int]]]:
    """For each block, the ranges of layers that are such, with their kind. Empty where their number is unknown."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    try:
        kinds = stack.kind_indices(resolve(stack.repeat, environment or {}))
    except CanvasError:
        return found
    for first, last, kind in layer_runs(kinds):
        found.setdefault(stack.kinds[kind].block, []).append((first, last, kind))
    return found


def _count(places: Mapping[str, Sequence[tuple[int, int, int]]]) -> int:
    return sum(last - first + 1 for runs in places.values() for first, last, _ in runs)


def _range(run: tuple[int, int, int]) -> str:
    return f"{run[0]}" if run[0] == run[1] else f"{run[0]}-{run[1]}"


def _ranges(runs: Sequence[tuple[int, int, int]], most: int = 8) -> str:
    joined: list[tuple[int, int, int]] = []
    for first, last, _ in runs:
        if joined and joined[-1][1] == first - 1:
            joined[-1] = joined[-1][0], last, 0
        else:
            joined.append((first, last, 0))
    step = {b[0] - a[0] for a, b in pairwise(joined)}
    if len(joined) > 3 and len(step) == 1 and all(first == last for first, last, _ in joined):
        return f"{joined[0][0]}, {joined[1][0]}, … {joined[-1][0]}"
    said = ", ".join(_range(run) for run in joined[:most])
    return said + (", …" if len(joined) > most else "")


def _read(block: Block) -> dict[str, tuple[str, ...]]:
    """For each node, the output ports that are read."""
    refs = [ref for item in block.nodes for ref in item.inputs.values()] + list(block.outputs.values())
    found: dict[str, dict[str, None]] = {}
    for ref in refs:
        found.setdefault(head(ref), {})[ref.partition(".")[2]] = None
    return {name: tuple(ports) for name, ports in found.items()}


def _group(block: Block) -> str:
    roles = {"attention": "attention", "gated_mlp": "mlp", "mlp": "mlp", "moe": "moe"}
    return roles.get(block.role, "block")


def _card(node: Node, path: str, environment: Mapping[str, Any] | None, outputs: tuple[str, ...]) -> Box:
    op = OPS.get(node.op)
    group = {"router": "moe", "experts": "moe"}.get(node.op, op.group if op else "function")
    said = said_of(node, environment)
    box = _boxed(node, title(node), wrapped(said), group, path, outputs)
    return replace(box, hint=f"{path}: {said[:400]}") if said else box


def said_of(node: Node, environment: Mapping[str, Any] | None) -> str:
    """What matters of a node; of one that is not sound, its settings as they stand."""
    try:
        said = detail(node, environment)
    except (CanvasError, LookupError, TypeError, ValueError, AttributeError):
        said = ", ".join(f"{name} {display(value)}" for name, value in node.attrs.items())
    return said


def wrapped(text: str) -> tuple[str, ...]:
    """Text in a card's lines; what has no room is cut off."""
    words, lines = text[:400].split(), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 1 + len(word) > LINE:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    cut = [line if len(line) <= LINE else line[: LINE - 1] + "…" for line in lines[:MOST_LINES]]
    if len(lines) > MOST_LINES or len(text) > 400:
        cut[-1] = cut[-1][: LINE - 2].rstrip("…") + " …"
    return tuple(line for line in cut if line)


def _boxed(
    item: Node | Use, titled: str, lines: tuple[str, ...], group: str, path: str, outputs: tuple[str, ...]
) -> Box:
    width = max(text_width(item.id, titled), *(len(line) * 6.2 for line in lines), 60.0) + 26
    height = 26.0 + 14.0 * len(lines)
    return Box(
        "card", width, height, item.id, titled, lines, group, hint=path, inputs=tuple(item.inputs), outputs=outputs
    )


def _port(name: str) -> Box:
    return Box("port", len(name) * 6.2 + 16, PORT_HEIGHT, name, group="io")


def _note(text: str) -> Box:
    lines = wrapped(text)
    return Box("note", max(len(line) for line in lines) * 6.2 + 20, 10 + 14.0 * len(lines), "", lines=lines, hint=text)


def _with_hint(box: Box, own: Sequence[str]) -> Box:
    """A layer's frame with the sizes that such layers have for themselves, above what it holds."""
    if not own or box.panel is None:
        return box
    note = _note("; ".join(own))
    by = note.height + 8
    held = box.panel
    panel = Panel(
        max(held.width, note.width),
        held.height + by,
        (((0.0, 0.0), note), *(((x, y + by), inner) for (x, y), inner in held.boxes)),
        tuple(Wire(tuple((x, y + by) for x, y in wire.way), wire.shape) for wire in held.wires),
        held.inputs,
        held.outputs,
    )
    return framed(box.sort, box.name, box.title, panel, badge=box.badge, group=box.group)


def _with_way_out(panel: Panel, block: Block) -> Panel:
    """The one output of a block goes out below what gives it."""
    ref = next(iter(block.outputs.values()), "")
    name, _, port = ref.partition(".")
    for (x, y), box in panel.boxes:
        if box.name == name and box.sort != "note":
            at = x + box.exit(port)
            wire = Wire(((at, y + box.height), (at, panel.height + PAD)))
            return Panel(panel.width, panel.height, panel.boxes, (*panel.wires, wire), panel.inputs, {"": at})
    return panel


def _beside(frames: Sequence[Box]) -> Panel:
    """Frames side by side while they fit, else one above the other."""
    wide = sum(box.width for box in frames) + GAP_X * (len(frames) - 1)
    if wide <= WIDEST:
        corners: list[Point] = []
        x = 0.0
        for box in frames:
            corners.append((x, 0.0))
            x += box.width + GAP_X
        return Panel(wide, max(box.height for box in frames), tuple(zip(corners, frames, strict=True)))
    width = max(box.width for box in frames)
    y, placed = 0.0, []
    for box in frames:
        placed.append((((width - box.width) / 2, y), box))
        y += box.height + 22
    return Panel(width, y - 22, tuple(placed))


def rows_of(words: Sequence[str], room: int) -> list[str]:
    """Words in lines of at most `room` characters."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 3 + len(word) <= room:
            lines[-1] += " · " + word
        else:
            lines.append(word)
    return lines
