"""Lay a block's graph out in rows, from what flows in to what flows out, with wires that go around boxes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from canvas_rt.ir.document import Block
from canvas_rt.ir.graph import Item, head
from canvas_rt.pictures.boxes import GAP_X, GAP_Y, LANE, Box, Panel, Point, Wire

MOST_IN_A_ROW = 5
CLEAR = 5.0
"""How near to a box a wire may pass."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A value that a box reads of another."""

    source: str
    output: str
    target: str
    port: str


def lay_out(block: Block, items: Sequence[Item], boxes: Mapping[str, Box], shape: Callable[[str, str], str]) -> Panel:
    """The panel of `items`, in order of execution, whose `boxes` also hold the block's inputs and outputs.

    Outputs are in `boxes` as `=name`. `shape` gives what a box's output carries, or nothing.
    """
    edges = _edges(block, items, boxes)
    rows = _rows(block, items, boxes, edges)
    sizes = [
        (sum(boxes[n].width for n in row) + GAP_X * (len(row) - 1), max(boxes[n].height for n in row)) for row in rows
    ]
    width = max((width for width, _ in sizes), default=0.0)
    corners: dict[str, Point] = {}
    spans: list[tuple[float, float]] = []
    y = 0.0
    for row, (taken, height) in zip(rows, sizes, strict=True):
        x = (width - taken) / 2
        for name in row:
            corners[name] = x, y
            x += boxes[name].width + GAP_X
        spans.append((y, y + height))
        y += height + GAP_Y
    place = _Places({name: index for index, row in enumerate(rows) for name in row}, spans, corners, boxes)
    wires, left, right = _wires(edges, place, width, block.inputs[1:], shape)
    wires = _legible(wires, width + right * LANE)
    moved = left * LANE
    return Panel(
        width + (left + right) * LANE,
        max(y - GAP_Y, 0.0),
        tuple(((x + moved, y), boxes[name]) for name, (x, y) in corners.items()),
        tuple(Wire(tuple((x + moved, y) for x, y in wire.way), wire.shape) for wire in wires),
        {name: corners[name][0] + boxes[name].width / 2 + moved for name in block.inputs if name in corners},
        _ways_out(block, place, moved),
    )


def _edges(block: Block, items: Sequence[Item], boxes: Mapping[str, Box]) -> tuple[Edge, ...]:
    ends = [(item.id, port, ref) for item in items for port, ref in item.inputs.items()]
    ends += [(f"={name}", "", ref) for name, ref in block.outputs.items()]
    return tuple(
        Edge(head(ref), ref.partition(".")[2], target, port)
        for target, port, ref in ends
        if head(ref) in boxes and target in boxes and head(ref) != target
    )


def _rows(
    block: Block, items: Sequence[Item], boxes: Mapping[str, Box], edges: Sequence[Edge]
) -> tuple[tuple[str, ...], ...]:
    """Names row by row: each below what feeds it, and what nothing feeds just above what reads it."""
    feeds: dict[str, list[str]] = {}
    for edge in edges:
        feeds.setdefault(edge.target, []).append(edge.source)
    row_of = {name: 0 for name in block.inputs if name in boxes}
    held: dict[int, int] = {}
    for name in (item.id for item in items):
        row = 1 + max((row_of[source] for source in feeds.get(name, ()) if source in row_of), default=0)
        while held.get(row, 0) >= MOST_IN_A_ROW:
            row += 1
        row_of[name] = row
        held[row] = held.get(row, 0) + 1
    for name in (item.id for item in items):
        readers = [row_of[edge.target] for edge in edges if edge.source == name and edge.target in row_of]
        if name not in feeds and readers and held.get(min(readers) - 1, 0) < MOST_IN_A_ROW:
            row = max(min(readers) - 1, 1)
            held[row_of[name]] -= 1
            row_of[name], held[row] = row, held.get(row, 0) + 1
    row_of |= {name: 1 + max(row_of.values(), default=0) for name in boxes if name.startswith("=")}
    by_row: dict[int, list[str]] = {}
    for name, row in row_of.items():
        by_row.setdefault(row, []).append(name)
    return _side_by_side([by_row[row] for row in sorted(by_row)], feeds)


def _side_by_side(rows: Sequence[Sequence[str]], feeds: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Each row ordered by where its boxes' sources stand, so that few wires cross."""
    where: dict[str, float] = {}
    ordered = []
    for row in rows:
        wanted = {}
        for name in row:
            known = [where[source] for source in feeds.get(name, ()) if source in where]
            wanted[name] = sum(known) / len(known) if known else 0.5
        ordered.append(tuple(sorted(row, key=lambda name: wanted[name])))
        where |= {name: (index + 0.5) / len(row) for index, name in enumerate(ordered[-1])}
    return tuple(ordered)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where everything stands."""

    row_of: Mapping[str, int]
    spans: Sequence[tuple[float, float]]
    """From where to where each row reaches."""

    corners: Mapping[str, Point]
    boxes: Mapping[str, Box]

    def start(self, edge: Edge) -> Point:
        x, y = self.corners[edge.source]
        return x + self.boxes[edge.source].exit(edge.output), y + self.boxes[edge.source].height

    def end(self, edge: Edge) -> Point:
        x, y = self.corners[edge.target]
        return x + self.boxes[edge.target].entry(edge.port), y

    def free(self, x: float, rows: range) -> bool:
        """Whether a wire may go straight down through these rows."""
        return all(
            not (self.corners[name][0] - CLEAR < x < self.corners[name][0] + self.boxes[name].width + CLEAR)
            for name, row in self.row_of.items()
            if row in rows
        )


def _wires(
    edges: Sequence[Edge], place: _Places, width: float, on_the_right: Sequence[str], shape: Callable[[str, str], str]
) -> tuple[list[Wire], int, int]:
    """The wires, and how many lanes they need to the left and to the right of the boxes."""
    wires: list[Wire] = []
    around: dict[tuple[str, str], list[Edge]] = {}
    told: set[tuple[str, str]] = set()
    for edge in edges:
        said = "" if (edge.source, edge.output) in told else shape(edge.source, edge.output)
        told.add((edge.source, edge.output))
        way = _straight(edge, place)
        if way is None:
            around.setdefault((edge.source, edge.output), []).append(edge)
        else:
            wires.append(Wire(way, said))
    lanes: dict[bool, list[list[tuple[float, float]]]] = {False: [], True: []}
    for key, group in sorted(around.items(), key=lambda entry: _reach(entry[1], place)):
        right = key[0] in on_the_right
        low, high = place.start(group[0])[1], max(place.end(edge)[1] for edge in group)
        lane = _lane(lanes[right], low, high)
        x = width + (lane + 1) * LANE if right else -(lane + 1) * LANE
        said = "" if any(e.source == key[0] and e.output == key[1] and e not in group for e in edges) else shape(*key)
        for index, edge in enumerate(group):
            wires.append(Wire(_around(edge, place, x), "" if index else said))
    return wires, len(lanes[False]), len(lanes[True])


def _legible(wires: Sequence[Wire], width: float) -> list[Wire]:
    """The wires without shapes that would be written over another, or beyond the panel."""
    heights = {wire.way[0][1] for wire in wires}
    starts = {y: sorted({wire.way[0][0] for wire in wires if wire.way[0][1] == y}) for y in heights}
    kept = []
    for wire in wires:
        x, y = wire.way[0]
        near = next((other for other in starts[y] if other > x), width)
        fits = x + 5 + len(wire.shape) * 5.8 <= near
        kept.append(wire if fits or not wire.shape else replace(wire, shape=""))
    return kept


def _reach(group: Sequence[Edge], place: _Places) -> tuple[int, str, str]:
    rows = max(place.row_of[edge.target] for edge in group) - place.row_of[group[0].source]
    return rows, group[0].source, group[0].output


def _lane(lanes: list[list[tuple[float, float]]], low: float, high: float) -> int:
    """The innermost lane that is free from `low` to `high`, taken."""
    for index, taken in enumerate(lanes):
        if all(high < start or end < low for start, end in taken):
            taken.append((low, high))
            return index
    lanes.append([(low, high)])
    return len(lanes) - 1


def _straight(edge: Edge, place: _Places) -> tuple[Point, ...] | None:
    """A way straight down below the source, or straight down onto the target; None where boxes stand in both."""
    (x1, y1), (x2, y2) = place.start(edge), place.end(edge)
    first, last = place.row_of[edge.source], place.row_of[edge.target]
    if last <= first:
        return None  # a circle: it goes around
    bottom = place.spans[first][1]
    between = range(first + 1, last)
    if place.free(x1, between):
        return (x1, y1), (x1, y2 - GAP_Y), (x2, y2)
    if place.free(x2, between):
        return (x1, y1), (x1, bottom), (x2, bottom + GAP_Y), (x2, y2)
    return None


def _around(edge: Edge, place: _Places, x: float) -> tuple[Point, ...]:
    (x1, y1), (x2, y2) = place.start(edge), place.end(edge)
    bottom = place.spans[place.row_of[edge.source]][1]
    return (x1, y1), (x1, bottom), (x, bottom + GAP_Y * 0.8), (x, y2 - GAP_Y * 0.8), (x2, y2)


def _ways_out(block: Block, place: _Places, moved: float) -> dict[str, float]:
    found = {}
    for name in block.outputs:
        if f"={name}" in place.corners:
            found[name] = place.corners[f"={name}"][0] + place.boxes[f"={name}"].width / 2 + moved
    return found
