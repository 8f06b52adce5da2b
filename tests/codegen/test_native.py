"""A document that still is a stock architecture is known as one, and of any other the edit that left it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from canvas_rt import CanvasError, Document, apply, emit, import_model, open_zoo, verify
from canvas_rt.codegen import native
from canvas_rt.codegen.native import native_at_once, native_config
from canvas_rt.edits import (
    AddNode,
    Connect,
    DeleteLayers,
    DuplicateLayers,
    GroupNodes,
    InsertLayer,
    MakeUnique,
    RenameBlock,
    RenameNode,
    ReplaceBlock,
    SetAttr,
    SetConfig,
    SetSize,
    SwapLayers,
)
from canvas_rt.ops.parameters import parameter_keys

SLIDING, FULL = "sliding_attention", "full_attention"
DOUBLED: Any = {"id": "twice", "op": "scale", "attrs": {"factor": 2.0}, "inputs": {"x": "hidden_states"}}

STOCK: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "nothing": ("llama-3.2-1b", (), {"num_hidden_layers": 16}),
    "a width": ("llama-3.2-1b", (SetSize("", "hidden_size", 1024),), {"hidden_size": 1024}),
    "heads of all layers": (
        "llama-3.2-1b",
        (SetSize("model.layers", "num_key_value_heads", 4),),
        {"num_key_value_heads": 4},
    ),
    "fewer layers": ("llama-3.2-1b", (DeleteLayers("model.layers.3-4"),), {"num_hidden_layers": 14}),
    "more layers": (
        "llama-3.2-1b",
        (DuplicateLayers("model.layers.3-4"), InsertLayer("model.layers")),
        {"num_hidden_layers": 19},
    ),
    "layers swapped": ("llama-3.2-1b", (SwapLayers("model.layers", 1, 9),), {"num_hidden_layers": 16}),
    "an activation": ("llama-3.2-1b", (SetConfig("hidden_act", "gelu"),), {"hidden_act": "gelu"}),
    "no ties": ("llama-3.2-1b", (SetConfig("tie_word_embeddings", False),), {"tie_word_embeddings": False}),
    "a block of its own that is alike": ("llama-3.2-1b", (MakeUnique("model.layers.3"),), {"num_hidden_layers": 16}),
    "a block called otherwise": ("llama-3.2-1b", (RenameBlock("LlamaMLP", "Feed"),), {"num_hidden_layers": 16}),
    "a node that nothing reads": ("llama-3.2-1b", (AddNode("model.layers.mlp", DOUBLED),), {"num_hidden_layers": 16}),
    "no window at all": ("mistral-7b-v0.1", (SetConfig("sliding_window", None),), {"sliding_window": None}),
    "a pattern one shorter": (
        "gemma-3-1b",
        (DeleteLayers("model.layers.12-25"), DeleteLayers("model.layers.3")),
        {"num_hidden_layers": 11, "layer_types": [*[SLIDING] * 4, FULL, *[SLIDING] * 5, FULL]},
    ),
    "a pattern turned": (
        "gemma-3-1b",
        (DeleteLayers("model.layers.6-25"), SwapLayers("model.layers", 0, 5)),
        {"layer_types": [FULL, *[SLIDING] * 5]},
    ),
    "layers of the other kind": (
        "gemma-3-1b",
        (DeleteLayers("model.layers.6-25"), ReplaceBlock("model.layers.0-1", "Gemma3FullDecoderLayer")),
        {"layer_types": [FULL, FULL, *[SLIDING] * 3, FULL]},
    ),
    "a list as long as its layers": (
        "qwen3-0.6b",
        (DeleteLayers("model.layers.2-27"),),
        {"num_hidden_layers": 2, "layer_types": [FULL, FULL]},
    ),
    "windows in a class that lists them": (
        "qwen3-0.6b",
        (DeleteLayers("model.layers.4-27"), SetAttr("model.layers.0-1.self_attn.attention", "window", 512)),
        {"sliding_window": 512, "use_sliding_window": True, "layer_types": [SLIDING, SLIDING, FULL, FULL]},
    ),
    "another window, as a number": (
        "gemma-3-1b",
        (DeleteLayers("model.layers.6-25"), SetAttr("model.layers.0-4.self_attn.attention", "window", 256)),
        {"sliding_window": 256, "layer_types": [*[SLIDING] * 5, FULL]},
    ),
    "dense layers first": ("deepseek-v3", (DeleteLayers("model.layers.0"),), {"first_k_dense_replace": 2}),
    "layers that turn no positions": (
        "smollm3-3b",
        (DeleteLayers("model.layers.4-35"), SwapLayers("model.layers", 0, 3)),
        {"no_rope_layers": [0, 1, 1, 1]},
    ),
    "names of its own": ("gpt2", (DeleteLayers("transformer.h.0-3"),), {"n_layer": 8, "n_embd": 768}),
    "an encoder": ("bert-base-uncased", (DeleteLayers("bert.encoder.layer.0-3"),), {"num_hidden_layers": 8}),
}


@pytest.mark.parametrize("name", STOCK)
def test_a_config_alone_says_it(name: str) -> None:
    model, edits, expected = STOCK[name]
    document = apply(open_zoo(model), *edits)
    found = native_config(document)
    assert found.config is not None, found.left
    assert {field: found.config[field] for field in expected} == expected
    assert found.config["model_type"] == document.origin.model_type
    assert found.config["architectures"] == [document.origin.architecture]
    assert "auto_map" not in found.config


LEFT: dict[str, tuple[str, tuple[Any, ...], str]] = {
    "a size of some layers": (
        "llama-3.2-1b",
        (
            SetSize("", "hidden_size", 1024),
            SetSize("model.layers.3", "num_key_value_heads", 4),
            DeleteLayers("model.layers.8"),
        ),
        'edit 2 of 3, {"kind": "set_size", "path": "model.layers.3", "name": "num_key_value_heads", "value": 4}: '
        "some layers have num_key_value_heads for themselves, which the config of LlamaForCausalLM cannot say",
    ),
    "a node more": (
        "llama-3.2-1b",
        (AddNode("model.layers.mlp", DOUBLED), Connect("model.layers.mlp.gate_proj", "x", "twice")),
        'edit 2 of 2, {"kind": "connect", "path": "model.layers.mlp.gate_proj", "port": "x", "source": "twice"}: '
        "model.layers.0.mlp.twice is scale here and rms_norm in LlamaForCausalLM",
    ),
    "another name": (
        "llama-3.2-1b",
        (RenameNode("model.layers.self_attn.q_proj", "query"),),
        'edit 1 of 1, {"kind": "rename_node", "path": "model.layers.self_attn.q_proj", "new_id": "query"}: '
        "model.layers.0.self_attn.query is called model.layers.0.self_attn.q_proj in LlamaForCausalLM",
    ),
    "a group": (
        "llama-3.2-1b",
        (GroupNodes("model.layers.mlp", ("gate_proj", "act_fn"), "Gate", "gate"),),
        "model.layers.0.mlp.gate.gate_proj is called model.layers.0.mlp.gate_proj in LlamaForCausalLM",
    ),
    "a window in some layers": (
        "mistral-7b-v0.1",
        (SetSize("model.layers.0-3", "sliding_window", 1024),),
        "some layers have sliding_window for themselves, which the config of MistralForCausalLM cannot say",
    ),
    "no window in some layers": (
        "mistral-7b-v0.1",
        (SetAttr("model.layers.0-3.self_attn.attention", "window", None),),
        "model.layers.0.self_attn.attention: window is None here and 4096 in MistralForCausalLM",
    ),
    "another epsilon in one norm": (
        "gemma-3-1b",
        (SetAttr("model.norm", "eps", 1e-4),),
        "model.norm: eps is 0.0001 here and 1e-06 in Gemma3ForCausalLM",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_the_edit_that_left_the_architecture_is_named(name: str) -> None:
    model, edits, told = LEFT[name]
    found = native_config(apply(open_zoo(model), *edits))
    assert found.config is None
    assert told in found.left
    assert found.left.startswith("edit ")


def test_without_an_import_it_is_told_at_once_or_not_at_all(
    small_llama: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "import_model", lambda config: pytest.fail("a config was imported"))
    zoo = open_zoo("llama-3.2-1b")
    assert str(native_at_once(zoo)) == "this still is LlamaForCausalLM with another config"
    renamed = RenameNode("model.norm", "last")
    assert native_at_once(apply(zoo, renamed)) == native_config(apply(zoo, renamed))
    assert "no longer stock LlamaForCausalLM: edit 1 of 1, " in str(native_at_once(apply(zoo, renamed)))

    # What was imported from a config is not there to be compared with.
    assert str(native_at_once(small_llama)) == "this still is LlamaForCausalLM with another config"
    own = native_at_once(apply(small_llama, SetSize("model.layers.1", "intermediate_size", 96)))
    assert own is not None and own.left.startswith("some layers have intermediate_size for themselves")
    assert native_at_once(apply(small_llama, renamed)) is None


def test_more_layers_of_a_class_that_counts_their_kinds_are_found_by_importing() -> None:
    deeper = apply(open_zoo("jamba-v0.1"), SetSize("", "num_hidden_layers", 40))
    assert "JambaForCausalLM" in native_config(deeper).left


def test_a_field_that_the_graph_does_not_follow_is_found_by_importing(small_llama: Document) -> None:
    document = import_model({"model_type": "stablelm", **small_llama.environment, "use_parallel_residual": False})[0]
    assert native_config(document).config is not None
    changed = apply(document, SetConfig("use_parallel_residual", True))
    assert '"name": "use_parallel_residual", "value": true}: ' in native_config(changed).left


def test_a_document_without_an_origin_is_no_stock_architecture(small_llama: Document) -> None:
    found = native_config(small_llama.replace(origin=type(small_llama.origin)()))
    assert (found.config, found.left) == (None, "a document without an origin is no class of transformers")


def test_a_native_folder_is_transformers_own_and_is_proven(small_llama: Document, tmp_path: Path) -> None:
    document = apply(
        small_llama,
        DeleteLayers("model.layers.3"),
        SwapLayers("model.layers", 0, 1),
        SetSize("", "num_key_value_heads", 3),
        SetConfig("tie_word_embeddings", True),
    )
    out = tmp_path / "out"
    emit(document).write(out)
    emit(document, target="native").write(out)  # in the place of what Canvas wrote before
    files = {"README.md", "config.json", "document.canvas.json", "generation_config.json"}
    assert {path.name for path in out.iterdir()} == files
    assert "It still is a `LlamaForCausalLM`" in (out / "README.md").read_text()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(out))
    assert type(model).__module__ == "transformers.models.llama.modeling_llama"
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == parameter_keys(document)
    assert import_model(out)[0] == document

    certificate = verify(out)
    assert certificate.passed, str(certificate)
    assert certificate.reference == "the document, run node by node"

    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu"}))
    certificate = verify(out)
    assert not certificate.passed
    assert "hidden_act is 'silu'" in str(certificate.structure)
    imported, report = import_model(out)
    assert imported.config["hidden_act"] == "gelu"
    assert "its config computes something else than its document: hidden_act is" in report.notes[-1]


def test_a_tensor_that_the_class_calls_by_two_names_is_proven_by_one(tmp_path: Path) -> None:
    document = apply(open_zoo("bert-base-uncased"), DeleteLayers("bert.encoder.layer.2-11"))
    emit(document, target="native").write(tmp_path / "out")
    certificate = verify(tmp_path / "out")
    assert certificate.passed, str(certificate)


def test_what_is_no_stock_architecture_is_not_written_as_one(small_llama: Document) -> None:
    edited = apply(small_llama, SetSize("model.layers.1", "intermediate_size", 96))
    with pytest.raises(
        CanvasError, match=r'no LlamaForCausalLM with another config: edit 1 of 1, \{"kind": "set_size"'
    ):
        emit(edited, target="native")
