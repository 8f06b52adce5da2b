"""One open document: its history, and what is known of it in a scenario. What the editor talks to."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from canvas_rt.diagnostics import Diagnostic
from canvas_rt.edits import Edit, apply, difference, dump, parse_edits
from canvas_rt.errors import CanvasError
from canvas_rt.gestures.words import in_words
from canvas_rt.ir.document import Document
from canvas_rt.ops.parameters import count_parameters
from canvas_rt.physics import Check, Report, check, measure
from canvas_rt.physics.scenario import Scenario

MOST_STEPS = 200
"""Steps of undo that a session keeps, if not told otherwise. Documents share what they have in common, so a step costs some kilobytes."""


@dataclass(frozen=True, slots=True)
class Setting(Scenario):
    """How the model is to run, and on which card."""

    hardware: str = "a100-80gb"

    @property
    def scenario(self) -> Scenario:
        return Scenario(**{field.name: getattr(self, field.name) for field in fields(Scenario)})


@dataclass(frozen=True)
class State:
    """A document in a scenario. All that follows from the two is computed once, when it is asked for."""

    document: Document
    setting: Setting

    @cached_property
    def check(self) -> Check:
        try:
            return check(self.document, batch=self.setting.batch, sequence=self.setting.sequence)
        except Exception as error:  # a flaw of ours must not take the document away from its owner
            return Check({}, (_flaw("cannot be checked", error),))

    @cached_property
    def report(self) -> Report | None:
        """What it costs; None while shapes disagree."""
        if not self.check.ok:
            return None
        try:
            return measure(self.document, hardware=self.setting.hardware, scenario=self.setting.scenario)
        except Exception as error:  # a scenario without numbers, or a flaw of ours
            self._flaws.append(_flaw("has no cost in this scenario", error))
            return None

    @cached_property
    def _flaws(self) -> list[Diagnostic]:
        return []

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All that is wrong, with what keeps a sound graph from having a cost."""
        assert self.report is None or not self._flaws
        return (*self.check.diagnostics, *self._flaws)

    @cached_property
    def parameters(self) -> int | None:
        """Learned numbers, counted while shapes disagree too; None where a setting has no value."""
        if self.report is not None:
            return self.report.parameters.total
        try:
            return count_parameters(self.document).total
        except (CanvasError, KeyError, TypeError):
            return None


def _flaw(what: str, error: Exception) -> Diagnostic:
    if isinstance(error, CanvasError):
        return Diagnostic("error", error.path, f"the model {what}: {error.message}", error.hint)
    message = f"the model {what}: a flaw of Canvas itself, {type(error).__name__}: {str(error)[:200]}"
    return Diagnostic("error", "", message, "Undo the last change and go on; please report it.")


@dataclass(slots=True)
class Step:
    """One step of the history."""

    before: Document
    words: str
    gesture: str | None = None


@dataclass
class Session:
    """One open document with its history."""

    state: State
    revision: int = 0
    """Rises with each change of the document."""

    past: list[Step] = field(default_factory=list)
    future: list[Step] = field(default_factory=list)
    most: int = MOST_STEPS
    """Steps of undo that are kept."""

    @classmethod
    def begin(cls, document: Document, setting: Setting | None = None, *, most: int = MOST_STEPS) -> "Session":
        return cls(State(document, setting or Setting()), most=most)

    @property
    def document(self) -> Document:
        return self.state.document

    def snapshot(self) -> tuple[Any, ...]:
        """What `restore` brings back."""
        return self.state, self.revision, list(self.past), list(self.future)

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Be as if nothing had happened since the snapshot."""
        self.state, self.revision, self.past, self.future = snapshot

    def edit(self, edits: Sequence[Edit], *, gesture: str | None = None) -> None:
        """Make edits, all or none, as one step of undo.

        Edits of the same gesture as the step before take its place: they are made on the document that it began with.
        Raises `EditError`.
        """
        repeated = bool(gesture and self.past and self.past[-1].gesture == gesture and not self.future)
        base = self.past[-1].before if repeated else self.document
        after = apply(base, *edits)
        if repeated:
            self.past[-1] = replace(self.past[-1], words=in_words(edits))
            self._show(after)
        elif after != self.document:
            self._advance(after, in_words(edits), gesture)

    def open(self, document: Document) -> None:
        """Leave the document for another."""
        self._advance(document, f"open {document.name}", None)

    def _advance(self, after: Document, words: str, gesture: str | None) -> None:
        self.past = [*self.past, Step(self.document, words, gesture)][-self.most :]
        self.future = []
        self._show(after)

    def _show(self, document: Document) -> None:
        self.state = State(document, self.state.setting)
        self.revision += 1

    def undo(self) -> None:
        """Take back the last step. Does nothing where there is none."""
        if self.past:
            step = self.past.pop()
            self.future.append(Step(self.document, step.words))
            self._show(step.before)

    def redo(self) -> None:
        """Make the step again that was taken back last."""
        if self.future:
            step = self.future.pop()
            self.past.append(Step(self.document, step.words))
            self._show(step.before)

    def run_as(self, setting: Setting) -> None:
        """Ask for the costs of another scenario."""
        self.state = State(self.document, setting)

    def way_back(self, most: int) -> list[dict[str, Any]]:
        """The last steps as data: edits that lead from the document back, the nearest first."""
        steps: list[dict[str, Any]] = []
        after = self.document
        for step in reversed(self.past[-most:]):
            if step.before.origin != after.origin:  # another document was open then: no edit leads there
                break
            steps.append({"words": step.words, "edit": dump(difference(after=after, before=step.before))})
            after = step.before
        return steps

    def retrace(self, steps: Sequence[Any]) -> None:
        """Take up a history that `way_back` gave, on top of what there is. Steps from the first that does not fit on are left out."""
        past: list[Step] = []
        document = self.document
        for step in steps[: self.most]:
            try:
                words, edit = str(step["words"])[:200], parse_edits(step["edit"])
                document = apply(document, *edit)
            except (CanvasError, KeyError, TypeError):
                break
            past.append(Step(document, words))
        self.past = [*self.past, *past[::-1]][-self.most :]
