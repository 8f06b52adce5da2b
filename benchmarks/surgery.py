"""Surgery on a model that learned something: what edits do to its loss when its weights come along.

`python -m benchmarks.surgery [--seconds 60]` trains a small Llama on the bytes of this project's own documentation, makes
edits, writes each with weights, loads it by `AutoModelForCausalLM`, and writes `benchmarks/results/surgery.md` and `.json`.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import canvas_rt
from benchmarks.record import RESULTS, machine
from canvas_rt.edits import DeleteLayers, DuplicateLayers, InsertLayer, RenameNode, SetSize, Ungroup

ROOT = Path(__file__).parents[1]
LAYERS = "model.layers"
SIZES = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}

PRESERVING: dict[str, tuple[Any, ...]] = {
    "nothing": (),
    "wider MLPs (320 → 512)": (SetSize("", "intermediate_size", 512),),
    "a wider MLP in two layers": (SetSize(f"{LAYERS}.2-3.mlp", "intermediate_size", 400),),
    "keys and values for each query head (4 → 8)": (SetSize("", "num_key_value_heads", 8),),
    "more query heads (8 → 12)": (SetSize("", "num_attention_heads", 12),),
    "two new layers": (InsertLayer(LAYERS, 2), InsertLayer(LAYERS, 5)),
    "other names": (RenameNode(f"{LAYERS}.mlp.up_proj", "widen"), RenameNode(LAYERS, "blocks")),
    "no MLP block": (Ungroup(f"{LAYERS}.mlp"),),
}
CHANGING: dict[str, tuple[Any, ...]] = {
    "two layers fewer": (DeleteLayers(f"{LAYERS}.2-3"),),
    "keys and values shared by four heads (4 → 2)": (SetSize("", "num_key_value_heads", 2),),
    "16 tokens more": (SetSize("", "vocab_size", 272),),
    "all three": (
        DeleteLayers(f"{LAYERS}.2-3"),
        SetSize("", "num_key_value_heads", 2),
        SetSize("", "vocab_size", 272),
    ),
    "a layer twice": (DuplicateLayers(f"{LAYERS}.3"),),
    "narrower MLPs (320 → 256)": (SetSize("", "intermediate_size", 256),),
}


def corpus() -> Tensor:
    """The bytes of the documentation."""
    files = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
    return torch.tensor(list("\n".join(file.read_text() for file in files).encode()))


def entropy(text: Tensor) -> float:
    """Nats a byte, for one who knows only how often each is there."""
    counts = Counter(text.tolist())
    return -sum(n / len(text) * log(n / len(text)) for n in counts.values())


def trained(text: Tensor, seconds: float) -> Any:
    """A small Llama after that much training."""
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**SIZES))  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        starts = torch.randint(0, len(text) - 129, (16,))
        ids = torch.stack([text[start : start + 128] for start in starts])
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def loss(model: Any, text: Tensor) -> float:
    """Mean loss over fixed pieces of the text, in float32."""
    starts = torch.linspace(0, len(text) - 130, 24).long()
    ids = torch.stack([text[start : start + 128] for start in starts])
    return float(model(input_ids=ids, labels=ids).loss)


def edited(document: Any, edits: tuple[Any, ...], weights: Path, text: Tensor, scratch: Path) -> dict[str, Any]:
    """The loss of an edited model with its weights, and what it says."""
    folder = Path(tempfile.mkdtemp(dir=scratch)) / "out"
    report = canvas_rt.transplant(canvas_rt.apply(document, *edits), weights, folder)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    prompt = torch.tensor([list(b"Canvas ")])
    said = model.generate(prompt, max_new_tokens=40, do_sample=False, pad_token_id=0)[0].tolist()
    return {
        "loss": loss(model, text),
        "recipes": dict(Counter(recipe.how for recipe, _ in report.made)),
        "said": bytes(token for token in said if token < 256).decode(errors="replace"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    chosen = parser.parse_args()
    text = corpus()
    with tempfile.TemporaryDirectory(prefix="canvas-surgery-") as name:
        scratch = Path(name)
        model = trained(text, chosen.seconds)
        model.save_pretrained(scratch / "origin", max_shard_size="1MB")
        document = canvas_rt.import_model(str(scratch / "origin"))[0]
        before = loss(model, text)
        rows = {
            word: {label: edited(document, edits, scratch / "origin", text, scratch) for label, edits in table.items()}
            for word, table in (("preserving", PRESERVING), ("changing", CHANGING))
        }
    record({"machine": machine(), "loss": before, "unigram_entropy": entropy(text), **rows})


def record(found: dict[str, Any]) -> None:
    (RESULTS / "surgery.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        "# Surgery on a trained model",
        "",
        f"A Llama of 6 layers, trained on the bytes of the documentation: {found['loss']:.4f} nats a byte (the bytes'"
        f" unigram entropy is {found['unigram_entropy']:.2f}). Each edit is written with its weights, loaded by"
        " `AutoModelForCausalLM`, and run on the same text. `python -m benchmarks.surgery`.",
        "",
        "| edit | loss | difference | recipes |",
        "| --- | --- | --- | --- |",
    ]
    for word in ("preserving", "changing"):
        lines.append(f"| **{word} the function** | | | |")
        for label, row in found[word].items():
            recipes = ", ".join(f"{count} {how}" for how, count in row["recipes"].items())
            lines.append(f"| {label} | {row['loss']:.4f} | {row['loss'] - found['loss']:+.1e} | {recipes} |")
    (RESULTS / "surgery.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    print(found["changing"]["all three"]["said"])


if __name__ == "__main__":
    main()
