"""Rules for norms: which formula a module computes, found by running it beside each."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from canvas_rt.importer.proof import Settings, Trial, fitting, generator, given_alone, numbers_of, trials, written
from canvas_rt.ops.choices import LAYER_FORMS, RMS_FORMS
from canvas_rt.ops.norms import gated_rms_norm, layer_norm, rms_norm

Leaf = tuple[str, dict[str, Any]]

USUAL_EPSILONS = (1e-5, 1e-6, 1e-8, 1e-12, 0.0)
"""Tried where a module keeps none: it may be written in its code."""

VARIANTS = {
    "weight": True,
    "bias": True,
    "zero_centred": False,
    "heads": None,
    "gate_first": False,
    "group_size": None,
}
"""Settings that are not written where they are as usual."""


def rms_norm_rule(module: nn.Module) -> Leaf | None:
    shape = _weight_shape(module, {"weight"})
    if shape is None:
        return None
    usual = VARIANTS | {"form": RMS_FORMS[0]}

    # PyTorch's own norm is PyTorch's own, though by hand it gives the same.
    forms = RMS_FORMS[::-1] if isinstance(module, nn.RMSNorm) else RMS_FORMS

    def candidates() -> Iterator[Settings]:
        for form, centred, eps in product(forms, (False, True), _epsilons(module)):
            if centred <= bool(shape) and (eps is not None or form == "fused"):
                yield {"eps": eps, "zero_centred": centred, "form": form}

    def ours(run: Trial, settings: Settings) -> Tensor:
        return rms_norm(run.given[0], run.own.get("weight"), settings)

    found = fitting(trials(module, _vectors(shape or _known_shape(module))), candidates(), ours)
    if found is None:
        return None
    own = written(found, usual) | ({"power": True} if _by_power(module, shape, found) else {})
    return "rms_norm", {**_sizes(module, shape), **own}


def _by_power(module: nn.Module, shape: tuple[int, ...], found: Settings) -> bool:
    """Whether a norm takes its root by a power: the same number, but another gradient in the last bits."""
    if found["form"] == "fused":
        return False
    (x,) = _vectors(shape or _known_shape(module))(torch.float32)
    weight = next((p.detach().float() for p in module.parameters()), None)
    with torch.enable_grad():
        own = _slope(lambda x: module(x), x)
        ours = [_slope(lambda x, by=by: rms_norm(x, weight, {**found, "power": by}), x) for by in (False, True)]  # type: ignore[misc]
    return own is not None and not torch.equal(own, ours[0]) and torch.equal(own, ours[1])  # type: ignore[arg-type]


def _slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | None:
    x = x.clone().requires_grad_()
    try:
        (slope,) = torch.autograd.grad(given_alone(function(x)).float().sum(), x)
    except RuntimeError:  # a stranger's module may give none
        return None
    return slope


def layer_norm_rule(module: nn.Module) -> Leaf | None:
    shape = _weight_shape(module, {"weight", "bias"})
    if shape is None:
        return None
    names = [name for name, _ in module.named_parameters()]

    def candidates() -> Iterator[Settings]:
        for form, centred, eps in product(LAYER_FORMS, (False, True), _epsilons(module)):
            # PyTorch's own has no weight for each head.
            if eps is not None and (form == "by_hand" or len(shape) < 2) and centred <= bool(shape):
                yield {"eps": eps, "zero_centred": centred, "form": form}

    def ours(run: Trial, settings: Settings) -> Tensor:
        return layer_norm(run.given[0], run.own.get("weight"), run.own.get("bias"), settings)

    found = fitting(trials(module, _vectors(shape or _known_shape(module))), candidates(), ours)
    if found is None:
        return None
    own = written(found, {"zero_centred": False, "form": LAYER_FORMS[0]})
    # Without a weight there is no bias, whatever `bias` says.
    bias = {"bias": "bias" in names} if shape else {}
    return "layer_norm", {**_sizes(module, shape), **own, **bias}


def gated_rms_norm_rule(module: nn.Module) -> Leaf | None:
    shape = _weight_shape(module, {"weight"})
    if shape is None or len(shape) != 1:
        return None
    (size,) = shape
    vectors = _vectors(shape)

    def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        (x,) = vectors(dtype)
        return x, torch.randn(x.shape, generator=generator()).to(dtype)

    def candidates() -> Iterator[Settings]:
        for form, first, fn, group, eps in product(
            RMS_FORMS[:2], (False, True), ("silu", "sigmoid"), _groups(module, size), _epsilons(module)
        ):
            if eps is not None:
                yield {"eps": eps, "fn": fn, "gate_first": first, "group_size": group, "form": form}

    def ours(run: Trial, settings: Settings) -> Tensor:
        x, gate = run.given
        return gated_rms_norm(x, gate, run.own["weight"], settings)

    found = fitting(trials(module, inputs), candidates(), ours)
    usual = VARIANTS | {"form": RMS_FORMS[0], "fn": "silu"}
    return None if found is None else ("gated_rms_norm", {"size": size, **written(found, usual)})


def _weight_shape(module: nn.Module, known: set[str]) -> tuple[int, ...] | None:
    """The shape of a norm's weight, () where it has none; None for what can be no norm."""
    parameters = dict(module.named_parameters())
    if not parameters.keys() <= known or _contains_modules(module) or ("bias" in parameters) > ("weight" in parameters):
        return None
    shapes = {tuple(parameter.shape) for parameter in parameters.values()}
    if len(shapes) > 1:
        return None
    shape = shapes.pop() if shapes else ()
    return shape if len(shape) < 3 else None


def _contains_modules(module: nn.Module) -> bool:
    """Whether there is more inside than the activation on a gate."""
    return len(list(module.modules())) > 2


def _sizes(module: nn.Module, shape: tuple[int, ...]) -> Settings:
    if not shape:
        known: Any = getattr(module, "normalized_shape", ())
        return {"size": known[0], "weight": False} if len(known) == 1 else {"weight": False}
    return {"size": shape[-1], **({"heads": shape[0]} if len(shape) == 2 else {})}


def _known_shape(module: nn.Module) -> tuple[int, ...]:
    """The width of a norm without a weight, where its class says it."""
    known = _sizes(module, ()).get("size")
    return (int(known),) if known else ()


def _vectors(shape: tuple[int, ...]) -> Callable[[torch.dtype], tuple[Tensor, ...]]:
    """Vectors of many lengths, some near the root of epsilon, so that a norm that uses it elsewhere is told apart."""
    x = torch.randn(8, 5, *(shape or (12,)), generator=generator())
    lengths = torch.tensor([1.0, 1e-1, 1e-2, 1e-3, 1e-6]).view(5, *[1] * len(shape or (12,)))
    return lambda dtype: ((x * lengths).to(dtype),)


def _epsilons(module: nn.Module) -> tuple[float | None, ...]:
    own = tuple(value for value in numbers_of(module) if 0 <= value < 0.1)
    return (*own, *(value for value in USUAL_EPSILONS if value not in own), None)


def _groups(module: nn.Module, size: int) -> tuple[int | None, ...]:
    """Sizes of groups that a module's own whole numbers may mean: channels in a group, or how many groups."""
    whole = [int(value) for value in numbers_of(module) if value == int(value) and 1 < value < size]
    groups = [n for value in whole if size % value == 0 for n in (value, size // value)]
    return (None, *dict.fromkeys(groups))
