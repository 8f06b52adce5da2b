"""The plotly figures: memory, parameters by node, roofline, memory over the step. Plain data that plotly.js draws."""

from typing import Any

import plotly.graph_objects as go

from canvas_rt.physics.hardware import load_hardware
from canvas_rt.physics.playback import timeline
from canvas_rt.session import State
from canvas_ui.views.costs import GB, totals

LIGHT = {"ink": "#14181f", "muted": "#4a5361", "grid": "#dfe3e9", "line": "#2f5bea", "bad": "#c8252c"}
DARK = {"ink": "#eceff4", "muted": "#b4bdca", "grid": "#2c333f", "line": "#7d9cff", "bad": "#ff7a7e"}
PARTS = {
    "weights": "#2f6bd8",
    "gradients": "#8a4fd0",
    "optimizer": "#b0498f",
    "activations": "#d27a1f",
    "KV cache": "#0f7f86",
    "allocator": "#8b95a3",
    "context": "#5b6675",
}
MOST_BARS = 14


def figures(state: State, *, dark: bool) -> dict[str, Any]:
    """Figures by name, as plotly's JSON. Empty while the document has no cost."""
    if state.report is None:
        return {}
    inks = DARK if dark else LIGHT
    made = {
        "memory": memory(state, inks),
        "parameters": parameters(state, inks),
        "roofline": roofline(state, inks),
        "timeline": over_the_step(state, inks),
    }
    return {name: figure.to_plotly_json() for name, figure in made.items()}


def _figure(inks: dict[str, str], **layout: Any) -> go.Figure:
    axis = {"gridcolor": inks["grid"], "linecolor": inks["grid"], "zerolinecolor": inks["grid"], "automargin": True}
    return go.Figure(
        layout={
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": inks["ink"], "size": 12},
            "margin": {"l": 8, "r": 12, "t": 24, "b": 8},
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"namelength": -1},
            "template": None,
            "showlegend": False,
            **layout,
        }
    )


def memory(state: State, inks: dict[str, str]) -> go.Figure:
    """Each part of the peak, beside what the card has."""
    found = totals(state)
    figure = _figure(
        inks, barmode="stack", showlegend=True, legend={"orientation": "h", "y": -0.25, "traceorder": "normal"}
    )
    for part in found.memory or []:
        figure.add_bar(
            x=[part.bytes / GB],
            y=[found.card],
            orientation="h",
            name=part.name,
            marker={"color": PARTS.get(part.name, "#888888")},
            hovertemplate=f"{part.name}: %{{x:.2f}} GB<extra></extra>",
        )
    figure.add_vline(x=found.capacity / GB, line={"color": inks["bad"], "dash": "dash", "width": 2})
    figure.add_annotation(
        x=found.capacity / GB,
        y=1.0,
        yanchor="bottom",
        yref="paper",
        showarrow=False,
        text=f"{found.capacity / GB:.1f} GB usable",
        font={"color": inks["bad"]},
    )
    figure.update_xaxes(title="GB (2³⁰ bytes)", rangemode="tozero")
    return figure


def parameters(state: State, inks: dict[str, str]) -> go.Figure:
    """Which nodes hold the parameters, the largest first."""
    assert state.report is not None
    rows = sorted(
        ((cost.parameters, path) for path, cost in state.report.by_node.items() if cost.parameters), reverse=True
    )
    shown, rest = rows[:MOST_BARS], rows[MOST_BARS:]
    if rest:
        shown.append((sum(count for count, _ in rest), f"{len(rest)} more"))
    figure = _figure(inks)
    figure.add_bar(
        x=[count for count, _ in reversed(shown)],
        y=[path for _, path in reversed(shown)],
        orientation="h",
        marker={"color": inks["line"]},
        hovertemplate="%{y}: %{x:,}<extra></extra>",
    )
    figure.update_xaxes(title="parameters", tickformat="~s")
    return figure


def roofline(state: State, inks: dict[str, str]) -> go.Figure:
    """Each node by its arithmetic intensity, under the card's roof."""
    assert state.report is not None
    card = load_hardware(state.setting.hardware)
    peak = card.peak_flops.get(state.setting.rate) or max(card.peak_flops.values())
    ridge = peak / card.bandwidth
    # FLOPs are counted over the full square of positions; kernels skip what the mask hides, and so seem to beat the roof.
    points = [
        (path, flops / cost.bytes, min(flops / cost.time_s, peak, card.bandwidth * flops / cost.bytes), cost)
        for path, cost in state.report.by_node.items()
        if (flops := cost.flops_forward + cost.flops_backward) and cost.bytes and cost.time_s
    ]
    low = min([ridge / 100, *(x for _, x, _, _ in points)])
    high = max([ridge * 20, *(x for _, x, _, _ in points)]) * 1.5
    figure = _figure(inks)
    figure.add_scatter(
        x=[low, ridge, high],
        y=[low * card.bandwidth, peak, peak],
        mode="lines",
        line={"color": inks["muted"], "width": 2},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=[x for _, x, _, _ in points],
        y=[y for _, _, y, _ in points],
        mode="markers",
        text=[path for path, _, _, _ in points],
        customdata=[[cost.time_s * 1e3, cost.bound] for _, _, _, cost in points],
        marker={
            "size": [6 + 34 * (cost.time_s / state.report.time.total_s) ** 0.5 for _, _, _, cost in points],
            "color": [inks["line"] if cost.bound == "compute" else "#d27a1f" for _, _, _, cost in points],
            "opacity": 0.75,
            "line": {"width": 0},
        },
        hovertemplate="%{text}<br>%{x:.1f} FLOP per byte, %{y:.3s}FLOP/s<br>"
        "%{customdata[0]:.3f} ms, bound by %{customdata[1]}<extra></extra>",
    )
    figure.update_xaxes(type="log", title="FLOP per byte moved")
    figure.update_yaxes(type="log", title="FLOP/s", exponentformat="SI")
    return figure


def over_the_step(state: State, inks: dict[str, str]) -> go.Figure:
    """What is allocated, from the step's begin to its end."""
    setting = state.setting
    line = timeline(state.document, scenario=setting.scenario)
    figure = _figure(inks)
    figure.add_scatter(
        x=[100 * x for x, _ in line],
        y=[bytes_ / GB for _, bytes_ in line],
        mode="lines",
        line={"color": inks["line"], "width": 1.5, "shape": "hv"},
        fill="tozeroy",
        hovertemplate="%{y:.2f} GB<extra></extra>",
    )
    capacity = load_hardware(setting.hardware).memory_bytes / GB
    if line and max(y for _, y in line) / GB > 0.5 * capacity:
        figure.add_hline(y=capacity, line={"color": inks["bad"], "dash": "dash", "width": 2})
    figure.update_xaxes(title="allocations of the step, first to last (%)", range=[0, 100])
    figure.update_yaxes(title="GB allocated", rangemode="tozero")
    return figure
