"""Runs of the training tab wait for their turn, say so, and stop waiting when they are told to."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canvas_ui import training_tab
from canvas_ui.limits import Limits, Line
from canvas_ui.training_tab import MOST_RUNS, Work


class Open:
    """A service with one document open."""

    def document(self, session: str) -> Any:
        return "a document"


def running(work: Work, session: str, line: Line) -> Iterator[Any]:
    return training_tab.running(Open(), work, session, line)  # type: ignore[arg-type]


def ready() -> Work:
    work = Work(Path(), "a document", None)  # type: ignore[arg-type]
    work.ended.set()
    return work


def test_a_second_run_waits_for_its_turn_and_is_stopped_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    leave = threading.Event()

    def launch(folder: Path, *, stop: threading.Event, **settings: Any) -> Any:
        begun.append(1)
        leave.wait(20)
        raise training_tab.CanvasError("left")

    monkeypatch.setattr(training_tab, "launch", launch)
    line = Line(replace(Limits(), jobs=MOST_RUNS))
    mine, theirs = ready(), ready()
    first = running(mine, "a", line)
    assert next(first)[0] == next(first)[0] == "Starting a process…"
    second = running(theirs, "b", line)
    assert next(second)[0] == "Waiting for its turn…"
    assert next(second)[0] == "Waiting for its turn…", "it goes on to say so"
    assert begun == [1] and not theirs.running
    theirs.stop.set()
    *_, (words, _, start) = second
    assert words == "Stopped before it began." and start.interactive
    assert theirs.ended.is_set() and not theirs.begun
    third = running(theirs, "b", line)
    assert next(third)[0] == "Waiting for its turn…"
    leave.set()
    assert [shown[0] for shown in first][-1] == "Cannot be trained. left"
    assert "Starting a process…" in [shown[0] for shown in third]
    assert begun == [1, 1]
