"""The command line's options for a card and a scenario, made from the scenario's own fields."""

import argparse
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from canvas_rt.physics.scenario import Scenario

STRICT = ("mode", "dtype")
"""Fields whose choices argparse itself holds to: few words that everybody knows. The others are refused with a hint."""

BEFORE_SEQUENCE = 4096
"""Tokens of a sequence where nobody says how many, and the model takes as many."""


def count(text: str) -> int:
    """A number of sequences or tokens, as an argument."""
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 1 to 999999999")
    return int(text)


def amount(text: str) -> int:
    """A number that may be zero or large, with k, M, G or T behind it."""
    units = {"k": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
    digits, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    if not digits.isdecimal() or len(digits) > 15:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number, such as 16 or 15T")
    return int(digits) * unit


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def add_scenario(parser: argparse.ArgumentParser) -> None:
    """One option for each field of a scenario, and the card."""
    card = parser.add_argument_group("the card")
    card.add_argument("--hardware", default="a100-80gb", metavar="CARD", help="a card of 'canvas-rt hardware'")
    card.add_argument("--cards", type=Path, metavar="FILE.toml", help="cards of your own, in the form of hardware.toml")
    card.add_argument("--calibration", metavar="FILE.json", help="what 'canvas-rt calibrate' measured on such a card")
    group = parser.add_argument_group("the scenario")
    for field in fields(Scenario):
        _add(group, field)


def _add(group: Any, field: Any) -> None:
    option, told = "--" + field.name.replace("_", "-"), field.metadata["help"]
    choices = field.metadata.get("choices")
    if isinstance(field.default, bool):
        group.add_argument(option, action=argparse.BooleanOptionalAction, default=field.default, help=told)
        return
    usual = "" if field.default in ((), 0, MISSING) else f" ({field.default})"
    settings: dict[str, Any] = {"default": field.default, "help": told + usual}
    if isinstance(field.default, tuple):
        settings |= {"type": names, "metavar": "NAME,…"}
    elif isinstance(field.default, int):
        settings |= {"type": _kind(field.name), "metavar": "N"}
    elif choices and field.name in STRICT:
        settings["choices"] = list(choices)
    elif choices:
        settings["metavar"] = "|".join(choices)
    else:
        settings["metavar"] = field.name.upper()
    if field.name == "sequence":
        settings |= {"default": None, "help": f"{told} ({BEFORE_SEQUENCE}, or all that the model takes)"}
    group.add_argument(option, **settings)


def _kind(name: str) -> Callable[[str], int]:
    return count if name in ("batch", "sequence") else amount


def scenario_of(document: Any, chosen: argparse.Namespace) -> Scenario:
    """The scenario that was asked for. Without a sequence it is as long as the model takes, up to a bound."""
    given = {field.name: getattr(chosen, field.name) for field in fields(Scenario)}
    if given["sequence"] is None:
        positions = document.environment.get("max_position_embeddings")
        known = isinstance(positions, int) and positions > 0
        most = positions if known else BEFORE_SEQUENCE
        spare = given["generate"] if given["mode"] == "chat" else 0
        given["sequence"] = max(1, min(BEFORE_SEQUENCE, most - spare))
    return Scenario(**given)


def card_of(chosen: argparse.Namespace) -> dict[str, Any]:
    """What `measure` takes for a card."""
    from canvas_rt.physics.calibration import load_calibration

    calibration = None if chosen.calibration is None else load_calibration(chosen.calibration)
    return {"hardware": chosen.hardware, "cards": chosen.cards, "calibration": calibration}
