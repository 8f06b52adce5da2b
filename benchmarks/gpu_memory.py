"""Run models on a GPU and compare what they take with what Canvas predicts: memory, reserved and in use, and time.

Each case runs in a process of its own; its measurement is a line of `results/gpu_memory_CARD.state.jsonl`, so that a later
call goes on where this one stopped. Needs torch, transformers, numpy and pydantic, and no more.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_memory_cases import CASES, Case, bound, card_file, card_of, predicted, sized, tiny
from benchmarks.record import RESULTS, machine, save, table
from canvas_rt.ir.document import Document
from canvas_rt.ir.frozen import thaw
from canvas_rt.physics.hardware import Hardware, load_hardware
from canvas_rt.physics.run import peak_allocated
from canvas_rt.physics.scenario import Scenario

LIMIT_S = 150
"""A case that takes longer is stopped, and is a row that says so."""
UNSAFE = 0.02
"""Predictions that are too low by more than this are counted apart: a margin of this size does not cover them."""
FIGURES = ("allocated", "reserved", "device", "seconds")
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Place:
    """Where the cases run, and what is known of it."""

    device: str
    """`cuda` or `cpu`."""

    card: Hardware
    cards: Path
    """A file with the card."""

    results: Path
    snapshots: Path | None

    @property
    def name(self) -> str:
        return f"gpu_memory_{'cpu' if self.device == 'cpu' else self.card.id.replace('-', '_')}"

    @property
    def state(self) -> Path:
        return self.results / f"{self.name}.state.jsonl"

    def sized(self, case: Case) -> tuple[Document, Scenario]:
        return tiny(case) if self.device == "cpu" else (sized(case, self.card, self.cards), case.scenario)

    def predicted(self, document: Document, scenario: Scenario) -> dict[str, Any]:
        """On a CPU there is nothing to reserve, and the time is not that of any card."""
        if self.device == "cpu":
            return {"allocated": peak_allocated(document, scenario, "cpu")}
        report = predicted(document, scenario, self.card, self.cards)
        memory = report.memory
        return {
            "allocated": memory.peak_allocated,
            "reserved": memory.peak_reserved,
            "device": memory.device_total,
            "seconds": report.time.total_s,
            "fits": report.fits and not (report.allocator is not None and report.allocator.out_of_memory),
            "parameters": report.parameters.total,
        }


def place_of(device: str, folder: Path, results: Path, snapshots: Path | None) -> Place:
    """Asks the driver, in a process that ends: a context of this one would take memory from the cases."""
    if device == "cpu":
        card = load_hardware("a100-80gb")
        return Place(device, card, card_file(card, folder / "cards.toml"), results, snapshots)
    ask = (
        "import json, torch; p = torch.cuda.get_device_properties(0); "
        "print(json.dumps([p.name, p.total_memory, [p.major, p.minor]]))"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    name, memory, capability = json.loads(done.stdout.splitlines()[-1])
    card = card_of(name, memory, (capability[0], capability[1]))
    return Place(device, card, card_file(card, folder / "cards.toml"), results, snapshots)


def has_gpu() -> bool:
    done = subprocess.run([sys.executable, "-c", "import torch; raise SystemExit(not torch.cuda.is_available())"])
    return done.returncode == 0


# ---------------------------------------------------------------------------------------------------------------------
# Running
# ---------------------------------------------------------------------------------------------------------------------


def known(state: Path) -> dict[str, dict[str, Any]]:
    """The rows so far, by case. A line that was cut short is as if it had never been begun."""
    rows: dict[str, dict[str, Any]] = {}
    for line in state.read_text(encoding="utf-8").splitlines() if state.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row["case"]] = row
    return rows


def reported(place: Place) -> dict[str, Any]:
    """The last results: these are kept, the state need not be."""
    found: dict[str, Any] = json.loads((place.results / f"{place.name}.json").read_text(encoding="utf-8"))
    return found


def run(case: Case, place: Place, limit_s: float) -> dict[str, Any]:
    """One row: the case, what was predicted and what was measured, or why nothing was."""
    document, scenario = place.sized(case)
    row = {
        "case": case.name,
        "family": case.family,
        "sizes": thaw(dict(document.sizes)),
        "config": thaw(dict(case.config)),
        "scenario": asdict(scenario),
        "predicted": place.predicted(document, scenario),
    }
    return {**row, "measured": measured(case, row, place, limit_s)}


def measured(case: Case, row: dict[str, Any], place: Place, limit_s: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        spec, result = Path(folder) / "spec.json", Path(folder) / "result.json"
        asked = {name: row[name] for name in ("family", "sizes", "config", "scenario")} | {"device": place.device}
        if place.snapshots is not None and place.device == "cuda":
            place.snapshots.mkdir(parents=True, exist_ok=True)
            asked["snapshot"] = str(place.snapshots / f"{slug(case.name)}.pickle.gz")
        spec.write_text(json.dumps(asked), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.gpu_memory_run", str(spec), str(result)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=limit_s, env=environment(row)
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {limit_s:.0f} s"}
        if result.exists():
            found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
            return found
        return {"failed": reason(done)}


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def environment(row: dict[str, Any]) -> dict[str, str]:
    """The allocator's setting is read once, when a process begins."""
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_ALLOC_CONF")}
    folder = str(Path(__file__).parents[1])
    paths = [folder, *filter(None, [inherited.get("PYTHONPATH")])]
    setting = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"} if row["scenario"]["expandable"] else {}
    return {**inherited, **setting, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


def reason(done: "subprocess.CompletedProcess[str]") -> str:
    """Why a process died: its last words, or the signal."""
    if done.returncode < 0:
        return f"killed by signal {-done.returncode}"
    lines = [line for line in done.stderr.splitlines() if line.strip() and "profiler_st" not in line]
    return (lines[-1] if lines else f"ended with {done.returncode} and no word")[:300]


def go_on(place: Place, cases: Sequence[Case], minutes: float, limit_s: float) -> dict[str, dict[str, Any]]:
    """Run what has no row yet, until the time is up."""
    rows, stop = known(place.state), time.monotonic() + minutes * 60
    place.results.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(cases):
        if case.name in rows:
            continue
        left = stop - time.monotonic()
        if left <= 0:
            print(f"the time is up: {len(cases) - number} cases are left at most", file=sys.stderr)
            break
        row = run(case, place, min(limit_s, max(left, 30)))
        late = time.monotonic() > stop and row["measured"].get("failed", "").startswith("not done")
        if late:  # it had less than its time: it begins anew in the next call
            break
        rows[case.name] = row
        with place.state.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(told(row), file=sys.stderr, flush=True)
    return rows


def told(row: dict[str, Any]) -> str:
    if "failed" in row["measured"]:
        return f"{row['case']}: {row['measured']['failed']}"
    errors = (f"{figure} {error(row, figure):+.2%}" for figure in FIGURES if error(row, figure) is not None)
    return f"{row['case']}: {', '.join(errors)}"


# ---------------------------------------------------------------------------------------------------------------------
# Reporting
# ---------------------------------------------------------------------------------------------------------------------


def error(row: dict[str, Any], figure: str, of: str = "") -> float | None:
    """How much too high a prediction is, as a share of what was measured; `of` is another figure to hold against it."""
    measured = row["measured"].get(figure)
    said = row["measured"].get(of) if of else row["predicted"].get(figure)
    if "failed" in row["measured"] or measured is None or said is None:
        return None
    return float(said / measured - 1)


def summary(errors: Iterable[float | None]) -> dict[str, Any]:
    found = sorted(e for e in errors if e is not None)
    if not found:
        return {"cases": 0}
    return {
        "cases": len(found),
        "median": statistics.median(abs(e) for e in found),
        "lowest": found[0],
        "highest": found[-1],
        "too_low": sum(e < 0 for e in found) / len(found),
        "unsafe": sum(e < -UNSAFE for e in found) / len(found),
    }


def summaries(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By figure; of what is reserved, the allocator's own error too."""
    found = {figure: summary(error(row, figure) for row in rows) for figure in FIGURES}
    found["reserved by replaying the real trace"] = summary(error(row, "reserved", "replayed_reserved") for row in rows)
    return {figure: one for figure, one in found.items() if one["cases"]}


def size_text(nbytes: float | None, device: str) -> str:
    if nbytes is None:
        return "–"
    return f"{nbytes:,}" if device == "cpu" else f"{nbytes / GIB:.3f}"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:+.2%}"


def cells(row: dict[str, Any], figure: str, device: str) -> Iterator[str]:
    yield size_text(row["measured"].get(figure), device)
    yield size_text(row["predicted"].get(figure), device)
    yield percent(error(row, figure))


def memory_line(row: dict[str, Any], device: str) -> list[str]:
    line = [row["case"], *cells(row, "allocated", device)]
    if device == "cpu":
        return line
    replay = row["measured"].get("replayed_reserved")
    return [
        *line,
        *cells(row, "reserved", device),
        size_text(replay, device),
        percent(error(row, "reserved", "replayed_reserved")),
    ]


def device_line(row: dict[str, Any]) -> list[str]:
    measured, said = row["measured"], row["predicted"]
    milliseconds = (f"{found['seconds'] * 1e3:.1f}" if "seconds" in found else "–" for found in (measured, said))
    return [
        row["case"],
        *cells(row, "device", "cuda"),
        size_text(measured.get("context"), "cuda"),
        str(measured.get("retries", "–")),
        *milliseconds,
        percent(error(row, "seconds")),
    ]


def failure_line(row: dict[str, Any]) -> list[str]:
    fits = row["predicted"].get("fits")
    return [row["case"], "–" if fits is None else "yes" if fits else "no", row["measured"]["failed"]]


MEMORY_HEADINGS = ("case", "allocated", "predicted", "error")
GPU_HEADINGS = (*MEMORY_HEADINGS, "reserved", "predicted", "error", "replayed", "error")
DEVICE_HEADINGS = ("case", "device", "predicted", "error", "context", "retries", "ms", "predicted", "error")


def report(place: Place, rows: Sequence[dict[str, Any]], cases: Sequence[Case], about: dict[str, Any]) -> None:
    """Write the results as far as they are. `about` is the machine on which the cases ran."""
    found, failed = summaries(rows), [row for row in rows if "failed" in row["measured"]]
    ran = [row for row in rows if "failed" not in row["measured"]]
    cpu = place.device == "cpu"
    tiny_ones = "tiny models, a 64th of the tokens: bytes at the peak of PyTorch's CPU allocator, by its profiler"
    kinds = tiny_ones if cpu else f"{place.card.name}, GiB"
    parts = [
        f"{len(ran)} of {len(cases)} cases ran ({kinds}). An error is predicted / measured − 1: below 0 the prediction was "
        f"too low. Unsafe: too low by more than {UNSAFE:.0%}.",
        table(
            ["figure", "cases", "median error", "lowest", "highest", "too low", "unsafe"],
            (
                [figure, one["cases"], f"{one['median']:.2%}", percent(one["lowest"]), percent(one["highest"])]
                + [f"{one[share]:.0%}" for share in ("too_low", "unsafe")]
                for figure, one in found.items()
            ),
        ),
        table(MEMORY_HEADINGS if cpu else GPU_HEADINGS, (memory_line(row, place.device) for row in ran)),
    ]
    if not cpu:
        parts += [
            "*Replayed*: what the simulated allocator reserves for the allocations and frees that really happened: its error "
            "is the allocator's, the rest is the trace's. *Device*: reserved and context together. Times are predicted by "
            "the datasheet's peaks, which is a lower bound.",
            table(DEVICE_HEADINGS, map(device_line, ran)),
        ]
    if failed:
        parts += [
            "What did not run, and whether it was predicted to fit:",
            table(["case", "fits", "why"], map(failure_line, failed)),
        ]
    figures = {
        "machine": about,
        "card": "cpu" if cpu else asdict(place.card),
        "summary": found,
        "rows": list(rows),
    }
    title = (
        "Predicted and real memory, on a CPU" if cpu else f"Predicted and real memory and time, on {place.card.name}"
    )
    save(place.name, title, figures, parts, program="gpu_memory", folder=place.results)


def again(place: Place, row: dict[str, Any]) -> dict[str, Any]:
    """The row with the prediction made anew."""
    scenario = Scenario(**{k: tuple(v) if isinstance(v, list) else v for k, v in row["scenario"].items()})
    return {**row, "predicted": place.predicted(bound(row["family"], row["sizes"], row["config"]), scenario)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu_memory", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), help="cpu runs tiny models; the default is what there is")
    parser.add_argument("--minutes", type=float, default=8.0, help="no case begins later (8)")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help=f"seconds for a case ({LIMIT_S})")
    parser.add_argument("--snapshots", type=Path, help="folder for the memory's history of each case, compressed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results go")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--card", help="with --again: the id of the card whose rows these are")
    parser.add_argument("--again", action="store_true", help="run nothing: predict anew for what was measured before")
    chosen = parser.parse_args(arguments)
    cases = [case for case in CASES if chosen.only in case.name]
    with tempfile.TemporaryDirectory() as folder:
        if chosen.again and chosen.card:
            place = recorded(chosen.card, Path(folder), chosen.results)
        else:
            device = chosen.device or ("cuda" if has_gpu() else "cpu")
            place = place_of(device, Path(folder), chosen.results, chosen.snapshots)
        if chosen.again:
            last = reported(place)
            rows, about = {row["case"]: again(place, row) for row in last["rows"]}, last["machine"]
        else:
            rows, about = go_on(place, cases, chosen.minutes, chosen.limit), machine()
        report(place, [rows[case.name] for case in cases if case.name in rows], cases, about)


def recorded(card: str, folder: Path, results: Path) -> Place:
    """A card that is not here, as its results describe it."""
    name = f"gpu_memory_{card.replace('-', '_')}"
    about = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))["card"]
    found = Hardware(**about)
    return Place("cuda", found, card_file(found, folder / "cards.toml"), results, None)


if __name__ == "__main__":
    main()
