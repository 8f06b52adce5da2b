"""The tab that takes the open model to training: a bundle to download, and a run on this machine that is watched live."""

import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import gradio as gr
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document
from canvas_rt.scratch import Scratch
from canvas_rt.training import Bundle, Run, Step, Wishes, launch, training_bundle
from canvas_ui.archive import file_name, zipped
from canvas_ui.jobs import BEAT_S, MOST_SHOWN, Tell, in_thread
from canvas_ui.limits import Line
from canvas_ui.service import Service

MOST_RUNS = 1
"""At a time: one takes all cores."""

MOST_POINTS = 400

STARTING = "Starting a process…"

ABOUT = """### Export to training
The model, its tokenizer, the data, and a short `train.py` on Hugging Face's Trainer, with settings that fit the card chosen on
the canvas. One command trains: `python train.py`. The data is text, JSON lines or parquet; without any, a small corpus."""

DATA = "Data"
NUMBERS = ("sequence", "batch", "steps")
ENDINGS = [".txt", ".md", ".jsonl", ".json", ".parquet"]

INK, FAINT, LINE, GRID = "#2f5bea", "#7a8597", "#c2410c", "rgba(128, 138, 154, 0.25)"

Shown = tuple[Any, Any, Any]


@dataclass
class Work:
    """What a session has made of its model."""

    folder: Path
    document: Document
    bundle: Bundle
    stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    """Set while no run of it is going on, or waits for its turn."""

    running: bool = False
    """Whether a process trains it."""

    begun: bool = False


def training_tab(service: Service, session: gr.Textbox) -> list[gr.Button]:
    """Add the tab to the page that is being built: on a server for everybody, without data of one's own and without runs.

    Gives the buttons that begin something.
    """
    place = Scratch()
    works: OrderedDict[str, Work] = OrderedDict()
    line = Line(replace(service.limits, jobs=MOST_RUNS))
    local = service.limits.at_home
    with (
        gr.Tab("Training", id="training"),
        gr.Column(elem_classes="sheet"),
        gr.Row(equal_height=False, elem_id="training-columns"),
    ):
        with gr.Column(scale=2):
            gr.Markdown(ABOUT)
            data = _data() if local else gr.State(None)
            with gr.Row():
                column = gr.Textbox("text", label="Column", elem_id="training-column", max_length=200, visible=local)
                numbers = [_number(name.capitalize(), f"training-{name}") for name in NUMBERS]
            with gr.Row():
                export = gr.Button(
                    "Export to training", interactive=False, variant="primary", elem_id="training-export", scale=0
                )
                package = gr.DownloadButton(
                    "Download bundle (.zip)", interactive=False, elem_id="training-download", scale=0
                )
            told = gr.Textbox(
                label="Bundle", interactive=False, lines=5, elem_id="training-told", placeholder="Not exported yet."
            )
        with gr.Column(scale=3):
            gr.Markdown("### Train here" if local else "### Train\nDownload the bundle, and train where you are.")
            with gr.Row(visible=local):
                start = gr.Button("Start", interactive=False, variant="primary", elem_id="training-start", scale=0)
                stop = gr.Button("Stop", elem_id="training-stop", scale=0)
            verdict = gr.Textbox(
                label="Run",
                interactive=False,
                lines=3,
                elem_id="training-verdict",
                placeholder="Export first. Stop writes a checkpoint; Start then goes on from it.",
                visible=local,
            )
            curves = gr.Plot(show_label=False, visible=False, elem_id="training-curves")

    def export_it(name: str, files: list[str] | None, *wishes: Any) -> Iterator[Shown]:
        yield from exporting(service, works, name, place.path, tuple(files or ()) if local else (), wishes)

    def start_it(name: str) -> Iterator[Shown]:
        yield from running(service, works.get(name), name, line)

    def stop_it(name: str) -> str:
        work = works.get(name)
        if work is None or work.ended.is_set():
            return "Nothing is running."
        work.stop.set()
        return "Stopping after this step, with a checkpoint…" if work.running else "Stopping…"

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    export.click(
        export_it,
        inputs=[session, data, column, *numbers],
        outputs=[told, package, verdict],
        concurrency_limit=2,
        **quiet,
    )
    if local:
        start.click(
            start_it,
            inputs=[session],
            outputs=[verdict, curves, start],
            concurrency_limit=MOST_SHOWN,
            **quiet,
        )
        stop.click(stop_it, inputs=[session], outputs=[verdict], queue=False, **quiet)
    return [export, start] if local else [export]


def _data() -> gr.File:
    return gr.File(label=DATA, file_count="multiple", file_types=ENDINGS, height=140, elem_id="training-data")


def _number(label: str, name: str) -> gr.Textbox:
    """A number, or nothing: Gradio's own field of numbers makes a zero of that."""
    return gr.Textbox("", label=label, placeholder="chosen", elem_id=name, min_width=90, max_length=9)


def whole(text: str, name: str) -> int | None:
    """What somebody typed. Raises `CanvasError` where it is no number."""
    if not text.strip():
        return None
    if not text.strip().isdecimal() or not int(text):
        raise CanvasError(f"'{text}' is no whole number from 1 on", path=name, hint="Leave it out to have it chosen.")
    return int(text)


# ---------------------------------------------------------------------------------------------------------------------
# The bundle
# ---------------------------------------------------------------------------------------------------------------------


def exporting(
    service: Service,
    works: "OrderedDict[str, Work]",
    session: str,
    shelf: Path,
    files: Sequence[str],
    wishes: Sequence[Any],
) -> Iterator[Shown]:
    """What the tab shows while a bundle is made."""
    nothing = gr.DownloadButton(interactive=False, value=None)
    document = service.document(session)
    if document is None:
        yield "Nothing is open.", nothing, gr.skip()
        return
    old = works.get(session)
    if old is not None and not old.ended.is_set():
        yield "The last bundle is being trained: stop that first.", gr.skip(), gr.skip()
        return
    column, *numbers = wishes
    hardware = service.setting(session).hardware
    own = shelf / sha256(session.encode()).hexdigest()[:16]
    folder = own / file_name(document)

    def make(tell: Tell) -> Bundle:
        with service.line.turn(session):
            return written(tell)

    def written(tell: Tell) -> Bundle:
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        sequence, batch, steps = map(whole, numbers, NUMBERS)
        asked = Wishes(hardware, sequence=sequence, batch=batch, steps=steps)
        return training_bundle(document, folder, data=files, column=str(column or "text"), wishes=asked, progress=tell)

    works.pop(session, None)
    for news in in_thread(make):
        if isinstance(news, Bundle):
            work = Work(folder, document, news)
            work.ended.set()
            works[session] = work
            _forget(works, service.limits.sessions)
            yield (
                _told(news),
                gr.DownloadButton(interactive=True, value=str(_zip(folder))),
                "Exported, not trained yet.",
            )
        elif isinstance(news, CanvasError):
            yield f"Cannot be exported. {news}", nothing, gr.skip()
        elif news is not None:
            yield f"{_begun(str(news))}…", nothing, gr.skip()


def _forget(works: "OrderedDict[str, Work]", most: int) -> None:
    """Take away the oldest bundles, but for those that train."""
    for session in [name for name, work in works.items() if work.ended.is_set()][: max(0, len(works) - most)]:
        shutil.rmtree(works.pop(session).folder.parent, ignore_errors=True)


def _zip(folder: Path) -> Path:
    """The bundle as it is before it trains."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    target = folder.parent / f"{folder.name}-training.zip"
    target.write_bytes(zipped(files, folder.name))
    return target


def _told(bundle: Bundle) -> str:
    """What was chosen, and why."""
    run, cpu, gpu = (bundle.settings.sections[name] for name in ("run", "cpu", "gpu"))
    shown = [("", run[0]), ("", run[1]), *(("GPU ", s) for s in gpu[:5]), *(("CPU ", s) for s in cpu[:3])]
    lines = [f"{where}{setting.name.replace('_', ' ')} {setting.value}: {setting.reason}" for where, setting in shown]
    amount = f"About {bundle.tokens.count:,} tokens; unigram entropy {bundle.tokens.entropy:.2f} nats a token."
    return "\n".join([amount, *lines])


# ---------------------------------------------------------------------------------------------------------------------
# The run
# ---------------------------------------------------------------------------------------------------------------------


def running(service: Service, work: Work | None, session: str, line: Line) -> Iterator[Shown]:
    """What the tab shows while a bundle trains, in its turn. Who stops listening ends the run, with a checkpoint."""
    if work is None:
        yield "Export first.", gr.skip(), gr.skip()
        return
    if not work.ended.is_set():
        yield "It is running.", gr.skip(), gr.skip()
        return
    work.stop.clear()
    work.ended.clear()
    resume, work.begun = work.begun, True
    steps: list[Step] = []
    said = "Waiting for its turn…" if line.busy() else STARTING

    def train(tell: Tell) -> Run:
        try:
            with line.turn(session, work.stop):
                work.running = True
                tell(STARTING)
                return launch(work.folder, resume=resume, say=tell, watch=tell, stop=work.stop)
        finally:
            work.running = False
            work.ended.set()

    later = (
        ""
        if service.document(session) == work.document
        else " The model was changed since: export it anew to train that."
    )
    try:
        yield said, gr.Plot(visible=False) if not resume else gr.skip(), gr.Button(interactive=False)
        drawn, moment = 0, time.monotonic()
        for news in in_thread(train):
            if isinstance(news, Step):
                while steps and steps[-1].step >= news.step:  # what came after the checkpoint was dropped
                    steps.pop()
                steps.append(news)
                if time.monotonic() - moment < BEAT_S:
                    continue
            if isinstance(news, Run):
                yield (
                    f"{_begun(str(news))}{later}",
                    curves_of(news.steps, work.bundle, news),
                    gr.Button(interactive=True),
                )
                return
            if isinstance(news, CanvasError):
                work.begun = resume
                why = "Stopped before it began." if work.stop.is_set() else f"Cannot be trained. {news}"
                yield why, gr.skip(), gr.Button(interactive=True)
                return
            said = news if isinstance(news, str) else said
            new = len(steps) != drawn
            drawn, moment = len(steps), time.monotonic()
            yield _at(steps, said), curves_of(steps, work.bundle, None) if new else gr.skip(), gr.skip()
    finally:
        work.stop.set()


def _begun(text: str) -> str:
    return text[:1].upper() + text[1:]


def _at(steps: Sequence[Step], said: str) -> str:
    if not steps:
        return said
    last = steps[-1]
    left = (last.of - last.step) * (last.time - steps[0].time) / max(1, len(steps) - 1)
    return (
        f"Step {last.step} of {last.of}: loss {last.loss:.4f}, {last.tokens_per_s:,.0f} tokens/s,"
        f" {last.memory / 2**30:.2f} GiB; about {left / 60:.1f} minutes to go."
    )


def curves_of(steps: Sequence[Step], bundle: Bundle, run: Run | None) -> Any:
    """Loss with the unigram entropy, tokens a second, and memory with what was predicted."""
    if not steps:
        return gr.Plot(visible=False)
    every = max(1, len(steps) // MOST_POINTS)
    shown = [*steps[:-1:every], steps[-1]]
    at = [step.step for step in shown]
    predicted = run.predicted_memory if run else bundle.settings.value("cpu", "predicted_memory")
    figure = make_subplots(rows=1, cols=3, column_widths=[0.5, 0.25, 0.25], horizontal_spacing=0.09)
    series = (
        ([step.loss for step in shown], "loss, nats a token"),
        ([step.tokens_per_s for step in shown], "tokens/s"),
        ([step.memory / 2**30 for step in shown], "memory, GiB"),
    )
    for column, (values, title) in enumerate(series, start=1):
        line = {"color": INK, "width": 1.5}
        figure.add_trace(go.Scatter(x=at, y=values, mode="lines", line=line, name=title), row=1, col=column)
        figure.update_yaxes(title=title, gridcolor=GRID, zeroline=False, row=1, col=column)
        figure.update_xaxes(title="step", gridcolor=GRID, zeroline=False, row=1, col=column)
    for column, height, words in ((1, bundle.tokens.entropy, "unigram entropy"), (3, predicted / 2**30, "predicted")):
        figure.add_hline(
            height,
            line={"color": LINE, "dash": "dash", "width": 1.5},
            annotation={"text": words, "font": {"color": LINE}},
            annotation_position="bottom right",
            row=1,
            col=column,
        )
    for column in (2, 3):
        figure.update_yaxes(rangemode="tozero", row=1, col=column)
    figure.update_layout(
        height=340,
        margin={"l": 48, "r": 12, "t": 16, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": FAINT, "size": 12},
        showlegend=False,
    )
    return gr.Plot(figure, visible=True)
