"""What is predicted is what PyTorch's own CPU allocator hands out in real runs of small models, to the byte."""

import pytest

from benchmarks import cpu_memory
from benchmarks.cpu_memory import Case, generate, grid, measured, predicted, train

CASES = [
    train(dtype="bf16", implementation="foreach"),
    train(dtype="fp32", implementation="for-loop"),
    train(dtype="mixed", optimizer="sgd", batch=4, sequence=128),
    train(dtype="fp32", optimizer="adafactor", sizes={"vocab_size": 5000}),
    train("mistral", {"sliding_window": 40}, dtype="bf16", attention="auto", sequence=128, optimizer="sgd"),
    train(dtype="bf16", accumulation=2, optimizer="sgd-momentum", batch=4, sequence=128),
    train("edited", dtype="bf16", recompute="full", batch=4, sequence=128, optimizer="sgd"),
    train(dtype="bf16", lora=8, lora_targets=("q_proj", "v_proj"), batch=4, sequence=128),
    generate("prefill", dtype="bf16", attention="auto"),
    generate("decode", "mistral", {"sliding_window": 40}, dtype="bf16", attention="auto"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_real_run_takes_what_was_predicted(case: Case) -> None:
    assert predicted(case) == measured(case)


def test_the_grid_of_the_benchmark_has_at_least_forty_cases_none_twice() -> None:
    names = [case.name for case in grid()]
    assert len(names) == len(set(names)) >= 40


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_is_dropped_in_training_is_kept_for_the_backward(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        cpu_memory.MADE, "dropping", lambda d: d.replace(config=d.config.with_items({"attention_dropout": 0.1}))
    )
    case = train("dropping", dtype=dtype, optimizer="sgd")
    assert predicted(case) == measured(case)
    assert predicted(case) > predicted(train("llama", dtype=dtype, optimizer="sgd"))
