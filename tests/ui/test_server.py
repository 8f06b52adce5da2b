"""The FastAPI app: the canvas alone at /canvas, Gradio's page at the root, one set of sessions."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from canvas_ui.archive import zipped
from canvas_ui.messages import MOST_TEXT

PROGRAM = "import sys, uvicorn; from canvas_ui.app import create_app; uvicorn.run(create_app(), port=int(sys.argv[1]), log_level='error')"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "ui")}
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(port)], env=environment) as process:
        while True:
            assert process.poll() is None, "the server ended by itself"
            try:
                urllib.request.urlopen(f"{address}/canvas", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield address
        process.kill()


def get(url: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, "", ""


def post(url: str, body: bytes) -> tuple[int, Any]:
    asked = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_the_canvas_is_a_page_of_its_own(url: str) -> None:
    status, kind, page = get(f"{url}/canvas")
    assert status == 200 and kind.startswith("text/html")
    assert 'id="canvas"' in page and "gradio" not in page
    assert get(f"{url}/canvas/static/canvas.js")[1].startswith("text/javascript")
    assert get(f"{url}/canvas/static/canvas.css")[1].startswith("text/css")


@pytest.mark.parametrize("name", ["inputs.sha256", "..%2Fapp.py", "%2e%2e/service.py", "nothing.js"])
def test_nothing_else_is_served(url: str, name: str) -> None:
    assert get(f"{url}/canvas/static/{name}")[0] == 404


def test_gradio_is_at_the_root(url: str) -> None:
    status, _, page = get(url)
    assert status == 200 and "gradio" in page


def test_the_exchange_answers_over_plain_http(url: str) -> None:
    envelope = {"session": "s" * 20, "serial": 1, "request": {"type": "hello"}}
    status, answer = post(f"{url}/canvas/exchange", json.dumps(envelope).encode())
    assert status == 200 and answer["ok"] and answer["update"]["name"] == "llama-3.2-1b"


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[" * 100_000, b'{"session": 1}', "\udcff".encode("utf-8", "surrogatepass")]
)
def test_nonsense_is_refused_in_words(url: str, body: bytes) -> None:
    status, answer = post(f"{url}/canvas/exchange", body)
    assert status == 200 and answer["ok"] is False and answer["error"]["message"]


def test_what_is_too_large_is_refused(url: str) -> None:
    try:
        status, answer = post(f"{url}/canvas/exchange", b" " * (2 * MOST_TEXT + 1000))
    except (ConnectionError, urllib.error.URLError):
        return  # refused before all of it was sent
    assert status == 413 and not answer["ok"]


def test_the_same_files_make_the_same_zip() -> None:
    files = {"model.py": "x = 1\n", "config.json": "{}"}
    assert zipped(files, "mine") == zipped(files, "mine")
