"""How long it takes to follow PyTorch's allocator through two training steps, and what it reserves, by depth."""

import time
from typing import Any

import canvas_rt
from benchmarks.record import machine, save, table
from canvas_rt.edits import SetSize
from canvas_rt.ir.document import Document
from canvas_rt.ops.parameters import parameter_table
from canvas_rt.physics.measuring import input_bytes
from canvas_rt.physics.tape import GRANULE
from canvas_rt.physics.trace import Setup
from canvas_rt.physics.whole import (
    EXACT,
    FEW,
    MORE,
    Residents,
    events,
    model,
    replayed,
    reserved_overhead,
    weight_sizes,
)

LARGEST = "llama-3.1-405b"
DEPTHS = (8, 32, 80, 126, 256, 1024)
DEEP = 512
WIDTHS = (53_248, 51_968, 50_176, 50_000)
"""The published `intermediate_size`, and others: sizes that leave more odd rests."""

SETUP = Setup("train", 1, 4096, "bf16")
REPEATS = 7
SHORT = 1.02
"""The card that is nearly too small has so many times the most that is allocated."""


def residents_of(document: Document, most: int) -> Residents:
    """Weights, AdamW's states and inputs in bf16, of at most so many layers."""
    depth = document.sizes["num_hidden_layers"]
    assert isinstance(depth, int)
    weights = weight_sizes(parameter_table(document), {"model.layers": depth}, 2, most)
    states = tuple(part for size in weights for part in (GRANULE, size, size))
    return Residents(weights, states, input_bytes(document, SETUP))


def at_depth(depth: int, width: int = WIDTHS[0]) -> Document:
    document = canvas_rt.open_zoo(LARGEST)
    for size, value in (("num_hidden_layers", depth), ("intermediate_size", width)):
        document = canvas_rt.apply(document, SetSize("", size, value))
    return document


def follow(depth: int, *, expandable: bool) -> dict[str, Any]:
    document = at_depth(depth)
    whole = model(document, SETUP)
    run, residents = events(whole), residents_of(document, depth)
    taken = []
    for _ in range(REPEATS):
        start = time.process_time()
        allocator = replayed(run, residents, expandable=expandable)
        taken.append(time.process_time() - start)
    short = replayed(run, residents, int(allocator.peak_allocated * SHORT), expandable=expandable)
    return {
        "layers": depth,
        "segments": "expandable" if expandable else "native",
        "events": 2 * len(run),
        "cpu_ms": {"median": sorted(taken)[REPEATS // 2] * 1e3, "least": min(taken) * 1e3},
        "peak_allocated": allocator.peak_allocated,
        "peak_reserved": allocator.peak_reserved,
        "asked": allocator.segments,
        "short": {"retries": short.retries, "out_of_memory": short.out_of_memory},
    }


def line(row: dict[str, Any]) -> list[str]:
    short = row["short"]
    return [
        f"{row['layers']:,} {row['segments']}",
        f"{row['events']:,}",
        f"{row['cpu_ms']['median']:.0f} ({row['cpu_ms']['least']:.0f})",
        f"{row['peak_allocated'] / 2**30:,.1f}",
        f"{row['peak_reserved'] / 2**30:,.1f}",
        f"{row['peak_reserved'] / row['peak_allocated']:.4f}",
        f"{row['asked']:,}",
        f"{short['retries']:,}",
        "yes" if short["out_of_memory"] else "no",
    ]


def extrapolated(width: int) -> dict[str, Any]:
    """What `measure` says is reserved beyond what is allocated, where it does not follow all layers; and what is."""
    document = at_depth(DEEP, width)
    whole = model(document, SETUP)
    allocator = replayed(events(whole), residents_of(document, DEEP))
    exact = allocator.peak_reserved - allocator.peak_allocated
    said = reserved_overhead(whole, lambda most: residents_of(document, most), DEEP)
    return {"intermediate_size": width, "overhead": exact, "said": said, "error": said / exact - 1}


def main() -> None:
    about = machine()
    rows = [follow(depth, expandable=expandable) for depth in DEPTHS for expandable in (False, True)]
    guesses = [extrapolated(width) for width in WIDTHS]
    save(
        "allocator",
        "Following the caching allocator",
        {"machine": about, "model": LARGEST, "rows": rows, "extrapolated": guesses},
        [
            f"Two training steps of {LARGEST} ({SETUP.batch} × {SETUP.new_tokens} tokens, bf16, AdamW) at several depths, "
            "every event of every layer, weights and optimizer states too. CPU ms: one replay, the median of "
            f"{REPEATS} and in brackets the least; making the list of events is not in it. GiB at the peak, allocated and "
            "reserved, and their ratio. Asked: how often the driver gave memory. The last two columns are of a card "
            f"with {SHORT} times the peak that is allocated: how often cached memory had to be given back, and whether "
            "even that was too little.",
            table(
                [
                    "layers, segments",
                    "events",
                    "CPU ms",
                    "allocated",
                    "reserved",
                    "ratio",
                    "asked",
                    "retries",
                    "too small",
                ],
                map(line, rows),
            ),
            f"Beyond {EXACT} layers `measure` extrapolates what is reserved beyond what is allocated, from {FEW} and {MORE} "
            f"layers. GiB at {DEEP} layers:",
            table(
                ["intermediate_size", "followed", "extrapolated", "error"],
                (
                    [
                        f"{guess['intermediate_size']:,}",
                        *(f"{guess[of] / 2**30:,.2f}" for of in ("overhead", "said")),
                        f"{guess['error']:+.2%}",
                    ]
                    for guess in guesses
                ),
            ),
        ],
    )


if __name__ == "__main__":
    main()
