"""Routers and experts are recognised by running them: transformers' own, and no look-alikes."""

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MixtralConfig, PreTrainedConfig, Qwen3MoeConfig
from transformers.activations import ACT2FN
from transformers.integrations import use_experts_implementation
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.mixtral.modeling_mixtral import MixtralExperts, MixtralTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts, Qwen3MoeTopKRouter

from canvas_rt.codegen.mixture import experts, router
from canvas_rt.codegen.modules import CONSTRUCT, Classes, experts_name, router_name
from canvas_rt.codegen.syntax import setting, unparse
from canvas_rt.importer.rules import MODULES, Leaf, recognised
from canvas_rt.importer.trace import register_functions
from canvas_rt.ir.document import Node
from canvas_rt.ir.frozen import freeze
from canvas_rt.ops.catalogue import complete, parameter_shapes

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


def test_a_router_whose_weights_stay_in_fp32_is_another() -> None:
    settings = {"size": 12, "num_experts": 5, "top_k": 2, "scoring": "softmax", "normalise": True, "wide_weights": True}
    assert read(MixtralTopKRouter(MIXTRAL)) == ("router", settings)


SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 20,
    "moe_intermediate_size": 20,
    "num_experts": 16,
    "num_local_experts": 16,
    "n_routed_experts": 16,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "topk_method": "group_limited_greedy",
    "moe_num_experts": 16,
    "moe_topk": 3,
    "moe_router_logit_softcapping": 5.0,
}
DEEPSEEK = {"scoring": "sigmoid", "normalise": True, "factor": 2.5, "correction": "buffer", "precision": "logits"}
DEEPSEEK |= {"groups": 4, "top_groups": 2, "wide_weights": True, "sorted": False}
LATE = {"scoring": "softmax", "normalise": False, "after_top_k": True}
LIMITED = {"scoring": "softmax", "normalise": False, "factor": 2.5, "precision": "logits", "group_score": "best"}
LIMITED |= {"groups": 4, "top_groups": 2, "outside": "zero", "wide_weights": True, "sorted": False}
VARIETY: list[tuple[str, str, dict[str, Any]]] = [
    ("deepseek_v3", "DeepseekV3TopkRouter", DEEPSEEK),
    ("glm4_moe", "Glm4MoeTopkRouter", DEEPSEEK),
    ("deepseek_v2", "DeepseekV2TopkRouter", LIMITED),
    ("granitemoe", "GraniteMoeTopKRouter", LATE),
    ("gpt_oss", "GptOssTopKRouter", {**LATE, "bias": True}),
    (
        "flint",
        "FlintTopKRouter",
        {"scoring": "sigmoid", "normalise": True, "precision": "logits", "wide_weights": True},
    ),
    (
        "laguna",
        "LagunaTopKRouter",
        {"scoring": "sigmoid", "normalise": True, "correction": "parameter", "softcap": 5.0},
    ),
    (
        "kolibri1",
        "Kolibri1TopKRouter",
        {
            "scoring": "sigmoid",
            "normalise": False,
            "after_top_k": True,
            "correction": "buffer",
            "precision": "logits",
            "wide_weights": True,
        },
    ),
    (
        "deepseek_v4",
        "DeepseekV4TopKRouter",
        {
            "scoring": "sqrtsoftplus",
            "normalise": True,
            "factor": 2.5,
            "correction": "buffer",
            "precision": "model",
            "sorted": False,
        },
    ),
    ("qwen3_moe", "Qwen3MoeExperts", {"fn": "silu"}),
    ("aria_text", "AriaExperts", {"fn": "silu", "transposed": True}),
    ("deepseek_v4", "DeepseekV4Experts", {"fn": "silu", "limit": 10.0}),
    ("nemotron_h", "NemotronHExperts", {"fn": "relu2", "gated": False, "sum_dtype": "weights"}),
    (
        "gpt_oss",
        "GptOssExperts",
        {
            "fn": "silu",
            "bias": True,
            "transposed": True,
            "interleaved": True,
            "limit": 7.0,
            "alpha": 1.702,
            "shifted": True,
        },
    ),
]


def small(model_type: str, name: str) -> nn.Module:
    config: Any = CONFIG_MAPPING[model_type]()
    for field, value in SIZES.items():
        if hasattr(config, field):
            setattr(config, field, value)
    modeling = import_module(type(config).__module__.replace("configuration_", "modeling_"))
    module: nn.Module = getattr(modeling, name)(config)
    return module


def emitted(node: Node) -> nn.Module:
    """The module of a node as an emitted model has it."""
    names: dict[str, Any] = {
        "torch": torch,
        "Tensor": torch.Tensor,
        "nn": nn,
        "ACT2FN": ACT2FN,
        "Config": object,
        "config": PreTrainedConfig(),
    }
    names["use_experts_implementation"] = use_experts_implementation
    attrs = complete(node)
    text = router(router_name("Emitted", attrs), [attrs]) if node.op == "router" else ""
    exec(text or experts(experts_name("Emitted", attrs), "Config", attrs), names)
    settings = {name: setting(value) for name, value in attrs.items()}
    module: nn.Module = eval(unparse(CONSTRUCT[node.op](node, settings, Classes("Emitted"))), names)
    return module


@pytest.mark.parametrize(("model_type", "name", "settings"), VARIETY)
def test_a_variant_is_read_emitted_and_read_again(model_type: str, name: str, settings: dict[str, Any]) -> None:
    module = small(model_type, name)
    found = recognised(module)
    assert found is not None
    sizes = ("size", "num_experts", "top_k", "intermediate_size")
    assert {key: value for key, value in found[1].items() if key not in sizes} == settings
    node = Node(id="leaf", op=found[0], attrs=freeze(found[1]))
    shapes = {spec.name: spec.shape for spec in parameter_shapes(node, complete(node))}
    assert shapes == {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    again = emitted(node)
    assert {key: tuple(tensor.shape) for key, tensor in again.state_dict().items()} == shapes
    assert recognised(again) == found


class Unsorted(nn.Module):
    """A router that leaves the chosen in any order, as its code says: of few experts, numbers do not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.top_k = 2
        self.weight = nn.Parameter(torch.zeros(8, 16))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = nn.functional.linear(hidden_states.view(-1, 16), self.weight)
        shares = logits.softmax(dim=-1, dtype=torch.float)
        weights, indices = shares.topk(self.top_k, dim=-1, sorted=False)
        return logits, weights, indices


def test_a_router_is_unsorted_where_its_code_says_so() -> None:
    found = read(Unsorted())
    assert found is not None and found[0] == "router" and found[1]["sorted"] is False
