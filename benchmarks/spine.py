"""Time and memory of the main job: open, import, edit to numbers, emit, verify. Each step in a process of its own."""

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil

from benchmarks.record import machine, save, table
from benchmarks.spine_steps import EACH_KIND, EDIT_AIM_MS, KINDS, LARGEST, MODES, WARM_UP

IMPORTED = ("llama-3.1-8b", "mistral-7b-v0.1")
DEPTHS = (8, 32, 126, 512, 1024)
PROCESSES = 10
AIMS = {"open_s": 0.3, "import_s": 10, "edit_ms": EDIT_AIM_MS, "resident_gb": 2}


# processes


class Watch:
    """The most that a process and its children have resident at once, sampled every 20 ms: shared pages count twice."""

    def __init__(self, pid: int) -> None:
        self.pid, self.most, self.over = pid, 0, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while not self.over.wait(0.02):
            total = 0
            try:
                parent = psutil.Process(self.pid)
                for process in (parent, *parent.children(recursive=True)):
                    total += process.memory_info().rss
            except psutil.Error:  # it ended while we looked
                continue
            self.most = max(self.most, total)


def run_step(name: str, argument: str = "") -> dict[str, Any]:
    """One step in a process of its own: what it found, its time from start to end, and its peak memory."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.spine_steps", name, *filter(None, [argument])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        watch = Watch(child.pid) if name == "verify" else None
        out, errors = child.communicate()
    wall = time.perf_counter() - start
    if watch is not None:
        watch.over.set()
        watch.thread.join()
    if child.returncode:
        last = errors.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
        return {"failed": last[0][:300], "process": {"wall_s": round(wall, 2)}}
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    found["process"] = {"wall_s": round(wall, 4), "cpu_s": found.pop("cpu_s")}
    found["peak_mb"] = max(found["peak_mb"], round(watch.most / 1e6, 1) if watch else 0)
    print(name, argument, {key: found[key] for key in ("process", "peak_mb")}, file=sys.stderr, flush=True)
    return found


def in_many(name: str, argument: str = "", times: int = PROCESSES) -> list[dict[str, Any]]:
    """The same step in several processes, after one that only warms the file cache."""
    return [run_step(name, argument) for _ in range(times + 1)][1:]


def of(runs: list[dict[str, Any]], what: str) -> dict[str, dict[str, float]]:
    """Median and largest of one timing over several processes."""
    return {
        unit: {
            "median": round(statistics.median(run[what][unit] for run in runs), 3),
            "max": round(max(run[what][unit] for run in runs), 3),
        }
        for unit in ("wall_s", "cpu_s")
    }


def together(runs: list[dict[str, Any]], *timings: str) -> dict[str, Any]:
    failed = [run["failed"] for run in runs if "failed" in run]
    if failed:
        return {"failed": failed[0]}
    return {
        "processes": len(runs),
        **{timing: of(runs, timing) for timing in timings},
        "peak_mb": max(run["peak_mb"] for run in runs),
    }


def measured() -> dict[str, Any]:
    return {
        "interpreter": together(in_many("interpreter"), "process"),
        "open": together(in_many("open"), "process", "in_process", "open_alone"),
        "first_numbers": together(in_many("first_numbers", times=3), "in_process"),
        "import": {name: together(in_many("import", name, 2), "in_process", "again") for name in IMPORTED},
        "edit": {str(depth): run_step("edit", str(depth)) for depth in DEPTHS},
        "unlike": run_step("unlike"),
        "emit": run_step("emit"),
        "verify": {name: run_step("verify", name) for name in ("llama-3.2-1b", LARGEST)},
    }


# the tables


def mark(value: float, aim: float) -> str:
    return "yes" if value <= aim else "**no**"


def seconds(taken: dict[str, Any]) -> list[str]:
    """A timing's cells: CPU and wall, with the worst where there were several."""
    if isinstance(taken["cpu_s"], dict):
        return [f"{taken[unit]['median']:.3f} ({taken[unit]['max']:.3f})" for unit in ("cpu_s", "wall_s")]
    return [f"{taken[unit]:.3f}" for unit in ("cpu_s", "wall_s")]


def step_rows(figures: dict[str, Any]) -> Iterator[list[str]]:
    """One row for each timing outside the edits."""

    def row(text: str, found: dict[str, Any], timing: str, aim: float | None = None) -> list[str]:
        if "failed" in found:
            return [text, found["failed"], "", "–" if aim is None else f"≤ {aim:g} s", "" if aim is None else "**no**"]
        taken = found[timing]["cpu_s"]
        worst = taken["max"] if isinstance(taken, dict) else taken
        return [text, *seconds(found[timing]), *(("–", "") if aim is None else (f"≤ {aim:g} s", mark(worst, aim)))]

    yield row("Python and this program alone, whole process", figures["interpreter"], "process")
    yield row(f"open {LARGEST}, whole process", figures["open"], "process", AIMS["open_s"])
    yield row("– in process: imports and opening", figures["open"], "in_process", AIMS["open_s"])
    yield row("– in process: opening alone", figures["open"], "open_alone", AIMS["open_s"])
    yield row(f"open, check and measure {LARGEST}, in process: imports too", figures["first_numbers"], "in_process")
    for name, found in figures["import"].items():
        yield row(f"import {name}, in process: imports and importing", found, "in_process", AIMS["import_s"])
        yield row("– again in the same process", found, "again", AIMS["import_s"])
    yield row(f"emit {LARGEST}, first", figures["emit"], "first")
    yield row("– again", figures["emit"], "again")
    for name, found in figures["verify"].items():
        passed = "" if "failed" in found else ", passed" if found["passed"] else ", FAILED"
        yield row(f"verify {name}{passed}", found, "in_process")


def edit_rows(figures: dict[str, Any], depths: tuple[int, ...]) -> Iterator[list[str]]:
    aim = AIMS["edit_ms"]
    for depth in depths:
        step = figures["edit"][str(depth)]
        if "failed" in step:
            yield [str(depth), step["failed"], *[""] * 8]
            continue
        for mode, found in step["modes"].items():
            cpu_ms, wall = (
                [f"{found[unit][k]:.1f}" for k in ("median", "p95", "max")] for unit in ("cpu_ms", "wall_ms")
            )
            share = f"{found['within_aim']} of {found['edits']}"
            pause = f"{found['full_collections']} × ≤ {found['longest_collection_cpu_ms']:.0f}"
            yield [str(depth), mode, *cpu_ms, *wall, share, pause, mark(found["cpu_ms"]["p95"], aim)]


def kind_rows(figures: dict[str, Any]) -> Iterator[list[str]]:
    for depth in DEPTHS:
        step = figures["edit"][str(depth)]
        if "failed" not in step:
            found = step["modes"]["train"]
            by_kind = [f"{found['median_cpu_ms_by_kind'][kind]:.1f}" for kind in KINDS]
            yield [str(depth), *by_kind, *(f"{value:.1f}" for value in found["parts_cpu_ms"].values())]


def growth(figures: dict[str, Any]) -> str:
    """How the cost follows depth, in a sentence."""
    least, most = (figures["edit"][str(depth)] for depth in (DEPTHS[0], DEPTHS[-1]))
    if "failed" in least or "failed" in most:
        return ""
    ratios = [most["modes"][mode]["cpu_ms"]["median"] / least["modes"][mode]["cpu_ms"]["median"] for mode in MODES]
    said = ", ".join(f"× {ratio:.1f} in {mode}" for mode, ratio in zip(MODES, ratios, strict=True))
    return f"From {DEPTHS[0]} to {DEPTHS[-1]} layers (× {DEPTHS[-1] // DEPTHS[0]}) the median grows {said}."


def unlike_rows(figures: dict[str, Any]) -> Iterator[list[str]]:
    for count, found in figures["unlike"].get("unlike", {}).items():
        for text, parts in (("one more layer", found["one_layer"]), ("the whole model", found["whole_model"])):
            cells = [f"{parts[part]:.1f}" for part in ("apply", "check", "measure", "cpu", "wall")]
            yield [count, text, *cells, mark(parts["cpu"], AIMS["edit_ms"])]


def memory_rows(figures: dict[str, Any]) -> Iterator[list[str]]:
    named = {
        f"open {LARGEST}": figures["open"],
        "open, check and measure": figures["first_numbers"],
        **{f"import {name}": found for name, found in figures["import"].items()},
        **{f"edits at {depth} layers, all modes": found for depth, found in figures["edit"].items()},
        "edits to layers unlike one another": figures["unlike"],
        f"emit {LARGEST}": figures["emit"],
        **{f"verify {name}, with its child": found for name, found in figures["verify"].items()},
    }
    for text, found in named.items():
        if "failed" not in found:
            peak = found["peak_mb"] / 1000
            yield [text, f"{peak:.2f}", mark(peak, AIMS["resident_gb"])]


def parts(figures: dict[str, Any]) -> list[str]:
    edit = ["median", "p95", "max"]
    headings = [
        "layers",
        "mode",
        *(f"CPU {k}" for k in edit),
        *(f"wall {k}" for k in edit),
        "≤ 50 ms",
        "full GC",
        "met",
    ]
    edits = EACH_KIND * len(KINDS)
    return [
        "## Steps\n\nSeconds: the median of several processes, in brackets the worst; one figure where there was one process. "
        "File cache warm. Aims are held against CPU time, the worst: one thread does the work, and other programs on the "
        "machine stretch the wall clock.",
        table(["step", "CPU s", "wall s", "aim", "met"], step_rows(figures)),
        f"## Edit to numbers\n\nms for one size edit → `check` → `measure` on {LARGEST}: {edits} edits for each line, no "
        f"two alike, {WARM_UP} of each kind before to warm up. Aim: ≤ {AIMS['edit_ms']} ms at any depth, held against the "
        "p95 of CPU time. Full GC: collections of all of Python's objects that fell on these edits, and the longest in ms.",
        table(headings, edit_rows(figures, DEPTHS)),
        "What the median is made of, in `train`: ms of CPU by kind of edit (`intermediate_size`, `hidden_size` and "
        "`head_dim` of the whole model; `intermediate_size` of half the layers and of one), then by part over all kinds.",
        table(["layers", *KINDS, "apply", "check", "measure"], kind_rows(figures)),
        growth(figures),
        "Edits on top of one another, in `train`, on the 126 layers: so many layers have a size of their own, and one "
        "more is edited, or `hidden_size` of the whole model. ms of CPU by part, median of 3.",
        table(["layers unlike", "edit", "apply", "check", "measure", "CPU", "wall", "met"], unlike_rows(figures)),
        f"## Memory\n\nPeak resident GB of each process (`VmHWM`). Aim: under {AIMS['resident_gb']} GB. For `verify` the sum "
        "over parent and child, sampled, in which pages that they share count twice.",
        table(["step", "peak GB", "met"], memory_rows(figures)),
    ]


def main() -> None:
    about = machine()
    figures = {"machine": about, "aims": AIMS, **measured()}
    save("spine", "Time and memory of the main job", figures, parts(figures))


if __name__ == "__main__":
    main()
