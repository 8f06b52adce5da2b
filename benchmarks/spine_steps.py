"""The steps of the main job, one for each process that `benchmarks.spine` starts: `python -m benchmarks.spine_steps STEP`.

Light to import, so that a process costs what its step costs.
"""

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

LARGEST = "llama-3.1-405b"
MODES = ("train", "prefill", "decode")
KINDS = ("intermediate_size", "hidden_size", "head_dim", "half the layers", "one layer")
EACH_KIND, WARM_UP = 24, 3
UNLIKE = (1, 8, 32, 64, 126)
VERIFY_S = 180
EDIT_AIM_MS = 50


def cpu() -> float:
    """Seconds of CPU that this process and the children it waited for have used."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def since(start: tuple[float, float]) -> dict[str, float]:
    return {"wall_s": round(time.perf_counter() - start[0], 4), "cpu_s": round(cpu() - start[1], 4)}


def now() -> tuple[float, float]:
    return time.perf_counter(), cpu()


def step_interpreter() -> dict[str, Any]:
    return {}


def step_open() -> dict[str, Any]:
    """Everything after the interpreter's start: the imports that opening needs, and opening."""
    start = now()
    import canvas_rt

    open_zoo = canvas_rt.open_zoo
    imported = now()
    open_zoo(LARGEST)
    return {"in_process": since(start), "open_alone": since(imported), "torch": "torch" in sys.modules}


def step_first_numbers() -> dict[str, Any]:
    """What a person waits for after opening: PyTorch is loaded here."""
    start = now()
    import canvas_rt

    document = canvas_rt.open_zoo(LARGEST)
    canvas_rt.check(document)
    canvas_rt.measure(document)
    return {"in_process": since(start)}


def step_import(name: str) -> dict[str, Any]:
    start = now()
    import canvas_rt
    from canvas_rt.importer.zoo import zoo_folder

    canvas_rt.import_model(zoo_folder() / canvas_rt.zoo_models()[name].family / "configs" / f"{name}.json")
    first = since(start)
    start = now()
    canvas_rt.import_model(zoo_folder() / canvas_rt.zoo_models()[name].family / "configs" / f"{name}.json")
    return {"in_process": first, "again": since(start)}


def edits_of(kind: str, number: int, depth: int) -> Any:
    """The `number`-th edit of a kind: each asks for shapes that nothing before has asked for."""
    from canvas_rt.edits import SetSize

    first = 1 + number % max(1, depth // 2 - 1)
    return {
        "intermediate_size": lambda: SetSize("", "intermediate_size", 53_248 + 128 * (number + 1)),
        "hidden_size": lambda: SetSize("", "hidden_size", 16_384 + 256 * (number + 1)),
        "head_dim": lambda: SetSize("", "head_dim", 512 + 2 * number),
        "half the layers": lambda: SetSize(
            f"model.layers.{first}-{first + depth // 2 - 1}", "intermediate_size", 20_000 + 8 * number
        ),
        "one layer": lambda: SetSize(f"model.layers.{first}", "intermediate_size", 40_000 + 8 * number),
    }[kind]()


class Pauses:
    """Full garbage collections: how many, and the longest, in ms of CPU."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        gc.callbacks.append(self)

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] == 2:
            if phase == "start":
                self.start = time.process_time()
            else:
                self.taken.append((time.process_time() - self.start) * 1e3)


def edit_to_numbers(document: Any, edit: Any, mode: str) -> tuple[dict[str, float], Any]:
    """One edit, checked and measured: ms of CPU by part, and of the wall clock in all."""
    import canvas_rt

    wall, times = time.perf_counter(), [time.process_time()]
    edited = canvas_rt.apply(document, edit)
    times.append(time.process_time())
    assert canvas_rt.check(edited).ok, edit
    times.append(time.process_time())
    canvas_rt.measure(edited, mode=mode)
    times.append(time.process_time())
    apply_ms, check_ms, measure_ms = ((times[i + 1] - times[i]) * 1e3 for i in range(3))
    taken = {"apply": apply_ms, "check": check_ms, "measure": measure_ms, "cpu": (times[3] - times[0]) * 1e3}
    return {**taken, "wall": (time.perf_counter() - wall) * 1e3}, edited


def step_edit(depth: str) -> dict[str, Any]:
    """Edits of the largest model at some depth, in every mode, interleaving kinds as a person would."""
    import canvas_rt
    from canvas_rt.edits import SetSize

    layers = int(depth)
    document = canvas_rt.apply(canvas_rt.open_zoo(LARGEST), SetSize("", "num_hidden_layers", layers))
    pauses, number, found = Pauses(), 0, {}
    for mode in MODES:
        samples: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for turn in range(WARM_UP + EACH_KIND):
            if turn == WARM_UP:
                pauses.taken.clear()
            for kind in KINDS:
                taken, _ = edit_to_numbers(document, edits_of(kind, number, layers), mode)
                number += 1
                if turn >= WARM_UP:
                    samples[kind].append(taken)
        every = [sample for kind in KINDS for sample in samples[kind]]
        found[mode] = {
            "edits": len(every),
            "cpu_ms": spread([sample["cpu"] for sample in every]),
            "wall_ms": spread([sample["wall"] for sample in every]),
            "parts_cpu_ms": {
                part: median([sample[part] for sample in every]) for part in ("apply", "check", "measure")
            },
            "median_cpu_ms_by_kind": {kind: median([s["cpu"] for s in samples[kind]]) for kind in KINDS},
            "within_aim": sum(sample["cpu"] <= EDIT_AIM_MS for sample in every),
            "full_collections": len(pauses.taken),
            "longest_collection_cpu_ms": round(max(pauses.taken, default=0), 1),
        }
    return {"modes": found}


def step_unlike() -> dict[str, Any]:
    """Edits one on top of another, each giving one more layer of the largest model a size of its own."""
    import canvas_rt
    from canvas_rt.edits import SetSize

    document = canvas_rt.open_zoo(LARGEST)
    for number in range(WARM_UP):
        edit_to_numbers(document, edits_of("one layer", number, 126), "train")
    found = {}
    for layer in range(max(UNLIKE)):
        edit = SetSize(f"model.layers.{layer}", "intermediate_size", 60_000 + 8 * layer)
        taken, document = edit_to_numbers(document, edit, "train")
        if layer + 1 in UNLIKE:
            # the median of this edit and two more like it, since a full collection may fall on any one
            more = [
                edit_to_numbers(
                    document, SetSize(f"model.layers.{layer}", "intermediate_size", 90_000 + 8 * n), "train"
                )
                for n in (2 * layer, 2 * layer + 1)
            ]
            one = middle([taken, *(sample for sample, _ in more)])
            whole = [
                edit_to_numbers(document, SetSize("", "hidden_size", 16_384 + 256 * (3 * layer + n + 1)), "train")[0]
                for n in range(3)
            ]
            found[str(layer + 1)] = {"one_layer": one, "whole_model": middle(whole)}
    return {"unlike": found}


def middle(samples: list[dict[str, float]]) -> dict[str, float]:
    chosen = sorted(samples, key=lambda sample: sample["cpu"])[len(samples) // 2]
    return {part: round(value, 1) for part, value in chosen.items()}


def step_emit() -> dict[str, Any]:
    import tempfile

    import canvas_rt

    document = canvas_rt.open_zoo(LARGEST)
    start = now()
    with tempfile.TemporaryDirectory() as folder:
        canvas_rt.emit(document).write(folder)
        first = since(start)
        again = []
        for _ in range(5):
            start = now()
            canvas_rt.emit(document).write(folder)
            again.append(since(start))
    return {"first": first, "again": sorted(again, key=lambda taken: taken["cpu_s"])[2]}


def step_verify(name: str) -> dict[str, Any]:
    import canvas_rt

    document = canvas_rt.open_zoo(name)
    start = now()
    certificate = canvas_rt.verify(document, timeout_s=VERIFY_S)
    findings = {name: finding.passed for name, finding in certificate.findings.items()}
    return {"in_process": since(start), "passed": certificate.passed, "findings": findings, "label": certificate.label}


def peak_mb() -> float:
    """The most that this process has had resident."""
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return round(int(line.split()[1]) * 1024 / 1e6, 1)


def median(values: list[float]) -> float:
    ordered, half = sorted(values), len(values) // 2
    return round(ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2, 1)


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": median(ordered),
        "p95": round(ordered[-(-len(ordered) * 95 // 100) - 1], 1),
        "max": round(ordered[-1], 1),
    }


STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    "interpreter": step_interpreter,
    "open": step_open,
    "first_numbers": step_first_numbers,
    "import": step_import,
    "edit": step_edit,
    "unlike": step_unlike,
    "emit": step_emit,
    "verify": step_verify,
}


if __name__ == "__main__":
    result = STEPS[sys.argv[1]](*sys.argv[2:])
    print(json.dumps({**result, "peak_mb": peak_mb(), "cpu_s": round(cpu(), 4)}))
