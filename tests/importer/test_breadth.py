"""Any causal language model of transformers: imported, emitted, and proven, without a rule that knows its name."""

from pathlib import Path

import pytest

from canvas_rt import CanvasError
from canvas_rt.codegen import emit
from canvas_rt.importer import import_model
from canvas_rt.importer.small import small_config
from canvas_rt.verifier.checks import Verification

FAST = ("qwen3", "gpt2", "gpt_oss", "ctrl", "musicgen_decoder")
"""Norms of queries and keys; fused projections and learned positions; sinks, windows and biased experts; rows; lists."""

SLOW = (
    "bert",
    "bart",
    "falcon_h1",
    "roberta",
    "gemma3_text",
    "cohere2",
    "phi3",
    "deepseek_v3",
    "dots1",
    "mamba",
    "bamba",
    "gpt_neox",
    "olmo2",
    "ernie4_5_moe",
    "olmo_hybrid",
    "dots3_note_text",
    "zamba",
    "zamba2",
)


def passes(model_type: str, folder: Path) -> None:
    document, _ = import_model(small_config(model_type))
    emit(document).write(folder / "emitted")
    certificate = Verification(folder / "emitted").certificate()
    assert certificate.passed, str(certificate)
    assert certificate.logits.max_abs_diff == 0
    assert certificate.gradients.max_abs_diff == 0


@pytest.mark.parametrize("model_type", FAST)
def test_a_model_goes_around_and_stays_what_it_is(model_type: str, tmp_path: Path) -> None:
    passes(model_type, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", SLOW)
def test_every_sort_of_model_goes_around(model_type: str, tmp_path: Path) -> None:
    passes(model_type, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        (
            "inkling_text",
            "InklingShortConvolution keeps a state, and is made with hidden_size, conv_kernel_size, conv_idx",
        ),
        ("deepseek_v4", "its config calls a layer 'hash_moe', which no config but its own takes"),
    ],
)
def test_what_no_emitted_model_could_be_is_refused_with_its_reason(model_type: str, reason: str) -> None:
    with pytest.raises(CanvasError, match=reason):
        import_model(small_config(model_type))
