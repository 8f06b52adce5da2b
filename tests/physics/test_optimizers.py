"""What an optimizer makes and keeps is what PyTorch's own makes and keeps, over all tensors at once."""

from collections.abc import Iterator
from itertools import accumulate

import pytest
import torch
from torch import Tensor

from canvas_rt.physics.optimizers import Learner, Step, step
from canvas_rt.physics.tape import Event, Tape

SHAPES: list[tuple[int, ...]] = [(50, 64), (64,), (64, 64), (64, 96), (64,), (96, 64), (64,), (50, 64)]
BF16 = torch.bfloat16


def really(name: str, foreach: bool, learners: list[Learner]) -> list[Event]:
    """The events of a second step over all tensors together."""
    parameters = [torch.empty(shape, dtype=dtype, device="meta", requires_grad=True) for shape, dtype in learners]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    kind, settings = {
        "adamw": (torch.optim.AdamW, {}),
        "adam": (torch.optim.Adam, {}),
        "sgd": (torch.optim.SGD, {}),
        "sgd-momentum": (torch.optim.SGD, {"momentum": 0.9}),
        "adafactor": (torch.optim.Adafactor, {}),
    }[name]
    optimizer = kind(parameters, foreach=foreach, **settings)
    tape = Tape()
    with tape, tape.unseen():
        optimizer.step()
    for parameter in parameters:
        states = [value for value in optimizer.state[parameter].values() if isinstance(value, Tensor)]
        for tensor in (parameter, parameter.grad, *states):
            assert tensor is not None
            tape.resident(tensor)
    with tape:
        optimizer.step()
    tape.close()
    return tape.events


def highest(events: Iterator[Event] | list[Event]) -> int:
    return max(0, *accumulate(nbytes for nbytes, _ in events), 0)


@pytest.mark.parametrize("foreach", [False, True], ids=["for-loop", "foreach"])
@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "sgd-momentum", "adafactor"])
def test_temporaries_are_those_of_a_step_over_all_tensors(name: str, foreach: bool) -> None:
    if name == "adafactor" and not foreach:
        pytest.skip("what a matrix leaves until the next matrix is not followed across the vectors between them")
    learners: list[Learner] = [(shape, BF16) for shape in SHAPES]
    found = step(name, "foreach" if foreach else "for-loop", learners)
    assert found.peak == highest(really(name, foreach, learners))


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_foreach_takes_one_dtype_after_the_other(name: str) -> None:
    learners: list[Learner] = [(shape, dtype) for shape in SHAPES for dtype in (BF16, torch.float32)]
    assert step(name, "foreach", learners).peak == highest(really(name, True, learners))


STEPS = [
    ("adamw", "foreach"),
    ("adamw", "for-loop"),
    ("adafactor", "foreach"),
    ("muon", "for-loop"),
    ("lion", "for-loop"),
]


@pytest.mark.parametrize(("name", "implementation"), STEPS)
def test_the_events_of_a_step_balance_and_reach_its_peak(name: str, implementation: str) -> None:
    found: Step = step(name, implementation, [(shape, BF16) for shape in SHAPES])
    events = list(found.events())
    live: dict[int, int] = {}
    for nbytes, number in events:
        if nbytes > 0:
            assert number not in live
            live[number] = nbytes
        else:
            assert live.pop(number) == -nbytes
    assert not live
    assert highest(events) == found.peak


def test_eight_bit_states_have_a_scale_for_each_block() -> None:
    large, little = step("adamw-8bit", "fused", [((64, 128), BF16)]), step("adamw-8bit", "fused", [((64,), BF16)])
    assert [one.moments for one in (*large.updates, *little.updates)] == [2 * (8192 + 4 * 32), 2 * 4 * 64]
