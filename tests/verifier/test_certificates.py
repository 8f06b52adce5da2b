"""Each kind of edit, through `apply`, to a model that loads, trains, generates and is proven."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_kinds import EDITS, LAYER, PRESERVING
from transformers import AutoConfig, AutoModelForCausalLM

from canvas_rt import CanvasError, Document, apply, emit, verify
from canvas_rt.edits import AddNode, Connect
from canvas_rt.ir.files import with_origin


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_llama_is_proven_trains_and_generates(name: str, small_llama: Document, tmp_path: Path) -> None:
    edited = apply(small_llama, *EDITS[name])
    emit(edited).write(tmp_path / "out")
    certificate = verify(tmp_path / "out")
    assert certificate.passed, str(certificate)
    assert (certificate.label == "changed") == (name not in PRESERVING), str(certificate)

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ids = torch.randint(4, 112, (2, 12))
    losses = []
    for _ in range(4):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
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
        (
            "key = key.unsqueeze(2).expand(-1, -1, groups, -1, -1)",
            "key = key.unsqueeze(1).expand(-1, groups, -1, -1, -1)",
            "logits",
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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rms_norm_eps", 1e-3),
        ("hidden_act", "gelu"),
        ("per_layer_config", {}),
        ("num_hidden_layers", 5),
        ("auto_map", {}),
    ],
)
def test_a_config_that_was_tampered_with_is_not_proven(
    field: str, value: Any, small_llama: Document, tmp_path: Path
) -> None:
    emit(apply(small_llama, *EDITS["heads of some layers"])).write(tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    assert not verify(tmp_path / "out").passed


def test_a_document_cannot_call_itself_identical(small_llama: Document, tmp_path: Path) -> None:
    edited = apply(small_llama, *EDITS["a norm more"])
    forged = with_origin(edited, small_llama.origin.replace(model_type=""))
    certificate = verify(forged)
    assert certificate.passed and certificate.label == "changed", str(certificate)
    claimed = verify(with_origin(edited, small_llama.origin))
    assert not claimed.passed, "a graph that says it is transformers' own is held against transformers' own"


def test_a_verification_that_takes_too_long_ends_with_its_child(small_llama: Document) -> None:
    with pytest.raises(CanvasError, match="longer than 1 s and was stopped"):
        verify(small_llama, timeout_s=1)
