"""`canvas-rt` opens the editor."""

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PROGRAM = "import sys; from canvas_rt.cli import main; sys.exit(main(sys.argv[1:]))"


@contextmanager
def started(*arguments: str) -> Iterator[str]:
    """The first line that the program says."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout
            yield process.stdout.readline()
        finally:
            process.kill()


def test_no_arguments_open_the_editor() -> None:
    with started() as line:
        assert line.startswith("Canvas is at http://127.0.0.1:")
        page = urllib.request.urlopen(line.split()[3], timeout=20).read().decode()
        assert "gradio" in page and "Canvas" in page


def test_the_address_is_json_for_machines() -> None:
    with started("ui", "llama-2-7b", "--json", "--no-browser") as line:
        assert json.loads(line)["url"].startswith("http://127.0.0.1:")


def test_a_port_that_is_taken_is_a_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with started("ui", "--no-browser", "--port", str(port)) as line:
            assert f"cannot listen at 127.0.0.1:{port}" in line


def test_what_cannot_be_opened_is_told_before_a_server_starts(run: Callable[..., Any]) -> None:
    ran = run("ui", "no-such.canvas.json")
    assert ran.code == 1 and "no-such.canvas.json" in ran.err


@pytest.mark.parametrize("port", ["0", "70000", "http"])
def test_a_port_that_is_none_is_bad_usage(run: Callable[..., Any], port: str) -> None:
    assert run("ui", "--port", port).code == 2
