"""What a model does when it runs, function by function: of two that do the same no trace need tell whether they differ.

A run takes a twentieth of what a trace does.
"""

import ast
import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, compiler, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from canvas_rt.importer.recognition.traced import Traced, stand_in
from canvas_rt.importer.rotary import is_rotary
from canvas_rt.importer.trace import entered, inputs_for, made_ready
from canvas_rt.ir.document import Node
from canvas_rt.ir.tasks import Task
from canvas_rt.ops.class_text import class_text
from canvas_rt.ops.learned import MODULE


@dataclass(frozen=True)
class Step:
    """One call of a function. What it takes and gives are numbers of tensors, or texts."""

    module: str
    function: str
    taken: tuple[int | str, ...]
    gave: tuple[int | str, ...]

    @property
    def changes(self) -> bool:
        """Whether it may change what it takes."""
        return self.function.partition(".")[2].partition(".")[0].endswith("_")


@dataclass(frozen=True)
class Run:
    """What a model did for what it gave. Tensors are numbered in the order in which they appear."""

    steps: tuple[Step, ...]
    gave: tuple[int | str, ...]


class _Noting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes all functions that are called while it is entered."""

    def __init__(self, model: nn.Module, within: list[nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.named = {id(tensor): name for name, tensor in model.named_parameters()}
        self.paths = {module: path for path, module in model.named_modules()}
        self.within = within
        self.steps: list[Step] = []
        self.seen: dict[int, int] = {}
        self.kept: list[Tensor] = []
        """What was seen, so that no other gets its identity."""

    def taken(self, value: Any) -> int | str:
        """An argument: a tensor that no function gave is told by its name, or by all its numbers."""
        if isinstance(value, Tensor) and id(value) not in self.named and id(value) not in self.seen:
            self.kept.append(value)
            self.named[id(value)] = f"{value.dtype} {list(value.shape)} {_numbers(value)}"
        return self.gave(value)

    def gave(self, value: Any) -> int | str:
        if not isinstance(value, Tensor):
            return repr(value)
        if id(value) in self.named:
            return self.named[id(value)]
        if id(value) not in self.seen:
            self.seen[id(value)] = len(self.kept)
            self.kept.append(value)
        return self.seen[id(value)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        taken = tuple(map(self.taken, pytree.tree_leaves((args, kwargs or {}))))
        result = func(*args, **(kwargs or {}))
        path = self.paths.get(self.within[-1], "") if self.within else ""
        gave = tuple(map(self.gave, pytree.tree_leaves(result)))
        self.steps.append(Step(path, str(func), taken, gave))
        return result


def _numbers(value: Tensor) -> str:
    with _disable_current_modes():
        return hashlib.sha256(value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def run_of(model: nn.Module, lengths: tuple[int, int, int], task: Task) -> Run | None:
    """What a model does with the inputs of a trace; None where it does not run with numbers."""
    given = inputs_for(model, lengths, task)
    try:
        with made_ready(model), _as_in_a_trace(), entered(model) as within, _Noting(model, within) as noting:
            result = model(**given)
    except Exception:  # in whatever way a class says that it cannot
        return None
    if any("_local_scalar_dense" in step.function for step in noting.steps):
        return None  # it may do something else with other numbers
    return _needed(noting.steps, [noting.gave(one) for one in pytree.tree_leaves(result)])


@contextlib.contextmanager
def _as_in_a_trace() -> Iterator[None]:
    """Let code that asks whether it is traced be told so."""
    before = compiler._is_compiling_flag, compiler._is_exporting_flag
    compiler._is_compiling_flag = compiler._is_exporting_flag = True
    try:
        yield
    finally:
        compiler._is_compiling_flag, compiler._is_exporting_flag = before


def _is_tensor(value: int | str) -> bool:
    return isinstance(value, int)


def _needed(steps: Sequence[Step], gave: Sequence[int | str]) -> Run:
    """The steps of which the results are made, with tensors numbered anew."""
    needed, kept = set(filter(_is_tensor, gave)), []
    for step in reversed(steps):
        if not needed.isdisjoint(step.gave) or (step.changes and not needed.isdisjoint(step.taken)):
            needed.update(filter(_is_tensor, step.taken))
            kept.append(step)
    numbers: dict[int | str, int] = {}

    def anew(values: Sequence[int | str]) -> tuple[int | str, ...]:
        return tuple(numbers.setdefault(one, len(numbers)) if _is_tensor(one) else one for one in values)

    told = tuple(Step(s.module, s.function, anew(s.taken), anew(s.gave)) for s in reversed(kept))
    return Run(told, anew(gave))


def is_seen(model: nn.Module, base: Traced, field: str) -> bool:
    """Whether a run shows all that a field does: no module reads it whose inside is one step."""
    nodes = [item for block in base.blocks.values() for item in block.nodes if isinstance(item, Node)]
    if any(field in node.attrs["fields"] for node in nodes if node.op == MODULE):
        return False
    experts = {path for path, (block, name) in base.leaves.items() if _op_of(base, block, name) == "experts"}
    inside = [m for path, m in model.named_modules() if is_rotary(m) or path in experts]
    return not any(field in class_text(type(module)) for module in inside)


def _op_of(base: Traced, block: str, name: str) -> str:
    item = base.blocks[block].by_id[name]
    return item.op if isinstance(item, Node) else ""


def gives_more(before: Run, after: Run, base: Traced) -> bool:
    """Whether a model does as before, and an inner block of it then gives something that it did not."""
    return any(_is_new(one, before, after, base) for one in after.gave if isinstance(one, int))


def _is_new(tensor: int, before: Run, after: Run, base: Traced) -> bool:
    place = next((index for index, step in enumerate(after.steps) if tensor in step.gave), None)
    if place is None or tensor in before.gave or before.steps[: place + 1] != after.steps[: place + 1]:
        return False
    inner, _, rest = after.steps[place].module.partition(".")
    outside = (step for step in before.steps if step.module.partition(".")[0] != inner)
    return bool(rest) and inner in base.blocks and not any(tensor in step.taken for step in outside)


def attends_otherwise(before: Run, after: Run, base: Traced, other: Any) -> bool:
    """Whether an attention of a model has another setting than before, that is not a field's own value."""
    ours, theirs = (
        {step.module: step.taken for step in run.steps if step.function == "canvas_rt.attention.default"}
        for run in (before, after)
    )
    told = [module for module in ours.keys() & theirs.keys() if _attends(base, module)]
    settings = (pair for module in told for pair in zip(ours[module], theirs[module], strict=False))
    return any(was != now and isinstance(now, str) and _value(now) not in (None, other) for was, now in settings)


def _attends(base: Traced, module: str) -> bool:
    block = base.blocks.get(stand_in(module))
    return block is not None and any(isinstance(item, Node) and item.op == "attention" for item in block.nodes)


def _value(text: str) -> Any:
    """What was written; None where that cannot be read."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


def others_alike(before: Mapping[str, Any], after: Mapping[str, Any], field: str) -> bool:
    """Whether two configs' values differ in nothing but one field."""
    return {**before, field: None} == {**after, field: None}


__all__ = ["Run", "attends_otherwise", "gives_more", "is_seen", "others_alike", "run_of"]
