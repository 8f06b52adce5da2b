"""Calls of plain functions: what changes a value in place gives a new one, what runs under a mode of its own runs in place."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from canvas_rt.importer.calls import bind, inlined, without_mutation

X = torch.arange(24.0).reshape(2, 3, 4) / 7


class Model(nn.Module):
    def __init__(self, compute: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x)


def traced(compute: Callable[[Tensor], Tensor]) -> fx.GraphModule:
    module = torch.export.export(Model(compute), (X,), strict=False).module()
    assert isinstance(module, fx.GraphModule)
    return module


def plain(compute: Callable[[Tensor], Tensor]) -> tuple[fx.GraphModule, list[str]]:
    """A computation without mutation, and what it calls."""
    module = traced(compute)
    inlined(module, module.graph)
    without_mutation(module.graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    calls = [str(node.target).removeprefix("aten.") for node in module.graph.nodes if node.op == "call_function"]
    return module, [call for call in calls if not call.startswith("_")]


def halves_swapped(x: Tensor) -> Tensor:
    made = x.new_empty(x.shape)
    made[..., :2] = x[..., 2:]
    made[..., 2:] = x[..., :2]
    return made * 2


def first_set(x: Tensor) -> Tensor:
    made = x * 1
    made[:, 0] = x[:, 1]
    return made + x


def added_in_place(x: Tensor) -> Tensor:
    made = x.exp()
    made += x
    made.mul_(x).clamp_(min=0.5)
    return made - x


def filled_in_place(x: Tensor) -> Tensor:
    made = x.cos()
    made.masked_fill_(x > 1, -3.0)
    return made.sin()


def copied(x: Tensor) -> Tensor:
    made = torch.zeros_like(x)
    made.copy_(x.sin())
    return made + 1


@pytest.mark.parametrize("compute", [halves_swapped, first_set, added_in_place, filled_in_place, copied])
def test_mutation_becomes_new_values(compute: Callable[[Tensor], Tensor]) -> None:
    module, calls = plain(compute)
    assert not any(call.partition(".")[0].endswith("_") for call in calls), calls
    assert torch.equal(module(X), compute(X.clone()))


def test_copies_into_two_slices_of_an_empty_value_join_them() -> None:
    assert plain(halves_swapped)[1][-2:] == ["cat.default", "mul.Tensor"]


def test_a_copy_into_a_part_scatters() -> None:
    assert "select_scatter.default" in plain(first_set)[1]


def in_fp32(x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        made = x.float().cos() * 2
    return made + 1


def without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        made, other = x.cos(), x.sin()
    return made + other


@pytest.mark.parametrize("compute", [in_fp32, without_gradients])
def test_what_runs_under_a_mode_of_its_own_runs_in_its_place(compute: Callable[[Tensor], Tensor]) -> None:
    module, calls = plain(compute)
    assert {"cos.default", "add.Tensor"} <= set(calls) and not any("wrap" in call for call in calls)
    assert torch.equal(module(X), compute(X))


def bound(compute: Callable[[Tensor], Tensor]) -> tuple[str, dict[str, object]]:
    """The op and settings of the last call of a computation."""
    node = [node for node in traced(compute).graph.nodes if node.op == "call_function"][-1]
    found = bind(node)
    assert found is not None
    return found[0], found[2]


@pytest.mark.parametrize(
    ("compute", "op", "settings"),
    [
        (lambda x: x.sum(2), "torch.sum", {"dim": (-1,)}),
        (lambda x: x.softmax(-3), "torch.softmax", {"dim": 0}),
        (lambda x: x.unsqueeze(3), "torch.unsqueeze", {"dim": -1}),
        (lambda x: x[:, 1:], "torch.slice", {"dim": 1, "start": 1}),
        (lambda x: x.flatten(), "torch.flatten", {}),
        (lambda x: x.clamp(min=float("-inf")), "torch.clamp", {"min": "-inf"}),
        (lambda x: x.to(torch.float64), "torch.to", {"dtype": "float64"}),
        (lambda x: torch.cat([x, x], -1), "torch.cat.2", {"dim": -1}),
        (lambda x: x.var(-1), "torch.var_unbiased", {"dim": (-1,)}),
    ],
)
def test_a_call_is_an_op_with_the_settings_that_differ_from_torchs_own(
    compute: Callable[[Tensor], Tensor], op: str, settings: dict[str, object]
) -> None:
    assert bound(compute) == (op, settings)


def test_a_call_that_no_row_takes_is_no_op() -> None:
    node = [node for node in traced(lambda x: x.erfinv()).graph.nodes if node.op == "call_function"][-1]
    assert bind(node) is None
