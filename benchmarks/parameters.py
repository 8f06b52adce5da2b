"""Compare parameters and FLOPs of every zoo model, at full size, with the original's on meta tensors."""

import json
import time
from typing import Any

import torch
import transformers.masking_utils
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import canvas_rt
from benchmarks.record import machine, save, table
from canvas_rt.importer.zoo import zoo_folder

BATCH, SEQUENCE = 1, 512
SAME = ("parameters", "forward", "backward")


def original(family: str, name: str) -> Any:
    """The class of transformers, with every layer, on meta."""
    raw = json.loads((zoo_folder() / family / "configs" / f"{name}.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(CONFIG_MAPPING[raw.pop("model_type")](**raw))


def theirs(model: Any) -> dict[str, int]:
    """What PyTorch counts in one training step of the original."""
    ids = torch.zeros(BATCH, SEQUENCE, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as forward:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "forward": forward.get_total_flops(),
        "backward": backward.get_total_flops(),
    }


def ours(name: str) -> dict[str, int]:
    report = canvas_rt.measure(canvas_rt.open_zoo(name), mode="train", batch=BATCH, sequence=SEQUENCE)
    return {
        "parameters": report.parameters.total,
        "forward": report.flops.forward,
        "backward": report.flops.backward,
    }


def compare(family: str, name: str) -> dict[str, Any]:
    start = time.process_time()
    canvas = ours(name)
    between = time.process_time()
    try:
        pytorch = theirs(original(family, name))
    except Exception as error:  # a row of its own, so that the others are still compared
        return {"model": name, "canvas": canvas, "failed": f"{type(error).__name__}: {error}"[:300], "equal": False}
    return {
        "model": name,
        "canvas": canvas,
        "original": pytorch,
        "equal": canvas == pytorch,
        "cpu_s": {"canvas": round(between - start, 3), "original": round(time.process_time() - between, 3)},
    }


def line(row: dict[str, Any]) -> list[str]:
    cells = [row["model"]]
    for what in SAME:
        mine, other = row["canvas"][what], row.get("original", {}).get(what)
        cells += [f"{mine:,}", row["failed"] if other is None else "equal" if mine == other else f"{other:,}"]
    return [*cells, f"{row['cpu_s']['original']:.2f}" if "cpu_s" in row else ""]


def main() -> None:
    # transformers looks into position ids for packed sequences, which meta tensors cannot answer.
    transformers.masking_utils.find_packed_sequence_indices = lambda position_ids: None
    about = machine()
    rows = [compare(model.family, name) for name, model in canvas_rt.zoo_models().items()]
    headings = ["model", "parameters", "original", "FLOPs forward", "original", "FLOPs backward", "original", "CPU s"]
    save(
        "parameters",
        "Parameters and FLOPs against the originals",
        {"machine": about, "batch": BATCH, "sequence": SEQUENCE, "rows": rows},
        [
            f"{sum(row['equal'] for row in rows)} of {len(rows)} zoo models have exactly the original's parameters, and "
            f"the FLOPs that `FlopCounterMode` counts in one training step of it ({BATCH} × {SEQUENCE} tokens, every "
            "layer, meta tensors). An original's own figure stands where it differs. CPU s: building and counting the "
            "original.",
            table(headings, map(line, rows)),
        ],
    )


if __name__ == "__main__":
    main()
