"""Delete nodes and wires, mending the way through where that can be."""

from collections.abc import Sequence

from canvas_rt.edits import Bypass, Disconnect, Edit, RemoveInput, RemoveNode, SetOutput, apply
from canvas_rt.edits.data import OUTPUTS
from canvas_rt.errors import EditError
from canvas_rt.gestures.scope import item_at, scope_at, split
from canvas_rt.gestures.wires import End, cut
from canvas_rt.ir.document import Document
from canvas_rt.ir.graph import consumers


def delete(
    document: Document, paths: Sequence[str], wires: Sequence[End] = (), *, reconnect: bool = True
) -> tuple[Edit, ...]:
    """Edits that take away nodes, block inputs and wires.

    With `reconnect`, what fed a node then feeds its readers, where one input can take its place; otherwise, and where
    none can, the readers are left unfed. Raises `EditError` where a reader is an output that cannot do without.
    """
    edits: list[Edit] = []
    for end in wires:
        edits.append(cut(document, end))
        document = apply(document, edits[-1])
    for path in _last_first(document, paths):
        new = _remove(document, path, reconnect)
        edits += new
        document = apply(document, *new)
    return tuple(edits)


def _last_first(document: Document, paths: Sequence[str]) -> list[str]:
    """Readers before what they read; what lies inside another deleted thing goes with it."""
    chosen = [path for path in dict.fromkeys(paths) if not any(path.startswith(f"{other}.") for other in paths)]

    def place(path: str) -> int:
        level, name = split(path)
        ids = [item.id for item in scope_at(document, level).block.nodes]
        return ids.index(name) if name in ids else -1

    return sorted(chosen, key=place, reverse=True)


def _remove(document: Document, path: str, reconnect: bool) -> list[Edit]:
    scope, item = item_at(document, path)
    if item == OUTPUTS:
        raise EditError("a block's outputs stay", path=path, hint="Delete the wire to an output, or connect it anew.")
    if isinstance(item, str):
        readers = _unread(scope.path, consumers(scope.block, item), path)
        return [*readers, RemoveInput(scope.path, item)]
    if reconnect:
        given = _outputs(consumers(scope.block, item.id))
        # A sum that is deleted leaves its first summand, the stream; where nothing else would be given, the block's input is.
        ways: list[Edit] = [Bypass(path), *(Bypass(path, port) for port in item.inputs if given)]
        ways += [SetOutput(scope.path, port, name) for port in given for name in scope.block.inputs[:1]]
        for way in ways:
            try:
                after = apply(document, way)
            except EditError:
                continue
            return [way] if isinstance(way, Bypass) else [way, *_remove(after, path, reconnect=False)]
    return [*_unread(scope.path, consumers(scope.block, item.id), path), RemoveNode(path)]


def _outputs(readers: tuple[tuple[str, str], ...]) -> list[str]:
    return [port for reader, port in readers if not reader]


def _unread(level: str, readers: tuple[tuple[str, str], ...], path: str) -> list[Edit]:
    outputs = _outputs(readers)
    if outputs:
        raise EditError(
            f"it is what the output {', '.join(outputs)} gives",
            path=path,
            hint="Connect the output to another value first.",
        )
    return [Disconnect(f"{level}.{reader}".lstrip("."), port) for reader, port in readers]
