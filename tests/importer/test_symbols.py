"""Numbers seen at several sizes become the simplest expression that gives all of them."""

from typing import Any

import pytest

from canvas_rt.importer.probes import probe_assignments
from canvas_rt.importer.symbols import express
from canvas_rt.ir.frozen import freeze

CONFIG = {
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "rms_norm_eps": 1e-5,
    "attention_dropout": 0.0,
    "rope_parameters": {"rope_type": "default"},
}
PROBES = [{**CONFIG, **assignment} for assignment in probe_assignments(CONFIG)]


def seen(formula: Any) -> list[Any]:
    return [formula(probe) for probe in PROBES]


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        (lambda p: p["hidden_size"], "=hidden_size"),
        (lambda p: p["num_attention_heads"] * p["head_dim"], "=num_attention_heads * head_dim"),
        (lambda p: 2 * p["intermediate_size"], "=2 * intermediate_size"),
        (lambda p: p["head_dim"] ** -0.5, "=head_dim ** -0.5"),
        (lambda p: -p["rms_norm_eps"], "=-rms_norm_eps"),
        (lambda p: p["vocab_size"] / p["intermediate_size"], "=vocab_size / intermediate_size"),
        (lambda p: -(-p["hidden_size"] // 16), "=(hidden_size + 15) // 16"),
        (
            lambda p: p["num_attention_heads"] * (p["head_dim"] + p["intermediate_size"] + p["vocab_size"]),
            "=(intermediate_size + vocab_size + head_dim) * num_attention_heads",
        ),
        (lambda p: p["hidden_size"] // p["num_attention_heads"], "=hidden_size // num_attention_heads"),
        (
            lambda p: p["num_attention_heads"] * p["head_dim"] + 2 * (p["num_key_value_heads"] * p["head_dim"]),
            "=num_attention_heads * head_dim + 2 * num_key_value_heads * head_dim",
        ),
        (lambda p: 1.25 * p["head_dim"] ** -0.5, "=1.25 * head_dim ** -0.5"),
        (lambda p: 1.8738542070926267 * p["head_dim"] ** -0.5, "=1.8738542070926 * head_dim ** -0.5"),
        (lambda p: p["vocab_size"] - 1, "=vocab_size - 1"),
        (lambda p: -(-p["hidden_size"] // 16), "=(hidden_size + 15) // 16"),
        (
            lambda p: -(-(2 * p["vocab_size"] // 3) // p["head_dim"]) * p["head_dim"],
            "=(2 * vocab_size // 3 + head_dim - 1) // head_dim * head_dim",
        ),
        (lambda p: p["rms_norm_eps"], "=rms_norm_eps"),
        (lambda p: p["rope_parameters"], "=rope_parameters"),
        (lambda p: 7, 7),
        (lambda p: 0.25, 0.25),
        (lambda p: None, None),
        (lambda p: True, True),
        (lambda p: "silu", "silu"),
    ],
)
def test_a_number_is_expressed(formula: Any, expected: Any) -> None:
    assert express(seen(formula), PROBES) == expected


def test_a_table_that_holds_lists_is_the_field_that_equals_it() -> None:
    probes = [{**probe, "table": {"section": [index, 0]}} for index, probe in enumerate(PROBES)]
    assert express([freeze(probe["table"]) for probe in probes], probes) == "=table"


def test_a_whole_number_and_the_same_as_a_fraction_are_told_apart() -> None:
    assert express(seen(lambda p: float(p["head_dim"])), PROBES) == "=1.0 * head_dim"
    assert express(seen(lambda p: p["head_dim"]), PROBES) == "=head_dim"


def test_a_number_that_follows_from_nothing_is_not_guessed() -> None:
    assert express([11, 12, 17], PROBES) is None


def test_probes_are_valid_and_unlike() -> None:
    for probe in PROBES:
        assert probe["num_attention_heads"] % probe["num_key_value_heads"] == 0
        assert probe["hidden_size"] % probe["num_attention_heads"] == 0
        assert probe["head_dim"] % 2 == 0
    assert len({probe["hidden_size"] for probe in PROBES}) == len(PROBES)


def test_pinned_fields_keep_their_values() -> None:
    assert {a["vocab_size"] for a in probe_assignments(CONFIG, {"vocab_size"})} == {128256}
