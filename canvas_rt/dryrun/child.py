"""The process that runs an emitted model for real: reads one folder, runs it, and answers what it measured, or why it died."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MARK = "dry run: "
"""Before what is said of the progress: other lines are the model's own, or a library's."""


def say(text: str) -> None:
    print(MARK + text, flush=True)


def cards(folder: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """What the driver says of the first card, if there is one."""
    import torch

    if not torch.cuda.is_available():
        return {"found": False}
    card = torch.cuda.get_device_properties(0)
    capability = [card.major, card.minor]
    return {"found": True, "name": card.name, "memory": card.total_memory, "capability": capability}


def run(folder: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Run what is asked for. Whatever becomes of it is an answer."""
    found: dict[str, Any] = {}
    try:
        _run(folder, request, found)
    except Exception as error:
        words = str(error).strip().splitlines()
        found["died"] = f"{type(error).__name__}: {words[0] if words else ''}"[:400].removesuffix(": ")
    return {"measured": found}


def _run(folder: Path, request: Mapping[str, Any], found: dict[str, Any]) -> None:
    say("loading the emitted code")
    from canvas_rt.dryrun import models
    from canvas_rt.dryrun.machine import limit_data
    from canvas_rt.dryrun.on_cpu import run_on_cpu
    from canvas_rt.dryrun.on_cuda import run_on_cuda
    from canvas_rt.dryrun.on_meta import run_on_meta
    from canvas_rt.ir.files import load, read_json
    from canvas_rt.physics.scenario import scenario_of

    document = load(folder / "document.canvas.json")
    scenario, device, most = scenario_of(None, dict(request["scenario"])), request["device"], request["bytes"]
    config_class, model_class = models.classes(folder, document)
    values = models.written_values(read_json(folder / "config.json"))

    def make() -> Any:
        return models.made(model_class, config_class(**values), document, scenario, device)

    if device == "cuda":
        run_on_cuda(make, scenario, found, say=say, most_bytes=most, most_s=request["timed_s"])
        return
    if most is not None:
        limit_data(most)
    if device == "cpu":
        run_on_cpu(make, scenario, found, say=say, most_s=request["timed_s"])
    else:
        run_on_meta(make, scenario, found, say=say)


if __name__ == "__main__":
    from canvas_rt.dryrun.machine import usable_cores
    from canvas_rt.verifier.child import main

    sys.exit(main({"dry run": run, "look for a card": cards}, threads=usable_cores()))
