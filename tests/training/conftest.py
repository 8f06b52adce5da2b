"""A small edited Llama whose vocabulary holds every byte, and short texts to train it on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from canvas_rt import Document, apply, open_zoo
from canvas_rt.edits import SetSize

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 320,
}


@pytest.fixture(scope="session")
def edited_llama() -> Document:
    sizes = [SetSize("", name, value) for name, value in SIZES.items()]
    return apply(open_zoo("llama-3.2-1b"), *sizes, SetSize("model.layers.1.mlp", "intermediate_size", 96))


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 kB, with something in it to learn."""
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("".join(f"Line {n}: the cat sat on the mat, and {n} is a number.\n" for n in range(160)))
    return path


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, bytes], Path]:
    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write
