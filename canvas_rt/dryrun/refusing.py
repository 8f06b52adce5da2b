"""Refuse what a real run cannot do, before any time is spent, with a way out."""

from collections.abc import Iterator

from canvas_rt.errors import CanvasError, suggest
from canvas_rt.ir.document import Document, Node
from canvas_rt.ir.expressions import names_in
from canvas_rt.ir.graph import walk
from canvas_rt.physics.scenario import Scenario, require
from canvas_rt.physics.shapes import require_sound

DEVICES = ("meta", "cpu", "cuda")

PREDICT = "'canvas-rt measure' predicts it."

Flaw = tuple[str, str, str]
"""The field, what is wrong with it, and a way out."""


def require_runnable(document: Document, scenario: Scenario, device: str) -> None:
    """Raise `CanvasError` for a device that there is not, a graph with errors, and what no real run is made for."""
    if device not in DEVICES:
        raise CanvasError(f"there is no device '{device}'", path="device", hint=suggest(device, DEVICES))
    require(scenario)
    require_sound(document, batch=scenario.batch, sequence=scenario.sequence)
    flaws = [*_of_model(document, scenario), *_of_scenario(scenario), *_of_device(scenario, device)]
    flaws += _of_positions(document, scenario) if device != "meta" else ()
    if flaws:
        (path, message, hint), *rest = flaws
        more = "".join(f"\nalso {name}: {text}. {way}" for name, text, way in rest)
        raise CanvasError(f"no dry run {message}{more}", path=path, hint=hint)


def _of_model(document: Document, scenario: Scenario) -> Iterator[Flaw]:
    task = document.purpose
    if task.decodes:
        yield "model", f"is made of {task.words} yet", PREDICT
    elif scenario.mode == "decode" and not task.generates:
        yield "mode", f"decodes: {task.words} generates nothing", "Choose mode prefill or train."


def _of_positions(document: Document, s: Scenario) -> Iterator[Flaw]:
    """A table of positions has no row for a token beyond it: real numbers show that, meta does not."""
    known = document.environment.get("max_position_embeddings")
    last = s.sequence + (s.mode == "decode")
    nodes = (visit.item for visit in walk(document) if isinstance(visit.item, Node))
    table = any("max_position_embeddings" in names_in(n.attrs) for n in nodes if n.op != "rotary_embedding")
    if table and isinstance(known, int) and last > known:
        yield "sequence", f"reads {last} tokens where the model has {known} positions", f"Try sequence {known - 1}."


def _of_scenario(scenario: Scenario) -> Iterator[Flaw]:
    s = scenario
    if s.mode == "chat":
        yield "mode", "chats", "Run its two parts: mode prefill, then mode decode."
    if s.cards > 1 or s.expert > 1:
        yield "cards", "is spread over several cards", f"Set data, tensor, context, pipeline and expert to 1. {PREDICT}"
    if s.weights != "same":
        yield "weights", f"has {s.weights} weights", f"Set weights to same. {PREDICT}"
    if s.dtype == "fp8":
        yield "dtype", "multiplies in fp8", f"Set dtype to bf16. {PREDICT}"
    if s.attention == "flex":
        yield "attention", "compiles flex_attention", f"Set attention to auto. {PREDICT}"
    yield from _of_training(s) if s.train else _of_inference(s)


def _of_training(s: Scenario) -> Iterator[Flaw]:
    if s.lora:
        yield "lora", "has adapters", f"Set lora to 0. {PREDICT}"
    if s.frozen:
        yield "frozen", "leaves parts untrained", f"Set frozen to nothing. {PREDICT}"
    if s.loss != "plain":
        yield "loss", f"has a {s.loss} loss", f"Set loss to plain. {PREDICT}"
    if s.recompute not in ("none", "full"):
        yield "recompute", "recomputes a part of a layer", f"Set recompute to none or full. {PREDICT}"
    if s.optimizer == "adamw-8bit":
        yield "optimizer", "has bitsandbytes' optimizers", f"Set optimizer to adamw. {PREDICT}"


def _of_inference(s: Scenario) -> Iterator[Flaw]:
    if s.cache != "same":
        yield "cache", f"has a cache of {s.cache}", f"Set cache to same. {PREDICT}"
    if s.page:
        yield "page", "has pages in its cache", f"Set page to 0. {PREDICT}"


def _of_device(s: Scenario, device: str) -> Iterator[Flaw]:
    if device == "cpu" and s.attention in ("flash", "efficient"):
        yield "attention", f"on the CPU has the {s.attention} kernel of a card", "Set attention to auto."
    if device == "meta" and s.train and s.dtype == "mixed":
        yield "dtype", "on meta casts by itself", "Set dtype to bf16 or fp32, or device to cpu."
    if device == "meta" and s.train and s.optimizer in ("muon", "adafactor"):
        yield "optimizer", f"on meta has {s.optimizer}", "Set optimizer to adamw, or device to cpu."
