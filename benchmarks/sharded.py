"""Compare predicted peaks of sharded training with PyTorch's FSDPMemTracker on whole small models, in bytes and in time."""

import time
from itertools import product
from pathlib import Path
from typing import Any

import canvas_rt
from benchmarks.record import machine, save, table
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import load
from canvas_rt.physics.run import peak_allocated
from canvas_rt.physics.scenario import Scenario
from tests.sharded_runs import SIZES, Job, peak_of_a_rank

ZOO = Path(__file__).parents[1] / "model_zoo"
WIDE = {"hidden_size": 256, "intermediate_size": 704}
LARGE: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": {"data": 8, "dtype": "mixed", "sequence": 8192},
    "llama-3.1-70b": {"data": 64, "dtype": "mixed", "sequence": 8192, "recompute": "full"},
    "llama-3.1-405b": {"data": 512, "dtype": "mixed", "sequence": 8192, "recompute": "full"},
    "llama-3.1-405b, tensor 8": {"data": 64, "tensor": 8, "dtype": "mixed", "sequence": 8192, "recompute": "full"},
    "llama-3.1-405b, pipeline 16": {"pipeline": 16, "tensor": 8, "dtype": "bf16", "sequence": 8192},
}


def jobs() -> list[Job]:
    return [
        Job(ranks, layers, reshard, dtype, vocab=1000, sizes=WIDE)
        for ranks, layers, reshard, dtype in product((2, 8), (2, 6), (True, False), ("fp32", "bf16", "mixed"))
    ]


def predicted(job: Job) -> int:
    llama: Document = load(ZOO / "llama" / "document.canvas.json")
    sizes = {**SIZES, **job.sizes, "num_hidden_layers": job.layers, "vocab_size": job.vocab}
    scenario = Scenario(
        batch=job.batch,
        sequence=job.sequence,
        dtype=job.dtype,
        attention="eager",
        implementation="foreach",
        data=job.ranks,
        reshard=job.reshard,
    )
    return peak_allocated(llama.replace(sizes=llama.sizes.with_items(sizes)), scenario, "cpu")


def compare(job: Job) -> dict[str, Any]:
    start = time.perf_counter()
    canvas = predicted(job)
    between = time.perf_counter()
    tracker = peak_of_a_rank(job, tracker=True)
    end = time.perf_counter()
    return {
        "ranks": job.ranks,
        "layers": job.layers,
        "reshard": job.reshard,
        "dtype": job.dtype,
        "predicted": canvas,
        "tracker": tracker,
        "ledger": peak_of_a_rank(job),
        "predicted_s": round(between - start, 3),
        "tracker_s": round(end - between, 3),
    }


def large(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """How long a report of a large model takes: the first, and the next of the same."""
    document = canvas_rt.open_zoo(name.partition(",")[0])
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        report = canvas_rt.measure(document, hardware="h100-80gb", **settings)
        seconds.append(round(time.perf_counter() - start, 3))
    allocated = round(report.memory.peak_allocated / 2**30, 1)
    return {"model": name, "cards": report.scenario.cards, "seconds": seconds, "allocated_gib": allocated}


def line(row: dict[str, Any]) -> list[str]:
    settings = (
        f"{row['ranks']} ranks, {row['layers']} layers, {row['dtype']}, {'reshard' if row['reshard'] else 'keep'}"
    )
    differences = [f"{row['predicted'] - row[other]:+,}" for other in ("ledger", "tracker")]
    return [settings, f"{row['predicted']:,}", *differences, f"{row['predicted_s']:.2f}", f"{row['tracker_s']:.2f}"]


def main() -> None:
    about = machine()
    canvas_rt.measure(canvas_rt.open_zoo("tinyllama-1.1b"), data=2)  # imports are not what is timed
    models = [large(name, settings) for name, settings in LARGE.items()]
    rows = [compare(job) for job in jobs()]
    exact = sum(row["predicted"] == row["ledger"] for row in rows)
    most = max(abs(row["predicted"] - row["tracker"]) for row in rows)
    times = [sum(row[name] for row in rows) / len(rows) for name in ("predicted_s", "tracker_s")]
    save(
        "sharded",
        "Sharded training against FSDPMemTracker",
        {"machine": about, "models": models, "rows": rows},
        [
            f"{exact} of {len(rows)} predicted peaks of a rank are to the byte those of PyTorch's own `fully_shard` on a "
            "whole small Llama (fake process group, fake CPU tensors, two steps of AdamW, DTensor's shape propagation "
            f"kept out), summed over storages of more than 8 bytes. `FSDPMemTracker` counts single numbers too: up to "
            f"{most} bytes more. A prediction took {times[0]:.2f} s on average, the tracker {times[1]:.2f} s.",
            table(["run", "predicted bytes", "− ledger", "− FSDPMemTracker", "s", "tracker s"], map(line, rows)),
            "Whole reports of large models, on cards of 80 GB. The tracker takes 51 s for 32 layers, more for more.",
            table(
                ["model", "cards", "first report s", "next s", "allocated GiB"],
                ([m["model"], m["cards"], *m["seconds"], m["allocated_gib"]] for m in models),
            ),
        ],
    )


if __name__ == "__main__":
    main()
