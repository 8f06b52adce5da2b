"""What transformers makes of each published config."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig

from canvas_rt.importer.config import task_of

CONFIGS = sorted((Path(__file__).parents[2] / "model_zoo").glob("*/configs/*.json"))


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem, scope="module")
def config(request: pytest.FixtureRequest) -> Path:
    """The file of a published config, one after another."""
    return request.param


@pytest.fixture(scope="module")
def original(config: Path) -> Any:
    """The model that transformers builds by it, on meta."""
    with torch.device("meta"):
        published = json.loads(config.read_text())
        auto = getattr(transformers, task_of(published).auto)
        return auto.from_config(AutoConfig.for_model(**published))


@pytest.fixture(scope="module")
def elements(original: Any) -> int:
    """How many parameters that model has, tied ones once; buffers, such as a router's correction, are none."""
    return sum(parameter.numel() for parameter in original.parameters())
