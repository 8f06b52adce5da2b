"""Which weights are trained, quantised or given adapters: names and paths, as values that a trace can depend on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from canvas_rt.errors import CanvasError, suggest
from canvas_rt.ir.document import Document, Node, Use
from canvas_rt.ir.graph import parse_layers, running_order, walk
from canvas_rt.ops.catalogue import OPS
from canvas_rt.ops.op import Op
from canvas_rt.physics.keys import Blocks
from canvas_rt.physics.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Regime:
    """How the weights inside one block are treated, by their nodes' paths within it."""

    frozen: frozenset[str] = frozenset()
    adapted: frozenset[str] = frozenset()
    """Linears with LoRA adapters."""

    quantised: frozenset[str] = frozenset()
    """Linears and experts whose weights are stored in fewer bits."""

    rank: int = 0
    """Of the adapters."""

    storage: str = "same"
    """How quantised weights are stored."""


PLAIN = Regime()
"""Every weight is trained, as it is."""

TRAINED = frozenset(name for name, op in OPS.items() if op.parameters is not Op.parameters)
QUANTISED = frozenset({"linear", "experts"})


@dataclass(frozen=True, slots=True)
class Treatment:
    """How the weights of a whole model are treated."""

    frozen: tuple[str, ...] = ()
    rank: int = 0
    targets: tuple[str, ...] = ()
    storage: str = "same"

    @property
    def plain(self) -> bool:
        return not (self.frozen or self.rank or self.storage != "same")

    def is_frozen(self, path: str, op: str, in_stack: bool) -> bool:
        return self.rank > 0 or self.is_quantised(op, in_stack) or any(names(p, path) for p in self.frozen)

    def is_adapted(self, path: str, op: str, in_stack: bool) -> bool:
        if not self.rank or op != "linear":
            return False
        return any(names(p, path) for p in self.targets) if self.targets else in_stack

    def is_quantised(self, op: str, in_stack: bool) -> bool:
        return self.storage != "same" and in_stack and op in QUANTISED


USUAL = Treatment()
"""Every weight is trained, as it is."""


def treatment_of(scenario: Scenario) -> Treatment:
    """The treatment that a scenario asks for: adapters and frozen parts only matter in training."""
    if not scenario.train:
        return Treatment(storage=scenario.weights)
    return Treatment(scenario.frozen, scenario.lora, scenario.lora_targets if scenario.lora else (), scenario.weights)


def names(pattern: str, path: str) -> bool:
    """Whether a pattern names a node, or something that it is inside.

    `q_proj` is any part of that name; `model.layers.0-15.mlp` a path with layers, `*` standing for any one part.
    """
    wanted, parts = pattern.split("."), path.split(".")
    if len(wanted) == 1:
        return wanted[0] in parts
    if len(wanted) > len(parts):
        return False
    return all(_part(w, p) for w, p in zip(wanted, parts, strict=False))


def _part(wanted: str, part: str) -> bool:
    if wanted in ("*", part):
        return True
    span, layer = parse_layers(wanted), parse_layers(part)
    return span is not None and layer is not None and span[0] <= layer[0] and layer[1] <= span[1]


@lru_cache(maxsize=4096)
def weighted(blocks: Blocks, block: str) -> tuple[tuple[str, str], ...]:
    """Nodes with weights that run inside a block, stacks left out: path within it, and op."""
    return tuple(_weighted(blocks, block, ""))


def _weighted(blocks: Blocks, block: str, prefix: str) -> Iterator[tuple[str, str]]:
    for item in running_order(blocks[block])[0]:
        if isinstance(item, Use):
            yield from _weighted(blocks, item.block, f"{prefix}{item.id}.")
        elif isinstance(item, Node) and item.op in TRAINED:
            yield f"{prefix}{item.id}", item.op


def regime(blocks: Blocks, block: str, prefix: str, treatment: Treatment) -> Regime:
    """How the weights of a block at a path are treated. The prefix ends with a dot, or is empty for the root."""
    if treatment.plain:
        return PLAIN
    in_stack = bool(prefix)
    nodes = [(local, prefix + local, op) for local, op in weighted(blocks, block)]
    return Regime(
        frozenset(local for local, path, op in nodes if treatment.is_frozen(path, op, in_stack)),
        frozenset(local for local, path, op in nodes if treatment.is_adapted(path, op, in_stack)),
        frozenset(local for local, _, op in nodes if treatment.is_quantised(op, in_stack)),
        treatment.rank,
        treatment.storage,
    )


def boundaries(patterns: Sequence[str], path: str) -> tuple[int, ...]:
    """Layers of the stack at a path where a pattern begins or ends to hold: those around its ranges."""
    depth = path.count(".") + 1
    cuts: set[int] = set()
    for pattern in patterns:
        parts = pattern.split(".")
        span = parse_layers(parts[depth]) if len(parts) > depth else None
        if span is not None:
            cuts |= {span[0], span[1]}
    return tuple(sorted(cuts))


def require_known(document: Document, treatment: Treatment) -> None:
    """Raise `CanvasError` for a pattern that names nothing."""
    patterns = [("frozen", p) for p in treatment.frozen] + [("lora_targets", p) for p in treatment.targets]
    if not patterns:
        return
    nodes = [(v.path, v.item.op) for v in walk(document) if isinstance(v.item, Node) and v.item.op in TRAINED]
    for field, pattern in patterns:
        fitting = [op for path, op in nodes if _overlaps(pattern, path)]
        if field == "lora_targets":
            fitting = [op for op in fitting if op == "linear"]
        if not fitting:
            what = "no linear" if field == "lora_targets" else "nothing with weights"
            known = {part for path, _ in nodes for part in (path, path.rpartition(".")[2])}
            raise CanvasError(f"'{pattern}' names {what} of this model", path=field, hint=suggest(pattern, known))


def _overlaps(pattern: str, path: str) -> bool:
    """Whether a pattern names some of the layers that a path with ranges stands for."""
    wanted, parts = pattern.split("."), path.split(".")
    if len(wanted) == 1:
        return wanted[0] in parts
    if len(wanted) > len(parts):
        return False
    for w, p in zip(wanted, parts, strict=False):
        span, layers = parse_layers(w), parse_layers(p)
        meet = span is not None and layers is not None and span[0] < layers[1] and layers[0] < span[1]
        if not (w in ("*", p) or meet):
            return False
    return True
