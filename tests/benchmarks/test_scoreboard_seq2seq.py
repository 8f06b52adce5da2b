"""The committed scoreboard of encoder-decoder models: all types are there, and what does not pass has its reason."""

import json
import re

from benchmarks.scoreboard import rows_of, types_of
from canvas_rt.ir.tasks import TASKS

SEQ2SEQ = TASKS["seq2seq_lm"]
ROWS = [json.loads(line) for line in rows_of(SEQ2SEQ).read_text(encoding="utf-8").splitlines()]


def test_every_type_was_tried() -> None:
    assert [row["type"] for row in ROWS] == types_of(SEQ2SEQ)


def test_the_families_that_are_promised_pass() -> None:
    passed = {row["type"] for row in ROWS if row.get("passed")}
    assert passed >= {"bart", "marian", "mbart", "m2m_100", "pegasus", "t5", "mt5", "umt5"}


def test_what_passes_is_equal_to_the_last_bit() -> None:
    passed = [row for row in ROWS if row.get("passed")]
    assert all(row["checks"][name]["max_abs_diff"] == 0 for row in passed for name in ("logits", "gradients"))


def test_no_type_crashes_or_hangs() -> None:
    ended = [row["why"] for row in ROWS if row["stage"] != "done"]
    assert all(re.match(r"(UnsupportedModelError|ConfigError|EmitError|CanvasError): ", why) for why in ended)
