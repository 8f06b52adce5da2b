"""Modules that keep a state are kept whole: told by their code, made of the fields that they read, and run as they are."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import Mamba2Config
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

from canvas_rt.errors import CanvasError
from canvas_rt.importer.stateful import stateful_node
from canvas_rt.importer.trace import quiet
from canvas_rt.ops.catalogue import complete
from canvas_rt.ops.dispatch import kernel
from canvas_rt.ops.kernels import Context
from canvas_rt.ops.modules import (
    cache_argument,
    config_class,
    fields_read,
    keeps_state,
    module_class,
    read_by_layer,
    source_name,
)

FIELDS: dict[str, Any] = {
    "hidden_size": 16,
    "num_heads": 4,
    "head_dim": 8,
    "state_size": 6,
    "n_groups": 2,
    "chunk_size": 5,
    "expand": 2,
    "hidden_act": "silu",
}
CONFIG = Mamba2Config(**FIELDS)
MAMBA = "mamba2.Mamba2Mixer"


@pytest.mark.parametrize(
    ("cls", "source", "keeps"),
    [
        (Mamba2Mixer, MAMBA, True),
        (Qwen3NextGatedDeltaNet, "qwen3_next.Qwen3NextGatedDeltaNet", True),
        (LlamaAttention, "llama.LlamaAttention", False),
        (nn.Linear, "", False),
    ],
)
def test_a_module_is_kept_whole_if_it_updates_a_state(cls: type, source: str, keeps: bool) -> None:
    assert (source_name(cls), keeps_state(cls)) == (source, keeps)
    if keeps:
        assert module_class(source) is cls


@pytest.mark.parametrize(
    "source",
    ["", "os.system", "llama.LlamaModel", "mamba2.Mamba2Config", "mamba2.none", "no_model.Mixer", "mamba2", "..x"],
)
def test_a_document_names_no_other_class(source: str) -> None:
    with pytest.raises(CanvasError, match="is no module of transformers that can be kept whole"):
        module_class(source)


def test_a_module_reads_the_fields_that_its_class_names() -> None:
    fields = fields_read(MAMBA)
    assert fields == tuple(sorted(fields)) and {"hidden_size", "state_size", "conv_kernel", "n_groups"} <= set(fields)
    assert not {"num_hidden_layers", "layer_types", "vocab_size"} & set(fields)
    assert config_class(MAMBA) is Mamba2Config and cache_argument(MAMBA) == "cache_params"


def test_what_a_module_reads_of_a_list_of_layers_is_said_for_its_own_layer_alone() -> None:
    assert read_by_layer("lfm2_moe.Lfm2MoeShortConv") == ("layer_types",)
    assert read_by_layer(MAMBA) == ()


def test_a_module_runs_as_transformers_has_it() -> None:
    with quiet(), torch.no_grad():
        module = Mamba2Mixer(CONFIG, layer_idx=0).eval()
        node = stateful_node(module, "mixer", CONFIG.to_dict())
        x = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))
        context = Context(2, 7, x.device)
        (given,) = kernel("module")({"x": x}, complete(node), module.state_dict(), context)
        assert torch.equal(given, module(x))


def test_of_a_module_only_the_shape_is_needed_to_count() -> None:
    context = Context(2, 7, torch.device("meta"), backend="shape")
    (given,) = kernel("module")({"x": torch.empty(2, 7, 16, device="meta")}, {"arguments": ""}, {}, context)
    assert given.shape == (2, 7, 16)
