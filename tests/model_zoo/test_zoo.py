"""The zoo's generated documents are what today's code would generate, and say what the originals say."""

import json
from pathlib import Path
from typing import Literal

import pytest

from canvas_rt import import_model, measure, open_zoo, zoo_models
from canvas_rt.importer.config import check_config, task_of
from canvas_rt.importer.factory import StockFactory, field_values, make_config
from canvas_rt.importer.zoo import zoo_folder
from canvas_rt.importer.zoo_build import build
from canvas_rt.ir import Document
from canvas_rt.ir.expressions import is_expression
from canvas_rt.ir.files import SUFFIX
from canvas_rt.ir.frozen import freeze
from canvas_rt.ops.parameters import count_parameters
from canvas_rt.physics import check

FAMILIES = sorted(path.parent for path in zoo_folder().glob("*/configs"))
QUICK = ("gemma-3-270m", "llama-2-7b", "starcoder2-3b")


def smallest(family: Path) -> str:
    """The model of a family that has the fewest parameters."""
    names = [name for name, model in zoo_models().items() if model.family == family.name]
    return min(names, key=lambda name: count_parameters(open_zoo(name)).total)


def untold(document: Document) -> Document:
    """A document without the versions that traced it: another torch may trace the same graph."""
    return document.replace(origin=document.origin.replace(versions={}))


@pytest.mark.slow
@pytest.mark.parametrize("folder", FAMILIES, ids=lambda folder: folder.name)
def test_generated_files_are_not_stale(folder: Path) -> None:
    built = build(folder)
    assert {path.name for path in folder.glob("*.json")} == set(built)
    for name, text in built.items():
        expected, found = json.loads(text), json.loads((folder / name).read_text())
        for document in (expected, found):
            document.get("origin", {}).pop("versions", None)
        assert found == expected, f"{folder.name}/{name} is stale: run 'make zoo'"


@pytest.mark.parametrize("name", QUICK)
def test_opening_from_the_zoo_equals_importing_the_published_config(name: str) -> None:
    path = zoo_folder() / zoo_models()[name].family / "configs" / f"{name}.json"
    assert untold(open_zoo(name)) == untold(import_model(path)[0])


@pytest.mark.parametrize("folder", FAMILIES, ids=lambda folder: folder.name)
def test_every_config_has_an_entry_and_every_document_a_model(folder: Path) -> None:
    entries = {name: model for name, model in zoo_models().items() if model.family == folder.name}
    assert set(entries) == {path.stem for path in folder.glob("configs/*.json")}
    assert {model.document for model in entries.values()} == {path.name for path in folder.glob(f"*{SUFFIX}")}


def test_a_model_is_bound_to_what_transformers_reads_in_its_config(config: Path) -> None:
    given = check_config(json.loads(config.read_text()), config.stem)
    factory = StockFactory(config.parents[1].name, task_of(given))
    read = make_config(factory, given, config.stem)
    values = {name: freeze(value) for name, value in field_values(read, factory.task).items()}
    document = open_zoo(config.stem)
    bound = {name: v for name, v in {**document.sizes, **document.config}.items() if not is_expression(v)}
    assert bound == {name: values[name] for name in bound}
    assert document.origin.patterns.get("layer_types") == freeze(read.to_dict().get("layer_types"))


def test_parameters_are_those_of_the_original_on_meta(config: Path, elements: int) -> None:
    assert count_parameters(open_zoo(config.stem)).total == elements


@pytest.mark.parametrize("name", zoo_models())
def test_every_model_checks_without_a_word(name: str) -> None:
    assert check(open_zoo(name)).diagnostics == ()


@pytest.mark.parametrize("folder", FAMILIES, ids=lambda folder: folder.name)
@pytest.mark.parametrize("mode", ["train", "decode"])
def test_a_model_of_every_family_can_be_measured(folder: Path, mode: Literal["train", "prefill", "decode"]) -> None:
    document = open_zoo(smallest(folder))
    mode = mode if mode == "train" or document.purpose.generates else "prefill"
    report = measure(document, mode=mode, batch=1, sequence=512)
    json.dumps(report.to_json(), allow_nan=False)
    assert report.flops.forward > 0
    assert report.diagnostics == ()


@pytest.mark.parametrize("folder", FAMILIES, ids=lambda folder: folder.name)
def test_every_family_says_what_is_special_about_it_which_models_are_here_and_where_it_was_described(
    folder: Path,
) -> None:
    text = (folder / "README.md").read_text()
    title, what, models, *sources = text.split("\n\n")
    assert title.startswith("# ")
    assert len(what) > 80
    assert all(f"`{path.stem}`" in models for path in folder.glob("configs/*.json"))
    assert sources and sources[0].startswith("- ")
    assert max(map(len, text.splitlines())) <= 120
