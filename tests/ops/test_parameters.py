"""Parameters are counted as PyTorch counts them: every key, every shape, ties once."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from canvas_rt.ir.document import Document, LayerKind, Run
from canvas_rt.ir.files import load
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ops.parameters import count_parameters, parameter_keys, parameter_table

ZOO = Path(__file__).parents[2] / "model_zoo"
LLAMA = load(ZOO / "llama" / "document.canvas.json")
MISTRAL = load(ZOO / "mistral" / "document.canvas.json")
SMALL = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 112,
}


def sized(document: Document, **sizes: object) -> Document:
    return document.replace(sizes=document.sizes.with_items(sizes))


def tied(document: Document) -> Document:
    return document.replace(config=document.config.with_items({"tie_word_embeddings": True}))


@pytest.mark.parametrize(
    ("document", "config", "model"),
    [(LLAMA, LlamaConfig, LlamaForCausalLM), (MISTRAL, MistralConfig, MistralForCausalLM)],
    ids=["llama", "mistral"],
)
def test_keys_and_shapes_are_those_of_the_state_dict(document: Document, config: type, model: type) -> None:
    with torch.device("meta"):
        theirs = {key: tuple(value.shape) for key, value in model(config(**SMALL)).state_dict().items()}
    assert parameter_keys(sized(document, **SMALL)) == theirs


@pytest.mark.parametrize(
    ("sizes", "total"),
    [
        ((4096, 14336, 32, 32, 8, 128256), 8_030_261_248),
        ((8192, 28672, 80, 64, 8, 128256), 70_553_706_496),
        ((16384, 53248, 126, 128, 8, 128256), 405_853_388_800),
    ],
    ids=["llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b"],
)
def test_totals_are_the_published_ones(sizes: tuple[int, ...], total: int) -> None:
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    )
    counted = count_parameters(sized(LLAMA, **dict(zip(names, sizes, strict=True))))
    assert (counted.total, counted.active, sum(counted.by_node.values())) == (total, total, total)


def test_a_tied_tensor_counts_once_where_it_is_stored() -> None:
    free, shared = count_parameters(sized(LLAMA, **SMALL)), count_parameters(tied(sized(LLAMA, **SMALL)))
    assert free.total - shared.total == 112 * 48
    assert (shared.by_node["lm_head"], shared.by_node["model.embed_tokens"]) == (0, 112 * 48)
    assert parameter_keys(tied(sized(LLAMA, **SMALL))) == parameter_keys(sized(LLAMA, **SMALL))


def test_layers_of_one_kind_that_stand_together_share_a_row() -> None:
    block = LLAMA.blocks["LlamaModel"]
    stack = block.node("layers").replace(
        kinds=(
            LayerKind(block="LlamaDecoderLayer"),
            LayerKind(block="LlamaDecoderLayer", sizes=FrozenMap({"intermediate_size": 40})),
        ),
        runs=(Run(start=1, stop=2, kind=1),),
    )
    nodes = tuple(stack if node.id == "layers" else node for node in block.nodes)
    document = sized(LLAMA, **SMALL).with_block("LlamaModel", block.replace(nodes=nodes))
    rows = {row.path: (row.times, row.shape) for row in parameter_table(document) if row.path.endswith("up_proj")}
    assert rows == {
        "model.layers.0.mlp.up_proj": (1, (80, 48)),
        "model.layers.1.mlp.up_proj": (1, (40, 48)),
        "model.layers.2.mlp.up_proj": (1, (80, 48)),
    }


def test_depth_costs_no_rows() -> None:
    assert len(parameter_table(sized(LLAMA, num_hidden_layers=2))) == len(
        parameter_table(sized(LLAMA, num_hidden_layers=126))
    )


def test_counting_needs_no_torch() -> None:
    program = "import sys, canvas_rt.ops.parameters, canvas_rt.physics as p; p.load_hardware; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
