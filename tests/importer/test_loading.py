"""Checkpoints that transformers itself writes go with their configs; whatever was changed is named, with its shapes."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from canvas_rt.errors import CheckpointError
from canvas_rt.importer import import_model
from canvas_rt.importer.architecture import ArchitectureImport
from canvas_rt.importer.config import check_config
from canvas_rt.importer.factory import StockFactory
from canvas_rt.importer.loading import compare_weights
from canvas_rt.importer.report import ImportReport
from canvas_rt.importer.small import small_config

Tensors = dict[str, torch.Tensor]


def save(folder: Path, raw: Mapping[str, Any], shards: str = "1GB") -> Path:
    """A random checkpoint of a config, in transformers' own format."""
    torch.manual_seed(0)
    values = {name: value for name, value in raw.items() if name != "model_type"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(raw["model_type"], **values))
    model.save_pretrained(folder, max_shard_size=shards)
    return folder


def compared(folder: Path, changes: Mapping[str, Any] = {}) -> tuple[str, tuple[str, ...]]:
    """What is said of a folder's weights beside its config, changed."""
    raw = {**json.loads((folder / "config.json").read_text()), **changes}
    config = check_config(raw)
    architecture = ArchitectureImport(StockFactory(config["model_type"]), config, "model")
    within = config["model_type"] != raw["model_type"]
    return compare_weights(folder, architecture.original(), architecture.values, within)


def rewrite(folder: Path, change: Callable[[Tensors], Any]) -> Path:
    """Change a folder's tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


TYPES = {
    "llama": {},
    "tied llama": {"tie_word_embeddings": True},
    "mixtral": {},  # experts lie one by one on disk, and as one tensor in the model
    "qwen3_moe": {},
    "gpt2": {},  # tied, and of another base
    "gemma3_text": {},
    "mamba": {},
}


@pytest.mark.parametrize("shards", ["1GB", "60KB"])
@pytest.mark.parametrize("kind", TYPES)
def test_a_checkpoint_goes_with_its_own_config(tmp_path: Path, kind: str, shards: str) -> None:
    folder = save(tmp_path, {**small_config(kind.removeprefix("tied ")), **TYPES[kind]}, shards)
    assert (folder / "model.safetensors.index.json").exists() == (shards == "60KB")
    note, not_in_model = compared(folder)
    assert note.endswith("tensors have the shapes that the config gives them") and not_in_model == ()


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save(tmp_path, small_config("llama"))


@pytest.fixture
def mixtral(tmp_path: Path) -> Path:
    return save(tmp_path, small_config("mixtral"))


def test_a_checkpoint_without_the_base_model_s_prefix_goes_with_it_too(llama: Path) -> None:
    rewrite(llama, lambda t: [t.update({k.removeprefix("model."): t.pop(k)}) for k in list(t)])
    assert compared(llama) == ("weights: 21 tensors have the shapes that the config gives them", ())


def test_of_tied_tensors_either_may_be_missing(tmp_path: Path) -> None:
    folder = save(tmp_path, {**small_config("llama"), "tie_word_embeddings": True})
    rewrite(folder, lambda t: t.update({"lm_head.weight": t.pop("model.embed_tokens.weight")}))
    assert compared(folder)[0].startswith("weights: 21 tensors have")


def test_what_the_architecture_has_no_place_for_is_reported(llama: Path) -> None:
    old = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.zeros(8) for layer in range(2)}
    rewrite(llama, lambda t: t.update(old))
    assert compared(llama) == ("weights: 21 tensors have the shapes that the config gives them", tuple(old))
    report = ImportReport(1, {"add": 1}, 0, (), (), (), not_in_model=tuple(old))
    assert "in the checkpoint, but not in the architecture: model.layers.0.self_attn.rotary_emb.inv_freq" in str(report)


def test_every_layer_is_compared_not_only_those_that_are_traced(tmp_path: Path) -> None:
    folder = save(tmp_path, {**small_config("llama"), "num_hidden_layers": 9})
    rewrite(folder, lambda t: t.update({"model.layers.7.mlp.up_proj.weight": torch.zeros(80, 63)}))
    with pytest.raises(CheckpointError) as caught:
        import_model(folder)
    assert caught.value.message == (
        "1 of 84 tensors of its weights are not what its config says\n"
        '"model.layers.7.mlp.up_proj.weight" is [80, 63] in the checkpoint, [80, 64] by the config'
    )


def test_a_changed_size_is_named_with_the_value_that_would_fit(llama: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        compared(llama, {"vocab_size": 128})
    assert '"model.embed_tokens.weight" is [96, 64] in the checkpoint, [128, 64] by the config' in str(caught.value)
    assert caught.value.hint == (
        "The config's vocab_size or max_position_embeddings (128) would have to be 96. "
        "Correct the config, or name the folder's config.json to import it without its weights."
    )


def test_missing_tensors_are_named(llama: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        compared(llama, {"num_hidden_layers": 3})
    assert caught.value.message.startswith("9 of 30 tensors of its weights are not what its config says\n")
    assert '"model.layers.2.self_attn.q_proj.weight" is not in the checkpoint, and [64, 64] by' in str(caught.value)
    assert str(caught.value).count("\n") == 10 and "… and 1 more" in str(caught.value)


def test_an_output_layer_that_is_not_there_may_be_tied(llama: Path) -> None:
    rewrite(llama, lambda t: t.pop("lm_head.weight"))
    with pytest.raises(CheckpointError, match="tie_word_embeddings may have to be true"):
        compared(llama)


def test_an_expert_that_is_missing_or_odd_is_told(mixtral: Path) -> None:
    rewrite(mixtral, lambda t: t.pop("model.layers.1.block_sparse_moe.experts.3.w2.weight"))
    with pytest.raises(CheckpointError, match=r'"model.layers.1.mlp.experts.down_proj" is \[7, 64, 80\] in the checkp'):
        compared(mixtral)
    rewrite(mixtral, lambda t: t.update({"model.layers.1.block_sparse_moe.experts.2.w1.weight": torch.zeros(80, 9)}))
    with pytest.raises(CheckpointError, match=r'experts.gate_up_proj" cannot be put together .*: stack expects each'):
        compared(mixtral)


def test_another_model_s_weights_are_told(llama: Path) -> None:
    rewrite(llama, lambda t: [t.update({f"x.{k}": t.pop(k)}) for k in list(t)])
    with pytest.raises(CheckpointError, match="21 of 21 tensors of its weights are not what its config says"):
        import_model(llama)


def test_a_config_alone_is_imported_without_a_look_at_the_weights(llama: Path) -> None:
    (llama / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"has no header|are not read"):
        import_model(llama)
    assert import_model(llama / "config.json")[1].notes == ()


def test_pickles_leave_a_note(llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    assert compared(llama) == ("weights in pytorch_model.bin were not compared: Canvas reads safetensors alone", ())


def test_of_a_multimodal_checkpoint_the_text_model_is_compared(tmp_path: Path) -> None:
    raw = small_config("gemma3")
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(**{n: v for n, v in raw.items() if n != "model_type"}, vision_config=vision)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    note, not_in_model = compared(tmp_path)
    assert note == "weights: 42 tensors have the shapes that the config gives them"
    assert not_in_model and all(key.startswith(("vision_tower", "multi_modal_projector")) for key in not_in_model)


def test_nothing_is_printed_while_weights_are_compared(llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    compared(llama)
    assert capfd.readouterr() == ("", "")
