"""What the caching allocator reserves for a run: from a few layers while a graph is edited, else followed through all."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from canvas_rt.ir.graph import parse_layers
from canvas_rt.physics.allocator import Allocator, Replay
from canvas_rt.physics.optimizers import Step, step
from canvas_rt.physics.scenario import Scenario
from canvas_rt.physics.tape import GRANULE, Event, rounded
from canvas_rt.physics.weights import Held, in_order, learners
from canvas_rt.physics.whole import Model, all_kinds, events, sample

FEW, MORE = 8, 20
"""Layers of the shallower models from which the overhead of deeper ones is extrapolated while a graph is edited."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run allocates."""

    scenario: Scenario
    whole: Model
    again: Model | None
    rows: tuple[Held, ...]
    update: Step | None
    fixed: tuple[int, ...]
    """Bytes of inputs and workspaces."""

    @property
    def depth(self) -> int:
        """Layers of the deepest stack."""
        return max((len(all_kinds(gap)) for gap in self.whole.root.gaps), default=0)

    def parts(self, most: int | None = None) -> list[list[Event]]:
        """The events of a step: of its first batch, of one accumulated after it, of the optimizer; of at most so many
        layers of each stack."""
        found = [events(one, most) for one in (self.whole, self.again) if one is not None]
        update = self.update_of(most)
        if update is not None:
            found.append(list(update.events()))
        offset = 0
        for place, part in enumerate(found):
            top = 1 + max((number for _, number in part), default=-1)
            found[place] = [(nbytes, number + offset) for nbytes, number in part] if offset else part
            offset += top
        return found

    def update_of(self, most: int | None) -> Step | None:
        if self.update is None or most is None:
            return self.update
        name, implementation = self.scenario.optimizer, self.scenario.chosen_implementation
        return step(name, implementation, learners(self.some(most)), self.whole.setup.device)

    def some(self, most: int | None) -> tuple[Held, ...]:
        """The weights of at most so many layers of each stack."""
        if most is None:
            return self.rows
        chosen = sample(self.depth, most)
        return tuple(_fewer(row, chosen) for row in self.rows)


def _fewer(row: Held, chosen: Sequence[int]) -> Held:
    """The same tensor in some of its layers; their range keeps its start."""
    parts = row.row.path.split(".")
    for place, part in enumerate(parts):
        span = parse_layers(part)
        if span is not None:
            count = sum(span[0] <= layer < span[1] for layer in chosen)
            text = f"{span[0]}-{span[0] + count - 1}" if count > 1 else f"{span[0]}"
            path = ".".join([*parts[:place], text, *parts[place + 1 :]])
            return replace(row, row=replace(row.row, path=path, times=count * row.row.times // (span[1] - span[0])))
    return row


def followed(plan: Plan, capacity: int | None = None, most: int | None = None) -> Allocator:
    """The allocator after a run, or after two steps: the optimizer's states appear at the end of the first."""
    granule = plan.whole.setup.granule
    replay = Replay(capacity, expandable=plan.scenario.expandable)
    replay.hold(rounded(size, granule) for row in in_order(plan.some(most)) for size in row.sizes)
    replay.hold(plan.fixed)
    parts = plan.parts(most)
    update = plan.update_of(most)
    if update is None:
        replay.run(parts[0])
        return replay.allocator
    for part in parts[:-1]:
        replay.run(part)
    replay.hold(update.states)
    replay.run(parts[-1])
    replay.drop()  # the gradients
    for part in parts:
        replay.run(part)
    return replay.allocator


def overhead(plan: Plan) -> int:
    """About how much the allocator reserves beyond what tensors take: exact in shallow models."""
    if plan.depth <= MORE:
        return _beyond(followed(plan))
    few, more = (_beyond(followed(plan, most=most)) for most in (FEW, MORE))
    growth = max(0, more - few) / (MORE - FEW)
    return int(more + growth * (plan.depth - MORE)) // GRANULE * GRANULE


def _beyond(allocator: Allocator) -> int:
    return allocator.peak_reserved - allocator.peak_allocated
