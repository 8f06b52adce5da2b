"""What emitted code looks like, of each family of the zoo: every change to it is seen in review. `make golden` writes it anew."""

import os
import shutil
from pathlib import Path

import pytest
from conformance.code import style_errors, typing_errors

from canvas_rt import Document, apply, emit, open_zoo
from canvas_rt.edits import Bypass, SetAttr, SetSize
from canvas_rt.importer.zoo import zoo_models

GOLDEN = Path(__file__).parents[1] / "golden"
KNOWN = {"llama": "llama-3.1-8b", "gpt2": "gpt2"}
"""Where not the first model of a family is shown."""

FAMILIES = {model.family: name for name, model in reversed(zoo_models().items())} | KNOWN
EDITED = "llama_heterogeneous"
"""Layers that differ in sizes, windows and kinds."""


def document(name: str) -> Document:
    if name != EDITED:
        return open_zoo(FAMILIES[name])
    return apply(
        open_zoo("llama-3.2-1b"),
        SetSize("model.layers.4-7.self_attn", "num_key_value_heads", 4),
        SetAttr("model.layers.0-1.self_attn.attention", "window", 512),
        Bypass("model.layers.15.self_attn_residual", "a"),
    )


@pytest.mark.parametrize("name", sorted([*FAMILIES, EDITED]))
def test_emitted_code_is_the_golden_file(name: str) -> None:
    path = GOLDEN / name / "model.py"
    source = emit(document(name)).files["model.py"]
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    assert source == path.read_text(), "the emitted code changed: run `make golden`, and read the diff"


def test_each_family_has_a_golden_file_and_none_is_left_over() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {*FAMILIES, EDITED}


def test_golden_files_are_clean() -> None:
    assert style_errors(GOLDEN) == ""


@pytest.mark.slow
def test_golden_files_are_typed(tmp_path: Path) -> None:
    for path in GOLDEN.glob("*/model.py"):
        shutil.copy(path, tmp_path / f"{path.parent.name}.py")
    assert typing_errors(tmp_path) == ""


def test_a_llama_is_one_readable_file() -> None:
    source = (GOLDEN / "llama" / "model.py").read_text()
    assert source.count("\n") < 360
    assert "4096" not in source.partition("class CanvasLlamaRMSNorm")[2], "sizes are read from the config"
