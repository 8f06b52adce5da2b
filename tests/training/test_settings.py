import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canvas_rt import Document, apply, measure, open_zoo
from canvas_rt.edits import SetSize
from canvas_rt.errors import CanvasError
from canvas_rt.physics.scenario import Scenario
from canvas_rt.training.data import read_data
from canvas_rt.training.settings import Setting, Settings, Wishes, choose
from canvas_rt.training.tokens import Tokens

TOKENS = Tokens(None, None, 4096, {}, 10**9, 6.0)


def chosen(document: Document, tokens: Tokens = TOKENS, *, weights: bool = False, **wishes: Any) -> Settings:
    return choose(document, read_data(), tokens, Wishes(**wishes), weights=weights)


@given(st.text(), st.text(), st.lists(st.text(), max_size=3))
def test_settings_are_toml_whatever_their_texts(value: str, reason: str, names: list[str]) -> None:
    encodable = value.encode("utf-8", "ignore").decode()
    files = tuple(name.encode("utf-8", "ignore").decode() for name in names)
    settings = Settings({"data": (Setting("a", encodable, reason), Setting("b", files, reason))}, 1)
    assert tomllib.loads(settings.to_toml()) == {"data": {"a": encodable, "b": list(files)}}


def test_what_is_chosen_fits_the_card_and_the_next_batch_would_not() -> None:
    document = open_zoo("llama-3.2-1b")
    settings = chosen(document, sequence=4096)
    batch = settings.value("gpu", "batch")
    scenario = Scenario(batch=batch, sequence=4096, dtype="mixed")
    assert settings.value("gpu", "dtype") == "mixed" and not settings.value("gpu", "recompute")
    assert measure(document, scenario=scenario).fits
    assert not measure(document, scenario=scenario.but(batch=2 * batch)).fits
    assert settings.value("gpu", "predicted_memory") == measure(document, scenario=scenario).memory.peak_allocated


def test_where_32_bits_do_not_fit_it_recomputes_or_takes_16_and_then_more_cards() -> None:
    eight = chosen(open_zoo("llama-3.1-8b"))
    assert eight.cards == 1 and eight.value("gpu", "dtype") == "bfloat16"
    seventy = chosen(open_zoo("llama-3.1-70b"))
    assert seventy.cards > 8 and seventy.value("gpu", "recompute") and seventy.value("gpu", "dtype") == "mixed"
    assert seventy.value("gpu", "sequences_per_step") % seventy.cards == 0


def test_a_batch_that_cannot_fit_is_refused_with_one_that_does() -> None:
    with pytest.raises(CanvasError, match=r"--batch: 4096 × 1024 tokens do not fit.*\nTry a --batch of \d+") as raised:
        chosen(open_zoo("llama-3.1-8b"), batch=4096)
    largest = int(str(raised.value).partition("--batch of ")[2].partition(",")[0])
    assert chosen(open_zoo("llama-3.1-8b"), batch=largest).value("gpu", "batch") == largest


def test_a_step_has_as_many_sequences_as_a_batch_that_was_asked_for(edited_llama: Document) -> None:
    settings = chosen(edited_llama, batch=3, sequence=64)
    assert settings.value("gpu", "batch") == 3
    assert settings.value("gpu", "sequences_per_step") % 3 == 0


def test_no_sequence_is_longer_than_the_model_takes(edited_llama: Document) -> None:
    short = apply(edited_llama, SetSize("", "max_position_embeddings", 128))
    settings = chosen(short)
    assert settings.value("gpu", "sequence") == settings.value("cpu", "sequence") == 128
    with pytest.raises(CanvasError, match="--sequence: the model takes 128 positions, not 129"):
        chosen(short, sequence=129)


def test_few_tokens_give_short_sequences_and_none_are_refused(edited_llama: Document) -> None:
    few = Tokens(None, None, 320, {}, 100, 3.0)
    assert chosen(edited_llama, few).value("gpu", "sequence") == 50
    with pytest.raises(CanvasError, match="3 tokens are too few"):
        chosen(edited_llama, Tokens(None, None, 320, {}, 3, 1.0))


def test_what_was_wished_is_taken_and_everything_has_a_reason(edited_llama: Document) -> None:
    settings = chosen(edited_llama, steps=7, learning_rate=0.5, seed=3, streaming=True, weights=True)
    found = tomllib.loads(settings.to_toml())
    assert (found["run"]["steps"], found["run"]["learning_rate"], found["seed"]) == (7, 0.5, 3)
    assert found["data"]["streaming"] and found["model"]["weights"]
    assert all(setting.reason for section in settings.sections.values() for setting in section)


def test_an_unknown_card_is_named(edited_llama: Document, tmp_path: Path) -> None:
    with pytest.raises(CanvasError, match="unknown card 'a10O'"):
        chosen(edited_llama, hardware="a10O")
