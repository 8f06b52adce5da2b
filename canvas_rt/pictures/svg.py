"""Write a document's picture as SVG. Names come from strangers: text is escaped, and no attribute holds any of it."""

from collections.abc import Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document
from canvas_rt.ops.parameters import count_parameters
from canvas_rt.pictures.boxes import GAP_Y, HEADER, PAD, Box, Panel, Point, Wire
from canvas_rt.pictures.drawn import Pen, rows_of

MARGIN = 24.0
NARROWEST = 520.0
MOST_SIZES = 14
LIGHT = {
    "ground": "#f6f7f9", "surface": "#ffffff", "line": "#c3cad4", "ink": "#14181f", "soft": "#4a5361", "wire": "#8b95a3",
    "io": "#5b6675", "embedding": "#8a4fd0", "position": "#b0498f", "attention": "#2f6bd8", "norm": "#0f7f86",
    "mlp": "#b65a12", "moe": "#a8443a", "arithmetic": "#56752a", "shape": "#6b6f2c", "function": "#5b6675",
    "block": "#3f5a88", "stack": "#4b45a8",
}  # fmt: skip
DARK = {
    "ground": "#12151b", "surface": "#1a1e26", "line": "#434c5b", "ink": "#eceff4", "soft": "#b4bdca", "wire": "#6f7b8c",
    "io": "#98a4b5", "embedding": "#b98cf0", "position": "#e08cc4", "attention": "#7ba6ff", "norm": "#4fc0c8",
    "mlp": "#f0a05e", "moe": "#f08a80", "arithmetic": "#a3c76f", "shape": "#c3c46d", "function": "#98a4b5",
    "block": "#94b1e6", "stack": "#a9a3ff",
}  # fmt: skip
"""The editor's colours: a group of ops has the same here and there."""

STYLE = """
.cp text{font:11px Inter,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif;fill:var(--soft)}
.cp .m{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono","DejaVu Sans Mono",monospace}
.cp .n{font-size:11.5px;font-weight:600;fill:var(--ink)}
.cp .d{font-size:10px}
.cp .h{font-size:19px;font-weight:650;fill:var(--ink)}
.cp .b{font-weight:600;fill:var(--c)}
.cp .s{font-size:9.5px;stroke:var(--ground);stroke-width:3px;paint-order:stroke;stroke-linejoin:round}
.cp .w{fill:none;stroke:var(--wire);stroke-width:1.3}
.cp .card{fill:var(--surface);stroke:var(--line)}
.cp .port{fill:var(--surface);stroke:var(--wire)}
.cp .edge{fill:var(--c)}
.cp .frame{fill:var(--c);fill-opacity:.05;stroke:var(--c);stroke-opacity:.45}
.cp .behind{fill:var(--ground);stroke:var(--c);stroke-opacity:.35}
"""


def picture(document: Document, shapes: Mapping[str, Any] | None = None) -> str:
    """A document as a picture: SVG that stands by itself, on light and dark pages. Needs no torch.

    Nodes stand from top to bottom, blocks as frames around theirs, a stack's layers once for each kind. Wires say what
    they carry where `shapes` are given, as in `picture(document, check(document).shapes)`. The same document gives the
    same bytes. In a notebook a document shows itself so.
    """
    pen = Pen(document, shapes or {})
    panel = pen.whole()
    width = max(panel.width + 2 * MARGIN, NARROWEST)
    heading = list(_heading(document, width, pen.omitted))
    top = MARGIN + 22 + 16 * (len(heading) - 1) + 22
    height = top + panel.height + MARGIN
    said = f"{document.name}: {document.root}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="cp" role="img" viewBox="0 0 {_n(width)} {_n(height)}"'
        f' width="{_n(width)}" height="{_n(height)}" style="max-width:100%;height:auto">',
        f"<title>{_text(said)}</title>",
        f"<style>{_colours(LIGHT)}@media (prefers-color-scheme:dark){{{_colours(DARK)}}}{_groups()}{STYLE}</style>",
        f'<rect width="{_n(width)}" height="{_n(height)}" rx="10" fill="var(--ground)"/>',
        *heading,
        *_panel(panel, ((width - panel.width) / 2, top)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _colours(table: Mapping[str, str]) -> str:
    return ".cp{" + "".join(f"--{name}:{colour};" for name, colour in table.items()) + "}"


def _groups() -> str:
    plain = ("ground", "surface", "line", "ink", "soft", "wire")
    return "".join(f".cp .g-{name}{{--c:var(--{name})}}" for name in LIGHT if name not in plain)


def _heading(document: Document, width: float, omitted: int) -> Iterator[str]:
    room = int((width - 2 * MARGIN) / 6.3)
    yield f'<text class="h" x="{_n(MARGIN)}" y="{_n(MARGIN + 14)}">{_text(_cut(document.name, int(room / 1.9)))}</text>'
    words = [document.root, *_parameters(document), *_sizes(document)]
    if document.log:
        words.append(f"{len(document.log)} edit{'s' if len(document.log) > 1 else ''}")
    rows = rows_of([_cut(word, room) for word in words], room)[:6]
    if omitted:
        rows.append(f"too large to draw whole: {omitted:,} nodes are left out")
    for index, row in enumerate(rows):
        yield f'<text x="{_n(MARGIN)}" y="{_n(MARGIN + 36 + 16 * index)}">{_text(row)}</text>'


def _parameters(document: Document) -> list[str]:
    try:
        return [f"{count_parameters(document).total:,} parameters"]
    except Exception:  # settings of an unsound graph may be anything, and it has no count
        return []


def _sizes(document: Document) -> list[str]:
    try:
        found = [f"{name} {document.environment[name]}" for name in document.sizes]
    except CanvasError:
        return []
    return [*found[:MOST_SIZES], *(["…"] if len(found) > MOST_SIZES else [])]


def _panel(panel: Panel, at: Point) -> Iterator[str]:
    yield from (_wire(wire, at) for wire in panel.wires)
    for (x, y), box in panel.boxes:
        yield from _box(box, (at[0] + x, at[1] + y))
    yield from (_shape(wire, at) for wire in panel.wires if wire.shape)


def _wire(wire: Wire, at: Point) -> str:
    """Straight where it goes up or down, and a curve where it changes its column."""
    (x, y), *rest = [(at[0] + x, at[1] + y) for x, y in wire.way]
    steps = [f"M{_n(x)} {_n(y)}"]
    for to_x, to_y in rest:
        if to_x == x:
            steps.append(f"V{_n(to_y)}")
        else:
            bend = max((to_y - y) / 2, GAP_Y / 3)
            steps.append(f"C{_n(x)} {_n(y + bend)} {_n(to_x)} {_n(to_y - bend)} {_n(to_x)} {_n(to_y)}")
        x, y = to_x, to_y
    return f'<path class="w" d="{"".join(steps)}"/>'


def _shape(wire: Wire, at: Point) -> str:
    x, y = wire.way[0]
    return f'<text class="m s" x="{_n(at[0] + x + 5)}" y="{_n(at[1] + y + 12)}">{_text(_cut(wire.shape, 60))}</text>'


def _box(box: Box, at: Point) -> Iterator[str]:
    x, y = at
    yield f'<g class="g-{box.group}" transform="translate({_n(x)} {_n(y)})">'
    if box.hint:
        yield f"<title>{_text(box.hint)}</title>"
    yield from SORTS[box.sort](box)
    yield "</g>"


def _rect(of: str, width: float, height: float, radius: float, x: float = 0, y: float = 0) -> str:
    place = f'x="{_n(x)}" y="{_n(y)}" ' if x or y else ""
    return f'<rect class="{of}" {place}width="{_n(width)}" height="{_n(height)}" rx="{_n(radius)}"/>'


def _card(box: Box) -> Iterator[str]:
    yield _rect("card", box.width, box.height, 6)
    yield _rect("edge", 4, box.height - 8, 2, 4, 4)
    yield f'<text x="15" y="17"><tspan class="m n">{_text(box.name)}</tspan><tspan dx="8">{_text(box.title)}</tspan></text>'
    for index, line in enumerate(box.lines):
        yield f'<text class="m d" x="15" y="{31 + 14 * index}">{_text(line)}</text>'


def _port(box: Box) -> Iterator[str]:
    yield _rect("port", box.width, box.height, box.height / 2)
    yield f'<text class="m d" x="8" y="11.5">{_text(box.name)}</text>'


def _note(box: Box) -> Iterator[str]:
    for index, line in enumerate(box.lines):
        yield f'<text class="m d" x="10" y="{14 + 14 * index}">{_text(line)}</text>'


def _frame(box: Box) -> Iterator[str]:
    assert box.panel is not None
    if box.sort == "stack":
        yield _rect("behind", box.width, box.height, 9, 8, 8)
        yield _rect("behind", box.width, box.height, 9, 4, 4)
        yield _rect("behind", box.width, box.height, 9)
    yield _rect("frame", box.width, box.height, 9)
    name = f'<tspan class="m n">{_text(box.name)}</tspan><tspan dx="8">{_text(box.title)}</tspan>'
    if not box.name:
        name = f"<tspan>{_text(box.title)}</tspan>"
    yield f'<text x="{_n(PAD)}" y="20">{name}</text>'
    if box.badge:
        yield f'<text class="b" x="{_n(box.width - PAD)}" y="20" text-anchor="end">{_text(box.badge)}</text>'
    ways = [Wire(((PAD + x, 0.0), (PAD + x, _first_row(box.panel, x)))) for x in box.panel.inputs.values()]
    yield from (_wire(way, (0, 0)) for way in ways)
    yield from _panel(box.panel, (PAD, HEADER))


def _first_row(panel: Panel, x: float) -> float:
    """Where what comes in at `x` meets the first box."""
    return HEADER + min(
        (y for (left, y), box in panel.boxes if left <= x <= left + box.width and box.sort in ("port", "layer")),
        default=0.0,
    )


SORTS = {"card": _card, "port": _port, "note": _note, "frame": _frame, "layer": _frame, "stack": _frame}


def _text(text: str) -> str:
    """Text that XML can hold and that nobody can hide in: no control characters, none that turn the direction."""
    return escape("".join(letter if letter.isprintable() else "\ufffd" for letter in text))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _n(number: float) -> str:
    """A number as short as it is exact enough."""
    return f"{round(number, 1):g}"


Document.drawing = picture  # notebooks ask documents themselves
