"""Layers whose attention sees as far as a window keep no more of it in the cache, whoever makes the cache."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from canvas_rt import apply, emit, verify
from canvas_rt.codegen.windows import naming_window
from canvas_rt.edits import SetAttr, SetConfig, SetSize
from canvas_rt.importer import import_model
from canvas_rt.ir import Document

PROMPT, NEW = 9, 14
SEEN = PROMPT + NEW - 1

MIXED: dict[str, tuple[dict[str, Any], int]] = {
    "gemma2": ({"sliding_window": 5, "head_dim": 8}, 5),
    "gemma3_text": ({"sliding_window": 5, "head_dim": 8, "num_hidden_layers": 7}, 5),
    "gpt_oss": ({"sliding_window": 5, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}, 5),
    "qwen2": ({"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 2}, 5),
    "llama4_text": ({"attention_chunk_size": 6, "head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 64}, 6),
}


def attention(layer: int | None = None) -> str:
    return f"model.layers{'' if layer is None else f'.{layer}'}.self_attn.attention"


def emitted(document: Document, folder: Path) -> Any:
    emit(document).write(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, trust_remote_code=True).eval()


def kept(model: Any, **how: Any) -> list[int]:
    """Tokens that each layer keeps after a run, whose choices are those that the model makes without a cache."""
    ids = torch.randint(3, 100, (2, PROMPT), generator=torch.Generator().manual_seed(1))
    found = model.generate(
        ids,
        max_new_tokens=NEW,
        do_sample=False,
        return_dict_in_generate=True,
        eos_token_id=None,
        pad_token_id=0,
        **how,
    )
    with torch.no_grad():
        logits = model(found.sequences[:, :-1], use_cache=False).logits
    assert torch.equal(logits[:, PROMPT - 1 :].argmax(-1), found.sequences[:, PROMPT:])
    return [layer.keys.shape[2] for layer in found.past_key_values.layers]


@pytest.mark.parametrize("family", MIXED)
def test_layers_with_the_configs_window_forget_what_is_out_of_it(
    family: str, small_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    changes, window = MIXED[family]
    model = emitted(import_model(small_config(family, **changes))[0], tmp_path)
    types = model.config.layer_types
    assert len({*types}) == 2
    assert kept(model) == [SEEN if one == "full_attention" else window - 1 for one in types]
    assert kept(model, cache_implementation="static") == [SEEN if one == "full_attention" else window for one in types]


@pytest.mark.parametrize("layers", [(2,), (0, 1, 3), (0, 1, 2, 3)])
def test_a_window_that_was_edited_in_is_a_field_of_the_config(
    small_llama: Document, layers: tuple[int, ...], tmp_path: Path
) -> None:
    edited = apply(small_llama, *(SetAttr(attention(layer), "window", 6) for layer in layers))
    model = emitted(edited, tmp_path)
    assert kept(model) == [5 if layer in layers else SEEN for layer in range(4)]
    assert json.loads((tmp_path / "config.json").read_text())["sliding_window"] == 6
    proof = verify(edited)
    assert proof.passed, proof


def test_a_window_that_was_taken_away_keeps_all(small_config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    mistral = import_model(small_config("mistral", sliding_window=7))[0]
    model = emitted(apply(mistral, SetAttr(attention(1), "window", None)), tmp_path)
    assert kept(model) == [6, SEEN, 6, 6]


def test_where_windows_differ_all_is_kept(small_llama: Document, tmp_path: Path) -> None:
    edited = apply(small_llama, SetAttr(attention(2), "window", 6), SetAttr(attention(0), "window", 4))
    assert naming_window(edited) is edited
    assert kept(emitted(edited, tmp_path)) == [SEEN] * 4


def test_a_config_that_means_something_else_is_left_alone(small_config: Callable[..., dict[str, Any]]) -> None:
    mistral = import_model(small_config("mistral", sliding_window=7))[0]
    other = apply(mistral, SetAttr(attention(), "window", 5))
    assert naming_window(other) is other
    unset = apply(mistral, SetConfig("sliding_window", None), SetAttr(attention(), "window", 5))
    named = naming_window(unset)
    assert named.sizes["sliding_window"] == 5 and "sliding_window" not in named.config
    assert naming_window(named) is named


def test_layers_with_a_window_of_their_own_are_left_alone(small_config: Callable[..., dict[str, Any]]) -> None:
    mistral = import_model(small_config("mistral", sliding_window=7))[0]
    mixed = apply(mistral, SetSize("model.layers.0-1", "sliding_window", 5), SetAttr(attention(3), "window", 5))
    assert naming_window(mixed) is mixed


def test_a_document_without_windows_is_itself(small_llama: Document) -> None:
    assert naming_window(small_llama) is small_llama
