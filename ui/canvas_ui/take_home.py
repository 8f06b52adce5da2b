"""What is taken home of the open model: a form to choose, a zip to download, and a word on what is in it."""

import contextlib
import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from canvas_rt.codegen.native import native_at_once
from canvas_rt.codegen.package import Target, emit
from canvas_rt.errors import CanvasError, EmitError
from canvas_rt.ir.document import Document
from canvas_rt.sources import emit_apart
from canvas_ui.archive import file_name, zipped
from canvas_ui.jobs import Tell, in_thread
from canvas_ui.service import Service

FORMS: Mapping[Target, str] = {"code": "Package", "plain": "Plain PyTorch", "native": "Native config"}

ABOUT: Mapping[Target, str] = {
    "code": """A Hugging Face model: `model.py`, `config.json`, its card, and the document to go on with. It loads with
`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` once it has weights.""",
    "plain": """One `model.py` that imports PyTorch alone: the same blocks, without a cache and without transformers. The same
weights load, and give the same logits.""",
    "native": """`config.json` alone, where the model still is a stock architecture with another config. It runs without code
of its own in transformers, vLLM and wherever that architecture does.""",
}

EMPTY = "# Open the canvas first: the code of what it shows stands here."
CHOOSE = "Choose Package: its code may use transformers."
WORKING = "Working it out…"
LONGEST = 400
"""Characters of an edit that left the stock architecture."""

Taken = tuple[str | None, str]
"""The zip, if there is one, and what is in it, or why there is none."""

Shown = tuple[Any, str]
"""The download, and what is in it."""


class Emitted(NamedTuple):
    """What the page shows of a document's code."""

    said: str
    """A word on it."""

    model: str
    config: str
    taken: Taken


@dataclass(frozen=True)
class TakeHome:
    """The column, as other parts of the page know it."""

    form: gr.Radio
    download: gr.DownloadButton
    contents: gr.Textbox

    look: Callable[[str, Target], Iterator[Shown]]
    """What to show of a session's model in a form, as it is worked out."""


def take_home(service: Service, shelf: Path) -> TakeHome:
    """Add the column to the page that is being built."""
    gr.Markdown("### Take it home")
    form = gr.Radio(
        [(words, name) for name, words in FORMS.items()],
        value="code",
        label="Form",
        show_label=False,
        container=False,
        elem_id="form",
    )
    about = gr.Markdown(ABOUT["code"])
    download = gr.DownloadButton("Download (.zip)", interactive=False, variant="primary", elem_id="download", scale=0)
    contents = gr.Textbox(label="Contents", interactive=False, lines=8, elem_id="contents")
    form.input(ABOUT.__getitem__, inputs=[form], outputs=[about], queue=False, api_visibility="private")
    return TakeHome(form, download, contents, lambda name, chosen: looking(service, name, chosen, shelf))


def looking(service: Service, session: str, form: Target, shelf: Path) -> Iterator[Shown]:
    """What is shown of the open model in a form, as it is worked out; nothing more once somebody looks anew."""
    stop = service.look(session)

    def work(tell: Tell) -> Taken:
        if form != "code":
            return service.written(session, form, lambda found: _in_form(service, found, session, form, shelf, stop))
        package = service.written(session, form, lambda found: emitted(service, found, session, shelf)).taken
        if package[0] is None:
            return package
        tell(package)
        return package[0], f"{package[1]}\n\n{service.written(session, 'stock', _stock)}"

    if form != "code":
        yield shown((None, WORKING))
    try:
        for news in in_thread(work):
            if stop.is_set():
                return
            if news is None:
                yield gr.skip(), gr.skip()  # a page that was closed is noticed here
            else:
                yield shown(refused(form, news) if isinstance(news, CanvasError) else news)
    finally:
        stop.set()


def emitted(service: Service, document: Document | None, session: str, shelf: Path) -> Emitted:
    """A document as a package, to read and to download."""
    if document is None:
        return Emitted("", EMPTY, "{}", (None, ""))
    try:
        files = emit(document).files
    except CanvasError as error:
        said = f"This graph cannot be written as code yet. {error}"
        return Emitted(said, f"# {error.message}", "{}", (None, f"Nothing to download yet. {error}"))
    said = f"{document.name}: model.py has {files['model.py'].count(chr(10))} lines."
    taken = _shelved(service, document, files, session, "code", shelf)
    return Emitted(said, files["model.py"], files["config.json"], taken)


def _in_form(
    service: Service, document: Document | None, session: str, form: Target, shelf: Path, stop: threading.Event
) -> Taken:
    """A document in another form. A native config is proven by a trace, which is nothing for a process with many sessions."""
    if document is None:
        return None, ""
    try:
        if form == "plain":
            source = emit(document, target=form)
        else:
            with service.line.turn(session, stop):
                limits = service.limits
                source = emit_apart(document, form, min(300, limits.job_s), limits.job_bytes, stop)
    except EmitError as error:  # else it tells nothing of the document
        return refused(form, error)
    return _shelved(service, document, source.files, session, form, shelf)


def _stock(document: Document | None) -> str:
    """Whether a document still is a stock architecture, or which edit left it, where that is told in no time."""
    native = None if document is None else native_at_once(document)
    if native is None:
        return "Native config says whether this still is a stock architecture."
    told = str(native)
    told = told if len(told) <= LONGEST else f"{told[:LONGEST]}…"
    return f"{told[:1].upper()}{told[1:]}{': Native config is just that' if native.config is not None else ''}."


def shown(taken: Taken) -> Shown:
    return gr.DownloadButton(interactive=taken[0] is not None, value=taken[0]), taken[1]


def refused(form: Target, error: CanvasError) -> Taken:
    """Why there is nothing to download in a form, and what to do."""
    hint = CHOOSE if "target=" in error.hint else error.hint  # which is for the command line and Python
    found = CanvasError(error.message, path=error.path, hint=hint)
    return None, f"Cannot be written as {FORMS[form][0].lower()}{FORMS[form][1:]}. {found}"


def _shelved(
    service: Service, document: Document, files: Mapping[str, str], session: str, form: Target, shelf: Path
) -> Taken:
    """A zip of some files, and their names: one for each session and form, its last."""
    name = file_name(document) + ("" if form == "code" else f"-{form}")
    own = shelf / hashlib.sha256(session.encode()).hexdigest()[:16] / form
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True, exist_ok=True)
    target = own / f"{name}.zip"
    target.write_bytes(zipped(files, name))
    _clear(shelf, service.limits.sessions)
    sizes = "\n".join(f"{name}  {len(text.encode()):,} bytes" for name, text in files.items())
    return str(target), sizes


def _clear(shelf: Path, most: int) -> None:
    """Take away what sessions left that are long gone."""
    aged = []
    for folder in shelf.iterdir():
        with contextlib.suppress(OSError):  # another request cleared it first
            aged.append((folder.stat().st_mtime, folder))
    for _, folder in sorted(aged, reverse=True)[most:]:
        shutil.rmtree(folder, ignore_errors=True)
