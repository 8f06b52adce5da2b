"""Softmax: what it computes, what it costs, and that a trace of it is read back."""

from pathlib import Path

import pytest
import torch
from torch import nn

from canvas_rt.edits import AddNode, SetOutput, apply
from canvas_rt.importer.recognition.recogniser import Recogniser
from canvas_rt.importer.trace import trace
from canvas_rt.ir.files import load
from canvas_rt.ops.kernels import KERNELS, Context
from canvas_rt.physics import check, measure

ZOO = Path(__file__).parents[2] / "model_zoo"
SOFTENED = (
    AddNode("", {"id": "softened", "op": "softmax", "inputs": {"x": "lm_head"}}),  # type: ignore[arg-type]
    SetOutput("", "logits", "softened"),
)


def test_probabilities_sum_to_one_along_the_last_dimension() -> None:
    x = torch.randn(2, 3, 5)
    (out,) = KERNELS["softmax"]({"x": x}, {}, {}, Context(2, 3, x.device))
    assert torch.allclose(out, x.exp() / x.exp().sum(-1, keepdim=True))


def test_a_softmax_keeps_its_shape_and_is_measured() -> None:
    document = load(ZOO / "llama" / "document.canvas.json")
    softened = apply(document, *SOFTENED)
    found = check(softened, sequence=32)
    assert found.ok and str(found.shapes["softened"][0]) == "[batch, seq, vocab_size]"
    before, after = (measure(d, sequence=32, mode="train") for d in (document, softened))
    logits = 32 * document.sizes["vocab_size"] * 2
    assert after.by_node["softened"].bytes == 2 * logits + 3 * logits  # forward: in, out; backward: two in, one out
    assert after.flops == before.flops


def test_a_prompt_needs_probabilities_of_its_last_token_only() -> None:
    document = apply(load(ZOO / "llama" / "document.canvas.json"), *SOFTENED)
    report = measure(document, sequence=64, mode="prefill")
    assert report.by_node["softened"].bytes == 2 * document.sizes["vocab_size"] * 2


class Model(nn.Module):
    def __init__(self, dim: int, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.dim, self.dtype = dim, dtype

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> torch.Tensor:
        return self.embed(input_ids).softmax(self.dim, dtype=self.dtype)


def read(dim: int, dtype: torch.dtype | None = None) -> list[str]:
    made = Model(dim, dtype)
    return [node.op for node in Recogniser(made, trace(made, (2, 3, 0)), {}).run().blocks["root"].nodes]  # type: ignore[union-attr]


@pytest.mark.parametrize("dim", [-1, 2])
def test_a_softmax_is_recognised(dim: int) -> None:
    assert read(dim) == ["embedding", "softmax"]


@pytest.mark.parametrize(("dim", "dtype"), [(1, None), (-1, torch.float64)])
def test_a_softmax_of_another_kind_is_a_plain_function(dim: int, dtype: torch.dtype | None) -> None:
    assert read(dim, dtype) == ["embedding", "torch.softmax"]
