"""The largest batch, sequence or size that fits, the cheapest recomputation, the smallest card: found by measuring."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from canvas_rt.edits import SetSize, apply
from canvas_rt.errors import CanvasError, UnresolvedShape, suggest
from canvas_rt.ir.document import Document, Stack, Use
from canvas_rt.ir.expressions import is_expression
from canvas_rt.ir.graph import walk
from canvas_rt.physics import Report, check, hardware_names, load_hardware, measure
from canvas_rt.physics.calibration import Calibration
from canvas_rt.physics.scenario import Scenario, scenario_of

SCENARIO = ("batch", "sequence")
MOST = 2**24
"""No batch, sequence or size is looked for beyond this."""

GRAINS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Steps by which a size may have to grow for the graph to stay sound: widths that heads divide, for instance."""

WIDE, ALIGNED = 256, 64
"""Sizes from `WIDE` on are widths: where they are aligned to what a card multiplies at a time, they stay so."""

CLIMB = 8
"""Steps beyond what was found that are tried too: more may be reserved for less."""

TOKENS = 64
"""Sequences are looked for in steps of so many tokens."""


@dataclass(frozen=True, slots=True)
class Solution:
    """What was looked for, and what it costs."""

    what: str
    value: int | str
    report: Report
    budget: int
    """Bytes that it had to fit."""

    limit: str
    """Why it is not more."""

    measured: int
    """How many candidates were measured."""

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "value": self.value,
            "budget": self.budget,
            "limit": self.limit,
            "measured": self.measured,
            "report": self.report.to_json(),
        }


def solve(
    document: Document,
    what: str,
    *,
    hardware: str = "a100-80gb",
    budget: int | None = None,
    scenario: Scenario | None = None,
    cards: Path | None = None,
    calibration: Calibration | None = None,
    **settings: Any,
) -> Solution:
    """The best that fits a card, or a budget of so many bytes.

    `what`: `batch`, `sequence`, `layers` or the name of a size, of which the largest is looked for; `recompute`, of which the
    fastest; `hardware`, of which the card with the least memory. All else is as in `measure`.

    Raises `CanvasError` where nothing fits, saying by how much, and for a name that is none of these.
    """
    search = _Search(document, hardware, budget, scenario_of(scenario, settings), cards, calibration)
    match what:
        case "batch" | "sequence":
            return search.number(what)
        case "recompute":
            return search.recompute()
        case "hardware":
            return search.card()
        case "layers":
            return search.size(_depth_name(document))
        case _ if what in document.sizes:
            return search.size(what)
    known = {*SCENARIO, "layers", "recompute", "hardware", *document.sizes}
    raise CanvasError(f"cannot solve for '{what}'", path="what", hint=suggest(what, known))


def _depth_name(document: Document) -> str:
    """The size that says how many layers the first stack has."""
    for visit in walk(document):
        if isinstance(visit.item, Stack):
            repeat = visit.item.repeat
            name = repeat[1:] if is_expression(repeat) else ""
            if name in document.sizes:
                return name
            raise CanvasError(
                f"the number of layers, {repeat}, is no size of its own", path=visit.path, hint="Name a size for it."
            )
    raise CanvasError("the model has no stack of layers", path="what", hint="Solve for a size instead.")


@dataclass(slots=True)
class _Search:
    document: Document
    hardware: str
    budget: int | None
    scenario: Scenario
    cards: Path | None
    calibration: Calibration | None
    measured: int = 0

    @property
    def room(self) -> int:
        """Bytes that must suffice."""
        return load_hardware(self.hardware, file=self.cards).memory_bytes if self.budget is None else self.budget

    def measure(
        self, document: Document, scenario: Scenario, hardware: str | None = None, *, thorough: bool = False
    ) -> Report:
        self.measured += 1
        return measure(
            document,
            hardware=hardware or self.hardware,
            scenario=scenario,
            cards=self.cards,
            calibration=self.calibration,
            thorough=thorough,
        )

    # -- numbers

    def number(self, what: str) -> Solution:
        """The largest batch or sequence."""
        most, limit = MOST, f"nothing larger than {MOST} is looked for"
        positions = self.document.environment.get("max_position_embeddings")
        if what == "sequence" and isinstance(positions, int) and 0 < positions < most:
            most, limit = positions, f"max_position_embeddings is {positions}"

        def at(value: int, thorough: bool) -> Report | None:
            return self.measure(self.document, self.scenario.but(**{what: value}), thorough=thorough)

        grain = min(TOKENS, most) if what == "sequence" else 1
        return self.largest(what, at, grain, grain, most, limit)

    def size(self, name: str) -> Solution:
        """The largest value of a size with which the graph is sound."""
        if is_expression(self.document.sizes[name]):
            raise CanvasError(
                f"{name} follows from {self.document.sizes[name][1:]}", path=name, hint="Solve for one of those."
            )

        def edited(value: int) -> Document | None:
            try:
                document = apply(self.document, SetSize("", name, value))
            except CanvasError:
                return None
            return document if check(document, sequence=self.scenario.sequence).ok else None

        start = self.document.environment[name]
        aligned = [g for g in GRAINS if start % g == 0 and g <= ALIGNED]
        grains = [*reversed(aligned), *GRAINS] if start >= WIDE else GRAINS
        grain = next((g for g in grains if start % g == 0 and edited(start + g) is not None), start)

        def at(value: int, thorough: bool) -> Report | None:
            document = edited(value)
            try:
                return None if document is None else self.measure(document, self.scenario, thorough=thorough)
            except UnresolvedShape:
                return None

        return self.largest(name, at, start, grain, MOST, f"nothing larger than {MOST} is looked for")

    def largest(
        self, what: str, at: Callable[[int, bool], Report | None], start: int, grain: int, most: int, limit: str
    ) -> Solution:
        """The largest multiple of `grain` whose report fits: memory only grows with it, but for the allocator's rounding."""
        low, high = self._bracket(what, at, start, grain, most)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._fits(at(middle * grain, False)) else (low, middle)
        while low > 1 and not self._fits(at(low * grain, True)):  # what was estimated is followed through all layers
            low -= 1
        for _ in range(CLIMB):
            if (low + 1) * grain > most or not self._fits(at((low + 1) * grain, True)):
                break
            low += 1
        report = at(low * grain, True)
        assert report is not None
        if (low + 1) * grain <= most:
            limit = self._limit(what, (low + 1) * grain, at((low + 1) * grain, True))
        return Solution(what, low * grain, report, self.room, limit, self.measured)

    def _bracket(
        self, what: str, at: Callable[[int, bool], Report | None], start: int, grain: int, most: int
    ) -> tuple[int, int]:
        """Multiples of `grain` of which the first fits and the second does not."""
        low = max(1, start // grain)
        if not self._fits(at(low * grain, False)):
            least = at(grain, False)
            if not self._fits(least):
                self._nothing(what, grain, least)
            return 1, low
        high = 2 * low
        while high * grain <= most and self._fits(at(high * grain, False)):
            low, high = high, 2 * high
        return low, min(high, most // grain + 1)

    def _fits(self, report: Report | None) -> bool:
        return report is not None and report.memory.device_total <= self.room

    def _limit(self, what: str, value: int | str, report: Report | None) -> str:
        if report is None:
            return f"with {what} {value} the graph is not sound"
        return f"{what} {value} takes {report.memory.device_total / 2**30:.2f} GiB of {self.room / 2**30:.2f}"

    def _nothing(self, what: str, least: int | str, report: Report | None) -> NoReturn:
        needs = "" if report is None else f": it takes {report.memory.device_total / 2**30:.2f} GiB"
        raise CanvasError(
            f"not even {what} {least} fits {self.room / 2**30:.2f} GiB{needs}",
            path=what,
            hint="Recompute (recompute full), train adapters (lora 16), shard over cards (data 8), or take a larger card.",
        )

    # -- choices

    def recompute(self) -> Solution:
        """The fastest recomputation that fits."""
        reports = {}
        for policy in self._policies():
            report = self.measure(self.document, self.scenario.but(recompute=policy))
            reports[policy] = report
        fitting = {policy: report for policy, report in reports.items() if self._fits(report)}
        if not fitting:
            least = min(reports, key=lambda policy: reports[policy].memory.device_total)
            self._nothing("recompute", least, reports[least])
        best = min(fitting, key=lambda policy: fitting[policy].time.total_s)
        faster = [p for p in reports if reports[p].time.total_s < reports[best].time.total_s]
        limit = ", ".join(self._limit("recompute", policy, reports[policy]) for policy in faster)
        report = self.measure(self.document, self.scenario.but(recompute=best), thorough=True)
        return Solution("recompute", best, report, self.room, limit or "nothing is faster", self.measured)

    def _policies(self) -> Iterator[str]:
        """Nothing, each block within a layer, pairs of them, all but products, everything."""
        blocks = {
            visit.item.block
            for visit in walk(self.document)
            if isinstance(visit.item, Use) and any(part.partition("-")[0].isdecimal() for part in visit.path.split("."))
        }
        yield from ("none", "selective", *sorted(blocks), ",".join(sorted(blocks)), "full")

    def card(self) -> Solution:
        """The card with the least memory that is enough."""
        names = hardware_names(file=self.cards)
        cards = sorted((load_hardware(name, file=self.cards) for name in names), key=lambda card: card.memory_bytes)
        smaller = ""
        for card in cards:
            try:
                report = self.measure(self.document, self.scenario, card.id)
            except CanvasError as refusal:
                if isinstance(refusal, UnresolvedShape):
                    raise
                smaller = f"{card.id}: {refusal.message}"
                continue
            if report.fits:
                exact = self.measure(self.document, self.scenario, card.id, thorough=True)
                if exact.fits:
                    return Solution(
                        "hardware", card.id, exact, card.memory_bytes, smaller or "no card is smaller", self.measured
                    )
            taken = report.memory.device_total / 2**30
            smaller = f"{card.id} has {card.memory_bytes / 2**30:.2f} GiB, and it takes {taken:.2f}"
        raise CanvasError(
            f"no card is large enough: {smaller}",
            path="hardware",
            hint="Recompute (recompute full), train adapters (lora 16), or shard over cards (data 8).",
        )
