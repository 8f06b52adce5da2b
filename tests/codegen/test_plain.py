"""Plain code gives the logits of the code for transformers, from the same weights, with PyTorch alone."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from canvas_rt import CanvasError, Document, apply, emit, import_model, open_zoo, verify
from canvas_rt.edits import AddNode, Connect, DeleteLayers, SetAttr, SetConfig, SetSize
from canvas_rt.errors import EmitError
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.verifier.shrink import small_form

TOLERANCE = 1e-6
TOKENS = 24

FAMILIES = {
    "llama": ("llama-3.1-8b", "model.layers.2-31"),
    "qwen2": ("qwen2.5-0.5b", "model.layers.2-23"),
    "qwen3": ("qwen3-0.6b", "model.layers.2-27"),
    "qwen3_5_text": ("qwen3.5-9b", "model.layers.4-31"),
    "qwen3_moe": ("qwen3-30b-a3b", "model.layers.2-47"),
    "mistral": ("mistral-7b-v0.1", "model.layers.2-31"),
    "gemma2": ("gemma-2-2b", "model.layers.2-25"),
    "gemma3_text": ("gemma-3-1b", "model.layers.6-25"),
    "gpt_oss": ("gpt-oss-20b", "model.layers.2-23"),
    "deepseek_v3": ("deepseek-v3", "model.layers.4-60"),
    "phi3": ("phi-3-mini-4k", "model.layers.2-31"),
    "gpt2": ("gpt2", "transformer.h.2-11"),
    "bert": ("bert-base-uncased", "bert.encoder.layer.2-11"),
    "bloom": ("bloom-560m", "transformer.h.2-23"),
    "gpt_neox": ("pythia-160m", "gpt_neox.layers.2-11"),
    "modernbert": ("modernbert-base", "model.layers.4-21"),
    "vit": ("vit-base-patch16-224", "vit.layers.2-11"),
}
"""For each family a published model, and the layers that are left out of it."""


def small(model: str, layers: str) -> Document:
    return apply(small_form(open_zoo(model))[1], DeleteLayers(layers))


def plain_module(folder: Path) -> Any:
    """The module that plain code is."""
    spec = importlib.util.spec_from_file_location(f"plain_{folder.parent.name}", folder / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def both(document: Document, folder: Path) -> tuple[Any, Any]:
    """A document's model in transformers and in PyTorch alone, with the same random weights."""
    emit(document).write(folder / "code")
    emit(document, target="plain").write(folder / "plain")
    config = AutoConfig.from_pretrained(folder / "code", trust_remote_code=True)
    auto = json.loads((folder / "code" / "config.json").read_text())["auto_map"][document.purpose.auto]
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    ours = get_class_from_dynamic_module(auto, str(folder / "code"))(config).float().eval()
    for parameter in ours.parameters():
        parameter.data.normal_(std=0.1).add_(1.0 if parameter.dim() == 1 else 0.0)
    module = plain_module(folder / "plain")
    plain = getattr(module, auto.removeprefix("model.Canvas"))(
        module.Config.from_json(folder / "plain" / "config.json")
    )
    plain.float().eval().load_state_dict(ours.state_dict())
    return ours, plain


def inputs_of(document: Document) -> dict[str, torch.Tensor]:
    if not document.purpose.of_tokens:
        size = document.environment["image_size"]
        return {"pixel_values": torch.randn(2, document.environment["num_channels"], size, size)}
    return {"input_ids": torch.randint(6, document.environment["vocab_size"], (2, TOKENS))}


@torch.no_grad()
def apart(document: Document, folder: Path) -> float:
    """How far the two models' logits are apart, relative to the largest."""
    ours, plain = both(document, folder)
    given = inputs_of(document)
    expected, found = ours(**given).logits, plain(*given.values())
    assert expected.shape == found.shape
    return float((expected - found).abs().max() / expected.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gives_the_same_logits_from_the_same_weights(family: str, tmp_path: Path) -> None:
    assert apart(small(*FAMILIES[family]), tmp_path) <= TOLERANCE


SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "longrope": {
        "original_max_position_embeddings": 16,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.5, 2.5, 3.5, 4.5],
    },
}


@pytest.mark.parametrize("kind", SCALINGS)
def test_positions_are_stretched_alike(kind: str, tmp_path: Path) -> None:
    document = small(*FAMILIES["llama"])
    rope = {"rope_type": kind, "rope_theta": 10000.0, **SCALINGS[kind]}
    if kind == "longrope":
        rope["factor"] = 2.0
    changed = document.replace(config=document.config.with_items({"rope_parameters": FrozenMap(freeze(rope))}))
    assert apart(changed, tmp_path) <= TOLERANCE


def freeze(table: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}


def test_a_plain_folder_is_imported_without_running_it(tmp_path: Path) -> None:
    document = small(*FAMILIES["llama"])
    emit(document, target="plain").write(tmp_path / "out")
    assert import_model(tmp_path / "out")[0] == document
    with pytest.raises(CanvasError, match="holds plain code"):
        verify(tmp_path / "out")
    (tmp_path / "out" / "model.py").write_text("1 / 0")
    with pytest.raises(CanvasError, match=r"model\.py differs in line 1"):
        import_model(tmp_path / "out")


def test_edits_are_written_too(tmp_path: Path) -> None:
    node: Any = {"id": "twice", "op": "scale", "attrs": {"factor": 2.0}, "inputs": {"x": "hidden_states"}}
    document = apply(
        small(*FAMILIES["llama"]),
        SetSize("model.layers.0.self_attn", "num_key_value_heads", 2),
        SetAttr("model.layers.1.self_attn.attention", "window", 5),
        SetConfig("tie_word_embeddings", True),
        AddNode("model.layers.1.mlp", node),
        Connect("model.layers.1.mlp.gate_proj", "x", "twice"),
    )
    assert apart(document, tmp_path) <= TOLERANCE


def test_nothing_of_a_document_is_pasted_into_code() -> None:
    ties = FrozenMap({"lm_head.weight": "model.embed_tokens.weight", "a = 1 / 0; b": "c"})
    document = apply(small(*FAMILIES["llama"]), SetConfig("tie_word_embeddings", True)).replace(ties=ties, name='"""')
    source = emit(document, target="plain").files["model.py"]
    assert "1 / 0" not in source and source.startswith('"""___: written by Canvas')
    compile(source, "model.py", "exec")


def test_a_llama_is_short_and_needs_no_transformers(tmp_path: Path) -> None:
    source = emit(open_zoo("llama-3.1-8b"), target="plain")
    assert source.files["model.py"].count("\n") < 200
    assert source.files.keys() == {"model.py", "config.json", "README.md", "document.canvas.json"}
    emit(small(*FAMILIES["llama"]), target="plain").write(tmp_path / "out")
    script = (
        "import sys, torch\n"
        "from model import Config, LlamaForCausalLM\n"
        "model = LlamaForCausalLM(Config.from_json('config.json'))\n"
        "assert model.generate(torch.ones(1, 3, dtype=torch.long), 4).shape == (1, 7)\n"
        "others = {'transformers', 'huggingface_hub', 'canvas_rt', 'safetensors'} & sys.modules.keys()\n"
        "assert not others, others\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "out", check=True, env={"PATH": ""})


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("mamba-codestral-7b", "mixer: runs transformers' own Mamba2Mixer, kept whole"),
        ("t5-small", "an encoder-decoder language model: plain code is one stack of layers"),
    ],
)
def test_what_needs_transformers_is_named(model: str, told: str) -> None:
    with pytest.raises(EmitError, match=told) as caught:
        emit(open_zoo(model), target="plain")
    assert isinstance(caught.value, CanvasError)
    assert "without --plain" in caught.value.hint
