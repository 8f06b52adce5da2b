"""The zoo's generated documents are what today's code would generate, and say what the originals say."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from canvas_rt import import_model, open_zoo, zoo_models
from canvas_rt.importer.zoo import zoo_folder
from canvas_rt.importer.zoo_build import build
from canvas_rt.ir import fingerprint
from canvas_rt.ops.parameters import count_parameters
from canvas_rt.physics import check

FAMILIES = sorted(path.parent for path in zoo_folder().glob("*/configs"))


@pytest.mark.parametrize("folder", FAMILIES, ids=lambda folder: folder.name)
def test_generated_files_are_not_stale(folder: Path) -> None:
    written = {name: (folder / name).read_text() for name in build(folder)}
    for name, text in build(folder).items():
        expected, found = json.loads(text), json.loads(written[name])
        for document in (expected, found):
            document.get("origin", {}).pop("versions", None)  # another torch may trace the same graph
        assert found == expected, f"{folder.name}/{name} is stale: run 'make zoo'"


@pytest.mark.parametrize("name", ["llama-2-7b", "llama-3.2-1b", "mistral-7b-v0.1", "mistral-nemo-12b"])
def test_opening_from_the_zoo_equals_importing_the_published_config(name: str) -> None:
    path = zoo_folder() / zoo_models()[name].family / "configs" / f"{name}.json"
    assert fingerprint(open_zoo(name)) == fingerprint(import_model(path)[0])


@pytest.mark.parametrize("name", zoo_models())
def test_parameters_equal_those_of_the_original_on_meta(name: str) -> None:
    raw = json.loads((zoo_folder() / zoo_models()[name].family / "configs" / f"{name}.json").read_text())
    config = CONFIG_MAPPING[raw.pop("model_type")](**raw)
    with torch.device("meta"):
        original = AutoModelForCausalLM.from_config(config)
    assert count_parameters(open_zoo(name)).total == sum(p.numel() for p in original.parameters())


@pytest.mark.parametrize("name", zoo_models())
def test_every_model_checks_without_a_word(name: str) -> None:
    assert check(open_zoo(name)).diagnostics == ()
