"""A report as text for people."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from canvas_rt.physics.hardware import Hardware, load_hardware
from canvas_rt.physics.report import NodeCost, Report
from canvas_rt.physics.scenario import Scenario

GIB = 2**30


def told(report: Report, *, cards: Path | None = None) -> str:
    """A report in a few lines."""
    card = load_hardware(report.hardware, file=cards)
    lines = [
        f"{how(report.scenario)}, on {_cards(report.scenario, card)}",
        f"  parameters  {_parameters(report)}",
        f"  FLOPs       {_flops(report)}",
        f"  memory      {_parts(report)}",
        f"  peak        {_peak(report, card)}",
        f"  time        {_time(report)}",
    ]
    if report.scenario.cards > 1:
        lines.append(f"  sends       {_sent(report)} from each card")
    if report.budget is not None:
        budget = report.budget
        lines.append(
            f"  budget      {budget.tokens:,} tokens: {budget.gpu_hours:,.0f} GPU-hours, {budget.energy_kwh:,.0f} kWh"
        )
    return "\n".join([*lines, *(str(diagnostic) for diagnostic in report.diagnostics)])


def how(scenario: Scenario) -> str:
    """A scenario in words: what is as usual is left out."""
    s, usual = scenario, Scenario()
    words = [s.mode, f"batch {s.batch} × {s.sequence} tokens", s.dtype]
    if s.mode == "chat":
        words.append(f"{s.generate} generated")
    if s.train and (s.optimizer, s.implementation) != (usual.optimizer, usual.implementation):
        words.append(f"{s.optimizer} {s.chosen_implementation}")
    if s.train and s.accumulation > 1:
        words.append(f"{s.accumulation} batches a step")
    if s.train and s.recompute != "none":
        words.append(f"recomputing {s.recompute}")
    if s.train and s.loss != "plain":
        words.append(f"{s.loss} loss")
    if s.train and s.lora:
        words.append(f"LoRA of rank {s.lora}")
    if s.train and s.frozen:
        words.append(f"{', '.join(s.frozen)} frozen")
    if s.weights != "same":
        words.append(f"{s.weights} weights")
    if not s.train and s.cache != "same":
        words.append(f"{s.cache} cache")
    if not s.train and s.page:
        words.append(f"pages of {s.page}")
    if s.attention != "auto":
        words.append(f"{s.attention} attention")
    ranks = ("data", "tensor", "context", "pipeline", "expert")
    words += [f"{name} {getattr(s, name)}" for name in ranks if getattr(s, name) > 1]
    return ", ".join(words)


def _cards(scenario: Scenario, card: Hardware) -> str:
    return f"{scenario.cards} × {card.name}" if scenario.cards > 1 else card.name


def _parameters(report: Report) -> str:
    count = report.parameters
    text = f"{count.total:,}"
    if count.active != count.total:
        text += f", {count.active:,} active"
    if report.scenario.train and count.trained != count.total:
        text += f", {count.trained:,} trained"
    return text


def _flops(report: Report) -> str:
    flops = report.flops
    text = f"{flops.forward / 1e12:,.2f} T forward, {flops.backward / 1e12:,.2f} T backward"
    return text + (f", {flops.recomputed / 1e12:,.2f} T of it recomputed" if flops.recomputed else "")


def _parts(report: Report) -> str:
    names = ("weights", "gradients", "optimizer", "activations", "kv_cache")
    parts = {name: getattr(report.memory, name) for name in names}
    return " + ".join(f"{name} {value / GIB:.2f}" for name, value in parts.items() if value) + " GiB"


def _peak(report: Report, card: Hardware) -> str:
    memory = report.memory
    retried = "" if report.allocator is None or not report.allocator.retries else " after giving back what was cached"
    return (
        f"{memory.peak_allocated / GIB:.2f} GiB allocated, {memory.peak_reserved / GIB:.2f} reserved,"
        f" {memory.device_total / GIB:.2f} of {card.memory_bytes / GIB:.2f} on the device:"
        f" {'fits' if report.fits else 'DOES NOT FIT'}{retried if report.fits else ''}"
    )


def _sent(report: Report) -> str:
    """What one card sends to the others."""
    parts = {name.replace("_", "-"): nbytes / GIB for name, nbytes in asdict(report.communication).items() if nbytes}
    return ", ".join(f"{size:,.2f} GiB {name}" for name, size in parts.items()) or "nothing"


def _time(report: Report) -> str:
    time = report.time
    bounds = {
        "compute": time.compute_s,
        "memory": time.memory_s,
        "launch": time.launch_s,
        "communication": time.communication_s,
    }
    most = max(bounds, key=lambda name: bounds[name])
    text = f"{time.total_s:.4g} s by the roofline, {time.tokens_per_s:,.0f} tokens/s, MFU {time.mfu:.0%}"
    if report.scenario.mode == "chat":
        text += f", first token {time.first_token_s * 1e3:,.1f} ms, then {time.next_token_s * 1e3:,.2f} ms each"
    return text + f"; mostly bound by {most}"


def by_node(report: Report) -> Iterator[str]:
    """A line for each node, and below it the formulas that its numbers come from."""
    for path, cost in report.by_node.items():
        yield (
            f"  {path:48} {cost.parameters:>16,} parameters {(cost.flops_forward + cost.flops_backward) / 1e9:>14,.1f} GFLOP"
            f" {cost.memory / GIB:>9.3f} GiB {cost.time_s * 1e3:>9.3f} ms  {cost.bound}"
        )
        yield from (f"      {name} = {formula} = {getattr(cost, name):,}" for name, formula in _interesting(cost))


def _interesting(cost: NodeCost) -> Iterator[tuple[str, str]]:
    """Formulas that are more than their number."""
    yield from ((name, text) for name, text in cost.formulas.items() if not text.isdecimal())
