"""The document that edits are tried on: Llama, 32 layers of one kind."""

from pathlib import Path

import pytest

from canvas_rt.ir.document import Document
from canvas_rt.ir.files import load

ZOO = Path(__file__).parents[2] / "model_zoo"


@pytest.fixture(scope="session")
def document() -> Document:
    return load(ZOO / "llama" / "document.canvas.json")
