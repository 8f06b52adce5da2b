"""Each kind of edit, through `apply`, to a model that loads, trains, generates and is proven."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from canvas_rt import Document, apply, emit, verify
from canvas_rt.edits import (
    AddNode,
    Bypass,
    Connect,
    DeleteLayers,
    DuplicateLayers,
    GroupNodes,
    InsertLayer,
    MakeUnique,
    MoveLayers,
    RenameNode,
    ReplaceBlock,
    SetAttr,
    SetConfig,
    SetOutput,
    SetSize,
    SwapLayers,
    Ungroup,
)

LAYER = "model.layers"
NORM = {"size": "=hidden_size", "eps": "=rms_norm_eps"}
EDITS: dict[str, tuple[Any, ...]] = {
    "a size of the model": (SetSize("", "intermediate_size", 112),),
    "its width": (SetSize("", "hidden_size", 96),),
    "depth": (SetSize("", "num_hidden_layers", 6),),
    "heads of some layers": (SetSize(f"{LAYER}.1-2.self_attn", "num_key_value_heads", 3),),
    "two sizes of unlike layers": (
        SetSize(f"{LAYER}.0.mlp", "intermediate_size", 64),
        SetSize(f"{LAYER}.3.self_attn", "num_key_value_heads", 1),
    ),
    "an activation": (SetConfig("hidden_act", "gelu"),),
    "a bias": (SetConfig("attention_bias", True),),
    "ties": (SetConfig("tie_word_embeddings", True),),
    "a window in one layer": (SetAttr(f"{LAYER}.2.self_attn.attention", "window", 6),),
    "a scale": (SetAttr(f"{LAYER}.self_attn.attention", "scale", 0.25),),
    "a bias in one place": (SetAttr(f"{LAYER}.0.mlp.down_proj", "bias", True),),
    "a norm more": (
        AddNode("model", {"id": "embedding_norm", "op": "rms_norm", "attrs": NORM, "inputs": {"x": "embed_tokens"}}),
        Connect("model.layers", "hidden_states", "embedding_norm"),
    ),
    "a factor on the logits": (
        AddNode("", {"id": "softened", "op": "scale", "attrs": {"factor": 0.5}, "inputs": {"x": "lm_head"}}),
        SetOutput("", "logits", "softened"),
    ),
    "a norm on queries": (
        AddNode(
            f"{LAYER}.self_attn",
            {"id": "q_norm", "op": "rms_norm", "attrs": {"size": "=head_dim"}, "inputs": {"x": "q"}},
        ),
        Connect(f"{LAYER}.self_attn.rotary", "q", "q_norm"),
    ),
    "a parallel residual": (Connect(f"{LAYER}.post_attention_layernorm", "x", "hidden_states"),),
    "no attention in a layer": (Bypass(f"{LAYER}.0.self_attn_residual", "a"),),
    "no norm at the end": (Bypass("model.norm", "x"),),
    "a name": (RenameNode(f"{LAYER}.mlp.gated", "product"), RenameNode(f"{LAYER}.mlp.up_proj", "widen")),
    "a layer more": (InsertLayer(LAYER, 2),),
    "layers fewer": (DeleteLayers(f"{LAYER}.1-2"),),
    "layers twice": (DuplicateLayers(f"{LAYER}.1-2"),),
    "layers elsewhere": (MoveLayers(f"{LAYER}.0-1", 2),),
    "layers swapped": (SwapLayers(LAYER, 0, 3),),
    "a group": (GroupNodes(f"{LAYER}.mlp", ("act_fn", "gated"), "Gate", "gate"),),
    "a group undone": (Ungroup(f"{LAYER}.mlp"),),
    "a copy of a block": (MakeUnique(f"{LAYER}.1.mlp"), SetAttr(f"{LAYER}.1.mlp.act_fn", "fn", "relu")),
    "another block": (
        MakeUnique(f"{LAYER}.1"),
        SetAttr(f"{LAYER}.1.mlp.act_fn", "fn", "relu"),
        ReplaceBlock(f"{LAYER}.3", "LlamaDecoderLayer2"),
    ),
    "a node less": (Bypass(f"{LAYER}.mlp.act_fn", "x"),),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_llama_is_proven_trains_and_generates(name: str, small_llama: Document, tmp_path: Path) -> None:
    edited = apply(small_llama, *EDITS[name])
    emit(edited).write(tmp_path / "out")
    certificate = verify(tmp_path / "out")
    assert certificate.passed, str(certificate)
    assert certificate.label == "changed" or name in ("a name", "a group", "a group undone", "ties"), str(certificate)

    config = AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.randint(4, 112, (2, 12))
    losses = []
    for _ in range(2):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    tokens = model.eval().generate(ids[:, :4], max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert tokens.shape[1] <= 9 and torch.equal(tokens[:, :4], ids[:, :4])


def test_an_unedited_model_is_identical(small_llama: Document) -> None:
    certificate = verify(small_llama)
    assert certificate.label == "identical"
    assert certificate.reference == "transformers' LlamaForCausalLM"
    assert {name: finding.passed for name, finding in certificate.findings.items() if name != "gpu"} == dict.fromkeys(
        ("structure", "keys", "logits", "gradients", "decoding"), True
    )
    assert certificate.logits.max_abs_diff == certificate.gradients.max_abs_diff == 0


def test_a_factor_of_one_preserves_the_function(small_llama: Document) -> None:
    node = {"id": "same", "op": "scale", "attrs": {"factor": 1.0}, "inputs": {"x": "hidden_states"}}
    edited = apply(small_llama, AddNode(f"{LAYER}.mlp", node), Connect(f"{LAYER}.mlp.gate_proj", "x", "same"))
    certificate = verify(edited)
    assert certificate.passed and certificate.label == "function-preserving", str(certificate)


@pytest.mark.parametrize(
    ("before", "after", "failing"),
    [
        ("self.mlp(self.post_attention_layernorm(hidden_states))", "self.mlp(hidden_states)", "structure"),
        ("self.scaling = config.head_dim**-0.5", "self.scaling = config.head_dim**-0.25", "logits"),
        ("past_key_values.update(k, v, self.layer_idx)", "past_key_values.update(k, v, 0)", "decoding"),
        ("self.layer_idx = layer_idx", "self.layer_idx = 0", "keys"),
        ("for index in range(config.num_hidden_layers)", "for index in range(config.num_hidden_layers + 1)", "keys"),
        (
            "return torch.cat((-x[..., half:], x[..., :half]), dim=-1)",
            "return torch.cat((x[..., half:], x[..., :half]), dim=-1)",
            "logits",
        ),
        (
            "wide.pow(2).mean(-1, keepdim=True) + self.eps",
            "wide.pow(2).mean(-1, keepdim=True) + 2 * self.eps",
            "structure",
        ),
        ("class CanvasLlamaModel(", "class CanvasLlamaModels(", "structure"),
        ("def apply_rotary(", "def apply_rotary(:", "structure"),
    ],
)
def test_code_that_was_tampered_with_is_not_proven(
    before: str, after: str, failing: str, small_llama: Document, tmp_path: Path
) -> None:
    emit(small_llama).write(tmp_path / "out")
    path = tmp_path / "out" / "model.py"
    source = path.read_text()
    assert before in source
    path.write_text(source.replace(before, after))
    certificate = verify(tmp_path / "out")
    assert not certificate.passed
    assert certificate.findings[failing].passed is False, str(certificate)
