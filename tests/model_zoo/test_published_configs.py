"""Each config in the zoo builds the model that was published: its parameters, tied ones counted once, add up to it."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

ZOO = Path(__file__).parents[2] / "model_zoo"
CONFIGS = {path.stem: path for path in sorted(ZOO.glob("*/configs/*.json"))}

# Elements of the published checkpoint's tensors.
PUBLISHED_PARAMETERS = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mistral-nemo-12b": 12_247_782_400,
    "smollm-135m": 134_515_008,
    "tinyllama-1.1b": 1_100_048_384,
}


def test_every_config_has_a_published_total() -> None:
    assert set(CONFIGS) == set(PUBLISHED_PARAMETERS)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_config_builds_the_published_model(name: str) -> None:
    config = AutoConfig.for_model(**json.loads(CONFIGS[name].read_text()))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert type(model).__name__ == config.architectures[0]
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_config_loses_nothing_when_transformers_reads_it(name: str) -> None:
    """A misspelt field would be kept as an unknown attribute and silently mean nothing."""
    published = json.loads(CONFIGS[name].read_text())
    config = AutoConfig.for_model(**published)
    known = set(type(config)().to_dict()) | {"rope_scaling", "rope_theta", "torch_dtype"}
    assert set(published) <= known
    if "rope_theta" in published:
        assert config.rope_parameters["rope_theta"] == published["rope_theta"]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_config_lies_in_the_folder_of_its_family(name: str) -> None:
    assert json.loads(CONFIGS[name].read_text())["model_type"] == CONFIGS[name].parents[1].name
