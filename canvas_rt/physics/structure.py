"""What can be wrong with a graph before any shape is known: wires that lead nowhere, circles, stacks, values unread."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from canvas_rt.diagnostics import Severity
from canvas_rt.errors import CanvasError, suggest
from canvas_rt.ir.document import MOST_LAYERS, Block, Node, Stack
from canvas_rt.ir.expressions import display, names_in, resolve
from canvas_rt.ir.graph import (
    Item,
    blocks_of,
    execution_order,
    given_alike,
    handed_on,
    head,
    key_clashes,
    key_of,
    layer_runs,
)
from canvas_rt.ops.catalogue import OPS
from canvas_rt.physics.keys import Blocks


@dataclass(frozen=True, slots=True)
class Finding:
    """A flaw, as seen from inside a block."""

    severity: Severity
    where: str
    """The node's id; nothing for the block itself."""
    message: str
    hint: str = ""


def error(where: str, message: str, hint: str = "") -> Finding:
    return Finding("error", where, message, hint)


def listed(words: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def reason(flaw: CanvasError, missing: Sequence[str]) -> str:
    """Why an expression has no value, without naming the expression again."""
    if missing:
        return f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} not a size of this model"
    return flaw.message.rpartition("has no value: ")[2]


def output_ports(item: Item, blocks: Blocks) -> tuple[str, ...] | None:
    """The ports that give an item's values, or None where its op or block is not known."""
    if isinstance(item, Node):
        return OPS[item.op].outputs if item.op in OPS else None
    if isinstance(item, Stack):
        return ("out",)
    return tuple(blocks[item.block].outputs) if item.block in blocks else None


def input_ports(item: Item, blocks: Blocks) -> tuple[str, ...] | None:
    if isinstance(item, Node):
        return OPS[item.op].fed(item.inputs) if item.op in OPS else None
    if isinstance(item, Stack):
        return given_alike(item, blocks) if item.kinds[0].block in blocks else None
    return blocks[item.block].inputs if item.block in blocks else None


def reference_flaw(ref: str, block: Block, blocks: Blocks) -> tuple[str, str] | None:
    """Why a reference leads nowhere, and a way out; None where it leads to a value."""
    name, _, port = ref.partition(".")
    item = block.node(name)
    if item is None:
        if name not in block.inputs:
            known = [node.id for node in block.nodes] + list(block.inputs)
            return f"reads '{ref}', but there is no node or input '{name}' in its block", suggest(
                name, known
            ) if known else ""
        if port:
            return f"reads '{ref}', but {name} is an input of the block and has no ports", f"Read '{name}'."
        return None
    ports = output_ports(item, blocks)
    if ports is None or port in ports or (not port and len(ports) == 1):
        return None
    if not ports:
        return f"reads '{ref}', but {name} gives nothing", f"Give the block of {name} an output."
    choices = [f"{name}.{one}" for one in ports]
    if port:
        return f"reads '{ref}', but {name} gives only {listed(ports)}", f"Read {listed(choices, 'or')}."
    return f"reads '{ref}', but {name} gives {listed(ports)}", f"Say which: {listed(choices, 'or')}."


@lru_cache(maxsize=1024)
def block_findings(blocks: Blocks, name: str) -> tuple[Finding, ...]:
    """Flaws of a block's own wiring."""
    block = blocks[name]
    return (
        *_circles(block),
        *_names(block),
        *(finding for item in block.nodes for finding in _wires(item, block, blocks)),
        *_outputs(block, name, blocks),
        *_unread(block),
    )


def _circles(block: Block) -> Iterator[Finding]:
    cycle = execution_order(block)[1]
    if len(cycle) == 1:
        yield error(cycle[0], "reads its own value", "Cut that wire: a value can only depend on earlier ones.")
    elif cycle:
        message = f"{listed(cycle)} feed one another in a circle"
        yield error(cycle[0], message, "Cut one of the wires between them: a value can only depend on earlier ones.")


def _names(block: Block) -> Iterator[Finding]:
    seen, clashes = set(block.inputs), key_clashes(block)
    for item in block.nodes:
        if item.id in seen:
            taken = "an input of its block" if item.id in block.inputs else "another node of its block"
            yield error(item.id, f"has the name of {taken}", "Rename one of them.")
        elif item.id in clashes:
            other = clashes[item.id]
            message = f"is {key_of(item)} in the checkpoint, where {other} stands, which is another module"
            yield error(item.id, message, "Give one of them a key of its own, or set both alike: then they share.")
        seen.add(item.id)


def _wires(item: Item, block: Block, blocks: Blocks) -> Iterator[Finding]:
    if isinstance(item, Node) and item.op not in OPS:
        yield error(item.id, f"there is no op '{item.op}'", suggest(item.op, OPS))
    for name in blocks_of(item):
        if name not in blocks:
            yield error(item.id, f"there is no block '{name}'", suggest(name, blocks))
    for port, ref in item.inputs.items():
        flaw = reference_flaw(ref, block, blocks)
        if flaw:
            yield error(item.id, f"{port} {flaw[0]}", flaw[1])
    ports = input_ports(item, blocks)
    if ports is None:
        return
    missing = [port for port in ports if port not in item.inputs]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        yield error(item.id, f"{listed(missing)} {verb} not connected", f"Connect a value to {listed(missing)}.")
    for port in item.inputs:
        if port not in ports:
            yield error(item.id, f"has no input '{port}'", suggest(port, ports) if ports else "It takes no values.")


def _outputs(block: Block, name: str, blocks: Blocks) -> Iterator[Finding]:
    if not block.outputs:
        yield error("", f"{name} gives nothing", "Choose the value that is its output.")
    for output, ref in block.outputs.items():
        flaw = reference_flaw(ref, block, blocks)
        if flaw:
            yield error("", f"the output '{output}' {flaw[0]}", flaw[1])


def _unread(block: Block) -> Iterator[Finding]:
    read = {head(ref) for item in block.nodes for ref in item.inputs.values()} | {
        head(ref) for ref in block.outputs.values()
    }
    for item in block.nodes:
        if item.id not in read:
            yield Finding("warning", item.id, "gives a value that nothing reads", "Connect it, or remove the node.")


def stack_count(stack: Stack, environment: Mapping[str, Any]) -> tuple[int | None, Finding | None]:
    """How many layers a stack has, or what is wrong with that number."""
    shown = display(stack.repeat)
    try:
        count = resolve(stack.repeat, environment)
    except CanvasError as flaw:
        missing = sorted(names_in(stack.repeat) - environment.keys())
        return None, error(
            stack.id,
            f"the number of layers, {shown}, has no value: {reason(flaw, missing)}",
            "Name a size of the model, or give a number.",
        )
    text = f"{shown} = {count}" if shown != str(count) else shown
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        return None, error(
            stack.id,
            f"the number of layers ({text}) must be a whole number of at least 1",
            f"Set {shown} to 1 or more.",
        )
    if count > MOST_LAYERS:
        return None, error(
            stack.id,
            f"the number of layers ({text}) is more than {MOST_LAYERS}",
            f"No model is that deep: {MOST_LAYERS} at most.",
        )
    return count, None


def stack_findings(stack: Stack, count: int | None, blocks: Blocks) -> Iterator[Finding]:
    """Flaws of a stack's kinds and runs."""
    end = 0
    for run in stack.runs:
        span = f"layers {run.start}-{run.stop - 1}"
        if run.kind >= len(stack.kinds):
            yield error(
                stack.id,
                f"{span} are of kind {run.kind}, but there are only {len(stack.kinds)} kinds",
                "Choose one of them.",
            )
        if run.stop <= run.start or run.start < end:
            yield error(
                stack.id,
                f"the ranges of layers overlap or are empty at {span}",
                "Sort them, each after the one before.",
            )
        elif count is not None and run.stop > count:
            last = f"0 to {count - 1}" if count > 1 else "0"
            yield error(
                stack.id,
                f"{span} have a kind of their own, but the layers are {last}",
                f"End the range at {count - 1}, or add layers.",
            )
        end = max(end, run.stop)
    known = [kind.block for kind in stack.kinds if kind.block in blocks]
    handed = {*handed_on(stack, blocks)} - {*stack.inputs}
    for name in dict.fromkeys(known[1:]):
        first, other = (tuple(p for p in blocks[one].inputs if p not in handed) for one in (known[0], name))
        if other != first:
            takes = [listed(ports) if ports else "nothing" for ports in (first, other)]
            yield error(
                stack.id,
                f"{known[0]} takes {takes[0]}, but {name} takes {takes[1]}",
                "Layers of one stack are fed alike: give their blocks the same inputs.",
            )
    if handed and count is not None and all(run.kind < len(stack.kinds) for run in stack.runs):
        yield from _untimely(stack, count, blocks, handed)
    for name in dict.fromkeys(known):
        if not blocks[name].inputs:
            yield error(stack.id, f"{name} takes nothing, so it cannot carry a value", "Give it an input.")


def _untimely(stack: Stack, count: int, blocks: Blocks, handed: Collection[str]) -> Iterator[Finding]:
    """Layers that take what none before them has handed on."""
    given: set[str] = set()
    for first, last, index in layer_runs(stack.kind_indices(count)):
        block = blocks.get(stack.kinds[index].block)
        if block is None:
            continue
        missing = [port for port in block.inputs if port in handed and port not in given]
        if missing:
            where = f"{stack.id}.{first}" if first == last else f"{stack.id}.{first}-{last}"
            hint = f"Let a layer that hands on {listed(missing)} stand before it."
            yield error(where, f"takes {listed(missing)}, which no layer before it hands on", hint)
        given |= handed & block.outputs.keys()


__all__ = [
    "Finding",
    "block_findings",
    "error",
    "input_ports",
    "listed",
    "output_ports",
    "reason",
    "reference_flaw",
    "stack_count",
    "stack_findings",
]
