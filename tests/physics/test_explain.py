"""Each formula of a thorough report evaluates to its number."""

from typing import Any

import pytest

from canvas_rt.edits import SetSize, apply
from canvas_rt.ir.document import Document
from canvas_rt.physics import check, measure
from canvas_rt.physics.explain import Explainer, evaluate

SCENARIOS: dict[str, dict[str, Any]] = {
    "train": {},
    "recomputed": {"recompute": "full", "accumulation": 2},
    "adapters": {"lora": 4, "weights": "nf4"},
    "muon": {"optimizer": "muon"},
    "mixed": {"dtype": "mixed", "loss": "chunked"},
    "frozen": {"frozen": ("model.layers.0-1",)},
    "prefill": {"mode": "prefill", "attention": "eager"},
    "decode": {"mode": "decode", "cache": "int8"},
}


@pytest.mark.parametrize("edited", [False, True], ids=["alike", "layers that differ"])
@pytest.mark.parametrize("settings", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_every_formula_evaluates_to_its_number(settings: dict[str, Any], edited: bool, small_llama: Document) -> None:
    document = apply(small_llama, SetSize("model.layers.1", "intermediate_size", 160)) if edited else small_llama
    report = measure(document, batch=3, sequence=24, thorough=True, **settings)
    explainer = Explainer(document, check(document, batch=3, sequence=24), 3, 24)
    told = 0
    for path, cost in report.by_node.items():
        names = explainer.names(path)
        for quantity, formula in cost.formulas.items():
            assert evaluate(formula, names) == getattr(cost, quantity), (path, quantity, formula)
            told += not formula.isdecimal()
        assert all(getattr(cost, q) == 0 or q in cost.formulas for q in ("parameters", "flops_forward", "memory"))
    assert told > 30


def test_formulas_speak_in_the_models_own_sizes(small_llama: Document) -> None:
    nodes = measure(small_llama, batch=3, sequence=24, thorough=True).by_node
    projection = nodes["model.layers.0-3.mlp.gate_proj"].formulas
    assert projection["parameters"] == "intermediate_size × hidden_size × num_hidden_layers"
    assert projection["flops_forward"] == ("2 × batch × seq × intermediate_size × hidden_size × num_hidden_layers")
    attention = nodes["model.layers.0-3.self_attn.attention"].formulas
    assert attention["flops_forward"] == ("4 × batch × num_attention_heads × seq × seq × head_dim × num_hidden_layers")


def test_a_live_report_has_none(small_llama: Document) -> None:
    assert not any(cost.formulas for cost in measure(small_llama, sequence=24).by_node.values())
