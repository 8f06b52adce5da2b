"""The tab that runs the open model for real: measured beside predicted, as it comes, and stopped at any time."""

import threading
from collections.abc import Iterator
from typing import Any

import gradio as gr
import plotly.graph_objects as go

from canvas_rt.dryrun import DryRun, dry_run
from canvas_rt.dryrun.here import devices
from canvas_rt.dryrun.result import NAMES
from canvas_rt.dryrun.sizes import GIB
from canvas_rt.errors import CanvasError
from canvas_rt.reporting import how
from canvas_ui.jobs import Tell, in_thread
from canvas_ui.service import Service

MOST_RUNS = 1
"""At a time: each is planned for all the memory that is free."""

LONGEST_S = {"meta": 300, "cpu": 120, "cuda": 300}
"""Seconds of a run, by device."""

WORDS = {
    "meta": "meta: every layer, no numbers",
    "cpu": "cpu: real numbers, as much as fits",
    "cuda": "cuda: the card here",
}

ABOUT = """### Run it for real
Emits the model and runs it in a process of its own, in the scenario that is set on the canvas. What it takes stands beside
what was predicted."""

HEADS = ["figure", "measured", "predicted", "error"]
WIDTHS = ["30%", "25%", "25%", "20%"]
EMPTY = [[name, "", "", ""] for name in NAMES.values()]

Shown = tuple[str, Any, Any]
"""The verdict, the table, the memory over time."""


def dry_run_tab(service: Service, session: gr.Textbox) -> gr.Button:
    """Add the tab to the page that is being built; the button that begins."""
    with (
        gr.Tab("Dry run", id="dryrun"),
        gr.Column(elem_classes="sheet"),
        gr.Row(equal_height=False, elem_id="dryrun-columns"),
    ):
        with gr.Column(scale=2):
            gr.Markdown(ABOUT)
            offered = devices()
            device = gr.Radio(
                [(WORDS[name], name) for name in offered],
                value=offered[0],
                label="Device",
                elem_id="dryrun-device",
            )
            with gr.Row():
                run = gr.Button("Run", interactive=False, variant="primary", elem_id="dryrun-run", scale=0)
                stop = gr.Button("Stop", elem_id="dryrun-stop", scale=0)
            verdict = gr.Textbox(
                label="Verdict", interactive=False, lines=4, elem_id="dryrun-verdict", placeholder="Not run yet."
            )
        with gr.Column(scale=3):
            table = gr.Dataframe(
                headers=HEADS,
                value=EMPTY,
                interactive=False,
                wrap=True,
                column_widths=WIDTHS,
                show_label=False,
                buttons=[],
                max_height=640,
                elem_id="dryrun-table",
            )
            memory = gr.Plot(label="Memory over time", visible=False, elem_id="dryrun-memory")

    stops: dict[str, threading.Event] = {}

    def run_it(name: str, chosen: str) -> Iterator[Shown]:
        stops[name] = threading.Event()
        try:
            yield from running(service, name, chosen, stops[name])
        finally:
            stops.pop(name, None)

    def stop_it(name: str) -> str:
        if name in stops:  # at once: who waits for news of a run would hear of it only then
            stops[name].set()
        return "Stopped."

    shown = [verdict, table, memory]
    waiting = run.click(
        lambda: "Waiting for its turn…",
        outputs=[verdict],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    going = waiting.then(
        run_it,
        inputs=[session, device],
        outputs=shown,
        concurrency_limit=MOST_RUNS,
        show_progress="hidden",
        api_visibility="private",
    )
    stop.click(
        stop_it,
        inputs=[session],
        outputs=[verdict],
        cancels=[going],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    return run


def running(service: Service, session: str, device: str, stop: threading.Event) -> Iterator[Shown]:
    """What the tab shows, as a run goes on. Who stops listening ends the run."""
    document = service.document(session)
    if document is None:
        yield "Nothing is open.", gr.skip(), gr.skip()
        return
    setting = service.setting(session)
    limits = service.limits
    memory = None if limits.at_home else limits.job_bytes  # at home as much as is free

    def work(tell: Tell) -> DryRun:
        with service.line.turn(session, stop):
            return dry_run(
                document,
                device=device,
                scenario=setting.scenario,
                hardware=setting.hardware,
                timeout_s=min(LONGEST_S[device], limits.job_s),
                memory_bytes=memory,
                progress=tell,
                stop=stop,
            )

    going = in_thread(work)
    try:
        yield f"{how(setting.scenario)}, on {device}…", table_of([]), gr.Plot(visible=False)
        for news in going:
            if news is None:
                yield gr.skip(), gr.skip(), gr.skip()  # a page that was closed is noticed here
            elif isinstance(news, DryRun):
                yield told(news), table_of(rows_of(news), news.hardware), plot_of(news)
            elif isinstance(news, CanvasError):
                yield f"Cannot be run. {news}", gr.skip(), gr.skip()
            else:
                yield f"{how(setting.scenario)}, on {device}\n{news}…", gr.skip(), gr.skip()
    finally:
        stop.set()  # the page was closed, or somebody pressed Stop


def told(found: DryRun) -> str:
    """A run in a few sentences."""
    verdict = found.verdict[0].upper() + found.verdict[1:]
    notes = [f"{note[0].upper()}{note[1:]}." for note in found.notes]
    lines = [f"{verdict}.", f"{how(found.scenario)}, on {found.device_name}: {found.extent}.", *notes]
    return "\n".join(lines)


def rows_of(found: DryRun) -> list[list[str]]:
    """The table: a row for each figure."""
    return [[figure.label, *figure.cells()] for figure in found.figures]


def table_of(rows: list[list[str]], hardware: str = "") -> Any:
    """The table, with a column for the card that was asked about where the run was on another."""
    heads = [*HEADS, f"on {hardware}"] if hardware else HEADS
    cut = [row[: len(heads)] for row in rows]
    widths = ["24%", "20%", "20%", "14%", "22%"] if hardware else WIDTHS
    return gr.Dataframe(headers=heads, value=cut or EMPTY, column_widths=widths)


def plot_of(found: DryRun) -> Any:
    """What tensors held over time, with the peak that was predicted; nothing where it died before there was any."""
    if not found.timeline:
        return gr.Plot(visible=False)
    moments, held = zip(*found.timeline, strict=True)
    figure = go.Figure(
        go.Scatter(
            x=moments,
            y=[nbytes / GIB for nbytes in held],
            fill="tozeroy",
            line={"color": "#2f5bea", "width": 1.5},
            fillcolor="rgba(47, 91, 234, 0.18)",
            name="held",
        )
    )
    peak = found.by_name.get("memory.peak_allocated")
    if peak is not None and peak.predicted:
        figure.add_hline(
            peak.predicted / GIB,
            line={"color": "#c2410c", "dash": "dash", "width": 1.5},
            annotation={"text": "predicted peak", "font": {"color": "#c2410c"}},
            annotation_position="bottom right",
        )
    axis = {"gridcolor": "rgba(128, 138, 154, 0.25)", "zeroline": False}
    top = max([*held, peak.predicted or 0 if peak is not None else 0]) / GIB
    figure.update_layout(
        height=280,
        margin={"l": 48, "r": 12, "t": 28, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#7a8597", "size": 12},
        xaxis={**axis, "title": "allocations and releases" if found.device == "meta" else "seconds"},
        yaxis={**axis, "title": "GiB", "range": [0, 1.12 * top]},
        showlegend=False,
    )
    return gr.Plot(figure, visible=True)
