"""Run one case of `gpu_memory` for real, in a process of its own: `python -m benchmarks.gpu_memory_run SPEC RESULT`.

SPEC is a JSON file: the family with its sizes, the scenario, the device, and where a snapshot of the memory's history goes. RESULT is
written as JSON: what was allocated and reserved, what the device had in use, how long a run took. What is run and how it
is followed are those of `canvas_rt.dryrun`.
"""

import gc
import gzip
import json
import pickle
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from benchmarks.gpu_memory_cases import bound
from canvas_rt.dryrun.models import config_values, emitted, made
from canvas_rt.dryrun.on_cpu import MEASURED, cpu_peak
from canvas_rt.dryrun.on_cuda import entries, memory_used, record_history, taken_history, timed, traced, warm
from canvas_rt.dryrun.steps import MODES, repeats
from canvas_rt.ir.document import Document
from canvas_rt.physics.allocator import Replay
from canvas_rt.physics.scenario import Scenario

CLASSES: Mapping[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
}


def model_of(family: str, document: Document, scenario: Scenario, device: str) -> Any:
    kind, cls = CLASSES[family] if family in CLASSES else emitted(document)
    return made(cls, kind(**config_values(document)), document, scenario, device)


def on_cpu(spec: Mapping[str, Any], document: Document, scenario: Scenario) -> dict[str, Any]:
    """The peak of PyTorch's CPU allocator, by the profiler, from the first weight on."""
    from torch.profiler import ProfilerActivity, profile, record_function

    torch.set_num_threads(1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = model_of(spec["family"], document, scenario, "cpu")
        run = MODES[scenario.mode](model, scenario, "cpu")
        gc.collect()
        for _ in range(repeats(scenario)):
            with record_function(MEASURED):
                run()
    start = time.perf_counter()
    run()
    return {"allocated": cpu_peak(profiler), "seconds": time.perf_counter() - start}


def on_gpu(spec: Mapping[str, Any], document: Document, scenario: Scenario) -> dict[str, Any]:
    """Peaks of the caching allocator, what the device has in use beside them, and the time of a run."""
    torch.cuda.init()
    record_history()
    found: dict[str, Any] = {}
    try:
        model = model_of(spec["family"], document, scenario, "cuda")
        run = MODES[scenario.mode](model, scenario, "cuda")
        warm(run, scenario)
    except torch.cuda.OutOfMemoryError as error:
        found["failed"] = f"out of memory: {str(error).splitlines()[0]}"[:300]
    found |= memory_used()
    snapshot = taken_history()
    found |= replayed(snapshot, found["total"] - found["context"], scenario.expandable)
    if spec.get("snapshot"):
        with gzip.open(spec["snapshot"], "wb", compresslevel=3) as file:
            pickle.dump(snapshot, file)
    del snapshot
    if "failed" not in found:
        found["seconds"] = statistics.median(timed(run))
    return found


def replayed(snapshot: Mapping[str, Any], capacity: int, expandable: bool) -> dict[str, int]:
    """What the simulated allocator makes of the real trace: its error is then its own, not that of the predicted trace."""
    replay = Replay(capacity, expandable=expandable)
    replay.run(traced(entries(snapshot)))
    allocator = replay.allocator
    return {
        "replayed_allocated": allocator.peak_allocated,
        "replayed_reserved": allocator.peak_reserved,
        "events": sum(len(trace) for trace in snapshot["device_traces"]),
    }


# ---------------------------------------------------------------------------------------------------------------------


def main(spec_file: str, result_file: str) -> None:
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    scenario = Scenario(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in spec["scenario"].items()}
    )
    found = (on_cpu if spec["device"] == "cpu" else on_gpu)(
        spec, bound(spec["family"], spec["sizes"], spec["config"]), scenario
    )
    Path(result_file).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])


__all__ = ["MODES", "model_of", "on_cpu", "repeats", "traced"]
