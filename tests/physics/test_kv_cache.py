"""The key/value cache holds what a traced prompt leaves in it."""

from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, LlamaConfig

from canvas_rt.errors import CanvasError
from canvas_rt.importer import open_zoo
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import load
from canvas_rt.physics import kv_cache_bytes, measure
from canvas_rt.physics.setup import Setup
from canvas_rt.physics.whole import model, running

ZOO = Path(__file__).parents[2] / "model_zoo"
SIZES = {
    "hidden_size": 512,
    "intermediate_size": 704,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}


def document(family: str, **sizes: object) -> Document:
    loaded = load(ZOO / family / "document.canvas.json")
    return loaded.replace(sizes=loaded.sizes.with_items({**SIZES, **sizes}))


def test_bytes_are_two_tensors_a_layer() -> None:
    assert kv_cache_bytes(document("llama"), batch=3, sequence=100, dtype="bf16") == 2 * 3 * (3 * 2 * 100 * 64) * 2
    assert kv_cache_bytes(document("llama"), batch=3, sequence=100, dtype="fp32") == 2 * 3 * (3 * 2 * 100 * 64) * 4


@pytest.mark.parametrize("sequence", [64, 256])
@pytest.mark.parametrize("window", [128, None])
def test_what_a_traced_prompt_leaves_is_its_keys_and_values_and_the_logits(sequence: int, window: int | None) -> None:
    """Of a window too: transformers keeps a view of all that the prompt brought, until the next token comes."""
    whole = document("mistral", sliding_window=window)
    left = running(model(whole, Setup("prefill", 2, sequence, "bf16"))).now
    logits = 2 * 256 * 2
    assert left == kv_cache_bytes(document("llama"), batch=2, sequence=sequence) + logits


def test_a_window_bounds_the_cache() -> None:
    whole = document("mistral", sliding_window=128)
    sizes = [kv_cache_bytes(whole, batch=1, sequence=sequence) for sequence in (64, 128, 1024)]
    assert sizes == [sizes[1] // 2, sizes[1], sizes[1]]


def test_it_is_as_large_as_that_of_transformers() -> None:
    config = LlamaConfig(**SIZES)
    cache = DynamicCache(config=config)
    for layer in range(3):
        cache.update(torch.empty(2, 2, 50, 64), torch.empty(2, 2, 50, 64), layer)
    theirs = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kv_cache_bytes(document("llama"), batch=2, sequence=50, dtype="fp32") == theirs


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(CanvasError, match=r"unknown dtype 'int3'"):
        kv_cache_bytes(document("llama"), batch=1, sequence=1, dtype="int3")


def test_values_narrower_than_keys_are_attended_to_by_any_kernel() -> None:
    """As latent attention has them: PyTorch's flash kernel refuses them, and who calls it himself fills them up."""
    latent = open_zoo("deepseek-v3")
    flops = {
        kernel: measure(latent, mode="decode", batch=1, sequence=512, attention=kernel).flops.forward
        for kernel in ("auto", "efficient", "eager", "math", "flash")
    }
    plain = flops.pop("flash")
    assert len(set(flops.values())) == 1
    # each query meets 513 keys in 128 heads of 61 layers; values are 128 wide, and filled up to 192
    assert plain - flops["auto"] == 2 * 513 * 128 * 61 * (192 - 128)


def test_a_state_of_sizes_that_its_module_cannot_have_is_refused() -> None:
    whole = open_zoo("mamba-codestral-7b")
    broken = whole.replace(sizes=whole.sizes.with_items({"num_heads": 7}))
    with pytest.raises(CanvasError, match=r"Mamba2Mixer cannot be made.*\nSet its sizes otherwise"):
        kv_cache_bytes(broken, batch=1, sequence=8)
