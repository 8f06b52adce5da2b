"""Run a model, or a document node by node, and keep what every part of it gave."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canvas_rt.ops.interpret import Interpreter

Gradients = Mapping[str, Tensor]


@dataclass
class Result:
    """One forward and backward run."""

    logits: Tensor
    gradients: Gradients
    values: Mapping[str, Tensor]
    """What each module or node gave, by path, in order of execution."""


class Recorder(Interpreter):
    """An interpreter that keeps what every item gives."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.values: dict[str, Tensor] = {}

    def item(self, item: Any, environment: Any, inputs: Any, prefix: str) -> Any:
        results = super().item(item, environment, inputs, prefix)
        if len(results) == 1:
            self.values[self.place(prefix + item.id)] = next(iter(results.values())).detach()
        return results


def loss_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Of scores for each token against the next one; of scores for a whole input against its label."""
    if logits.dim() == 2:
        return F.cross_entropy(logits.float(), ids)
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten())


def largest(a: Tensor, b: Tensor) -> float:
    """The largest difference, infinite where shapes differ or a number is none."""
    if a.shape != b.shape:
        return float("inf")
    apart = float((a.float() - b.float()).abs().max()) if a.numel() else 0.0
    return apart if apart == apart else float("inf")


def first_difference(ours: Result, theirs: Result) -> str:
    """The path of the first module or node at which two runs differ."""
    for path, value in theirs.values.items():
        mine = ours.values.get(path)
        if mine is not None and largest(mine, value):
            return path
    return "the logits" if largest(ours.logits, theirs.logits) else ""


@contextlib.contextmanager
def recording(model: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """Keep what every module gives, by its path."""

    def keep(path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor):
                values[path] = first.detach()

        return hook

    handles = [module.register_forward_hook(keep(path)) for path, module in model.named_modules() if path]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def fill(model: nn.Module, weights: Callable[[str, tuple[int, ...]], Tensor], tied: Mapping[str, str]) -> nn.Module:
    """Give every parameter the weights of its key; tied ones share."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name not in tied and tensor.is_floating_point():
                tensor.copy_(weights(name, tuple(tensor.shape)))
    return model
