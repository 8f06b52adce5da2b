"""Two models that do the same when they run have the same graph; what a run cannot show is traced."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gpt2 import modeling_gpt2

from canvas_rt.importer import import_model
from canvas_rt.importer.architecture import ArchitectureImport
from canvas_rt.importer.small import small_config
from canvas_rt.importer.steps import Run, run_of
from canvas_rt.ir.tasks import CAUSAL_LM
from canvas_rt.ops.class_text import class_text


class Toy(nn.Module):
    def __init__(self, does: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4))
        self.does = does

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.does(self.weight[input_ids])


def run(does: Callable[[Tensor], Tensor]) -> Run | None:
    return run_of(Toy(does), (2, 3, 3), CAUSAL_LM)


def with_more_to_do(x: Tensor) -> Tensor:
    x.exp().sum()
    return x * 2


def test_runs_are_told_apart_by_what_makes_their_results() -> None:
    twice = run(lambda x: x * 2)
    assert twice is not None and twice == run(lambda x: x * 2) == run(with_more_to_do)
    assert twice != run(lambda x: x * 3)
    assert twice != run(lambda x: x + x)


def test_a_number_that_is_a_tensor_is_looked_at() -> None:
    assert run(lambda x: x * torch.tensor(2.0)) == run(lambda x: x * torch.tensor(2.0))
    assert run(lambda x: x * torch.tensor(2.0)) != run(lambda x: x * torch.tensor(3.0))


def test_what_is_changed_in_place_is_no_lost_step() -> None:
    assert run(lambda x: x.exp().mul_(2)) != run(lambda x: x.exp())


def test_a_run_that_looks_at_numbers_tells_nothing() -> None:
    assert run(lambda x: x * 2 if bool((x > 0).any()) else x) is None


@pytest.mark.parametrize(("model_type", "structural"), [("gpt2", 2), ("gpt_oss", 1)])
def test_flags_are_told_by_runs_and_not_by_traces(
    model_type: str, structural: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes: list[int] = []
    original = ArchitectureImport.read

    def noted(self: ArchitectureImport, values: Any, overrides: Any, probe: int) -> Any:
        probes.append(probe)
        return original(self, values, overrides, probe)

    monkeypatch.setattr(ArchitectureImport, "read", noted)
    _, report = import_model(small_config(model_type))
    assert (probes, len(report.structural)) == ([0, 1, 2], structural)


def test_the_text_of_a_class_is_what_inspect_gives() -> None:
    classes = [
        c for c in vars(modeling_gpt2).values() if isinstance(c, type) and c.__module__ == modeling_gpt2.__name__
    ]
    assert len(classes) > 10 and all(class_text(cls) == inspect.getsource(cls) for cls in classes)
    assert class_text(Toy) == inspect.getsource(Toy)
    assert class_text(int) == ""
