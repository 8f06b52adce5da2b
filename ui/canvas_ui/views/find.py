"""Search the whole model, inside blocks too."""

from canvas_rt.gestures.scope import root_scope
from canvas_rt.ir.document import Document, Node, Stack
from canvas_rt.ir.graph import walk
from canvas_rt.text import detail, title
from canvas_ui.messages import Hit
from canvas_ui.views.frames import default_frames

MOST_HITS = 60


def find(document: Document, text: str) -> list[Hit]:
    """Nodes whose id, path, op, block or settings hold each word of the text; names that begin so come first."""
    words = text.lower().split()
    if not words:
        return []
    opened = set(default_frames(root_scope(document)))
    hits: list[tuple[int, int, Hit]] = []
    for index, visit in enumerate(walk(document)):
        item = visit.item
        name = title(item) if not isinstance(item, Stack) else f"Stack of {item.kinds[0].block}"
        what = detail(item)
        everything = f"{visit.path} {name} {what}".lower()
        if not all(word in everything for word in words):
            continue
        rank = 0 if item.id.lower().startswith(words[0]) else 1 if words[0] in item.id.lower() else 2
        level = visit.path.rpartition(".")[0]
        kind = "node" if isinstance(item, Node) else "stack" if isinstance(item, Stack) else "use"
        hit = Hit(path=visit.path, title=name, detail=what, level="" if level in opened else level, kind=kind)
        hits.append((rank, index, hit))
    return [hit for _, _, hit in sorted(hits, key=lambda found: found[:2])[:MOST_HITS]]
