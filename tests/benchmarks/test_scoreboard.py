"""The committed scoreboard: all types are there, what does not pass has its reason, and README quotes it."""

import json
import re
from pathlib import Path

from model_types import UNSUPPORTED

from benchmarks.record import RESULTS
from benchmarks.scoreboard import summary
from canvas_rt.importer.config import supported

ROWS = [json.loads(line) for line in (RESULTS / "scoreboard.jsonl").read_text(encoding="utf-8").splitlines()]
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_every_type_was_tried() -> None:
    assert [row["type"] for row in ROWS] == sorted(supported())


def test_what_does_not_pass_has_its_reason_and_only_that() -> None:
    assert {row["type"] for row in ROWS if not row.get("passed")} == UNSUPPORTED.keys()


def test_what_passes_is_equal_to_the_last_bit() -> None:
    passed = [row for row in ROWS if row.get("passed")]
    assert all(row["checks"][name]["max_abs_diff"] == 0 for row in passed for name in ("logits", "gradients"))


def test_no_type_crashes_or_hangs() -> None:
    ended = [row["why"] for row in ROWS if row["stage"] != "done"]
    assert all(re.match(r"(UnsupportedModelError|ConfigError|EmitError|CanvasError): ", why) for why in ended)


def test_the_readme_quotes_it() -> None:
    _, numbers = summary(ROWS)
    assert f"{numbers['passed']} of {numbers['types']}" in README
