"""Run a model on the CPU: the peak of PyTorch's own allocator, as the profiler tells it, and the time of a step."""

import gc
import time
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from canvas_rt.dryrun.steps import MODES, Run, Say, Telling, quietly, repeats, weight_bytes
from canvas_rt.dryrun.timeline import Point, bounded, summed
from canvas_rt.physics.scenario import Scenario
from canvas_rt.physics.tape import SINGLE

MEASURED = "measured"
"""The name of what is profiled."""

TIMED = 5
"""Runs that are timed at most."""


def run_on_cpu(
    make: Callable[[], Any], scenario: Scenario, found: dict[str, Any], *, say: Say = quietly, most_s: float = 60.0
) -> None:
    """Make a model and run it; what was measured goes into `found` as soon as it is known.

    The profiler follows the allocator from the first weight on. Timed are later runs, without it, for about `most_s`.
    """
    tell = Telling(say)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        say("making the model")
        model = make()
        found["parameters"] = sum(p.numel() for p in model.parameters())
        found["weights"] = weight_bytes(model)
        run = MODES[scenario.mode](model, scenario, "cpu", tell)
        gc.collect()
        for step in range(repeats(scenario)):
            tell.begin(f"following the memory of step {step + 1} of {repeats(scenario)}")
            with record_function(MEASURED):
                run()
    found |= held(run)
    changes = allocations(profiler)
    found["peak"] = peak_of(changes)
    found["timeline"] = bounded([(when, nbytes) for when, nbytes, measured in changes if measured])
    found["steps_s"] = timed(run, tell, most_s)


def held(run: Run) -> dict[str, int]:
    """What a run keeps of each sort, in bytes."""
    return {"gradients": run.gradient_bytes, "optimizer": run.optimizer_bytes, "kv_cache": run.cache_bytes}


def allocations(profiler: Any) -> list[tuple[float, int, bool]]:
    """For each change: seconds from the beginning of the first run, the bytes that are held then, whether it runs.

    Single numbers are left out, as the prediction leaves them out: PyTorch makes many, for numbers of Python.
    """
    events = profiler.profiler.kineto_results.events()
    begun = min(event.start_ns() for event in events if event.name() == MEASURED)
    changes = sorted((e.start_ns(), place, e.nbytes()) for place, e in enumerate(events) if e.name() == "[memory]")
    counted = [((when - begun) / 1e9, nbytes) for when, _, nbytes in changes if abs(nbytes) > SINGLE]
    return [(when, nbytes, when >= 0) for when, nbytes in summed(counted)]


def peak_of(changes: list[tuple[float, int, bool]]) -> int:
    """The most bytes while it runs."""
    return max((nbytes for _, nbytes, measured in changes if measured), default=0)


def cpu_peak(profiler: Any) -> int:
    """The most bytes that the allocator handed out while what is named `measured` ran."""
    return peak_of(allocations(profiler))


def timed(run: Run, tell: Telling, most_s: float) -> list[float]:
    """Seconds of some runs, the caches being warm: one at least, and no more than fit into the time."""
    taken: list[float] = []
    while len(taken) < TIMED and sum(taken) + (taken[-1] if taken else 0.0) <= most_s:
        tell.begin(f"timing step {len(taken) + 1}")
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken


__all__ = ["MEASURED", "Point", "allocations", "cpu_peak", "run_on_cpu"]
