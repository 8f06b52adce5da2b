"""What tells two documents apart: sizes, config, structure, and what that costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from canvas_rt.ir.document import Document, Node, Stack
from canvas_rt.ir.expressions import display, resolve
from canvas_rt.ir.graph import walk
from canvas_rt.ops.catalogue import complete
from canvas_rt.physics.measuring import measure
from canvas_rt.physics.report import Report


@dataclass(frozen=True, slots=True)
class Change:
    """One difference."""

    path: str
    before: str
    """Empty for what is new."""

    after: str
    """Empty for what is gone."""

    def __str__(self) -> str:
        if not self.before:
            return f"+ {self.path}: {self.after}"
        if not self.after:
            return f"- {self.path}: {self.before}"
        return f"~ {self.path}: {self.before} → {self.after}"


@dataclass(frozen=True, slots=True)
class Diff:
    """All that differs between two documents."""

    values: tuple[Change, ...]
    """Sizes and config values."""

    structure: tuple[Change, ...]
    """Nodes, in the layers where they differ."""

    before: Report
    after: Report

    @property
    def same(self) -> bool:
        return not self.values and not self.structure

    @property
    def costs(self) -> Mapping[str, tuple[int, int]]:
        """Parameters, FLOPs of a training step and its memory: before and after."""
        return {
            "parameters": (self.before.parameters.total, self.after.parameters.total),
            "flops": tuple(r.flops.forward + r.flops.backward for r in (self.before, self.after)),  # type: ignore[dict-item]
            "memory": (self.before.memory.peak_allocated, self.after.memory.peak_allocated),
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "same": self.same,
            "values": [{"path": c.path, "before": c.before, "after": c.after} for c in self.values],
            "structure": [{"path": c.path, "before": c.before, "after": c.after} for c in self.structure],
            "costs": {name: {"before": a, "after": b, "delta": b - a} for name, (a, b) in self.costs.items()},
        }

    def __str__(self) -> str:
        if self.same:
            return "the same"
        lines = [str(change) for change in (*self.values, *self.structure)]
        units = {"parameters": ("parameters", 1), "flops": ("TFLOP a step", 1e12), "memory": ("GiB at the peak", 2**30)}
        for name, (before, after) in self.costs.items():
            unit, scale = units[name]
            shown = [f"{value / scale:,.2f}" if scale > 1 else f"{value:,}" for value in (before, after)]
            share = f" ({(after - before) / before:+.1%})" if before else ""
            lines.append(f"Δ {shown[0]} → {shown[1]} {unit}{share}")
        return "\n".join(lines)


def diff(a: Document, b: Document, *, batch: int = 1, sequence: int | None = None) -> Diff:
    """Compare two documents. Layers are matched by the origin's layer that they come from.

    Costs are those of a training step in bf16 with AdamW. Raises `UnresolvedShape` where one of them cannot run.
    """
    positions = [d.environment.get("max_position_embeddings", 4096) for d in (a, b)]
    tokens = sequence or min(4096, *(p for p in positions if isinstance(p, int)))
    reports = [measure(document, batch=batch, sequence=tokens) for document in (a, b)]
    return Diff(_values(a, b), _structure(a, b), reports[0], reports[1])


def _values(a: Document, b: Document) -> tuple[Change, ...]:
    before, after = dict(a.environment), dict(b.environment)
    names = [name for name in (*before, *(n for n in after if n not in before)) if before.get(name) != after.get(name)]
    return tuple(Change(name, _shown(before, name), _shown(after, name)) for name in names)


def _shown(values: Mapping[str, Any], name: str) -> str:
    return display(values[name]) if name in values else ""


@dataclass(frozen=True, slots=True)
class _Described:
    """A node in one layer."""

    path: str
    wiring: str
    """Its op and what feeds it."""

    settings: Mapping[str, str]

    def __str__(self) -> str:
        return " ".join([self.wiring, ", ".join(f"{name} {value}" for name, value in self.settings.items())]).strip()


def _structure(a: Document, b: Document) -> tuple[Change, ...]:
    before, after = _described(a), _described(b)
    changed: dict[tuple[str, str, str], list[str]] = {}
    for key in (*before, *(k for k in after if k not in before)):
        old, new = before.get(key), after.get(key)
        told = _told(old, new)
        if told[0] != told[1]:
            path = (new or old).path  # type: ignore[union-attr]
            changed.setdefault((_without_layer(path), *told), []).append(path)
    return tuple(Change(_joined(paths), old, new) for (_, old, new), paths in changed.items())


def _told(old: _Described | None, new: _Described | None) -> tuple[str, str]:
    """What to say of a node before and after: all of it where its wiring changed, else only the settings that did."""
    if old is None or new is None or old.wiring != new.wiring:
        return str(old or ""), str(new or "")
    names = [name for name in old.settings if old.settings[name] != new.settings.get(name)]
    before, after = (", ".join(f"{name} {side.settings.get(name)}" for name in names) for side in (old, new))
    return before, after


def _described(document: Document) -> dict[str, _Described]:
    """Each node in each layer, by its path in the origin."""
    found: dict[str, _Described] = {}
    stacks = {v.path: v.item for v in walk(document) if isinstance(v.item, Stack)}
    for visit in walk(document):
        if not isinstance(visit.item, Node):
            continue
        written = complete(visit.item)
        settings = {name: display(resolve(value, visit.environment)) for name, value in written.items()}
        wires = ", ".join(f"{port}={ref}" for port, ref in visit.item.inputs.items())
        for path, origin in _layers(visit.path, stacks):
            key = origin
            while key in found:  # a copy of a layer
                key += "'"
            found[key] = _Described(path, f"{visit.item.op}({wires})", settings)
    return found


def _layers(path: str, stacks: Mapping[str, Stack]) -> list[tuple[str, str]]:
    """A path with a range of layers as one path a layer, each with its path in the origin."""
    for prefix, stack in stacks.items():
        if path.startswith(f"{prefix}."):
            layers, _, rest = path[len(prefix) + 1 :].partition(".")
            first, _, last = layers.partition("-")
            return [
                (f"{prefix}.{n}.{rest}", f"{prefix}.{_or_new(stack.source_of(n), n)}.{rest}")
                for n in range(int(first), int(last or first) + 1)
            ]
    return [(path, path)]


def _or_new(source: int | None, layer: int) -> str:
    return f"new{layer}" if source is None else str(source)


def _without_layer(path: str) -> str:
    return ".".join("*" if part.isdecimal() else part for part in path.split("."))


def _joined(paths: list[str]) -> str:
    """Paths that differ in their layer alone, as one: `model.layers.8-15.self_attn.k_proj`."""
    numbers = sorted(int(part) for path in paths for part in path.split(".") if part.isdecimal())
    if not numbers:
        return paths[0]
    ranges: list[str] = []
    start = previous = numbers[0]
    for number in [*numbers[1:], -1]:
        if number != previous + 1:
            ranges.append(f"{start}" if start == previous else f"{start}-{previous}")
            start = number
        previous = number
    return _without_layer(paths[0]).replace("*", ",".join(ranges), 1)
