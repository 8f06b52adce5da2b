"""What cannot be run is refused before any time is spent, with a way out."""

from typing import Any

import pytest
import torch

import canvas_rt
from canvas_rt.dryrun import trial
from canvas_rt.edits import SetSize, apply
from canvas_rt.ir import Document


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*arguments: Any, **settings: Any) -> Any:
        raise AssertionError("nothing may be written or started")

    monkeypatch.setattr(trial, "write", started)
    monkeypatch.setattr(trial, "_run", started)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"device": "tpu"}, "device: there is no device 'tpu'\nDid you mean cpu?"),
        ({"mode": "chat"}, "mode: no dry run chats\nRun its two parts: mode prefill, then mode decode."),
        ({"data": 8}, "cards: no dry run is spread over several cards\nSet data, tensor"),
        ({"lora": 8}, "lora: no dry run has adapters\nSet lora to 0. 'canvas-rt measure' predicts it."),
        ({"weights": "nf4", "mode": "decode"}, "weights: no dry run has nf4 weights\n"),
        ({"dtype": "fp8", "hardware": "h100-80gb"}, "dtype: no dry run multiplies in fp8\n"),
        ({"attention": "flex"}, "attention: no dry run compiles flex_attention\n"),
        ({"loss": "fused"}, "loss: no dry run has a fused loss\n"),
        ({"frozen": ("model.embed_tokens",)}, "frozen: no dry run leaves parts untrained\n"),
        ({"recompute": "mlp"}, "recompute: no dry run recomputes a part of a layer\n"),
        ({"optimizer": "adamw-8bit"}, "optimizer: no dry run has bitsandbytes' optimizers\n"),
        ({"cache": "int8", "mode": "decode"}, "cache: no dry run has a cache of int8\n"),
        ({"page": 16, "mode": "decode"}, "page: no dry run has pages in its cache\n"),
        ({"device": "cpu", "attention": "flash"}, "attention: no dry run on the CPU has the flash kernel of a card\n"),
        ({"dtype": "mixed"}, "dtype: no dry run on meta casts by itself\nSet dtype to bf16 or fp32, or device to cpu."),
        ({"optimizer": "muon"}, "optimizer: no dry run on meta has muon\n"),
        ({"batch": 0}, "batch: must be a whole number of at least 1, not 0"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_a_setting_that_no_real_run_is_made_for(small_llama: Document, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(canvas_rt.CanvasError) as refused:
        canvas_rt.dry_run(small_llama, **{"sequence": 32, **settings})
    assert str(refused.value).startswith(told)


def test_all_that_is_in_the_way_is_said_at_once(small_llama: Document) -> None:
    with pytest.raises(
        canvas_rt.CanvasError, match=r"no dry run has adapters\nalso loss: has a chunked loss. Set loss"
    ):
        canvas_rt.dry_run(small_llama, sequence=32, lora=4, loss="chunked")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card here")
def test_a_card_that_is_not_there(small_llama: Document) -> None:
    with pytest.raises(canvas_rt.CanvasError, match="device: there is no CUDA device here\nTry --device cpu"):
        canvas_rt.dry_run(small_llama, device="cuda", sequence=32)


def test_a_graph_with_errors_says_all_of_them(small_llama: Document) -> None:
    broken = apply(small_llama, SetSize("model.layers.self_attn", "num_key_value_heads", 5))
    with pytest.raises(canvas_rt.CanvasError, match=r"the graph cannot run:\nerror: model.layers.*not a multiple"):
        canvas_rt.dry_run(broken, sequence=32)


def test_a_model_of_two_halves() -> None:
    with pytest.raises(canvas_rt.CanvasError, match="no dry run is made of an encoder-decoder language model yet\n"):
        canvas_rt.dry_run(canvas_rt.open_zoo("t5-small"), sequence=32)


def test_tokens_beyond_a_table_of_positions() -> None:
    gpt2 = canvas_rt.open_zoo("gpt2")
    with pytest.raises(
        canvas_rt.CanvasError, match="reads 1025 tokens where the model has 1024 positions\nTry sequence 1023"
    ):
        canvas_rt.dry_run(gpt2, device="cpu", mode="decode", sequence=1024)


def test_an_encoder_decodes_nothing() -> None:
    with pytest.raises(canvas_rt.CanvasError, match="generates nothing"):
        canvas_rt.dry_run(canvas_rt.open_zoo("bert-base-uncased"), sequence=32, mode="decode")
