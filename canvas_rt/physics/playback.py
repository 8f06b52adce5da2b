"""What is allocated over one step, as a line to draw."""

from itertools import accumulate
from typing import cast

import numpy as np

from canvas_rt.ir.document import Document
from canvas_rt.ops.parameters import parameter_table
from canvas_rt.physics.kv_cache import item_bytes
from canvas_rt.physics.measuring import input_bytes, resident_bytes
from canvas_rt.physics.report import Scenario
from canvas_rt.physics.shapes import checked_run
from canvas_rt.physics.trace import Mode, Setup
from canvas_rt.physics.whole import events, model

MOST_POINTS = 800
"""More than a screen has columns for. Of the moments that share a point, the fullest is kept."""


def timeline(
    document: Document,
    *,
    mode: str = "train",
    batch: int = 1,
    sequence: int = 4096,
    dtype: str = "bf16",
    optimizer: str = "adamw",
) -> tuple[tuple[float, int], ...]:
    """Bytes that tensors take, in the second step: (share of the step's allocations and frees that is done, bytes).

    The highest is `measure(...).memory.peak_allocated`. Raises as `measure` does.
    """
    checked_run(document, batch, sequence)
    scenario = Scenario(mode, batch, sequence, dtype, optimizer)
    whole = model(document, Setup(cast(Mode, mode), batch, sequence, dtype))
    held = sum(input_bytes(document, whole.setup)) + resident_bytes(
        parameter_table(document), item_bytes(dtype), scenario
    )
    run = np.fromiter(accumulate((nbytes for nbytes, _ in events(whole)), initial=held), dtype=np.float64)
    groups = np.array_split(run, min(MOST_POINTS, len(run)))
    starts = np.cumsum([0, *(len(group) for group in groups)])[:-1] / max(1, len(run) - 1)
    return tuple((float(x), int(group.max())) for x, group in zip(starts, groups, strict=True))
