"""One run of a model, a step, a prompt or a token: what each node costs, and what a card must hold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod

from canvas_rt.ir.document import Document
from canvas_rt.ops.inputs import given_dtype, given_shapes
from canvas_rt.physics import parallel, sharded
from canvas_rt.physics.bench import Bench, prepare
from canvas_rt.physics.hardware import load_hardware
from canvas_rt.physics.kv_cache import kv_cache_bytes
from canvas_rt.physics.optimizers import OPTIMIZER, Step, step
from canvas_rt.physics.pipeline import left, left_sizes
from canvas_rt.physics.report import Allocation, Memory
from canvas_rt.physics.reserving import Plan, followed, overhead
from canvas_rt.physics.roofline import Cost, work_costs
from canvas_rt.physics.scenario import Scenario
from canvas_rt.physics.setup import Device, Setup
from canvas_rt.physics.tape import Event, rounded
from canvas_rt.physics.tiling import Holding, Owner
from canvas_rt.physics.traffic import COMMUNICATION, Traffic
from canvas_rt.physics.weights import Held, buffers, held, learners, shared_out
from canvas_rt.physics.whole import Model, edges, model, node_costs, running

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

Owners = Callable[[], Holding]
"""Tells, where it is asked, what is held at a peak."""


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
    fsdp = parallel.fsdp_ranks(scenario)
    whole, again = model(bench.document, sharded.traced(setup) if fsdp > 1 else setup, bench.treatment), None
    mine = held(bench.document, setup, bench.treatment, edges(whole))
    numbers = mine if bench.document is bench.original else held(bench.original, setup, bench.treatment, {})
    mine = mine if bench.stage is None else bench.stage.held(mine)
    rows = shared_out(mine, fsdp, parallel.expert_paths(bench.document), scenario.expert)
    update = None
    if scenario.train:
        update = step(scenario.optimizer, scenario.chosen_implementation, learners(rows), setup.device)
    if fsdp > 1:
        whole, again = sharded.models(bench.document, setup, bench.treatment, scenario, rows)
    elif parallel.batches(scenario) > 1:
        again = model(bench.document, replace(setup, accumulating=True), bench.treatment)
    if bench.stage is not None:
        whole, again = bench.stage.model(whole), None if again is None else bench.stage.model(again)
    traffic = Traffic()
    sent = parallel.travelling(bench.original, whole, scenario, setup, bench.limit, bench.stage)
    traffic.add(sent, parallel.batches(scenario))
    return Run(bench, whole, again, rows, numbers, update, traffic)


@dataclass(frozen=True, slots=True)
class Taken:
    """What a run takes of a card."""

    memory: Memory
    allocator: Allocation | None
    held: Holding
    """What is held at the peak beyond what lives throughout."""


def run_costs(run: Run) -> dict[str, Cost]:
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


def run_memory(run: Run, costs: dict[str, Cost]) -> Taken:
    """What a card must hold; whose it is at the peak goes into the costs."""
    rows = run.rows
    here = residents(run)
    most, owners = _peak(run)
    held = owners()
    for path, nbytes in here.items():
        costs.setdefault(path, Cost()).memory += nbytes
    for (path, _), (_, nbytes) in held.items():
        costs.setdefault(path, Cost()).memory += nbytes
    allocated = sum(here.values()) + most
    weights = sum(row.nbytes for row in rows)
    states = sum(cost.optimizer for cost in costs.values())
    gradients = sum(row.gradient_bytes for row in rows)
    cache = _cache(run.bench) if run.bench.setup.cached else 0
    reserved, allocation = _reserved(run, allocated)
    found = Memory(
        weights=weights,
        gradients=gradients,
        optimizer=states,
        activations=allocated - weights - gradients - states - cache,
        kv_cache=cache,
        peak_allocated=allocated,
        peak_reserved=reserved,
        device_total=reserved + outside(run.bench),
    )
    return Taken(found, allocation, held)


def _peak(run: Run) -> tuple[int, Owners]:
    """The most bytes beyond what lives throughout, and whose they are then."""
    first = running(run.whole)
    waiting, later = _waiting(run)
    moments: list[tuple[int, Owners]] = [(_bytes(waiting) + first.peak, lambda: _both(waiting, first.held()))]
    around = run.whole.around
    gradients = _gradients(run.rows, run.bench.setup) if around is None else first.left()
    if run.again is not None:
        second = running(run.again)
        together = _both(gradients, later)
        moments.append((_bytes(together) + second.peak, lambda: _both(together, second.held())))
    if run.update is not None:
        most = run.update.peak
        update: Holding = {(OPTIMIZER, ((most,), 1)): (1, most)}
        moments.append((_bytes(gradients) + most, lambda: _both(gradients, update)))
    most, owners = max(moments, key=lambda moment: moment[0])
    return most, owners if around is None else lambda: around.owned(owners())


def _bytes(held: Holding) -> int:
    return sum(nbytes for _, nbytes in held.values())


def _waiting(run: Run) -> tuple[Holding, Holding]:
    """What other microbatches hold while one runs: before there are gradients, and after."""
    stage = run.bench.stage
    if stage is None or not run.bench.scenario.train or stage.under_way == 1:
        return {}, {}
    kept = left(run.whole).owners
    first, later = (
        {owner: (times * count, times * nbytes) for owner, (count, nbytes) in kept.items()}
        for times in (stage.under_way - 1, stage.later - 1)
    )
    return first, later


def residents(run: Run) -> dict[str, int]:
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
    """Token ids or images and, in `train`, labels, which are int64 as ids are."""
    shapes = given_shapes(setup.task, document.blocks[document.root].inputs, document.environment, setup.lengths)
    item = given_dtype(setup.task, setup.weight_dtype).itemsize
    found = {name: rounded(prod(shape) * item, setup.granule) for name, shape in shapes.items()}
    return found | ({LABELS: rounded(8 * prod(setup.labelled), setup.granule)} if setup.train else {})


def workspaces(bench: Bench) -> dict[str, int]:
    """What cuBLAS takes from PyTorch's allocator."""
    if bench.setup.device != "cuda":
        return {}
    one = CUBLAS_BYTES.get(bench.card.architecture, CUBLAS_BYTES_BEFORE)
    return {CUBLAS: one * (2 if bench.setup.train else 1)}


def outside(bench: Bench) -> int:
    """Bytes that are taken from the card beside PyTorch's allocator."""
    return CONTEXT_BYTES + parallel.communicators(bench.scenario) * NCCL_BYTES


def _gradients(rows: tuple[Held, ...], setup: Setup) -> Holding:
    """All gradients, as the backward leaves them."""
    found: dict[Owner, tuple[int, int]] = {}
    for row in rows:
        if row.trained:
            item = row.dtype.itemsize
            nbytes = row.count * rounded(prod(row.local) * item, setup.granule)
            owner = row.row.path, (row.local, item)
            count, total = found.get(owner, (0, 0))
            found[owner] = count + row.count, total + nbytes
    return found


def _both(a: Holding, b: Holding) -> Holding:
    found = dict(a)
    for owner, (count, nbytes) in b.items():
        others, total = found.get(owner, (0, 0))
        found[owner] = count + others, nbytes + total
    return found


def _sum(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    total = dict(a)
    for path, nbytes in b.items():
        total[path] = total.get(path, 0) + nbytes
    return total


def _cache(bench: Bench) -> int:
    s, setup = bench.scenario, bench.setup
    own = bench.document if s.cards == 1 else parallel.caching(bench.original, s, bench.stage)
    tokens, source = (
        (setup.new_tokens, setup.source) if setup.source and s.mode != "decode" else (s.sequence, setup.source)
    )
    return kv_cache_bytes(
        own, batch=s.batch, sequence=tokens, source=source or None, dtype=s.dtype, cache=s.cache, page=s.page
    )


def plan_of(run: Run) -> Plan:
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
        return allocated + overhead(plan_of(run)), None
    seen = followed(plan_of(run), bench.card.memory_bytes - outside(bench))
    return seen.peak_reserved, Allocation(seen.retries, seen.out_of_memory, seen.peak_allocated)


def played(bench: Bench) -> tuple[int, list[Event]]:
    """Bytes that live throughout, and every allocation and free of a step beside them, in order."""
    run = begin(bench)
    return sum(residents(run).values()), [event for part in plan_of(run).parts() for event in part]


def peak_allocated(document: Document, scenario: Scenario, device: Device) -> int:
    """The most bytes that tensors take on a device, before its allocator: what can be compared with a real run.

    On the CPU nothing is rounded, and single numbers are left out: see `tape.rounded`.
    """
    run = begin(prepare(document, scenario, load_hardware("a100-80gb"), device=device))
    return sum(residents(run).values()) + _peak(run)[0]
