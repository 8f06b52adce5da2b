"""Rules that know whole modules. Each is proved: the module runs beside our kernel, and must be equal to the last bit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from canvas_rt.importer.proof import generator, proved, same
from canvas_rt.importer.trace import is_rotary, rotary_width
from canvas_rt.ops.catalogue import SCORINGS
from canvas_rt.ops.experts import one_by_one, route
from canvas_rt.ops.kernels import ACTIVATION_KERNELS, KERNELS, Context, rms_norm

Leaf = tuple[str, dict[str, Any]]


def _linear(module: nn.Module) -> Leaf | None:
    if type(module) is not nn.Linear:
        return None
    return "linear", {
        "in_features": module.in_features,
        "out_features": module.out_features,
        "bias": module.bias is not None,
    }


def _embedding(module: nn.Module) -> Leaf | None:
    plain = type(module) is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq
    if not plain:
        return None
    return "embedding", {
        "num_embeddings": module.num_embeddings,
        "embedding_dim": module.embedding_dim,
        "padding_idx": module.padding_idx,
    }


def _layer_norm(module: nn.Module) -> Leaf | None:
    if type(module) is not nn.LayerNorm or len(module.normalized_shape) != 1 or module.weight is None:
        return None
    return "layer_norm", {"size": module.normalized_shape[0], "eps": module.eps, "bias": module.bias is not None}


def _rms_norm(module: nn.Module) -> Leaf | None:
    parameters = dict(module.named_parameters())
    if set(parameters) != {"weight"} or parameters["weight"].dim() != 1 or list(module.children()):
        return None
    epsilon = next((getattr(module, name) for name in ("variance_epsilon", "eps") if hasattr(module, name)), None)
    if not isinstance(epsilon, float):
        return None
    weight = parameters["weight"]

    def equal(dtype: torch.dtype) -> bool:
        # Values near the root of epsilon, so that a norm which uses it elsewhere is told apart.
        x = (torch.randn(2, 5, weight.shape[0], generator=generator()) * epsilon**0.5).to(dtype)
        return same(module(x), rms_norm(x, weight, epsilon))

    return ("rms_norm", {"size": weight.shape[0], "eps": epsilon}) if proved(equal) else None


def _activation(module: nn.Module) -> Leaf | None:
    if any(True for _ in module.parameters()) or any(True for _ in module.buffers()) or is_rotary(module):
        return None
    x = torch.linspace(-6, 6, 257)
    for name, kernel in ACTIVATION_KERNELS.items():

        def equal(dtype: torch.dtype, kernel: Callable[[Tensor], Tensor] = kernel) -> bool:
            return same(module(x.to(dtype)), kernel(x.to(dtype)))

        if proved(equal):
            return "activation", {"fn": name}
    return None


def _rotary(module: nn.Module) -> Leaf | None:
    config = getattr(module, "config", None)
    if not is_rotary(module) or config is None or not isinstance(getattr(config, "rope_parameters", None), dict):
        return None
    attrs = {
        "head_dim": rotary_width(module),
        "parameters": dict(config.rope_parameters),
        "max_position_embeddings": config.max_position_embeddings,
    }
    longest = config.max_position_embeddings

    def equal(dtype: torch.dtype) -> bool:
        x = torch.zeros(1, 1, dtype=dtype)
        # Within, at and beyond the trained length: dynamic scalings change there, and must change back.
        for positions in (torch.arange(9), torch.arange(longest - 2, longest), torch.arange(2 * longest)):
            context = Context(1, len(positions), x.device, dtype)
            ours = KERNELS["rotary_embedding"]({"position_ids": positions[None]}, attrs, {}, context)
            if not all(same(a, b) for a, b in zip(module(x, positions[None]), ours, strict=True)):
                return False
        return True

    return ("rotary_embedding", attrs) if proved(equal) else None


def _dropout(module: nn.Module) -> Leaf | None:
    return ("dropout", {"p": float(module.p)}) if type(module) is nn.Dropout else None


def _router(module: nn.Module) -> Leaf | None:
    weight, top_k = getattr(module, "weight", None), getattr(module, "top_k", None)
    known = isinstance(weight, nn.Parameter) and weight.dim() == 2 and isinstance(top_k, int)
    if not known or [name for name, _ in module.named_parameters()] != ["weight"]:
        return None
    assert isinstance(weight, nn.Parameter)
    experts, size = weight.shape
    for scoring, normalise in product(SCORINGS, (True, False)):
        attrs = {"size": size, "num_experts": experts, "top_k": top_k, "scoring": scoring, "normalise": normalise}

        def equal(dtype: torch.dtype, attrs: dict[str, Any] = attrs) -> bool:
            x = torch.randn(7, size, generator=generator()).to(dtype)
            # A fresh model's router is of zeros or nearly so: all experts would tie.
            with weights_of(module, lambda p: torch.randn(p.shape, generator=generator()), dtype) as own:
                _, weights, indices = module(x)
                ours = route(x, own["weight"], attrs)
            return torch.equal(indices, ours[0]) and same(weights, ours[1])

        if proved(equal):
            return "router", attrs
    return None


def _experts(module: nn.Module) -> Leaf | None:
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    if shapes.keys() != {"gate_up_proj", "down_proj"} or len(shapes["down_proj"]) != 3:
        return None
    experts, size, width = shapes["down_proj"]
    act = _activation(getattr(module, "act_fn", nn.Identity()))
    if shapes["gate_up_proj"] != (experts, 2 * width, size) or act is None:
        return None
    kernel = ACTIVATION_KERNELS[act[1]["fn"]]

    def equal(dtype: torch.dtype) -> bool:
        random = generator()
        x = torch.randn(9, size, generator=random).to(dtype)
        weights, indices = torch.rand(9, experts, generator=random).to(dtype).topk(min(2, experts))
        with (
            weights_of(module, lambda p: torch.randn(p.shape, generator=random) * 0.1, dtype) as own,
            run_by_itself(module),
        ):
            theirs = module(x, indices, weights)
            return same(theirs, one_by_one(x, indices, weights, own["gate_up_proj"], own["down_proj"], kernel))

    attrs = {"size": size, "intermediate_size": width, "num_experts": experts, **act[1]}
    return ("experts", attrs) if proved(equal) else None


@contextmanager
def weights_of(module: nn.Module, draw: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
    """Give a module other weights for the while, of one dtype. Gives them by name."""
    kept = {name: parameter.data for name, parameter in module.named_parameters()}
    drawn = {name: draw(data).to(dtype) for name, data in kept.items()}
    for name, parameter in module.named_parameters():
        parameter.data = drawn[name]
    try:
        yield drawn
    finally:
        for name, parameter in module.named_parameters():
            parameter.data = kept[name]


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


MODULES: tuple[Callable[[nn.Module], Leaf | None], ...] = (
    _linear,
    _embedding,
    _layer_norm,
    _dropout,
    _rotary,
    _rms_norm,
    _router,
    _experts,
    _activation,
)
