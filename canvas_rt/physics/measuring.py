"""Measure a document: parameters, FLOPs, memory and time on a card, in a scenario."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from canvas_rt.diagnostics import Diagnostic
from canvas_rt.errors import CanvasError, suggest
from canvas_rt.ir.document import Document, Node, Stack
from canvas_rt.ir.graph import reachable_blocks
from canvas_rt.ops.parameters import count_parameters
from canvas_rt.physics import parallel, sharded
from canvas_rt.physics.calibration import Calibration
from canvas_rt.physics.hardware import Hardware, load_hardware
from canvas_rt.physics.kv_cache import kv_cache_bytes
from canvas_rt.physics.optimizers import OPTIMIZER, Step, step
from canvas_rt.physics.pipeline import Stage, left, left_sizes, wall
from canvas_rt.physics.regimes import Treatment, require_known, treatment_of
from canvas_rt.physics.report import Allocation, Budget, Flops, Memory, NodeCost, ParameterCount, Report, Time
from canvas_rt.physics.reserving import Plan, followed, overhead
from canvas_rt.physics.roofline import Cost, Roof, work_costs
from canvas_rt.physics.scenario import Scenario, require, scenario_of
from canvas_rt.physics.setup import Device, Setup, recomputed, setup_of
from canvas_rt.physics.shapes import checked_run
from canvas_rt.physics.tape import Event, rounded
from canvas_rt.physics.trace import tail_paths, windows_of
from canvas_rt.physics.traffic import COMMUNICATION, Traffic
from canvas_rt.physics.weights import Held, buffers, held, learners, shared_out
from canvas_rt.physics.whole import (
    Model,
    model,
    node_costs,
    running,
)

CONTEXT_BYTES = 512 * 2**20
"""CUDA's context with PyTorch's kernels takes 0.3 to 0.5 GiB: the upper end, so that what is said to fit fits."""

NCCL_BYTES = 512 * 2**20
"""NCCL's buffers take about 0.5 GiB for each communicator."""

CUBLAS_BYTES = {"hopper": 32 * 2**20, "blackwell": 32 * 2**20}
CUBLAS_BYTES_BEFORE = 8_519_680
"""cuBLAS' workspace, for each handle, which PyTorch takes from its own allocator (`getNewWorkspace` in
CublasHandlePool.cpp); the backward runs in a thread of its own, with its own handle."""

CUBLAS, LABELS = "cublas", "labels"
"""Whose the workspaces and the labels are, in tables by node."""


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
    card = load_hardware(hardware, file=cards)
    bench = replace(prepare(document, chosen, card, calibration), thorough=thorough)
    report = _chat(bench) if chosen.mode == "chat" else _run(bench)
    return replace(report, diagnostics=(*warnings, *report.diagnostics, *on_card(document, chosen, card)))


def peak_allocated(document: Document, scenario: Scenario, device: Device) -> int:
    """The most bytes that tensors take on a device, before its allocator: what can be compared with a real run."""
    return _run(prepare(document, scenario, load_hardware("a100-80gb"), device=device)).memory.peak_allocated


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
    first = scenario.but(mode="prefill") if scenario.mode == "chat" else scenario
    share = parallel.share(document, scenario)
    setup = setup_of(first, card, device=device)
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
    rate = {"mixed": "bf16"}.get(scenario.dtype, scenario.dtype)
    if rate in ("bf16", "fp16") and rate not in card.peak_flops:
        other = next((name for name in ("fp16", "bf16") if name in card.peak_flops), "fp32")
        message = f"{card.name} has no units for {rate}: products run at the speed of fp32"
        yield Diagnostic("warning", "dtype", message, f"Try dtype {other}.")
    yield from parallel.notes(document, scenario, card)
    positions = document.environment.get("max_position_embeddings")
    tokens = scenario.sequence + (scenario.generate if scenario.mode == "chat" else 0)
    if isinstance(positions, int) and tokens > positions > 0:
        message = f"{tokens} tokens are more than max_position_embeddings ({positions})"
        hint = f"It was trained for {positions} positions: shorten the sequence, or raise max_position_embeddings."
        yield Diagnostic("warning", "sequence", message, hint)


# ---------------------------------------------------------------------------------------------------------------------
# One run: a step, a prompt, or a token
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """All traces that a scenario takes."""

    bench: Bench
    whole: Model
    again: Model | None
    """The same with gradients there already, where they accumulate."""

    rows: tuple[Held, ...]
    numbers: tuple[Held, ...]
    """What the whole model learns; `rows` are one card's share of it."""

    update: Step | None
    traffic: Traffic


def begin(bench: Bench) -> Run:
    """Trace what a scenario takes."""
    scenario, setup = bench.scenario, bench.setup
    mine = held(bench.document, setup, bench.treatment)
    numbers = mine if bench.document is bench.original else held(bench.original, setup, bench.treatment)
    mine = mine if bench.stage is None else bench.stage.held(mine)
    rows = shared_out(mine, parallel.fsdp_ranks(scenario), parallel.expert_paths(bench.document), scenario.expert)
    update = None
    if scenario.train:
        update = step(scenario.optimizer, scenario.chosen_implementation, learners(rows), setup.device)
    if parallel.fsdp_ranks(scenario) > 1:
        whole, again = sharded.models(bench.document, setup, bench.treatment, scenario, rows)
    else:
        whole, again = model(bench.document, setup, bench.treatment), None
        if parallel.batches(scenario) > 1:
            again = model(bench.document, replace(setup, accumulating=True), bench.treatment)
    if bench.stage is not None:
        whole, again = bench.stage.model(whole), None if again is None else bench.stage.model(again)
    traffic = Traffic()
    sent = parallel.travelling(bench.original, whole, scenario, setup, bench.limit, bench.stage)
    traffic.add(sent, parallel.batches(scenario))
    return Run(bench, whole, again, rows, numbers, update, traffic)


def _run(bench: Bench) -> Report:
    scenario = bench.scenario
    tokens = scenario.batch * bench.setup.new_tokens * scenario.context * scenario.data * parallel.batches(scenario)
    if scenario.pipeline > 1:
        return _pipelined(bench, tokens)
    run = begin(bench)
    costs = _costs(run)
    memory, allocation = _memory(run, costs)
    return replace(_report(run, costs, memory, tokens), allocator=allocation)


def _pipelined(bench: Bench, tokens: int) -> Report:
    """The stage that holds most, with the time that it waits for the others."""
    scenario = bench.scenario
    found = parallel.staged(bench.original, scenario)
    runs = [begin(replace(bench, document=share, stage=stage)) for stage, share in found]
    costs = [_costs(run) for run in runs]
    memories = [_memory(run, cost) for run, cost in zip(runs, costs, strict=True)]
    fullest = max(range(len(runs)), key=lambda index: memories[index][0].peak_allocated)
    run, own = runs[fullest], costs[fullest]
    batches = parallel.batches(scenario)
    once = [seconds_of(node_costs(run.whole, bench.limit)) + run.traffic.seconds / batches for run in runs]
    ends = [seconds_of(cost) - batches * one for cost, one in zip(costs, once, strict=True)]
    total = wall(once, batches, train=scenario.train) + max(ends)
    own.setdefault(COMMUNICATION, Cost()).spend("communication", max(0.0, total - seconds_of(own)))
    stage, (memory, allocation) = found[fullest][0], memories[fullest]
    report = _report(run, {stage.named(path): cost for path, cost in own.items()}, memory, tokens)
    message = f"memory, FLOPs and nodes are those of stage {stage.index + 1} of {stage.count}, which holds most"
    last = stage.start + stage.layers - 1
    note = Diagnostic("note", "pipeline", message, f"It has layers {stage.start} to {last} of {stage.stack}.")
    useful = [sum(cost.useful for cost in each.values()) for each in costs]
    mfu = report.time.mfu * sum(useful) / (len(useful) * max(1, useful[fullest]))  # of all stages
    return replace(report, allocator=allocation, diagnostics=(note,), time=replace(report.time, mfu=mfu))


def seconds_of(costs: Mapping[str, Cost]) -> float:
    return sum(sum(cost.seconds.values()) for cost in costs.values())


def _costs(run: Run) -> dict[str, Cost]:
    """Every node's cost, those that cost nothing too."""
    bench, update = run.bench, run.update
    costs = node_costs(run.whole, bench.limit)
    if run.again is not None:
        for path, cost in node_costs(run.again, bench.limit).items():
            costs.setdefault(path, Cost()).add(cost, parallel.batches(bench.scenario) - 1)
    for row in run.rows:
        cost = costs.setdefault(row.row.path, Cost())
        cost.weights += row.nbytes
        cost.gradients += row.gradient_bytes
        if update is not None and row.trained:
            one = update.of(row.local, row.dtype)
            cost.optimizer += row.count * one.moments
            launched = bench.scenario.chosen_implementation == "for-loop"
            for spent in work_costs(one.work, bench.limit, launched=launched).values():
                cost.add(spent, row.count)
    if bench.scenario.cards > 1:
        costs.setdefault(COMMUNICATION, Cost()).add(run.traffic.cost)
    return costs


def _memory(run: Run, costs: dict[str, Cost]) -> tuple[Memory, Allocation | None]:
    """What a card must hold; whose it is at the peak goes into the costs."""
    scenario, rows = run.bench.scenario, run.rows
    here = _resident(run)
    most, owners = _peak(run)
    for path, nbytes in _sum(here, owners()).items():
        costs.setdefault(path, Cost()).memory += nbytes
    allocated = sum(here.values()) + most
    weights = sum(row.nbytes for row in rows)
    states = sum(cost.optimizer for cost in costs.values())
    gradients = sum(row.gradient_bytes for row in rows)
    cache = 0 if scenario.train else _cache(run.bench)
    reserved, allocation = _reserved(run, allocated)
    memory = Memory(
        weights=weights,
        gradients=gradients,
        optimizer=states,
        activations=allocated - weights - gradients - states - cache,
        kv_cache=cache,
        peak_allocated=allocated,
        peak_reserved=reserved,
        device_total=reserved + outside(run.bench),
    )
    return memory, allocation


Owners = Callable[[], Mapping[str, int]]
"""Whose bytes are whose, by path."""


def _peak(run: Run) -> tuple[int, Owners]:
    """The most bytes beyond what lives throughout, and whose they are then."""
    first = running(run.whole)
    waiting, later = _waiting(run)
    under_way = sum(waiting.values())
    moments: list[tuple[int, Owners]] = [(under_way + first.peak, lambda: _sum(waiting, first.by_owner()))]
    around = run.whole.around
    gradients = _rounded_gradients(run.rows, run.bench.setup) if around is None else first.left()
    ending = sum(gradients.values())
    if run.again is not None:
        second = running(run.again)
        together = _sum(gradients, later)
        moments.append((sum(together.values()) + second.peak, lambda: _sum(together, second.by_owner())))
    if run.update is not None:
        update = {OPTIMIZER: run.update.peak}
        moments.append((ending + run.update.peak, lambda: _sum(gradients, update)))
    most, owners = max(moments, key=lambda moment: moment[0])
    return most, owners if around is None else lambda: around.owned(owners())


def _waiting(run: Run) -> tuple[dict[str, int], dict[str, int]]:
    """What other microbatches hold while one runs, by whose it is: before there are gradients, and after."""
    stage = run.bench.stage
    if stage is None or not run.bench.scenario.train or stage.under_way == 1:
        return {}, {}
    kept = left(run.whole).owners
    first, later = ({path: n * nbytes for path, nbytes in kept.items()} for n in (stage.under_way - 1, stage.later - 1))
    return first, later


def _resident(run: Run) -> dict[str, int]:
    """What lives throughout, by whose it is, rounded as the allocator does."""
    bench, update = run.bench, run.update
    granule = bench.setup.granule
    found = {path: sum(rounded(nbytes, granule) for nbytes in sizes) for path, sizes in buffers(bench.document).items()}
    for row in run.rows:
        own = row.rounded(granule)
        if update is not None and row.trained:
            own += row.count * sum(update.of(row.local, row.dtype).states)
        found[row.row.path] = found.get(row.row.path, 0) + own
    if update is not None and update.shared:
        found[OPTIMIZER] = sum(update.shared)
    return _sum(found, {**inputs(bench.document, bench.setup), **workspaces(bench)})


def inputs(document: Document, setup: Setup) -> dict[str, int]:
    """Token ids and, in `train`, labels: int64."""
    nbytes = rounded(8 * setup.batch * setup.new_tokens, setup.granule)
    names = (*document.blocks[document.root].inputs, *((LABELS,) if setup.train else ()))
    return dict.fromkeys(names, nbytes)


def workspaces(bench: Bench) -> dict[str, int]:
    """What cuBLAS takes from PyTorch's allocator."""
    if bench.setup.device != "cuda":
        return {}
    one = CUBLAS_BYTES.get(bench.card.architecture, CUBLAS_BYTES_BEFORE)
    return {CUBLAS: one * (2 if bench.setup.train else 1)}


def outside(bench: Bench) -> int:
    """Bytes that are taken from the card beside PyTorch's allocator."""
    return CONTEXT_BYTES + parallel.communicators(bench.scenario) * NCCL_BYTES


def _rounded_gradients(rows: tuple[Held, ...], setup: Setup) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        if row.trained:
            nbytes = row.count * rounded(row.elements * row.dtype.itemsize, setup.granule)
            found[row.row.path] = found.get(row.row.path, 0) + nbytes
    return found


def _sum(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    total = dict(a)
    for path, nbytes in b.items():
        total[path] = total.get(path, 0) + nbytes
    return total


def _cache(bench: Bench) -> int:
    s = bench.scenario
    own = bench.document if s.cards == 1 else parallel.caching(bench.original, s, bench.stage)
    return kv_cache_bytes(own, batch=s.batch, sequence=s.sequence, dtype=s.dtype, cache=s.cache, page=s.page)


def _plan(run: Run) -> Plan:
    bench = run.bench
    fixed = (*inputs(bench.document, bench.setup).values(), *workspaces(bench).values())
    kept = tuple(rounded(n, bench.setup.granule) for sizes in buffers(bench.document).values() for n in sizes)
    waiting: tuple[int, ...] = ()
    if bench.stage is not None and bench.scenario.train and bench.thorough:
        waiting = left_sizes(run.whole) * (bench.stage.under_way - 1)
    return Plan(bench.scenario, run.whole, run.again, run.rows, run.update, (*kept, *fixed, *waiting))


def _reserved(run: Run, allocated: int) -> tuple[int, Allocation | None]:
    """The most that the allocator reserves, and how it got there."""
    bench = run.bench
    if bench.setup.device != "cuda":
        return allocated, None
    if not bench.thorough:
        return allocated + overhead(_plan(run)), None
    seen = followed(_plan(run), bench.card.memory_bytes - outside(bench))
    return seen.peak_reserved, Allocation(seen.retries, seen.out_of_memory, seen.peak_allocated)


def played(bench: Bench) -> tuple[int, list[Event]]:
    """Bytes that live throughout, and every allocation and free of a step beside them, in order."""
    run = begin(bench)
    return sum(_resident(run).values()), [event for part in _plan(run).parts() for event in part]


# ---------------------------------------------------------------------------------------------------------------------
# A chat: a prompt, then one token after the other
# ---------------------------------------------------------------------------------------------------------------------

PIECES = 4
"""Into which a stretch of generation is cut: time is a line within each, FLOPs and bytes are a line within all."""


def _chat(bench: Bench) -> Report:
    """Prompt and answer together. The first token comes from the prompt's logits, each of the others from a step."""
    scenario = bench.scenario
    begun = begin(bench)
    costs = _costs(begun)
    first = sum(sum(cost.seconds.values()) for cost in costs.values())
    memory, allocation = _memory(begun, costs)
    steps = scenario.generate - 1
    if steps:
        for path, cost in _generated(bench, steps).items():
            costs.setdefault(path, Cost()).add(cost)
        if scenario.cards > 1:
            sent = begin(_at(bench, scenario.sequence)).traffic  # of every step alike
            begun.traffic.add(sent, steps)
            costs.setdefault(COMMUNICATION, Cost()).add(sent.cost, steps)
        last = begin(_at(bench, scenario.sequence + steps - 1))
        own = _costs(last)
        fuller, later_allocation = _memory(last, own)
        if fuller.peak_allocated > memory.peak_allocated:
            for path in {*costs, *own}:
                costs.setdefault(path, Cost()).memory = own[path].memory if path in own else 0
            allocation = later_allocation
        memory = _fuller(memory, fuller, outside(bench))
    report = _report(begun, costs, memory, scenario.batch * scenario.generate)
    later = (report.time.total_s - first) / steps if steps else 0.0
    report = replace(report, allocator=allocation)
    return replace(report, time=replace(report.time, first_token_s=first, next_token_s=later))


def _at(bench: Bench, past: int) -> Bench:
    """The same, generating one token when so many are in the cache."""
    scenario = bench.scenario.but(mode="decode", sequence=past)
    return replace(bench, scenario=scenario, setup=setup_of(scenario, bench.card, device=bench.setup.device))


def _generated(bench: Bench, steps: int) -> dict[str, Cost]:
    """The cost of so many steps, each with one token more in the cache: a line between the points where windows fill."""
    start = bench.scenario.sequence
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
    rate = {"mixed": "bf16"}.get(bench.scenario.dtype, bench.scenario.dtype)
    peak = bench.limit.peak(rate)
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
