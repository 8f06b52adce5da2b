"""Import the largest published model of each Tier-1 family: seconds, memory, parameters, and how a layer reads.

`python -m benchmarks.tier_one`. Each model is imported in a process of its own, from its `config.json` to a document.
"""

import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import machine, save, table
from canvas_rt.importer.zoo import zoo_folder
from canvas_rt.ir.document import Document, Node
from canvas_rt.ops.catalogue import OPS
from canvas_rt.ops.functions import is_function
from canvas_rt.ops.op import Op

MODELS = {
    "llama": "llama-3.1-405b",
    "qwen2": "qwen2.5-72b",
    "qwen3": "qwen3-32b",
    "qwen3_moe": "qwen3-235b-a22b",
    "qwen3_5_text": "qwen3.5-27b",
    "qwen3_5_moe_text": "qwen3.5-397b-a17b",
    "mistral": "mistral-nemo-12b",
    "gemma3_text": "gemma-3-27b",
    "gpt_oss": "gpt-oss-120b",
    "deepseek_v3": "deepseek-v3",
    "phi3": "phi-3-medium-4k",
    "gpt2": "gpt2-xl",
    "bert": "bert-large-uncased",
}
LIMIT_S, LIMIT_GB, LIMIT_NODES = 10, 2, 15


def config_of(family: str, name: str) -> Path:
    """The published config, or the family's last in the alphabet where the zoo has no such model."""
    folder = zoo_folder() / family / "configs"
    path = folder / f"{name}.json"
    return path if path.exists() else sorted(folder.glob("*.json"))[-1]


def imported(path: Path) -> dict[str, Any]:
    """What one import takes, in this process, and what comes of it."""
    from canvas_rt.importer import import_model
    from canvas_rt.ops.parameters import count_parameters

    torch.set_num_threads(1)
    start, cpu = time.perf_counter(), time.process_time()
    document, report = import_model(path)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    plain = sum(count for op, count in report.recognised.items() if is_function(op))
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "resident_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "parameters": count_parameters(document).total,
        "recognised": round(1 - plain / report.nodes, 3),
        "layers": {name: len(document.blocks[name].nodes) for name in layers_of(document)},
        "generated": generated(document),
    }


def layers_of(document: Document) -> list[str]:
    """The blocks that layers are."""
    kinds = (kind for block in document.blocks.values() for item in block.nodes for kind in getattr(item, "kinds", ()))
    return list(dict.fromkeys(kind.block for kind in kinds))


def generated(document: Document) -> list[str]:
    """Names in layers that say nothing of what a node is: a function's own, and those that a number tells apart.

    Names of nodes that learn are keys of the checkpoint.
    """
    found = []
    for name in layers_of(document):
        for item in document.blocks[name].nodes:
            made = isinstance(item, Node) and (is_function(item.op) or OPS[item.op].parameters is Op.parameters)
            if made and re.fullmatch(rf".*_\d+|{item.op.split('.')[1] if is_function(item.op) else ''}", item.id):
                found.append(f"{name}.{item.id}")
    return found


def original_total(path: Path) -> int:
    """Parameters of transformers' own class, on meta, tied ones once."""
    from canvas_rt.importer.config import check_config
    from canvas_rt.importer.factory import StockFactory, make_config

    raw = check_config(json.loads(path.read_text(encoding="utf-8")), str(path))
    factory = StockFactory(raw["model_type"])
    with torch.device("meta"):
        model = factory.build(make_config(factory, raw, str(path)))
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> int:
    if len(sys.argv) > 1:
        print(json.dumps(imported(Path(sys.argv[1]))))
        return 0
    about, rows = machine(), []
    for family, name in MODELS.items():
        path = config_of(family, name)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.tier_one", str(path)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            rows.append({"model": path.stem, "failed": done.stderr.strip().splitlines()[-1][:300]})
            continue
        row = {"model": path.stem, **json.loads(done.stdout.splitlines()[-1])}
        row["exact"] = original_total(path) == row["parameters"]
        rows.append(row)
        print(row, flush=True)
    good = [row for row in rows if "failed" not in row]
    told = (
        f"{len(good)} of {len(rows)} models are imported; {sum(r['seconds'] <= LIMIT_S for r in good)} within {LIMIT_S} s,"
        f" {sum(r['resident_gb'] <= LIMIT_GB for r in good)} within {LIMIT_GB} GB,"
        f" {sum(r['exact'] for r in good)} with exactly the original's parameters;"
        f" {sum(max(r['layers'].values()) <= LIMIT_NODES for r in good)} have at most {LIMIT_NODES} nodes in a layer,"
        f" {sum(not r['generated'] for r in good)} have no generated name there."
    )
    heads = ("model", "s", "CPU s", "GB", "parameters", "exact", "recognised", "nodes in a layer", "generated names")
    cells = [
        (
            row["model"],
            row["seconds"],
            row["cpu_seconds"],
            row["resident_gb"],
            f"{row['parameters']:,}",
            "yes" if row["exact"] else "no",
            f"{row['recognised']:.0%}",
            ", ".join(map(str, row["layers"].values())),
            ", ".join(row["generated"]) or "none",
        )
        for row in good
    ]
    failed = [f"{row['model']}: {row['failed']}" for row in rows if "failed" in row]
    save("tier_one", "Tier 1 at full size", {"machine": about, "rows": rows}, [told, table(heads, cells), *failed])
    return 0


if __name__ == "__main__":
    sys.exit(main())
