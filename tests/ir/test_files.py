"""Files are read with suspicion and written whole or not at all."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from canvas_rt.errors import CanvasError, DocumentError
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import (
    LARGEST_FILE,
    dumps,
    fingerprint,
    load,
    parse_document,
    parse_json,
    read_json,
    save,
    write_whole,
)
from canvas_rt.ir.frozen import FrozenMap

FAMILIES = sorted((Path(__file__).parents[2] / "model_zoo").glob("*/document.canvas.json"))
LLAMA = load(FAMILIES[0])


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.parent.name)
def test_a_document_reads_back_as_itself(path: Path, tmp_path: Path) -> None:
    document = load(path)
    save(document, tmp_path / "copy.canvas.json")
    again = load(tmp_path / "copy.canvas.json")
    assert again == document
    assert (tmp_path / "copy.canvas.json").read_text(encoding="utf-8") == dumps(document)
    assert fingerprint(again) == fingerprint(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.json: is empty"),
        (" \n", "f.json: is empty"),
        ("{", "f.json: is not JSON: line 1, column 2"),
        ('{"a": 1,\n"b" 2}', "f.json: is not JSON: line 2, column 5"),
        ('{"a": NaN}', "f.json: a: is NaN, which is not JSON"),
        ('{"a": {"b": [1, -Infinity]}}', "f.json: a.b.1: is Infinity or a number out of range"),
        ('{"a": 1e999}', "f.json: a: is Infinity or a number out of range"),
        (f'{{"a": {"9" * 5000}}}', "f.json: a: is Infinity or a number out of range"),
        ('{"a": 1, "a": 2}', "f.json: a: is given twice in one object"),
        ("[" * 100_000, "f.json: is nested too deeply"),
        ("[" * 100 + "]" * 100, "f.json: is nested too deeply"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_not_json_says_where(text: str, message: str) -> None:
    with pytest.raises(CanvasError) as caught:
        parse_json(text, "f.json")
    assert str(caught.value).startswith(message)
    assert caught.value.hint


def test_json_is_read_as_python_reads_it() -> None:
    text = '{"a": [1, -2.5, 1e10, true, null, "é\\n", {}, []], "b": {"c": 12345678901234567890}}'
    assert parse_json(text, "f.json") == json.loads(text)


@pytest.mark.parametrize(
    ("data", "message"), [(b"\xff\xfe{}", "UTF-8"), (b"\0" * 9, "not JSON"), (b"\xef\xbb\xbf5", "")]
)
def test_bytes_that_are_no_text_are_refused_and_a_byte_order_mark_is_not(
    data: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(data)
    if not message:
        assert read_json(path) == 5
        return
    with pytest.raises(CanvasError, match=message):
        read_json(path)


def test_only_regular_files_of_a_sane_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(LARGEST_FILE + 1)
    for name, message in {
        "pipe": "is not a regular file",
        "loop": "cannot be read",
        "large": "is larger than 16 MiB",
        ".": "cannot be read",
        "nothing": "cannot be read: No such file",
        "x" * 300: "cannot be read",
        "a\0b": "is no file name",
    }.items():
        with pytest.raises(CanvasError, match=message):
            read_json(tmp_path / name)
    with pytest.raises(CanvasError, match="is not a regular file"):
        read_json(Path("/dev/zero"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("{}")
    path.chmod(0)
    with pytest.raises(CanvasError, match="cannot be read: Permission denied"):
        read_json(path)


@pytest.mark.parametrize("data", [None, 5, [], {}, {"schema_version": 1}, {"blocks": {}}], ids=str)
def test_what_is_no_document_is_told(data: Any) -> None:
    with pytest.raises(DocumentError, match="is not a Canvas document"):
        parse_document(data)


@pytest.mark.parametrize("version", [0, 2, "1", True, None, [1]], ids=str)
def test_another_schema_version_is_told(version: Any) -> None:
    with pytest.raises(DocumentError, match=r"has schema version .*; this Canvas reads 1"):
        parse_document({**json.loads(dumps(LLAMA)), "schema_version": version})


def test_a_document_that_could_not_be_opened_again_is_not_saved(tmp_path: Path) -> None:
    broken: Document = LLAMA.replace(config=FrozenMap({**LLAMA.config, "auto_map": "evil"}))
    with pytest.raises(DocumentError, match="may be called 'auto_map'"):
        save(broken, tmp_path / "broken.canvas.json")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.json"
    path.write_text("old")

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(CanvasError, match="cannot be written: No space left on device"):
        write_whole(path, "new")
    with pytest.raises(CanvasError, match="cannot be written"):
        write_whole(path, "\ud800")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"f.json": "old"}


def test_an_interrupted_write_leaves_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "f.json", "new")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "no" / "f.json", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(CanvasError, match=r"cannot be written|exists and is no regular file"):
            write_whole(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text("old")
    (tmp_path / "link.json").symlink_to("f.json")
    write_whole(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "f.json").read_text() == "new"


WRITER = """
import sys
from pathlib import Path
from canvas_rt.ir.files import write_whole
print("ready", flush=True)
while True:
    for letter in "ab":
        write_whole(Path(sys.argv[1]), letter * 4_000_000)
"""


def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text("a" * 4_000_000)
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.3)
        writer.send_signal(signal.SIGKILL)
    text = path.read_text()
    assert (len(text), set(text)) in ((4_000_000, {"a"}), (4_000_000, {"b"}))


def test_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    texts = [letter * 500_000 for letter in "abcdefgh"]
    threads = [threading.Thread(target=write_whole, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert [file.name for file in tmp_path.iterdir()] == ["f.json"]


def test_a_number_that_is_none_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="would not read back as it is"):
        save(LLAMA.replace(config=FrozenMap({**LLAMA.config, "rms_norm_eps": math.nan})), tmp_path / "f.canvas.json")
    assert list(tmp_path.iterdir()) == []
