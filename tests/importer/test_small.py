"""Every model type of transformers has a small config that Canvas accepts and that runs."""

import pytest
import torch
from model_types import REFUSED, SUPPORTED, UNSUPPORTED

from canvas_rt.errors import UnsupportedModelError
from canvas_rt.importer.config import check_config
from canvas_rt.importer.factory import StockFactory, field_values, make_config
from canvas_rt.importer.small import small_config
from canvas_rt.importer.trace import quiet

FAST = [
    "llama",
    "gpt2",
    "bert",
    "deepseek_v3",
    "mamba2",
    "gpt_oss",
    "gemma3",
    "qwen3_next",
    "dbrx",
    "falcon",
    "whisper",
]
LARGEST = 700_000
"""Parameters."""


def runs(model_type: str) -> None:
    config = check_config(small_config(model_type))
    factory = StockFactory(config["model_type"])
    made = make_config(factory, config, model_type)
    with quiet(), torch.no_grad():
        model = factory.build(made, attn_implementation="eager").eval()
        torch.manual_seed(0)
        logits = model(input_ids=torch.randint(3, 90, (2, 19))).logits
    assert sum(parameter.numel() for parameter in model.parameters()) < LARGEST
    assert logits.shape == (2, 19, config["vocab_size"])
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("model_type", [model_type for model_type in FAST if model_type in SUPPORTED])
def test_a_small_model_runs(model_type: str) -> None:
    runs(model_type)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", SUPPORTED)
def test_a_small_model_of_every_type_runs(model_type: str) -> None:
    runs(model_type)


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_cannot_be_imported_says_why(model_type: str) -> None:
    with pytest.raises(UnsupportedModelError, match=UNSUPPORTED[model_type]):
        check_config({"model_type": model_type})


@pytest.mark.slow
@pytest.mark.parametrize("model_type", SUPPORTED)
def test_values_under_canonical_names_make_the_config_that_they_were_read_from(model_type: str) -> None:
    config = check_config(small_config(model_type))
    factory = StockFactory(config["model_type"])
    values = field_values(make_config(factory, config, model_type))
    assert field_values(make_config(factory, values, model_type)) == values


def test_a_small_model_has_every_kind_of_layer_of_its_type() -> None:
    assert set(small_config("qwen3_next")["layer_types"]) == {"linear_attention", "full_attention"}
    assert set(small_config("gemma3")["text_config"]["layer_types"]) == {"sliding_attention", "full_attention"}
    assert small_config("deepseek_v3")["num_hidden_layers"] > small_config("deepseek_v3")["first_k_dense_replace"] > 0
