"""Rules for the parts of a mixture of experts: which router, which experts, found by running them beside each variant."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from canvas_rt.importer.proof import Settings, Trial, fitting, generator, numbers_of, same, trials, written
from canvas_rt.ops.activations import ACTIVATION_KERNELS
from canvas_rt.ops.catalogue import VARIANTS
from canvas_rt.ops.choices import SCORINGS
from canvas_rt.ops.class_text import class_text
from canvas_rt.ops.experts import held, one_by_one, route

Leaf = tuple[str, dict[str, Any]]

CORRECTION = "e_score_correction_bias"
ROUTER_WEIGHTS = ({"weight"}, {"weight", "bias"}, {"weight", CORRECTION}, {"weight", "bias", CORRECTION})


def router_rule(module: nn.Module) -> Leaf | None:
    weight, top_k = getattr(module, "weight", None), getattr(module, "top_k", None)
    names = {name for name, _ in module.named_parameters()}
    if not isinstance(weight, nn.Parameter) or weight.dim() != 2 or not isinstance(top_k, int):
        return None
    if names not in ROUTER_WEIGHTS:
        return None
    experts, size = weight.shape
    sizes = {"size": size, "num_experts": experts, "top_k": top_k}
    correction = "none"
    if CORRECTION in dict(module.named_buffers()) or CORRECTION in names:
        correction = "parameter" if CORRECTION in names else "buffer"
    own = {**VARIANTS["router"], **sizes, "correction": correction, "bias": "bias" in names}
    # From scores nearly alike to such that underflow: then what is out of the question may still be chosen.
    x = torch.randn(256, size, generator=generator()) * torch.logspace(-2, 2, 256).unsqueeze(-1)
    with _swayed(module):
        runs = tuple(filter(None, (_routed(run, top_k) for run in trials(module, lambda dtype: (x.to(dtype),)))))
        if len(runs) < 2:
            return None
        for choice in _choices(module, experts):
            if fitting(runs, [own | choice], lambda run, attrs: _route(run, module, attrs)[0]) is None:
                continue
            both = tuple(Trial(run.given, run.own, (run.gave, _weights(run))) for run in runs)
            candidates = (own | choice | weighting for weighting in _weightings(module))
            found = fitting(both, candidates, lambda run, attrs: _route(run, module, attrs))
            if found:
                return "router", {**sizes, **_written(found)}
    return None


def _written(found: Settings) -> Settings:
    """Settings in the catalogue's order; scoring and normalising are always written."""
    always = ("scoring", "normalise")
    usual = VARIANTS["router"]
    return {n: v for n, v in found.items() if n in usual and (n in always or usual[n] != v)}


def _routed(run: Trial, top_k: int) -> Trial | None:
    """A run of a router with what it gave told apart: the indices, which are whole numbers, and their weights."""
    parts = [part for part in run.gave if isinstance(part, Tensor)] if isinstance(run.gave, tuple | list) else []
    shape = (run.given[0].shape[0], top_k)
    indices = [part for part in parts if not part.is_floating_point() and tuple(part.shape) == shape]
    weights = [part for part in parts if part.is_floating_point() and tuple(part.shape) == shape]
    if len(indices) != 1 or not weights:
        return None
    return Trial(run.given, {**run.own, "%weights": weights[-1]}, indices[0])


def _weights(run: Trial) -> Tensor:
    return run.own["%weights"]


def _route(run: Trial, module: nn.Module, attrs: Settings) -> tuple[Tensor, Tensor]:
    correction = run.own[CORRECTION] if CORRECTION in run.own else getattr(module, CORRECTION, None)
    return route(run.given[0], run.own["weight"], attrs, run.own.get("bias"), correction)


def _choices(module: nn.Module, experts: int) -> Iterator[Settings]:
    """Every way to choose experts, those with limits and groups last."""
    caps = (None, *(value for value in numbers_of(module) if value > 0))
    for cap, groups, precision, scoring, after, order in product(
        caps, _groupings(module, experts), ("scores", "logits", "model"), SCORINGS, (False, True), _orders(module)
    ):
        chosen = {"precision": precision, "scoring": scoring, "after_top_k": after, "sorted": order, "softcap": cap}
        yield chosen | groups


def _orders(module: nn.Module) -> tuple[bool, bool]:
    """Whether the best comes first, the likelier answer ahead: of few experts, the unsorted are sorted too."""
    calls = re.findall(r"topk\([^\n]*", class_text(type(module)))
    return (False, True) if calls and "sorted=False" in calls[-1] else (True, False)


def _groupings(module: nn.Module, experts: int) -> Iterator[Settings]:
    yield {"groups": None, "top_groups": None}
    whole = [int(value) for value in numbers_of(module) if value == int(value) and 0 < value < experts]
    for groups, best, score, outside in product(whole, whole, ("best_two", "best"), ("lowest", "zero")):
        if experts % groups == 0 and experts // groups > 1 and best <= groups:
            yield {"groups": groups, "top_groups": best, "group_score": score, "outside": outside}


def _weightings(module: nn.Module) -> Iterator[Settings]:
    """Every way to weigh the chosen."""
    own = numbers_of(module)
    small = (0, *(value for value in (*own, 1e-20, 1e-9) if 0 < value < 1e-3))
    factors = (1, *(value for value in own if value not in (0, 1)))
    for normalise, wide, factor, eps in product((False, True), (False, True), factors, small):
        if normalise or not eps:
            yield {"normalise": normalise, "wide_weights": wide, "factor": factor, "norm_eps": eps}


@contextmanager
def _swayed(module: nn.Module) -> Iterator[None]:
    """Give a router's buffers numbers for the while: a fresh correction is of zeros, and sways nothing."""
    kept = [
        (buffer, buffer.clone()) for buffer in module.buffers() if buffer.is_floating_point() and buffer.numel() > 1
    ]
    for buffer, _ in kept:
        buffer.copy_(torch.randn(buffer.shape, generator=generator()) * 0.2)
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


def experts_rule(module: nn.Module) -> Leaf | None:
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    gated = "gate_up_proj" in shapes
    up = "gate_up_proj" if gated else "up_proj"
    known = {up, "down_proj"}
    bias = shapes.keys() == known | {f"{name}_bias" for name in known}
    if (shapes.keys() != known and not bias) or len(shapes["down_proj"]) != 3 or len(shapes[up]) != 3:
        return None
    random = generator()
    runs: list[Trial] = []
    for weights_wide in (False, True):
        with run_by_itself(module):
            runs += trials(
                module,
                lambda dtype, wide=weights_wide: _tokens(module, shapes, up, torch.float32 if wide else dtype, dtype),  # type: ignore[misc]
                lambda p: torch.randn(p.shape, generator=random) * 0.3,
            )
    if len(runs) < 4:
        return None
    for transposed in (False, True):
        sizes = _expert_sizes(shapes, up, gated, transposed)
        candidates = (
            {**VARIANTS["experts"], **sizes, "gated": gated, "bias": bias, "transposed": transposed, **inner}
            for inner in _inner(module, gated)
        )
        found = sizes and fitting(tuple(runs), candidates, _run_experts)
        if found:
            always = {"fn": found["fn"]}
            usual = VARIANTS["experts"]
            return "experts", {**sizes, **always, **written({n: found[n] for n in usual if n != "fn"}, usual)}
    return None


def _expert_sizes(shapes: dict[str, tuple[int, ...]], up: str, gated: bool, transposed: bool) -> Settings:
    """The sizes of experts, nothing where their tensors do not fit together."""
    experts, size, width = shapes["down_proj"]
    if transposed:
        size, width = width, size
    wide = 2 * width if gated else width
    fits = shapes[up] == ((experts, size, wide) if transposed else (experts, wide, size))
    return {"size": size, "intermediate_size": width, "num_experts": experts} if fits else {}


def _tokens(
    module: nn.Module, shapes: dict[str, tuple[int, ...]], up: str, weights: torch.dtype, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    random = generator()
    experts, first, second = shapes[up]
    size = next(n for n in shapes["down_proj"][1:] if n in (first, second))
    if len({*shapes["down_proj"][1:]} & {first, second}) > 1:  # told apart by what the module itself says
        size = int(getattr(module, "hidden_dim", getattr(module, "hidden_size", size)))
    x = (torch.randn(9, size, generator=random) * 2).to(dtype)
    shares, indices = torch.rand(9, experts, generator=random).to(dtype).topk(min(2, experts))
    return x, indices, shares.to(weights)


def _inner(module: nn.Module, gated: bool) -> Iterator[Settings]:
    """Every way to go from the first product to the second."""
    act = getattr(module, "act_fn", None)
    fns = [fn for fn in ACTIVATION_KERNELS if act is None or _acts_as(act, fn)][:1] or ["silu"]
    own = tuple(value for value in numbers_of(module) if value > 0)
    sums = ("model", "weights", "fp32")
    if not gated:
        yield from ({"fn": fns[0], "sum_dtype": dtype} for dtype in sums)
        return
    for dtype, alpha, limit, shifted, interleaved in product(
        sums, (None, *own), (None, *own), (False, True), (False, True)
    ):
        inner = {"alpha": alpha, "limit": limit, "shifted": shifted, "interleaved": interleaved}
        yield {"fn": fns[0], "sum_dtype": dtype, **inner}


def _acts_as(act: Any, fn: str) -> bool:
    x = torch.linspace(-12, 12, 513)
    try:
        return all(same(act(x.to(d)), ACTIVATION_KERNELS[fn](x.to(d))) for d in (torch.float32, torch.bfloat16))
    except Exception:  # a stranger's function may raise anything
        return False


def _run_experts(run: Trial, attrs: Settings) -> Tensor:
    x, indices, weights = run.given
    return one_by_one(x, indices, weights, held(run.own, attrs, ACTIVATION_KERNELS[attrs["fn"]]))


@contextmanager
def run_by_itself(module: nn.Module) -> Iterator[None]:
    """Let an experts module compute by its own `forward`, whatever implementation its config names."""
    config: Any = getattr(module, "config", None)
    before = getattr(config, "_experts_implementation_internal", None)
    if config is not None:
        config._experts_implementation_internal = "eager"
    try:
        yield
    finally:
        if config is not None:
            config._experts_implementation_internal = before
