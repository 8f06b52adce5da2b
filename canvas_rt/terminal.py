"""Speak to a person at a terminal, or to a machine."""

import json
import sys
from typing import Any


def printable(text: str) -> str:
    """Text from a file, without the control characters by which it could steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def say(text: object) -> None:
    print(printable(str(text)))


def progress(name: str) -> None:
    """Tell a person at a terminal what is going on."""
    if sys.stderr.isatty():
        print(f"\r\033[K{name} …", end="", file=sys.stderr, flush=True)


def done() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))
