"""Which uses of blocks are open in place when a level is first shown."""

from canvas_rt.gestures.scope import Scope
from canvas_rt.ir.document import Use

MOST_IN_PLACE = 60
"""A use of a block with more nodes than this is not opened in place by itself."""


def default_frames(scope: Scope) -> tuple[str, ...]:
    """The uses that are open when a level is first shown: the backbone in its head, so that a model opens whole."""
    return tuple(
        scope.inside(item.id)
        for item in scope.block.nodes
        if isinstance(item, Use)
        and scope.document.blocks[item.block].role == "backbone"
        and len(scope.document.blocks[item.block].nodes) <= MOST_IN_PLACE
    )
