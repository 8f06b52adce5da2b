"""Whole modules of transformers become one node each: proved equal, emitted as a class, and read again as the same node."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers.activations import ACT2CLS, ACT2FN
from transformers.models.bart.modeling_bart import BartLearnedPositionalEmbedding, BartScaledWordEmbedding
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4UnweightedRMSNorm
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1RMSNormGated
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm, Gemma2TextScaledWordEmbedding
from transformers.models.gemma4_unified.modeling_gemma4_unified import Gemma4UnifiedRMSNorm
from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearRMSNormGated
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.llama4.modeling_llama4 import Llama4TextL2Norm
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.opt.modeling_opt import OPTLearnedPositionalEmbedding
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNormGated
from transformers.models.zamba2.modeling_zamba2 import Zamba2RMSNormGated
from transformers.pytorch_utils import Conv1D

from canvas_rt.codegen.leaves import class_texts
from canvas_rt.codegen.modules import CONSTRUCT, Classes
from canvas_rt.codegen.syntax import setting, unparse
from canvas_rt.importer.rules import MODULES, Leaf
from canvas_rt.ir.document import Node
from canvas_rt.ir.frozen import freeze
from canvas_rt.ops.catalogue import complete, parameter_shapes


def read(module: nn.Module) -> Leaf | None:
    return next(filter(None, (rule(module) for rule in MODULES)), None)


def emitted(node: Node) -> nn.Module:
    """The module of a node as an emitted model has it."""
    names: dict[str, Any] = {"torch": torch, "Tensor": torch.Tensor, "nn": nn, "ACT2FN": ACT2FN, "Conv1D": Conv1D}
    for text in class_texts([node], Classes("Emitted")):
        exec(text, names)
    attrs = {name: setting(value) for name, value in complete(node).items()}
    module: nn.Module = eval(unparse(CONSTRUCT[node.op](node, attrs, Classes("Emitted"))), names)
    return module


MODULES_AND_SETTINGS: list[tuple[nn.Module, str, dict[str, Any]]] = [
    (LlamaRMSNorm(12, 1e-5), "rms_norm", {"size": 12, "eps": 1e-5}),
    (Olmo2RMSNorm(12), "rms_norm", {"size": 12, "eps": 1e-6, "form": "weight_then_cast"}),
    (Gemma2RMSNorm(12), "rms_norm", {"size": 12, "eps": 1e-6, "zero_centred": True, "form": "weight_then_cast"}),
    (Llama4TextL2Norm(1e-5), "rms_norm", {"weight": False, "eps": 1e-5}),
    (DeepseekV4UnweightedRMSNorm(), "rms_norm", {"weight": False, "eps": 1e-6, "form": "factor_cast"}),
    (nn.RMSNorm(12), "rms_norm", {"size": 12, "eps": None, "form": "fused"}),
    (nn.RMSNorm(12, 1e-5, False), "rms_norm", {"size": 12, "weight": False, "eps": 1e-5, "form": "fused"}),
    (Qwen3NextRMSNormGated(12), "gated_rms_norm", {"size": 12, "eps": 1e-6}),
    (Zamba2RMSNormGated(12, 4), "gated_rms_norm", {"size": 12, "eps": 1e-6, "gate_first": True, "group_size": 4}),
    (
        KimiLinearRMSNormGated(12),
        "gated_rms_norm",
        {"size": 12, "eps": 1e-6, "fn": "sigmoid", "form": "weight_then_cast"},
    ),
    (
        FalconH1RMSNormGated(12, n_groups=3),
        "gated_rms_norm",
        {"size": 12, "eps": 1e-6, "group_size": 4, "form": "weight_then_cast"},
    ),
    (nn.LayerNorm(12), "layer_norm", {"size": 12, "eps": 1e-5, "bias": True}),
    (nn.LayerNorm(12, bias=False), "layer_norm", {"size": 12, "eps": 1e-5, "bias": False}),
    (OlmoLayerNorm(12), "layer_norm", {"size": 12, "weight": False, "eps": 1e-5}),
    (CohereLayerNorm(12), "layer_norm", {"size": 12, "eps": 1e-5, "form": "by_hand", "bias": False}),
    (CohereLayerNorm((3, 8)), "layer_norm", {"size": 8, "heads": 3, "eps": 1e-5, "form": "by_hand", "bias": False}),
    (nn.Linear(12, 8), "linear", {"in_features": 12, "out_features": 8, "bias": True}),
    (FalconLinear(12, 8, bias=False), "linear", {"in_features": 12, "out_features": 8, "bias": False}),
    (Conv1D(8, 12), "linear", {"in_features": 12, "out_features": 8, "bias": True, "transposed": True}),
    (
        BartScaledWordEmbedding(20, 8, 1, 8**0.5),
        "embedding",
        {"num_embeddings": 20, "embedding_dim": 8, "padding_idx": 1, "factor": 8**0.5},
    ),
    (
        Gemma2TextScaledWordEmbedding(20, 16, 0, 4.0),
        "embedding",
        {"num_embeddings": 20, "embedding_dim": 16, "padding_idx": 0, "factor": 4.0, "rounded": True},
    ),
    (
        BartLearnedPositionalEmbedding(20, 8),
        "position_embedding",
        {"num_embeddings": 22, "embedding_dim": 8, "offset": 2},
    ),
    (
        OPTLearnedPositionalEmbedding(20, 8),
        "position_embedding",
        {"num_embeddings": 22, "embedding_dim": 8, "offset": 2},
    ),
    (
        MarianSinusoidalPositionalEmbedding(20, 8),
        "position_embedding",
        {"num_embeddings": 20, "embedding_dim": 8, "learned": False},
    ),
    (NemotronLayerNorm1P(12), "layer_norm", {"size": 12, "eps": 1e-05, "zero_centred": True, "bias": True}),
    (Gemma4UnifiedRMSNorm(12), "rms_norm", {"size": 12, "eps": 1e-06, "form": "weight_then_cast", "power": True}),
]


@pytest.mark.parametrize(("module", "op", "settings"), MODULES_AND_SETTINGS)
def test_a_module_is_one_node_and_is_emitted_as_one(module: nn.Module, op: str, settings: dict[str, Any]) -> None:
    assert read(module) == (op, settings)
    node = Node(id="leaf", op=op, attrs=freeze(settings))
    shapes = {spec.name: spec.shape for spec in parameter_shapes(node, complete(node))}
    assert shapes == {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    again = emitted(node)
    assert read(again) == (op, settings)
    assert {name: tuple(parameter.shape) for name, parameter in again.named_parameters()} == shapes


@pytest.mark.parametrize("name", [name for name in ACT2CLS if name not in ("prelu", "xielu")])
def test_every_activation_without_weights_is_known(name: str) -> None:
    found = read(ACT2FN[name])
    assert found is not None and found[0] == "activation"
    assert read(ACT2FN[found[1]["fn"]]) == found


def test_a_linear_that_rounds_before_its_bias_is_another() -> None:
    module = FalconLinear(12, 8)
    module.bias.data.normal_()
    assert read(module) is None


def test_a_factor_is_what_it_was_before_its_buffer_was_rounded() -> None:
    module = Gemma2TextScaledWordEmbedding(20, 16, 0, 72**0.5).to(torch.bfloat16)
    found = read(module)
    assert found is not None and found[1]["factor"] == 72**0.5 and found[1]["rounded"] is True
    assert module.embed_scale.dtype is torch.bfloat16 and module.embed_scale == 8.5
