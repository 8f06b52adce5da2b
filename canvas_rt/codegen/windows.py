"""The window of attention as a field of the config: what transformers makes masks by, and caches that forget."""

from canvas_rt.ir.document import Document, Node
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import walk
from canvas_rt.ops.catalogue import complete

WINDOW = "sliding_window"
"""What configs of transformers call it."""


def naming_window(document: Document) -> Document:
    """A document that takes its one window from its config, where attention has it as a number.

    The same document where there is none, or several, or the config calls something else by that name.
    """
    written = [
        (complete(visit.item)["window"], visit.environment)
        for visit in walk(document)
        if isinstance(visit.item, Node) and visit.item.op == "attention"
    ]
    known = {resolve(window, environment) for window, environment in written} - {None}
    said = {environment.get(WINDOW) for _, environment in written}
    if len(known) != 1 or not any(isinstance(window, int) for window, _ in written) or not said <= {None, *known}:
        return document
    return with_window(document, next(iter(known)))


def with_window(document: Document, size: int) -> Document:
    """A document with the name of a window in the place of its number, wherever attention has that."""
    blocks = {
        name: block.replace(nodes=tuple(_named(item, size) if isinstance(item, Node) else item for item in block.nodes))
        for name, block in document.blocks.items()
    }
    return document.replace(
        sizes=document.sizes.with_items({WINDOW: size}),
        config=document.config.without(WINDOW),
        blocks=FrozenMap(blocks),
    )


def _named(node: Node, window: int) -> Node:
    if node.op != "attention" or node.attrs.get("window") != window:
        return node
    return node.replace(attrs=node.attrs.with_items({"window": f"={WINDOW}"}))
