"""Run a whole model on the meta device: every layer its own, no numbers, and what a card's allocator would hand out.

Independent of the prediction, which traces one layer of each kind and tiles what it saw: it is a check of that.
"""

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from canvas_rt.dryrun.on_cpu import held
from canvas_rt.dryrun.steps import MODES, Run, Say, Training, quietly, weight_bytes
from canvas_rt.dryrun.timeline import bounded, summed
from canvas_rt.physics.scenario import Scenario
from canvas_rt.physics.setup import WIDEST_FLASH
from canvas_rt.physics.tape import Tape

aten = torch.ops.aten
SPEAK_S = 0.5
"""How often to say how far a run is, at most."""


def run_on_meta(make: Callable[[], Any], scenario: Scenario, found: dict[str, Any], *, say: Say = quietly) -> None:
    """Make a model and run it; what was found goes into `found` as soon as it is known.

    One step is counted, by torch's own `FlopCounterMode`. A second, with the optimizer's state there, is followed:
    each storage from its first tensor to its last, rounded as the CUDA allocator does.
    """
    say("making the model")
    model = make()
    found["parameters"] = sum(p.numel() for p in model.parameters())
    found["weights"] = weight_bytes(model)
    with as_on_card(scenario.attention):
        teller = Teller(model, say)
        run = MODES[scenario.mode](model, scenario, "meta", teller)
        if isinstance(run, Training) and scenario.chosen_implementation == "fused":
            run.optimizer = Fused(scenario, model.parameters())
        found |= counted(run, scenario)
        found |= held(run)
        teller.leave_layers()
        if not scenario.train:
            run = MODES[scenario.mode](model, scenario, "meta", teller)  # a token was added to the cache
        found |= followed(run, model)


def _without_scores(function: Any) -> Callable[..., int]:
    """FLOPs of fused attention's backward without the scores that it computes again: the mathematics has four products of
    the five that run, and a prediction counts these."""

    def flops(*args: Any, **kwargs: Any) -> int:
        return int(flop_registry[function._overloadpacket](*args, **kwargs)) * 4 // 5

    flops._get_raw = True  # type: ignore[attr-defined]
    return flops


def _grouped(a: Any, b: Any, *others: Any, **more: Any) -> int:
    """FLOPs of products in groups, which torch has no formula for: every row is multiplied once, whoever's it is."""
    return int(2 * a[-2] * a[-1] * b[-1])


OWN: dict[Any, Callable[..., int]] = {aten._grouped_mm: _grouped} | {
    kernel._overloadpacket: _without_scores(kernel)
    for kernel in (
        aten._scaled_dot_product_flash_attention_backward.default,
        aten._scaled_dot_product_efficient_attention_backward.default,
    )
}


def counted(run: Run, scenario: Scenario) -> dict[str, int]:
    """FLOPs of a run. A training step leaves its optimizer's state behind."""
    forward = 0
    with FlopCounterMode(display=False, custom_mapping=OWN) as counter:
        if isinstance(run, Training):
            for _ in range(scenario.accumulation):
                before = counter.get_total_flops()
                loss = run.forward()
                forward += counter.get_total_flops() - before
                run.backward(loss)
                del loss
        else:
            run()
            forward = counter.get_total_flops()
        total = counter.get_total_flops()
    if isinstance(run, Training):
        run.update()
    return {"flops_forward": forward, "flops_backward": total - forward}


def followed(run: Run, model: nn.Module) -> dict[str, Any]:
    """The most bytes that tensors take while it runs."""
    gc.collect()
    tape = Tape(fast=False)
    held_before = sum(_adopted(tape, tensor) for tensor in _there(run, model))
    with tape:
        run()
    events = list(tape.events)
    tape.close()
    points = summed(((float(place), nbytes) for place, (nbytes, _) in enumerate(events)), held_before)
    peak = max((nbytes for _, nbytes in points), default=held_before)
    return {"peak": peak, "timeline": bounded(points)}


def _adopted(tape: Tape, tensor: Tensor) -> int:
    """Let the tape know a tensor, which may die in the run as a cache's do; its bytes, unless it knew its storage."""
    if not tensor.is_meta or tensor.untyped_storage()._cdata in tape.live:
        return 0
    tape.adopt(tensor)
    return tape.rounded(tensor.untyped_storage().nbytes())


def _there(run: Run, model: nn.Module) -> Iterator[Tensor]:
    """What there is before it runs."""
    yield from model.parameters()
    yield from model.buffers()
    yield from (value for value in run.given.values() if isinstance(value, Tensor))
    yield from run.states()
    if isinstance(run, Training):
        yield run.labels


MOMENTS = {"adamw": 2, "adam": 2, "sgd": 0, "sgd-momentum": 1}
"""Tensors that a fused optimizer keeps for each that it trains, beside the count of steps."""


class Fused:
    """An optimizer in one kernel, which refuses meta tensors: it makes its state in the first step, and else nothing."""

    def __init__(self, scenario: Scenario, parameters: Iterable[Tensor]) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.moments = MOMENTS[scenario.optimizer]
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def step(self) -> None:
        for parameter in self.parameters if not self.state else ():
            steps = {"step": torch.zeros((), device="meta")} if self.moments == 2 else {}
            self.state[parameter] = steps | {str(n): torch.zeros_like(parameter) for n in range(self.moments)}

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


class Teller:
    """Says which part of a step it is, and in the forward at which layer."""

    def __init__(self, model: nn.Module, say: Say) -> None:
        self.say, self.step, self.part, self.told = say, "counting operations", "", 0.0
        layers = max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len, default=nn.ModuleList())
        self.hooks = [
            layer.register_forward_pre_hook(self._hook(index + 1, len(layers))) for index, layer in enumerate(layers)
        ]

    def leave_layers(self) -> None:
        """Hooks keep what they are given alive: no memory is followed with them."""
        self.step = "following memory"
        for hook in self.hooks:
            hook.remove()

    def __call__(self, text: str) -> None:
        self.part = f"{self.step}: {text}"
        self.say(self.part)

    def _hook(self, number: int, count: int) -> Callable[[Any, Any], None]:
        def at(module: Any, given: Any) -> None:
            now = time.monotonic()
            if now - self.told > SPEAK_S:
                self.told = now
                self.say(f"{self.part}, layer {number} of {count}")

        return at


NUMBERS: Mapping[Any, Any] = {Tensor.__bool__: True, Tensor.item: 1.0}
"""What code is told that asks for a number: transformers asks whether positions follow one another, and they do."""


class Answers(TorchFunctionMode):
    """Answers code that asks a meta tensor for its number."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in NUMBERS and args[0].is_meta:
            return NUMBERS[func]
        return func(*args, **(kwargs or {}))


@contextmanager
def as_on_card(attention: str) -> Iterator[None]:
    """Attention and dropout run as the kernels that a CUDA card would take: left alone, meta runs PyTorch's composites.

    The functions themselves are exchanged, in a process that is there for this alone: modes do not reach what is recomputed.
    """
    stock = F.scaled_dot_product_attention
    kernel = stock if attention in ("math", "eager") else partial(attend, stock, attention)
    with (
        patch.object(F, "scaled_dot_product_attention", kernel),
        patch.object(F, "dropout", dropped),
        Answers(),
    ):
        yield


def dropped(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout as a card's fused kernel does it, which keeps a byte for each value."""
    return torch.native_dropout(input, p, True)[0] if training and p else input


def attend(
    stock: Callable[..., Tensor],
    attention: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` on a card: flash where that serves, else the memory-efficient kernel, else the composite.

    Source: `sdp_utils.cpp` of PyTorch. [batch, heads, queries, width]
    """
    flash = q.dtype is not torch.float32 and q.shape[3] == v.shape[3] <= WIDEST_FLASH
    if attn_mask is None and flash and attention in ("auto", "flash"):
        kernel = aten._scaled_dot_product_flash_attention
        return kernel(q, k, v, dropout_p, is_causal, False, scale=scale)[0]  # type: ignore[no-any-return]
    if q.shape[1] != k.shape[1]:  # the memory-efficient kernel knows no groups
        return stock(q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    bias = None if attn_mask is None else as_bias(attn_mask, q, k)
    keep = q.requires_grad or k.requires_grad or v.requires_grad
    kernel = aten._scaled_dot_product_efficient_attention
    return kernel(q, k, v, bias, keep, dropout_p, is_causal, scale=scale)[0]  # type: ignore[no-any-return]


def as_bias(mask: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """A mask as the numbers that PyTorch makes of it. [batch, heads, queries, keys]"""
    if mask.dtype is torch.bool:
        zero, never = (torch.full((), value, dtype=q.dtype, device=q.device) for value in (0.0, float("-inf")))
        mask = torch.where(mask.expand(q.shape[0], 1, -1, -1), zero, never)
    return mask.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
