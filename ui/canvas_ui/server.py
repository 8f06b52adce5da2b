"""The web server: the editor alone under `/canvas`, and the Gradio app at the root."""

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

from canvas_ui.host import STATIC, page
from canvas_ui.messages import MOST_TEXT
from canvas_ui.service import Service

FILES = {"canvas.js": "text/javascript", "canvas.css": "text/css"}
MOST_BODY = MOST_TEXT * 2
"""Bytes of a request: a document as JSON within JSON."""

log = logging.getLogger(__name__)


def workspace(service: Service) -> FastAPI:
    """An app that serves the editor alone: `/canvas`, its files, and the exchange of messages."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/canvas")
    def editor(request: Request) -> HTMLResponse:
        return HTMLResponse(page(request.scope.get("root_path", "")))

    @app.get("/canvas/static/{name}")
    def static(name: str) -> Response:
        if name not in FILES:
            return Response(status_code=404)
        return FileResponse(
            STATIC / name, media_type=FILES[name], headers={"cache-control": "public, max-age=31536000"}
        )

    @app.post("/canvas/exchange")
    async def exchange(request: Request) -> JSONResponse:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BODY:
                return JSONResponse({"ok": False, "error": {"message": "the request is too large"}}, status_code=413)
        return JSONResponse(await run_in_threadpool(_answer, service, bytes(body)))

    return app


def _answer(service: Service, body: bytes) -> dict[str, Any]:
    import json

    try:
        envelope = json.loads(body)
    except (ValueError, RecursionError):
        envelope = None
    return service.exchange(envelope)
