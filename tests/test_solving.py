"""What is found fits, and the next does not."""

from typing import Any

import pytest

from canvas_rt import measure, solve
from canvas_rt.edits import SetSize, apply
from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document

BUDGET = 700 * 2**20
"""The context alone takes 512 MiB."""


@pytest.mark.parametrize("settings", [{}, {"mode": "decode"}, {"recompute": "full"}], ids=str)
def test_the_largest_batch_fits_and_one_more_does_not(settings: dict[str, Any], small_llama: Document) -> None:
    found = solve(small_llama, "batch", budget=BUDGET, sequence=64, **settings)
    value = int(found.value)
    assert found.report.memory.device_total <= BUDGET
    assert found.report == measure(small_llama, batch=value, sequence=64, thorough=True, **settings)
    more = measure(small_llama, batch=value + 1, sequence=64, thorough=True, **settings)
    assert more.memory.device_total > BUDGET
    assert f"batch {value + 1} takes" in found.limit


def test_a_sequence_ends_with_the_positions(small_llama: Document) -> None:
    found = solve(small_llama, "sequence")
    positions = small_llama.environment["max_position_embeddings"]
    assert (found.value, found.limit) == (positions // 64 * 64, f"max_position_embeddings is {positions}")


@pytest.mark.parametrize("what", ["layers", "hidden_size", "vocab_size", "intermediate_size"])
def test_the_largest_size_is_sound_and_fits(what: str, small_llama: Document) -> None:
    found = solve(small_llama, what, budget=BUDGET, sequence=64)
    name = "num_hidden_layers" if what == "layers" else what
    assert found.report == measure(apply(small_llama, SetSize("", name, int(found.value))), sequence=64, thorough=True)
    assert found.report.memory.device_total <= BUDGET
    assert found.measured < 60


def test_the_cheapest_recomputation_is_none_where_there_is_room(small_llama: Document) -> None:
    assert solve(small_llama, "recompute", sequence=64).value == "none"


def test_the_smallest_card_is_enough_and_smaller_ones_are_not(small_llama: Document) -> None:
    document = apply(small_llama, SetSize("", "vocab_size", 1_000_000), SetSize("", "hidden_size", 4096))
    found = solve(document, "hardware", sequence=64)
    assert found.report.fits
    assert "GiB, and it takes" in found.limit


@pytest.mark.parametrize(
    ("what", "settings", "message"),
    [
        ("colour", {}, r"cannot solve for 'colour'\nKnown: batch"),
        ("batch", {"budget": 2**20}, r"not even batch 1 fits 0.00 GiB: it takes .* GiB\nRecompute"),
        ("recompute", {"budget": 2**20}, "not even recompute"),
        ("batch", {"optimizer": "adamv"}, "unknown optimizer"),
    ],
)
def test_what_has_no_answer_is_told(what: str, settings: dict[str, Any], message: str, small_llama: Document) -> None:
    with pytest.raises(CanvasError, match=message):
        solve(small_llama, what, sequence=64, **settings)


def test_a_size_that_follows_from_others_is_not_solved_for(small_llama: Document) -> None:
    derived = small_llama.replace(sizes=small_llama.sizes.with_items({"twice": "=2 * hidden_size"}))
    with pytest.raises(CanvasError, match=r"twice follows from 2 \* hidden_size"):
        solve(derived, "twice", sequence=64)
