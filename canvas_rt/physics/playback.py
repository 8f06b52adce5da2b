"""What is allocated over one step, as a line to draw."""

from itertools import accumulate
from typing import Any

import numpy as np

from canvas_rt.ir.document import Document
from canvas_rt.physics.bench import prepare
from canvas_rt.physics.hardware import load_hardware
from canvas_rt.physics.run import played
from canvas_rt.physics.scenario import Scenario, require, scenario_of

MOST_POINTS = 800
"""More than a screen has columns for. Of the moments that share a point, the fullest is kept."""


def timeline(document: Document, *, scenario: Scenario | None = None, **settings: Any) -> tuple[tuple[float, int], ...]:
    """Bytes that tensors take, in the second step: (share of the step's allocations and frees that is done, bytes).

    The highest is `measure(...).memory.peak_allocated`. Takes a scenario, and raises, as `measure` does.
    """
    chosen = scenario_of(scenario, settings)
    require(chosen)
    held, run = played(prepare(document, chosen, load_hardware("a100-80gb")))
    line = np.fromiter(accumulate((nbytes for nbytes, _ in run), initial=held), dtype=np.float64)
    groups = np.array_split(line, min(MOST_POINTS, len(line)))
    starts = np.cumsum([0, *(len(group) for group in groups)])[:-1] / max(1, len(line) - 1)
    return tuple((float(x), int(group.max())) for x, group in zip(starts, groups, strict=True))
