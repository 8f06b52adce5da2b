"""Router and experts compute what those of transformers do, in every way that they run, and count for what a token uses."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from edit_kinds import EDITS, mixture
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import MixtralConfig, Qwen3MoeConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from canvas_rt.edits import Connect, SetAttr, SetSize, apply
from canvas_rt.ir.document import Document
from canvas_rt.ops.kernels import KERNELS, Context
from canvas_rt.ops.parameters import count_parameters, parameter_keys
from canvas_rt.ops.routing import Choice, Route, routes

BATCH, SEQ, SIZE, WIDTH, EXPERTS, TOP_K = 2, 7, 12, 10, 5, 2
ATTRS: Mapping[str, Any] = {
    "size": SIZE,
    "intermediate_size": WIDTH,
    "num_experts": EXPERTS,
    "top_k": TOP_K,
    "scoring": "softmax",
    "normalise": True,
    "fn": "silu",
}
DTYPES = [torch.float32, torch.bfloat16]


def drawn(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.3
    return made.to(dtype).to(device).requires_grad_()


def weights(dtype: torch.dtype = torch.float32, device: str = "cpu") -> dict[str, Tensor]:
    shapes = {
        "x": (BATCH, SEQ, SIZE),
        "weight": (EXPERTS, SIZE),
        "gate_up_proj": (EXPERTS, 2 * WIDTH, SIZE),
        "down_proj": (EXPERTS, SIZE, WIDTH),
    }
    return {name: drawn(*shape, dtype=dtype, device=device) for name, shape in shapes.items()}


def run(backend: Any, tensors: Mapping[str, Tensor], **attrs: Any) -> Tensor:
    """A router and its experts."""
    x, settings = tensors["x"], {**ATTRS, **attrs}
    context = Context(BATCH, SEQ, x.device, x.dtype, backend)
    indices, shares = KERNELS["router"]({"x": x}, settings, tensors, context)
    return KERNELS["experts"]({"x": x, "indices": indices, "weights": shares}, settings, tensors, context)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalise", [True, False])
def test_a_router_is_that_of_qwen3_to_the_last_bit(normalise: bool, dtype: torch.dtype) -> None:
    config = Qwen3MoeConfig(hidden_size=SIZE, num_experts=EXPERTS, num_experts_per_tok=TOP_K, norm_topk_prob=normalise)
    tensors = weights(dtype)
    module = Qwen3MoeTopKRouter(config).to(dtype)
    module.weight.data = tensors["weight"].data
    _, shares, indices = module(tensors["x"])
    context = Context(BATCH, SEQ, tensors["x"].device, dtype)
    ours = KERNELS["router"](tensors, {**ATTRS, "normalise": normalise}, tensors, context)
    assert torch.equal(ours[0].flatten(0, 1), indices)
    assert torch.equal(ours[1].flatten(0, 1), shares) and ours[1].dtype == shares.dtype


def test_sigmoid_scores_are_each_for_themselves() -> None:
    tensors = weights()
    settings = {**ATTRS, "scoring": "sigmoid", "normalise": False}
    indices, shares = KERNELS["router"](tensors, settings, tensors, Context(BATCH, SEQ, tensors["x"].device))
    scores = (tensors["x"] @ tensors["weight"].T).sigmoid()
    assert torch.allclose(shares, scores.gather(-1, indices)) and torch.equal(indices[..., 0], scores.argmax(-1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_experts_are_those_of_mixtral_to_the_last_bit(dtype: torch.dtype) -> None:
    config = MixtralConfig(hidden_size=SIZE, intermediate_size=WIDTH, num_local_experts=EXPERTS)
    config._experts_implementation = "eager"
    tensors = weights(dtype)
    module = MixtralExperts(config).to(dtype)
    module.gate_up_proj.data, module.down_proj.data = tensors["gate_up_proj"].data, tensors["down_proj"].data
    x, context = tensors["x"], Context(BATCH, SEQ, tensors["x"].device, dtype)
    indices, shares = KERNELS["router"](tensors, ATTRS, tensors, context)
    theirs = module(x.flatten(0, 1), indices.flatten(0, 1), shares.flatten(0, 1)).view_as(x)
    assert torch.equal(run("sdpa", tensors), theirs)


def gradients(backend: Any, **attrs: Any) -> list[Tensor]:
    """What comes out, and the gradient of all that goes in."""
    tensors = weights()
    out = run(backend, tensors, **attrs)
    out.square().sum().backward()  # type: ignore[no-untyped-call]
    return [out.detach(), *(tensor.grad for tensor in tensors.values() if tensor.grad is not None)]


@pytest.mark.parametrize("top_k", [1, 2, EXPERTS])
def test_grouped_products_give_what_experts_one_by_one_give(top_k: int) -> None:
    for ours, theirs in zip(gradients("flash", top_k=top_k), gradients("sdpa", top_k=top_k), strict=True):
        torch.testing.assert_close(ours, theirs)


def flops(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def test_flops_are_those_of_each_tokens_own_experts_wherever_they_run() -> None:
    tokens = BATCH * SEQ
    forward = 2 * tokens * SIZE * EXPERTS + 2 * tokens * TOP_K * (SIZE * 2 * WIDTH + WIDTH * SIZE)
    for backend, device in (("sdpa", "cpu"), ("flash", "cpu"), ("flash", "meta")):
        tensors = weights(device=device)
        assert flops(lambda: run(backend, tensors)) == forward  # noqa: B023
        assert flops(lambda: run(backend, tensors).sum().backward()) == 3 * forward  # type: ignore[no-untyped-call]  # noqa: B023


def test_shapes_on_meta_follow_from_shapes_alone() -> None:
    tensors = weights(torch.bfloat16, "meta")
    assert run("flash", tensors).shape == run("shape", tensors).shape == (BATCH, SEQ, SIZE)
    context = Context(BATCH, SEQ, tensors["x"].device, backend="shape")
    for indices, shares in (KERNELS["router"](tensors, ATTRS, tensors, context),):
        assert indices.shape == shares.shape == (BATCH, SEQ, TOP_K) and indices.dtype == torch.int64


def test_parameters_have_the_names_and_shapes_of_transformers(small_llama: Document) -> None:
    keys = parameter_keys(apply(small_llama, *mixture()))
    assert {key: shape for key, shape in keys.items() if ".0.mlp." in key} == {
        "model.layers.0.mlp.gate.weight": (8, 48),
        "model.layers.0.mlp.experts.gate_up_proj": (8, 64, 48),
        "model.layers.0.mlp.experts.down_proj": (8, 48, 32),
    }


def test_a_token_leaves_the_experts_of_others_idle(small_llama: Document) -> None:
    one = 3 * 48 * 32
    found = count_parameters(apply(small_llama, *mixture()))
    assert found.total - found.active == 4 * 6 * one
    some = count_parameters(apply(small_llama, *EDITS["experts in some layers"]))
    assert some.total - some.active == 2 * 6 * one
    differing = count_parameters(apply(small_llama, *EDITS["experts that differ"]))
    assert differing.total - differing.active == ((4 - 2) + (8 - 2) + (8 - 3) + (8 - 2)) * one
    dense = count_parameters(small_llama)
    assert dense.total == dense.active


def test_choices_are_followed_through_blocks_and_stacks(small_llama: Document) -> None:
    edited = apply(small_llama, *EDITS["experts in some layers"], SetSize("model.layers.2.mlp", "num_experts", 16))
    assert routes(edited) == (
        Route("model.layers.1.mlp.experts", 8, (48, 32), Choice("model.layers.1.mlp.gate", 8, 2)),
        Route("model.layers.2.mlp.experts", 16, (48, 32), Choice("model.layers.2.mlp.gate", 16, 2)),
    )
    passed = apply(edited, Connect("model.layers.1.mlp.experts", "indices", "hidden_states"))
    assert [route.choice is None for route in routes(passed)] == [True, False]


def test_experts_whose_choice_is_unknown_count_as_used(small_llama: Document) -> None:
    edited = apply(
        small_llama,
        *mixture(),
        Connect("model.layers.mlp.experts", "indices", "hidden_states"),
        SetAttr("model.layers.mlp.gate", "top_k", 1),
    )
    found = count_parameters(edited)
    assert found.active == found.total
