"""What a whole model is given, by its task: tokens, or images of the size that it was made for."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from canvas_rt.errors import CanvasError
from canvas_rt.ir.tasks import Task


def given_shape(task: Task, environment: Mapping[str, Any], batch: int, sequence: int) -> tuple[int, ...]:
    """The shape of a model's input: [batch, seq] of tokens, or [batch, channels, height, width].

    Raises `CanvasError` where the model's sizes do not say how large an image is.
    """
    if task.of_tokens:
        return batch, sequence
    channels, size = environment.get("num_channels"), environment.get("image_size")
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    counts = (channels, *sides)
    if len(sides) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in counts):
        hint = "Set num_channels and image_size, as configs of image models have them."
        raise CanvasError("does not say how large an image is", path="sizes", hint=hint)
    return batch, *(int(n) for n in counts)


def given_shapes(
    task: Task, names: Iterable[str], environment: Mapping[str, Any], lengths: tuple[int, int, int]
) -> dict[str, tuple[int, ...]]:
    """The shape of each input of a whole model, by its name. `lengths`: sequences, tokens of each, what an encoder reads.

    Raises `CanvasError` as `given_shape` does.
    """
    batch, sequence, source = lengths
    own = given_shape(task, environment, batch, source if task.decodes else sequence)
    return {name: (batch, sequence) if name == task.decodes else own for name in names}


def given_dtype(task: Task, dtype: torch.dtype) -> torch.dtype:
    """Of a model's input, in a model of some dtype."""
    return torch.int64 if task.of_tokens else dtype


__all__ = ["given_dtype", "given_shape", "given_shapes"]
