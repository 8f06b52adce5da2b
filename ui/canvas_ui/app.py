"""The Gradio app: the canvas, and the tabs that follow it: charts, code, proof and export, training."""

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from fastapi import FastAPI

from canvas_rt.codegen.package import Target
from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document
from canvas_rt.scratch import Scratch, sweep
from canvas_rt.verifier.certificate import Certificate
from canvas_rt.verifier.verify import verify
from canvas_ui.dryrun_tab import dry_run_tab
from canvas_ui.host import canvas_component, charts_component
from canvas_ui.jobs import MOST_SHOWN, Tell, in_thread
from canvas_ui.server import workspace
from canvas_ui.service import Service
from canvas_ui.take_home import EMPTY, WORKING, emitted, shown, take_home
from canvas_ui.training_tab import training_tab
from canvas_ui.with_weights import with_weights

CSS = (Path(__file__).parent / "app.css").read_text(encoding="utf-8")
CHECKS = ("structure", "keys", "logits", "gradients", "decoding", "gpu")

PROVE = """### Prove it
Emits the code, runs it in a process of its own with small random weights, and compares: the graph that it traces to,
parameter names, logits, gradients, and generation with the cache."""

CHANGED = "Not verified since the last change."


def _file(name: str, text: str, language: Literal["python", "json"], scale: int) -> gr.Code:
    """A file to read."""
    return gr.Code(
        text,
        language=language,
        label=name,
        interactive=False,
        scale=scale,
        elem_id="code-" + name.partition(".")[0],
        elem_classes="code-file",
    )


def theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="sm",
        spacing_size="sm",
        text_size="sm",
        font=["Inter", "ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    )


LAUNCH: dict[str, Any] = {"theme": theme(), "css": CSS, "run_history": False, "ssr_mode": False, "footer_links": []}
"""How the app is launched, or mounted: without a record of every event, and rendered in the browser."""


def build(service: Service) -> gr.Blocks:
    """The app's page. The canvas says when its document has changed; the other tabs then ask for what they show."""
    sweep()
    shelf = Scratch()
    with gr.Blocks(
        title="Canvas", fill_height=True, fill_width=True, analytics_enabled=False, delete_cache=(3600, 3600)
    ) as page:
        session = gr.Textbox(visible="hidden", elem_id="canvas-session")
        with gr.Tabs(elem_id="canvas-tabs"):
            with gr.Tab("Canvas", id="canvas") as edited:
                canvas = canvas_component(service)
            with gr.Tab("Charts", id="charts"):
                charts_component()
            with gr.Tab("Code", id="code"), gr.Column(elem_classes="sheet"):
                state = gr.Textbox(show_label=False, interactive=False, container=False, elem_id="code-state")
                with gr.Row(equal_height=False):
                    model = _file("model.py", EMPTY, "python", scale=3)
                    config = _file("config.json", "{}", "json", scale=2)
            with gr.Tab("Proof and export", id="export") as export, gr.Column(elem_classes="sheet"):
                with gr.Row(equal_height=False, elem_id="proof-columns"):
                    with gr.Column(scale=3):
                        gr.Markdown(PROVE)
                        with gr.Row():
                            prove = gr.Button("Verify", interactive=False, variant="primary", elem_id="verify", scale=0)
                            stop = gr.Button("Stop", elem_id="verify-stop", scale=0)
                        verdict = gr.Textbox(
                            label="Verdict",
                            interactive=False,
                            lines=2,
                            elem_id="verdict",
                            placeholder="Not verified yet.",
                        )
                        certificate = gr.Dataframe(
                            headers=["check", "result", "what was found"],
                            value=[[name, "", ""] for name in CHECKS],
                            interactive=False,
                            wrap=True,
                            column_widths=["17%", "15%", "68%"],
                            show_label=False,
                            buttons=[],
                            elem_id="certificate",
                        )
                    with gr.Column(scale=2):
                        home = take_home(service, shelf.path)
                write = []
                if service.limits.at_home:
                    write = [with_weights(service, session, home.form)]
            run = dry_run_tab(service, session)
            train = training_tab(service, session)

        # Another number for each look at what is taken home, nothing while somebody edits. A `gr.State` tells no change.
        looks = gr.Textbox(visible="hidden", elem_id="canvas-looks")
        number = itertools.count(1)

        def revised(form: Target, looking: str, event: gr.EventData) -> Any:
            name = str(event._data.get("session", ""))[:64]
            told = (
                (CHANGED, _rows({check: ["", ""] for check in CHECKS}))
                if service.stale_proof(name)
                else (gr.skip(), gr.skip())
            )
            *code, taken = service.written(name, "code", lambda document: emitted(service, document, name, shelf.path))
            column = shown(taken if form == "code" else (None, WORKING))
            return (name, *code, *column, *told, str(next(number)) if looking else gr.skip())

        def look(name: str, form: Target, looking: str) -> Iterator[Any]:
            yield gr.skip(), gr.skip()
            if looking:  # what takes long is worked out for those who look
                yield from home.look(name, form)

        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        follows = [session, state, model, config, home.download, home.contents, verdict, certificate, looks]
        canvas.revised(revised, inputs=[home.form, looks], outputs=follows, queue=False, **quiet)
        edited.select(lambda: "", outputs=[looks], queue=False, **quiet)
        export.select(lambda: str(next(number)), outputs=[looks], queue=False, **quiet)
        gr.on(
            [looks.change, home.form.input],
            look,
            inputs=[session, home.form, looks],
            outputs=[home.download, home.contents],
            concurrency_limit=most_shown(service),
            trigger_mode="multiple",
            **quiet,
        )

        begin = [prove, *write, run, *train]  # what asks for the session, which the canvas tells
        session.change(
            lambda name: [gr.Button(interactive=bool(name)) for _ in begin],
            inputs=[session],
            outputs=begin,
            queue=False,
            **quiet,
        )

        def run_proof(name: str) -> Iterator[Any]:
            yield from proof(service, name)

        proving = prove.click(
            run_proof,
            inputs=[session],
            outputs=[verdict, certificate],
            concurrency_limit=most_shown(service),
            **quiet,
        )
        stop.click(lambda: "Stopped.", outputs=[verdict], cancels=[proving], queue=False, api_visibility="private")
    return page


def most_shown(service: Service) -> int:
    """Jobs of a kind whose progress is shown at a time."""
    return min(service.limits.jobs + service.limits.waiting, MOST_SHOWN)


def proof(service: Service, session: str) -> Iterator[tuple[Any, Any]]:
    """A verdict and the certificate's rows, as they come."""
    document = service.document(session)
    rows = {name: ["", ""] for name in CHECKS}
    if document is None:
        yield "Nothing is open.", _rows(rows)
        return
    stop = threading.Event()

    def work(tell: Tell) -> Certificate:
        with service.line.turn(session, stop):
            seconds, most = service.limits.job_s, service.limits.job_bytes
            return verify(document, timeout_s=seconds, most_bytes=most, progress=tell, stop=stop)

    waits = service.line.busy()
    going = in_thread(work)
    try:
        yield "Waiting for its turn…" if waits else "Emitting, and starting a process…", _rows(rows)
        for news in going:
            if news is None:
                yield gr.skip(), gr.skip()  # a page that was closed is noticed here
            elif isinstance(news, Certificate):
                for name, finding in news.findings.items():
                    rows[name] = [{True: "passed", False: "FAILED", None: "not run"}[finding.passed], finding.detail]
                verdict, proven = ("Proved", str(news)) if news.passed else ("NOT proved", "")
                later = (
                    ""
                    if service.prove(session, document, proven)
                    else " This was before your latest change: verify again."
                )
                yield f"{verdict} against {news.reference}. {news.label}: {news.change}.{later}", _rows(rows)
            elif isinstance(news, CanvasError):
                yield f"Cannot be verified. {news}", _rows(rows)
            else:
                if news in rows:
                    rows[news] = ["running…", ""]
                yield f"Comparing {news}…", _rows(rows)
    finally:
        stop.set()  # the page was closed, or somebody pressed Stop


def _rows(found: dict[str, list[str]]) -> list[list[str]]:
    return [[name, *cells] for name, cells in found.items()]


def create_app(document: Document | None = None, *, path: str = "/") -> FastAPI:
    """A FastAPI app for those who embed the editor: it alone at `/canvas`, the whole page at `path`. One set of sessions."""
    service = Service(document)
    app = workspace(service)
    mounted: FastAPI = gr.mount_gradio_app(app, build(service), path=path, **LAUNCH)
    return mounted


def serve(
    document: Document,
    *,
    host: str,
    port: int | None,
    browser: bool,
    announce: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the editor until it is stopped. `announce` is told its address.

    Raises `CanvasError` where it cannot listen there.
    """
    service = Service(document)
    threading.Thread(target=service.warm_up, daemon=True).start()
    page = build(service)
    try:
        page.launch(
            server_name=host, server_port=port, inbrowser=browser, quiet=True, prevent_thread_lock=True, **LAUNCH
        )
    except OSError as error:
        where = f"{host}:{port}" if port else host
        raise CanvasError(
            f"cannot listen at {where}: it is taken, or not ours", path="--port", hint="Choose another --port."
        ) from error
    announce(page.local_url)
    page.block_thread()
