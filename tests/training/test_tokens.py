from pathlib import Path

import pytest

from canvas_rt.errors import CanvasError
from canvas_rt.training.data import read_data
from canvas_rt.training.tokens import END, brought, trained


def test_a_tokenizer_that_is_trained_gives_every_text_back(text_file: Path, tmp_path: Path) -> None:
    tokens = trained(read_data([text_file]), 320)
    assert tokens.size == 320
    assert dict(tokens.special) == {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    text = "Line 3: café 𝐱 \u202e \x07\n"
    assert tokens.tokenizer.decode(tokens.tokenizer(text)["input_ids"]) == text
    tokens.write(tmp_path)
    again = brought(tmp_path, read_data([text_file]), 320)
    assert again.count == tokens.count and again.entropy == pytest.approx(tokens.entropy)
    assert again.tokenizer.eos_token == END


def test_the_same_data_gives_the_same_tokenizer(text_file: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        trained(read_data([text_file]), 300).write(tmp_path / name)
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()


def test_a_vocabulary_must_hold_every_byte(text_file: Path) -> None:
    with pytest.raises(CanvasError, match="vocab_size: 112 tokens are too few"):
        trained(read_data([text_file]), 112)


def test_a_tokenizer_must_fit_the_model_and_be_one(text_file: Path, tmp_path: Path) -> None:
    data = read_data([text_file])
    with pytest.raises(CanvasError, match="holds no tokenizer"):
        brought(tmp_path, data, 320)
    trained(data, 320).write(tmp_path)
    with pytest.raises(CanvasError, match="its tokenizer has 320 tokens, the model a place for 300"):
        brought(tmp_path, data, 300)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CanvasError, match="cannot be used"):
        brought(tmp_path, data, 320)
