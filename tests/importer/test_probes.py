"""The numbers of every model type can be varied all at once: the model is still made, and tells them apart."""

from typing import Any

import pytest
import torch
from model_types import SUPPORTED

from canvas_rt.importer.config import check_config
from canvas_rt.importer.factory import StockFactory, field_values, make_config
from canvas_rt.importer.probes import DERIVED, inputs_of, probe_assignments, resize_rotary
from canvas_rt.importer.small import small_config
from canvas_rt.importer.trace import quiet

FAST = ["llama", "gpt2", "bert", "deepseek_v3", "mamba2", "gpt_oss", "gemma3_text", "qwen3_next", "dbrx", "falcon_h1"]
FAST += ["phi", "helium"]
BOUND = {name for name, _, _ in DERIVED}


def probed(model_type: str) -> tuple[StockFactory, dict[str, Any], list[dict[str, Any]]]:
    given = check_config(small_config(model_type))
    factory = StockFactory(given["model_type"])
    values = field_values(make_config(factory, given, model_type))
    return factory, given, list(probe_assignments(values, model_type=given["model_type"]))


def holds(model_type: str) -> None:
    factory, given, assignments = probed(model_type)
    for probe, found in enumerate(assignments):
        check_config({**given, **found})
        config = make_config(factory, {**given, **found}, model_type)
        made = field_values(config)
        assert {name: made[name] for name in found} == found
        with quiet(), torch.no_grad():
            model = factory.build(config, attn_implementation="eager", experts_implementation="eager").eval()
            batch, sequence, _ = inputs_of(probe)
            logits = model(input_ids=torch.randint(3, 90, (batch, sequence))).logits
        assert logits.shape == (batch, sequence, found.get("unpadded_vocab_size") or found["vocab_size"])


def told_apart(model_type: str) -> None:
    _, _, assignments = probed(model_type)
    columns: dict[tuple[Any, ...], str] = {}
    for name, value in assignments[0].items():
        column = tuple(values[name] for values in assignments)
        varies = isinstance(value, int | float) and not isinstance(value, bool) and len(set(column)) > 1
        if varies and name not in BOUND:
            assert column not in columns, f"{name} is always what {columns[column]} is"
            columns[column] = name


@pytest.mark.parametrize("model_type", FAST)
def test_a_model_is_made_at_every_probe(model_type: str) -> None:
    holds(model_type)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", SUPPORTED)
def test_a_model_of_every_type_is_made_at_every_probe(model_type: str) -> None:
    holds(model_type)


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_numbers_are_told_apart(model_type: str) -> None:
    told_apart(model_type)


def test_lists_of_rotary_tables_follow_the_width_of_heads() -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0]}
    assert resize_rotary(rope, 6) == {**rope, "short_factor": [1.0, 2.0, 1.0], "long_factor": [3.0, 4.0, 3.0]}
    assert resize_rotary({"full_attention": {"mrope_section": [24, 20, 20]}}, 18)["full_attention"] == {
        "mrope_section": [3, 3, 3]
    }


def test_where_no_model_is_made_families_of_numbers_keep_their_values() -> None:
    values = field_values(StockFactory("qwen3_moe").config(check_config(small_config("qwen3_moe"))))
    found = probe_assignments(values, builds=lambda given: given["num_experts"] == values["num_experts"])
    assert {given["num_experts"] for given in found} == {values["num_experts"]}
    assert len({given["hidden_size"] for given in found}) == 3


def test_a_pinned_size_takes_along_those_that_it_divides() -> None:
    values = {"hidden_size": 96, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 256}
    for pinned in values:
        for found in probe_assignments(values, {pinned}):
            assert found[pinned] == values[pinned]
            assert found["hidden_size"] % found["num_attention_heads"] == 0
            assert found["num_attention_heads"] % found["num_key_value_heads"] == 0
