"""What a block's inputs and outputs are called: semantic values keep their names, anything else is the stream."""

from collections.abc import Iterable, Sequence

from canvas_rt.ir.frozen import FrozenMap

SEMANTIC_PORTS = ("cos", "sin", "phases", "position_ids")
ENCODED = "encoder_hidden_states"
"""The port of what an encoder gives, where a decoder's own stream flows in too."""

KEPT_PORTS = (
    *SEMANTIC_PORTS,
    "input_ids",
    "decoder_input_ids",
    ENCODED,
    "token_type_ids",
    "pixel_values",
    "indices",
    "weights",
)
"""Ports that keep their name from block to block; any other value that flows in is the stream, `hidden_states`."""


def place_of_port(port: str) -> tuple[int, int]:
    """Where an input stands among others: the stream first, what follows from positions last, each sine beside its cosine."""
    if port == "hidden_states":
        return -2, 0
    if port == "token_type_ids":  # which go with the tokens
        return 0, 0
    stem, _, number = port.rpartition("_")
    stem, place = (stem, int(number)) if number.isdecimal() else (port, 0)
    return (place, SEMANTIC_PORTS.index(stem)) if stem in SEMANTIC_PORTS else (-1, 0)


def stream_first(pairs: Iterable[tuple[str, str]]) -> FrozenMap[str, str]:
    """What feeds a block, the stream first."""
    return FrozenMap(dict(sorted(pairs, key=lambda pair: place_of_port(pair[0]))))


def output_ports(count: int) -> list[str]:
    """Names of what a block gives."""
    return ["out", *(f"out_{index}" for index in range(1, count))]


def is_encoded(shape: tuple[int, ...], others: Sequence[tuple[int, ...]], given: tuple[int, ...]) -> bool:
    """Whether a value of such a shape is what an encoder gives, and stands beside a decoder's own stream."""
    batch, sequence, *source = given
    streams = any(other[:2] == (batch, sequence) for other in others)
    return streams and len(shape) == 3 and list(shape[:2]) == [batch, *source]
