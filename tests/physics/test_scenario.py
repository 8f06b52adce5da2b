"""A scenario that makes no sense is refused with a way out; all of its parts can be combined, and sum up."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import load
from canvas_rt.physics import measure
from canvas_rt.physics.scenario import OPTIMIZERS, Scenario, problems

ZOO = Path(__file__).parents[2] / "model_zoo"
LLAMA = load(ZOO / "llama" / "document.canvas.json")
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 112,
    "max_position_embeddings": 256,
}


def small() -> Document:
    return LLAMA.replace(sizes=LLAMA.sizes.with_items(SIZES))


NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"batch": 0}, "batch: must be a whole number of at least 1, not 0\nTry batch 1"),
    ({"sequence": 2.5}, "sequence: must be a whole number"),
    ({"accumulation": 0}, "accumulation: must be a whole number of at least 1"),
    ({"lora": -1}, "lora: must be a whole number of at least 0"),
    ({"reshard": 1}, "reshard: must be true or false"),
    ({"batch": 2**60}, "is more than any run has"),
    ({"hardware": "a200"}, "unknown card 'a200'\nDid you mean"),
    ({"optimizer": "adamv"}, "unknown optimizer 'adamv'\nDid you mean adam"),
    ({"loss": "fussed"}, "unknown loss 'fussed'\nDid you mean fused"),
    ({"optimizer": "muon", "implementation": "fused"}, "there is no fused muon\nTry for-loop"),
    ({"optimizer": "adamw-8bit", "implementation": "foreach"}, "there is no foreach adamw-8bit\nTry fused"),
    ({"cache": "fp8"}, "cache: training keeps no cache\nChoose mode"),
    ({"mode": "decode", "dtype": "mixed"}, "mixed is a way to train\nUse bf16"),
    ({"mode": "prefill", "lora": 8}, "adapters are merged"),
    ({"dtype": "fp8", "hardware": "a100-80gb"}, "has no units for fp8\nTry dtype bf16"),
    ({"dtype": "fp32", "attention": "flash"}, "FlashAttention has no kernel for fp32\nTry attention efficient"),
    ({"recompute": "mpl"}, "there is no 'mpl' to recompute\nDid you mean"),
    ({"recompute": "full,mlp"}, "there is no 'full' to recompute\nGive it alone"),
    ({"frozen": ("model.layers.9",)}, "'model.layers.9' names nothing with weights"),
    ({"lora": 4, "lora_targets": ("input_layernorm",)}, "'input_layernorm' names no linear"),
    ({"colour": "red"}, "a scenario has no 'colour'"),
]


@pytest.mark.parametrize(
    ("settings", "message"), NONSENSE, ids=lambda value: str(value) if isinstance(value, dict) else ""
)
def test_nonsense_is_refused_with_a_way_out(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CanvasError, match=message) as refusal:
        measure(small(), **{"sequence": 32, **settings})
    assert refusal.value.hint


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(CanvasError, match=r"(?s)optimizer: .*also loss: .*also batch: "):
        measure(small(), batch=0, optimizer="adamv", loss="no")


def test_what_is_odd_but_runs_is_a_warning_with_a_way_out() -> None:
    report = measure(small(), sequence=512, dtype="fp16", hardware="t4")
    assert [(d.severity, d.path) for d in report.diagnostics] == [("warning", "optimizer"), ("warning", "sequence")]
    assert all(d.hint for d in report.diagnostics)
    assert [d.path for d in measure(small(), sequence=32, hardware="t4").diagnostics] == ["dtype"]


def test_a_chat_beyond_the_positions_is_told() -> None:
    report = measure(small(), mode="chat", sequence=200, generate=100)
    assert "300 tokens are more than max_position_embeddings (256)" in report.diagnostics[0].message


@pytest.mark.parametrize(
    ("dtype", "recompute", "loss", "rest"),
    list(
        product(
            ("fp32", "bf16", "mixed", "fp8"),
            ("none", "full", "selective", "mlp,rms_norm"),
            ("plain", "chunked"),
            (
                {"accumulation": 2, "optimizer": "lion"},
                {"lora": 4, "weights": "nf4", "optimizer": "adamw-8bit"},
                {"frozen": ("embed_tokens", "model.layers.0-1"), "implementation": "foreach"},
            ),
        )
    ),
    ids=str,
)
def test_everything_combines_and_sums_up(dtype: str, recompute: str, loss: str, rest: dict[str, Any]) -> None:
    report = measure(
        small(), hardware="h100-80gb", batch=2, sequence=32, dtype=dtype, recompute=recompute, loss=loss, **rest
    )
    nodes, memory = report.by_node.values(), report.memory
    for name, total in (
        ("memory", memory.peak_allocated),
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        ("optimizer", memory.optimizer),
        ("parameters", report.parameters.total),
        ("flops_forward", report.flops.forward),
        ("flops_backward", report.flops.backward),
        ("time_s", report.time.total_s),
    ):
        assert sum(getattr(node, name) for node in nodes) == pytest.approx(total, rel=1e-12), name
    # Of what is recomputed selectively, nothing is counted: products are kept.
    assert (report.flops.recomputed > 0) == (recompute not in ("none", "selective") or loss == "chunked")


@pytest.mark.parametrize("mode", ["prefill", "decode", "chat"])
@pytest.mark.parametrize("weights", ["same", "int8", "int4", "fp8"])
@pytest.mark.parametrize("cache", ["same", "fp8", "int8", "int4"])
@pytest.mark.parametrize("page", [0, 16])
def test_serving_combines_and_sums_up(mode: str, weights: str, cache: str, page: int) -> None:
    report = measure(
        small(), hardware="h100-80gb", mode=mode, sequence=48, generate=9, weights=weights, cache=cache, page=page
    )
    assert sum(node.memory for node in report.by_node.values()) == report.memory.peak_allocated
    plain = measure(small(), hardware="h100-80gb", mode=mode, sequence=48, generate=9)
    assert (report.memory.weights < plain.memory.weights) == (weights != "same")
    assert (report.memory.kv_cache < plain.memory.kv_cache) == (cache != "same")


def test_a_chat_is_its_prompt_and_each_of_its_tokens() -> None:
    chat = measure(small(), mode="chat", sequence=40, generate=8)
    prompt = measure(small(), mode="prefill", sequence=40)
    steps = [measure(small(), mode="decode", sequence=40 + index) for index in range(7)]
    assert chat.flops.forward == prompt.flops.forward + sum(step.flops.forward for step in steps)
    assert chat.time.first_token_s == prompt.time.total_s
    assert chat.time.total_s == pytest.approx(prompt.time.total_s + sum(step.time.total_s for step in steps))
    assert chat.memory.peak_allocated == max(r.memory.peak_allocated for r in (prompt, *steps))


def test_every_optimizer_is_measured_by_each_of_its_implementations() -> None:
    for optimizer, implementations in OPTIMIZERS.items():
        for implementation in implementations:
            assert measure(small(), sequence=32, optimizer=optimizer, implementation=implementation).fits


def test_a_budget_of_tokens_is_told_in_hours_and_energy() -> None:
    report = measure(small(), sequence=64, tokens=10**12)
    assert report.budget is not None
    assert report.budget.gpu_hours == pytest.approx(1e12 / report.time.tokens_per_s / 3600)
    assert report.budget.energy_kwh == pytest.approx(report.budget.gpu_hours * 0.4)


def test_the_usual_scenario_is_flawless() -> None:
    assert problems(Scenario()) == ()
