"""Rules that know whole modules. Each is proved: the module runs beside our kernel, and must be equal to the last bit."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from canvas_rt.importer.mixture_rules import experts_rule, router_rule
from canvas_rt.importer.norm_rules import Leaf, gated_rms_norm_rule, layer_norm_rule, rms_norm_rule
from canvas_rt.importer.proof import (
    Trial,
    fitting,
    generator,
    given_alone,
    number_changed,
    numbers_of,
    trials,
    written,
)
from canvas_rt.importer.rotary import is_rotary, rotary_rule
from canvas_rt.importer.sinusoids import sinusoid_settings
from canvas_rt.ops.activations import ACTIVATION_KERNELS
from canvas_rt.ops.catalogue import OPS, VARIANTS
from canvas_rt.ops.kernels import KERNELS, Context


def _linear(module: nn.Module) -> Leaf | None:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.dim() != 2 or isinstance(module, nn.Embedding):
        return None
    names = {name for name, _ in module.named_parameters()}
    if not names <= {"weight", "bias"} or list(module.children()):
        return None
    bias = "bias" in names
    if type(module) is nn.Linear:
        return "linear", {"in_features": weight.shape[1], "out_features": weight.shape[0], "bias": bias}

    def attrs(transposed: bool) -> dict[str, Any]:
        sizes = weight.shape if transposed else weight.shape[::-1]
        sized = dict(zip(("in_features", "out_features"), sizes, strict=True))
        return {**sized, "bias": bias, **({"transposed": True} if transposed else {})}

    for transposed in (False, True):
        settings = attrs(transposed)
        width = settings["in_features"]
        runs = trials(module, lambda dtype, n=width: (torch.randn(2, 3, n, generator=generator()).to(dtype),))  # type: ignore[misc]
        if transposed <= bias and fitting(runs, [settings], lambda run, attrs: _kernel("linear", attrs, run)):
            return "linear", settings
    return None


def _kernel(op: str, attrs: Mapping[str, Any], run: Trial) -> Any:
    """What an op gives for what a module was given."""
    context = Context(1, 1, run.given[0].device, run.own["weight"].dtype)
    inputs = dict(zip(OPS[op].inputs, run.given, strict=True))
    settings = {**{name: setting.default for name, setting in OPS[op].settings.items()}, **attrs}
    (out,) = KERNELS[op](inputs, settings, run.own, context)
    return out


def _embedding(module: nn.Module) -> Leaf | None:
    if not isinstance(module, nn.Embedding) or module.max_norm is not None or module.scale_grad_by_freq:
        return None
    if [name for name, _ in module.named_parameters()] != ["weight"] or list(module.children()):
        return None
    attrs = {
        "num_embeddings": module.num_embeddings,
        "embedding_dim": module.embedding_dim,
        "padding_idx": module.padding_idx,
    }
    if type(module) is nn.Embedding:
        return "embedding", attrs
    ids = torch.arange(min(512, module.num_embeddings))[None]
    for factor in (1.0, *numbers_of(module)):
        # Where the factor has few digits, rounding it changes nothing: another in its place tells what the module would do.
        other = factor if factor == 1 else 1.2345678
        with number_changed(module, factor, other):
            runs = trials(module, lambda dtype: (ids,))
        changed = [{**attrs, "factor": other, "rounded": rounded} for rounded in (False, True)]
        found = fitting(runs, changed, lambda run, a: _kernel("embedding", a, run))
        if found:
            own = written({"factor": factor, "rounded": found["rounded"]}, {"factor": 1.0, "rounded": False})
            return "embedding", attrs | own
    return None


def _position_embedding(module: nn.Module) -> Leaf | None:
    """Looked up by position, whatever else it is called with: `forward` takes positions by that name."""
    if not isinstance(module, nn.Embedding) or "position_ids" not in signature(module.forward).parameters:
        return None
    if [name for name, _ in module.named_parameters()] != ["weight"] or list(module.children()):
        return None
    sizes: dict[str, Any] = {"num_embeddings": module.num_embeddings, "embedding_dim": module.embedding_dim}
    kept = {} if module.weight.requires_grad else {"learned": False}
    candidates = [{**sizes, **({"offset": n} if n else {}), **kept} for n in range(4)]
    for dims in (2, 1):
        positions = torch.arange(5).view(*[1] * (dims - 1), 5)
        runs = trials(_ByPosition(module), lambda dtype, given=positions: (given,))  # type: ignore[misc]
        # transformers' newer modules take positions of one sequence, and add the batch themselves
        runs = tuple(Trial((run.given[0].view(1, 5),), {"weight": run.own["module.weight"]}, run.gave) for run in runs)
        found = fitting(runs, candidates, lambda run, attrs: _kernel("position_embedding", attrs, run))
        if found:
            return "position_embedding", found
    return None


class _ByPosition(nn.Module):
    """A module of positions, called with nothing but these."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, positions: Tensor) -> Any:
        first = next(iter(signature(self.module.forward).parameters))
        others = {} if first == "position_ids" else {first: positions.view(1, -1)}
        return self.module(**others, position_ids=positions)


def sinusoid_rule(module: nn.Module) -> Leaf | None:
    """Sines and cosines by position, whether kept in a table or made anew."""
    if "position_ids" not in signature(module.forward).parameters or any(True for _ in module.parameters()):
        return None
    places = torch.arange(64).view(1, 64)
    runs = trials(_ByPosition(module), lambda dtype: (places,))
    width = runs[0].gave.shape[-1] if runs and isinstance(runs[0].gave, Tensor) else 0
    attrs = sinusoid_settings(places, runs[0].gave, width) if width else None
    return None if attrs is None else ("sinusoid", written(attrs, VARIANTS["sinusoid"]))


def activation_rule(module: nn.Module) -> Leaf | None:
    if any(True for _ in module.parameters()) or any(True for _ in module.buffers()) or is_rotary(module):
        return None
    # Each formula rounds in its own way: values of many sizes tell them apart.
    x = torch.cat((torch.linspace(-12, 12, 513), torch.randn(512, generator=generator())))
    runs = trials(module, lambda dtype: (x.to(dtype),))
    for name, kernel in ACTIVATION_KERNELS.items():
        fits = fitting(runs, [{"fn": name}], lambda run, attrs: ACTIVATION_KERNELS[attrs["fn"]](run.given[0]))
        if fits and torch.equal(_slope(module, x), _slope(kernel, x)):
            return "activation", fits
    return None


def _slope(function: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """The gradient of a pointwise function: two that give the same may round it in other ways."""
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(given_alone(function(x)).sum(), x)
    return slope


def _dropout(module: nn.Module) -> Leaf | None:
    return ("dropout", {"p": float(module.p)}) if type(module) is nn.Dropout else None


MODULES: tuple[Callable[[nn.Module], Leaf | None], ...] = (
    _linear,
    _position_embedding,
    _embedding,
    _dropout,
    rotary_rule,
    sinusoid_rule,
    gated_rms_norm_rule,
    rms_norm_rule,
    layer_norm_rule,
    router_rule,
    experts_rule,
    activation_rule,
)


def recognised(module: nn.Module) -> Leaf | None:
    """The node that a whole module is: what the first rule says that knows it."""
    return next(filter(None, (rule(module) for rule in MODULES)), None)
