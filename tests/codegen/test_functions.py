"""Plain functions are written as people write them: methods, slices, and no setting that says what is so anyway."""

import ast
from typing import Any

import pytest

from canvas_rt.codegen.functions import Anchor, expression_of
from canvas_rt.codegen.syntax import quote, setting, unparse
from canvas_rt.ops.catalogue import OPS
from canvas_rt.ops.functions import function_named

TEXTS: list[tuple[str, dict[str, Any], str]] = [
    ("torch.cos", {}, "x.cos()"),
    ("torch.matmul", {}, "a @ b"),
    ("torch.pow", {"exponent": 2}, "x ** 2"),
    ("torch.add_number", {"other": float("0.5")}, "x + 0.5"),
    ("torch.view", {"size": (2, -1)}, "x.view(2, -1)"),
    ("torch.sum", {"dim": (-1,)}, "x.sum(dim=-1)"),
    ("torch.sum", {"dim": (0, 1), "keepdim": True}, "x.sum(dim=(0, 1), keepdim=True)"),
    ("torch.softmax", {"dim": -1, "dtype": "float32"}, "x.softmax(dim=-1, dtype=torch.float32)"),
    ("torch.to", {"dtype": "model"}, "x.to(like.dtype)"),
    ("torch.ones", {"size": (2, 3), "dtype": "bool"}, "torch.ones((2, 3), dtype=torch.bool, device=like.device)"),
    ("torch.slice", {"dim": 0, "start": 1}, "x[1:]"),
    ("torch.slice", {"dim": 2, "end": 4, "step": 2}, "x[:, :, :4:2]"),
    ("torch.slice", {"dim": -1, "start": -3}, "x[..., -3:]"),
    ("torch.select", {"dim": 1, "index": 0}, "x[:, 0]"),
    ("torch.select", {"dim": -1, "index": -1}, "x[..., -1]"),
    ("torch.masked_fill", {"value": "-inf"}, "x.masked_fill(mask, float('-inf'))"),
    ("torch.cat.2", {"dim": -1}, "torch.cat((xs_0, xs_1), dim=-1)"),
    ("torch.cat.2", {}, "torch.cat((xs_0, xs_1))"),
    ("torch.einsum.2", {"equation": "bij,bjk->bik"}, "torch.einsum('bij,bjk->bik', xs_0, xs_1)"),
    ("torch.split.2", {"sizes": (3, 5), "dim": -1}, "x.split((3, 5), dim=-1)"),
    ("torch.embedding", {}, "nn.functional.embedding(ids, weight)"),
    ("torch.layer_norm_plain", {"shape": (8,)}, "nn.functional.layer_norm(x, (8,), None, None, 1e-05)"),
]


@pytest.mark.parametrize(("op", "attrs", "text"), TEXTS)
def test_a_function_is_written_as_people_do(op: str, attrs: dict[str, Any], text: str) -> None:
    found = function_named(op)
    assert found is not None
    ports: list[ast.expr] = [ast.Name(port, ast.Load()) for port in OPS[op].inputs]
    settings = {name: known.default for name, known in OPS[op].settings.items()} | attrs
    anchor = Anchor(quote("like.device"), quote("like.dtype"))
    assert unparse(expression_of(found[0], ports, settings, setting, anchor)) == text
