"""Choose how a model is trained: what fits, as the physics says, with the reason beside each number."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document
from canvas_rt.ops.parameters import count_parameters
from canvas_rt.physics import Report, measure
from canvas_rt.physics.hardware import Hardware, load_hardware
from canvas_rt.physics.run import peak_allocated
from canvas_rt.physics.scenario import Scenario
from canvas_rt.training.data import Data
from canvas_rt.training.tokens import Tokens

USUAL_SEQUENCE, CPU_SEQUENCE = 1024, 256
"""Tokens of a sequence where nobody says how many, and the model takes as many."""

SMALLEST_STEP, LARGEST_STEP = 2048, 2**19
"""Tokens of an optimizer step; the most is what GPT-3's smaller models took (Brown et al. 2020, table 2.1)."""

STEPS_AN_EPOCH = 100
EPOCHS = 4
"""Up to about four times, data that is seen again is nearly as good as new (Muennighoff et al. 2023)."""

TOKENS_A_PARAMETER = 20
"""Hoffmann et al. 2022."""

HELD_OUT = 0.05
MOST_HELD_OUT = 64

CPU_BYTES, CPU_FLOPS = 2 * 2**30, 60e9
"""What a batch on a CPU may take of memory, and of operations: about a second of a laptop's."""

WAYS = (("mixed", "none"), ("mixed", "full"), ("bf16", "none"), ("bf16", "full"))
"""Dtypes and recomputation, the best first: 32-bit weights learn best, and recomputing costs a third more time."""

DTYPES = {
    "mixed": "32-bit weights and moments, products in bfloat16: what learns best",
    "bf16": "weights, moments and products: with 32-bit weights it would not fit",
}

MOST_CARDS = 1024

Value = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of settings.toml."""

    name: str
    value: Value
    reason: str


@dataclass(frozen=True, slots=True)
class Settings:
    """All that train.py reads, by section, and what is expected of it."""

    sections: Mapping[str, tuple[Setting, ...]]
    """`""` is what stands before the first heading."""

    cards: int
    """GPUs that it takes."""

    def value(self, section: str, name: str) -> Any:
        return next(setting.value for setting in self.sections[section] if setting.name == name)

    def to_toml(self) -> str:
        """As TOML, with each reason as a comment."""
        parts = []
        for heading, settings in self.sections.items():
            lines = [f"[{heading}]"] if heading else []
            for setting in settings:
                lines += [f"# {line}" for line in _folded(setting.reason)]
                lines.append(f"{setting.name} = {_toml(setting.value)}")
            parts.append("\n".join(lines))
        return "\n\n".join(parts) + "\n"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user said. Everything else is chosen."""

    hardware: str = "a100-80gb"
    cards: Path | None = None
    """A file with cards of the user's own."""

    sequence: int | None = None
    batch: int | None = None
    steps: int | None = None
    learning_rate: float | None = None
    streaming: bool = False
    seed: int = 0


def choose(document: Document, data: Data, tokens: Tokens, wishes: Wishes, *, weights: bool) -> Settings:
    """The settings of a training run. `weights`: whether it starts from weights that learned already.

    Raises `CanvasError` where what the user wishes cannot fit, saying what would.
    """
    sequence, why = _sequence(document, tokens, wishes)
    step = _tokens_a_step(tokens, sequence)
    gpu, ranks = _gpu(document, wishes, sequence, why, step)
    on_cpu = min(sequence, CPU_SEQUENCE)
    run = _run(document, tokens, wishes, step // sequence * sequence, weights)
    steps = int(run[0].value) if isinstance(run[0].value, int) else 0
    every = Setting("save_every", max(10, steps // 10), "a tenth of the run; the last two checkpoints are kept")
    return Settings(
        {
            "": (Setting("seed", wishes.seed, "the same seed gives the same curve, on any number of processes"),),
            "model": _model(weights),
            "data": _data(data, tokens, wishes, sequence),
            "run": (*run, every),
            "cpu": _cpu(document, on_cpu, max(1, step // on_cpu)),
            "gpu": gpu,
        },
        ranks,
    )


def _sequence(document: Document, tokens: Tokens, wishes: Wishes) -> tuple[int, str]:
    positions = document.environment.get("max_position_embeddings")
    most = positions if isinstance(positions, int) and positions > 0 else 2**31
    if wishes.sequence is not None:
        if wishes.sequence > most:
            raise CanvasError(f"the model takes {most} positions, not {wishes.sequence}", path="--sequence")
        return _held_by(tokens, wishes.sequence), "as you said"
    usual = min(USUAL_SEQUENCE, most)
    return _held_by(tokens, usual), f"{'all that the model takes' if usual == most else 'usual; --sequence changes it'}"


def _held_by(tokens: Tokens, sequence: int) -> int:
    """A sequence of which the data gives at least two: one to train on, one to hold out."""
    if not tokens.count or tokens.count >= 2 * sequence:
        return sequence
    if tokens.count < 4:
        raise CanvasError(f"{tokens.count} tokens are too few to train on", path="--data", hint="Name more text.")
    return tokens.count // 2


def _tokens_a_step(tokens: Tokens, sequence: int) -> int:
    wanted = tokens.count // STEPS_AN_EPOCH if tokens.count else LARGEST_STEP
    return max(sequence, _power(min(LARGEST_STEP, max(SMALLEST_STEP, wanted))))


def _power(number: int) -> int:
    """The largest power of two that is no more."""
    return 1 << (max(1, number).bit_length() - 1)


# ---------------------------------------------------------------------------------------------------------------------
# Sections
# ---------------------------------------------------------------------------------------------------------------------


def _model(weights: bool) -> tuple[Setting, ...]:
    start = "goes on from the weights in model/" if weights else "begins with fresh weights, by the config's rule"
    return (Setting("weights", weights, start),)


def _data(data: Data, tokens: Tokens, wishes: Wishes, sequence: int) -> tuple[Setting, ...]:
    streaming = wishes.streaming or not data.files
    found = [Setting("format", data.format, "as the files' names end")] if data.files else []
    if data.files:
        where = "the corpus that ships with Canvas" if data.shipped else "your files"
        found.append(Setting("files", (), where + (", copied" if data.copied else ", read where they are")))
    else:
        name, _, config = data.hub.partition(":")
        found = [Setting("format", "hub", "a dataset of the Hugging Face hub"), Setting("hub", name, "which")]
        found += [Setting("config", config, "its configuration")] if config else []
    pieces = tokens.count // sequence
    held = max(1, min(MOST_HELD_OUT, int(pieces * HELD_OUT))) if tokens.count else MOST_HELD_OUT
    amount = f"of about {pieces:,}" if tokens.count else "of those there are"
    return (
        *found,
        Setting("column", data.column, "what holds the text"),
        Setting("streaming", streaming, "read as it is needed" if streaming else "tokenised once, kept in cache/"),
        Setting("held_out", held, f"sequences {amount} that are not trained on, but tell how it does"),
    )


def _run(document: Document, tokens: Tokens, wishes: Wishes, step: int, weights: bool) -> tuple[Setting, ...]:
    """Steps, and how fast to learn."""
    parameters = count_parameters(document).total
    ample = TOKENS_A_PARAMETER * parameters
    wanted = min(ample, EPOCHS * tokens.count) if tokens.count else ample
    steps = wishes.steps or max(20, wanted // step)
    if wishes.steps:
        why = "as you said"
    elif wanted == ample:
        why = f"{TOKENS_A_PARAMETER} tokens a parameter (Hoffmann et al. 2022)"
    else:
        why = f"{EPOCHS} times through {tokens.count:,} tokens (more repeats little: Muennighoff et al. 2023)"
    rate, rate_why = _learning_rate(document, wishes, weights)
    return (
        Setting("steps", steps, why),
        Setting("learning_rate", rate, rate_why),
        Setting("warmup", max(1, min(2000, steps // 20)), "a twentieth of the steps, then down a cosine"),
        Setting("weight_decay", 0.1, "as GPT-3, Llama and most since"),
        Setting("beta2", 0.95, "as GPT-3, Llama and most since"),
        Setting("clip", 1.0, "longest gradient, as GPT-3, Llama and most since"),
    )


def _learning_rate(document: Document, wishes: Wishes, weights: bool) -> tuple[float, str]:
    if wishes.learning_rate is not None:
        return wishes.learning_rate, "as you said"
    if weights:
        return 2e-5, "usual where weights have learned already"
    count = count_parameters(document).total
    rate = max(1e-4, 0.003239 - 0.0001395 * log(count))
    return float(f"{rate:.2g}"), f"0.003239 − 0.0001395 ln {count:,} (Kaplan et al. 2020, eq. D.1)"


def _cpu(document: Document, sequence: int, sequences: int) -> tuple[Setting, ...]:
    """The largest batch whose memory and time are bearable, of a step's sequences."""
    flops = _flops(document, sequence)
    batch = _power(sequences)
    while batch > 1 and (batch * flops > CPU_FLOPS or _cpu_peak(document, sequence, batch) > CPU_BYTES):
        batch //= 2
    peak = _cpu_peak(document, sequence, batch)
    return (
        Setting("sequence", sequence, "short: a CPU is slow"),
        Setting("sequences_per_step", sequences, f"{sequence * sequences:,} tokens a step"),
        Setting("batch", batch, f"sequences at a time: {batch * flops / 1e9:,.0f} GFLOP, {_gib(peak)}"),
        Setting("dtype", "float32", "most CPUs multiply 16 bits no faster"),
        Setting("recompute", False, "nothing is computed again"),
        Setting("predicted_memory", peak, "bytes of tensors at the peak, as Canvas predicts"),
    )


def _cpu_scenario(sequence: int, batch: int) -> Scenario:
    return Scenario(batch=batch, sequence=sequence, dtype="fp32", implementation="for-loop")


def _cpu_peak(document: Document, sequence: int, batch: int) -> int:
    return peak_allocated(document, _cpu_scenario(sequence, batch), "cpu")


def _flops(document: Document, sequence: int) -> int:
    flops = measure(document, scenario=_cpu_scenario(sequence, 1)).flops
    return flops.forward + flops.backward


def _gpu(document: Document, wishes: Wishes, sequence: int, why: str, step: int) -> tuple[tuple[Setting, ...], int]:
    """The settings on the card that was named, and how many of it they take."""
    card = load_hardware(wishes.hardware, file=wishes.cards)
    sequences = max(1, step // sequence)
    way = _way(document, wishes, sequence)
    at_once = way.data * way.batch
    sequences = -(-max(sequences, at_once) // at_once) * at_once
    most = wishes.batch or _power(sequences // way.data)
    batch, report = way.batch, _measured(document, wishes, way)
    while batch * 2 <= most:
        larger = replace(way, batch=batch * 2)
        tried = _measured(document, wishes, larger)
        if not tried.fits:
            break
        batch, way, report = batch * 2, larger, tried
    memory = f"{_gib(report.memory.device_total)} of {_gib(card.memory_bytes)} on {_named(card, way.data)}"
    recompute = way.recompute == "full"
    settings = (
        Setting("sequence", sequence, why),
        Setting("sequences_per_step", sequences, f"{sequence * sequences:,} tokens a step, on any number of GPUs"),
        Setting("batch", batch, f"sequences at a time on each GPU: {memory}"),
        Setting("dtype", "mixed" if way.dtype == "mixed" else "bfloat16", DTYPES[way.dtype]),
        Setting("recompute", recompute, _why_recompute(recompute, card)),
        Setting("predicted_memory", report.memory.peak_allocated, "bytes of tensors at the peak, as Canvas predicts"),
        Setting(
            "predicted_tokens_per_s",
            round(report.time.tokens_per_s),
            f"on {_named(card, way.data)}: a bound by the roofline, not a measurement",
        ),
    )
    return settings, way.data


def _way(document: Document, wishes: Wishes, sequence: int) -> Scenario:
    """The first way of training that fits: on one card, else sharded over as few as do."""
    batch = wishes.batch or 1
    first = Scenario(batch=batch, sequence=sequence)
    for cards in _doubled(1, MOST_CARDS):
        for dtype, recompute in WAYS if cards == 1 else WAYS[1:2]:
            tried = replace(first, dtype=dtype, recompute=recompute, data=cards)
            if _measured(document, wishes, tried).fits:
                return tried
    card = load_hardware(wishes.hardware, file=wishes.cards)
    largest = _largest(document, wishes, replace(first, dtype="mixed", recompute="full", data=MOST_CARDS))
    smaller = f"a --batch of {largest}, " if largest else ""
    raise CanvasError(
        f"{batch} × {sequence} tokens do not fit, not even on {MOST_CARDS} × {card.name} with all layers recomputed",
        path="--batch" if largest else "--sequence",
        hint=f"Try {smaller}a shorter --sequence, a larger card (--hardware), or a smaller model.",
    )


def _largest(document: Document, wishes: Wishes, scenario: Scenario) -> int:
    """The largest power of two below a batch that does not fit which does; 0 where none does."""
    batch = _power(scenario.batch - 1) if scenario.batch > 1 else 0
    while batch and not _measured(document, wishes, replace(scenario, batch=batch)).fits:
        batch //= 2
    return batch


def _doubled(start: int, stop: int) -> Iterator[int]:
    while start <= stop:
        yield start
        start *= 2


def _measured(document: Document, wishes: Wishes, scenario: Scenario) -> Report:
    return measure(document, hardware=wishes.hardware, cards=wishes.cards, scenario=scenario)


def _named(card: Hardware, cards: int) -> str:
    return f"{cards} × {card.name}" if cards > 1 else card.name


def _why_recompute(recompute: bool, card: Hardware) -> str:
    if recompute:
        return f"layers are computed again in the backward: their activations would not fit {card.name}"
    return "activations fit, so nothing is computed again"


def _gib(number: int) -> str:
    return f"{number / 2**30:,.2f} GiB"


# ---------------------------------------------------------------------------------------------------------------------
# TOML
# ---------------------------------------------------------------------------------------------------------------------


def _toml(value: Value) -> str:
    """JSON's numbers and strings are TOML's too, but for DEL."""
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _folded(text: str) -> list[str]:
    return textwrap.wrap("".join(c if c.isprintable() else " " for c in text), 110)
