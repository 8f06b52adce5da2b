"""Each config in the zoo builds the model that was published: its numbers, tied ones counted once, add up to it."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

ZOO = Path(__file__).parents[2] / "model_zoo"

# Elements of the published checkpoint's tensors.
PUBLISHED = {
    "bart-base": 139_420_416,  # without a bias that is kept, and not learned
    "bart-large": 406_291_456,  # likewise
    "bert-base-uncased": 109_514_298,
    "bert-large-uncased": 335_174_458,
    "bloom-560m": 559_214_592,
    "bloom-7b1": 7_069_016_064,
    "bloom-176b": 176_247_271_424,
    "command-r7b": 8_028_033_024,
    "falcon-7b": 6_921_720_704,
    "falcon-40b": 41_303_293_952,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    # less the vision tower, and what leads from it to the text model
    "gemma-3-4b": 4_300_079_472 - 416_866_032 - (1152 * 2560 + 1152),
    "gemma-3-27b": 27_432_406_640 - 416_866_032 - (1152 * 5376 + 1152),
    "glm-4-9b-0414": 9_400_279_040,
    "gpt-neox-20b": 20_554_567_680,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "granite-3.1-8b": 8_170_848_256,
    "jamba-v0.1": 51_570_323_328,
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
    "mamba-codestral-7b": 7_285_403_648,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mistral-nemo-12b": 12_247_782_400,
    "mixtral-8x7b-v0.1": 46_702_792_704,
    "mixtral-8x22b-v0.1": 140_620_634_112,
    "modernbert-base": 149_655_232,
    "modernbert-large": 395_881_664,
    "mpt-7b": 6_649_286_656,
    "olmo-2-7b": 7_298_617_344,
    "olmo-2-13b": 13_716_198_400,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v2": 235_741_434_880,
    "olmo-3-7b": 7_298_011_136,
    "olmo-3-32b": 32_233_522_176,
    "phi-3-mini-4k": 3_821_079_552,
    "phi-3-medium-4k": 13_960_238_080,
    "phi-4": 14_659_507_200,
    "pythia-160m": 162_322_944,
    "pythia-1.4b": 1_414_647_808,
    "pythia-12b": 11_846_072_320,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "smollm-135m": 134_515_008,
    "smollm3-3b": 3_075_098_624,
    "starcoder2-3b": 3_030_371_328,
    "starcoder2-7b": 7_173_923_840,
    "starcoder2-15b": 15_957_889_024,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "tinyllama-1.1b": 1_100_048_384,
    "vit-base-patch16-224": 86_567_656,
    "vit-base-patch32-384": 88_297_192,
    "vit-large-patch16-224": 304_326_632,
}

# Where only a paper's or a model card's rounded figure is known: that, and how far off it may be.
ROUNDED = {
    "deepseek-v3": (671e9, 0.5e9),
    "gemma-4-26b-a4b": (25.2e9, 0.05e9),
    "gemma-4-31b": (30.7e9, 0.05e9),
    "gemma-4-e2b": (5.1e9, 0.5e9),  # with encoders of images and of sound
    "gemma-4-e4b": (8e9, 0.6e9),  # likewise
    "glm-4.5": (355e9, 3e9),  # counted with a layer for a further token, and without embeddings
    "glm-4.5-air": (106e9, 1e9),  # likewise
    "granite-3.1-2b": (2.5e9, 0.05e9),
    "llama-4-scout-17b-16e": (109e9, 1.5e9),  # with a vision model of one billion
    "llama-4-maverick-17b-128e": (400e9, 2e9),  # likewise
    "mpt-30b": (30e9, 0.5e9),
    "nemotron-h-8b": (8.1e9, 0.05e9),
    "qwen3-next-80b-a3b": (80e9, 0.5e9),
    "qwen3.5-9b": (9e9, 0.5e9),
    "qwen3.5-27b": (27e9, 0.5e9),
    "qwen3.5-35b-a3b": (35e9, 0.5e9),
    "qwen3.5-397b-a17b": (397e9, 1e9),  # with a vision tower of half a billion
}

# Published under the name of a class of another spelling.
RENAMED = {"MPTForCausalLM": "MptForCausalLM"}

# What any config class, or a model, takes though no field of the class is called so.
OLDER = {"rope_scaling", "rope_theta", "torch_dtype", "head_dim", "num_labels", "decoder_start_token_id"}


def test_every_config_has_a_published_total() -> None:
    assert {path.stem for path in ZOO.glob("*/configs/*.json")} == PUBLISHED.keys() | ROUNDED.keys()
    assert not PUBLISHED.keys() & ROUNDED.keys()


def test_the_config_builds_the_published_model(config: Path, original: Any, elements: int) -> None:
    for architecture in original.config.architectures or ():
        assert type(original).__name__ == RENAMED.get(architecture, architecture)
    figure, off = ROUNDED.get(config.stem) or (PUBLISHED[config.stem], 0)
    assert elements == pytest.approx(figure, rel=0, abs=off)


def test_the_config_loses_nothing_when_transformers_reads_it(config: Path) -> None:
    """A misspelt field would be kept as an unknown attribute and silently mean nothing."""
    published = json.loads(config.read_text())
    read = AutoConfig.for_model(**published)
    known = read_by(type(read))
    assert [field for field in published if field not in known and f'"{field}"' not in source_of(type(read))] == []
    if "rope_theta" in published:
        tables = read.rope_parameters
        assert tables.get("full_attention", tables)["rope_theta"] == published["rope_theta"]


def read_by(config_class: Any) -> set[str]:
    """The names that a config class has for its fields."""
    return {*config_class().to_dict(), *config_class.attribute_map, *OLDER}


def source_of(config_class: type) -> str:
    """What a config class does with names of older configs."""
    return "".join(inspect.getsource(base) for base in config_class.__mro__ if "transformers.models" in base.__module__)


def test_the_config_lies_in_the_folder_of_its_family(config: Path) -> None:
    assert json.loads(config.read_text())["model_type"] == config.parents[1].name
