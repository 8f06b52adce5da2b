"""The cases of `gpu_memory`: models and scenarios as data, sized to a card by the predictor itself."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import canvas_rt
from canvas_rt.dryrun.cards import card_file, card_of
from canvas_rt.edits import AddBlock, AddSize, ReplaceBlock
from canvas_rt.importer.zoo import zoo_folder
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import load
from canvas_rt.physics.hardware import Hardware
from canvas_rt.physics.report import Report
from canvas_rt.physics.scenario import Scenario

EXPERTS, CHOSEN = 8, 2
MIXTURE: Any = {
    "inputs": ("hidden_states",),
    "nodes": (
        {
            "id": "gate",
            "op": "router",
            "attrs": {"size": "=hidden_size", "num_experts": "=num_experts", "top_k": "=num_experts_per_tok"},
            "inputs": {"x": "hidden_states"},
        },
        {
            "id": "experts",
            "op": "experts",
            "attrs": {
                "size": "=hidden_size",
                "intermediate_size": "=moe_intermediate_size",
                "num_experts": "=num_experts",
                "fn": "=hidden_act",
            },
            "inputs": {"x": "hidden_states", "indices": "gate.indices", "weights": "gate.weights"},
        },
    ),
    "outputs": {"out": "experts"},
    "role": "moe",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One run: a family's model, as large as it must be to take a share of the card."""

    family: str
    """`llama` and `mistral` run as the classes of transformers, `mixture` (a Llama with experts) as Canvas emits it."""

    share: float
    """Of the card's memory."""

    scenario: Scenario
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Sizes that are not those of `shape`."""

    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Says all that the case is."""
        s, usual = self.scenario, Scenario()
        said = [self.family, s.mode, f"{s.batch}×{s.sequence}"]
        if s.train:
            said.append(s.chosen_implementation)
        said += [value for value in (s.dtype, s.attention) if value not in ("bf16", "auto")]
        if s.recompute != usual.recompute:
            said.append("recomputed")
        if s.expandable:
            said.append("expandable")
        said += [f"{name} {value}" for name, value in {**self.sizes, **self.config}.items()]
        return " ".join([*said, f"{self.share:.0%}"])


def train(family: str, share: float, batch: int, sequence: int, implementation: str = "fused", **more: Any) -> Case:
    sizes, config = more.pop("sizes", {}), more.pop("config", {})
    scenario = Scenario(
        batch=batch,
        sequence=sequence,
        implementation=implementation,
        attention=more.pop("attention", "flash"),
        **more,
    )
    return Case(family, share, scenario, sizes, config)


def infer(family: str, share: float, mode: str, batch: int, sequence: int, **more: Any) -> Case:
    sizes, attention = more.pop("sizes", {}), more.pop("attention", "flash")
    return Case(
        family, share, Scenario(mode=mode, batch=batch, sequence=sequence, attention=attention, **more), sizes, {}
    )


WINDOW = {"sliding_window": 1024}
LARGE_VOCABULARY = {"vocab_size": 128256}

CASES = (
    train("llama", 0.05, 1, 2048),
    train("llama", 0.20, 2, 2048, sizes=LARGE_VOCABULARY),
    train("llama", 0.50, 1, 4096),
    train("llama", 0.85, 1, 8192),
    train("llama", 0.20, 2, 1024, config={"tie_word_embeddings": True}),
    train("llama", 0.20, 1, 2048, sizes={"head_dim": 96}),
    train("llama", 0.20, 1, 2048, "foreach"),
    train("llama", 0.50, 4, 1024, "foreach"),
    train("llama", 0.85, 1, 2048, "foreach"),
    train("llama", 0.20, 1, 1024, "for-loop"),
    train("llama", 0.05, 1, 1024, attention="math"),
    train("llama", 0.50, 2, 2048, attention="math"),
    train("llama", 0.20, 1, 2048, attention="math", recompute="full"),
    train("llama", 0.20, 4, 2048, recompute="full"),
    train("llama", 0.50, 2, 8192, recompute="full"),
    train("llama", 0.85, 8, 4096, recompute="full"),
    train("llama", 0.50, 1, 4096, "foreach", recompute="full"),
    train("llama", 0.20, 2, 1024, dtype="mixed"),
    train("llama", 0.50, 2, 2048, "foreach", dtype="mixed"),
    train("llama", 0.85, 2, 4096, dtype="mixed", recompute="full"),
    train("llama", 0.20, 1, 1024, dtype="fp32", attention="auto"),
    train("llama", 0.50, 2, 2048, expandable=True),
    train("llama", 0.85, 1, 4096, "foreach", expandable=True),
    train("mistral", 0.20, 2, 2048),
    train("mistral", 0.50, 1, 8192, attention="auto", sizes=WINDOW),
    train("mistral", 0.85, 2, 4096, attention="auto", sizes=WINDOW, recompute="full"),
    train("mistral", 0.85, 1, 2048, "foreach"),
    train("mistral", 0.20, 1, 2048, dtype="mixed"),
    train("mixture", 0.20, 1, 2048),
    train("mixture", 0.50, 2, 1024, "foreach"),
    train("mixture", 0.85, 2, 4096, recompute="full"),
    infer("llama", 0.05, "prefill", 1, 512),
    infer("llama", 0.20, "prefill", 8, 2048),
    infer("llama", 0.50, "prefill", 4, 8192),
    infer("llama", 0.85, "prefill", 8, 8192),
    infer("llama", 0.20, "prefill", 1, 4096, attention="math"),
    infer("mistral", 0.50, "prefill", 2, 8192, attention="auto", sizes=WINDOW),
    infer("mixture", 0.50, "prefill", 4, 4096),
    infer("llama", 0.05, "decode", 1, 512),
    infer("llama", 0.20, "decode", 8, 2048),
    infer("llama", 0.85, "decode", 8, 8192),
    infer("llama", 0.50, "decode", 4, 4096, attention="math"),
    infer("mistral", 0.50, "decode", 8, 8192, attention="auto", sizes=WINDOW),
    infer("mixture", 0.50, "decode", 2, 4096),
)

# ---------------------------------------------------------------------------------------------------------------------
# Sizes
# ---------------------------------------------------------------------------------------------------------------------

WIDTHS = (512, 1024, 2048, 4096, 8192)
DEEPEST = 40


def shape(hidden: int) -> dict[str, int]:
    """Sizes of a model of that width, in the proportions of Llama 3."""
    width = 64 if hidden < 2048 else 128
    heads = hidden // width
    return {
        "hidden_size": hidden,
        "intermediate_size": hidden * 7 // 2,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 4,
        "max_position_embeddings": 8192,
        "vocab_size": 32000,
        "head_dim": width,
    }


@cache
def family(name: str) -> Document:
    if name != "mixture":
        return load(zoo_folder() / name / "document.canvas.json")
    edits = (
        AddSize("num_experts", EXPERTS),
        AddSize("num_experts_per_tok", CHOSEN),
        AddSize("moe_intermediate_size", "=hidden_size"),
        AddBlock("LlamaSparseMoeBlock", MIXTURE),
        ReplaceBlock("model.layers.mlp", "LlamaSparseMoeBlock"),
    )
    return canvas_rt.apply(family("llama"), *edits)


def document_of(case: Case, hidden: int, layers: int, **sizes: int) -> Document:
    """The case's model. `sizes` win over those that follow from the width."""
    return bound(case.family, {**shape(hidden), **case.sizes, "num_hidden_layers": layers, **sizes}, case.config)


def bound(name: str, sizes: Mapping[str, Any], config: Mapping[str, Any]) -> Document:
    """A family's model with such sizes."""
    found = family(name)
    return found.replace(sizes=found.sizes.with_items(sizes), config=found.config.with_items(config))


def sized(case: Case, card: Hardware, cards: Path) -> Document:
    """The narrowest model that takes the share of the card with no more than `DEEPEST` layers, and no more than it."""
    wanted = case.share * card.memory_bytes

    def total(hidden: int, layers: int) -> int:
        document = document_of(case, hidden, layers)
        return canvas_rt.measure(document, hardware=card.id, cards=cards, scenario=case.scenario).memory.device_total

    hidden = next((width for width in WIDTHS if total(width, DEEPEST) >= wanted), WIDTHS[-1])
    # The deepest that does not go beyond: at 85 % one layer more may be too much for the card.
    layers = bisect_right(range(1, DEEPEST), wanted, key=lambda layers: total(hidden, layers))
    return document_of(case, hidden, max(1, layers))


def tiny(case: Case) -> tuple[Document, Scenario]:
    """The same at a size that any computer can run: a 64th of the tokens, the kernels that a CPU has."""
    s = case.scenario
    window = {name: value // 64 for name, value in case.sizes.items() if name == "sliding_window"}
    sizes = {"vocab_size": 1000, "head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2, **window}
    attention = "math" if s.attention == "math" else "auto"
    scenario = s.but(batch=min(2, s.batch), sequence=s.sequence // 64, attention=attention, expandable=False)
    return document_of(case, 64, 3, **{**case.sizes, **sizes, "intermediate_size": 96}), scenario


def predicted(document: Document, scenario: Scenario, card: Hardware, cards: Path) -> Report:
    return canvas_rt.measure(document, hardware=card.id, cards=cards, thorough=True, scenario=scenario)


__all__ = ["CASES", "Case", "bound", "card_file", "card_of", "document_of", "predicted", "sized", "tiny"]
