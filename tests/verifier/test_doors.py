"""The other ways out of Canvas: programs of torch.export and ONNX, and the hub."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from canvas_rt import CanvasError, apply, emit, export, open_zoo, push
from canvas_rt.edits import Bypass, SetSize

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An emitted Llama, one layer without attention, with random weights."""
    target = tmp_path_factory.mktemp("doors") / "model"
    document = apply(open_zoo("llama-3-8b"), *(SetSize("", name, value) for name, value in SIZES.items()))
    emit(apply(document, Bypass("model.layers.1.self_attn_residual", "a"))).write(target)
    torch.manual_seed(0)
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(target, trust_remote_code=True)
    AutoModelForCausalLM.from_config(config, trust_remote_code=True).save_pretrained(target)
    return target


def test_a_program_gives_the_logits_of_its_model_at_other_sizes(folder: Path, tmp_path: Path) -> None:
    answer = export(folder, tmp_path / "out")
    assert "model.pt2" in answer["files"]
    assert answer["max_abs_diff"] < 1e-4
    program = torch.export.load(tmp_path / "out" / "model.pt2")  # our own: strangers' are never loaded
    assert len(list(program.graph.nodes)) > 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.skipif(find_spec("onnx") is None or find_spec("onnxscript") is None, reason="needs onnx and onnxscript")
def test_onnx_is_written(folder: Path, tmp_path: Path) -> None:
    import onnx

    answer = export(folder, tmp_path / "out", format="onnx")
    assert {"model.onnx", "model.onnx.data"} <= set(answer["files"])
    onnx.checker.check_model(str(tmp_path / "out" / "model.onnx"))


@pytest.mark.skipif(find_spec("onnx") is not None, reason="onnx is installed")
def test_what_onnx_needs_is_said_before_anything_runs(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CanvasError, match=r"onnx needs onnx and onnxscript") as told:
        export(folder, tmp_path / "out", format="onnx")
    assert told.value.hint == "pip install onnx onnxscript"
    assert not list(tmp_path.iterdir())


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    emit(open_zoo("smollm-135m")).write(tmp_path / "in")
    with pytest.raises(CanvasError, match="holds no model with weights"):
        export(tmp_path / "in", tmp_path / "out")
    with pytest.raises(CanvasError, match="exists already"):
        (tmp_path / "in" / "model.safetensors").write_bytes(b"")
        export(tmp_path / "in", tmp_path / "in")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a pull request of small files takes; what it was sent is in `sent`."""

    sent: list[tuple[str, Any]]

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        if "/discussions/" in self.path:
            return self._answer(
                {"title": "x", "num": 7, "createdAt": "2026-01-01T00:00:00.000Z", "status": "draft"}
                | {"repo": {"name": "me/model", "type": "model"}, "isPullRequest": True, "events": []}
                | {"changes": {"base": "refs/heads/main"}, "filesWithConflicts": []}
            )
        return self._answer({"sha": "0" * 40, "id": "me/model", "private": True, "siblings": []})

    def do_POST(self) -> None:
        body = self._body()
        self.sent.append((self.path, body))
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        elif self.path.endswith("/discussions"):
            self._answer({"num": 7})
        elif "/commit/" in self.path:
            where = f"http://{self.headers['Host']}/me/model"
            self._answer(
                {"success": True, "commitOid": "1" * 40, "commitUrl": f"{where}/commit/{'1' * 40}"}
                | {"pullRequestUrl": f"{where}/discussions/7"}
            )
        else:
            self._answer({"url": f"http://{self.headers['Host']}/me/model", "name": "me/model", "id": "1"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _answer(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Any]]]:
    import huggingface_hub.constants as constants

    sent: list[tuple[str, Any]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("TheHub", (Hub,), {"sent": sent}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", address, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield sent
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_folder_is_offered_as_a_pull_request(tmp_path: Path, hub: list[tuple[str, Any]]) -> None:
    emit(open_zoo("smollm-135m")).write(tmp_path / "in")
    (tmp_path / "in" / ".secret").write_text("hf_secret")
    (tmp_path / "in" / "notes").mkdir()
    (tmp_path / "in" / "notes" / ".secret").write_text("hf_secret")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/me/model/discussions/7", push(tmp_path / "in", "me/model"))
    by_path = dict(hub)
    asked = json.loads(by_path["/api/repos/create"])
    assert asked.get("visibility") == "private" or asked.get("private") is True
    commit = next(body for path, body in hub if "/commit/" in path and "pr" in path)
    lines = [json.loads(line) for line in commit.splitlines()]
    sent = {line["value"]["path"] for line in lines if line["key"] == "file"}
    assert sent == {"model.py", "config.json", "generation_config.json", "README.md", "document.canvas.json"}


def test_a_hub_that_cannot_be_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    emit(open_zoo("smollm-135m")).write(tmp_path / "in")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(CanvasError, match="me/model: nothing was sent to the hub: ConnectError"):
        push(tmp_path / "in", "me/model")
    with pytest.raises(CanvasError, match="is no name of a repository"):
        push(tmp_path / "in", "a b/c/d")
    with pytest.raises(CanvasError, match="holds no model"):
        push(tmp_path, "me/model")
