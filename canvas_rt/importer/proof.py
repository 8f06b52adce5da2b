"""Whether two computations are the same, told by running both."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

DTYPES = (torch.float32, torch.bfloat16)
"""A rule's node must be equal in both."""

Settings = dict[str, Any]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def same(a: Any, b: Any) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)


def proved(equal: Callable[[torch.dtype], bool]) -> bool:
    """Whether two computations agree to the last bit, in fp32 and in bf16. What cannot be run is not proved."""
    try:
        with torch.no_grad():
            return all(equal(dtype) for dtype in DTYPES)
    except Exception:  # a stranger's module may raise anything
        return False


@dataclass(frozen=True)
class Trial:
    """One run of a module: what it was given, with which weights, and what came out."""

    given: tuple[Tensor, ...]
    own: Mapping[str, Tensor]
    gave: Any


def trials(
    module: nn.Module,
    inputs: Callable[[torch.dtype], tuple[Tensor, ...]],
    draw: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Trial, ...]:
    """Run a module in each dtype, with weights drawn at random: fresh ones are zeros and ones, and tell little.

    Empty where it cannot be run so.
    """
    random = generator()
    made = []
    try:
        with torch.no_grad():
            for dtype in DTYPES:
                given = inputs(dtype)
                with weights_of(module, draw or (lambda p: torch.randn(p.shape, generator=random)), dtype) as own:
                    made.append(Trial(given, own, given_alone(module(*given))))
    except Exception:  # a stranger's module may raise anything
        return ()
    return tuple(made)


def given_alone(result: Any) -> Any:
    """A value that a module gives beside nothing is all that it gives."""
    if isinstance(result, tuple) and sum(one is not None for one in result) == 1:
        return next(one for one in result if one is not None)
    return result


def fitting(
    runs: tuple[Trial, ...], candidates: Iterable[Settings], ours: Callable[[Trial, Settings], Any]
) -> Settings | None:
    """The first settings with which our kernel gives what the module gave, to the last bit."""
    if not runs:
        return None
    return next((settings for settings in candidates if _fits(runs, settings, ours)), None)


def _fits(runs: tuple[Trial, ...], settings: Settings, ours: Callable[[Trial, Settings], Any]) -> bool:
    try:
        with torch.no_grad():
            return all(_alike(run.gave, ours(run, settings)) for run in runs)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError):
        return False


def _alike(theirs: Any, ours: Any) -> bool:
    if isinstance(ours, tuple):
        return (
            isinstance(theirs, tuple)
            and len(theirs) == len(ours)
            and all(same(a, b) for a, b in zip(theirs, ours, strict=True))
        )
    return same(theirs, ours)


@contextmanager
def weights_of(module: nn.Module, draw: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
    """Give a module other weights for the while, of one dtype. Gives them by name."""
    kept = {name: parameter.data for name, parameter in module.named_parameters()}
    drawn = {name: draw(data).to(dtype) for name, data in kept.items()}
    for name, parameter in module.named_parameters():
        parameter.data = drawn[name]
    try:
        yield drawn
    finally:
        for name, parameter in module.named_parameters():
            parameter.data = kept[name]


def numbers_of(module: nn.Module) -> tuple[float, ...]:
    """The fractional numbers that a module keeps for itself, as attributes or as tensors of one element."""
    found = [value for value in vars(module).values() if isinstance(value, int | float) and not isinstance(value, bool)]
    found += [buffer.item() for buffer in module.buffers(recurse=False) if buffer.numel() == 1]
    return tuple(dict.fromkeys(float(value) for value in found))


@contextmanager
def number_changed(module: nn.Module, number: float, other: float) -> Iterator[None]:
    """Give a module another number for the while, wherever it keeps this one: in fp32, as a model of fp32 would."""
    attributes = [name for name, value in vars(module).items() if isinstance(value, float) and value == number]
    buffers = [b for b in module.buffers(recurse=False) if b.numel() == 1 and b.item() == _rounded(number, b)]
    kept = [buffer.data for buffer in buffers]
    for name in attributes:
        setattr(module, name, other)
    for buffer in buffers:
        buffer.data = torch.full_like(buffer, other, dtype=torch.float32)
    try:
        yield
    finally:
        for name in attributes:
            setattr(module, name, number)
        for buffer, data in zip(buffers, kept, strict=True):
            buffer.data = data


def _rounded(number: float, like: Tensor) -> Any:
    return torch.tensor(number, dtype=like.dtype).item()


def written(settings: Settings, defaults: Mapping[str, Any]) -> Settings:
    """Settings without those that are what an op does anyway."""
    return {name: value for name, value in settings.items() if name not in defaults or defaults[name] != value}
