"""Trace one layer, or the whole model without its layers, forward and backward."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from canvas_rt.ir.document import Node, layer_environment
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.halves import sides_within
from canvas_rt.ops.catalogue import complete
from canvas_rt.ops.inputs import given_dtype, given_shapes
from canvas_rt.physics.anatomy import head_path, tail_paths
from canvas_rt.physics.keys import Blocks, Environment, relevant
from canvas_rt.physics.losses import chunked_loss, fused_loss, plain_loss, wanted
from canvas_rt.physics.regimes import PLAIN, Regime
from canvas_rt.physics.setup import META, Arriving, Setup, arriving
from canvas_rt.physics.trace import LOSS, Gap, Handed, Learned, Trace
from canvas_rt.physics.tracer import WHOLE_LAYERS, Tracer


class _Gradients(Function):
    """Values that arrive with gradients, made at the block's edge so that nothing but the block holds them."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, tracer: Tracer, arrivals: Sequence[Arriving]) -> Any:
        ctx.tracer = tracer
        return tuple(arrival.make() for arrival in arrivals)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        tape = ctx.tracer.tape
        numbers = [-1 if gradient is None else tape.forget(gradient) for gradient in gradients]
        ctx.tracer.returned = tuple(numbers)
        return None, None, None


class _Result(Function):
    """The block's result leaves, and what it hands on; their gradients come in."""

    @staticmethod
    def forward(ctx: Any, tracer: Tracer, result: Tensor, *handed: Tensor) -> Tensor:
        ctx.tracer, ctx.like = tracer, [arriving(value) for value in (result, *handed)]
        with tracer.tape.unseen():
            return result.new_empty(())

    @staticmethod
    def backward(ctx: Any, anchor: Tensor) -> Any:
        tape = ctx.tracer.tape
        with tape.unseen():
            gradients = [like.make() if like.requires_grad else None for like in ctx.like]
        numbers = [-1 if gradient is None else tape.adopt(gradient) for gradient in gradients]
        ctx.tracer.gradient, ctx.tracer.handed_gradients = numbers[0], tuple(numbers[1:])
        return None, *gradients


NOTHING: FrozenMap[str, Arriving] = FrozenMap()


@lru_cache(maxsize=256)
def trace_layer(
    blocks: Blocks,
    block: str,
    environment: Environment,
    carry: Arriving,
    others: FrozenMap[str, Arriving],
    setup: Setup,
    regime: Regime = PLAIN,
    taken: FrozenMap[str, Arriving] = NOTHING,
    hands_on: tuple[str, ...] = (),
) -> Trace:
    """One layer of a stack by itself, given `carry`, the values that go to every layer alike, and what earlier ones hand on."""
    tracer = Tracer(blocks, block, environment, setup, FrozenMap(), regime)
    tracer.hands_on = bool(hands_on)
    tape = tracer.tape
    port = blocks[block].inputs[0]
    arrivals = {port: carry, **others, **taken}
    if setup.task.decodes and setup.source != setup.new_tokens:
        encoded = (name for name, value in arrivals.items() if value.shape[1:2] == (setup.source,))
        tracer.sides = sides_within(blocks, block, frozenset(encoded))
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
            outputs = dict(run_layer(tracer, block, environment, made))
            made.clear()
            outputs |= {name: tracer.grown.get(id(outputs[name]), outputs[name]) for name in hands_on}
            tracer.grown.clear()
            handed = tuple(Handed(name, arriving(outputs[name]), tape.number(outputs[name])) for name in hands_on)
            leaving = [outputs[next(iter(outputs))], *(outputs[name] for name in hands_on)]
            outputs.clear()
            number, gives = tape.number(leaving[0]), leaving[0].dtype
            if setup.train:
                last = _Result.apply(tracer, *leaving)  # type: ignore[no-untyped-call]
            leaving.clear()
            split = len(tape.events)
            tracer.end_forward()
            middle = len(tape.events)
            learned: tuple[Learned, ...] = ()
            if setup.train and last.requires_grad:
                tape.backward = True
                with tape.unseen():
                    start = torch.empty((), dtype=last.dtype, device=META)
                torch.autograd.backward(last, start)
                learned = tracer.gradients()
        tape.close()
    returned = dict(zip(graded, tracer.returned or (-1,) * len(graded), strict=True))
    tracer.passed = returned.get(port, -1)
    tracer.passed_others = tuple(returned.get(name, -1) for name in (*others, *taken))
    shared: dict[str, Any] = {
        "given": numbers[port],
        "given_others": tuple(numbers[name] for name in (*others, *taken)),
        "taken": tuple(taken),
        "result": number,
        "gives": gives,
        "handed": tuple(map(_with_gradient, handed, tracer.handed_gradients or (-1,) * len(handed))),
    }
    return tracer.trace((split, middle), learned, **shared)


def _with_gradient(handed: Handed, number: int) -> Handed:
    return replace(handed, gradient=number)


def run_layer(
    tracer: Tracer, block: str, environment: Mapping[str, Any], inputs: Mapping[str, Tensor], prefix: str = ""
) -> Mapping[str, Tensor]:
    """A layer's forward; where layers are recomputed, under a checkpoint, as transformers has it."""
    names = tracer.setup.recompute
    if names in WHOLE_LAYERS:
        run = partial(tracer.block, block, environment, prefix=prefix)
        return tracer.again(run, inputs, selective=names == ("selective",))
    with tracer.cast():
        return tracer.block(block, environment, inputs, prefix)


@lru_cache(maxsize=128)
def trace_root(
    blocks: Blocks,
    root: str,
    environment: Environment,
    ties: FrozenMap[str, str],
    setup: Setup,
    regime: Regime = PLAIN,
    idle: frozenset[str] = frozenset(),
) -> Trace:
    """The whole model but the layers of its stacks; in `train` with the loss and its backward.

    `idle` are the paths of stacks in which nothing is trained.
    """
    tracer = Tracer(blocks, root, environment, setup, ties, regime, lambda path: path not in idle)
    tracer.head = head_path(blocks, root)
    if setup.task.decodes:
        tracer.sides = sides_within(blocks, root, frozenset(blocks[root].inputs) - {setup.task.decodes})
    with torch.set_grad_enabled(setup.train):
        splits, learned = run_root(tracer, blocks, root)
    return tracer.trace(splits, learned)


def run_root(tracer: Tracer, blocks: Blocks, root: str) -> tuple[tuple[int, int], tuple[Learned, ...]]:
    """Run a root under the tracer's tape, in `train` with loss and backward.

    Gives how many events there were at the forward's end and at the backward's start, and the gradients.
    """
    tape, setup = tracer.tape, tracer.setup
    shapes = given_shapes(setup.task, blocks[root].inputs, tracer.document.environment, setup.lengths)
    dtype = given_dtype(setup.task, setup.weight_dtype)
    inputs = {name: torch.empty(shape, dtype=dtype, device=META) for name, shape in shapes.items()}
    labels = torch.empty(setup.labelled, dtype=torch.int64, device=META) if setup.train else None
    for tensor in (*inputs.values(), *(() if labels is None else (labels,))):
        tape.resident(tensor)
    with tape:
        if labels is None:
            logits = tracer.run(inputs)
            tape.close()
            del logits  # they outlive the run
            return (len(tape.events), len(tape.events)), ()
        with tracer.cast():
            loss = run_loss(tracer, blocks, root, inputs, labels)
        split = len(tape.events)
        tracer.end_forward()
        middle = len(tape.events)
        tape.backward = True
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        learned = tracer.gradients()
        del loss
    tape.close()
    return (split, middle), learned


def run_loss(tracer: Tracer, blocks: Blocks, root: str, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """The model's forward with the loss that the setup asks for."""
    setup, tape = tracer.setup, tracer.tape
    after = tail_paths(blocks, root) if setup.loss != "plain" else ()
    tracer.tail = dict.fromkeys(after, lambda x: x)
    outputs = dict(tracer.run(inputs))
    hidden = outputs.pop(next(iter(outputs)))
    outputs.clear()
    if not after:
        tape.owner = LOSS
        loss = plain_loss(hidden, labels, setup.task)
    elif setup.loss == "fused":
        tape.owner = after[0]
        key = tracer.tied.get(f"{after[0]}.weight", f"{after[0]}.weight")
        shape = _head_shape(tracer, blocks, root)
        weight = tracer.learned(key, shape)
        if tracer.autocast is not None:
            hidden, weight = tracer.autocast.narrow(hidden), tracer.autocast.narrow(weight)
        loss = fused_loss(hidden, weight, wanted(labels, setup.task))
    else:
        tape.owner = LOSS
        loss = chunked_loss(
            hidden, wanted(labels, setup.task), partial(_tail, tracer, after), setup.loss_chunks, tracer.cast_again
        )
    tape.finished(tape.owner, (loss,))
    return loss


def _tail(tracer: Tracer, after: Sequence[str], hidden: Tensor) -> Tensor:
    """Logits of some of the tokens; what follows is the loss's again."""
    with tracer.recomputing():
        for path in after:
            hidden = tracer.tail[path](hidden)
    tracer.tape.owner = LOSS
    return hidden


def _head_shape(tracer: Tracer, blocks: Blocks, root: str) -> tuple[int, int]:
    node = blocks[root].node(tail_paths(blocks, root)[0])
    assert isinstance(node, Node)
    attrs = resolve(complete(node), tracer.document.environment)
    return attrs["out_features"], attrs["in_features"]


def layer_scope(gap: Gap, kind: int, blocks: Blocks) -> Environment:
    """What names stand for inside the layers of a kind."""
    layer = gap.stack.kinds[kind]
    return relevant(blocks, layer.block, layer_environment(gap.environment, layer))
