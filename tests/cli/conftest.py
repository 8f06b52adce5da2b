"""Run the command line in this process, in a folder of its own."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from canvas_rt import cli

ZOO = Path(__file__).parents[2] / "model_zoo"


class Ran(NamedTuple):
    """What a verb did."""

    code: int
    out: str
    err: str
    made: frozenset[str]
    """Paths that were not there before, hidden ones too."""

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


def files() -> frozenset[str]:
    return frozenset(str(path) for path in Path().rglob("*"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("check", "d.canvas.json")`, where `d.canvas.json` is a small Llama's document."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("CANVAS_TRACEBACK", raising=False)
    write_small("d.canvas.json")

    def ran(*arguments: str | os.PathLike[str]) -> Ran:
        before = files()
        try:
            code = cli.main([os.fspath(argument) for argument in arguments])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        out, err = capsys.readouterr()
        assert "a flaw of Canvas itself" not in out + err
        return Ran(code, out, err, files() - before)

    return ran


def write_small(path: str) -> None:
    """The zoo's Llama, cut to sizes that are quick to run."""
    data = json.loads((ZOO / "llama" / "document.canvas.json").read_text(encoding="utf-8"))
    small = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "vocab_size": 128,
    }
    data["sizes"].update(small, num_key_value_heads=2)
    Path(path).write_text(json.dumps(data), encoding="utf-8")
