"""Trace one block on meta, forward and backward; a stack inside it is a gap where its layers' own traces go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from canvas_rt.ir.document import Node, Stack, layer_environment
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import head, own_names
from canvas_rt.ops.catalogue import OPS
from canvas_rt.ops.interpret import Interpreter
from canvas_rt.ops.kernels import Backend, Context
from canvas_rt.physics.keys import Blocks, Environment, relevant, stand_in
from canvas_rt.physics.tape import Event, Tape, Work, rounded

Mode = Literal["train", "prefill", "decode"]
META = torch.device("meta")
DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GAP = -1
"""In place of a storage's number: the layers of a stack stand here. The event's bytes are the stack's index."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How a model is run, as far as a trace depends on it."""

    mode: Mode
    batch: int
    sequence: int
    """Tokens of a sequence; in `decode`, those that the cache holds already."""

    dtype: str

    @property
    def new_tokens(self) -> int:
        return 1 if self.mode == "decode" else self.sequence

    @property
    def train(self) -> bool:
        return self.mode == "train"

    def context(self) -> Context:
        # Flash attention has no fp32 kernel; PyTorch then takes the memory-efficient one.
        backend: Backend = "efficient" if self.dtype == "fp32" else "flash"
        past = self.sequence if self.mode == "decode" else 0
        return Context(self.batch, self.new_tokens, META, DTYPES[self.dtype], backend, past)


@dataclass(frozen=True, slots=True)
class Arriving:
    """A tensor that a block is given."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool

    def make(self) -> Tensor:
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=META)


def arriving(tensor: Tensor) -> Arriving:
    return Arriving(tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype, tensor.requires_grad)


@dataclass(frozen=True, slots=True)
class Gap:
    """A stack within a traced block, with the numbers of the storages that its layers share with it."""

    path: str
    stack: Stack
    environment: Environment
    carry: Arriving
    others: FrozenMap[str, Arriving]
    given: int
    """What flows into the first layer."""
    given_others: tuple[int, ...]
    result: int
    """What the last layer gives."""
    gradient: int = -1
    """The result's gradient, on its way into the last layer's backward."""
    passed: int = -1
    """The gradient that comes out of the first layer."""
    passed_others: tuple[int, ...] = ()
    """The gradients of `given_others`, summed over the layers; -1 for those that need none."""


@dataclass(frozen=True, eq=False, slots=True)
class Trace:
    """What one block does. Storages are numbered; those that it shares with its surroundings are named here.

    Equal only to itself: as a cache's key, comparing thousands of events would cost more than it saves.
    """

    forward: tuple[Event, ...]
    backward: tuple[Event, ...]
    work: tuple[Work, ...]
    gaps: tuple[Gap, ...]
    cached: tuple[Event, ...] = ()
    """What the cache holds before this runs."""
    given: int = -1
    given_others: tuple[int, ...] = ()
    result: int = -1
    gradient: int = -1
    passed: int = -1
    passed_others: tuple[int, ...] = ()


class _Gradients(Function):
    """Values that arrive with gradients, made at the block's edge so that nothing but the block holds them."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, tracer: "Tracer", arrivals: Sequence[Arriving]) -> Any:
        ctx.tracer = tracer
        return tuple(arrival.make() for arrival in arrivals)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        tape = ctx.tracer.tape
        numbers = [-1 if gradient is None else tape.forget(gradient) for gradient in gradients]
        ctx.tracer.passed, ctx.tracer.passed_others = numbers[0], tuple(numbers[1:])
        return None, None, None


class _Result(Function):
    """The block's result leaves; its gradient comes in."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, tracer: "Tracer") -> Tensor:
        ctx.tracer, ctx.like = tracer, arriving(result)
        with tracer.tape.unseen():
            return result.new_empty(())

    @staticmethod
    def backward(ctx: Any, anchor: Tensor) -> Any:
        with ctx.tracer.tape.unseen():
            gradient = ctx.like.make()
        ctx.tracer.gradient = ctx.tracer.tape.adopt(gradient)
        return gradient, None


class _Gap(Function):
    """A stack's layers, as their surroundings see them: a new value forward, new gradients backward."""

    @staticmethod
    def forward(ctx: Any, tracer: "Tracer", index: int, carried: Tensor, *others: Tensor) -> Tensor:
        ctx.tracer, ctx.index = tracer, index
        like = [arriving(value) for value in (carried, *others)]
        ctx.like = like
        with tracer.tape.unseen():
            return like[0].make()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        tape = ctx.tracer.tape
        number = tape.forget(gradient)
        tape.events.append((ctx.index, GAP))
        with tape.unseen():
            gradients = [like.make() if like.requires_grad else None for like in ctx.like]
        numbers = [-1 if g is None else tape.adopt(g) for g in gradients]
        ctx.tracer.gap_gradients[ctx.index] = (number, numbers[0], tuple(numbers[1:]))
        return (None, None, *gradients)


class Tracer(Interpreter):
    """Interprets on meta under a tape; does not run the layers of stacks."""

    def __init__(
        self, blocks: Blocks, root: str, environment: Environment, setup: Setup, ties: Mapping[str, str]
    ) -> None:
        super().__init__(stand_in(blocks, root, environment, ties), self.learned, setup.context())
        self.tape = Tape()
        self.setup = setup
        self.weights: dict[str, Tensor] = {}
        self.kept: list[Tensor] = []
        """What the cache holds from now on."""
        self.cached: list[Event] = []
        """What the cache held before, as allocations."""
        self.gaps: list[Gap] = []
        self.gap_gradients: dict[int, tuple[int, int, tuple[int, ...]]] = {}
        self.gradient = self.passed = -1
        self.passed_others: tuple[int, ...] = ()
        self.head = ""
        """The projection onto the vocabulary, which needs only the last token when a prompt is read."""

    def learned(self, key: str, shape: tuple[int, ...]) -> Tensor:
        if key not in self.weights:
            with self.tape.unseen():
                weight = torch.empty(shape, dtype=self.context.dtype, device=META, requires_grad=self.setup.train)
            self.tape.resident(weight)
            self.weights[key] = weight
        return self.weights[key]

    def node(
        self, node: Node, environment: Mapping[str, Any], inputs: Mapping[str, Tensor], path: str
    ) -> Mapping[str, Tensor]:
        self.tape.owner = path
        if node.op == "attention":
            attrs = resolve(dict(node.attrs), environment)
            self.tape.window = attrs.get("window")
            self.context.cache = self.cache if self.setup.mode != "train" else None
        if path == self.head and self.setup.mode == "prefill":
            inputs = {"x": inputs["x"][:, -1:]}
        results = super().node(node, environment, inputs, path)
        if self.setup.train:
            self.tape.finished(path, tuple(results.values()))
        return results

    def cache(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values with those of the cache before them. What stays in the cache outlives the trace."""
        window = self.tape.window
        grown = tuple(self._grow(new, window) for new in (k, v))
        return grown[0], grown[1]

    def _grow(self, new: Tensor, window: int | None) -> Tensor:
        past = self.context.past if window is None else min(self.context.past, window - 1)
        if not past:
            whole = torch.cat([new], dim=-2)
        else:
            with self.tape.unseen():
                old = torch.empty(*new.shape[:2], past, new.shape[3], dtype=new.dtype, device=META)
            # From the step before: it dies here, and the new one takes its place.
            self.cached.append((rounded(old.nbytes), self.tape.adopt(old)))
            whole = torch.cat([old, new], dim=-2)
        if window is not None and whole.shape[-2] > window:
            self.kept.append(whole[:, :, -window:].clone(memory_format=torch.contiguous_format))
        else:
            self.kept.append(whole)
        return whole

    def stack(self, stack: Stack, environment: Mapping[str, Any], inputs: Mapping[str, Tensor], path: str) -> Tensor:
        index = len(self.gaps)
        values = dict(inputs)
        inputs.clear()  # type: ignore[attr-defined]
        ports = self.document.blocks[stack.kinds[0].block].inputs
        carried = values.pop(ports[0])
        others = FrozenMap({port: arriving(value) for port, value in sorted(values.items())})
        tape = self.tape
        given = tape.number(carried)
        given_others = tuple(tape.number(values[port]) for port in others)
        carry = arriving(carried)
        if self.setup.train:
            result = _Gap.apply(self, index, carried, *(values[port] for port in others))  # type: ignore[no-untyped-call]
        else:
            with tape.unseen():
                result = carry.make()
        del carried
        tape.events.append((index, GAP))
        values.clear()
        names = frozenset().union(
            *(relevant(self.document.blocks, kind.block, environment).keys() for kind in stack.kinds)
        )
        scope = {name: environment[name] for name in names | own_names(stack) if name in environment}
        self.gaps.append(Gap(path, stack, FrozenMap(scope), carry, others, given, given_others, tape.adopt(result)))
        return result  # type: ignore[no-any-return]

    def trace(self, given: int = -1, others: tuple[int, ...] = (), result: int = -1, split: int = 0) -> Trace:
        events = self.tape.events
        gaps = []
        for index, gap in enumerate(self.gaps):
            gradient, passed, others_passed = self.gap_gradients.get(index, (-1, -1, ()))
            gaps.append(replace(gap, gradient=gradient, passed=passed, passed_others=others_passed))
        return Trace(
            tuple(events[:split]),
            tuple(events[split:]),
            tuple(self.tape.work),
            tuple(gaps),
            tuple(self.cached),
            given,
            others,
            result,
            self.gradient,
            self.passed,
            self.passed_others,
        )


@lru_cache(maxsize=256)
def trace_layer(
    blocks: Blocks,
    block: str,
    environment: Environment,
    carry: Arriving,
    others: FrozenMap[str, Arriving],
    setup: Setup,
) -> Trace:
    """One layer of a stack by itself, given `carry` and the values that go to every layer alike."""
    tracer = Tracer(blocks, block, environment, setup, FrozenMap())
    tape = tracer.tape
    port = blocks[block].inputs[0]
    arrivals = {port: carry, **others}
    graded = [name for name, arrival in arrivals.items() if arrival.requires_grad and setup.train]
    with torch.set_grad_enabled(setup.train):
        made = {name: arrival.make() for name, arrival in arrivals.items() if name not in graded}
        if graded:
            anchor = torch.empty(1, device=META, requires_grad=True)
            values = _Gradients.apply(anchor, tracer, [arrivals[name] for name in graded])  # type: ignore[no-untyped-call]
            made.update(zip(graded, values, strict=True))
            del values
        numbers = {name: tape.adopt(made[name]) for name in arrivals}
        with tape:
            outputs = dict(tracer.block(block, environment, made, ""))
            made.clear()
            result = outputs.popitem()[1] if len(outputs) == 1 else next(iter(outputs.values()))
            outputs.clear()
            number = tape.number(result)
            if setup.train:
                last = _Result.apply(result, tracer)  # type: ignore[no-untyped-call]
            del result
            split = len(tape.events)
            if setup.train and last.requires_grad:
                tape.backward = True
                with tape.unseen():
                    start = torch.empty((), dtype=last.dtype, device=META)
                torch.autograd.backward(last, start)
        tape.close()
    return tracer.trace(numbers[port], tuple(numbers[name] for name in others), number, split)


@lru_cache(maxsize=128)
def trace_root(blocks: Blocks, root: str, environment: Environment, ties: FrozenMap[str, str], setup: Setup) -> Trace:
    """The whole model but the layers of its stacks; in `train` with the loss and its backward."""
    tracer = Tracer(blocks, root, environment, setup, ties)
    tracer.head = head_path(blocks, root)
    with torch.set_grad_enabled(setup.train):
        split = run_root(tracer, blocks, root)
    return tracer.trace(split=split)


def run_root(tracer: Tracer, blocks: Blocks, root: str) -> int:
    """Run a root under the tracer's tape, in `train` with loss and backward. Gives the forward's event count."""
    tape, setup = tracer.tape, tracer.setup
    shape = (setup.batch, setup.new_tokens)
    inputs = {name: torch.empty(shape, dtype=torch.int64, device=META) for name in blocks[root].inputs}
    labels = torch.empty(shape, dtype=torch.int64, device=META) if setup.train else None
    for tensor in (*inputs.values(), *(() if labels is None else (labels,))):
        tape.resident(tensor)
    with tape:
        outputs = dict(tracer.run(inputs))
        if labels is None:
            tape.close()
            return len(tape.events)
        tape.owner = LOSS
        loss = causal_loss(outputs.pop(next(iter(outputs))), labels)
        tape.finished(LOSS, (loss,))
        outputs.clear()
        split = len(tape.events)
        tape.backward = True
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        del loss
    tape.close()
    return split


LOSS = "loss"
"""Whose the work of the loss is, in tables by node."""


def causal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the next token, as transformers' ForCausalLMLoss computes it: in fp32, labels shifted."""
    logits = logits.float()
    labels = F.pad(labels, (0, 1), value=-100)
    shifted = labels[..., 1:].contiguous()
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), shifted.view(-1), ignore_index=-100, reduction="mean")


def head_path(blocks: Blocks, root: str) -> str:
    """The root's projection that its first output comes from, through operations that treat each token alone."""
    block = blocks[root]
    ref = next(iter(block.outputs.values()), "")
    while True:
        item = block.node(head(ref))
        if not isinstance(item, Node) or len(OPS[item.op].inputs) != 1:
            return ""
        if item.op == "linear":
            return item.id
        if item.op not in ("scale", "activation", "softmax"):
            return ""
        ref = next(iter(item.inputs.values()))


def layer_scope(gap: Gap, kind: int, blocks: Blocks) -> Environment:
    """What names stand for inside the layers of a kind."""
    layer = gap.stack.kinds[kind]
    return relevant(blocks, layer.block, layer_environment(gap.environment, layer))
