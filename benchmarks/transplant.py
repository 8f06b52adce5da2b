"""Transplant a large sharded checkpoint: memory, speed beside a plain copy, and what a kill leaves.

`python -m benchmarks.transplant [--gigabytes 8] [--kills 20]` writes `benchmarks/results/transplant.md` and `.json`.
The checkpoint is random, in bf16; it is made in a scratch folder and deleted again.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import safe_open

import canvas_rt
from benchmarks.record import RESULTS
from canvas_rt.edits import DeleteLayers, SetSize, dump
from canvas_rt.importer.checkpoint import checkpoint_entries
from canvas_rt.weights.held import stock_model, write_all
from canvas_rt.weights.shards import Written, shards_of, write_shards

PAIRS = 5
"""Times that a copy and a transplant follow one another: how fast the disk is changes from minute to minute."""

EDITS = (DeleteLayers("model.layers.4-5"), SetSize("", "num_key_value_heads", 4), SetSize("", "vocab_size", 32256))
"""Layers fewer, half of the keys' heads, some tokens more."""


def make_checkpoint(folder: Path, gigabytes: float) -> dict[str, Any]:
    """A random Llama of about that size, in shards of 2 GB; gives its config."""
    layers = max(8, round((gigabytes * 1e9 - 2 * 32000 * 4096 * 2) / 436e6))
    config = {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "architectures": ["LlamaForCausalLM"],
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    document = canvas_rt.import_model(str(folder / "config.json"))[0]
    tensors = [Written(key, "BF16", tuple(t.shape)) for key, t in stock_model(document).state_dict().items()]
    generator = torch.Generator().manual_seed(0)
    noise = torch.empty(2**24, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)

    def append(tensor: Written, into: int) -> None:
        left = tensor.bytes
        while left:
            part = noise.view(torch.uint8)[: min(left, noise.numel() * 2)]
            write_all(into, part.numpy().data)
            left -= len(part)

    write_shards(folder, shards_of(tensors, 2 * 10**9), append)
    return config


def run(source: Path, weights: Path | None, target: Path, kill_after: float | None = None) -> dict[str, Any]:
    """`canvas-rt emit`, with weights or without, in a process of its own: seconds, and the most that was resident."""
    command = [sys.executable, "-m", "canvas_rt.cli", "emit", str(source), "-o", str(target)]
    command += [] if weights is None else ["--weights", str(weights)]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = 0
    killer = threading.Timer(kill_after, process.kill) if kill_after is not None else None
    if killer:
        killer.start()
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.05)
    code = process.wait()
    if killer:
        killer.cancel()
    return {"code": code, "seconds": time.perf_counter() - begun, "peak_rss": peak, "killed": code == -signal.SIGKILL}


def copied(weights: Path, target: Path) -> float:
    """Seconds that a plain copy of the folder takes."""
    begun = time.perf_counter()
    shutil.copytree(weights, target)
    for file in target.iterdir():
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
    return time.perf_counter() - begun


def same(a: Path, b: Path) -> bool:
    """Whether two folders hold the same files, byte for byte; tensors are compared one by one."""
    if sorted(p.name for p in a.iterdir()) != sorted(p.name for p in b.iterdir()):
        return False
    ours, theirs = checkpoint_entries(a), checkpoint_entries(b)
    if ours.keys() != theirs.keys():
        return False
    return all(path.stat().st_size == (b / path.name).stat().st_size for path in a.iterdir()) and all(
        equal(ours[key].file, theirs[key].file, key)
        for key in random.Random(0).sample(sorted(ours), min(40, len(ours)))
    )


def equal(a: Path, b: Path, key: str) -> bool:
    with safe_open(a, "pt") as ours, safe_open(b, "pt") as theirs:
        return torch.equal(ours.get_tensor(key), theirs.get_tensor(key))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=8)
    parser.add_argument("--kills", type=int, default=20)
    chosen = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="canvas-transplant-"))
    try:
        record(measured(scratch, chosen.gigabytes, chosen.kills))
    finally:
        shutil.rmtree(scratch)


def measured(scratch: Path, gigabytes: float, kills: int) -> dict[str, Any]:
    weights, document, whole = scratch / "weights", scratch / "edited.canvas.json", scratch / "whole"
    make_checkpoint(weights, gigabytes)
    canvas_rt.save(canvas_rt.apply(canvas_rt.import_model(str(weights))[0], *EDITS), document)
    size = sum(entry.bytes for entry in checkpoint_entries(weights).values())
    pairs = []
    for _ in range(PAIRS):
        copy_s = copied(weights, scratch / "copy")
        shutil.rmtree(scratch / "copy")
        shutil.rmtree(whole, ignore_errors=True)
        bare_s = run(document, None, scratch / "bare")["seconds"]
        shutil.rmtree(scratch / "bare")
        first = run(document, weights, whole)
        pairs.append({"copy": copy_s, "code_alone": bare_s, "with_weights": first["seconds"]})
    written = sum(entry.bytes for entry in checkpoint_entries(whole).values())
    draw = random.Random(1)
    outcomes = []
    target = scratch / "killed"
    for _ in range(kills):
        run(document, weights, target, kill_after=draw.uniform(0.5, first["seconds"]))
        outcomes.append("whole" if target.exists() else "nothing")
        if target.exists():
            if not same(whole, target):
                outcomes[-1] = "broken"
            shutil.rmtree(target)
    last = run(document, weights, target)
    finished = last["code"] == 0 and same(whole, target)
    return {
        "checkpoint_bytes": size,
        "written_bytes": written,
        "edits": [dump(edit) for edit in EDITS],
        "peak_rss": first["peak_rss"],
        "seconds": pairs,
        "kills": {word: outcomes.count(word) for word in ("nothing", "whole", "broken")},
        "finished_after_kills": finished,
    }


def record(found: dict[str, Any]) -> None:
    (RESULTS / "transplant.json").write_text(json.dumps(found, indent=1) + "\n")
    share = found["written_bytes"] / found["checkpoint_bytes"]

    def rate(beyond: str | None) -> str:
        """Bytes a second beside the copy before it: the median pair, and the range."""
        rates = sorted(
            share * pair["copy"] / (pair["with_weights"] - (pair[beyond] if beyond else 0)) for pair in found["seconds"]
        )
        return f"{statistics.median(rates):.2f} ({rates[0]:.2f} to {rates[-1]:.2f})"

    lines = [
        "# Transplanting a checkpoint",
        "",
        "A random Llama in bf16, in shards of 2 GB; two layers deleted, key heads halved, 256 tokens added.",
        "`python -m benchmarks.transplant`.",
        "",
        "| figure | value |",
        "| --- | --- |",
        f"| checkpoint | {found['checkpoint_bytes'] / 1e9:.2f} GB |",
        f"| written | {found['written_bytes'] / 1e9:.2f} GB |",
        f"| most resident, Python and torch included | {found['peak_rss'] / 1e9:.2f} GB |",
        f"| bytes a second, beside a copy with fsync: 1 = as fast; the median of {len(found['seconds'])} pairs | "
        f"{rate(None)} |",
        f"| the same, without the seconds of `emit` without weights | {rate('code_alone')} |",
        f"| killed at random moments | {sum(found['kills'].values())} |",
        f"| of these, left nothing / a whole result / a broken one | "
        f"{found['kills']['nothing']} / {found['kills']['whole']} / {found['kills']['broken']} |",
        f"| run again at the end: whole, and equal to the first | {'yes' if found['finished_after_kills'] else 'no'} |",
    ]
    (RESULTS / "transplant.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
