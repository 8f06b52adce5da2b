"""Every field of eight families at odd values: told by its name, or a model that is made."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import pytest
import torch
from model_types import SUPPORTED

from canvas_rt.errors import CanvasError, ConfigError, UnsupportedModelError
from canvas_rt.importer.config import check_config
from canvas_rt.importer.config.classes import text_field
from canvas_rt.importer.factory import StockFactory, field_values, make_config
from canvas_rt.importer.small import small_config
from canvas_rt.importer.trace import quiet

FAMILIES = ("llama", "qwen3_moe", "gemma3_text", "gpt2", "deepseek_v3", "mamba2", "gpt_oss", "falcon")
NUMBERS: tuple[Any, ...] = (0, -1, 1, 3, 10**12, math.nan, "abc", None, [], True)
"""What a number becomes."""

OTHERS: tuple[Any, ...] = ("nonsense", "=hidden_size", "", 7, -1.5, None, [], ["nonsense"], {}, {"a": 1}, True)
"""What a text, a flag, a list or a table becomes."""

SLOWEST = 2.0
"""Seconds that a refusal may take."""

Case = tuple[str, str, Any]


@lru_cache(maxsize=8)
def base(model_type: str) -> dict[str, Any]:
    """All fields of a small model, given one by one."""
    given = check_config(small_config(model_type))
    values = field_values(make_config(StockFactory(given["model_type"]), given, model_type))
    return {**values, **given}


def cases(families: Iterable[str] = FAMILIES) -> Iterator[Case]:
    for model_type in families:
        for field, value in base(model_type).items():
            if field == "model_type":
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            for odd in NUMBERS if number or value is None else OTHERS:
                yield model_type, field, odd


def outcome(case: Case) -> tuple[str, str]:
    """What became of a case, and what is wrong with that."""
    model_type, field, odd = case
    given = {**base(model_type), field: odd}
    text = f"{model_type}: {field} = {odd!r}"
    started = time.perf_counter()
    try:
        config = make_config(StockFactory(model_type), check_config(given), "config.json")
    except (ConfigError, UnsupportedModelError) as error:
        took = time.perf_counter() - started
        told = field in str(error)
        by = "transformers" if "transformers refuses" in str(error) else "Canvas"
        slow = f"{text} took {took:.1f} s to refuse" if took > SLOWEST else ""
        return f"refused by {by}", slow or ("" if told else f"{text}: {error}")
    except Exception as error:
        return "failed", f"{text}: {type(error).__name__}: {error}"
    try:
        with quiet(), torch.device("meta"):
            StockFactory(model_type).build(config, attn_implementation="eager")
    except CanvasError:
        raise
    except Exception as error:
        return "failed", f"{text} is accepted, but not made: {type(error).__name__}: {str(error)[:200]}"
    return "made", ""


def run(chosen: Iterable[Case]) -> tuple[Counter[str], list[str]]:
    counts: Counter[str] = Counter()
    wrong = []
    for case in chosen:
        what, flaw = outcome(case)
        counts[what] += 1
        wrong += [flaw] if flaw else []
    print(f"\n{counts.total()} cases: " + ", ".join(f"{count} {what}" for what, count in counts.most_common()))
    return counts, wrong


def test_a_sample_of_odd_values_is_told_by_field_or_made() -> None:
    counts, wrong = run(list(cases())[::17])
    assert wrong == []
    assert counts["refused by Canvas"] > 10 * counts["refused by transformers"]


@pytest.mark.slow
def test_every_odd_value_is_told_by_field_or_made() -> None:
    counts, wrong = run(cases())
    assert wrong == []
    assert counts.total() >= 2000


@pytest.mark.slow
def test_of_all_model_types_hardly_a_value_is_not_told_by_field() -> None:
    """Some classes insist on what only their own code says: what those refuse is told when a model is made."""
    others = [name for name in SUPPORTED if name not in FAMILIES and text_field(name) is None]
    counts, wrong = run(cases(others))
    assert len(wrong) * 1000 < counts.total(), "\n".join(wrong)
