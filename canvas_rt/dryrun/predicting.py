"""What is predicted for a real run, under the names by which it is measured."""

from dataclasses import dataclass
from pathlib import Path

from canvas_rt.dryrun.machine import Speed
from canvas_rt.ir.document import Document
from canvas_rt.physics import measure
from canvas_rt.physics.bench import prepare
from canvas_rt.physics.calibration import Calibration
from canvas_rt.physics.hardware import load_hardware
from canvas_rt.physics.measuring import patches
from canvas_rt.physics.report import Memory, Report
from canvas_rt.physics.run import CUBLAS, begin, run_costs, run_memory
from canvas_rt.physics.scenario import Scenario

Figures = dict[str, float]
"""By the names that `measure --json` gives: `parameters.total`, `memory.weights`, `time.total_s`."""

PARTS = ("weights", "gradients", "optimizer", "activations", "kv_cache", "peak_allocated")


@dataclass(frozen=True, slots=True)
class Target:
    """The card that is predicted for, as `measure` takes it."""

    hardware: str = "a100-80gb"
    cards: Path | None = None
    calibration: Calibration | None = None

    def report(self, document: Document, scenario: Scenario, *, thorough: bool = False) -> Report:
        return measure(
            document,
            hardware=self.hardware,
            cards=self.cards,
            calibration=self.calibration,
            scenario=scenario,
            thorough=thorough,
        )


def settled(document: Document, scenario: Scenario) -> Scenario:
    """The scenario with the length of the row that layers are given, where that follows from an image."""
    if document.purpose.of_tokens:
        return scenario
    return scenario.but(sequence=patches(document, scenario.batch) or scenario.sequence)


def on_cuda(report: Report) -> Figures:
    """On a card."""
    memory = report.memory
    return {
        **_counts(report),
        **_parts(memory),
        "memory.peak_reserved": memory.peak_reserved,
        "memory.device_total": memory.device_total,
        "time.total_s": report.time.total_s,
        "time.tokens_per_s": report.time.tokens_per_s,
    }


def on_meta(report: Report) -> Figures:
    """Of tensors alone: what cuBLAS takes from the allocator, no trace shows."""
    found = {**_counts(report), **_parts(report.memory)}
    workspaces = report.by_node[CUBLAS].memory if CUBLAS in report.by_node else 0
    for name in ("activations", "peak_allocated"):
        found[f"memory.{name}"] -= workspaces
    return found


def on_cpu(document: Document, scenario: Scenario, report: Report, speed: Speed) -> Figures:
    """With the kernels and the allocator of a CPU. Its time is that of arithmetic and of traffic, one after the other."""
    seconds = seconds_of(report, speed)
    tokens = report.time.tokens_per_s * report.time.total_s
    return {
        **_counts(report),
        **_parts(memory_on_cpu(document, scenario)),
        "time.total_s": seconds,
        "time.tokens_per_s": tokens / seconds,
    }


def memory_on_cpu(document: Document, scenario: Scenario) -> Memory:
    """Bytes that PyTorch's CPU allocator hands out."""
    run = begin(prepare(document, settled(document, scenario), load_hardware("a100-80gb"), device="cpu"))
    return run_memory(run, run_costs(run)).memory


def seconds_of(report: Report, speed: Speed) -> float:
    """A run's time on a CPU of such a speed: an estimate."""
    moved = sum(cost.bytes for cost in report.by_node.values())
    return (report.flops.forward + report.flops.backward) / speed.flops + moved / speed.bandwidth


def _counts(report: Report) -> Figures:
    flops = report.flops
    return {
        "parameters.total": report.parameters.total,
        "flops.forward": flops.forward,
        "flops.backward": flops.backward,
    }


def _parts(memory: Memory) -> Figures:
    return {f"memory.{name}": getattr(memory, name) for name in PARTS}
