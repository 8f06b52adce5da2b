"""A fresh bundle of an edited small Llama, trained for real: how soon it has learned something, and whether curves agree.

`python -m benchmarks.training [--steps 223]` writes `benchmarks/results/training.{json,md}`: the run's time until its loss is
below the corpus's unigram entropy, the same run killed and resumed, the same sharded over two processes by FSDP2, and what
memory it took beside what was predicted. About ten minutes on two cores.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

import canvas_rt
from benchmarks.record import machine, save, table
from canvas_rt.edits import SetSize
from canvas_rt.training import Wishes

SIZES = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 4096,
}
SHARDED_STEPS = 20
KILLED_AT = 30


def edited() -> Any:
    """A Llama of 1.2 million parameters, one of whose layers has a narrower MLP."""
    document = canvas_rt.open_zoo("llama-3.2-1b")
    sizes = [SetSize("", name, value) for name, value in SIZES.items()]
    return canvas_rt.apply(document, *sizes, SetSize("model.layers.1.mlp", "intermediate_size", 256))


def log_of(folder: Path) -> list[dict[str, Any]]:
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(folder: Path, *words: str, launcher: Sequence[str] = (), kill_at: int = 0) -> float:
    """Seconds that `train.py` took; killed at a step, if one is given."""
    begun = time.perf_counter()
    environment = {**os.environ, **({"OMP_NUM_THREADS": "1"} if launcher else {})}
    with subprocess.Popen([sys.executable, *launcher, "train.py", *words], cwd=folder, env=environment) as child:
        while child.poll() is None:
            time.sleep(0.1)
            if kill_at and len(log_of(folder)) >= kill_at:
                for process in [*psutil.Process(child.pid).children(recursive=True), child]:
                    process.send_signal(signal.SIGKILL)
    assert kill_at or child.returncode == 0, f"train.py ended with {child.returncode}"
    return time.perf_counter() - begun


def apart(a: list[dict[str, Any]], b: list[dict[str, Any]], steps: int) -> float:
    """The largest difference between the losses of two runs."""
    assert [row["step"] for row in a[:steps]] == [row["step"] for row in b[:steps]] == list(range(1, steps + 1))
    return max(abs(x["loss"] - y["loss"]) for x, y in zip(a[:steps], b[:steps], strict=True))


def bundle(folder: Path, steps: int | None = None) -> Any:
    made = canvas_rt.training_bundle(edited(), folder, wishes=Wishes(steps=steps))
    settings = folder / "settings.toml"
    settings.write_text(re.sub(r"save_every = \d+", "save_every = 10", settings.read_text()))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, help="of the whole run; else those that the bundle chooses")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="canvas-training-") as name:
        whole, killed, one, two = (Path(name) / part for part in ("whole", "killed", "one", "two"))
        begun = time.perf_counter()
        made = bundle(whole, chosen.steps)
        written_s = time.perf_counter() - begun
        total_s = run(whole)
        rows = log_of(whole)
        below = next((row for row in rows if row["loss"] < made.tokens.entropy), None)
        bundle(killed, chosen.steps)
        run(killed, kill_at=KILLED_AT)
        run(killed, "--resume")
        for folder, launcher in (
            (one, ()),
            (two, ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")),
        ):
            bundle(folder, SHARDED_STEPS)
            run(folder, launcher=launcher)
        found = {
            "machine": machine(),
            "parameters": 1_225_856,
            "unigram_entropy": made.tokens.entropy,
            "steps": len(rows),
            "bundle_s": written_s,
            "whole_run_s": total_s,
            "below_entropy": None
            if below is None
            else {"step": below["step"], "seconds_of_training": below["time"] - rows[0]["time"]},
            "start_s": total_s - (rows[-1]["time"] - rows[0]["time"]),
            "first_loss": rows[0]["loss"],
            "last_loss": rows[-1]["loss"],
            "tokens_per_s": sorted(row["tokens_per_s"] for row in rows)[len(rows) // 2],
            "memory": {"measured": rows[-1]["memory"], "predicted": made.settings.value("cpu", "predicted_memory")},
            "killed_and_resumed": apart(rows, log_of(killed), len(rows)),
            "fsdp2_on_gloo": apart(log_of(one), log_of(two), SHARDED_STEPS),
        }
    record(found)


def record(found: dict[str, Any]) -> None:
    below, memory = found["below_entropy"], found["memory"]
    reached = f"at step {below['step']}, {below['seconds_of_training']:.0f} s after the first" if below else "never"
    rows = [
        ("loss, nats a token", f"{found['first_loss']:.2f} → {found['last_loss']:.2f} in {found['steps']} steps"),
        ("the corpus's unigram entropy", f"{found['unigram_entropy']:.2f}: below it {reached}"),
        ("writing the bundle", f"{found['bundle_s']:.1f} s, a tokenizer trained and what fits looked for"),
        ("`python train.py`", f"{found['whole_run_s']:.0f} s, {found['start_s']:.0f} of them beside the steps"),
        ("tokens a second, median", f"{found['tokens_per_s']:,.0f}"),
        (
            "memory",
            f"{memory['measured'] / 2**20:.0f} MiB that the process grew; {memory['predicted'] / 2**20:.0f} predicted",
        ),
        (f"killed at step {KILLED_AT} and resumed: largest difference of losses", f"{found['killed_and_resumed']:.1e}"),
        (f"FSDP2, two processes over gloo, {SHARDED_STEPS} steps: the same", f"{found['fsdp2_on_gloo']:.1e}"),
    ]
    said = (
        f"A Llama of {found['parameters']:,} parameters, one layer of which has a narrower MLP, from a fresh bundle with its own"
        " settings. The memory measured is resident memory since before the model was made: what PyTorch's allocator holds,"
        " and what the heap keeps of it."
    )
    save("training", "Training bundles, run for real", found, [said, table(("what", "found"), rows)])


if __name__ == "__main__":
    main()
