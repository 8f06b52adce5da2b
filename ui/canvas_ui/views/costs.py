"""What each node costs, and the whole: shares, totals, the gauge's words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from canvas_rt.gestures.scope import Scope
from canvas_rt.ir.document import Document
from canvas_rt.physics.hardware import Hardware, load_hardware
from canvas_rt.physics.report import Report, Time
from canvas_rt.session import State
from canvas_ui.messages import Mode, Part, Share, Totals

GB = 2**30
"""Cards are sold in units of 2³⁰ bytes that are called GB: so do we."""

MODES = {"train": "Training", "prefill": "Prefill", "decode": "Decode", "chat": "Chat"}
GENERATING = frozenset({"decode", "chat"})


def modes_of(document: Document) -> list[Mode]:
    """What a model can be asked to do."""
    return [mode for mode in get_args(Mode) if document.purpose.generates or mode not in GENERATING]


def _title(state: State) -> str:
    """What a model does, in words: what generates nothing has no prompt to fill in."""
    titles = MODES if state.document.purpose.generates else {**MODES, "prefill": "Inference"}
    return titles[state.setting.mode]


Bound = Literal["compute", "memory", "launches", "communication"]


@dataclass(slots=True)
class Sum:
    """Costs of a node, or of all that is inside an item."""

    parameters: float = 0
    flops: float = 0
    bytes: float = 0
    time: float = 0

    def add(self, other: "Sum", part: float = 1.0) -> None:
        self.parameters += other.parameters * part
        self.flops += other.flops * part
        self.bytes += other.bytes * part
        self.time += other.time * part


def _sums(report: Report) -> Mapping[str, Sum]:
    """Costs by path, each path with all that is inside it."""
    sums: dict[str, Sum] = {"": Sum()}
    for path, cost in report.by_node.items():
        own = Sum(cost.parameters, cost.flops_forward + cost.flops_backward, cost.memory, cost.time_s)
        sums[""].add(own)
        end = len(path)
        while end != -1:
            sums.setdefault(path[:end], Sum()).add(own)
            end = path.rfind(".", 0, end)
    return sums


class Costs:
    """Costs of a state, by level."""

    def __init__(self, report: Report | None) -> None:
        self.sums: Mapping[str, Sum] = {} if report is None else _sums(report)

    def of(self, scope: Scope, name: str) -> Sum | None:
        """What an item of a level costs, in the layers that the level stands for."""
        if not self.sums:
            return None
        total = Sum()
        for path, part in scope.filed:
            found = self.sums.get(f"{path}.{name}".lstrip("."))
            if found is not None:
                total.add(found, part)
        return total

    def share(self, own: Sum | None) -> Share | None:
        if own is None:
            return None
        whole = self.sums[""]
        return Share(
            parameters=_part(own.parameters, whole.parameters),
            flops=_part(own.flops, whole.flops),
            memory=_part(own.bytes, whole.bytes),
            time=_part(own.time, whole.time),
        )


def _part(own: float, whole: float) -> float:
    return round(min(own / whole, 1.0), 6) if whole else 0.0


def _bound(time: Time) -> Bound:
    """What most of the time is waited for."""
    seconds: dict[Bound, float] = {
        "compute": time.compute_s,
        "memory": time.memory_s,
        "launches": time.launch_s,
        "communication": time.communication_s,
    }
    return max(seconds, key=lambda what: seconds[what])


def short_name(card: Hardware) -> str:
    """`NVIDIA A100 80GB SXM` as `A100`."""
    words = [
        word for word in card.name.split() if word not in ("NVIDIA", "AMD", "Apple", "Instinct", "GeForce", "Tesla")
    ]
    chosen = words[:1]
    for word in words[1:]:
        if word.endswith("GB") or word in ("SXM", "PCIe", "SXM2", "SXM5", "NVL", "OAM", "Tensor"):
            break
        chosen.append(word)
    return " ".join(chosen) or card.id


def gigabytes(count: float) -> str:
    return f"{count / GB:,.1f}"


def totals(state: State) -> Totals:
    setting, report = state.setting, state.report
    card = load_hardware(setting.hardware)
    name = short_name(card)
    mode = _title(state)
    if report is None:
        return Totals(
            parameters=state.parameters,
            active=None,
            flops=None,
            memory=None,
            device_total=None,
            capacity=card.memory_bytes,
            nominal=card.nominal_gb * GB,
            fits=None,
            card=name,
            card_title=card.name,
            time_s=None,
            tokens_per_s=None,
            bound=None,
            headline=f"{mode} VRAM — / {card.nominal_gb} GB ({name})",
        )
    memory, time = report.memory, report.time
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "KV cache": memory.kv_cache,
        "allocator": memory.peak_reserved - memory.peak_allocated,
        "context": memory.device_total - memory.peak_reserved,
    }
    return Totals(
        parameters=report.parameters.total,
        active=report.parameters.active,
        flops=report.flops.forward + report.flops.backward,
        memory=[Part(name=part, bytes=count) for part, count in parts.items() if count > 0],
        device_total=memory.device_total,
        capacity=card.memory_bytes,
        nominal=card.nominal_gb * GB,
        fits=report.fits,
        card=name,
        card_title=card.name,
        time_s=time.total_s,
        tokens_per_s=time.tokens_per_s,
        bound=_bound(time),
        headline=f"{mode} VRAM {gigabytes(memory.device_total)} GB / {card.nominal_gb} GB ({name})",
    )
