"""A model over several cards: what makes no sense, what one of the cards runs, and what it sends to the others."""

from collections.abc import Iterator

from canvas_rt.diagnostics import Diagnostic
from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document, Node
from canvas_rt.ir.graph import parse_layers, walk
from canvas_rt.ops.parameters import parameter_table
from canvas_rt.physics import expert_parallel, sharded, tensor_parallel
from canvas_rt.physics.anatomy import windows_of
from canvas_rt.physics.hardware import Hardware
from canvas_rt.physics.kv_cache import kv_cache_bytes
from canvas_rt.physics.pipeline import Stage, sent, stages
from canvas_rt.physics.roofline import Roof
from canvas_rt.physics.scenario import Scenario
from canvas_rt.physics.setup import Setup
from canvas_rt.physics.traffic import Traffic, ring
from canvas_rt.physics.whole import Model


def share(document: Document, scenario: Scenario) -> Document:
    """What the first of the cards runs. Raises `CanvasError` for what cannot be shared so."""
    for flaw in problems(scenario):
        raise CanvasError(flaw.message, path=flaw.path, hint=flaw.hint)
    if scenario.context > 1:
        _require_parts(document, scenario)
    if scenario.pipeline > 1:
        return staged(document, scenario)[0][1]
    return _local(document, scenario)


def _local(document: Document, scenario: Scenario) -> Document:
    if scenario.expert > 1:
        document = expert_parallel.local(document, scenario.expert)
    return document if scenario.tensor == 1 else tensor_parallel.local(document, scenario.tensor)


def caching(document: Document, scenario: Scenario, stage: Stage | None) -> Document:
    """What keeps keys and values on one card: as `share`, but with all experts, so that it can be checked."""
    own = document if stage is None else stage.document(document)
    return _local(own, scenario.but(expert=1))


def _require_parts(document: Document, scenario: Scenario) -> None:
    """Refuse sequences that cannot be cut, and attention that does not see all of them."""
    sequence, ranks = scenario.sequence, scenario.context
    if sequence % ranks:
        message = f"{sequence} tokens do not divide over {ranks} context parallel ranks"
        raise CanvasError(message, path="context", hint=f"Try sequence {sequence // ranks * ranks or ranks}.")
    windows = windows_of(document)
    if windows:
        message = f"attention with a window ({min(windows)} tokens) over a cut sequence is not predicted"
        raise CanvasError(message, path="context", hint="Leave context 1.")


def fsdp_ranks(scenario: Scenario) -> int:
    """Cards that share each weight: context parallel ranks join those with batches of their own, as in torchtitan."""
    return scenario.data * scenario.context if scenario.train else 1


def expert_paths(document: Document) -> frozenset[str]:
    """Paths of experts."""
    return frozenset(v.path for v in walk(document) if isinstance(v.item, Node) and v.item.op == "experts")


def staged(document: Document, scenario: Scenario) -> list[tuple[Stage, Document]]:
    """A pipeline's stages, and what one card of each runs."""
    found = []
    for stage in stages(document, scenario.pipeline, scenario.stages):
        own = stage.document(document)
        found.append((stage, _local(own, scenario)))
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
    if fsdp_ranks(scenario) > 1:
        total.add(sharded.travelling(whole, limit))
    if scenario.expert > 1:
        total.add(expert_parallel.travelling(document, setup, limit, scenario.expert))
    if scenario.context > 1:
        total.add(_gathering(document, scenario, setup, limit))
    if scenario.tensor > 1:
        total.add(tensor_parallel.travelling(document, setup, limit, scenario.tensor, absent))
    return total


def _gathering(document: Document, scenario: Scenario, setup: Setup, limit: Roof) -> Traffic:
    """Keys and values of the whole sequence, gathered in each layer; their gradients go back to where they belong."""
    dtype = "bf16" if setup.product_dtype.itemsize == 2 else "fp32"
    nbytes = kv_cache_bytes(document, batch=setup.batch, sequence=scenario.sequence, dtype=dtype) // scenario.tensor
    traffic = Traffic()
    part = ring("all_gather", nbytes, scenario.context)
    traffic.send("all_gather", part * (2 if setup.recompute == ("full",) else 1))
    traffic.send("reduce_scatter", part)
    traffic.wait(traffic.cost.sent / limit.card.link_bandwidth)
    return traffic


def communicators(scenario: Scenario) -> int:
    """Groups of cards that a card talks to."""
    groups = (fsdp_ranks(scenario), scenario.tensor, scenario.pipeline, scenario.expert)
    return sum(ranks > 1 for ranks in groups)


MACHINE = 8
"""Cards that a machine has at most, as a rule."""


def notes(document: Document, scenario: Scenario, card: Hardware) -> Iterator[Diagnostic]:
    """What is worth knowing about a way to share, though it runs."""
    if scenario.cards > MACHINE:
        message = f"{scenario.cards} cards are taken to be linked as those of one machine are"
        hint = f"Each sends {card.link_bandwidth / 1e9:g} GB/s here; a slower network makes communication_s longer."
        yield Diagnostic("note", "hardware", message, hint)
    ranks = fsdp_ranks(scenario) // scenario.expert
    experts = {row.path: row.shape[0] for row in parameter_table(document) if len(row.shape) > 2}
    for path, held in experts.items():
        if held < ranks:  # FSDP2 cuts between rows, and pads what is left
            message = f"{held} experts over {ranks} ranks of FSDP2 are padded to {ranks}"
            hint = "Share them by expert parallelism too, or shard another dimension (shard_placement_fn)."
            yield Diagnostic("warning", path, message, hint)


def problems(scenario: Scenario) -> Iterator[Diagnostic]:
    """Ways to share a model that cannot be."""
    if scenario.context > 1:
        yield from _context(scenario)
    if scenario.expert > 1 and scenario.data % scenario.expert:
        message = f"{scenario.expert} expert ranks do not divide the {scenario.data} data ranks that they lie within"
        yield _error("expert", message, f"Try data {scenario.expert}, or a multiple of it.")
    if scenario.data * scenario.context > 1:
        yield from _fsdp(scenario)
    if scenario.pipeline > 1:
        yield from _pipeline(scenario)


def _context(scenario: Scenario) -> Iterator[Diagnostic]:
    if not scenario.train:
        message = f"context parallelism is predicted in training, not in {scenario.mode}"
        yield _error("context", message, "Leave context 1, or share heads and weights by tensor.")
    if scenario.dtype == "fp32" or scenario.attention not in ("auto", "flash"):
        message = "parts of a sequence are attended to by flash attention, which takes 16 bits"
        yield _error("context", message, "Try dtype bf16 and attention auto, or leave context 1.")


def _pipeline(scenario: Scenario) -> Iterator[Diagnostic]:
    if scenario.mode == "chat":
        yield _error("pipeline", "a chat runs on one stage", "Measure prefill and decode by themselves, or use tensor.")
    if scenario.data * scenario.context > 1:
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
    if not scenario.train and scenario.expert > 1:
        return  # each rank serves its own batch, and all share the experts
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
