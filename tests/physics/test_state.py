"""What a mixer kept whole costs when it goes on with one token: a step from its state, and no scan."""

from typing import Any

import pytest

from canvas_rt.importer import import_model
from canvas_rt.importer.small import small_config
from canvas_rt.ops.parameters import count_parameters
from canvas_rt.physics import measure

WIDE: dict[str, dict[str, Any]] = {
    "mamba2": {"hidden_size": 1024, "num_heads": 32, "head_dim": 64, "state_size": 16},
    "falcon_mamba": {"hidden_size": 1024, "intermediate_size": 2048},
    "qwen3_next": {"hidden_size": 1024, "intermediate_size": 2048},
}
"""Products with weights are then nearly all that is computed."""


@pytest.mark.parametrize("model_type", WIDE)
def test_one_token_passes_each_weight_once(model_type: str) -> None:
    document, _ = import_model({**small_config(model_type), **WIDE[model_type]})
    counted = count_parameters(document)
    embeddings = next(count for path, count in counted.by_node.items() if path.endswith(("embed_tokens", "embeddings")))
    flops = [measure(document, mode="decode", sequence=length, batch=1).flops.forward for length in (16, 4096)]
    assert flops[0] == pytest.approx(2 * (counted.active - embeddings), rel=0.15)
    if model_type != "qwen3_next":  # which also attends to all that came before
        assert flops[0] == flops[1]
