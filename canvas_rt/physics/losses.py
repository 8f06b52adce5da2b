"""The loss of a training step: all tokens at once, in parts, or together with the head."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from canvas_rt.ir.tasks import Task

Head = Callable[[Tensor], Tensor]
"""Hidden states [batch, seq, size] to logits [batch, seq, vocab]."""


def shifted(labels: Tensor) -> Tensor:
    """For each token the one that comes next; -100 after the last."""
    return F.pad(labels, (0, 1), value=-100)[..., 1:].contiguous()


def wanted(labels: Tensor, task: Task) -> Tensor:
    """What each score is held against: the next token, or the label itself, which a decoder that an encoder feeds reads later."""
    return shifted(labels) if task.generates and not task.decodes else labels


def plain_loss(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Cross-entropy, as transformers computes it for a task."""
    if task.generates and not task.decodes:
        return causal_loss(logits, labels)
    logits = logits.float() if task.of_tokens else logits
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1), ignore_index=-100)


def causal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the next token, as transformers' ForCausalLMLoss computes it: in fp32, labels shifted."""
    logits = logits.float()
    labels = F.pad(labels, (0, 1), value=-100)
    shift = labels[..., 1:].contiguous()
    logits = logits.view(-1, logits.shape[-1])
    shift = shift.view(-1)
    return F.cross_entropy(logits, shift, ignore_index=-100, reduction="mean")


def chunked_loss(
    hidden: Tensor, targets: Tensor, head: Head, chunks: int, around: Callable[[], AbstractContextManager[Any]]
) -> Tensor:
    """The same, over parts of the tokens one after the other; a part's logits are dropped and computed again.

    `around` gives what each computation runs under.
    """
    total: Tensor | None = None
    for part, own in zip(hidden.chunk(chunks, dim=1), targets.chunk(chunks, dim=1), strict=True):
        loss: Tensor = checkpoint(
            _part, part, own, head, around, use_reentrant=False, preserve_rng_state=False, determinism_check="none"
        )
        total = loss if total is None else total + loss
    assert total is not None
    return total / targets.numel()


def _part(hidden: Tensor, wanted: Tensor, head: Head, around: Callable[[], AbstractContextManager[Any]]) -> Tensor:
    with around():
        logits = head(hidden).float()
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="sum")


class _FusedLoss(Function):
    """Head and cross-entropy in one: the gradients are made in the forward, part by part.

    Source: Hsu et al. 2024 (Liger Kernel), fused linear cross-entropy: parts of the tokens so many that a part's logits take
    about as much as the hidden states; the kernel turns logits into their gradient where they lie.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        tokens, size = hidden.shape
        parts = -(-weight.shape[0] // size)
        length = 1 << max(0, (-(-tokens // parts) - 1).bit_length())
        into = torch.zeros_like(hidden)
        learned = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        losses = torch.zeros(tokens, dtype=torch.float32, device=hidden.device)
        for start in range(0, tokens, length):
            part = hidden[start : start + length]
            logits = part @ weight.t()
            into[start : start + length].copy_(logits @ weight)
            if learned is not None:
                learned += logits.t() @ part
            del logits
        ctx.save_for_backward(into, learned)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        into, learned = ctx.saved_tensors
        return into.mul_(gradient), None if learned is None else learned.mul_(gradient), None


def fused_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """hidden: [batch, seq, size]; weight of the head: [vocab, size]."""
    return _FusedLoss.apply(hidden.flatten(0, 1), weight, targets.flatten())  # type: ignore[no-any-return, no-untyped-call]
