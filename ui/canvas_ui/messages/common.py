"""What all messages are made of."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_TEXT = 4 * 2**20
"""Characters of the largest document, clip or config that is taken from a browser."""

SessionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{16,64}$")]
"""Made by the browser, one for each tab: who knows it holds the session."""

Path = Annotated[str, Field(max_length=1000)]
"""Ids joined by dots, as in `model.layers.8-15.self_attn.q_proj`; the empty path is the whole model.

A block's input stands at `<block's path>.<input>`, its outputs at `<block's path>.return`.
"""

Short = Annotated[str, Field(max_length=200)]
Text = Annotated[str, Field(max_length=MOST_TEXT)]
Position = tuple[float, float]
"""x, y in canvas units, of a node's top left corner within the frame that holds it."""

Severity = Literal["error", "warning", "note"]


class Message(BaseModel):
    """Base of all messages: frozen, strict, and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, strict=True)


class Port(Message):
    """One end of a wire."""

    path: Path
    """The node."""

    port: Short
    """Its port."""
