"""Models that train from scratch begin as the original does: every parameter by the rule that its model has for it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from canvas_rt import emit, import_model
from canvas_rt.importer.small import small_config

KEPT = ["mamba2", "qwen3_next", "jamba"]
MORE = [
    "mamba",
    "falcon_mamba",
    "bamba",
    "falcon_h1",
    "lfm2",
    "nemotron_h",
    "qwen3_5_text",
    "zamba2",
    "granitemoehybrid",
]


def drawn(config: Any, seed: int, trust: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust, dtype=torch.float32)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("model_type", [*KEPT, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_modules_that_are_kept_whole_begin_as_in_the_original(model_type: str, tmp_path: Path) -> None:
    settings = small_config(model_type)
    emit(import_model(settings)[0]).write(tmp_path / "out")
    ours = drawn(AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True), 0, True)
    known = {name: value for name, value in settings.items() if name != "model_type"}
    theirs = [drawn(AutoConfig.for_model(model_type, **known), seed, False) for seed in (0, 1)]
    assert ours.keys() == theirs[0].keys()
    for name, mine in ours.items():
        one, other = theirs[0][name], theirs[1][name]
        assert torch.isfinite(mine).all(), name
        if torch.equal(one, other):
            assert torch.equal(mine, one), f"{name} is always the same in the original"
        elif mine.numel() >= 64:
            assert 0.5 < float(mine.std() / one.std()) < 2, name
