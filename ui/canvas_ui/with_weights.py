"""Writing the open model with the weights of a checkpoint into a folder of this machine, for those whose machine it is."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from canvas_rt.codegen.package import Target
from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document
from canvas_rt.physics.shapes import require_sound
from canvas_rt.weights import WeightReport, transplant
from canvas_rt.weights.report import shown_bytes
from canvas_ui.jobs import MOST_SHOWN, Tell, in_thread
from canvas_ui.limits import ELSEWHERE
from canvas_ui.service import Service

FROM, TO = "Folder of the original's weights", "Folder to write"

STOPPED = "Stopped. What was written is kept: write again to go on."

SHOWN_S = 0.2
"""Seconds between two words on how far it is."""

ABOUT = """### With weights
Carries the original's weights over into the chosen form, tensor by tensor, with tokenizer and license. Stop, or closing the
page, keeps what was written: write again to go on."""

Shown = tuple[str, Any]
"""What is said, and the button that begins."""


def with_weights(service: Service, session: gr.Textbox, form: gr.Radio) -> gr.Button:
    """Add it to the page that is being built; the button that begins."""
    with gr.Row(equal_height=False, elem_id="weights"):
        with gr.Column(scale=2):
            gr.Markdown(ABOUT)
            weights = _folder(FROM, "a model folder with *.safetensors", "weights-from")
            folder = _folder(TO, "one that does not exist yet", "weights-to")
            with gr.Row():
                write = gr.Button(
                    "Write with weights", interactive=False, variant="primary", elem_id="weights-write", scale=0
                )
                stop = gr.Button("Stop", elem_id="weights-stop", scale=0)
        with gr.Column(scale=3):
            said = gr.Textbox(
                label="Weights",
                interactive=False,
                lines=12,
                elem_id="weights-said",
                placeholder="Nothing written yet.",
            )
    stops: dict[str, threading.Event] = {}

    def write_it(name: str, *asked: Any) -> Iterator[Shown]:
        if name in stops:
            yield "It is being written.", gr.skip()
            return
        stops[name] = threading.Event()
        try:
            yield from writing(service, name, *asked, stop=stops[name])
        finally:
            stops.pop(name, None)

    def stop_it(name: str) -> str:
        if name not in stops:
            return "Nothing is being written."
        stops[name].set()
        return "Stopping after this tensor…"

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    asked = [session, form, weights, folder]
    write.click(write_it, inputs=asked, outputs=[said, write], concurrency_limit=MOST_SHOWN, **quiet)
    stop.click(stop_it, inputs=[session], outputs=[said], queue=False, **quiet)
    return write


def _folder(label: str, hint: str, name: str) -> gr.Textbox:
    return gr.Textbox("", label=label, placeholder=hint, elem_id=name, max_length=4096, min_width=240)


def writing(
    service: Service, session: str, form: Target, weights: str, folder: str, *, stop: threading.Event
) -> Iterator[Shown]:
    """What the page shows while the open model is written with weights. Who stops listening stops it."""
    document = service.document(session)
    if not service.limits.at_home:
        yield f"Nothing is written to this server. {ELSEWHERE}", gr.skip()
        return
    if document is None:
        yield "Nothing is open.", gr.skip()
        return
    certificate = service.certificate(session, document) if form == "code" else ""  # it is of that code

    def work(tell: Tell) -> str:
        source, place = named(weights, FROM), named(folder, TO)
        require_sound(document)
        with service.line.turn(session, stop):
            report = transplant(
                document,
                source,
                place,
                target=form,
                certificate=certificate,
                progress=lambda done, total: tell((done, total)),
                stop=stop,
            )
        return told(report, document, form, place, certificate)

    waits, shown = service.line.busy(), time.monotonic()
    try:
        yield "Waiting for its turn…" if waits else "Looking at the weights…", gr.Button(interactive=False)
        for news in in_thread(work):
            if isinstance(news, str):
                yield news, gr.Button(interactive=True)
            elif isinstance(news, CanvasError):
                yield STOPPED if stop.is_set() else f"Not written. {news}", gr.Button(interactive=True)
            elif news is None:
                yield gr.skip(), gr.skip()  # a page that was closed is noticed here
            elif time.monotonic() - shown >= SHOWN_S and not stop.is_set():
                shown = time.monotonic()
                yield how_far(*news), gr.skip()
    finally:
        stop.set()


def named(text: str, label: str) -> Path:
    """A folder as somebody typed it. Raises `CanvasError` where there is none."""
    if not text.strip():
        raise CanvasError("is empty", path=label, hint="Name a folder of this machine.")
    try:
        return Path(text.strip()).expanduser().absolute()
    except RuntimeError as error:
        raise CanvasError("has no such home", path=text[:200], hint="Write the folder's whole path.") from error


def how_far(done: int, total: int) -> str:
    return f"Writing: {100 * done // max(1, total)} %, {shown_bytes(done)} of {shown_bytes(total)}"


def told(report: WeightReport, document: Document, form: Target, place: Path, certificate: str) -> str:
    """What was written where, how it is loaded, and how each parameter was made."""
    trusting = ", trust_remote_code=True" if form == "code" else ""
    load = f'{document.purpose.auto}.from_pretrained("{place}"{trusting})'
    ways = {"plain": "Its README.md says how it is loaded."}
    proof = {
        "code": "Its card holds the certificate." if certificate else "Its card holds no certificate: verify first."
    }
    lines = [f"Written to {place}.", ways.get(form, f"Load it: {load}"), proof.get(form, ""), "", *report.lines()]
    return "\n".join(lines)
