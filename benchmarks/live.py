"""From one edit to its full report: the live tier, the thorough one, several cards; how both grow with depth."""

import gc
import time
from collections.abc import Callable
from typing import Any

import canvas_rt
from benchmarks.record import machine, save, table
from canvas_rt.edits import SetSize
from canvas_rt.ir.document import Document

LARGEST = "llama-3.1-405b"
DEPTHS = (8, 32, 126, 512, 1024)
EDITS = 40
"""For each line, no two alike, after some to warm up."""
THOROUGH = 8
LIVE_MS, BACKGROUND_MS = 50, 1000
YARDSTICK_MS = 22.6
"""A million additions in plain Python on the machine of `results/spine.md` when it is quiet: aims are held against times
that are scaled to it, because this machine is shared and slows down threefold."""

SCENARIOS: dict[str, dict[str, Any]] = {
    "train": {},
    "train, recompute full": {"recompute": "full"},
    "train, recompute selective": {"recompute": "selective"},
    "train, mixed": {"dtype": "mixed"},
    "train, LoRA 16 on nf4": {"lora": 16, "weights": "nf4"},
    "train, foreach": {"implementation": "foreach"},
    "prefill": {"mode": "prefill"},
    "decode": {"mode": "decode"},
    "chat": {"mode": "chat"},
    "train on 64 cards: FSDP2 8, tensor 8": {"data": 8, "tensor": 8},
}


def llama() -> Document:
    return canvas_rt.open_zoo(LARGEST)


def mixture() -> Document:
    """A mixture of experts of 60 layers: 64 experts of which 6 serve a token, as wide as DeepSeek-V2's."""
    from canvas_rt.ir.document import Block, Node
    from canvas_rt.ir.frozen import FrozenMap

    sizes = {"num_experts": 64, "num_experts_per_tok": 6, "moe_intermediate_size": 1536}
    width = {"size": "=hidden_size", "num_experts": "=num_experts"}
    router = Node(
        id="gate",
        op="router",
        attrs=FrozenMap({**width, "top_k": "=num_experts_per_tok", "scoring": "softmax", "normalise": True}),
        inputs=FrozenMap(x="hidden_states"),
    )
    experts = Node(
        id="experts",
        op="experts",
        attrs=FrozenMap({**width, "intermediate_size": "=moe_intermediate_size", "fn": "silu"}),
        inputs=FrozenMap(x="hidden_states", indices="gate.indices", weights="gate.weights"),
    )
    block = Block(inputs=("hidden_states",), nodes=(router, experts), outputs=FrozenMap(out="experts"), role="moe")
    document = canvas_rt.open_zoo("llama-3.1-8b")
    document = document.replace(
        sizes=document.sizes.with_items(
            {**sizes, "num_hidden_layers": 60, "hidden_size": 5120, "num_attention_heads": 40}
        )
    )
    return document.with_block("LlamaMLP", block)


def edited(document: Document, index: int, name: str) -> Document:
    return canvas_rt.apply(document, SetSize("", name, document.environment[name] - 64 * (index + 1)))


def times(run: Callable[[int], Any], count: int, warm: int = 4) -> dict[str, float]:
    """CPU milliseconds, of runs that are not alike."""
    for index in range(warm):
        run(400 + index)
    gc.collect()
    gc.freeze()
    found = []
    for index in range(count):
        start = time.process_time()
        run(index)
        found.append((time.process_time() - start) * 1e3)
    found.sort()
    return {"median": found[count // 2], "p95": found[min(count - 1, round(0.95 * count))], "max": found[-1]}


def main() -> None:
    about = machine()  # with the yardstick as it is while this runs
    models = {
        "Llama-3.1-405B, 126 layers": (llama(), "intermediate_size"),
        "mixture, 60 layers": (mixture(), "vocab_size"),
    }
    rows = []
    for title, (document, name) in models.items():
        for told, settings in SCENARIOS.items():
            rows.append({"model": title, "scenario": told, **both(document, name, settings)})
            print(rows[-1], flush=True)
    growth = []
    for depth in DEPTHS:
        deep = canvas_rt.apply(llama(), SetSize("", "num_hidden_layers", depth))
        modes = ("train", "prefill", "decode")
        growth.append({"layers": depth, **{mode: live(deep, "intermediate_size", {"mode": mode}) for mode in modes}})
        print(growth[-1], flush=True)
    write(about, rows, growth)


def live(document: Document, name: str, settings: dict[str, Any]) -> dict[str, float]:
    return times(lambda index: measured(edited(document, index % 500, name), settings), EDITS)


def both(document: Document, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    def thorough(index: int) -> Any:
        return measured(edited(document, 100 + index % 500, name), settings, thorough=True)

    return {"live": live(document, name, settings), "thorough": times(thorough, THOROUGH, 1)}


def measured(document: Document, settings: dict[str, Any], *, thorough: bool = False) -> Any:
    assert canvas_rt.check(document, sequence=4096).ok
    return canvas_rt.measure(document, hardware="h100-80gb", thorough=thorough, **settings)


def write(about: dict[str, Any], rows: list[dict[str, Any]], growth: list[dict[str, Any]]) -> None:
    scale = YARDSTICK_MS / about["yardstick_ms"]
    aims = [
        table(
            [
                "model, scenario",
                "median",
                "p95",
                "scaled p95",
                f"≤ {LIVE_MS}",
                "thorough",
                "scaled",
                f"≤ {BACKGROUND_MS}",
            ],
            [
                [
                    f"{row['model']}: {row['scenario']}",
                    f"{row['live']['median']:.1f}",
                    f"{row['live']['p95']:.1f}",
                    f"{row['live']['p95'] * scale:.1f}",
                    "yes" if row["live"]["p95"] * scale <= LIVE_MS else "**no**",
                    f"{row['thorough']['max']:.0f}",
                    f"{row['thorough']['max'] * scale:.0f}",
                    "yes" if row["thorough"]["max"] * scale <= BACKGROUND_MS else "**no**",
                ]
                for row in rows
            ],
        )
    ]
    modes = ("train", "prefill", "decode")
    depths = table(
        ["layers", *(f"{mode} {what}" for mode in modes for what in ("median", "p95"))],
        [
            [row["layers"], *(f"{row[mode][what]:.1f}" for mode in modes for what in ("median", "p95"))]
            for row in growth
        ],
    )
    ratios = ", ".join(f"× {growth[-1][m]['median'] / growth[0][m]['median']:.1f} in {m}" for m in modes)
    save(
        "live",
        "From an edit to its report",
        {"machine": about, "rows": rows, "growth": growth},
        [
            f"CPU ms for one size edit → `check` → `measure`: {EDITS} edits for each line, no two alike; the thorough report, "
            f"with the allocator followed through every layer and formulas for every number, {THOROUGH} times, the worst. "
            f"Scaled: as if the million additions had taken {YARDSTICK_MS} ms, as on this machine when it is quiet.",
            *aims,
            f"How it grows with depth, on Llama-3.1-405B with so many layers. From {growth[0]['layers']} to "
            f"{growth[-1]['layers']} layers the median grows {ratios}.",
            depths,
        ],
    )


if __name__ == "__main__":
    main()
