"""The tape records what PyTorch does; the short cuts on meta give what PyTorch would."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from canvas_rt.ir.files import load
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.physics import meta
from canvas_rt.physics.anatomy import head_path
from canvas_rt.physics.keys import below, relevant
from canvas_rt.physics.setup import Setup
from canvas_rt.physics.tape import Tape, visible_pairs
from canvas_rt.physics.tracer import Tracer
from canvas_rt.physics.tracing import run_root
from canvas_rt.physics.whole import model

ZOO = Path(__file__).parents[2] / "model_zoo"
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 112,
}


def layout(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype, value.device.type
    return [layout(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every short cut taken, each held against PyTorch's own result."""
    taken: list[str] = []
    run = meta.run

    def both(func: Any, args: Any, kwargs: Any) -> Any:
        out = run(func, args, kwargs)
        if func in meta.FAST:
            assert layout(out) == layout(func(*args, **kwargs)), func
            taken.append(str(func))
        return out

    monkeypatch.setattr(meta, "run", both)
    yield taken


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("mode", ["train", "prefill", "decode"])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_short_cuts_give_pytorchs_shapes_strides_and_dtypes(
    family: str, mode: Any, dtype: str, batch: int, compared: list[str]
) -> None:
    document = load(ZOO / family / "document.canvas.json")
    document = document.replace(sizes=document.sizes.with_items({**SIZES, "num_hidden_layers": 3 + batch}))
    traced = model(document, Setup(mode, batch, 17, dtype))
    gap = traced.root.gaps[0]
    traced.layer(gap, next(traced.spans(gap)))
    assert mode == "decode" or len(set(compared)) > 8


def record(fast: bool) -> tuple[Any, ...]:
    document = load(ZOO / "llama" / "document.canvas.json")
    document = document.replace(sizes=document.sizes.with_items(SIZES))
    layer = below(document.blocks, "LlamaMLP")
    block = document.blocks["LlamaModel"]
    document = document.with_block(
        "LlamaModel",
        block.replace(nodes=tuple(n for n in block.nodes if n.id != "layers")),
    )
    root = below(document.blocks, document.root)
    nodes = tuple(
        node.replace(inputs=FrozenMap({"x": "embed_tokens"})) if node.id == "norm" else node
        for node in document.blocks["LlamaModel"].nodes
    )
    root = FrozenMap({**root, **layer, "LlamaModel": document.blocks["LlamaModel"].replace(nodes=nodes)})
    tracer = Tracer(
        root, document.root, relevant(root, document.root, document.environment), Setup("train", 2, 16, "bf16"), {}
    )
    tracer.tape = Tape(fast=fast)
    tracer.head = head_path(root, document.root)
    run_root(tracer, root, document.root)
    return tracer.tape.events, tracer.tape.work


def test_with_and_without_short_cuts_the_record_is_the_same() -> None:
    assert record(fast=True) == record(fast=False)


def test_what_is_let_go_is_recorded_as_freed() -> None:
    tape = Tape()
    x = torch.empty(100, device="meta")
    tape.resident(x)
    with tape:
        y = x * 2
        z = y.view(10, 10)
        del y
        w = z + 1
        del z
    assert tape.events == [(512, 1), (512, 2), (-512, 1)]
    assert [work.moved for work in tape.work] == [800, 800]
    del w


@pytest.mark.parametrize("window", [None, 1, 3, 7, 50])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 9), (5, 5), (3, 8), (8, 8)])
def test_visible_pairs_are_those_of_the_mask(queries: int, keys: int, window: int | None) -> None:
    rows = range(keys - queries, keys)
    expected = sum(1 for row in rows for key in range(keys) if key <= row and (window is None or key > row - window))
    assert visible_pairs(queries, keys, window) == expected


def test_flash_attention_counts_the_square_and_executes_what_is_visible() -> None:
    def run(sequence: int) -> Tape:
        tape = Tape()
        q, k, v = (
            torch.empty(2, 4, sequence, 32, device="meta", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
        )
        with tape:
            out = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True, False)[0]
            tape.finished("", (out,))
            tape.backward = True
            out.sum().backward()
        return tape

    square = 2 * 2 * 4 * 64 * 64 * 32
    counted = [(work.backward, work.flops, work.executed) for work in run(64).work if work.flops]
    pairs = 64 * 65 // 2
    assert counted == [
        (False, 2 * square, 2 * square * pairs // 64**2),
        (True, 4 * square, 5 * square * pairs // 64**2),
    ]
