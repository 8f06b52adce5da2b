"""What the dry run's tab shows: progress, a verdict, a table and a line; who leaves it ends the run."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import canvas_rt
from canvas_rt.dryrun import DryRun, Figure
from canvas_rt.physics.scenario import Scenario
from canvas_rt.session import Setting
from canvas_ui import dryrun_tab
from canvas_ui.limits import Limits, Line

SCENARIO = Scenario(mode="decode", batch=2, sequence=32)
FIGURES = (Figure("parameters.total", 100, 100, 100), Figure("memory.peak_allocated", 2**30, 2**29, 2**28))


def result(**changes: Any) -> DryRun:
    usual: dict[str, Any] = {
        "device": "cpu",
        "device_name": "the CPU (2 cores)",
        "asked": SCENARIO,
        "scenario": SCENARIO,
        "layers": (4, 4),
        "cut": "",
        "reason": "",
        "told": "",
        "figures": FIGURES,
        "hardware": "",
        "timeline": ((0.0, 1), (1.0, 2**30)),
    }
    return DryRun(**{**usual, **changes})


class Open:
    """A service with one document open."""

    def __init__(self, document: Any = "a document") -> None:
        self.open = document
        self.limits = Limits()
        self.line = Line(self.limits)

    def document(self, session: str) -> Any:
        return self.open

    def setting(self, session: str) -> Setting:
        return Setting(mode="decode", batch=2, sequence=32)


def running(service: Open, stop: threading.Event) -> Iterator[Any]:
    return dryrun_tab.running(service, "session", "cpu", stop)  # type: ignore[arg-type]


def test_a_run_is_followed_to_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(document: Any, *, progress: Any, **settings: Any) -> DryRun:
        progress("making the model")
        return result()

    monkeypatch.setattr(dryrun_tab, "dry_run", run)
    seen = list(running(Open(), threading.Event()))
    assert [words.splitlines()[-1] for words, _, _ in seen[:2]] == [
        "decode, batch 2 × 32 tokens, bf16, on cpu…",
        "making the model…",
    ]
    words, table, _ = seen[-1]
    assert words.startswith("Ran; the peak was predicted 50.00% too low.\n")
    assert table.value["data"] == [
        ["parameters", "100", "100", "exact"],
        ["peak allocated", "1.00 GiB", "512.00 MiB", "-50.00%"],
    ]


def test_who_leaves_the_page_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(document: Any, *, stop: threading.Event, **settings: Any) -> DryRun:
        stop.wait(20)
        return result(reason="stopped", told="dry run was stopped")

    monkeypatch.setattr(dryrun_tab, "dry_run", run)
    monkeypatch.setattr("canvas_ui.jobs.BEAT_S", 0.05)
    stop = threading.Event()
    shown = running(Open(), stop)
    start = time.monotonic()
    assert [next(shown) for _ in range(3)] and not stop.is_set()  # it is asked again and again whether anybody listens
    assert time.monotonic() - start < 10
    shown.close()  # type: ignore[attr-defined]
    assert stop.is_set()


def test_what_cannot_be_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(document: Any, **settings: Any) -> DryRun:
        raise canvas_rt.CanvasError("no dry run chats", path="mode", hint="Choose mode decode.")

    monkeypatch.setattr(dryrun_tab, "dry_run", run)
    *_, last = running(Open(), threading.Event())
    assert last[0] == "Cannot be run. mode: no dry run chats\nChoose mode decode."
    assert next(running(Open(None), threading.Event()))[0] == "Nothing is open."


def test_the_card_that_was_asked_about_has_a_column_where_it_is_another() -> None:
    found = result(device="cuda", hardware="A card")
    table = dryrun_tab.table_of(dryrun_tab.rows_of(found), found.hardware)
    assert table.headers == ["figure", "measured", "predicted", "error", "on A card"]
    assert table.value["data"][1][-1] == "256.00 MiB"


def test_a_run_that_died_early_has_no_line() -> None:
    died = result(reason="killed", told="killed by signal 9", timeline=())
    assert dryrun_tab.plot_of(died).visible is False
    assert dryrun_tab.told(died).startswith("Died, killed: killed by signal 9.")
    assert dryrun_tab.plot_of(result()).visible is True
