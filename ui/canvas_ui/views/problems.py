"""What is wrong, where it shows, and which wires and nodes it reddens."""

from collections.abc import Sequence

from canvas_rt.diagnostics import Diagnostic
from canvas_rt.edits.wires import in_ports
from canvas_rt.gestures.scope import Scope, lies_in, nearest_scope, scope_at
from canvas_rt.ir.document import Document
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
    known = name in scope.block.by_id or name in scope.block.inputs
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
    """The error of the node that a wire feeds, if the wire has to do with it."""
    here = [p for p in found if p.severity == "error" and lies_in(p.path, target.path) and lies_in(target.path, p.path)]
    for problem in here:
        if _speaks_of(problem.message, target.port):
            return problem
    item = scope.block.node(target.path.rpartition(".")[2])
    ports = in_ports(scope.document, item) if item else (target.port,)
    about_none = [p for p in here if not any(_speaks_of(p.message, port) for port in ports)]
    return about_none[0] if about_none else None


def _speaks_of(message: str, port: str) -> bool:
    words = message.replace(",", " ").replace(":", " ").split()
    return port in words
