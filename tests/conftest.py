"""Small models that tests share: real configs of transformers, a few thousand parameters."""

import os
from collections.abc import Callable
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # workers whose threads spin while they wait starve one another

from canvas_rt.importer import import_model
from canvas_rt.ir import Document

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "vocab_size": 112,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(scope="session")
def small_config() -> Callable[..., dict[str, Any]]:
    def make(model_type: str = "llama", **changes: Any) -> dict[str, Any]:
        return {"model_type": model_type, **SMALL, **changes}

    return make


@pytest.fixture(scope="session")
def small_llama(small_config: Callable[..., dict[str, Any]]) -> Document:
    """A four-layer Llama as a document."""
    return import_model(small_config())[0]
