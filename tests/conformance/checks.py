"""What Hugging Face asks of a model, as checks by transformers, accelerate, PEFT and TRL themselves: each takes a `Subject`.

A check says nothing of families. Where an emitted model fails one, the class of transformers that it comes from is asked
the same (`verdict`): what that cannot do either does not apply.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from conformance.subjects import Subject

Check = Callable[[Subject], None]
CHECKS: dict[str, Check] = {}
"""Every check by its name."""

OWN: set[str] = set()
"""Those that ask what only an emitted model promises: no class of transformers is asked."""

LONG: set[str] = set()
"""Those that take seconds."""

SLOW: set[str] = set()
"""Those that take a minute."""

CLOSE = {"rtol": 1e-4, "atol": 5e-5}
"""Sums in another order differ by so much in fp32."""


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def own(function: Check) -> Check:
    OWN.add(function.__name__)
    return function


def long(function: Check) -> Check:
    LONG.add(function.__name__)
    return function


def slow(function: Check) -> Check:
    SLOW.add(function.__name__)
    return function


@dataclass(frozen=True)
class Verdict:
    """What became of a check."""

    passed: bool | None
    """None where it does not apply."""

    why: str = ""


def verdict(name: str, subject: Subject, stock: Subject) -> Verdict:
    """Whether a subject passes a check; None where the class of transformers does not."""
    try:
        with unchanged():
            CHECKS[name](subject)
        return Verdict(True)
    except pytest.skip.Exception as skipped:
        return Verdict(None, str(skipped))
    except Exception as error:
        ours = error
    if name not in OWN:
        try:
            with unchanged():
                CHECKS[name](stock)
        except (Exception, pytest.skip.Exception) as theirs:
            return Verdict(None, f"{type(stock.loaded).__name__} of transformers fails it too: {_short(theirs)}")
    raise ours


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


@contextmanager
def unchanged() -> Iterator[None]:
    """Random numbers and what is registered with transformers are afterwards as before."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
        for registry in (AttentionInterface, AttentionMaskInterface):
            registry._global_mapping.pop("canvas_test", None)


# what checks share


def run(model: Any, ids: Tensor, **given: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=ids, **given)


def logits(model: Any, ids: Tensor, **given: Any) -> Tensor:
    return run(model, ids, **given).logits


def generate(model: Any, ids: Tensor, **options: Any) -> Tensor:
    """The tokens that are generated."""
    given = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, **options}
    given.setdefault("attention_mask", torch.ones_like(ids))
    return model.generate(ids, **given)[:, ids.shape[1] :]


def alike(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, **CLOSE)


def padded(ids: Tensor, count: int, left: bool = True) -> tuple[Tensor, Tensor]:
    """Tokens with padding, and the mask that hides it."""
    pad, real = torch.zeros(len(ids), count, dtype=torch.long), torch.ones_like(ids)
    order = (pad, ids) if left else (ids, pad)
    masks = (pad, real) if left else (real, pad)
    return torch.cat(order, 1), torch.cat(masks, 1)


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], msg=lambda text, name=name: f"{name}: {text}", **CLOSE)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)
