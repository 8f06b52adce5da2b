"""Draw and cut wires, between levels that are shown in one another too."""

from collections.abc import Iterator

from canvas_rt.edits import AddInput, Connect, Disconnect, Edit, SetOutput, apply
from canvas_rt.edits.data import OUTPUTS
from canvas_rt.edits.wires import out_ports, port_ref, unused_name
from canvas_rt.errors import EditError
from canvas_rt.gestures.scope import Scope, item_at, scope_at, split
from canvas_rt.ir.document import Document, Use

End = tuple[str, str]
"""A node's path and one of its ports."""


def connect(document: Document, source: End, target: End) -> tuple[Edit, ...]:
    """Edits that make a value feed a port, in place of what fed it before.

    The ends may stand in different levels as long as only uses of blocks lie between them: an output or an input is
    added to each block whose border the wire crosses, unless it has a fitting one already.
    """
    start, end = split(source[0])[0], split(target[0])[0]
    common = _common(start, end)
    edits: list[Edit] = []
    ref = local_ref(document, source)
    while start != common:
        new, ref = _carry_out(document, start, ref)
        edits += new
        document = apply(document, *new)
        start = split(start)[0]
    for level in _ways_down(common, end):
        new, ref = _carry_in(document, level, ref)
        edits += new
        document = apply(document, *new)
    return (*edits, feed(target, ref))


def local_ref(document: Document, source: End) -> str:
    """How a value is called in the level that it stands in."""
    item = item_at(document, source[0])[1]
    if isinstance(item, str):
        if item == OUTPUTS:
            raise EditError("an output gives nothing", path=source[0], hint="Start at a node.")
        return item
    if source[1] not in out_ports(document, item):
        raise EditError(f"{item.id} has no output '{source[1]}'", path=source[0])
    return port_ref(document, item, source[1])


def feed(target: End, ref: str) -> Edit:
    """The edit that makes a value of a level feed a port in it."""
    level, name = split(target[0])
    return SetOutput(level, target[1], ref) if name == OUTPUTS else Connect(target[0], target[1], ref)


def cut(document: Document, target: End) -> Edit:
    """The edit that takes away what feeds a port."""
    level, name = split(target[0])
    return SetOutput(level, target[1], None) if name == OUTPUTS else Disconnect(target[0], target[1])


def _common(a: str, b: str) -> str:
    """The innermost level that holds both."""
    parts = []
    for one, other in zip(a.split("."), b.split("."), strict=False):
        if one != other:
            break
        parts.append(one)
    return ".".join(parts)


def _ways_down(top: str, bottom: str) -> Iterator[str]:
    rest = bottom[len(top) :].strip(".")
    path = top
    for part in rest.split(".") if rest else []:
        path = f"{path}.{part}".lstrip(".")
        yield path


def _border(document: Document, level: str) -> Use:
    """The use of a block whose border a wire crosses."""
    item = item_at(document, level)[1]
    if not isinstance(item, Use):
        raise EditError(
            "a wire cannot lead into or out of a stack's layers",
            path=level,
            hint="A layer reads the stack's inputs: connect the stack, then the layer's own input.",
        )
    return item


def _carry_out(document: Document, level: str, ref: str) -> tuple[list[Edit], str]:
    """Make a value of a level readable around it."""
    use = _border(document, level)
    outputs = document.blocks[use.block].outputs
    name = next((name for name, known in outputs.items() if known == ref), None)
    edits: list[Edit] = []
    if name is None:
        name = unused_name(ref.replace(".", "_"), outputs)
        edits = [SetOutput(level, name, ref)]
    document = apply(document, *edits)
    return edits, port_ref(document, _border(document, level), name)


def _carry_in(document: Document, level: str, ref: str) -> tuple[list[Edit], str]:
    """Make a value from around a level readable in it."""
    use = _border(document, level)
    name = next((port for port, known in use.inputs.items() if known == ref), None)
    if name is not None:
        return [], name
    block = document.blocks[use.block]
    name = unused_name(ref.replace(".", "_"), (*block.inputs, *block.by_id))
    return [AddInput(level, name), Connect(level, name, ref)], name


def values(scope: Scope) -> Iterator[End]:
    """Every value of a level."""
    for name in scope.block.inputs:
        yield scope.inside(name), name
    for item in scope.block.nodes:
        for port in out_ports(scope.document, item):
            yield scope.inside(item.id), port


__all__ = ["End", "connect", "cut", "feed", "local_ref", "scope_at", "values"]
