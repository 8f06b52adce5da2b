"""Measure a document: parameters, FLOPs, memory and time on a card, in a scenario."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from canvas_rt.diagnostics import Diagnostic
from canvas_rt.ir.document import Document, Stack
from canvas_rt.ir.graph import walk
from canvas_rt.ops.parameters import count_parameters
from canvas_rt.physics import parallel
from canvas_rt.physics.anatomy import eager_beside_others, windows_of
from canvas_rt.physics.bench import Bench, on_card, prepare
from canvas_rt.physics.calibration import Calibration
from canvas_rt.physics.explain import Explainer
from canvas_rt.physics.formulas import formulas
from canvas_rt.physics.hardware import load_hardware
from canvas_rt.physics.pipeline import wall
from canvas_rt.physics.report import Budget, Flops, Memory, NodeCost, ParameterCount, Report, Time
from canvas_rt.physics.roofline import Cost
from canvas_rt.physics.run import Run, Taken, begin, outside, run_costs, run_memory
from canvas_rt.physics.scenario import Scenario, require, scenario_of
from canvas_rt.physics.setup import setup_of
from canvas_rt.physics.shapes import check
from canvas_rt.physics.traffic import COMMUNICATION
from canvas_rt.physics.whole import model, node_costs


def measure(
    document: Document,
    *,
    hardware: str = "a100-80gb",
    scenario: Scenario | None = None,
    cards: Path | None = None,
    calibration: Calibration | None = None,
    thorough: bool = False,
    **settings: Any,
) -> Report:
    """What the model costs on a card.

    `scenario` says how it is run; `settings` are fields of it by name, as in `mode="decode", batch=8`. Left out, it is one
    training step of one sequence of 4096 tokens in bf16 with fused AdamW. `cards` is a file of cards of one's own, in the
    form of `hardware.toml`. `calibration` is what `calibrate` measured on such a card. What the allocator
    reserves is estimated from a few layers, for a report within a moment; `thorough` follows it through every layer of two
    steps, with the card's capacity, giving back what is cached and trying again as PyTorch does.

    Raises `CanvasError` for a card or a scenario that makes no sense; `UnresolvedShape` where `check` finds errors.
    """
    chosen = scenario_of(scenario, settings)
    warnings = require(chosen)
    if not document.purpose.of_tokens:
        chosen = chosen.but(sequence=patches(document, chosen.batch) or chosen.sequence)
    card = load_hardware(hardware, file=cards)
    bench = replace(prepare(document, chosen, card, calibration), thorough=thorough)
    report = _chat(bench) if chosen.mode == "chat" else _run(bench)
    return replace(report, diagnostics=(*warnings, *report.diagnostics, *on_card(document, chosen, card)))


def patches(document: Document, batch: int) -> int:
    """How long the row is that layers are given of an image: it follows from the model's sizes; 0 where none is known."""
    shapes = check(document, batch=batch).shapes
    stacks = (visit.path for visit in walk(document) if isinstance(visit.item, Stack))
    found = (shapes.get(path, (None,))[0] for path in stacks)
    return next((shape.actual[1] for shape in found if shape is not None and len(shape.actual) == 3), 0)


# ---------------------------------------------------------------------------------------------------------------------
# One run: a step, a prompt, or a token
# ---------------------------------------------------------------------------------------------------------------------


def _run(bench: Bench) -> Report:
    scenario = bench.scenario
    tokens = scenario.batch * bench.setup.tokens * scenario.context * scenario.data * parallel.batches(scenario)
    if scenario.pipeline > 1:
        return _pipelined(bench, tokens)
    run = begin(bench)
    costs = run_costs(run)
    taken = run_memory(run, costs)
    return replace(_explained(_report(run, costs, taken.memory, tokens), run, taken), allocator=taken.allocator)


def _pipelined(bench: Bench, tokens: int) -> Report:
    """The stage that holds most, with the time that it waits for the others."""
    scenario = bench.scenario
    found = parallel.staged(bench.original, scenario)
    runs = [begin(replace(bench, document=share, stage=stage)) for stage, share in found]
    costs = [run_costs(run) for run in runs]
    takes = [run_memory(run, cost) for run, cost in zip(runs, costs, strict=True)]
    fullest = max(range(len(runs)), key=lambda index: takes[index].memory.peak_allocated)
    run, own, taken = runs[fullest], costs[fullest], takes[fullest]
    batches = parallel.batches(scenario)
    once = [seconds_of(node_costs(run.whole, bench.limit)) + run.traffic.seconds / batches for run in runs]
    ends = [seconds_of(cost) - batches * one for cost, one in zip(costs, once, strict=True)]
    total = wall(once, batches, train=scenario.train) + max(ends)
    own.setdefault(COMMUNICATION, Cost()).spend("communication", max(0.0, total - seconds_of(own)))
    stage = found[fullest][0]
    report = _report(run, {stage.named(path): cost for path, cost in own.items()}, taken.memory, tokens)
    message = f"memory, FLOPs and nodes are those of stage {stage.index + 1} of {stage.count}, which holds most"
    last = stage.start + stage.layers - 1
    note = Diagnostic("note", "pipeline", message, f"It has layers {stage.start} to {last} of {stage.stack}.")
    useful = [sum(cost.useful for cost in each.values()) for each in costs]
    mfu = report.time.mfu * sum(useful) / (len(useful) * max(1, useful[fullest]))  # of all stages
    time = replace(report.time, mfu=mfu)
    return replace(report, allocator=taken.allocator, diagnostics=(note,), time=time)


def seconds_of(costs: Mapping[str, Cost]) -> float:
    """Of all nodes together."""
    return sum(sum(cost.seconds.values()) for cost in costs.values())


def _explained(report: Report, run: Run, taken: Taken) -> Report:
    """With formulas, where the report is a thorough one."""
    bench = run.bench
    if not bench.thorough or bench.scenario.cards > 1:
        return report
    checked = check(bench.document, batch=bench.scenario.batch, sequence=bench.scenario.sequence)
    explainer = Explainer(bench.document, checked, bench.scenario.batch, bench.scenario.sequence)
    runs = {run.whole: 1} if run.again is None else {run.whole: 1, run.again: bench.scenario.accumulation - 1}
    return replace(report, by_node=formulas(report.by_node, runs, run.rows, run.update, taken.held, explainer))


# ---------------------------------------------------------------------------------------------------------------------


def _report(run: Run, costs: Mapping[str, Cost], memory: Memory, tokens: int) -> Report:
    bench, rows = run.bench, run.numbers
    costs = dict(costs)
    for row in rows:
        costs.setdefault(row.row.path, Cost()).parameters += row.count * row.elements
    by_node = {path: _node(cost) for path, cost in costs.items()}
    flops = Flops(
        forward=sum(cost.forward for cost in costs.values()),
        backward=sum(cost.backward for cost in costs.values()),
        recomputed=sum(cost.recomputed for cost in costs.values()),
        executed=sum(cost.executed for cost in costs.values()),
    )
    total = sum(cost.parameters for cost in costs.values())
    active = count_parameters(bench.original).active + sum(row.count * row.elements for row in rows if row.adapter)
    trained = sum(row.count * row.elements for row in rows if row.trained)
    time = _time(bench, costs, by_node, tokens)
    return Report(
        parameters=ParameterCount(total, active, trained),
        flops=flops,
        memory=memory,
        time=time,
        fits=memory.device_total <= bench.card.memory_bytes,
        hardware=bench.card.id,
        scenario=bench.scenario,
        by_node=by_node,
        budget=_budget(bench, time),
        communication=run.traffic.communication,
    )


def _node(cost: Cost) -> NodeCost:
    return NodeCost(
        parameters=cost.parameters,
        flops_forward=cost.forward,
        flops_backward=cost.backward,
        bytes=cost.moved,
        time_s=sum(cost.seconds.values()),
        bound=cost.bound,
        weights=cost.weights,
        gradients=cost.gradients,
        optimizer=cost.optimizer,
        memory=cost.memory,
    )


def _time(bench: Bench, costs: Mapping[str, Cost], by_node: Mapping[str, NodeCost], tokens: int) -> Time:
    seconds = sum(cost.time_s for cost in by_node.values())
    parts = {
        bound: sum(cost.seconds.get(bound, 0.0) for cost in costs.values())
        for bound in ("compute", "memory", "launch", "communication")
    }
    own = sum(cost.useful for cost in costs.values())
    peak = bench.limit.peak(bench.scenario.rate)
    return Time(
        total_s=seconds,
        compute_s=parts["compute"],
        memory_s=parts["memory"],
        launch_s=parts["launch"],
        communication_s=parts["communication"],
        tokens_per_s=tokens / seconds if seconds else 0.0,
        mfu=own / (seconds * peak) if seconds else 0.0,
        first_token_s=seconds if bench.scenario.mode == "prefill" else 0.0,
        next_token_s=seconds if bench.scenario.mode == "decode" else 0.0,
    )


def _budget(bench: Bench, time: Time) -> Budget | None:
    tokens = bench.scenario.tokens
    if not tokens or not time.tokens_per_s:
        return None
    hours = tokens / time.tokens_per_s * bench.scenario.cards / 3600
    return Budget(tokens, hours, hours * bench.card.power_watts / 1000)


# ---------------------------------------------------------------------------------------------------------------------
# A chat: a prompt, then one token after the other
# ---------------------------------------------------------------------------------------------------------------------

PIECES = 4
"""Into which a stretch of generation is cut: time is a line within each, FLOPs and bytes are a line within all."""


def _chat(bench: Bench) -> Report:
    """Prompt and answer together. The first token comes from the prompt's logits, each of the others from a step."""
    scenario = bench.scenario
    begun = begin(bench)
    costs = run_costs(begun)
    first = sum(sum(cost.seconds.values()) for cost in costs.values())
    taken = run_memory(begun, costs)
    memory, allocation = taken.memory, taken.allocator
    steps = scenario.generate - 1
    if steps:
        for path, cost in _generated(bench, steps).items():
            costs.setdefault(path, Cost()).add(cost)
        if scenario.cards > 1:
            sent = begin(_at(bench, _first(bench))).traffic  # of every step alike
            begun.traffic.add(sent, steps)
            costs.setdefault(COMMUNICATION, Cost()).add(sent.cost, steps)
        last = begin(_at(bench, _first(bench) + steps - 1))
        own = run_costs(last)
        later = run_memory(last, own)
        fuller = later.memory
        if fuller.peak_allocated > memory.peak_allocated:
            for path in {*costs, *own}:
                costs.setdefault(path, Cost()).memory = own[path].memory if path in own else 0
            allocation = later.allocator
        memory = _fuller(memory, fuller, outside(bench))
    report = _report(begun, costs, memory, scenario.batch * scenario.generate)
    each = (report.time.total_s - first) / steps if steps else 0.0
    report = replace(report, allocator=allocation)
    return replace(report, time=replace(report.time, first_token_s=first, next_token_s=each))


def _first(bench: Bench) -> int:
    """Tokens in the cache when the first answer is there: the prompt's, or the one that a decoder starts from."""
    return bench.setup.new_tokens if bench.setup.source else bench.scenario.sequence


def _at(bench: Bench, past: int) -> Bench:
    """The same, generating one token when so many are in the cache."""
    scenario = bench.scenario.but(mode="decode", sequence=past)
    setup, source = bench.setup, bench.setup.source or None
    return replace(
        bench,
        scenario=scenario,
        setup=setup_of(
            scenario,
            bench.card,
            task=setup.task,
            source=source,
            device=setup.device,
            eager=eager_beside_others(bench.document),
        ),
    )


def _generated(bench: Bench, steps: int) -> dict[str, Cost]:
    """The cost of so many steps, each with one token more in the cache: a line between the points where windows fill."""
    start = _first(bench)
    found: dict[int, dict[str, Cost]] = {}

    def at(past: int) -> dict[str, Cost]:
        if past not in found:
            found[past] = node_costs(model(bench.document, _at(bench, past).setup, bench.treatment), bench.limit)
        return found[past]

    total: dict[str, Cost] = {}
    for low, high in _pieces(start, start + steps, windows_of(bench.document)):
        for path, cost in at(low).items():
            total.setdefault(path, Cost()).add(cost.series(at(high - 1)[path], high - low))
    return total


def _pieces(start: int, stop: int, windows: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Stretches [low, high) of cache lengths within which every cost grows along a line."""
    cuts = sorted({start, stop, *(w - 1 for w in windows if start < w - 1 < stop)})
    for low, high in pairwise(cuts):
        edges = sorted({low + (high - low) * piece // PIECES for piece in range(PIECES + 1)})
        yield from pairwise(edges)


def _fuller(a: Memory, b: Memory, beside: int) -> Memory:
    """Of two runs one after the other, what the fuller one takes; the cache is the second's."""
    most = a if a.peak_allocated >= b.peak_allocated else b
    beyond = most.activations + most.kv_cache - b.kv_cache
    reserved = max(a.peak_reserved, b.peak_reserved)
    return replace(
        most, kv_cache=b.kv_cache, activations=beyond, peak_reserved=reserved, device_total=reserved + beside
    )
