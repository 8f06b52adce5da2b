"""The editor for everybody: bounds on all that a visitor can ask for, and a guard in front of the server."""

import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.middleware import Middleware

from canvas_rt.ir.document import Document
from canvas_ui.app import LAUNCH, build
from canvas_ui.limits import Limits
from canvas_ui.service import Service

PUBLIC = Limits(
    at_home=False,
    sessions=40,
    text=2**19,
    nodes=6000,
    steps=40,
    journal=200,
    pending=3,
    jobs=2,
    waiting=6,
    jobs_each=1,
    job_s=180,
    job_bytes=4 * 2**30,
)
"""For two cores and 16 GB, which is what a free Space has: 40 sessions of 40 steps, each another document of 512 KiB, take
7 GB (4 MB a step, measured), two jobs 8. Every model of the zoo has fewer than 2,500 nodes and 64 KiB."""

MOST_BODY = 2 * 2**20
"""Bytes of a request: a document as JSON within JSON, with its way back."""

READ = (
    "/", "/config", "/theme.css", "/robots.txt", "/favicon.ico", "/manifest.json", "/pwa_icon",
    "/static/", "/assets/", "/svelte/",
    "/gradio_api/startup-events", "/gradio_api/heartbeat/", "/gradio_api/queue/data", "/gradio_api/theme.css",
    "/gradio_api/app_id", "/gradio_api/info", "/gradio_api/file=",
)  # fmt: skip
"""What may be read: the page, its parts, and files that Gradio says are to be served. An entry that ends in `/` or `=` is
the beginning of a path."""

WRITTEN = (
    "/gradio_api/component_server", "/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/cancel",
    "/gradio_api/reset",
)  # fmt: skip
"""What may be posted, as JSON: the canvas's requests, and Gradio's own events. Nothing can be uploaded."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """Let pass what the page asks for, at most so large; all else does not exist."""

    def __init__(self, app: App, most: int = MOST_BODY) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http" or not _known(scope):
            await _refuse(scope, send, 404, b"there is no such page")
            return
        if scope["method"] == "POST":
            body = await self._body(scope, receive)
            if body is None:
                await _refuse(scope, send, 413, b"the request is too large")
                return
            receive = _again(body, receive)
        await self.app(scope, receive, send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole request; None for one that is too large, or whose sender went away."""
        length = _header(scope, b"content-length")
        if length.isdigit() and int(length) > self.most:
            return None
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            if len(body) > self.most:
                return None
            if not message.get("more_body"):
                return bytes(body)


def _known(scope: Scope) -> bool:
    root = str(scope.get("root_path", ""))
    path = str(scope["path"]).removeprefix(root) or "/"
    if scope["method"] in ("GET", "HEAD"):
        return path in READ or path.startswith(tuple(entry for entry in READ[1:] if entry[-1] in "/="))
    if scope["method"] == "POST":
        kind = _header(scope, b"content-type").partition(b";")[0].strip()
        return path.rstrip("/") in WRITTEN and kind in (b"application/json", b"")
    return bool(scope["method"] == "OPTIONS")


def _header(scope: Scope, name: bytes) -> bytes:
    return next((bytes(value) for key, value in scope.get("headers", ()) if key.lower() == name), b"")


def _again(body: bytes, receive: Receive) -> Receive:
    """What was received, to be received once more."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> MutableMapping[str, Any]:
        return waiting.pop() if waiting else await receive()

    return received


async def _refuse(scope: Scope, send: Send, status: int, said: bytes) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": said})


def launch(document: Document | None = None, limits: Limits = PUBLIC, **options: Any) -> Any:
    """Serve the editor to everybody, until it is stopped. `options`: as Gradio's `launch` takes them.

    Where to listen says the environment, as on a Space: `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT`.
    """
    service = Service(document, limits)
    threading.Thread(target=service.warm_up, daemon=True).start()
    page = build(service)
    page.queue(max_size=4 * (limits.jobs + limits.waiting), default_concurrency_limit=limits.jobs + limits.waiting)
    return page.launch(**PAGE, **options)


PAGE: dict[str, Any] = {
    **LAUNCH,
    "quiet": True,
    "show_error": False,
    "share": False,
    "mcp_server": False,
    "enable_monitoring": False,
    "pwa": False,
    "allowed_paths": [],
    "max_file_size": 1024,
    "max_threads": 80,
    "state_session_capacity": 500,
    "app_kwargs": {"middleware": [Middleware(Guard)], "docs_url": None, "redoc_url": None, "openapi_url": None},
}
"""How Gradio is launched: no path is served beside the page's own, nothing is uploaded, no API is described."""
