"""A flawed config is told by the name of its field before transformers sees it; a sound one imports."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from canvas_rt.errors import CanvasError, ConfigError, UnsupportedModelError
from canvas_rt.importer import import_model
from canvas_rt.importer.config import check_config, ignored_fields
from canvas_rt.physics import check

Config = dict[str, Any]

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "attention_factor": 1.2,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 0.5,
    "truncate": True,
}
BOTH: Config = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-5,
    "use_cache": True,
    "tie_word_embeddings": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
}
LLAMA: Config = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    **BOTH,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "attention_bias": False,
    "mlp_bias": False,
    "torch_dtype": "bfloat16",
    "rope_theta": 10000.0,
    "rope_scaling": LLAMA3,
}
MISTRAL: Config = {
    "model_type": "mistral",
    **BOTH,
    "eos_token_id": [2, 3],
    "pad_token_id": None,
    "dtype": "bfloat16",
    "sliding_window": 32,
    "rope_parameters": YARN,
}

WHOLE = "must be a whole number"
CODE = "Canvas never runs code that a config names"

FLAWS: tuple[tuple[str, Any, str], ...] = (
    ("hidden_size", "64", f'hidden_size: {WHOLE}, not "64"'),
    ("hidden_size", 64.0, f"hidden_size: {WHOLE}, not 64.0"),
    ("hidden_size", True, f"hidden_size: {WHOLE}, not true"),
    ("hidden_size", None, f"hidden_size: {WHOLE}, not null"),
    ("hidden_size", -64, "hidden_size: must be between 1 and 2147483647, not -64"),
    ("hidden_size", 2**70, "hidden_size: must be between 1 and"),
    ("num_hidden_layers", 10**7, "num_hidden_layers: is 10000000; Canvas stops at 4096 layers"),
    ("num_hidden_layers", 0, "num_hidden_layers: must be between 1"),
    ("num_attention_heads", 0, "num_attention_heads: must be between 1"),
    ("num_key_value_heads", 3, "num_attention_heads (4) is not a multiple of num_key_value_heads (3)"),
    ("num_key_value_heads", 8, "num_attention_heads (4) is not a multiple of num_key_value_heads (8)"),
    ("head_dim", 15, "head_dim: 15 is odd; rotary positions turn pairs of channels"),
    ("vocab_size", [128], f"vocab_size: {WHOLE}, not [128]"),
    ("intermediate_size", {"a": 1}, f"intermediate_size: {WHOLE}, not an object of 1 fields"),
    ("pad_token_id", 128, "pad_token_id: is 128, beyond the last token, 127"),
    ("pad_token_id", -2, "pad_token_id: must be a token id or null, not -2"),
    ("eos_token_id", [], "eos_token_id: must be a token id, a list of them or null"),
    ("eos_token_id", [1, "2"], 'eos_token_id[1]: must be a token id or null, not "2"'),
    ("bos_token_id", [1], "bos_token_id: must be a token id or null, not [1]"),
    ("rms_norm_eps", "1e-5", 'rms_norm_eps: must be a number between 0 and 1, not "1e-5"'),
    ("rms_norm_eps", 0, "rms_norm_eps: must be a number between 0 and 1, not 0"),
    ("rms_norm_eps", math.nan, "rms_norm_eps: must be a number between 0 and 1, not NaN"),
    ("attention_dropout", 2, "attention_dropout: must be a number from 0 to 1, not 2"),
    ("initializer_range", math.inf, "initializer_range: must be a number from 0 to 1, not Infinity"),
    ("hidden_act", "sillu", 'hidden_act: "sillu" is not an activation that Canvas knows'),
    ("use_cache", "yes", 'use_cache: must be true or false, not "yes"'),
    ("dtype", "load", 'dtype: "load" is not a dtype of weights'),
    ("torch_dtype", 16, "torch_dtype: 16 is not a dtype of weights"),
    ("rope_theta", 0, "rope_theta: must be a number above 1"),
    (
        "architectures",
        ["LlamaForSequenceClassification"],
        'architectures: "LlamaForSequenceClassification" is no causal',
    ),
    ("architectures", "LlamaForCausalLM", "architectures: must be a list of class names"),
    ("auto_map", {"AutoConfig": "configuration.Evil"}, f"auto_map: is not accepted: {CODE}"),
    ("trust_remote_code", True, f"trust_remote_code: is not accepted: {CODE}"),
    ("custom_pipelines", {"x": {"impl": "evil.Pipe"}}, f"custom_pipelines: is not accepted: {CODE}"),
    ("attn_implementation", "some/kernel", 'attn_implementation: "some/kernel" is not accepted: Canvas never loads'),
    ("_attn_implementation", "some/kernel", "_attn_implementation: "),
    ("quantization_config", {"quant_method": "gptq"}, "quantization_config: is not supported"),
    ("layer_types", ["full_attention"] * 2, "layer_types: is not supported: layers of this model type are alike"),
    ("per_layer_config", {"0": {"head_dim": 8}}, "per_layer_config: is not supported"),
    ("text_config", {"model_type": "llama"}, "text_config: is not supported: a config within the config"),
    ("is_encoder_decoder", True, "is_encoder_decoder: is not supported"),
    ("partial_rotary_factor", 0.5, "partial_rotary_factor: must be 1, not 0.5"),
)

ROPE_FLAWS: tuple[tuple[Any, str], ...] = (
    (5, "must be an object or null, not 5"),
    ({"rope_type": "ntk"}, 'rope_type: "ntk" is not supported'),
    ({"rope_type": ["yarn"]}, 'rope_type: ["yarn"] is not supported'),
    ({"rope_type": "linear"}, "factor: is missing: rope_type 'linear' needs it"),
    ({"rope_type": "linear", "factor": 0.5}, "factor: must be a number from 1 to"),
    ({"rope_type": "linear", "factor": "2"}, "factor: must be a number from 1 to"),
    ({"rope_type": "linear", "type": "dynamic", "factor": 2}, 'type: is "dynamic", but rope_type is "linear"'),
    ({**LLAMA3, "low_freq_factor": None}, "low_freq_factor: is missing"),
    ({**LLAMA3, "high_freq_factor": 0.5}, "high_freq_factor: (0.5) must be at least low_freq_factor (1.0)"),
    ({**LLAMA3, "original_max_position_embeddings": 1.5}, f"original_max_position_embeddings: {WHOLE}"),
    ({**YARN, "beta_fast": 0.5}, "beta_fast: (0.5) must be greater than beta_slow (1)"),
    ({**YARN, "attention_factor": -1}, "attention_factor: must be a number above 0"),
    ({**YARN, "truncate": 1}, "truncate: must be true or false, not 1"),
    ({**YARN, "partial_rotary_factor": 0.5}, "partial_rotary_factor: must be 1, not 0.5"),
    ({"full_attention": {"rope_type": "default"}}, 'holds "full_attention" for some layers'),
)


def refusal(config: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    return str(caught.value)


@pytest.mark.parametrize("base", [LLAMA, MISTRAL], ids=["llama", "mistral"])
@pytest.mark.parametrize(("field", "value", "message"), FLAWS, ids=lambda value: str(value)[:30])
def test_a_flaw_is_told_by_its_field(base: Config, field: str, value: Any, message: str) -> None:
    assert message in refusal({**base, field: value})


@pytest.mark.parametrize("field", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(("rope", "message"), ROPE_FLAWS, ids=lambda value: str(value)[:30])
def test_a_flaw_of_the_rotary_parameters_is_told_by_its_field(field: str, rope: Any, message: str) -> None:
    base = {name: value for name, value in LLAMA.items() if not name.startswith("rope")}
    assert f"config.json: {field}: {message}" in refusal({**base, field: rope})


@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"])
def test_a_size_that_is_left_out_is_missed(field: str) -> None:
    assert f"{field}: is missing" in refusal({name: value for name, value in LLAMA.items() if name != field})


def test_the_hidden_size_is_a_multiple_of_the_heads_where_nothing_else_says_how_wide_they_are() -> None:
    message = "hidden_size (66) is not a multiple of num_attention_heads (4)"
    assert message in refusal({**LLAMA, "hidden_size": 66})
    assert message in refusal({**MISTRAL, "hidden_size": 66, "head_dim": None})
    assert check_config({**MISTRAL, "hidden_size": 66})["hidden_size"] == 66


def test_the_width_of_a_bloom_may_have_its_old_name() -> None:
    config = {"model_type": "bloom", "vocab_size": 128, "n_layer": 2, "n_head": 4}
    assert check_config({**config, "n_embed": 64}) == check_config({**config, "hidden_size": 64})


def test_rope_theta_is_given_once() -> None:
    assert "rope_theta: is 500.0, but rope_parameters has 10000.0" in refusal({**MISTRAL, "rope_theta": 500.0})
    assert check_config({**MISTRAL, "rope_theta": 10000.0})["rope_parameters"] == YARN


def test_a_mistral_without_key_value_heads_has_those_of_its_class() -> None:
    left_out = {name: value for name, value in MISTRAL.items() if name != "num_key_value_heads"}
    assert "num_key_value_heads (8, left out)" in refusal(left_out)
    assert check_config({**MISTRAL, "num_key_value_heads": None})["num_key_value_heads"] == 4


@pytest.mark.parametrize("raw", [None, [], "llama", 5, {}, {"model_type": 5}, {"model_type": ""}], ids=str)
def test_what_is_no_config_is_told(raw: Any) -> None:
    assert refusal(raw).startswith("config.json: ")


def test_an_unknown_model_type_is_offered_the_nearest() -> None:
    with pytest.raises(
        UnsupportedModelError, match='model_type: model type "lama" cannot be imported yet\nDid you mean llama'
    ):
        check_config({**LLAMA, "model_type": "lama"})


def test_matrices_beyond_64_bits_are_refused() -> None:
    assert "vocab_size: gives a matrix of" in refusal({**MISTRAL, "vocab_size": 2**31 - 1, "hidden_size": 2**20})


def test_huge_values_are_cut_in_messages() -> None:
    assert len(refusal({**LLAMA, "hidden_size": "9" * 10**6})) < 300
    assert len(refusal({**LLAMA, "hidden_size": ["9"] * 10**5})) < 300


def test_what_says_nothing_of_the_architecture_never_reaches_transformers() -> None:
    noise = {
        "num_labels": 10**7,
        "id2label": {str(i): "x" for i in range(1000)},
        "attn_implementation": "sdpa",
        "layer_types": None,
        "_name_or_path": "somewhere",
        "my_field": [0] * 2,
        "to_dict": 5,
        "sub_configs": {},
    }
    assert check_config({**LLAMA, **noise}) == check_config(LLAMA)
    assert ignored_fields({**LLAMA, **noise}) == ("my_field", "to_dict", "sub_configs")


def test_rotary_parameters_are_spelt_in_one_way() -> None:
    old = {**MISTRAL, "rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0, "finetuned": True}}
    assert check_config(old)["rope_parameters"] == {"rope_type": "linear", "factor": 2.0}
    assert "rope_scaling" not in check_config(old)
    given_twice = {**MISTRAL, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    assert "rope_scaling: differs from rope_parameters" in refusal(given_twice)


def test_the_report_names_the_fields_that_mean_nothing() -> None:
    _, report = import_model({**LLAMA, "my_field": 1})
    assert "my_field" in report.without_effect


# Every field with every odd value: an error that names the field, or a document without flaws.

ODD = (
    0,
    -1,
    1,
    2**31,
    2**31 - 1,
    2**70,
    1.5,
    math.nan,
    math.inf,
    1e300,
    "abc",
    "=hidden_size",
    None,
    [],
    [1, 2],
    {},
    {"a": 1},
    True,
)
MISSING = object()


def mutations(base: Config) -> Iterator[tuple[str, Config]]:
    """A config for each field and odd value, and the field's name."""
    for field, value in base.items():
        for odd in (*ODD, MISSING):
            yield field, replaced(base, field, odd)
        for inner in value if isinstance(value, Mapping) else ():
            for odd in (*ODD, MISSING):
                yield inner, {**base, field: replaced(value, inner, odd)}


def replaced(table: Mapping[str, Any], key: str, value: Any) -> Config:
    return {name: old for name, old in table.items() if name != key} | ({} if value is MISSING else {key: value})


def told_or_sound(field: str, config: Config) -> str:
    """What happened, where it should not have."""
    try:
        document, _ = import_model(config)
    except CanvasError as error:
        told = field in str(error) and "transformers refuses" not in str(error)
        return "" if told else f"{field} = {config.get(field, '…')!r}: {error}"
    found = check(document)
    return "" if found.ok else f"{field} = {config.get(field, '…')!r}: {found.diagnostics[0]}"


MUTATIONS = [*mutations(LLAMA), *mutations(MISTRAL)]


def refused(config: Config) -> bool:
    try:
        check_config(config)
    except CanvasError:
        return True
    return False


def test_an_odd_value_is_told_by_its_field() -> None:
    flawed = [(field, config) for field, config in MUTATIONS if refused(config)]
    assert len(flawed) > 900
    assert [text for text in (told_or_sound(*mutation) for mutation in flawed) if text] == []


@pytest.mark.parametrize("index", range(4))
def test_an_odd_value_that_is_accepted_imports_without_flaws(index: int) -> None:
    accepted = [(field, config) for field, config in MUTATIONS if not refused(config)]
    field, config = accepted[index * len(accepted) // 4]
    assert told_or_sound(field, config) == ""


@pytest.mark.slow
def test_every_odd_value_that_is_accepted_imports_without_flaws() -> None:
    unlike: dict[str, tuple[str, Config]] = {}
    for field, config in MUTATIONS:
        if not refused(config):
            unlike.setdefault(json.dumps(check_config(config), sort_keys=True), (field, config))
    assert [text for text in (told_or_sound(*mutation) for mutation in unlike.values()) if text] == []
