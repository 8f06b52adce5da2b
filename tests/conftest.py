"""Small models that tests share: real configs of transformers, a few thousand parameters."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")  # with instructions for bf16 its products take scratch memory
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # workers whose threads spin while they wait starve one another

from canvas_rt.importer import import_model
from canvas_rt.ir import Document

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's Chromium: one for a whole process, as Playwright's synchronous door opens once in each."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None and not os.environ.get("CI"):
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--disable-gpu", "--no-sandbox"])
        yield browser
        browser.close()
