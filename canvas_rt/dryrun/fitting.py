"""Cut a model down until it fits the machine at hand: fewer layers first, then shorter sequences, then fewer of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import torch

from canvas_rt.dryrun.machine import speed
from canvas_rt.dryrun.predicting import Target, memory_on_cpu, seconds_of
from canvas_rt.dryrun.sizes import shown_bytes, shown_seconds
from canvas_rt.dryrun.steps import DTYPES, repeats
from canvas_rt.edits import DeleteLayers, apply
from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document, Stack
from canvas_rt.ir.graph import layer_count, walk
from canvas_rt.ops.parameters import parameter_keys
from canvas_rt.physics.scenario import Scenario

PROCESS_BYTES = 700 * 2**20
"""What Python takes with PyTorch and transformers."""

MARGIN = 1.05
"""Kernels hold a little beside tensors."""


SLOW = "it takes about"
"""How a reason begins that is one of time."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a run may take."""

    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Cut:
    """What is run of a model."""

    document: Document
    scenario: Scenario
    layers: int
    """Of its largest stack."""

    of: int
    """How many that has."""

    why: str = ""
    """Why it is not the whole; empty where it is."""

    @property
    def whole(self) -> bool:
        return not self.why


def uncut(document: Document, scenario: Scenario) -> Cut:
    """The whole model."""
    _, count = _stack(document)
    return Cut(document, scenario, count, count)


def fitted(document: Document, scenario: Scenario, target: Target, room: Room) -> Cut:
    """The largest part that fits, by the prediction.

    Raises `CanvasError` where not even one layer and one token do.
    """
    whole = uncut(document, scenario)
    why = _too_much(whole, target, room)
    if not why:
        return whole
    smaller = replace(whole, why=why)
    layers = _most(lambda n: _shallow(smaller, n), smaller.of - 1, target, room)
    if layers is not None:
        return layers
    smaller = _shallow(smaller, 1) or smaller
    for name in ("sequence", "batch"):
        while getattr(smaller.scenario, name) > 1 and (name == "batch" or document.purpose.of_tokens):
            smaller = replace(smaller, scenario=smaller.scenario.but(**{name: getattr(smaller.scenario, name) // 2}))
            if not _too_much(smaller, target, room):
                return smaller
    needed = _bytes(smaller)
    if needed > room.bytes:
        message = f"even one layer with one token takes {shown_bytes(needed)}, and {shown_bytes(room.bytes)} are free"
        hint = "Try --device meta, which needs no memory, mode prefill, dtype bf16, or a smaller vocabulary."
        raise CanvasError(message, path="memory", hint=hint)
    return smaller  # how long it takes is an estimate: let it try


def _most(make: Callable[[int], Cut | None], most: int, target: Target, room: Room) -> Cut | None:
    """The largest of 1 to `most` that fits."""
    low, high, found, more = 1, most, None, ""
    while low <= high:
        middle = (low + high) // 2
        tried = make(middle)
        if tried is None:
            return None
        why = _too_much(tried, target, room)
        if why:
            high, more = middle - 1, why
        else:
            low, found = middle + 1, tried
    if found is None or not more or (SLOW in more) == (SLOW in found.why):
        return found
    return replace(found, why=f"{found.why}; of one layer more, {more}")


def _too_much(cut: Cut, target: Target, room: Room) -> str:
    """Why it does not fit; empty where it does."""
    needed = _bytes(cut)
    if needed > room.bytes:
        return f"it takes {shown_bytes(needed)}, and {shown_bytes(room.bytes)} are free"
    needs = _seconds(cut, target)
    if needs > room.seconds:
        return f"{SLOW} {shown_seconds(needs)}, and may take {shown_seconds(room.seconds)}"
    return ""


def _bytes(cut: Cut) -> int:
    """What the process takes: when the model runs, or when it is made, for what is tied is first made twice."""
    peak = memory_on_cpu(cut.document, cut.scenario).peak_allocated
    made = sum(prod(shape) for shape in parameter_keys(cut.document).values()) * DTYPES[cut.scenario.dtype].itemsize
    return int(max(peak, made) * MARGIN) + PROCESS_BYTES


def _seconds(cut: Cut, target: Target) -> float:
    """Of the steps whose memory is followed, and one that is timed."""
    report = target.report(cut.document, cut.scenario)
    at = speed(torch.bfloat16 if cut.scenario.dtype == "mixed" else DTYPES[cut.scenario.dtype])
    return report.parameters.total / at.drawing + (repeats(cut.scenario) + 1) * seconds_of(report, at)


def _stack(document: Document) -> tuple[str, int]:
    """The path of the largest stack, and how many layers it has."""
    found = [
        (layer_count(document, visit.item), visit.path) for visit in walk(document) if isinstance(visit.item, Stack)
    ]
    count, path = max(found, default=(0, ""))
    return path, count


def _shallow(cut: Cut, layers: int) -> Cut | None:
    """The first layers alone; None where layers cannot be left out."""
    path, count = _stack(cut.document)
    if layers >= count:
        return cut if layers == count else None
    try:
        shallow = apply(
            cut.document, DeleteLayers(f"{path}.{layers}-{count - 1}" if layers < count - 1 else f"{path}.{layers}")
        )
    except CanvasError:
        return None
    return replace(cut, document=shallow, layers=layers)
