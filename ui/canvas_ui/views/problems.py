"""What is wrong, where it shows, and which wires and nodes it reddens."""

from collections.abc import Mapping, Sequence

from canvas_rt.diagnostics import Diagnostic
from canvas_rt.edits.data import OUTPUTS
from canvas_rt.gestures.scope import Scope, lies_in, nearest_scope, scope_at
from canvas_rt.ir.document import Block, Document, Node
from canvas_rt.ir.graph import blocks_of, parse_layers
from canvas_rt.ops.catalogue import OPS
from canvas_ui.messages import Port, Problem, Severity
from canvas_ui.views.frames import default_frames

SEVERITIES: Sequence[Severity] = ("note", "warning", "error")


def problems(document: Document, found: Sequence[Diagnostic]) -> list[Problem]:
    """What is wrong, each with the level and the node that show it."""
    return [_problem(document, diagnostic) for diagnostic in found]


def _problem(document: Document, diagnostic: Diagnostic) -> Problem:
    scope = nearest_scope(document, diagnostic.path.rpartition(".")[0])
    rest = diagnostic.path[len(scope.path) :].strip(".")
    name = rest.partition(".")[0]
    known = name in scope.block.by_id or name in scope.block.inputs or name == OUTPUTS
    level, node = scope.path, scope.inside(name) if known else ""
    parent = level.rpartition(".")[0]
    if (
        known
        and level
        and not parent.rpartition(".")[2][:1].isdecimal()
        and level in default_frames(_around(document, level))
    ):
        level = parent  # the frame is open in the level around it
    return Problem(
        severity=diagnostic.severity,
        path=diagnostic.path,
        message=diagnostic.message,
        hint=diagnostic.hint,
        level=level,
        node=node,
    )


def _around(document: Document, level: str) -> Scope:
    return (
        scope_at(document, level.rpartition(".")[0]) if not level[-1:].isdecimal() else nearest_scope(document, level)
    )


def worst(found: Sequence[Problem], path: str) -> tuple[Severity | None, str]:
    """The worst problem of a node or of what is inside it."""
    here = [problem for problem in found if problem.node == path or lies_in(problem.path, path)]
    if not here:
        return None, ""
    chosen = max(here, key=lambda problem: SEVERITIES.index(problem.severity))
    return chosen.severity, f"{chosen.message}. {chosen.hint}" if chosen.hint else chosen.message


def of_wire(found: Sequence[Problem], scope: Scope, target: Port) -> Problem | None:
    """The error that a wire has to do with: of the node that it feeds, or of one inside that reads what it carries."""
    errors = [problem for problem in found if problem.severity == "error" and lies_in(problem.path, target.path)]
    level = target.path.rpartition(".")[0]
    rest = [problem.path.split(".")[len(level.split(".")) if level else 0 :] for problem in errors]
    blocks = scope.document.blocks
    return next(
        (p for p, parts in zip(errors, rest, strict=True) if _concerns(blocks, scope.block, parts, target.port, p)),
        None,
    )


def _concerns(blocks: Mapping[str, Block], block: Block, parts: Sequence[str], port: str, problem: Problem) -> bool:
    """Whether a port of the node that `parts` begin with has to do with the problem of the node that they end at."""
    item = block.node(parts[0])
    inside = [part for part in parts[1:] if parse_layers(part) is None]
    if item is None or isinstance(item, Node) or not inside:
        ports = (
            [port]
            if item is None
            else [*OPS[item.op].inputs]
            if isinstance(item, Node) and item.op in OPS
            else [*item.inputs]
        )
        return _speaks_of(problem.message, port) or not any(_speaks_of(problem.message, other) for other in ports)
    for name in blocks_of(item):
        reader = blocks[name].node(inside[0])
        reads = [] if reader is None else [own for own, ref in reader.inputs.items() if ref == port]
        if any(_concerns(blocks, blocks[name], inside, own, problem) for own in reads):
            return True
    return False


def _speaks_of(message: str, port: str) -> bool:
    words = message.replace(",", " ").replace(":", " ").split()
    return port in words
