"""Measure a document: parameters, FLOPs, memory and time on a card, in a scenario."""

from collections.abc import Iterable, Mapping
from math import prod
from typing import cast

from canvas_rt.errors import CanvasError, suggest
from canvas_rt.ir.document import Document, Node, Stack
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.graph import walk
from canvas_rt.ops.parameters import ParameterRow, count_parameters, parameter_table
from canvas_rt.physics.hardware import Hardware, load_hardware
from canvas_rt.physics.kv_cache import item_bytes, kv_cache_bytes
from canvas_rt.physics.report import Flops, Memory, NodeCost, ParameterCount, Report, Scenario, Time
from canvas_rt.physics.roofline import Cost, Roof, roof
from canvas_rt.physics.shapes import checked_run
from canvas_rt.physics.tape import rounded
from canvas_rt.physics.trace import Mode, Setup
from canvas_rt.physics.whole import Model, Residents, model, node_costs, peak, reserved_overhead, weight_sizes

MODES = ("train", "prefill", "decode")
MOMENTS = {"adamw": 2, "adam": 2, "sgd": 0, "sgd-momentum": 1}
"""Tensors that each optimizer keeps beside every parameter, in the parameter's dtype as PyTorch does."""

STEP_BYTES = 4
"""Fused Adam counts its steps on the device, one fp32 number for each parameter."""

CONTEXT_BYTES = 512 * 2**20
"""CUDA's context with PyTorch's kernels takes 0.3 to 0.5 GiB: the upper end, so that what is said to fit fits."""

CUBLAS_BYTES = {"hopper": 32 * 2**20, "blackwell": 32 * 2**20}
CUBLAS_BYTES_BEFORE = 8_519_680
"""cuBLAS' workspace, for each handle; the backward runs in a thread of its own, with its own handle."""


def measure(
    document: Document,
    *,
    hardware: str = "a100-80gb",
    mode: str = "train",
    batch: int = 1,
    sequence: int = 4096,
    dtype: str = "bf16",
    optimizer: str = "adamw",
) -> Report:
    """What the model costs.

    `train` is one step: forward, loss, backward, fused optimizer. `prefill` reads a prompt of `sequence` tokens,
    filling the cache and computing logits for the last token only. `decode` adds one token to a cache that holds
    `sequence`. Attention runs as FlashAttention 2, in fp32 as PyTorch's memory-efficient kernel.

    Raises `CanvasError` for an unknown card, mode, dtype or optimizer; `UnresolvedShape` where `check` finds errors.
    """
    item = item_bytes(dtype)
    _known("mode", mode, MODES)
    _known("optimizer", optimizer, MOMENTS)
    card = load_hardware(hardware)
    checked_run(document, batch, sequence)
    scenario = Scenario(mode, batch, sequence, dtype, optimizer)
    whole = model(document, Setup(cast(Mode, mode), batch, sequence, dtype))
    table = parameter_table(document)
    limit = roof(card, dtype)
    costs = _costs(document, table, whole, limit, scenario, item)
    memory = _memory(document, table, whole, card, scenario, item)
    total = Cost()
    for cost in costs.values():
        total.add(cost)
    by_node = {path: cost.as_node() for path, cost in costs.items()}
    return Report(
        parameters=ParameterCount(total.parameters, count_parameters(document).active),
        flops=Flops(total.forward, total.backward, total.executed),
        memory=memory,
        time=_time(total, by_node, batch * whole.setup.new_tokens),
        fits=memory.device_total <= card.memory_bytes,
        hardware=card.id,
        scenario=scenario,
        by_node=by_node,
    )


def _known(what: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise CanvasError(f"unknown {what} '{value}'", path=what, hint=suggest(value, known))


def _time(total: Cost, by_node: Mapping[str, NodeCost], tokens: int) -> Time:
    seconds = sum(cost.time_s for cost in by_node.values())
    return Time(seconds, total.compute_s, total.memory_s, tokens / seconds if seconds else 0.0)


def _costs(
    document: Document, table: tuple[ParameterRow, ...], whole: Model, limit: Roof, scenario: Scenario, item: int
) -> dict[str, Cost]:
    """Every node's cost, those that cost nothing too."""
    costs = {visit.path: Cost() for visit in walk(document) if isinstance(visit.item, Node)}
    for path, cost in node_costs(whole, limit).items():
        costs.setdefault(path, Cost()).add(cost)
    for row in table:
        cost = costs[row.path]
        cost.parameters += row.count
        if scenario.mode == "train":
            # A fused step reads weight, gradient and moments once, and writes all but the gradient.
            moved = row.count * item * (3 + 2 * MOMENTS[scenario.optimizer])
            cost.moved += moved
            cost.memory_s += moved / limit.bandwidth
    return costs


def _memory(
    document: Document, table: tuple[ParameterRow, ...], whole: Model, card: Hardware, scenario: Scenario, item: int
) -> Memory:
    train = scenario.mode == "train"
    weights = sum(row.count for row in table) * item
    optimizer = weights * MOMENTS[scenario.optimizer] if train else 0
    gradients = weights if train else 0
    cache = (
        0 if train else kv_cache_bytes(document, batch=scenario.batch, sequence=scenario.sequence, dtype=scenario.dtype)
    )
    inputs = input_bytes(document, whole.setup)
    allocated = sum(inputs) + resident_bytes(table, item, scenario) + peak(whole)
    depths = {
        visit.path: resolve(visit.item.repeat, visit.environment)
        for visit in walk(document)
        if isinstance(visit.item, Stack)
    }

    def residents(most: int) -> Residents:
        sizes = weight_sizes(table, depths, item, most)
        return Residents(sizes, _states(sizes, scenario), inputs)

    reserved = allocated + reserved_overhead(whole, residents, max(depths.values(), default=0))
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=allocated - weights - gradients - optimizer - cache,
        kv_cache=cache,
        peak_allocated=allocated,
        peak_reserved=reserved,
        device_total=reserved + outside_bytes(card, train=train),
    )


def outside_bytes(card: Hardware, *, train: bool) -> int:
    """What a process takes that PyTorch's own count of tensors leaves out: the CUDA context and cuBLAS' workspaces."""
    return CONTEXT_BYTES + CUBLAS_BYTES.get(card.architecture, CUBLAS_BYTES_BEFORE) * (2 if train else 1)


def input_bytes(document: Document, setup: Setup) -> tuple[int, ...]:
    """Token ids and, in `train`, labels: int64."""
    count = len(document.blocks[document.root].inputs) + (1 if setup.train else 0)
    return (rounded(8 * setup.batch * setup.new_tokens),) * count


def _states(sizes: Iterable[int], scenario: Scenario) -> tuple[int, ...]:
    """Sizes of the optimizer's state, for weights of these sizes."""
    moments = MOMENTS[scenario.optimizer] if scenario.mode == "train" else 0
    step = (rounded(STEP_BYTES),) if moments == 2 else ()
    return tuple(part for size in sizes for part in (*step, *(size,) * moments) if moments)


def resident_bytes(table: tuple[ParameterRow, ...], item: int, scenario: Scenario) -> int:
    """Bytes of weights and optimizer state, each tensor rounded as the allocator does."""
    total = 0
    for row in table:
        size = rounded(prod(row.shape) * item)
        total += (row.times - row.shared) * (size + sum(_states((size,), scenario)))
    return total
