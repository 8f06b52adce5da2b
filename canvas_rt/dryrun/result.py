"""What a dry run found, beside what was predicted for it."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from canvas_rt.dryrun.sizes import shown, shown_bytes, sparkline
from canvas_rt.physics.scenario import Scenario
from canvas_rt.reporting import how

Reason = Literal["", "out of memory", "killed", "too long", "stopped", "raised"]

NAMES: Mapping[str, str] = {
    "parameters.total": "parameters",
    "flops.forward": "FLOPs, forward",
    "flops.backward": "FLOPs, backward",
    "memory.weights": "weights",
    "memory.gradients": "gradients",
    "memory.optimizer": "optimizer",
    "memory.activations": "activations",
    "memory.kv_cache": "key/value cache",
    "memory.peak_allocated": "peak allocated",
    "memory.peak_reserved": "peak reserved",
    "memory.device_total": "on the device",
    "time.total_s": "time of a step",
    "time.tokens_per_s": "tokens/s",
}
"""What each figure is called, in the order of the table."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure, measured and predicted."""

    name: str
    """As in `measure --json`: `memory.weights`."""

    measured: float | None
    """None where the run died before, or this device cannot tell."""

    predicted: float | None
    """For the device that it ran on."""

    target: float | None = None
    """For the card that was asked about, where it ran on another."""

    @property
    def error(self) -> float | None:
        """Predicted / measured - 1: below 0 the prediction was too low."""
        if self.measured is None or self.predicted is None:
            return None
        if not self.measured:
            return 0.0 if not self.predicted else None
        return self.predicted / self.measured - 1

    @property
    def label(self) -> str:
        return NAMES[self.name]

    def cells(self) -> tuple[str, str, str, str]:
        """Measured, predicted, error and the target's, as text."""
        return shown(self.name, self.measured), shown(self.name, self.predicted), self.told_error(), self.told_target()

    def told_error(self) -> str:
        if self.error is None:
            return ""
        return "exact" if self.measured == self.predicted else f"{self.error:+.2%}"

    def told_target(self) -> str:
        return shown(self.name, self.target)


@dataclass(frozen=True, slots=True)
class DryRun:
    """One real run, or why there is none, beside what was predicted."""

    device: str
    """`meta`, `cpu` or `cuda`."""

    device_name: str
    """What it is: the card's name, how many cores."""

    asked: Scenario
    scenario: Scenario
    """What was run: of a cut-down, its own batch and sequence."""

    layers: tuple[int, int]
    """How many of how many layers."""

    cut: str
    """Why it was not the whole; empty where it was."""

    reason: Reason
    """Why it died; empty where it ran."""

    told: str
    """How it died, in words."""

    figures: tuple[Figure, ...]
    hardware: str
    """The name of the card that `target` is of; empty where that is the device itself."""

    steps_s: tuple[float, ...] = ()
    """Seconds of each timed step, after warm-up."""

    timeline: tuple[tuple[float, int], ...] = ()
    """Few points of what tensors held: when, and bytes. On meta time is the number of allocations and releases."""

    notes: tuple[str, ...] = field(default=())
    """What must be known to read the figures."""

    @property
    def ran(self) -> bool:
        return not self.reason

    @property
    def whole(self) -> bool:
        return not self.cut

    @property
    def by_name(self) -> Mapping[str, Figure]:
        return {figure.name: figure for figure in self.figures}

    @property
    def extent(self) -> str:
        """What was run of the model, in words."""
        if self.whole:
            return "the whole model"
        parts = []
        if self.layers[0] < self.layers[1]:
            parts.append(f"the first {self.layers[0]} of {self.layers[1]} layers")
        for name, words in (("batch", "a batch of {} instead of {}"), ("sequence", "{} of {} tokens")):
            ours, theirs = getattr(self.scenario, name), getattr(self.asked, name)
            if ours != theirs:
                parts.append(words.format(ours, theirs))
        return f"a part that fits, {', '.join(parts)}: whole, {self.cut}"

    @property
    def verdict(self) -> str:
        """Whether it ran, and how near the prediction was."""
        if not self.ran:
            return f"died, {self.reason}: {self.told}"
        peak = self.by_name.get("memory.peak_allocated")
        near = "" if peak is None or not peak.told_error() else f"; the peak was predicted {_near(peak)}"
        return f"ran{near}"

    def to_json(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "device_name": self.device_name,
            "ran": self.ran,
            "reason": self.reason,
            "told": self.told,
            "whole": self.whole,
            "extent": self.extent,
            "layers": {"run": self.layers[0], "of": self.layers[1]},
            "asked": asdict(self.asked),
            "scenario": asdict(self.scenario),
            "hardware": self.hardware,
            "figures": {
                f.name: {"measured": f.measured, "predicted": f.predicted, "error": f.error, "target": f.target}
                for f in self.figures
            },
            "steps_s": list(self.steps_s),
            "timeline": {
                "unit": "events" if self.device == "meta" else "seconds",
                "points": [list(point) for point in self.timeline],
            },
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{how(self.scenario)}, on {self.device_name}: {self.extent}"
        yield self.verdict
        heads = ("measured", "predicted", "error", *([f"on {self.hardware}"] if self.hardware else []))
        yield f"  {'':16}" + "".join(f"  {head:>18}" for head in heads).rstrip()
        for figure in self.figures:
            yield f"  {figure.label:16}" + "".join(f"  {cell:>18}" for cell in figure.cells()[: len(heads)]).rstrip()
        if len(self.steps_s) > 1:
            yield f"  steps took {', '.join(shown('time.total_s', step) for step in self.steps_s)}"
        if self.timeline:
            held = [float(nbytes) for _, nbytes in self.timeline]
            yield f"  memory {sparkline(held)} up to {shown_bytes(max(held))}"
        yield from (f"  note: {note}" for note in self.notes)


def _near(peak: Figure) -> str:
    """How near a prediction was, in words."""
    error = peak.told_error()
    if error == "exact":
        return "to the byte"
    return f"{error.lstrip('+-')} too {'low' if error.startswith('-') else 'high'}"
