"""What a module keeps without learning it is told by looking, as ops that make the same tensor again."""

import pytest
import torch
from torch import Tensor

from canvas_rt.importer.buffers import Buffer, buffer_of
from canvas_rt.ops.catalogue import OPS
from canvas_rt.ops.dispatch import kernel
from canvas_rt.ops.kernels import Context


def made(buffer: Buffer, dtype: torch.dtype) -> Tensor:
    """What a buffer's ops compute, one after another."""
    context, values = Context(1, 1, torch.device("cpu"), dtype), ()
    for op, attrs in buffer.steps:
        settings = {name: setting.default for name, setting in OPS[op].settings.items()} | attrs
        values = kernel(op)(dict(zip(OPS[op].inputs, values, strict=True)), settings, {}, context)
    return values[0]


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor(2.5),
        torch.tensor(3, dtype=torch.bfloat16),
        torch.tensor(-1e9, dtype=torch.float32),
        torch.tensor(7),
        torch.full((2, 3), 0.5),
        torch.zeros(4, dtype=torch.int64),
        torch.ones(2, 2, dtype=torch.bool),
        torch.ones(1, 1, 5, 5, dtype=torch.bool).tril(),
    ],
)
def test_a_buffer_is_ops_that_make_it(value: Tensor) -> None:
    buffer = buffer_of(value)
    assert buffer is not None and not buffer.positions
    again = made(buffer, torch.bfloat16)
    assert (again.dtype, again.shape) == (value.dtype, value.shape) and torch.equal(again, value)


@pytest.mark.parametrize("value", [torch.arange(9), torch.arange(9)[None]])
def test_a_buffer_that_numbers_positions_is_known_as_such(value: Tensor) -> None:
    assert buffer_of(value) == Buffer(positions=True)


@pytest.mark.parametrize("value", [torch.arange(9).float(), torch.arange(9).flip(0), torch.eye(3), torch.empty(0)])
def test_other_buffers_are_not_guessed(value: Tensor) -> None:
    assert buffer_of(value) is None
