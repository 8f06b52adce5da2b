"""A document, about to be run in a scenario on a card: what cannot run is refused here, with a way out."""

from collections.abc import Iterator
from dataclasses import dataclass

from canvas_rt.diagnostics import Diagnostic
from canvas_rt.errors import CanvasError, suggest
from canvas_rt.ir.document import Document, Node, Stack
from canvas_rt.ir.graph import reachable_blocks
from canvas_rt.physics import parallel
from canvas_rt.physics.anatomy import eager_beside_others, tail_paths
from canvas_rt.physics.calibration import Calibration
from canvas_rt.physics.hardware import Hardware
from canvas_rt.physics.pipeline import Stage
from canvas_rt.physics.regimes import Treatment, require_known, treatment_of
from canvas_rt.physics.roofline import Roof
from canvas_rt.physics.scenario import Scenario
from canvas_rt.physics.setup import Device, Setup, recomputed, setup_of
from canvas_rt.physics.shapes import checked_run


@dataclass(frozen=True, slots=True)
class Bench:
    """A document, about to be run in a scenario on a card."""

    document: Document
    scenario: Scenario
    card: Hardware
    limit: Roof
    setup: Setup
    treatment: Treatment
    original: Document
    """The whole model, of which `document` is what one card runs."""

    stage: Stage | None = None
    """Of a pipeline, which part of the model `document` is."""

    thorough: bool = False


def prepare(
    document: Document,
    scenario: Scenario,
    card: Hardware,
    calibration: Calibration | None = None,
    device: Device = "cuda",
) -> Bench:
    """Refuse what cannot run, with a way out."""
    checked_run(document, scenario.batch, scenario.sequence)
    treatment = treatment_of(scenario)
    require_known(document, treatment)
    _require_recomputed(document, scenario)
    first = scenario.but(mode="prefill") if scenario.mode == "chat" and document.purpose.generates else scenario
    share = parallel.share(document, scenario)
    setup = setup_of(first, card, task=document.purpose, device=device, eager=eager_beside_others(document))
    bench = Bench(share, scenario, card, Roof(card, calibration), setup, treatment, document)
    _require_loss(bench)
    return bench


def _require_recomputed(document: Document, scenario: Scenario) -> None:
    """Refuse to recompute what there is not."""
    names = recomputed(scenario.recompute) if scenario.train else ()
    if names in ((), ("full",), ("selective",)):
        return
    known = {"none", "full", "selective"}
    for name in reachable_blocks(document):
        for item in document.blocks[name].nodes:
            known |= (
                {item.id} if isinstance(item, Stack) else {item.id, item.op if isinstance(item, Node) else item.block}
            )
    for name in names:
        if name not in known or name in ("full", "selective", "none"):
            hint = suggest(name, known) if name not in known else "Give it alone."
            raise CanvasError(f"there is no '{name}' to recompute", path="recompute", hint=hint)


def _require_loss(bench: Bench) -> None:
    after = tail_paths(bench.document.blocks, bench.document.root)
    loss = bench.setup.loss
    if loss != "plain" and not after:
        message = f"a {loss} loss needs a linear that gives the logits of each token, and this model has none"
        raise CanvasError(message, path="loss", hint="Try loss plain.")
    if loss == "fused" and len(after) > 1:
        raise CanvasError(
            f"the fused loss takes the logits from the head as they are, but {after[1]} stands between",
            path="loss",
            hint="Try loss chunked.",
        )


def on_card(document: Document, scenario: Scenario, card: Hardware) -> Iterator[Diagnostic]:
    """What is odd about a scenario on a card, though it runs."""
    rate = scenario.rate
    if rate in ("bf16", "fp16") and rate not in card.peak_flops:
        other = next((name for name in ("fp16", "bf16") if name in card.peak_flops), "fp32")
        message = f"{card.name} has no units for {rate}: products run at the speed of fp32"
        yield Diagnostic("warning", "dtype", message, f"Try dtype {other}.")
    yield from parallel.notes(document, scenario, card)
    positions = document.environment.get("max_position_embeddings")
    answer = scenario.generate if scenario.mode == "chat" else 0
    # With an encoder, what is read and what is made are two sequences.
    tokens = max(scenario.sequence, answer) if document.purpose.decodes else scenario.sequence + answer
    if isinstance(positions, int) and tokens > positions > 0:
        message = f"{tokens} tokens are more than max_position_embeddings ({positions})"
        hint = f"It was trained for {positions} positions: shorten the sequence, or raise max_position_embeddings."
        yield Diagnostic("warning", "sequence", message, hint)
