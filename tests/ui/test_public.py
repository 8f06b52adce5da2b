"""A server for everybody holds against what a stranger tries: paths, hub ids, giants, crowds and nonsense."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canvas_rt.edits import SetSize, apply
from canvas_rt.errors import CanvasError
from canvas_rt.importer import open_zoo
from canvas_rt.ir.files import dumps
from canvas_ui import app
from canvas_ui.limits import Limits, Line
from canvas_ui.public import MOST_BODY, PUBLIC
from canvas_ui.service import Service

ROOT = Path(__file__).parents[2]
SESSION = "s" * 24


class Stranger:
    """Whoever talks to a public server."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.serial = 0

    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> tuple[int, bytes]:
        asked = urllib.request.Request(
            f"{self.address}{path}", data=body, method=method, headers={"content-type": kind}
        )
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def canvas(self) -> int:
        """The component that answers the canvas."""
        config = json.loads(self.ask("GET", "/config")[1])
        return next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "canvas")

    def call(self, data: Any, fn_name: str = "exchange") -> tuple[int, Any]:
        body = {"data": data, "fn_name": fn_name, "component_id": self.canvas(), "session_hash": "stranger"}
        status, answer = self.ask("POST", "/gradio_api/component_server", json.dumps(body).encode())
        return status, json.loads(answer) if status == 200 else answer

    def exchange(self, session: str = SESSION, **request: Any) -> Any:
        self.serial += 1
        return self.call({"session": session, "serial": self.serial, "request": request})[1]


@pytest.fixture(scope="module")
def stranger() -> Iterator[Stranger]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port)}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "ui")))
    program = "from canvas_ui.public import launch; launch()"
    with subprocess.Popen([sys.executable, "-c", program], env=environment, cwd=ROOT) as process:
        talking = Stranger(f"http://127.0.0.1:{port}")
        end = time.monotonic() + 120
        while time.monotonic() < end:
            assert process.poll() is None, "the server ended by itself"
            try:
                talking.ask("GET", "/config")
                break
            except OSError:
                time.sleep(0.2)
        talking.exchange(type="hello")
        yield talking
        process.kill()


SECRET = "tests/ui/test_public.py"
PATHS = [
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file=../../../../../../etc/passwd",
    "/gradio_api/file=%2Fetc%2Fpasswd",
    "/gradio_api/file=..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/gradio_api/file=file:///etc/passwd",
    "/gradio_api/file=http://127.0.0.1:1/x",
    f"/gradio_api/file={SECRET}",
    f"/gradio_api/file={ROOT / SECRET}",
    f"/gradio_api/file={ROOT / 'canvas_rt' / '__init__.py'}",
    f"/gradio_api/file={ROOT / 'ui' / 'canvas_ui' / 'static' / '..' / 'app.py'}",
    "/gradio_api/file=/proc/self/environ",
    "/gradio_api/file/etc/passwd",
    "/file=/etc/passwd",
    "/static/../../../../../../../etc/passwd",
    "/static/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/assets/%2e%2e/%2e%2e/%2e%2e/routes.py",
    "/svelte/..%2f..%2froutes.py",
    "/gradio_api/proxy=https://huggingface.co/x",
    "/gradio_api/deep_link",
    "/gradio_api/runs",
    "/gradio_api/run-history/records",
    "/gradio_api/vibe-code",
    "/gradio_api/openapi.json",
    "/gradio_api/profiling/summary",
    "/gradio_api/mcp/sse",
    "/monitoring",
    "/docs",
    "/openapi.json",
    "/login",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_is_read_and_nothing_is_there_but_the_page(stranger: Stranger, path: str) -> None:
    status, body = stranger.ask("GET", path)
    assert status in (400, 403, 404, 405), status
    assert b"root:" not in body and b"A server for everybody" not in body and b"import" not in body


def test_a_file_that_lies_with_the_others_in_the_temporary_folder_is_not_served(
    stranger: Stranger, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("root: mine")
    assert stranger.ask("GET", f"/gradio_api/file={secret}")[0] in (403, 404)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/upload",
        "/gradio_api/vibe-edit",
        "/gradio_api/process_recording",
        "/gradio_api/run/exchange",
        "/login",
    ],
)
def test_nothing_can_be_uploaded_or_called_by_name(stranger: Stranger, path: str) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="../../x"\r\n\r\nevil\r\n--x--\r\n'
    assert stranger.ask("POST", path, form, "multipart/form-data; boundary=x")[0] == 404
    assert stranger.ask("POST", path, b"{}")[0] == 404
    assert stranger.ask("POST", "/gradio_api/component_server", form, "multipart/form-data; boundary=x")[0] == 404


@pytest.mark.parametrize(
    "name", ["postprocess", "__init__", "get_config", "read_from_flag", "load_event_to_attach", "x" * 5000]
)
def test_only_the_exchange_can_be_called(stranger: Stranger, name: str) -> None:
    assert stranger.call({}, fn_name=name)[0] != 200


def test_a_tab_is_for_everybody_only_once_somebody_has_bounded_what_it_does(stranger: Stranger) -> None:
    components = json.loads(stranger.ask("GET", "/config")[1])["components"]
    tabs = [c["props"]["label"] for c in components if c["type"] == "tabitem"]
    assert tabs == ["Canvas", "Charts", "Code", "Proof and export", "Dry run", "Training"]
    assert not {"file", "uploadbutton", "image", "audio", "video", "multimodaltextbox"} & {
        c["type"] for c in components
    }


def test_a_stranger_is_offered_no_folder_of_the_server(stranger: Stranger) -> None:
    config = json.loads(stranger.ask("GET", "/config")[1])
    names = {c["props"].get("elem_id") for c in config["components"]}
    assert "form" in names and not {name for name in names if str(name).startswith("weights")}
    own = [
        c["id"]
        for c in config["components"]
        if c["type"] == "textbox" and not str(c["props"].get("elem_id")).startswith(("canvas-", "training-"))
    ]
    assert own and not [d for d in config["dependencies"] if set(own) & set(d["inputs"])], "no other text is asked for"


def test_a_giant_request_is_refused_before_it_is_read(stranger: Stranger) -> None:
    host, port = stranger.address.removeprefix("http://").split(":")
    head = b"POST /gradio_api/component_server HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as line:
        line.sendall(head + b"Content-Length: %d\r\n\r\n" % (MOST_BODY + 1))
        assert b"413" in line.recv(64)
    with socket.create_connection((host, int(port)), timeout=20) as line:  # without saying how much will come
        line.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(MOST_BODY // 2**18 + 2):
                line.sendall(b"40000\r\n" + b" " * 2**18 + b"\r\n")
        except OSError:
            pass  # it hung up already
        assert b"413" in line.recv(64)


@pytest.mark.parametrize(
    "envelope",
    [
        None, 1, "x", [], {}, {"session": SESSION}, {"session": "../../etc", "serial": 1, "request": {"type": "undo"}},
        {"session": SESSION, "serial": -1, "request": {"type": "undo"}},
        {"session": SESSION, "serial": 1, "request": {"type": "no such thing"}},
        {"session": SESSION, "serial": 1, "request": {"type": "hello", "more": 1}},
        json.loads("[" * 400 + "]" * 400),
    ],
)  # fmt: skip
def test_a_malformed_envelope_is_answered_as_such(stranger: Stranger, envelope: Any) -> None:
    status, answer = stranger.call(envelope)
    assert status != 200 or (answer["ok"] is False and "malformed" in answer["error"]["message"])
    assert stranger.exchange(type="save")["ok"], "and the server goes on"


SOURCES = [
    "/etc/passwd", "../model_zoo/llama/models.json", "meta-llama/Llama-3.2-1B", "https://huggingface.co/x/y", "~",
    ".", "llama/../llama-3.2-1b", "", "x" * 200,
]  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_no_source_is_a_path_or_a_hub_id(stranger: Stranger, name: str) -> None:
    opened = stranger.exchange(type="open", source="zoo", name=name)
    assert not opened["ok"] and "in the zoo" in opened["error"]["message"]
    begun = stranger.exchange(session="n" * 24, type="hello", source=name or "no such model")
    assert not begun["ok"] and "in the zoo" in begun["error"]["message"]
    card = stranger.exchange(type="scenario", scenario={"hardware": name})
    assert not card["ok"] and "unknown card" in card["error"]["message"]


CONFIG = {
    "model_type": "llama",
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "vocab_size": 112,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({**CONFIG, "auto_map": {"AutoConfig": "evil--evil.Config"}}),
        json.dumps({**CONFIG, "num_hidden_layers": 10**7}),
        json.dumps({**CONFIG, "model_type": "no_such_type"}),
        json.dumps({**CONFIG, "_name_or_path": "/etc/passwd", "hidden_act": "__import__('os').system('x')"}),
        "\x80\x04\x95cos\nsystem\n(S'id'\ntR.",
        "[" * 100_000,
        "",
    ],
)
def test_a_config_that_means_harm_is_refused_by_its_field(stranger: Stranger, text: str) -> None:
    answer = stranger.exchange(type="open", source="text", name="/etc/passwd", text=text)
    assert not answer["ok"] and "flaw of Canvas" not in answer["error"]["message"], answer["error"]


def test_a_config_is_imported_in_a_process_of_its_own(stranger: Stranger) -> None:
    answer = stranger.exchange(session=SESSION, type="open", source="text", name="mine.json", text=json.dumps(CONFIG))
    assert answer["ok"] and answer["update"]["name"] == "mine"


# ---------------------------------------------------------------------------------------------------------------------
# Bounds, in this process
# ---------------------------------------------------------------------------------------------------------------------


class Visitor:
    def __init__(self, service: Service, name: str = SESSION) -> None:
        self.service, self.name, self.serial = service, name, 0

    def ask(self, **request: Any) -> Any:
        self.serial += 1
        return self.service.exchange({"session": self.name, "serial": self.serial, "request": request})


def giant() -> Any:
    """Every layer differs from its neighbours: over 500 nodes."""
    document = apply(open_zoo("llama-3.2-1b"), SetSize("", "num_hidden_layers", 40))
    return apply(document, *(SetSize(f"model.layers.{i}.mlp", "intermediate_size", 1024) for i in range(0, 40, 2)))


def test_a_giant_document_is_refused_however_it_comes() -> None:
    visitor = Visitor(Service(limits=replace(PUBLIC, nodes=500)))
    visitor.ask(type="hello")
    text = dumps(giant())
    for answer in (
        visitor.ask(type="open", source="text", name="giant", text=text),
        Visitor(visitor.service, "b" * 24).ask(type="hello", autosave={"document": text}),
        visitor.ask(
            type="edit",
            edits=[
                {"kind": "set_size", "path": "", "name": "num_hidden_layers", "value": 40},
                *(
                    {"kind": "set_size", "path": f"model.layers.{i}.mlp", "name": "intermediate_size", "value": 1024}
                    for i in range(0, 40, 2)
                ),
            ],
        ),
    ):
        assert not answer["ok"] and "more than 500 nodes" in answer["error"]["message"]
        assert "pip install canvas-rt" in answer["error"]["hint"]
    assert visitor.service.tabs[SESSION].session.revision == 0, "nothing was changed"
    Limits().admit(giant())  # at home there is no such limit


def test_a_giant_that_a_journal_would_build_is_not_kept() -> None:
    service = Service(limits=replace(PUBLIC, nodes=50))
    grow = [
        {
            "type": "set",
            "field": "size:intermediate_size",
            "path": f"model.layers.{i}.mlp",
            "value": 1024,
            "scope": "layers",
        }
        for i in (2, 5, 9)
    ]
    answer = Visitor(service).ask(type="hello", journal=grow)
    assert answer["ok"] and answer["update"]["edits"] <= 1
    refused = Visitor(service, "c" * 24).ask(type="hello", journal=[{"type": "undo"}] * 201)
    assert "a journal of more than 200" in refused["error"]["message"]


def test_texts_are_bounded_wherever_they_come_in() -> None:
    visitor = Visitor(Service(limits=PUBLIC))
    long = " " * (PUBLIC.text + 1)
    assert "longer than 512 KiB" in visitor.ask(type="hello", autosave={"document": long})["error"]["message"]
    visitor.ask(type="hello")
    for request in ({"type": "open", "source": "text", "text": long}, {"type": "paste", "clip": long, "path": ""}):
        assert "longer than 512 KiB" in visitor.ask(**request)["error"]["message"]


def test_a_crowd_of_sessions_pushes_out_the_oldest_and_steps_are_bounded() -> None:
    service = Service(limits=replace(PUBLIC, sessions=5, steps=3))
    for index in range(20):
        assert Visitor(service, f"{index:024}").ask(type="hello")["ok"]
    assert list(service.tabs) == [f"{index:024}" for index in range(15, 20)]
    last = Visitor(service, f"{19:024}")
    last.serial = 1
    for value in range(1, 9):
        last.ask(type="set", field="size:intermediate_size", path="", value=1024 * value)
    assert len(service.tabs[last.name].session.past) == 3


def test_requests_of_one_session_do_not_take_every_thread() -> None:
    service = Service(limits=PUBLIC)
    visitor = Visitor(service)
    visitor.ask(type="hello")
    tab = service.tabs[SESSION]
    answers: list[Any] = []
    with tab.lock:  # as while an import runs
        threads = [threading.Thread(target=lambda: answers.append(visitor.ask(type="undo"))) for _ in range(12)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 10
        while len(answers) < 8 and time.monotonic() < end:
            time.sleep(0.01)
        assert {answer["error"]["message"] for answer in answers} == {"too many requests at once"}
    for thread in threads:
        thread.join(10)
    assert tab.pending == 0 and sum(answer["ok"] for answer in answers) == 4


def test_a_line_lets_few_work_some_wait_and_tells_the_others_to_come_back() -> None:
    line = Line(Limits(jobs=2, waiting=2, jobs_each=1))
    leave, inside = threading.Event(), []

    def work(name: str) -> None:
        with line.turn(name):
            inside.append(name)
            leave.wait(20)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    while line.sessions.total() < 4:
        time.sleep(0.01)
    assert line.busy() and len(inside) == 2
    with pytest.raises(CanvasError, match="the server is busy: 4 jobs are running or waiting"), line.turn("e"):
        pass
    leave.set()
    for thread in threads:
        thread.join(20)
    assert sorted(inside) == ["a", "b", "c", "d"] and not line.busy() and not line.sessions


def test_one_visitor_has_one_heavy_job_and_stopping_it_frees_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}

    def verify(document: Any, *, stop: threading.Event, **options: Any) -> Any:
        told.update(options)
        stop.wait(20)
        raise CanvasError("verification was stopped")

    monkeypatch.setattr(app, "verify", verify)
    monkeypatch.setattr("canvas_ui.limits.ENDING_S", 0.2)
    service = Service(limits=PUBLIC)
    Visitor(service).ask(type="hello")
    first = app.proof(service, SESSION)
    assert next(first)[0].startswith("Emitting")
    while not told:
        time.sleep(0.01)
    assert told["timeout_s"] == PUBLIC.job_s and told["most_bytes"] == PUBLIC.job_bytes
    second = app.proof(service, SESSION)
    next(second)
    assert "a proof, a run or an import of yours is still running" in next(second)[0]
    imported = Visitor(service)
    imported.serial = 5
    answer = imported.ask(type="open", source="text", name="x", text=json.dumps(CONFIG))
    assert "still running" in answer["error"]["message"]
    first.close()  # the page was closed
    end = time.monotonic() + 5
    while service.line.sessions and time.monotonic() < end:
        time.sleep(0.01)
    assert not service.line.sessions


def test_a_crowd_of_proofs_waits_in_a_bounded_line(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once: list[int] = []
    running = threading.Semaphore(0)
    leave = threading.Event()

    def verify(document: Any, **options: Any) -> Any:
        running.release()
        at_once.append(1)
        leave.wait(20)
        raise CanvasError("done")

    monkeypatch.setattr(app, "verify", verify)
    service = Service(limits=replace(PUBLIC, sessions=40))
    said: list[str] = []

    def prove(name: str) -> None:
        Visitor(service, name).ask(type="hello")
        said.append([step[0] for step in app.proof(service, name)][-1])

    threads = [threading.Thread(target=prove, args=(f"{index:024}",)) for index in range(20)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 30
    while len(said) < 12 and time.monotonic() < end:
        time.sleep(0.02)
    assert len(at_once) == PUBLIC.jobs
    assert len(said) == 12 and all("the server is busy: 8 jobs are running or waiting" in text for text in said)
    leave.set()
    for thread in threads:
        thread.join(20)
    assert len(at_once) == PUBLIC.jobs + PUBLIC.waiting and len(said) == 20
