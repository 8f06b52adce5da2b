"""What the tab offers to take home: the chosen form of the open document, or why there is none."""

import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canvas_rt.codegen.package import Source, Target
from canvas_rt.importer import open_zoo
from canvas_ui import take_home
from canvas_ui.public import PUBLIC
from canvas_ui.service import Service

SESSION = "s" * 24
ONE_LAYER = {"kind": "set_size", "path": "model.layers.3.mlp", "name": "intermediate_size", "value": 4096}
DEPTH = {"kind": "set_size", "path": "", "name": "num_hidden_layers", "value": 2}


class Visitor:
    def __init__(self, service: Service, name: str = SESSION) -> None:
        self.service, self.name, self.serial = service, name, 0
        self.ask(type="hello")

    def ask(self, **request: Any) -> Any:
        self.serial += 1
        answer = self.service.exchange({"session": self.name, "serial": self.serial, "request": request})
        assert answer["ok"], answer
        return answer

    def edit(self, *edits: Any) -> None:
        self.ask(type="edit", edits=list(edits))


@pytest.fixture
def visitor() -> Visitor:
    return Visitor(Service())


def last(shown: Iterator[Any]) -> tuple[dict[str, str] | None, str]:
    """The files of the download, or None where there is none, and the contents."""
    *_, (download, contents) = shown
    if not download.interactive:
        assert download.value is None
        return None, contents
    with zipfile.ZipFile(download.value["path"] if isinstance(download.value, dict) else download.value) as archive:
        (folder,) = {name.partition("/")[0] for name in archive.namelist()}
        return {name.removeprefix(f"{folder}/"): archive.read(name).decode() for name in archive.namelist()}, contents


def test_a_package_says_whether_it_still_is_a_stock_architecture(visitor: Visitor, tmp_path: Path) -> None:
    files, contents = last(take_home.looking(visitor.service, SESSION, "code", tmp_path))
    assert files is not None and set(files) == {
        "model.py", "config.json", "README.md", "generation_config.json", "document.canvas.json",
    }  # fmt: skip
    assert all(f"{name}  {len(text.encode()):,} bytes" in contents for name, text in files.items())
    still = "This still is LlamaForCausalLM with another config: Native config is just that."
    assert contents.endswith(still)
    visitor.edit(DEPTH)
    assert last(take_home.looking(visitor.service, SESSION, "code", tmp_path))[1].endswith(still)
    visitor.edit({**ONE_LAYER, "path": "model.layers.1.mlp"})
    contents = last(take_home.looking(visitor.service, SESSION, "code", tmp_path))[1]
    assert (
        'No longer stock LlamaForCausalLM: edit 2 of 2, {"kind": "set_size", "path": "model.layers.1.mlp"' in contents
    )
    assert "some layers have intermediate_size for themselves" in contents


def test_plain_pytorch_follows_the_document(visitor: Visitor, tmp_path: Path) -> None:
    files, _ = last(take_home.looking(visitor.service, SESSION, "plain", tmp_path))
    assert files is not None and "from transformers" not in files["model.py"]
    assert json.loads(files["config.json"])["num_hidden_layers"] == 16
    visitor.edit(DEPTH)
    files, contents = last(take_home.looking(visitor.service, SESSION, "plain", tmp_path))
    assert files is not None and json.loads(files["config.json"])["num_hidden_layers"] == 2
    assert contents.startswith("model.py  ")


def test_what_cannot_be_plain_says_why_and_what_to_do(visitor: Visitor, tmp_path: Path) -> None:
    visitor.ask(type="open", source="zoo", name="t5-small")
    assert last(take_home.looking(visitor.service, SESSION, "plain", tmp_path)) == (
        None,
        "Cannot be written as plain PyTorch. T5ForConditionalGeneration: an encoder-decoder language model:"
        " plain code is one stack of layers\nChoose Package: its code may use transformers.",
    )


def test_a_native_config_is_proven_apart_and_what_left_it_is_named(visitor: Visitor, tmp_path: Path) -> None:
    visitor.edit(DEPTH)
    files, contents = last(take_home.looking(visitor.service, SESSION, "native", tmp_path))
    assert files is not None and "model.py" not in files
    assert json.loads(files["config.json"])["architectures"] == ["LlamaForCausalLM"]
    assert json.loads(files["config.json"])["num_hidden_layers"] == 2
    visitor.edit({**ONE_LAYER, "path": "model.layers.1.mlp"})
    none, contents = last(take_home.looking(visitor.service, SESSION, "native", tmp_path))
    assert none is None
    assert contents.startswith("Cannot be written as native config. is no LlamaForCausalLM with another config: edit 2")
    assert contents.endswith("\nChoose Package: its code may use transformers.")


def test_who_looks_anew_ends_the_look_before(visitor: Visitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def slow(document: Any, target: Target, seconds: float, most: int, stop: threading.Event) -> Source:
        asked.append((seconds, most))
        assert stop.wait(20)
        raise take_home.CanvasError("emission was stopped")

    monkeypatch.setattr(take_home, "emit_apart", slow)
    monkeypatch.setattr("canvas_ui.jobs.BEAT_S", 0.02)
    first = take_home.looking(visitor.service, SESSION, "native", tmp_path)
    assert next(first)[1] == take_home.WORKING
    next(first)
    files, _ = last(take_home.looking(visitor.service, SESSION, "code", tmp_path))
    assert files is not None
    assert list(first) == [], "nothing comes after what was asked later"
    assert len(asked) == 1


def test_a_strangers_native_config_waits_in_the_line_and_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def emission(document: Any, target: Target, seconds: float, most: int, stop: threading.Event) -> Source:
        asked.append((seconds, most, service.line.sessions[SESSION]))
        return Source({"config.json": "{}"})

    monkeypatch.setattr(take_home, "emit_apart", emission)
    service = Service(limits=replace(PUBLIC, job_s=30))
    Visitor(service)
    assert last(take_home.looking(service, SESSION, "native", tmp_path)) == (
        {"config.json": "{}"},
        "config.json  2 bytes",
    )
    assert asked == [(30, PUBLIC.job_bytes, 1)]


def test_a_visitors_files_are_their_own_and_go_when_many_others_came(tmp_path: Path) -> None:
    service = Service(limits=replace(PUBLIC, sessions=3))
    document = open_zoo("llama-3.2-1b")
    for index in range(6):
        take_home.emitted(service, document, f"visitor-{index}", tmp_path)
    folders = list(tmp_path.iterdir())
    assert len(folders) == 3
    assert all("visitor" not in folder.name and len(list(folder.rglob("*.zip"))) == 1 for folder in folders)
