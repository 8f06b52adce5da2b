"""Attention that a module writes by hand becomes the op that it is, and is told from what only looks like it."""

import math

import pytest
import torch
from torch import Tensor, fx, nn

from canvas_rt.importer.handwritten import Attention, find_attentions
from canvas_rt.importer.seen import Visible, from_name, read
from canvas_rt.importer.sinusoids import sinusoid_settings
from canvas_rt.importer.trace import register_functions
from canvas_rt.ops.catalogue import VARIANTS
from canvas_rt.ops.scores import alibi
from canvas_rt.ops.sinusoids import sinusoids

BATCH, HEADS, LENGTH, WIDTH = 2, 4, 19, 18


class Divided(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.ops.canvas_rt.mask([BATCH, 1, LENGTH, LENGTH], "causal", 0, q.dtype, torch.device("cpu"))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(WIDTH) + mask
        return torch.matmul(scores.softmax(-1), v).transpose(1, 2)


class WideWithTriangle(nn.Module):
    def __init__(self, window: int) -> None:
        super().__init__()
        seen = torch.ones(64, 64, dtype=torch.bool).tril()
        self.register_buffer("bias", (seen & ~seen.tril(-window))[None, None], persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.matmul(q.float(), k.float().transpose(-1, -2))
        seen = self.bias[:, :, :LENGTH, :LENGTH]
        scores = torch.where(seen, scores, torch.finfo(torch.float32).min)
        return torch.matmul(scores.softmax(-1).to(v.dtype), v).transpose(1, 2)


class Biased(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        settings = {**VARIANTS["alibi"], "heads": HEADS}
        bias = alibi(LENGTH, settings, q.dtype).expand(BATCH, -1, -1, -1).reshape(BATCH * HEADS, 1, LENGTH)
        left, right = (x.reshape(BATCH * HEADS, LENGTH, WIDTH) for x in (q, k))
        scores = bias.baddbmm(left, right.transpose(-1, -2), alpha=0.25).view(BATCH, HEADS, LENGTH, LENGTH)
        mask = torch.ops.canvas_rt.mask([BATCH, 1, LENGTH, LENGTH], "causal", 0, q.dtype, torch.device("cpu"))
        shares = (scores + mask).softmax(-1, dtype=torch.float32).to(q.dtype)
        return torch.matmul(shares, v).transpose(1, 2)


class Squared(nn.Module):
    """Scores that no setting of ours gives."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.matmul((torch.matmul(q, k.transpose(-1, -2)) ** 2).softmax(-1), v).transpose(1, 2)


def found(module: nn.Module) -> list[Attention]:
    register_functions()
    given = tuple(torch.zeros(BATCH, LENGTH, HEADS, WIDTH, dtype=torch.bfloat16).transpose(1, 2) for _ in range(3))
    program = torch.export.unflatten(torch.export.export(module, given, strict=False))
    graph = program.graph
    assert isinstance(graph, fx.Graph)
    return list(find_attentions(graph, lambda name: getattr(module, name, getattr(program, name, None))).values())


def test_a_quotient_of_scores_is_a_form_of_attention() -> None:
    (attention,) = found(Divided())
    assert attention.attrs == {
        "scale": pytest.approx(WIDTH**-0.5),
        "scaling": "divided",
        "precision": "model",
        "sharing": "repeated",
        "window": None,
        "dropout": 0.0,
    }


def test_a_kept_triangle_tells_the_window() -> None:
    (attention,) = found(WideWithTriangle(7))
    assert (attention.attrs["window"], attention.attrs["precision"], attention.attrs["scale"]) == (7, "scores", 1.0)


def test_a_bias_that_grows_along_the_keys_is_alibi() -> None:
    (attention,) = found(Biased())
    assert attention.attrs["scaling"] == "fused"
    assert attention.alibi == {"heads": HEADS, "order": "closest", "counts": "from_first", "rounding": "bias"}


def test_what_no_setting_gives_is_left_as_it_is() -> None:
    assert found(Squared()) == []


@pytest.mark.parametrize("visible", [Visible(), Visible(False), Visible(window=5), Visible(False, 5), Visible(chunk=6)])
def test_a_mask_is_read_as_it_was_made(visible: Visible) -> None:
    assert read(visible.mask(40)[0, 0]) == visible
    assert from_name(*visible.named) == visible


def test_sines_and_cosines_are_told_by_their_numbers() -> None:
    for first in ("sines", "cosines"):
        own = {"width": 12, "spacing": "whole", "rounding": "values", "first": first, "offset": 2, "zero": 5}
        places = torch.arange(9)[None]
        assert sinusoid_settings(places, sinusoids(places, own, torch.bfloat16), 12) == own
