"""Routers and experts are recognised by running them: transformers' own, and no look-alikes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MixtralConfig, Qwen3MoeConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts, MixtralTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts, Qwen3MoeTopKRouter

from canvas_rt.importer.rules import MODULES, Leaf
from canvas_rt.importer.trace import register_functions

MIXTRAL = MixtralConfig(hidden_size=12, intermediate_size=10, num_local_experts=5, num_experts_per_tok=2)
QWEN: dict[str, Any] = {"hidden_size": 12, "moe_intermediate_size": 10, "num_experts": 5, "num_experts_per_tok": 3}


def read(module: nn.Module) -> Leaf | None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return next(filter(None, (rule(module) for rule in MODULES)), None)


@pytest.mark.parametrize("normalise", [True, False])
def test_a_router_is_recognised(normalise: bool) -> None:
    config = Qwen3MoeConfig(**QWEN, norm_topk_prob=normalise)
    settings = {"size": 12, "num_experts": 5, "top_k": 3, "scoring": "softmax", "normalise": normalise}
    assert read(Qwen3MoeTopKRouter(config)) == ("router", settings)


@pytest.mark.parametrize("act", ["silu", "gelu"])
def test_experts_are_recognised_whatever_runs_them(act: str) -> None:
    register_functions()
    for implementation in ("eager", "grouped_mm", "canvas"):
        config = Qwen3MoeConfig(**QWEN, hidden_act=act)
        config._experts_implementation = implementation
        settings = {"size": 12, "intermediate_size": 10, "num_experts": 5, "fn": act}
        assert read(Qwen3MoeExperts(config)) == ("experts", settings)
        assert config._experts_implementation == implementation


def test_weights_are_what_they_were_before_the_proof() -> None:
    config = Qwen3MoeConfig(**QWEN)
    config._experts_implementation = "eager"
    module = Qwen3MoeExperts(config)
    read(module)
    before = [parameter.clone() for parameter in module.parameters()]
    for rule in MODULES:
        rule(module)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


class UpFirst(MixtralExperts):
    """The gate is the second half."""

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        swapped = MixtralExperts(self.config)
        up, gate = self.gate_up_proj.chunk(2, dim=1)
        swapped.gate_up_proj.data = torch.cat((gate, up), dim=1)
        swapped.down_proj.data = self.down_proj
        return swapped(hidden_states, top_k_index, top_k_weights)  # type: ignore[no-any-return]


class Unweighted(MixtralExperts):
    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        return super().forward(hidden_states, top_k_index, torch.ones_like(top_k_weights))  # type: ignore[no-any-return]


class Lowest(Qwen3MoeTopKRouter):
    """Chooses those that score least."""

    def forward(self, hidden_states: Tensor) -> Any:
        scores = nn.functional.linear(hidden_states, self.weight).softmax(-1, dtype=torch.float)
        weights, indices = scores.topk(self.top_k, largest=False)
        return scores, (weights / weights.sum(-1, keepdim=True)).to(hidden_states.dtype), indices


@pytest.mark.parametrize("kind", [UpFirst, Unweighted])
def test_look_alikes_of_experts_are_not_recognised(kind: type[nn.Module]) -> None:
    MIXTRAL._experts_implementation = "eager"
    assert read(kind(MIXTRAL)) is None


def test_look_alikes_of_routers_are_not_recognised() -> None:
    assert read(Lowest(Qwen3MoeConfig(**QWEN))) is None
    # Mixtral's router gives its weights in fp32, in a model of bf16 too: that is another function.
    assert read(MixtralTopKRouter(MIXTRAL)) is None
