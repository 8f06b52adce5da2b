"""A model over several cards: what makes no sense, what one of the cards runs, and what it sends to the others."""

from collections.abc import Iterator

from canvas_rt.diagnostics import Diagnostic
from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document
from canvas_rt.ir.graph import parse_layers
from canvas_rt.physics import sharded, tensor_parallel
from canvas_rt.physics.pipeline import Stage, sent, stages
from canvas_rt.physics.roofline import Roof
from canvas_rt.physics.scenario import Scenario
from canvas_rt.physics.setup import Setup
from canvas_rt.physics.traffic import Traffic
from canvas_rt.physics.whole import Model


def share(document: Document, scenario: Scenario) -> Document:
    """What the first of the cards runs. Raises `CanvasError` for what cannot be shared so."""
    for flaw in problems(scenario):
        raise CanvasError(flaw.message, path=flaw.path, hint=flaw.hint)
    if scenario.pipeline > 1:
        return staged(document, scenario)[0][1]
    return document if scenario.tensor == 1 else tensor_parallel.local(document, scenario.tensor)


def staged(document: Document, scenario: Scenario) -> list[tuple[Stage, Document]]:
    """A pipeline's stages, and what one card of each runs."""
    found = []
    for stage in stages(document, scenario.pipeline, scenario.stages):
        own = stage.document(document)
        found.append((stage, own if scenario.tensor == 1 else tensor_parallel.local(own, scenario.tensor)))
    return found


def batches(scenario: Scenario) -> int:
    """Forwards and backwards of a step."""
    if not scenario.train:
        return 1
    return scenario.stages if scenario.pipeline > 1 else scenario.accumulation


def travelling(
    document: Document, whole: Model, scenario: Scenario, setup: Setup, limit: Roof, stage: Stage | None = None
) -> Traffic:
    """What a card sends for one batch; `document` is the whole model, `whole` one card's share of it."""
    total, absent = Traffic(), frozenset[str]() if stage is None else stage.absent
    if stage is not None:
        document = stage.document(document)
        nbytes = sent(whole.root.gaps[0], setup, stage)
        total.send("point_to_point", nbytes)
        total.wait(nbytes / limit.card.link_bandwidth)
    if scenario.data > 1 and scenario.train:
        total.add(sharded.travelling(whole, limit))
    if scenario.tensor > 1:
        total.add(tensor_parallel.travelling(document, setup, limit, scenario.tensor, absent))
    return total


def problems(scenario: Scenario) -> Iterator[Diagnostic]:
    """Ways to share a model that cannot be."""
    if scenario.data > 1:
        yield from _fsdp(scenario)
    if scenario.pipeline > 1:
        yield from _pipeline(scenario)
    for name in ("context", "expert"):
        if getattr(scenario, name) > 1:
            yield _error(name, f"{name} parallelism is not predicted", f"Leave {name} 1: data and tensor are.")


def _pipeline(scenario: Scenario) -> Iterator[Diagnostic]:
    if scenario.mode == "chat":
        yield _error("pipeline", "a chat runs on one stage", "Measure prefill and decode by themselves, or use tensor.")
    if scenario.data > 1:
        message = "how FSDP2's gathering and a pipeline's microbatches interleave is not predicted"
        yield _error(
            "data", message, "Leave data 1 beside a pipeline: its copies each hold the same. Or leave pipeline 1."
        )
    if scenario.train and scenario.accumulation > 1:
        message = f"a pipeline accumulates over its microbatches ({scenario.stages}) already"
        yield _error("accumulation", message, f"Try microbatches {scenario.stages * scenario.accumulation}.")
    for name in ("frozen", "lora_targets"):
        if any(parse_layers(part) for pattern in getattr(scenario, name) for part in pattern.split(".")):
            message = "a pattern that names single layers does not reach through a pipeline's stages"
            yield _error(name, message, "Name nodes without layers, or leave pipeline 1.")


_NO_DTENSOR = {
    "muon": "muon turns whole matrices, and a rank of FSDP2 has only rows of them",
    "adafactor": "adafactor averages over rows that are on other ranks of FSDP2",
    "adamw-8bit": "bitsandbytes' optimizers do not take the DTensors of FSDP2",
}


def _fsdp(scenario: Scenario) -> Iterator[Diagnostic]:
    if not scenario.train:
        message = f"{scenario.data} data ranks would each serve by themselves: FSDP2 shares weights in training"
        yield _error("data", message, "Leave data 1, or share the weights by tensor.")
        return
    if scenario.optimizer in _NO_DTENSOR:
        yield _error("optimizer", _NO_DTENSOR[scenario.optimizer], "Try adamw, lion or sgd, or data 1.")
    if scenario.weights != "same":
        message = f"FSDP2 shares tensors of numbers, not {scenario.weights} weights with scales"
        yield _error("weights", message, "Try weights same, or data 1.")
    if scenario.lora and scenario.dtype == "mixed":
        message = "FSDP2's policy would gather the fp32 adapters in 16 bits"
        yield _error("lora", message, "Try dtype bf16, which keeps adapters in fp32.")


def _error(path: str, message: str, hint: str) -> Diagnostic:
    return Diagnostic("error", path, message, hint)
