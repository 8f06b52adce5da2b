"""Settings that are a flag, an activation or an unset field of the config: change one at a time and see what follows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from canvas_rt.importer.dissolve import own_path
from canvas_rt.importer.factory import field_values
from canvas_rt.importer.links import around, followed, only_keeps, parts_of, reads_when_run, stands_for
from canvas_rt.importer.probes import alternative, inputs_of
from canvas_rt.importer.recognition.recogniser import Recogniser
from canvas_rt.importer.recognition.traced import Traced
from canvas_rt.importer.rotary import is_rotary
from canvas_rt.importer.steps import Run, attends_otherwise, gives_more, is_seen, others_alike, run_of
from canvas_rt.importer.trace import TraceError
from canvas_rt.ir.tasks import Task

Setting = tuple[str, str, str]
"""A block, a node in it, and one of its settings."""


@dataclass
class Flags:
    """Tells which settings of a traced model follow which fields of its config."""

    base: Traced
    values: Mapping[str, Any]
    """The config's own values."""

    probe: Mapping[str, Any]
    """Those at which `base` was traced."""

    task: Task
    make: Callable[[Mapping[str, Any]], nn.Module]
    """A model with layers of each kind, at other values."""

    read: Callable[[Mapping[str, Any]], Traced]
    """The same, traced."""

    before: nn.Module = field(init=False)
    """The model that `base` is the trace of."""

    structural: list[str] = field(default_factory=list)
    """Fields whose change alters the graph itself."""

    def __post_init__(self) -> None:
        self.before = self.make(self.probe)

    @cached_property
    def first_run(self) -> Run | None:
        """What that model does when it runs."""
        return run_of(self.before, inputs_of(0), self.task)

    def links(self) -> dict[Setting, str]:
        """For each setting that follows a field, the field."""
        links: dict[Setting, str] = {}
        for name, value in self.values.items():
            other = alternative(name, value)
            if other is None:
                continue
            changed = {**self.probe, name: other}
            try:
                followers = self.moved(self.make(changed), name, other)
                if followers is None:
                    followers = followed(self.base, self.read(changed), value, other)
            except Exception:  # what a class has to say against such a value, it says in its own way
                followers = None
            if followers is None:
                self.structural.append(name)
            else:
                links.update(dict.fromkeys(followers, name))
        return links

    def moved(self, after: nn.Module, field: str, other: Any) -> Sequence[Setting] | None:
        """What followed a field, told by the modules alone; None where only a trace can tell."""
        base, before = self.base, self.before
        ours, theirs = parts_of(before), parts_of(after)
        places: dict[str, list[tuple[str, str]]] = {}
        for path, node in base.leaves.items():
            places.setdefault(own_path(path), []).append(node)
        unlike = [path for path in ours if path in theirs and ours[path] != theirs[path]]
        unlike = [path for path in unlike if not only_keeps(before.get_submodule(path), after.get_submodule(path))]
        held = [next(filter(places.__contains__, around(path)), path) for path in unlike]
        by_modules = ours.keys() == theirs.keys() and not reads_when_run(before, field) and places.keys() >= {*held}
        if not by_modules and not self.does_the_same(after, field, other):
            return None
        if not theirs.keys() >= {own_path(path) for path in base.leaves}:
            return None
        old, new = (Recogniser(model, nn.Module(), {}) for model in (before, after))
        followers: list[Setting] = []
        for path in dict.fromkeys(held):
            if path not in places and not by_modules:
                continue  # what it does when it runs is known to be the same
            if path not in places or is_rotary(before.get_submodule(path)):
                return None
            ends = old.leaf(path), new.leaf(path)
            if ends[0] is None or ends[1] is None or ends[0].op != ends[1].op:
                return None
            was, now = (end.attrs for end in ends if end is not None)
            moved = [name for name in was.keys() | now.keys() if was.get(name) != now.get(name)]
            if not moved and type(before.get_submodule(path)).__module__.startswith("torch.nn."):
                continue  # the rules say all that such a module computes: this is for its first values, or for training
            if not moved or any(name not in was or now.get(name) != other for name in moved):
                return None
            if not all(stands_for(self.values[field], was[name]) for name in moved):
                return None
            followers += [(*place, name) for place in places[path] for name in moved]
        return followers

    def does_the_same(self, after: nn.Module, field: str, other: Any) -> bool:
        """Whether a model does as before when it runs. Raises `TraceError` where that shows another graph."""
        configs = [field_values(model.config, self.task) for model in (self.before, after)]
        if not is_seen(self.before, self.base, field) or not others_alike(configs[0], configs[1], field):
            return False
        run = run_of(after, inputs_of(0), self.task) if self.first_run else None
        if self.first_run is None or run is None:
            return False
        if gives_more(self.first_run, run, self.base) or attends_otherwise(self.first_run, run, self.base, other):
            raise TraceError(f"with {field} its graph is another")
        return run == self.first_run
