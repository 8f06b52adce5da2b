"""Run a document for real, in a process of its own, and put what was measured beside what was predicted."""

import statistics
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from canvas_rt.dryrun import predicting
from canvas_rt.dryrun.child import MARK
from canvas_rt.dryrun.fitting import PROCESS_BYTES, Cut, Room, fitted, uncut
from canvas_rt.dryrun.here import card_at_hand
from canvas_rt.dryrun.machine import free_bytes, killed_for_memory, speed, usable_cores
from canvas_rt.dryrun.models import write
from canvas_rt.dryrun.predicting import Figures, Target
from canvas_rt.dryrun.reasons import reason_of
from canvas_rt.dryrun.refusing import require_runnable
from canvas_rt.dryrun.result import NAMES, DryRun, Figure, Reason
from canvas_rt.dryrun.sizes import shown_bytes
from canvas_rt.dryrun.steps import DTYPES
from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document
from canvas_rt.physics.calibration import Calibration
from canvas_rt.physics.hardware import Hardware, load_hardware
from canvas_rt.physics.scenario import Scenario, scenario_of
from canvas_rt.verifier.apart import MOST_BYTES, ChildDied, run_apart, scratch_folder

TIMEOUT_S = 300.0
"""Of the whole run, with what comes before it."""

PLANNED = 0.5
"""Share of the time that a run on the CPU is planned to take, by an estimate."""

FAR = 2.0
"""A run that is predicted to take more than so many cards is not begun: it dies, and nothing is learned."""

CHILD = "canvas_rt.dryrun.child"
QUIET = {"KINETO_LOG_LEVEL": "99", "TRANSFORMERS_VERBOSITY": "error"}

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is about to be run, and what is predicted for it."""

    device: str
    device_name: str
    asked: Scenario
    cut: Cut
    predicted: Figures
    bytes: int | None
    """What the process may take for tensors; None for no limit."""

    target: Figures
    """What is predicted for the card that was asked about, where it runs on another."""

    hardware: str = ""
    """That card's name."""

    notes: tuple[str, ...] = ()


def dry_run(
    document: Document,
    *,
    device: str = "meta",
    scenario: Scenario | None = None,
    hardware: str = "a100-80gb",
    cards: Path | None = None,
    calibration: Calibration | None = None,
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int | None = None,
    progress: Progress = lambda text: None,
    stop: threading.Event | None = None,
    **settings: Any,
) -> DryRun:
    """Run the emitted model in a child process, and compare what it takes with what was predicted.

    `device`: `meta` runs every layer without numbers; `cpu` the model with random weights, or the largest part of it that
    fits the memory and the time at hand; `cuda` the whole on the first card. `scenario`, `settings`, `hardware`, `cards`
    and `calibration` are those of `measure`; on `cuda` predictions are for the card at hand, and for `hardware` beside it.
    `memory_bytes`: what tensors may take at most. Setting `stop` ends it.

    However the run ends, that is a result with its reason: out of memory, killed, too long, stopped, raised. Raises
    `CanvasError` for what cannot be begun: a device that is not there, a graph with errors, a scenario that no real run
    is made for, a model of which nothing fits.
    """
    chosen = scenario_of(scenario, settings)
    target = Target(hardware, cards, calibration)
    require_runnable(document, chosen, device)
    with scratch_folder() as scratch:
        progress("predicting")
        make = {"meta": _on_meta, "cpu": _on_cpu, "cuda": _on_cuda}[device]
        plan = make(document, predicting.settled(document, chosen), target, scratch, timeout_s, memory_bytes)
        folder = scratch / "emitted"
        folder.mkdir()
        write(plan.cut.document, folder)
        progress("starting a process")
        measured, reason, told = _run(plan, folder, timeout_s, progress, stop)
    return _compared(plan, measured, reason, told)


# ---------------------------------------------------------------------------------------------------------------------
# Before: what will be run
# ---------------------------------------------------------------------------------------------------------------------


def _on_meta(document: Document, s: Scenario, target: Target, scratch: Path, limit_s: float, most: int | None) -> Plan:
    found = predicting.on_meta(target.report(document, s))
    card = load_hardware(target.hardware, file=target.cards)
    notes = (
        f"tensors as {card.name} would hold them; cuBLAS' workspaces, which no trace shows, are in neither column",
    )
    return Plan("meta", "the meta device", s, uncut(document, s), found, most or MOST_BYTES, {}, "", notes)


def _on_cpu(document: Document, s: Scenario, target: Target, scratch: Path, limit_s: float, most: int | None) -> Plan:
    free = free_bytes()
    room = Room(free if most is None else min(free, most + PROCESS_BYTES), limit_s * PLANNED)
    cut = fitted(document, s, target, room)
    report = target.report(cut.document, cut.scenario)
    at = speed(DTYPES["bf16" if s.dtype == "mixed" else s.dtype])
    found = predicting.on_cpu(cut.document, cut.scenario, report, at)
    name = f"the CPU ({usable_cores()} cores)"
    note = f"time predicted from a trial: {at.flops / 1e9:.3g} GFLOP/s in products, {at.bandwidth / 1e9:.3g} GB/s"
    return Plan("cpu", name, s, cut, found, room.bytes - PROCESS_BYTES, {}, "", (note,))


def _on_cuda(document: Document, s: Scenario, target: Target, scratch: Path, limit_s: float, most: int | None) -> Plan:
    here, file = card_at_hand(scratch)
    wanted = load_hardware(target.hardware, file=target.cards)
    same = here.id == wanted.id
    own = Target(here.id, file, target.calibration if same else None)
    report = own.report(document, s, thorough=True)
    room = here.memory_bytes if most is None else min(most, here.memory_bytes)
    _require_near(report.memory.device_total, here, room)
    other = {} if same else predicting.on_cuda(target.report(document, s, thorough=True))
    fits = report.memory.device_total <= room
    words = f"{shown_bytes(report.memory.device_total)} of {shown_bytes(room)}"
    notes = (f"predicted to {'fit' if fits else 'be too much'}: {words}",)
    cut, found = uncut(document, s), predicting.on_cuda(report)
    return Plan("cuda", here.name, s, cut, found, most, other, "" if same else wanted.name, notes)


def _require_near(needed: int, card: Hardware, room: int) -> None:
    """Refuse what is sure to be too much."""
    if needed > FAR * room:
        message = f"takes {shown_bytes(needed)} by the prediction, and {card.name} has {shown_bytes(room)}"
        hint = "'canvas-rt solve --for batch' finds what fits; --device meta runs it without memory."
        raise CanvasError(message, path="memory", hint=hint)


# ---------------------------------------------------------------------------------------------------------------------
# The run
# ---------------------------------------------------------------------------------------------------------------------


def _run(
    plan: Plan, folder: Path, timeout_s: float, progress: Progress, stop: threading.Event | None
) -> tuple[Mapping[str, Any], Reason, str]:
    """What was measured; of a run that died, as far as it came, with the reason."""
    request = {
        "device": plan.device,
        "scenario": asdict(plan.cut.scenario),
        "bytes": plan.bytes,
        "timed_s": timeout_s / 10,
    }
    segments = {"PYTORCH_CUDA_ALLOC_CONF": f"expandable_segments:{plan.asked.expandable}"}
    killed_before = killed_for_memory()
    try:
        answer = run_apart(
            "dry run",
            folder,
            child=CHILD,
            request=request,
            timeout_s=timeout_s,
            most_bytes=None,  # what it may have beside its libraries, it is told
            environment={**QUIET, **(segments if plan.device == "cuda" else {})},
            progress=lambda line: progress(line.removeprefix(MARK)) if line.startswith(MARK) else None,
            stop=stop,
        )
    except ChildDied as died:
        reason, told = reason_of(died, killed_for_memory() > killed_before)
        return {}, reason, told
    measured: Mapping[str, Any] = answer["measured"]
    if "died" not in measured:
        return measured, "", ""
    reason, told = reason_of(measured["died"])
    return measured, reason, told


# ---------------------------------------------------------------------------------------------------------------------
# After: measured beside predicted
# ---------------------------------------------------------------------------------------------------------------------


def _compared(plan: Plan, measured: Mapping[str, Any], reason: Reason, told: str) -> DryRun:
    found = _figures(plan, measured)
    reached = ""
    if "peak" not in measured and "allocated" in measured:
        both = (shown_bytes(measured[name]) for name in ("allocated", "reserved"))
        reached = "when it died, {} had been allocated at most and {} reserved".format(*both)
    figures = (
        Figure(name, found.get(name), plan.predicted.get(name), plan.target.get(name))
        for name in NAMES
        if name in found or name in plan.predicted
    )
    return DryRun(
        device=plan.device,
        device_name=plan.device_name,
        asked=plan.asked,
        scenario=plan.cut.scenario,
        layers=(plan.cut.layers, plan.cut.of),
        cut=plan.cut.why,
        reason=reason,
        told=told,
        figures=tuple(f for f in figures if f.measured or f.predicted),
        hardware=plan.hardware,
        steps_s=tuple(measured.get("steps_s", ())),
        timeline=tuple((when, nbytes) for when, nbytes in measured.get("timeline", ())),
        notes=(*plan.notes, *([reached] if reached else [])),
    )


MEASURED: Mapping[str, str] = {
    "parameters.total": "parameters",
    "flops.forward": "flops_forward",
    "flops.backward": "flops_backward",
    "memory.weights": "weights",
    "memory.gradients": "gradients",
    "memory.optimizer": "optimizer",
    "memory.kv_cache": "kv_cache",
    "memory.peak_allocated": "peak",
    "memory.peak_reserved": "reserved",
    "memory.device_total": "device",
}
"""Figures, by what the child calls them."""


def _figures(plan: Plan, measured: Mapping[str, Any]) -> Figures:
    whole = "peak" in measured  # else it died, and its peaks are only how far it came
    early = ("parameters", "weights", "flops_forward", "flops_backward")
    found: Figures = {n: measured[own] for n, own in MEASURED.items() if own in measured and (whole or own in early)}
    kept = [f"memory.{name}" for name in ("weights", "gradients", "optimizer", "kv_cache")]
    if "memory.peak_allocated" in found and all(name in found for name in kept):
        found["memory.activations"] = found["memory.peak_allocated"] - sum(found[name] for name in kept)
    if measured.get("steps_s"):
        seconds = statistics.median(measured["steps_s"])
        predicted = plan.predicted
        found["time.total_s"] = seconds
        # As many tokens as the prediction counts.
        found["time.tokens_per_s"] = predicted["time.tokens_per_s"] * predicted["time.total_s"] / seconds
    return found
