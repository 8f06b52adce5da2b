"""Import, emit and verify every causal language model of transformers, small and with random weights: one row for each.

`python -m benchmarks.scoreboard` goes on where it stopped; `--again TYPE …` does some over, `--fresh` all; `--task` takes
models for something else, as in `--task seq2seq_lm`. Each type runs in a process of its own with a limit of time, so that
none can stop the others.
"""

import argparse
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks.record import machine, save, table
from canvas_rt.importer.config.classes import supported, task_classes, tasks_of, text_field
from canvas_rt.ir.document import Document, Node
from canvas_rt.ir.tasks import CAUSAL_LM, TASKS, Task
from canvas_rt.ops.functions import is_function
from canvas_rt.ops.learned import MODULE

LIMIT_S = 300
"""Seconds that a type may take."""

RESULTS = Path(__file__).parent / "results"


def name_of(task: Task) -> str:
    """What the results of a task are called."""
    return "scoreboard" if task is CAUSAL_LM else f"scoreboard_{task.name}"


def rows_of(task: Task) -> Path:
    """A line for each type, written as soon as it is known."""
    return RESULTS / f"{name_of(task)}.jsonl"


def types_of(task: Task) -> list[str]:
    """The model types that have a class for a task, and nothing but text."""
    known = supported() if task is CAUSAL_LM else task_classes(task)
    return sorted(n for n in known if task is CAUSAL_LM or (task in tasks_of(n) and text_field(n) is None))

CHECKS = ("structure", "keys", "logits", "gradients", "decoding")


def run(model_type: str, task: Task = CAUSAL_LM) -> dict[str, Any]:
    """One type: what became of it at each stage, and why it went no further."""
    from canvas_rt.codegen import emit
    from canvas_rt.importer import import_model
    from canvas_rt.importer.small import small_config
    from canvas_rt.verifier.checks import Verification

    torch.set_num_threads(1)  # the models are small, and types share the cores
    row: dict[str, Any] = {"type": model_type, "stage": "import"}
    start = time.perf_counter()
    try:
        document, report = import_model(small_config(model_type, task))
        plain = sum(count for op, count in report.recognised.items() if is_function(op))
        whole = sorted({node.attrs["source"] for node in _nodes(document) if node.attrs.get("arguments")})
        row |= {
            "nodes": report.nodes,
            "recognised": round(1 - (plain + len(whole)) / max(1, report.nodes), 3),
            "whole": whole,
            "plain": {op: count for op, count in report.recognised.items() if is_function(op)},
            "symbols": report.symbols,
            "literals": len(report.literals),
            "import_s": round(time.perf_counter() - start, 1),
            "stage": "emit",
        }
        with tempfile.TemporaryDirectory() as folder:
            emitted = Path(folder) / "emitted"
            emit(document).write(emitted)
            row["stage"] = "verify"
            certificate = Verification(emitted).certificate().to_json()
        row |= {
            "stage": "done",
            "passed": certificate["passed"],
            "checks": {name: certificate[name] for name in CHECKS},
            "unmeasured": unmeasured(document),
        }
    except BaseException as error:  # whatever ends a type is its row's last word
        row["why"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def unmeasured(document: Document) -> str:
    """Why a document cannot be costed; nothing where it can."""
    from canvas_rt.errors import CanvasError
    from canvas_rt.physics import measure

    try:
        for mode in ("train", "prefill", "decode") if document.purpose.generates else ("train", "prefill"):
            measure(document, mode=mode, sequence=16)
    except CanvasError as error:
        return " ".join(str(error).split())[:200]
    return ""


def _nodes(document: Document) -> Iterator[Node]:
    """The modules of transformers that a document keeps whole."""
    items = (item for block in document.blocks.values() for item in block.nodes)
    return (item for item in items if isinstance(item, Node) and item.op == MODULE)


def apart(model_type: str, limit: int, task: Task = CAUSAL_LM) -> dict[str, Any]:
    """The same in a process of its own, which ends when its time is up."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        signal.alarm(limit)
        with os.fdopen(os.open(os.devnull, os.O_WRONLY), "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
            os.write(write, json.dumps(run(model_type, task), default=str).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    if not text:
        return {"type": model_type, "stage": "stopped", "why": f"took more than {limit} s", "seconds": limit}
    row: dict[str, Any] = json.loads(text)
    return row


def known(file: Path) -> dict[str, dict[str, Any]]:
    """The rows so far."""
    if not file.exists():
        return {}
    return {row["type"]: row for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())}


def keep(file: Path, rows: Mapping[str, dict[str, Any]]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(rows[name]) + "\n" for name in sorted(rows)), encoding="utf-8")


def summary(rows: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """What it comes to, in words and in numbers."""
    passed = [row for row in rows if row.get("passed")]
    imported = [row for row in rows if "nodes" in row]
    measured = [row for row in passed if row.get("unmeasured") == ""]
    shares = sorted(row["recognised"] for row in imported)
    median = shares[len(shares) // 2] if shares else 0.0
    exact = [
        r for r in passed if not r["checks"]["logits"]["max_abs_diff"] and not r["checks"]["gradients"]["max_abs_diff"]
    ]
    told = (
        f"Of {len(rows)} model types {len(imported)} are imported and {len(passed)} pass all five checks, {len(exact)} of them"
        f" with logits and gradients equal to the last bit; {len(measured)} of those are costed in training and generation."
        f" Median share of recognised nodes: {median:.0%}."
    )
    numbers = {
        "types": len(rows),
        "imported": len(imported),
        "passed": len(passed),
        "exact": len(exact),
        "measured": len(measured),
        "median": median,
    }
    return told, numbers


HEADER = (
    "type",
    "result",
    "nodes",
    "recognised",
    "kept whole",
    "max Δlogits",
    "max Δgradients",
    "decoding",
    "structure",
    "costed",
    "s",
    "why not",
)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    checks = row.get("checks", {})

    def apart_by(name: str) -> str:
        found = checks.get(name, {}).get("max_abs_diff")
        return "" if found is None else f"{found:g}"

    failed = [name for name in CHECKS if checks and checks[name]["passed"] is False]
    why = row.get("why") or "; ".join(f"{name}: {checks[name].get('detail', '')[:160]}" for name in failed[:1])
    result = "passed" if row.get("passed") else f"failed: {', '.join(failed)}" if failed else f"no {row['stage']}"
    return (
        str(row["type"]),
        result,
        str(row.get("nodes", "")),
        f"{row['recognised']:.0%}" if "recognised" in row else "",
        ", ".join(source.partition(".")[2] for source in row.get("whole", ())),
        apart_by("logits"),
        apart_by("gradients"),
        apart_by("decoding"),
        "the same" if checks.get("structure", {}).get("passed") else "",
        "" if "unmeasured" not in row else row["unmeasured"].replace("|", "/") or "yes",
        str(row.get("seconds", "")),
        why.replace("|", "/"),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", nargs="*", default=[], metavar="TYPE", help="types to do over")
    parser.add_argument("--fresh", action="store_true", help="do all of them over")
    parser.add_argument("--jobs", type=int, default=1, help="types at a time")
    parser.add_argument("--limit", type=int, default=LIMIT_S, help="seconds that a type may take")
    parser.add_argument("--task", choices=TASKS, default=CAUSAL_LM.name, help="what the models are for")
    chosen = parser.parse_args(arguments)
    task = TASKS[chosen.task]
    importlib.import_module("transformers.models.auto.modeling_auto")  # once, for all the processes that follow
    importlib.import_module("torch.export")
    importlib.import_module("canvas_rt.verifier.checks")
    about = machine()
    file = rows_of(task)
    rows = {} if chosen.fresh else known(file)
    wanted = [name for name in types_of(task) if name not in rows or name in chosen.again]
    with ThreadPoolExecutor(chosen.jobs) as pool:
        for row in pool.map(partial(apart, limit=chosen.limit, task=task), wanted):
            rows[row["type"]] = row
            keep(file, rows)
            print(row["type"], "passed" if row.get("passed") else row.get("why", "failed"), flush=True)
    ordered = [rows[name] for name in sorted(rows)]
    told, numbers = summary(ordered)
    figures = {"machine": about, **numbers}
    save(name_of(task), f"Every {task.words.partition(' ')[2]}", figures, [told, table(HEADER, map(_cells, ordered))])
    return 0


if __name__ == "__main__":
    sys.exit(main())
