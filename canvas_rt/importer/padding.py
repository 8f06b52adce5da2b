"""Whether a model hides padding by functions of its own: a trace is given none, and a document would see it."""

import inspect
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from canvas_rt.importer.trace import quiet
from canvas_rt.ir.document import Block, Node
from canvas_rt.ops.learned import MODULE

MASK = "attention_mask"
SEQUENCE, KEPT = 12, 8


def is_told_of_padding(blocks: Iterable[Block]) -> bool:
    """Whether any node of a document takes the mask that a model is given."""
    nodes = (item for block in blocks for item in block.nodes if isinstance(item, Node))
    return any(
        node.op == "attention" or (node.op == MODULE and (node.attrs.get("mask") or not node.attrs.get("arguments")))
        for node in nodes
    )


def hides_padding(model: nn.Module) -> bool:
    """Whether a model gives other values for its first tokens where it is told not to look at the last."""
    if MASK not in inspect.signature(model.forward).parameters:
        return False
    device = next(model.parameters()).device
    seen = torch.ones(2, SEQUENCE, dtype=torch.long, device=device)
    told = seen.clone()
    told[:, KEPT:] = 0
    try:
        with quiet(), torch.no_grad():
            first, second = (_logits(model, seen, mask) for mask in (seen, told))
    except Exception:  # a model that cannot be run so is not told of padding either
        return False
    return not torch.equal(first[:, :KEPT], second[:, :KEPT])


def _logits(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, attention_mask=mask)[0]
    return logits


__all__ = ["hides_padding", "is_told_of_padding"]
