"""Models run for real beside what was predicted: on the CPU small ones of many families, on meta whole ones, on a GPU Llamas.

`python -m benchmarks.dryrun` runs what the machine can and writes results/dryrun.{json,md}. Where there is a CUDA device it also
runs a training step of Llama-3.2-1B, that of the deepest Llama-3.1-8B that the prediction says fits, and that of one
layer more, which should not fit; those go to results/dryrun_CARD.{json,md}.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import canvas_rt
from benchmarks import record
from canvas_rt.dryrun import DryRun
from canvas_rt.dryrun.here import card_at_hand, devices
from canvas_rt.edits import DeleteLayers, SetSize, apply
from canvas_rt.ir.document import Document, Stack
from canvas_rt.ir.graph import walk
from canvas_rt.verifier.shrink import small_form

FAMILIES = ("llama-3.2-1b", "mistral-7b-v0.1", "gemma-2-2b", "qwen3-4b", "gpt2", "mixtral-8x7b-v0.1", "qwen3-30b-a3b")
"""Shrunk to sizes of a test, with all their layers; run on the CPU."""

LAYERS = 6
TOKENS = {"batch": 2, "sequence": 24}

WHOLE = ("llama-3.2-1b", "llama-3.1-8b", "gemma-3-1b", "mamba-codestral-7b")
"""Run whole on meta, in the scenarios of `ON_META`."""

ON_META: tuple[dict[str, Any], ...] = (
    {"mode": "train", "sequence": 4096},
    {"mode": "train", "sequence": 4096, "batch": 2, "recompute": "full", "implementation": "foreach"},
    {"mode": "prefill", "sequence": 8192},
    {"mode": "decode", "sequence": 8192, "batch": 8},
)
STEP: dict[str, Any] = {"mode": "train", "batch": 1, "sequence": 2048, "recompute": "full"}
"""What is trained on a GPU."""

SHOWN = ("memory.weights", "memory.gradients", "memory.optimizer", "memory.activations", "memory.kv_cache")
MIB = 2**20

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
"""The same memory on every CPU: with instructions for bf16 oneDNN takes scratch for its products, up to 5 % at these sizes."""


def small(name: str) -> Document:
    """A family's model at the sizes of a test, with few layers."""
    whole = canvas_rt.open_zoo(name)
    layers = int(whole.environment["num_hidden_layers"])
    stack = next(visit.path for visit in walk(whole) if isinstance(visit.item, Stack))
    few = apply(whole, DeleteLayers(f"{stack}.{LAYERS}-{layers - 1}")) if layers > LAYERS else whole
    found = small_form(few)[1]
    # Grouped products want rows of whole 16 bytes.
    wide = {n: -(-int(v) // 8) * 8 for n, v in found.sizes.items() if n.endswith("intermediate_size")}
    return found.replace(sizes=found.sizes.with_items(wide))


def edited() -> Document:
    """A Llama whose layers differ."""
    return apply(
        small("llama-3.2-1b"),
        DeleteLayers("model.layers.3"),
        SetSize("model.layers.1", "num_key_value_heads", 4),
        SetSize("model.layers.0", "intermediate_size", 64),
    )


def row(name: str, found: DryRun, seconds: float) -> dict[str, Any]:
    print(f"{name}: {found.verdict}  ({seconds:.0f} s)", file=sys.stderr, flush=True)
    return {
        "model": name,
        "seconds": seconds,
        **{k: v for k, v in found.to_json().items() if k not in ("asked", "timeline")},
    }


def run(name: str, document: Document, **settings: Any) -> dict[str, Any]:
    start = time.perf_counter()
    found = canvas_rt.dry_run(document, **settings)
    return row(name, found, time.perf_counter() - start)


def on_cpu(only: Collection[str]) -> Iterator[dict[str, Any]]:
    for name in ("edited Llama", *FAMILIES):
        if only and name not in only:
            continue
        document = edited() if name == "edited Llama" else small(name)
        for mode, dtype in (("train", "bf16"), ("prefill", "fp32"), ("decode", "bf16")):
            yield run(name, document, device="cpu", mode=mode, dtype=dtype, timeout_s=60, **TOKENS)


def on_meta() -> Iterator[dict[str, Any]]:
    for name in WHOLE:
        for scenario in ON_META:
            yield run(name, canvas_rt.open_zoo(name), device="meta", **scenario)


def on_gpu() -> Iterator[dict[str, Any]]:
    """Llama-3.2-1B; the deepest Llama-3.1-8B that should fit; and one layer more."""
    with tempfile.TemporaryDirectory() as folder:
        card, file = card_at_hand(Path(folder))
        llama = canvas_rt.open_zoo("llama-3.1-8b")
        layers = int(canvas_rt.solve(llama, "layers", hardware=card.id, cards=file, **STEP).value)
    yield run("llama-3.2-1b", canvas_rt.open_zoo("llama-3.2-1b"), device="cuda", hardware=card.id, **STEP)
    for count in (layers, layers + 1):
        deep = apply(llama, SetSize("", "num_hidden_layers", count))
        yield run(f"llama-3.1-8b, {count} layers", deep, device="cuda", hardware=card.id, **STEP)


# ---------------------------------------------------------------------------------------------------------------------


def told(rows: Iterable[dict[str, Any]]) -> str:
    """A row for each run: its peak, and how far each component is off."""
    heads = ("model", "run", "peak, MiB", "predicted", "error", "FLOPs", *(name.partition(".")[2] for name in SHOWN))
    return record.table(heads, map(_line, rows))


def _line(found: dict[str, Any]) -> list[str]:
    s, figures = found["scenario"], found["figures"]
    words = f"{s['mode']} {s['batch']}×{s['sequence']} {s['dtype']}" + (
        " recomputed" if s["recompute"] != "none" else ""
    )
    if not found["ran"]:
        return [found["model"], words, found["reason"], *[""] * (3 + len(SHOWN))]
    peak = figures["memory.peak_allocated"]
    sizes = [f"{peak[side] / MIB:,.1f}" for side in ("measured", "predicted")]
    flops = [figures[name] for name in ("flops.forward", "flops.backward") if name in figures]
    counted = _error(flops) if flops and flops[0]["measured"] is not None else "–"
    parts = [_error([figures[name]]) if name in figures else "–" for name in SHOWN]
    return [found["model"], words, *sizes, _error([peak]), counted, *parts]


def _error(figures: list[dict[str, Any]]) -> str:
    """Predicted / measured - 1, of the sum."""
    measured, predicted = (sum(figure[side] for figure in figures) for side in ("measured", "predicted"))
    return "exact" if measured == predicted else f"{predicted / measured - 1:+.3%}"


def told_gpu(rows: Iterable[dict[str, Any]]) -> str:
    names = ("memory.peak_allocated", "memory.peak_reserved", "memory.device_total", "time.total_s")
    lines = []
    for found in rows:
        cells = [found["model"], "ran" if found["ran"] else found["reason"], found["notes"][0]]
        for name in names:
            figure = found["figures"][name]
            unit = 1.0 if name.startswith("time") else 2**30
            measured = "–" if figure["measured"] is None else f"{figure['measured'] / unit:.3f}"
            cells.append(f"{measured} / {figure['predicted'] / unit:.3f}")
        lines.append(cells)
    heads = ("model", "outcome", "prediction", *(f"{name.partition('.')[2]}, measured / predicted" for name in names))
    return record.table(heads, lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("cpu", "meta", "cuda"), action="append", help="only on this device")
    parser.add_argument(
        "--model", action="append", default=[], help="on the CPU run this one anew, and keep the other rows"
    )
    asked = parser.parse_args(arguments)
    chosen = ["cpu"] if asked.model else asked.only or devices()
    known = json.loads((record.RESULTS / "dryrun.json").read_text(encoding="utf-8")) if asked.model else {}
    figures: dict[str, Any] = {"machine": record.machine()}
    if "cuda" in chosen:
        rows = list(on_gpu())
        card = "".join(c if c.isalnum() else "_" for c in rows[0]["device_name"].lower())
        text = (
            f"One training step, {STEP['batch']} × {STEP['sequence']} tokens in bf16 with fused AdamW, every layer recomputed, "
            f"on {rows[0]['device_name']}. Bytes in GiB. The last model is one layer deeper than the prediction lets fit."
        )
        record.save(
            f"dryrun_{card}", "Dry runs on a GPU", {**figures, "cuda": rows}, [text, told_gpu(rows)], program="dryrun"
        )
    if {"cpu", "meta"} & set(chosen):
        kept = [found for found in known.get("cpu", ()) if found["model"] not in asked.model]
        figures |= {"cpu": kept + (list(on_cpu(asked.model)) if "cpu" in chosen else [])}
        figures |= {"meta": list(on_meta()) if "meta" in chosen else known.get("meta", [])}
        record.save("dryrun", "Dry runs: measured beside predicted", figures, _parts(figures))


def _parts(figures: dict[str, Any]) -> list[str]:
    exact = {
        device: sum(found["figures"]["memory.peak_allocated"]["error"] == 0.0 for found in figures[device])
        for device in ("cpu", "meta")
    }
    return [
        "An error is predicted / measured - 1: below 0 the prediction was too low.",
        f"On the CPU: small models of many families, {TOKENS['batch']} × {TOKENS['sequence']} tokens, run with random weights; "
        "measured are the bytes of PyTorch's own allocator, by its profiler, from the first weight on, with oneDNN held to "
        "AVX2: with instructions for bf16 it takes scratch memory for its products. "
        f"{exact['cpu']} of {len(figures['cpu'])} peaks are exact. "
        "GPT-2 drops a share of its attention while it trains, for which "
        "the CPU has no fused kernel: PyTorch takes its composite, the prediction does not. "
        "Experts sort their tokens, which holds more in a prompt than predicted.",
        told(figures["cpu"]),
        "On meta: whole models, every layer their own, against a prediction that traces one layer of each kind. FLOPs are "
        "those of torch's `FlopCounterMode` (attention's backward without the scores that it computes again); bytes are "
        f"those of every storage, rounded as the CUDA allocator does. {exact['meta']} of {len(figures['meta'])} peaks are exact.",
        told(figures["meta"]),
    ]


if __name__ == "__main__":
    main()
