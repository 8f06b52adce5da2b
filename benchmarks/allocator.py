"""How long it takes to follow PyTorch's allocator through two training steps, and what it reserves, by depth."""

import time
from typing import Any

import canvas_rt
from benchmarks.record import machine, save, table
from canvas_rt.edits import SetSize
from canvas_rt.ir.document import Document
from canvas_rt.physics.bench import prepare
from canvas_rt.physics.hardware import load_hardware
from canvas_rt.physics.reserving import FEW, MORE, Plan, followed, overhead
from canvas_rt.physics.run import begin, plan_of
from canvas_rt.physics.scenario import Scenario

LARGEST = "llama-3.1-405b"
DEPTHS = (8, 32, 80, 126, 256, 1024)
WIDTHS = (53_248, 50_176, 50_000)
"""The published `intermediate_size`, and others: sizes that leave more odd rests."""

ESTIMATED: tuple[tuple[str, Scenario], ...] = (
    (LARGEST, Scenario()),
    (LARGEST, Scenario(mode="prefill")),
    ("llama-3.1-70b", Scenario(implementation="foreach")),
    ("llama-3.1-8b", Scenario()),
    ("llama-3.1-8b", Scenario(recompute="full")),
    ("mistral-7b-v0.1", Scenario(sequence=2000)),
    ("smollm-135m", Scenario(batch=8, sequence=2048)),
)
"""What `measure` estimates from a few layers, unless the report is thorough."""

REPEATS = 5
SHORT = 1.02
"""The card that is nearly too small has so many times the most that is allocated."""


def at_depth(depth: int, width: int = WIDTHS[0]) -> Document:
    document = canvas_rt.open_zoo(LARGEST)
    for size, value in (("num_hidden_layers", depth), ("intermediate_size", width)):
        document = canvas_rt.apply(document, SetSize("", size, value))
    return document


def planned(document: Document, scenario: Scenario) -> Plan:
    return plan_of(begin(prepare(document, scenario, load_hardware("a100-80gb"))))


def follow(depth: int, *, expandable: bool) -> dict[str, Any]:
    plan = planned(at_depth(depth), Scenario(expandable=expandable))
    taken = []
    for _ in range(REPEATS):
        start = time.process_time()
        allocator = followed(plan)
        taken.append(time.process_time() - start)
    short = followed(plan, int(allocator.peak_allocated * SHORT))
    return {
        "layers": depth,
        "segments": "expandable" if expandable else "native",
        "events": 2 * sum(map(len, plan.parts())),
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


def estimated(name: str, scenario: Scenario) -> dict[str, Any]:
    """What is reserved, followed through all layers and estimated from a few."""
    plan = planned(canvas_rt.open_zoo(name), scenario)
    allocator = followed(plan)
    said = allocator.peak_allocated + overhead(plan)
    told = f"{name}, {scenario.mode}, recompute {scenario.recompute}, {scenario.chosen_implementation}"
    error = said / allocator.peak_reserved - 1
    return {"case": told, "layers": plan.depth, "followed": allocator.peak_reserved, "estimated": said, "error": error}


def main() -> None:
    about = machine()
    rows = [follow(depth, expandable=expandable) for depth in DEPTHS for expandable in (False, True)]
    guesses = [estimated(name, scenario) for name, scenario in ESTIMATED]
    save(
        "allocator",
        "Following the caching allocator",
        {"machine": about, "model": LARGEST, "rows": rows, "estimated": guesses},
        [
            f"Two training steps of {LARGEST} (1 × 4096 tokens, bf16, fused AdamW) at several depths, "
            "every event of every layer, weights and optimizer states too. CPU ms: making the list of events and following "
            f"it, the median of {REPEATS} and in brackets the least. GiB at the peak, allocated and "
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
            f"While a graph is edited, `measure` estimates what is reserved by deeper models than {MORE} layers from {FEW} "
            f"and {MORE} of them; `thorough=True` follows all. GiB:",
            table(
                ["case", "layers", "followed", "estimated", "error"],
                (
                    [
                        guess["case"],
                        guess["layers"],
                        *(f"{guess[of] / 2**30:,.2f}" for of in ("followed", "estimated")),
                        f"{guess['error']:+.2%}",
                    ]
                    for guess in guesses
                ),
            ),
        ],
    )


if __name__ == "__main__":
    main()
