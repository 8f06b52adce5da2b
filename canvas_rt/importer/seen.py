"""Which keys a query may see: as a mask says it, as a kept tensor holds it, and as settings of attention."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from canvas_rt.ops.kernels import attention_mask


@dataclass(frozen=True, slots=True)
class Visible:
    """Which keys a query may see."""

    causal: bool = True
    window: int | None = None
    """Only the nearest, as many as this."""

    chunk: int | None = None
    """Only those of its own chunk of the sequence, each as long as this."""

    def mask(self, length: int) -> Tensor:
        """True where a query sees a key. [1, 1, length, length]"""
        device = torch.device("cpu")
        return attention_mask(length, length, self.window, device, causal=self.causal, chunk=self.chunk)

    @property
    def named(self) -> tuple[str, int]:
        """As a mask in a trace says it: a kind and a size."""
        kind = "causal" if self.causal else "all"
        if self.window is not None:
            return f"{kind}_window", self.window
        if self.chunk is not None:
            return f"{kind}_chunk", self.chunk
        return kind, 0


def from_name(kind: str, size: int) -> Visible:
    """What a kind and a size stand for."""
    first, _, span = kind.partition("_")
    return Visible(first == "causal", size if span == "window" else None, size if span == "chunk" else None)


def kind_of(visible: Visible) -> dict[str, Any]:
    """The settings of an attention that sees so, without those that are as usual."""
    found: dict[str, Any] = {"window": visible.window}
    if not visible.causal:
        found["causal"] = False
    if visible.chunk is not None:
        found["chunk"] = visible.chunk
    return found


def read(seen: Tensor) -> Visible | None:
    """What a square of truth values, queries by keys, lets through; None where it is neither causal, a window nor a chunk."""
    place = torch.arange(seen.shape[-1])
    query, key = place[:, None], place[None, :]
    back = query - key
    causal = not bool((seen & (back < 0)).any())
    order = back >= 0 if causal else torch.ones_like(back, dtype=torch.bool)
    last, first = max(1, int(seen[-1].sum())), max(1, int(seen[:, 0].sum()))
    candidates = (
        (Visible(causal), order),
        (Visible(causal, window=last), order & (back.abs() < last)),
        (Visible(causal, window=first), order & (back.abs() < first)),
        (Visible(causal, chunk=first), order & (query // first == key // first)),
        (Visible(window=0), torch.zeros_like(order)),  # made for a window that is switched off, and used by no layer
    )
    return next((visible for visible, expected in candidates if torch.equal(seen, expected)), None)


def visible_in(node: fx.Node, tensor: Callable[[str], Tensor | None]) -> Visible | None:
    """What a node of a trace says of it: a mask, or a tensor that the module keeps."""
    if node.target is torch.ops.canvas_rt.mask.default:
        _, kind, size, *_ = node.args
        return from_name(str(kind), int(size))  # type: ignore[arg-type]
    kept = tensor(str(node.target)) if node.op == "get_attr" else None
    if kept is None or kept.dim() < 2 or kept.shape[-1] != kept.shape[-2] or kept.numel() != kept.shape[-1] ** 2:
        return None
    return read(kept.detach().reshape(kept.shape[-2:]).to(torch.bool))


def additive(arguments: Sequence[Any], dtype: torch.dtype) -> Tensor:
    """A mask of a trace as a model of some dtype makes it, by the arguments of its op."""
    (batch, _, length, _), kind, size, own, _ = arguments
    visible = from_name(kind, size).mask(length).expand(batch, -1, -1, -1)
    if own is torch.bool:
        return visible
    wanted = dtype if own is torch.bfloat16 else own
    return torch.where(visible, torch.zeros((), dtype=wanted), torch.finfo(wanted).min)


__all__ = ["Visible", "additive", "from_name", "kind_of", "read", "visible_in"]
