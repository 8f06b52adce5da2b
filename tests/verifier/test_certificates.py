"""Each kind of edit, through `apply`, to a model that loads, trains, generates and is proven."""

from pathlib import Path

import pytest
import torch
from edit_kinds import EDITS, LAYER
from transformers import AutoConfig, AutoModelForCausalLM

from canvas_rt import Document, apply, emit, verify
from canvas_rt.edits import AddNode, Connect


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_llama_is_proven_trains_and_generates(name: str, small_llama: Document, tmp_path: Path) -> None:
    edited = apply(small_llama, *EDITS[name])
    emit(edited).write(tmp_path / "out")
    certificate = verify(tmp_path / "out")
    assert certificate.passed, str(certificate)
    assert certificate.label == "changed" or name in ("a name", "a group", "a group undone", "ties"), str(certificate)

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
            "x[:, :, None].expand(batch, heads, groups, seq, width)",
            "x[:, None].expand(batch, groups, heads, seq, width)",
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
