"""Check a document: the shape of every value, and all that is wrong, at once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from canvas_rt.diagnostics import Diagnostic
from canvas_rt.errors import CanvasError, UnresolvedShape, suggest
from canvas_rt.ir.document import Document
from canvas_rt.ir.expressions import display, names_in, resolve
from canvas_rt.ir.frozen import FrozenMap, freeze
from canvas_rt.ir.graph import live
from canvas_rt.ir.tasks import Task
from canvas_rt.ops.inputs import given_dtype, given_shape, given_shapes
from canvas_rt.ops.op import Shape, show
from canvas_rt.ops.parameters import ParameterRow, covers, parameter_table
from canvas_rt.ops.routing import routes
from canvas_rt.physics import labels
from canvas_rt.physics.block_run import BlockRun, Flow, Setting, recursion, run_block
from canvas_rt.physics.keys import relevant
from canvas_rt.physics.structure import Finding, listed, reason

GROUPED_WIDTH = 8
"""Rows of what `torch.nn.functional.grouped_mm` takes must be multiples of 16 bytes."""

SEQUENCE = 4096
"""Tokens where nobody says how many; fewer where the model has fewer positions."""


@dataclass(frozen=True, slots=True)
class ValueShape:
    """The shape of one value."""

    symbolic: tuple[str, ...]
    """In the model's own sizes: `("batch", "seq", "hidden_size")`."""

    actual: tuple[int, ...]
    """In numbers."""

    def __str__(self) -> str:
        return "[" + ", ".join(self.symbolic) + "]"


@dataclass(frozen=True, slots=True)
class Check:
    """What checking found."""

    shapes: Mapping[str, tuple[ValueShape | None, ...]]
    """For each item's path, the shape of each output port; None where it is not known. The root's inputs too."""

    diagnostics: tuple[Diagnostic, ...]

    @property
    def ok(self) -> bool:
        """Whether the model can run: warnings may remain."""
        return not any(diagnostic.severity == "error" for diagnostic in self.diagnostics)


def check(document: Document, *, batch: int = 1, sequence: int | None = None) -> Check:
    """Find the shape of every value and every flaw, with one instance of each kind of layer.

    `sequence` is in tokens; left out, it is 4096 or as many as the model has positions.
    """
    environment, diagnostics = _environment(document)
    sequence = _usual_sequence(environment) if sequence is None else sequence
    diagnostics += _scenario_flaws(batch, sequence, environment)
    diagnostics += _block_flaws(document)
    try:
        given_shape(document.purpose, environment, batch, sequence)
    except CanvasError as error:
        diagnostics.append(Diagnostic("error", error.path, error.message, error.hint))
    if any(d.path in ("batch", "sequence", "root", "sizes") for d in diagnostics if d.severity == "error"):
        return Check({}, tuple(diagnostics))
    try:
        run, named, sizes = _run(document, environment, batch, sequence)
    except (RuntimeError, OverflowError) as error:  # PyTorch counts a tensor's bytes in 64 bits
        message = f"a value would be larger than any tensor can be: {str(error).splitlines()[0]}"
        hint = "Make sizes, batch or sequence smaller."
        return Check({}, (*diagnostics, Diagnostic("error", "", message, hint)))
    whole = FrozenMap(environment)
    shapes: dict[str, tuple[ValueShape | None, ...]] = {}
    for name, flow in run.given.items():
        shapes[name] = (None if flow is None else ValueShape(_given_names(document, name), flow.shape),)
    _gather(run, named, whole, sizes, "", shapes)
    diagnostics += _located(run, "")
    diagnostics += _tie_flaws(document)
    if not any(diagnostic.severity == "error" for diagnostic in diagnostics):
        diagnostics += _logits_flaws(run, document.purpose, batch, sequence)
    if all(diagnostic.severity != "error" for diagnostic in diagnostics):
        diagnostics += _routing_flaws(document)
    return Check(shapes, tuple(diagnostics))


def require_sound(document: Document, *, batch: int = 1, sequence: int | None = None) -> None:
    """Raise `CanvasError` for a graph with errors, naming all of them."""
    found = check(document, batch=batch, sequence=sequence)
    errors = [str(diagnostic) for diagnostic in found.diagnostics if diagnostic.severity == "error"]
    if errors:
        raise CanvasError("the graph cannot run:\n" + "\n".join(errors))


def checked_run(document: Document, batch: int, sequence: int, source: int | None = None) -> BlockRun:
    """The run behind a check without errors. An encoder reads `source` tokens; left out, as many as its decoder makes.

    Raises `UnresolvedShape` with the first diagnostics where there are any.
    """
    found = check(document, batch=batch, sequence=sequence)
    if not found.ok:
        errors = [diagnostic for diagnostic in found.diagnostics if diagnostic.severity == "error"]
        shown = "\n".join(map(str, errors[:3])) + (f"\n… and {len(errors) - 3} more" if len(errors) > 3 else "")
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        raise UnresolvedShape(
            f"{document.name} cannot be measured: {count}\n{shown}", hint="Correct them first: 'check' lists all."
        )
    return _run(document, document.environment, batch, sequence, source)[0]


def _environment(document: Document) -> tuple[dict[str, Any], list[Diagnostic]]:
    """Config values and sizes; a size without a value is left out and reported."""
    try:
        return dict(document.environment), list(_odd_sizes(document, document.environment))
    except CanvasError:
        pass
    values: dict[str, Any] = dict(document.config)
    pending, flaws = dict(document.sizes), []
    while pending:
        ready = [name for name, value in pending.items() if not names_in(value) & pending.keys()]
        if not ready:
            flaws += [_circular(name, pending) for name in pending]
            break
        for name in ready:
            try:
                values[name] = resolve(pending.pop(name), values)
            except CanvasError as flaw:
                flaws += _valueless(document, name, flaw)
    return values, flaws + list(_odd_sizes(document, values))


def _valueless(document: Document, name: str, flaw: CanvasError) -> Iterator[Diagnostic]:
    missing = sorted(names_in(document.sizes[name]) - document.sizes.keys() - document.config.keys())
    if (
        not missing
        and any(part in document.sizes for part in names_in(document.sizes[name]))
        and "names '" in flaw.message
    ):
        return  # it names a size that has no value itself, which is reported already
    hint = suggest(missing[0], document.sizes) if missing else "Change the sizes that it is made of."
    message = f"{display(document.sizes[name])} has no value: {reason(flaw, missing)}"
    yield Diagnostic("error", f"sizes.{name}", message, hint)


def _circular(name: str, pending: Mapping[str, Any]) -> Diagnostic:
    others = sorted(names_in(pending[name]) & pending.keys())
    message = f"{display(pending[name])} depends on itself, by way of {listed(others)}"
    return Diagnostic("error", f"sizes.{name}", message, "Give one of them a number.")


def _odd_sizes(document: Document, values: Mapping[str, Any]) -> Iterator[Diagnostic]:
    for name, written in document.sizes.items():
        value = values.get(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            continue
        text = display(written) if display(written) == str(value) else f"{display(written)} = {value}"
        yield Diagnostic(
            "error", f"sizes.{name}", f"{text} is not a whole number", "A size counts something: 0, 1, 2, …"
        )


def _usual_sequence(environment: Mapping[str, Any]) -> int:
    positions = environment.get("max_position_embeddings")
    return min(SEQUENCE, positions) if isinstance(positions, int) and positions > 0 else SEQUENCE


def _scenario_flaws(batch: int, sequence: int, environment: Mapping[str, Any]) -> Iterator[Diagnostic]:
    for name, value in (("batch", batch), ("sequence", sequence)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            yield Diagnostic("error", name, f"must be a whole number of at least 1, not {value}", f"Try {name} 1.")
    positions = environment.get("max_position_embeddings")
    if isinstance(positions, int) and isinstance(sequence, int) and sequence > positions > 0:
        message = f"{sequence} tokens are more than max_position_embeddings ({positions})"
        hint = f"It was trained for {positions} positions: shorten the sequence, or raise max_position_embeddings."
        yield Diagnostic("warning", "sequence", message, hint)


def _block_flaws(document: Document) -> Iterator[Diagnostic]:
    if document.root not in document.blocks:
        yield Diagnostic(
            "error", "root", f"there is no block '{document.root}'", suggest(document.root, document.blocks)
        )
        return
    circle = recursion(document.blocks)
    if document.root in circle:
        message = f"{document.root} contains itself" + (f", by way of {listed(circle)}" if len(circle) > 1 else "")
        yield Diagnostic("error", "root", message, "No such model can exist: use another block inside it.")
    else:
        for name in circle:
            yield Diagnostic(
                "error", name, "this block contains itself", "No such model can exist: use another block inside it."
            )


def _run(
    document: Document, environment: Mapping[str, Any], batch: int, sequence: int, source: int | None = None
) -> tuple[BlockRun, BlockRun, frozenset[str]]:
    source = sequence if source is None else source
    sizes, task = frozenset(document.sizes), document.purpose
    inputs, dtype = document.blocks[document.root].inputs, given_dtype(task, torch.float32)
    known = labels.label_environment(document)
    lengths = labels.BATCH, labels.SEQUENCE, labels.SOURCE
    shapes = given_shapes(task, inputs, known, lengths)
    primes = FrozenMap({name: Flow(shape, dtype) for name, shape in shapes.items()})
    setting = Setting(*lengths, sizes, labelling=True)
    named = run_block(document.blocks, document.root, known, primes, setting, None)
    broken = frozenset(sizes - environment.keys())
    shapes = given_shapes(task, inputs, environment, (batch, sequence, source))
    given = FrozenMap({name: Flow(shape, dtype) for name, shape in shapes.items()})
    scope = relevant(document.blocks, document.root, {name: freeze(value) for name, value in environment.items()})
    run = run_block(
        document.blocks, document.root, scope, given, Setting(batch, sequence, source, sizes, broken), named
    )
    return run, named, sizes


def _given_names(document: Document, name: str) -> tuple[str, ...]:
    """The shape of one of a model's inputs, in its own sizes."""
    task = document.purpose
    if task.of_tokens:
        return "batch", "source" if task.decodes and name != task.decodes else "seq"
    sides = document.environment.get("image_size")
    named = ("image_size",) * 2 if isinstance(sides, int) else tuple(map(str, sides or ()))
    return "batch", "num_channels", *named


def _gather(
    run: BlockRun,
    named: BlockRun | None,
    environment: Mapping[str, Any],
    sizes: frozenset[str],
    prefix: str,
    shapes: dict[str, tuple[ValueShape | None, ...]],
) -> None:
    """Collect the shapes of a run and of those inside it, by path."""
    reader = None if named is None else labels.reader(run.block, FrozenMap(named.environment), sizes)
    scope = {**environment, **run.environment}
    for name, flows in run.values.items():
        primes: tuple[Flow | None, ...] = named.values.get(name, ()) if named is not None else ()
        found = []
        for port, flow in enumerate(flows):
            there = primes[port] if port < len(primes) else None
            found.append(None if flow is None else _value_shape(flow.shape, there, reader, scope))
        shapes[prefix + name] = tuple(found)
    for key, inner in run.inside:
        _gather(inner, named.within(_label_key(key, run)) if named else None, scope, sizes, f"{prefix}{key}.", shapes)


def _label_key(key: str, run: BlockRun) -> str:
    """Layers of a kind were labelled once, whatever their range."""
    stack_id, dot, span = key.partition(".")
    if not dot:
        return key
    item = run.block.node(stack_id)
    layer = int(span.partition("-")[0])
    kinds = item.kind_indices(layer + 1)  # type: ignore[union-attr]
    return f"{stack_id}#{kinds[layer]}"


def _value_shape(
    shape: Shape, there: Flow | None, reader: labels.Reader | None, environment: Mapping[str, Any]
) -> ValueShape:
    if reader is None:
        return ValueShape(tuple(map(str, shape)), shape)
    return ValueShape(reader.read(None if there is None else there.shape, shape, environment), shape)


def _logits_flaws(run: BlockRun, task: Task, batch: int, sequence: int) -> Iterator[Diagnostic]:
    """Loss and generation take one row of scores for each token of the batch, or for each image."""
    logits = run.outputs.get("logits")
    if task.classifies:
        if logits is not None and (len(logits.shape) != 2 or logits.shape[0] != batch):
            message = f"logits are {show(logits.shape)}, but {task.words} gives [{batch}, num_labels]"
            yield Diagnostic("error", "return", message, "Let the output be one row of scores for each image.")
    elif logits is not None and logits.shape[:2] != (batch, sequence):
        message = f"logits are {show(logits.shape)}, but a language model gives [{batch}, {sequence}, vocab_size]"
        yield Diagnostic(
            "error", "return", message, f"Let the output depend on {task.decodes or task.takes}: they bring the batch."
        )


def _located(run: BlockRun, prefix: str, *, running: bool = True) -> Iterator[Diagnostic]:
    """What was found in a run and in those inside it. What no output depends on does not run: its errors are warnings."""
    needed = live(run.block)

    def runs(name: str) -> bool:
        return running and (name in needed or run.block.node(name) is None)

    for finding in run.findings:
        yield _diagnostic(finding, prefix, running=runs(finding.where.partition(".")[0]))
    for key, inner in run.inside:
        yield from _located(inner, f"{prefix}{key}.", running=runs(key.partition(".")[0]))


def _diagnostic(finding: Finding, prefix: str, *, running: bool) -> Diagnostic:
    path = f"{prefix}{finding.where}".rstrip(".")
    if running or finding.severity != "error":
        return Diagnostic(finding.severity, path, finding.message, finding.hint)
    return Diagnostic(
        "warning", path, finding.message, f"{finding.hint} Nothing reads it yet: the model runs without it.".strip()
    )


def _routing_flaws(document: Document) -> Iterator[Diagnostic]:
    """What no shape would tell: experts that are not those chosen from, and widths that a GPU's kernel refuses."""
    for route in routes(document):
        choice = route.choice
        if choice is None:
            message = "its indices come from no router: they may name experts that do not exist"
            yield Diagnostic("error", route.experts, message, "Connect the indices of a Router.")
        elif choice.offered not in (None, route.held):
            message = f"holds {route.held} experts, but {choice.router} chooses from {choice.offered}"
            yield Diagnostic("error", route.experts, message, "Give both the same num_experts.")
        for width in route.widths:
            if width % GROUPED_WIDTH:
                message = (
                    f"width {width} is not a multiple of {GROUPED_WIDTH}: transformers' grouped_mm refuses it in bf16"
                )
                hint = 'Make it one, or load the emitted model with experts_implementation="eager".'
                yield Diagnostic("warning", route.experts, message, hint)


def _tie_flaws(document: Document) -> Iterator[Diagnostic]:
    if not document.tied:
        return
    try:
        table = parameter_table(document)
    except (CanvasError, KeyError, TypeError):
        return  # a setting without a value, reported where it stands
    for key, target in document.tied.items():
        rows = [_row(table, one) for one in (key, target)]
        for one, row in zip((key, target), rows, strict=True):
            if row is None:
                hint = suggest(one, [known.key for known in table])
                yield Diagnostic("error", f"ties.{key}", f"there is no parameter '{one}'", hint)
        if rows[0] is not None and rows[1] is not None and rows[0].shape != rows[1].shape:
            message = f"{key} {show(rows[0].shape)} cannot share the storage of {target} {show(rows[1].shape)}"
            yield Diagnostic("error", f"ties.{key}", message, "Make both the same shape, or unset tie_word_embeddings.")


def _row(table: tuple[ParameterRow, ...], key: str) -> ParameterRow | None:
    return next((row for row in table if covers(row.key, key)), None)
