"""lm-evaluation-harness on a small model and on what Canvas emits of it: the same numbers.

`python -m benchmarks.harness [--seconds 60]` needs `pip install lm-eval`; it trains a small Llama on the bytes of the
documentation, emits it with weights, plainly and after an edit that preserves the function, and runs
`python -m lm_eval --model hf` on each with two local tasks. Writes `benchmarks/results/harness.md` and `.json`.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import canvas_rt
from benchmarks.record import RESULTS, machine
from benchmarks.surgery import corpus, trained
from canvas_rt.edits import InsertLayer, SetSize

EDITED = (InsertLayer("model.layers", 2), SetSize("", "intermediate_size", 512))
"""A layer more, and wider MLPs: what was there gives what it gave."""

TASKS = {
    "canvas_choice": """
task: canvas_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choice.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
target_delimiter: ""
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "canvas_bytes": """
task: canvas_bytes
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/bytes.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: byte_perplexity}, {metric: bits_per_byte}]
""",
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, numbered as bytes are."""
    order = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = {byte: chr(byte) for byte in printable}
    symbols |= {byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in printable)}
    assert sorted(symbols.values()) == order
    made = Tokenizer(models.BPE(vocab={symbols[byte]: byte for byte in range(256)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    end = symbols[0]
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=end, pad_token=end)


def write_tasks(folder: Path) -> None:
    text = bytes(corpus().tolist()).decode(errors="ignore")
    draw = random.Random(0)
    pieces = [text[start : start + 90] for start in (draw.randrange(len(text) - 100) for _ in range(60))]
    choices = [
        {
            "text": piece[:60],
            "choices": [piece[60:], "".join(draw.sample(piece[60:], len(piece) - 60))],
            "label": 0,
        }
        for piece in pieces
    ]
    (folder / "choice.jsonl").write_text("\n".join(map(json.dumps, choices)))
    (folder / "bytes.jsonl").write_text("\n".join(json.dumps({"text": piece}) for piece in pieces))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))


def evaluated(model: Path, tasks: Path, scratch: Path) -> dict[str, dict[str, float]]:
    """What the harness says of a model folder."""
    out = scratch / f"{model.name}.results"
    arguments = f"pretrained={model},trust_remote_code=True,dtype=float32"
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", arguments, "--device", "cpu"]
    command += [
        "--tasks",
        ",".join(TASKS),
        "--include_path",
        str(tasks),
        "--output_path",
        str(out),
        "--batch_size",
        "4",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (found,) = out.rglob("*.json")
    results: dict[str, dict[str, Any]] = json.loads(found.read_text())["results"]
    return {
        task: {
            name.removesuffix(",none"): value
            for name, value in figures.items()
            if isinstance(value, float) and "stderr" not in name
        }
        for task, figures in results.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="canvas-harness-") as name:
        scratch = Path(name)
        trained(corpus(), chosen.seconds).save_pretrained(scratch / "original")
        byte_tokenizer().save_pretrained(scratch / "original")
        document = canvas_rt.import_model(str(scratch / "original"))[0]
        canvas_rt.transplant(document, scratch / "original", scratch / "emitted")
        canvas_rt.transplant(canvas_rt.apply(document, *EDITED), scratch / "original", scratch / "edited")
        tasks = scratch / "tasks"
        tasks.mkdir()
        write_tasks(tasks)
        torch.set_num_threads(1)
        rows = {model: evaluated(scratch / model, tasks, scratch) for model in ("original", "emitted", "edited")}
    record({"machine": machine(), "rows": rows})


def record(found: dict[str, Any]) -> None:
    rows = found["rows"]
    (RESULTS / "harness.json").write_text(json.dumps(found, indent=1) + "\n")
    figures = [(task, name) for task, table in rows["original"].items() for name in table]
    lines = [
        "# lm-evaluation-harness on an emitted model",
        "",
        "A small Llama trained on the bytes of the documentation; what Canvas emits of it, with its weights; and that with a"
        " layer more and wider MLPs, which preserve the function. `python -m benchmarks.harness`.",
        "",
        "| figure | original | emitted | edited |",
        "| --- | --- | --- | --- |",
        *(
            f"| {task}: {name} | " + " | ".join(f"{rows[model][task][name]:.10g}" for model in rows) + " |"
            for task, name in figures
        ),
    ]
    (RESULTS / "harness.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
