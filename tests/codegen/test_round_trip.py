"""A checkpoint of the original, loaded into the class that was emitted: the same numbers, to the last bit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from canvas_rt import emit, import_model, verify
from canvas_rt.importer.architecture import ArchitectureImport
from canvas_rt.importer.factory import ClassFactory
from canvas_rt.importer.small import small_config
from canvas_rt.ops.compare import difference

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied, biases": ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama, explicit head_dim": ("llama", {"head_dim": 20, "hidden_act": "gelu", "pad_token_id": 3}),
    "llama, one head for all": ("llama", {"num_key_value_heads": 1}),
    "llama, a head for each": ("llama", {"num_key_value_heads": None, "attention_bias": True}),
    "llama, one layer": ("llama", {"num_hidden_layers": 1, "hidden_act": "gelu_pytorch_tanh"}),
    "llama, llama3 scaling": (
        "llama",
        {"rope_parameters": {**LLAMA3, "rope_theta": 1e4, "original_max_position_embeddings": 32}},
    ),
    "llama, linear scaling": ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "llama, dynamic scaling": (
        "llama",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 32},
    ),
    "llama, yarn scaling": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "mistral, window": ("mistral", {"sliding_window": 5}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "mistral, wide window, tied": ("mistral", {"sliding_window": 4096, "head_dim": 12, "tie_word_embeddings": True}),
}


@pytest.fixture(params=VARIANTS, scope="module")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, small_config: Callable[..., Any]
) -> Any:
    """The original, and the emitted class with the original's checkpoint; unequal random weights everywhere."""
    model_type, changes = VARIANTS[request.param]
    raw = small_config(model_type, initializer_range=0.3, **changes)
    folder = tmp_path_factory.mktemp("pair")
    torch.manual_seed(0)
    config = CONFIG_MAPPING[model_type](**{name: value for name, value in raw.items() if name != "model_type"})
    original = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in original.parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.2 + 1)
    original.save_pretrained(folder / "original")
    document, _ = import_model(folder / "original")
    emit(document).write(folder / "emitted")
    shutil.copy(folder / "original" / "model.safetensors", folder / "emitted")
    emitted, info = AutoModelForCausalLM.from_pretrained(
        folder / "emitted", trust_remote_code=True, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return original, emitted.eval(), document, folder / "emitted"


IDS = torch.randint(4, 112, (2, 40), generator=torch.Generator().manual_seed(3))


def largest(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_loss_and_gradients_differ_by_nothing(pair: Any, attention: str) -> None:
    original, emitted, *_ = pair
    results = []
    for model in (original, emitted):
        model.set_attn_implementation(attention)
        model.zero_grad()
        result = model(input_ids=IDS, labels=IDS)
        result.loss.backward()
        results.append((result, {name: p.grad for name, p in model.named_parameters()}))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert largest(ours.logits, theirs.logits) == 0
    assert torch.equal(ours.loss, theirs.loss)
    assert our_gradients.keys() == their_gradients.keys()
    assert {name: largest(g, their_gradients[name]) for name, g in our_gradients.items()} == dict.fromkeys(
        our_gradients, 0
    )


def test_generating_with_the_cache_gives_the_same_tokens(pair: Any) -> None:
    original, emitted, *_ = pair
    arguments = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    tokens = [
        m.generate(IDS[:, :5], attention_mask=torch.ones_like(IDS[:, :5]), **arguments) for m in (original, emitted)
    ]
    assert torch.equal(*tokens)


def test_left_padding_gives_the_same_logits(pair: Any) -> None:
    original, emitted, *_ = pair
    mask = torch.ones_like(IDS[:, :12])
    mask[0, :5] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    for model in (original, emitted):
        model.set_attn_implementation("sdpa")
    with torch.no_grad():
        ours, theirs = (
            m(input_ids=IDS[:, :12], attention_mask=mask, position_ids=positions).logits for m in (emitted, original)
        )
    assert largest(ours[mask.bool()], theirs[mask.bool()]) == 0


def test_importing_the_emitted_code_gives_the_same_document(pair: Any) -> None:
    _, emitted, document, folder = pair
    raw = json.loads((folder / "config.json").read_text())
    again, _ = ArchitectureImport(ClassFactory(type(emitted.config), type(emitted)), raw, "again").run()
    assert difference(document, again) == ""
    assert (again.blocks, again.sizes, again.config, again.ties) == (
        document.blocks,
        document.sizes,
        document.config,
        document.ties,
    )


def test_emitting_twice_gives_the_same_bytes(pair: Any) -> None:
    _, _, document, folder = pair
    files = emit(document).files
    assert {name: (folder / name).read_text() for name in files} == dict(files)


def test_layers_that_take_positions_as_a_value_are_told_them_once(tmp_path: Path) -> None:
    document = import_model(small_config("codegen"))[0]
    emit(document).write(tmp_path / "out")
    certificate = verify(tmp_path / "out")
    assert certificate.passed, str(certificate)
