"""What emitted code looks like: every change to it is seen in review. `UPDATE_GOLDEN=1 pytest` writes it anew."""

import os
from pathlib import Path

import pytest

from canvas_rt import apply, emit, open_zoo
from canvas_rt.edits import Bypass, SetAttr, SetSize

GOLDEN = Path(__file__).parents[1] / "golden"
DOCUMENTS = {
    "llama": lambda: open_zoo("llama-3.1-8b"),
    "mistral": lambda: open_zoo("mistral-7b-v0.1"),
    "llama_heterogeneous": lambda: apply(
        open_zoo("llama-3.2-1b"),
        SetSize("model.layers.4-7.self_attn", "num_key_value_heads", 4),
        SetAttr("model.layers.0-1.self_attn.attention", "window", 512),
        Bypass("model.layers.15.self_attn_residual", "a"),
    ),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_emitted_code_is_the_golden_file(name: str) -> None:
    path = GOLDEN / name / "model.py"
    source = emit(DOCUMENTS[name]()).files["model.py"]
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    assert source == path.read_text()


def test_a_llama_is_one_readable_file() -> None:
    source = (GOLDEN / "llama" / "model.py").read_text()
    assert source.count("\n") < 350
    assert "4096" not in source.partition("class CanvasLlamaRMSNorm")[2], "sizes are read from the config"
