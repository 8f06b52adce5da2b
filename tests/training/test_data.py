import json
from collections.abc import Callable
from pathlib import Path

import pytest

from canvas_rt.errors import CanvasError
from canvas_rt.training.data import CORPUS, read_data

Write = Callable[[str, bytes], Path]


def test_without_a_file_it_is_the_corpus_that_ships_with_its_license(tmp_path: Path) -> None:
    data = read_data()
    assert data.shipped and data.format == "text"
    assert "".join(data.sample) == CORPUS.read_text(encoding="utf-8")
    assert data.bytes == CORPUS.stat().st_size
    assert data.copy(tmp_path / "data") == ("data/corpus.txt",)
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in (tmp_path / "data" / "corpus.LICENSE").read_text()


def test_json_lines_and_parquet_give_the_texts_of_a_column(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    rows = [{"body": f"text {n}", "id": n} for n in range(50)] + [{"body": None, "id": 50}]
    lines, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    expected = (*(f"text {n}" for n in range(50)), "")
    assert read_data([lines], column="body").sample == expected
    assert read_data([table], column="body").sample == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b" \n\n ", "holds no text"),
        ("binary.txt", b"abc\xff\xfe\x00", "is no text in UTF-8: byte 0xff"),
        ("zeros.txt", b"a\0b", "it holds zero bytes"),
        ("image.png", b"x", "has an unknown format\nKnown by their endings: .txt"),
        ("rows.jsonl", b'{"body": "x"}\n', "has no column 'text'\nName the one with the text; there are: body"),
        ("rows.jsonl", b'{"text": 3}\n', "column 'text' holds int, not text"),
        ("rows.jsonl", b"[1]\n", "line 1: is no object"),
        ("rows.jsonl", b'{"text": "x"}\nnope\n', "line 2 is no JSON"),
        ("rows.jsonl", b"[" * 100_000, "line 1 is no JSON"),
        ("rows.parquet", b"PAR1 no", "is no parquet file"),
    ],
)
def test_what_cannot_be_trained_on_is_said_at_once(written: Write, name: str, content: bytes, message: str) -> None:
    with pytest.raises(CanvasError) as raised:
        read_data([written(name, content)])
    assert message in str(raised.value)


def test_files_of_two_formats_and_files_that_are_none_are_refused(written: Write, tmp_path: Path) -> None:
    text, lines = written("a.txt", b"x"), written("b.jsonl", b'{"text": "x"}')
    with pytest.raises(CanvasError, match="are of several formats"):
        read_data([text, lines])
    with pytest.raises(CanvasError, match="is no file"):
        read_data([tmp_path / "nowhere.txt"])
    with pytest.raises(CanvasError, match="is no file"):
        read_data([tmp_path / "folder.txt" / ""])


def test_more_than_the_sample_is_estimated(written: Write) -> None:
    row = json.dumps({"text": "x" * 1000, "other": "y" * 1000}) + "\n"
    data = read_data([written("rows.jsonl", row.encode() * 12_000)])
    assert len(data.sample) < 12_000
    assert data.bytes == pytest.approx(12_000_000, rel=0.01)
    assert data.copied


def test_names_that_occur_twice_stay_apart_in_the_bundle(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(folder)
    names = read_data([tmp_path / "a" / "x.txt", tmp_path / "b" / "x.txt"]).copy(tmp_path / "data")
    assert [(tmp_path / name).read_text() for name in names] == ["a", "b"]
