"""The formulas of other tools give what their own documents say."""

import pytest

from benchmarks.peer_formulas import accelerate_estimate, viewed, zero2_bytes, zero3_bytes

GIB, MIB = 2**30, 2**20
T5_3B = {"parameters": 2851e6, "cards": 8}
"""The example of https://deepspeed.readthedocs.io/en/latest/memory.html: 2851M parameters, 32M in the largest layer."""


@pytest.mark.parametrize(("offload", "gib"), [(True, 5.31), (False, 11.28)])
def test_zero_2_has_two_bytes_for_a_parameter_and_eighteen_that_are_shared(offload: bool, gib: float) -> None:
    # Where nothing is offloaded the page still shows 15.93, of an older formula: the code (0.19.8) has 2 + 18 / GPUs.
    assert zero2_bytes(**T5_3B, offload=offload) / GIB == pytest.approx(gib, abs=0.005)


@pytest.mark.parametrize(
    ("offload", "offload_weights", "gib"), [(True, True, 0.12), (True, False, 0.78), (False, False, 6.09)]
)
def test_zero_3_gives_its_documented_example(offload: bool, offload_weights: bool, gib: float) -> None:
    found = zero3_bytes(**T5_3B, largest_layer=32e6, offload=offload, offload_weights=offload_weights)
    assert found / GIB == pytest.approx(gib, abs=0.005)


@pytest.mark.parametrize(
    ("offload", "offload_weights", "mib"), [(False, False, 3291), (True, True, 125), (True, False, 477)]
)
def test_zero_3_gives_its_documented_example_of_four_cards(offload: bool, offload_weights: bool, mib: int) -> None:
    found = zero3_bytes(737.67e6, 32.90e6, 4, offload=offload, offload_weights=offload_weights)
    assert found / MIB == pytest.approx(mib, abs=1)


LLAMA_2_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "num_hidden_layers": 32,
    "vocab_size": 32000,
}
TABLE_1 = {
    False: {
        "q_proj": ("69G", "67M"),
        "k_proj": ("69G", "67M"),
        "gate_proj": ("185G", "152M"),
        "down_proj": ("185G", "152M"),
        "qk_matmul": ("34G", "302M"),
        "sv_matmul": ("34G", "302M"),
        "softmax": ("671M", "537M"),
        "attn_norm": ("59M", "34M"),
        "attn_add": ("8M", "34M"),
    },
    True: {
        "q_proj": ("34M", "34M"),
        "gate_proj": ("90M", "90M"),
        "qk_matmul": ("17M", "17M"),
        "sv_matmul": ("17M", "17M"),
        "softmax": ("328K", "262K"),
        "attn_norm": ("29K", "16K"),
        "attn_add": ("4K", "16K"),
    },
}
"""Operations and bytes of Llama-2-7b with 2048 tokens, from table 1 of arXiv 2402.16363."""


def printed(number: float) -> str:
    """As the paper prints it."""
    unit, letter = next((unit, letter) for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "K")) if number >= unit)
    return f"{number / unit:.0f}{letter}"


@pytest.mark.parametrize("decode", TABLE_1)
def test_llm_viewer_gives_the_table_of_its_paper(decode: bool) -> None:
    layer = viewed(LLAMA_2_7B, batch=1, sequence=2048, decode=decode).layer
    for name, (operations, moved) in TABLE_1[decode].items():
        assert (printed(layer[name].operations), printed(layer[name].moved)) == (operations, moved), name


def test_llm_viewer_has_prefill_bound_by_arithmetic_and_decoding_by_memory_on_an_a6000() -> None:
    for decode, bound in ((False, 155e12), (True, 768e9)):
        op = viewed(LLAMA_2_7B, batch=1, sequence=2048, decode=decode).layer["q_proj"]
        assert op.operations / op.seconds(155e12, 768e9) == pytest.approx(bound, rel=0.01)


def test_accelerate_gives_its_documented_example() -> None:
    """Of bert-base-cased: 413.18 MiB in float32, four times that to train (its page on the model size estimator)."""
    from transformers import BertConfig

    found = accelerate_estimate(BertConfig(vocab_size=28996))
    assert found.weights["float32"] / MIB == pytest.approx(413.18, abs=0.02)
    assert found.weights["float16"] / MIB == pytest.approx(206.59, abs=0.02)
    assert found.training["float32"] / GIB == pytest.approx(1.61, abs=0.01)
