"""Bring a document to rest after an edit: stacks fit their counts, what nothing uses is gone, names lead somewhere."""

from canvas_rt.edits.layout import pruned
from canvas_rt.edits.paths import layer_kinds, sources, with_item, with_layers
from canvas_rt.edits.wires import trail
from canvas_rt.errors import CanvasError, EditError
from canvas_rt.ir.document import MOST_LAYERS, MOST_NAMES, MOST_NODES, Document, Node, Stack, check_uses
from canvas_rt.ir.expressions import names_in, resolve
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import blocks_of, key_of, reachable_blocks, recursive_blocks


def settle(before: Document, document: Document, named: str | None = None) -> Document:
    """The document to keep, or an `EditError` where there is none. A block that the edit itself names is kept."""
    document = _pruned(before, document, named)
    check_sound(document)
    document = _stacks_fitted(document)
    document = _ties_pruned(before, document)
    _check_extent(document)
    return pruned(document)


def check_sound(document: Document) -> None:
    """Refuse a document that could not be walked."""
    check_structure(document)
    _check_sizes(document)
    for name in reachable_blocks(document):
        for item in document.blocks[name].nodes:
            if isinstance(item, Stack):
                _check_count(document, item)


def check_structure(document: Document) -> None:
    """Refuse a document whose blocks do not hang together."""
    if document.root not in document.blocks:
        raise EditError(f"the root, {document.root}, is not a block of the document")
    for name, block in document.blocks.items():
        for item in block.nodes:
            for inner in blocks_of(item):
                if inner not in document.blocks:
                    raise EditError(f"is of the block {inner}, which does not exist", path=f"{name}.{item.id}")
            if isinstance(item, Stack) and any(run.kind >= len(item.kinds) for run in item.runs):
                raise EditError(f"has runs of a kind beyond its {len(item.kinds)}", path=f"{name}.{item.id}")
    recursive = recursive_blocks(document)
    if recursive:
        raise EditError(f"{recursive[0]} would contain itself", hint="A block cannot be used within itself.")


def _check_sizes(document: Document) -> None:
    circle = _circle({name: names_in(value) for name, value in document.sizes.items()})
    if circle:
        raise EditError(f"{' follows from '.join(circle)}: a circle", hint="Set one of these sizes to a number.")
    try:
        document.environment  # noqa: B018  (resolving is the check)
    except CanvasError as error:
        hint = "Set one of them to a number."
        raise EditError(f"sizes would no longer resolve: {error.message}", hint=hint) from error


def _circle(needs: dict[str, frozenset[str]]) -> tuple[str, ...]:
    """The sizes from one back to itself, or nothing."""
    while ready := [name for name, names in needs.items() if not names & needs.keys()]:
        needs = {name: names for name, names in needs.items() if name not in ready}
    walked = list(needs)[:1]
    while walked:
        following = min(needs[walked[-1]] & needs.keys())
        if following in walked:
            return (*walked[walked.index(following) :], following)
        walked.append(following)
    return ()


def _check_count(document: Document, stack: Stack) -> None:
    count = resolve(stack.repeat, document.environment)
    what = f"{str(stack.repeat).removeprefix('=')} = {count}"
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise EditError(f"{what}: the number of layers must be a whole number of at least 1", path=stack.id)
    if count > MOST_LAYERS:
        raise EditError(f"{what}: a stack has at most {MOST_LAYERS} layers", path=stack.id)


def _check_extent(document: Document) -> None:
    """Refuse a document that is too large to be opened again."""
    for what, table in (("sizes", document.sizes), ("config values", document.config)):
        if len(table) > MOST_NAMES:
            raise EditError(f"would have {len(table)} {what}; a document has at most {MOST_NAMES}")
    for name, block in document.blocks.items():
        if len(block.nodes) > MOST_NODES:
            raise EditError(f"would hold {len(block.nodes)} nodes; a block has at most {MOST_NODES}", path=name)
    try:
        check_uses(document.blocks)
    except ValueError as error:
        raise EditError(str(error).removeprefix("blocks.")) from error


def _pruned(before: Document, document: Document, named: str | None) -> Document:
    """Without the blocks that the edit left unused. A block that was unused before is the user's and stays."""
    spare = before.blocks.keys() - set(reachable_blocks(before)) | ({named} if named else set())
    # What a spare block uses is in use as well.
    used = {inner for name in (document.root, *sorted(spare)) for inner in reachable_blocks(document, name)} | spare
    gone = [name for name in document.blocks if name not in used]
    return document.replace(blocks=document.blocks.without(*gone)) if gone else document


def _stacks_fitted(document: Document) -> Document:
    """Runs and sources end where the layers end; layers beyond a stack's given sources are fresh."""
    for name in reachable_blocks(document):
        for item in document.blocks[name].nodes:
            if isinstance(item, Stack):
                kinds = layer_kinds(document, item)
                fitted = with_layers(item, kinds, sources(item, len(kinds)))
                if fitted != item:
                    document = with_item(document, name, fitted)
    return document


def _ties_pruned(before: Document, document: Document) -> Document:
    """Without the ties of parameters that are gone."""
    if before.blocks == document.blocks and before.root == document.root and before.sizes == document.sizes:
        return document
    ties = {a: b for a, b in document.ties.items() if _leads(document, a) and _leads(document, b)}
    return document if ties == document.ties else document.replace(ties=FrozenMap(ties))


def _leads(document: Document, key: str) -> bool:
    block, name = next(iter(trail(document, key)[-2:-1]), ("", ""))
    return bool(block) and any(isinstance(i, Node) and key_of(i) == name for i in document.blocks[block].nodes)
