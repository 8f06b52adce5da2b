"""Run a model on a CUDA card: what its allocator handed out and reserved, what the device had in use, the time of a step."""

import gc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from canvas_rt.dryrun.on_cpu import TIMED, held
from canvas_rt.dryrun.steps import MODES, Run, Say, Telling, quietly, repeats, weight_bytes
from canvas_rt.dryrun.timeline import Point, bounded, summed
from canvas_rt.physics.scenario import Scenario
from canvas_rt.physics.tape import Event, rounded

MOST_ENTRIES = 10_000_000
"""Of the memory's history."""


def run_on_cuda(
    make: Callable[[], Any],
    scenario: Scenario,
    found: dict[str, Any],
    *,
    say: Say = quietly,
    most_bytes: int | None = None,
    most_s: float = 60.0,
) -> None:
    """Make a model and run it; what was measured goes into `found`, also where memory runs out.

    Peaks are those of two training steps, or of one prompt or token; timed are later runs. `most_bytes`: of the card's
    memory that may be taken.
    """
    torch.cuda.init()  # type: ignore[no-untyped-call]
    found["device_name"] = torch.cuda.get_device_name()
    if most_bytes is not None:
        torch.cuda.set_per_process_memory_fraction(min(1.0, most_bytes / torch.cuda.mem_get_info()[1]))
    record_history()
    tell = Telling(say)
    try:
        say("making the model")
        model = make()
        found["parameters"] = sum(p.numel() for p in model.parameters())
        found["weights"] = weight_bytes(model)
        run = MODES[scenario.mode](model, scenario, "cuda", tell)
        warm(run, scenario, tell)
        found |= held(run)
    finally:
        found |= memory_used()
        found["timeline"] = timeline(taken_history())
    found["peak"] = found["allocated"]
    found["steps_s"] = timed(run, tell, most_s)


def record_history() -> None:
    """From here on PyTorch keeps a record of every allocation and release."""
    torch.cuda.memory._record_memory_history(context=None, max_entries=MOST_ENTRIES)


def taken_history() -> Mapping[str, Any]:
    """The record, which ends here."""
    snapshot: Mapping[str, Any] = torch.cuda.memory._snapshot()
    torch.cuda.memory._record_memory_history(enabled=None)
    return snapshot


def warm(run: Run, scenario: Scenario, tell: Telling | None = None) -> None:
    """The runs whose memory counts: from here on peaks are new."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    for step in range(repeats(scenario)):
        (tell or Telling(quietly)).begin(f"following the memory of step {step + 1} of {repeats(scenario)}")
        run()
    torch.cuda.synchronize()


def memory_used() -> dict[str, int]:
    """`device`: what the card had in use when most was reserved, as `nvidia-smi` would have shown it."""
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.memory_reserved()
    context = total - free - reserved
    most = torch.cuda.max_memory_reserved()
    stats = torch.cuda.memory_stats()
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": most,
        "device": most + context,
        "context": context,
        "total": total,
        "retries": stats.get("num_alloc_retries", 0),
    }


def entries(snapshot: Mapping[str, Any]) -> Any:
    """What happened on the card at hand, in order."""
    return snapshot["device_traces"][torch.cuda.current_device()]


def traced(entries: Any) -> Iterator[Event]:
    """Allocations and frees, each storage with a number of its own: addresses are used again."""
    live: dict[int, Event] = {}
    for number, entry in enumerate(entries):
        if entry["action"] == "alloc":
            live[entry["addr"]] = (rounded(max(1, entry["size"])), number)
            yield live[entry["addr"]]
        elif entry["action"] == "free_completed" and entry["addr"] in live:
            nbytes, first = live.pop(entry["addr"])
            yield -nbytes, first


def timeline(snapshot: Mapping[str, Any]) -> list[Point]:
    """What tensors held over time, in seconds from the first allocation."""
    return points(list(entries(snapshot)))


def points(happened: list[Mapping[str, Any]]) -> list[Point]:
    """The same of a list of what happened."""
    counted = [entry for entry in happened if entry["action"] in ("alloc", "free_completed")]
    if not counted:
        return []
    start = counted[0].get("time_us", 0)
    known: set[int] = set()
    changes = []
    for entry in counted:
        when = (entry.get("time_us", start) - start) / 1e6
        if entry["action"] == "alloc":
            known.add(entry["addr"])
            changes.append((when, rounded(max(1, entry["size"]))))
        elif entry["addr"] in known:
            known.remove(entry["addr"])
            changes.append((when, -rounded(max(1, entry["size"]))))
    return bounded(summed(changes))


def timed(run: Run, tell: Telling | None = None, most_s: float = 60.0) -> list[float]:
    """Seconds of some runs, the kernels being warm: one at least, and no more than fit into the time."""
    taken: list[float] = []
    while len(taken) < TIMED and sum(taken) + (taken[-1] if taken else 0.0) <= most_s:
        (tell or Telling(quietly)).begin(f"timing step {len(taken) + 1}")
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        run()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end) / 1e3)
    return taken
