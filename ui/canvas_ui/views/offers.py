"""What fits a port: things to insert there, and nodes that are there already."""

from collections.abc import Iterator, Sequence

from canvas_rt.edits import apply
from canvas_rt.errors import CanvasError
from canvas_rt.gestures import insert, wires
from canvas_rt.gestures.scope import item_at, split
from canvas_rt.ir.document import Document
from canvas_rt.ops.catalogue import OPS
from canvas_rt.session import State
from canvas_ui.messages import Offer, Port
from canvas_ui.views.levels import draw

LIKELY = {
    4: ("op:apply_rotary", "op:attention", "op:merge_heads"),
    3: ("op:linear", "op:rms_norm", "op:split_heads", "op:add", "op:activation"),
    2: ("op:embedding",),
}
"""By the rank of the value at hand, what mostly reads it."""


def offers(state: State, level: str, expanded: Sequence[str], end: Port, side: str) -> list[Offer]:
    """What may be connected to a port. `side` says whether the port gives the value or reads one."""
    document = state.document
    entries = {entry.id: entry for entry in insert.palette(document)}
    rank = _rank(state, end)
    ids = [id for id in entries if _fits(document, id, side, rank)]
    likely = LIKELY.get(rank or 0, ()) if side == "source" else ()
    ids.sort(key=lambda id: likely.index(id) if id in likely else len(likely))
    found = list(_existing(state, level, expanded, end, side))
    for id in ids:
        if not _possible(state, id, end, side):
            continue
        entry = entries[id]
        found.append(Offer(what=id, existing=None, title=entry.title, group=entry.group, summary=entry.summary))
    return found


def _rank(state: State, end: Port) -> int | None:
    try:
        scope, item = item_at(state.document, end.path)
        ref = (
            wires.local_ref(state.document, (end.path, end.port))
            if not isinstance(item, str) or item != "return"
            else None
        )
        shape = insert.shape_of(scope, ref, state.check.shapes)
    except CanvasError:
        return None
    return None if shape is None else len(shape.actual)


def _fits(document: Document, id: str, side: str, rank: int | None) -> bool:
    sort, _, name = id.partition(":")
    if sort == "op":
        op = OPS[name]
        if side == "source":
            needs = {"embedding": 2, "split_heads": 3, "merge_heads": 4, "apply_rotary": 4, "attention": 4}.get(name)
            return bool(op.inputs) and (rank is None or needs is None or needs == rank)
        return True
    if id == "io:output":
        return side == "source"
    if id == "io:input":
        return side == "target"
    if sort == "block":
        return bool(document.blocks[name].inputs) if side == "source" else bool(document.blocks[name].outputs)
    return rank in (None, 3) or side == "target"


def _possible(state: State, id: str, end: Port, side: str) -> bool:
    """Whether inserting it would be done: trying is the one answer that cannot be wrong, and takes a millisecond."""
    port = (end.path, end.port)
    source, target = (port, None) if side == "source" else (None, port)
    spot = insert.Spot(split(end.path)[0], source=source, target=target)
    try:
        apply(state.document, *insert.insert(state.document, id, spot, state.check.shapes)[0])
    except CanvasError:
        return False
    return True


def _existing(state: State, level: str, expanded: Sequence[str], end: Port, side: str) -> Iterator[Offer]:
    """Ports of the level that the wire could lead to, as far as no circle forbids it: unfed ones first."""
    drawing = draw(state, level, expanded, [])
    candidates = []
    for node in drawing.nodes:
        if node.path == end.path or node.kind == "frame":
            continue
        ports = node.inputs if side == "source" else node.outputs
        for port in ports:
            other = (node.path, port.name)
            pair = ((end.path, end.port), other) if side == "source" else (other, (end.path, end.port))
            try:
                apply(state.document, *wires.connect(state.document, *pair))
            except CanvasError:
                continue
            candidates.append((port.wired and side == "source", node, port))
    for _, node, port in sorted(candidates, key=lambda found: found[0])[:40]:
        many = len(node.inputs if side == "source" else node.outputs) > 1
        title = f"{node.id} · {port.name}" if many else node.id
        yield Offer(
            what=None,
            existing=Port(path=node.path, port=port.name),
            title=title,
            group=node.group,
            summary="replaces what feeds it" if port.wired and side == "source" else node.title,
        )
