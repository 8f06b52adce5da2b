"""Dry runs of small models: what is measured is what was predicted, to the byte, on the CPU and on meta."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import canvas_rt
from canvas_rt.dryrun import DryRun, child, trial
from canvas_rt.dryrun.result import NAMES
from canvas_rt.edits import DeleteLayers, SetAttr, SetSize, apply
from canvas_rt.importer import import_model
from canvas_rt.ir import Document

SIZES = {"batch": 2, "sequence": 40}


@pytest.fixture(scope="module")
def edited(small_llama: Document) -> Document:
    """Layers that differ."""
    return apply(
        small_llama,
        DeleteLayers("model.layers.3"),
        SetSize("model.layers.1", "num_key_value_heads", 3),
        SetSize("model.layers.0", "intermediate_size", 64),
    )


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are made in this process, which knows PyTorch already; those that die have a file of their own."""

    def run(job: str, folder: Path, *, request: dict[str, Any], **others: Any) -> dict[str, Any]:
        return child.run(folder, {**request, "bytes": None})

    monkeypatch.setattr(trial, "run_apart", run)


def inexact(found: DryRun) -> dict[str, float | None]:
    """Figures that are not as predicted, but for times."""
    return {
        figure.name: figure.error
        for figure in found.figures
        if figure.measured is not None and figure.measured != figure.predicted and not figure.name.startswith("time.")
    }


@pytest.mark.parametrize(
    "scenario",
    [
        {"mode": "train", "dtype": "mixed", "accumulation": 2},
        {"mode": "prefill", "dtype": "bf16", "attention": "eager"},
        {"mode": "decode", "dtype": "fp32"},
    ],
    ids=lambda scenario: scenario["mode"],
)
def test_on_the_cpu_the_real_allocator_hands_out_the_bytes_that_were_predicted(
    edited: Document, scenario: dict[str, Any]
) -> None:
    found = canvas_rt.dry_run(edited, device="cpu", **SIZES, **scenario)
    assert found.ran and found.whole, found
    assert inexact(found) == {}
    measured = {figure.name for figure in found.figures if figure.measured is not None}
    assert {"parameters.total", "memory.weights", "memory.peak_allocated", "time.total_s"} <= measured
    assert found.steps_s and min(found.steps_s) > 0
    highest = max(nbytes for _, nbytes in found.timeline)
    assert highest == found.by_name["memory.peak_allocated"].measured
    assert "to the byte" in str(found)


@pytest.mark.parametrize(
    "scenario",
    [
        {"mode": "train", "dtype": "bf16", "recompute": "full"},
        {"mode": "train", "dtype": "fp32", "optimizer": "sgd-momentum", "implementation": "foreach"},
        {"mode": "prefill", "dtype": "bf16"},
        {"mode": "decode", "dtype": "bf16"},
    ],
    ids=lambda scenario: scenario["mode"],
)
def test_on_meta_the_whole_model_takes_what_was_predicted_from_a_layer_of_each_kind(
    edited: Document, scenario: dict[str, Any]
) -> None:
    found = canvas_rt.dry_run(edited, device="meta", **SIZES, **scenario)
    assert found.ran, found
    assert inexact(found) == {}
    assert found.by_name["flops.forward"].measured


def test_experts_are_counted_as_often_as_tokens_choose_them() -> None:
    whole = canvas_rt.open_zoo("mixtral-8x7b-v0.1")
    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 6, "num_key_value_heads": 2}
    mixture = apply(whole.replace(sizes=whole.sizes.with_items(sizes)), DeleteLayers("model.layers.2-31"))
    found = canvas_rt.dry_run(mixture, mode="train", dtype="bf16", **SIZES)
    assert found.ran, found
    assert inexact(found) == {}


def test_a_layer_with_a_window_keeps_in_the_cache_what_was_predicted(edited: Document) -> None:
    windowed = apply(edited, SetAttr("model.layers.1.self_attn.attention", "window", 7))
    found = canvas_rt.dry_run(windowed, device="meta", mode="decode", dtype="bf16", **SIZES)
    assert found.ran, found
    assert inexact(found) == {}
    kept, everything = found.by_name["memory.kv_cache"].measured, canvas_rt.measure(edited, mode="decode", **SIZES)
    assert kept is not None and kept < everything.memory.kv_cache


MAMBA = {"hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 512, "num_heads": 8, "head_dim": 16, "state_size": 16}


@pytest.fixture(scope="module")
def mamba() -> Document:
    """A module that keeps a state, in a stream that is wider than the model."""
    return import_model({"model_type": "mamba2", **MAMBA, "n_groups": 2, "chunk_size": 32})[0]


def test_a_module_that_keeps_a_state_trains_in_the_bytes_that_were_predicted(mamba: Document) -> None:
    found = canvas_rt.dry_run(mamba, device="meta", mode="train", dtype="bf16", **SIZES)
    assert found.ran, found
    assert inexact(found) == {}


@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_the_state_that_a_module_keeps_is_in_the_cache(mamba: Document, mode: str) -> None:
    found = canvas_rt.dry_run(mamba, device="meta", mode=mode, dtype="bf16", **SIZES)
    assert found.ran, found
    assert set(inexact(found)) <= {"memory.activations", "memory.peak_allocated"}
    assert found.by_name["memory.kv_cache"].measured == 2 * 3 * (4 * 8 * 16 * 16 + 2 * 4 * (8 * 16 + 2 * 2 * 16))
    assert abs(found.by_name["memory.peak_allocated"].error or 0) < 0.03


@pytest.mark.parametrize("family", ["gemma2", "granite"])
def test_of_a_prompt_only_the_last_token_is_taken_to_the_vocabulary(
    family: str, small_config: Callable[..., dict[str, Any]]
) -> None:
    # Gemma 2 caps its logits, Granite divides them.
    model = import_model(small_config(family, head_dim=8))[0]
    found = canvas_rt.dry_run(model, device="meta", mode="prefill", dtype="bf16", **SIZES)
    assert found.ran, found
    assert "flops.forward" not in inexact(found)


def test_a_classifier_of_images_runs_too() -> None:
    small = apply(canvas_rt.open_zoo("vit-base-patch16-224"), DeleteLayers("vit.layers.1-11"))
    found = canvas_rt.dry_run(small, device="meta", mode="train", batch=2)
    assert found.ran, found
    assert inexact(found) == {}


def test_a_result_says_as_json_all_that_it_says(edited: Document) -> None:
    found = canvas_rt.dry_run(edited, mode="prefill", dtype="bf16", **SIZES)
    told = json.loads(json.dumps(found.to_json()))
    assert (told["device"], told["ran"], told["reason"], told["whole"]) == ("meta", True, "", True)
    assert set(told["figures"]) <= set(NAMES)
    assert set(told["figures"]["memory.weights"]) == {"measured", "predicted", "error", "target"}
    assert told["layers"] == {"run": 3, "of": 3}
    assert told["timeline"]["unit"] == "events" and told["timeline"]["points"]
