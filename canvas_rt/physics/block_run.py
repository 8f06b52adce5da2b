"""Run one block on meta, node by node, for the shapes of its values and all that is wrong with them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from canvas_rt.errors import CanvasError, suggest
from canvas_rt.ir.document import LAYER, Block, Node, Stack, Use, layer_environment
from canvas_rt.ir.expressions import names_in, resolve
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import Item, execution_order, handed_on, layer_runs, recursive_blocks
from canvas_rt.ops.catalogue import OPS, complete, numbered_setting, parameter_shapes, setting_problems, shown
from canvas_rt.ops.dispatch import kernel
from canvas_rt.ops.functions import RUN_TIME, is_function
from canvas_rt.ops.kernels import Context
from canvas_rt.ops.learned import MODULE
from canvas_rt.ops.op import Facts, Op, Shape, show
from canvas_rt.physics import labels
from canvas_rt.physics.keys import Blocks, Environment, below, relevant, stand_in
from canvas_rt.physics.meta import FastMeta
from canvas_rt.physics.structure import (
    Finding,
    block_findings,
    error,
    output_ports,
    reason,
    reference_flaw,
    stack_count,
    stack_findings,
)

META = torch.device("meta")
OWN_PART = (
    "Only the part that a torch.select takes may: layers of a kind are alike in size. Give them a kind of their own."
)
REFUSALS = (AssertionError, RuntimeError, TypeError, ValueError, IndexError, KeyError, ZeroDivisionError, OverflowError)
"""What PyTorch, and rules about shapes of an unforeseen rank, may raise."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What a block is given at one of its inputs."""

    shape: Shape
    dtype: torch.dtype = torch.float32

    def make(self) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device=META)


def flow(value: Tensor | None) -> Flow | None:
    return None if value is None else Flow(tuple(value.shape), value.dtype)


@dataclass(frozen=True, eq=False)
class BlockRun:
    """What came of running a block. Equal only to itself, so that it can be a part of a cache's key."""

    outputs: Mapping[str, Flow | None]
    given: Mapping[str, Flow | None]
    values: Mapping[str, tuple[Flow | None, ...]]
    """For each item, what its output ports give; None where that is not known."""

    inside: tuple[tuple[str, "BlockRun"], ...]
    """What ran inside: by the id of a use, or the id and layers of a stack."""

    findings: tuple[Finding, ...]
    environment: Mapping[str, Any]
    block: Block

    def within(self, key: str) -> "BlockRun | None":
        return next((run for name, run in self.inside if name == key), None)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a run knows beside values and environment."""

    batch: int
    sequence: int
    source: int
    """What an encoder reads of each sequence, if there is one."""

    sizes: frozenset[str]
    """Names that are sizes."""

    broken: frozenset[str] = frozenset()
    """Sizes without a value: reported once, not again wherever they are used."""

    labelling: bool = False
    """Whether sizes are primes: then flaws are none, and what the op would most likely give is what it gives."""


@lru_cache(maxsize=1024)
def run_block(
    blocks: Blocks,
    name: str,
    environment: Environment,
    given: FrozenMap[str, Flow | None],
    setting: Setting,
    named: BlockRun | None,
) -> BlockRun:
    """Run a block. `named` is the same run with primes for sizes, from which dimensions get their names."""
    with torch.no_grad(), FastMeta():  # type: ignore[no-untyped-call]
        return _Run(blocks, name, environment, given, setting, named).run()


@lru_cache(maxsize=64)
def recursion(blocks: Blocks) -> tuple[str, ...]:
    """Blocks that contain themselves."""
    return recursive_blocks(stand_in(blocks, "", FrozenMap()))


class _Run:
    def __init__(
        self,
        blocks: Blocks,
        name: str,
        environment: Environment,
        given: FrozenMap[str, Flow | None],
        setting: Setting,
        named: BlockRun | None,
    ) -> None:
        self.blocks, self.name, self.environment, self.given = blocks, name, environment, given
        self.setting, self.named = setting, named
        self.block = blocks[name]
        self.context = Context(setting.batch, setting.sequence, META, backend="shape", source=setting.source)
        self.findings: list[Finding] = list(block_findings(blocks, name))
        self.known: dict[str, Tensor | None] = {port: None if f is None else f.make() for port, f in given.items()}
        self.values: dict[str, tuple[Flow | None, ...]] = {}
        self.inside: list[tuple[str, BlockRun]] = []
        self.reader = None if named is None else labels.reader(self.block, FrozenMap(named.environment), setting.sizes)

    def run(self) -> BlockRun:
        order, _ = execution_order(self.block)
        ordered = {item.id for item in order}
        # Nodes in and after a circle have no order; their settings can be looked at all the same.
        for item in (*order, *(item for item in self.block.nodes if item.id not in ordered)):
            self._give(item, self._item(item))
        outputs = {port: flow(self._read(ref)) for port, ref in self.block.outputs.items()}
        return BlockRun(
            outputs, self.given, self.values, tuple(self.inside), tuple(self.findings), self.environment, self.block
        )

    def _give(self, item: Item, results: Sequence[Tensor | None]) -> None:
        ports = output_ports(item, self.blocks) or ()
        results = results or (None,) * len(ports)
        self.values[item.id] = tuple(flow(value) for value in results)
        for port, value in zip(ports, results, strict=True):
            self.known[f"{item.id}.{port}"] = value
        if len(ports) == 1:
            self.known[item.id] = results[0]

    def _read(self, ref: str) -> Tensor | None:
        return self.known.get(ref) if reference_flaw(ref, self.block, self.blocks) is None else None

    def _arriving(self, item: Item) -> dict[str, Tensor | None]:
        return {port: self._read(ref) for port, ref in item.inputs.items()}

    def _item(self, item: Item) -> Sequence[Tensor | None]:
        arriving = self._arriving(item)
        if isinstance(item, Node):
            return self._node(item, arriving) if item.op in OPS else ()
        if isinstance(item, Use):
            return self._use(item, arriving)
        return self._stack(item, arriving)

    # -- nodes

    def _node(self, node: Node, arriving: Mapping[str, Tensor | None]) -> Sequence[Tensor | None]:
        op = OPS[node.op]
        attrs, flaws = self._settings(node, op)
        self.findings += flaws
        values = {port: value for port, value in arriving.items() if value is not None and port in op.inputs}
        shapes = {port: tuple(value.shape) for port, value in values.items()}
        facts = Facts(attrs, shown(node), shapes, self._labels(node, shapes))
        complete_inputs = len(values) == len(op.fed(node.inputs))
        if flaws or not complete_inputs or not op.settings.keys() <= attrs.keys():
            return _recovered(op, facts)
        problems = [error(node.id, *problem) for problem in (*_fractions(op, values, facts), *_problems(op, facts))]
        if problems:
            self.findings += problems
            return _recovered(op, facts)
        try:
            learned = {spec.name: torch.empty(spec.shape, device=META) for spec in parameter_shapes(node, attrs)}
            results = kernel(node.op)(values, attrs, learned, self.context)
            if self.context.untold:
                self.context.untold.clear()
                hint = (
                    "Its value is taken for one of the shape of its first input; run it for real to know what it costs."
                )
                self.findings.append(
                    Finding("warning", node.id, "its operations follow the data: none are counted", hint)
                )
            return results
        except CanvasError as refusal:
            self.findings.append(error(node.id, refusal.message, refusal.hint))
            return _recovered(op, facts)
        except REFUSALS as refusal:
            arrived = ", ".join(f"{port} {facts.show(port)}" for port in shapes)
            message = f"PyTorch refuses {arrived}: {_first_line(refusal)}"
            self.findings.append(error(node.id, message, f"Compare with what {op.title} takes: {op.summary}"))
            return _recovered(op, facts)

    def _settings(self, node: Node, op: Op) -> tuple[dict[str, Any], list[Finding]]:
        """A node's settings as numbers, and what is wrong with them. Those without a value are left out."""
        attrs, flaws = {}, []
        written = shown(node)
        environment = {
            **self.environment,
            **dict(zip(RUN_TIME, (self.setting.batch, self.setting.sequence, self.setting.source), strict=True)),
        }
        numbered = numbered_setting(node)
        if numbered is not None:
            flaws.append(error(node.id, f"{numbered} goes by the number of the layer ({LAYER})", OWN_PART))
        for name, value in complete(node).items():
            if name == numbered or names_in(value) & self.setting.broken:
                continue
            try:
                attrs[name] = resolve(value, environment)
            except CanvasError as flaw:
                unknown = sorted(names_in(value) - environment.keys())
                hint = suggest(unknown[0], self.setting.sizes) if unknown else "Change the sizes that it is made of."
                flaws.append(error(node.id, f"{name} = {written[name]} has no value: {reason(flaw, unknown)}", hint))
        unset = op.settings.keys() - attrs.keys()
        rest = _without(op, unset)
        flaws += [error(node.id, *problem) for problem in setting_problems(rest, attrs, written)]
        return attrs, flaws

    def _labels(self, node: Node, shapes: Mapping[str, Shape]) -> Mapping[str, tuple[str, ...]]:
        if self.named is None or self.reader is None:
            return {}
        found = {}
        for port, shape in shapes.items():
            label = self._label_of(node.inputs[port])
            found[port] = self.reader.read(label, shape, self.environment)
        return found

    def _label_of(self, ref: str) -> Shape | None:
        """The same value's shape in primes."""
        assert self.named is not None
        name, _, port = ref.partition(".")
        item = self.block.node(name)
        if item is None:
            there = self.named.given.get(name)
        else:
            ports = output_ports(item, self.blocks) or ()
            there = self.named.values[name][ports.index(port) if port else 0]
        return None if there is None else there.shape

    # -- what holds blocks

    def _inner(
        self, name: str, key: str, environment: Mapping[str, Any], arriving: Mapping[str, Tensor | None]
    ) -> BlockRun | None:
        if name not in self.blocks or name in recursion(self.blocks):
            return None
        given = FrozenMap({port: flow(arriving.get(port)) for port in self.blocks[name].inputs})
        if self.setting.labelling:
            scope: Environment = FrozenMap(environment)
        else:
            scope = relevant(self.blocks, name, environment)
        named = None if self.named is None else self.named.within(key)
        return run_block(below(self.blocks, name), name, scope, given, self.setting, named)

    def _use(self, use: Use, arriving: Mapping[str, Tensor | None]) -> Sequence[Tensor | None]:
        run = self._inner(use.block, use.id, self.environment, arriving)
        if run is None:
            return ()
        self.inside.append((use.id, run))
        return tuple(None if out is None else out.make() for out in run.outputs.values())

    def _stack(self, stack: Stack, arriving: Mapping[str, Tensor | None]) -> Sequence[Tensor | None]:
        if self.setting.labelling:
            return self._label_stack(stack, arriving)
        count, flaw = (
            (None, None) if names_in(stack.repeat) & self.setting.broken else stack_count(stack, self.environment)
        )
        self.findings += [flaw] if flaw else []
        flaws = list(stack_findings(stack, count, self.blocks))
        self.findings += flaws
        if any(run.kind >= len(stack.kinds) for run in stack.runs):
            return ()
        kinds = stack.kind_indices(count or 1)
        carried, given = arriving.get(self._carry_port(stack)), dict(arriving)
        handed = handed_on(stack, self.blocks)
        for first, last, kind in layer_runs(kinds):
            span = f"{first}" if first == last else f"{first}-{last}"
            run = self._layers(stack, kind, span, given, carried)
            given |= self._handed(run, handed)
        return (carried,)

    @staticmethod
    def _handed(run: BlockRun | None, names: Sequence[str]) -> dict[str, Tensor | None]:
        """What a layer hands to later ones."""
        flows = {} if run is None else {name: run.outputs[name] for name in names if name in run.outputs}
        return {name: None if found is None else found.make() for name, found in flows.items()}

    def _carry_port(self, stack: Stack) -> str:
        block = self.blocks.get(stack.kinds[0].block)
        return block.inputs[0] if block is not None and block.inputs else ""

    def _label_stack(self, stack: Stack, arriving: Mapping[str, Tensor | None]) -> Sequence[Tensor | None]:
        given, handed = dict(arriving), handed_on(stack, self.blocks)
        last = max((run.stop for run in stack.runs), default=0)
        # A run may name a kind that there is not, which is reported elsewhere.
        order = dict.fromkeys(index for index in stack.kind_indices(last + 1) if index < len(stack.kinds))
        for index in (*order, *(other for other in range(len(stack.kinds)) if other not in order)):
            kind = stack.kinds[index]
            environment = labels.layer_label_environment(self.environment, kind)
            run = self._inner(kind.block, f"{stack.id}#{index}", environment, given)
            given |= self._handed(run, handed)
            if run is not None:
                self.inside.append((f"{stack.id}#{index}", run))
        return (arriving.get(self._carry_port(stack)),)

    def _layers(
        self, stack: Stack, kind: int, span: str, arriving: Mapping[str, Tensor | None], carried: Tensor | None
    ) -> BlockRun | None:
        where = f"{stack.id}.{span}"
        layer = stack.kinds[kind]
        try:
            environment = layer_environment(self.environment, layer, int(span.rpartition("-")[2]))
        except CanvasError as flaw:
            if not names_in(layer.sizes) & self.setting.broken:
                self.findings.append(
                    error(where, f"a size of these layers has no value: {reason(flaw, ())}", "Change it.")
                )
            return None
        run = self._inner(layer.block, f"{stack.id}#{kind}", environment, arriving)
        if run is None:
            return None
        self.inside.append((where, run))
        out = next(iter(run.outputs.values()), None)
        if carried is not None and out is not None and out.shape != tuple(carried.shape):
            self.findings.append(self._not_carried(where, stack, kind, run, out.shape, tuple(carried.shape)))
        return run

    def _not_carried(self, where: str, stack: Stack, kind: int, run: BlockRun, gives: Shape, takes: Shape) -> Finding:
        port = self._carry_port(stack)
        taken, given = show(takes), show(gives)
        if self.named is not None and self.reader is not None:
            taken = _both(self.reader.read(self._label_of(stack.inputs[port]), takes, self.environment), takes)
            inner = self.named.within(f"{stack.id}#{kind}")
            if inner is not None:
                out = next(iter(inner.outputs.values()), None)
                reading = labels.reader(inner.block, FrozenMap(inner.environment), self.setting.sizes)
                given = _both(reading.read(None if out is None else out.shape, gives, run.environment), gives)
        hint = "Each layer feeds the next: make its last projection as wide as its input."
        return error(where, f"takes {port} = {taken}, but gives {given}", hint)


def _both(symbolic: tuple[str, ...], actual: Shape) -> str:
    text, numbers = "[" + ", ".join(symbolic) + "]", show(actual)
    return numbers if text == numbers else f"{text} = {numbers}"


def _fractions(op: Op, values: Mapping[str, Tensor], facts: Facts) -> Iterator[tuple[str, str]]:
    """On meta, PyTorch would look up anything, and multiply whole numbers as if they were fractions."""
    if is_function(op.name) or op.name == MODULE:
        return
    for port in op.fed(values):
        if port not in op.whole and op.name not in ARITHMETIC and not values[port].is_floating_point():
            yield (
                f"takes fractions, but {port} is {facts.show(port)} of whole numbers, such as token ids",
                "Put an embedding before it.",
            )
        if port in op.whole and values[port].is_floating_point():
            what, feed = WHOLE.get(port, ("whole numbers", "whole numbers"))
            yield (
                f"takes {what}, which are whole numbers, but {port} is {facts.show(port)} of fractions",
                f"Feed it {feed}.",
            )


ARITHMETIC = frozenset({"add", "sub", "mul", "scale", "dropout"})
"""What whole numbers may go through as well."""

WHOLE = {
    "ids": ("token ids", "input_ids"),
    "position_ids": ("positions", "what a PositionIds node gives"),
    "indices": ("the numbers of experts", "the indices that a Router gives"),
}
"""What ports of whole numbers take, and what gives it."""


def _problems(op: Op, facts: Facts) -> Iterator[tuple[str, str]]:
    try:
        yield from op.problems(facts)
    except REFUSALS:
        arrived = ", ".join(f"{port} {facts.show(port)}" for port in facts.shapes)
        yield f"cannot take {arrived}", f"{op.title}: {op.summary}"


def _without(op: Op, names: Any) -> Op:
    """The op without settings that have no value, whose absence is reported elsewhere."""
    if not names:
        return op
    return replace(op, settings={name: setting for name, setting in op.settings.items() if name not in names})


def _recovered(op: Op, facts: Facts) -> Sequence[Tensor | None]:
    """What the op would most likely give, or nothing."""
    try:
        shapes = op.recover(facts)
        if len(shapes) != len(op.outputs) or not all(_is_shape(shape) for shape in shapes):
            return ()
        flows = (Flow(tuple(s), _dtype(op, port)) for port, s in zip(op.outputs, shapes, strict=True))
        return tuple(flow.make() for flow in flows)
    except (*REFUSALS, StopIteration):
        return ()


def _dtype(op: Op, port: str) -> torch.dtype:
    return torch.int64 if port in op.whole else torch.float32


def _is_shape(shape: Any) -> bool:
    return all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in shape)


def _first_line(refusal: BaseException) -> str:
    return (str(refusal).strip().splitlines() or [type(refusal).__name__])[0][:200]
