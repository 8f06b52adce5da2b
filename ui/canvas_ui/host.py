"""The bundle's place in a page: as a Gradio component, and as a page of its own."""

import hashlib
from functools import lru_cache
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parent / "static"
"""The built bundle: `canvas.js` and `canvas.css`."""


@lru_cache(maxsize=1)
def version() -> str:
    """A hash of the bundle, so that browsers ask anew when it changed."""
    digest = hashlib.sha256()
    for name in ("canvas.js", "canvas.css"):
        digest.update((STATIC / name).read_bytes())
    return digest.hexdigest()[:12]


def plotly_js() -> Path:
    """plotly.py brings the plotly.js that draws its figures: no other host is asked for it."""
    spec = find_spec("plotly")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"


# The templates are static: Gradio evaluates `${…}` in templates, and nothing of a document may get there.
_MODULE = """
const base = ((window.gradio_config || {}).root || '').replace(/\\/$/, '') + '/gradio_api/file=';
const canvas = import(base + props.static_dir + '/canvas.js?v=' + props.version);
if (!document.querySelector('link[data-canvas]')) {
  const style = document.createElement('link');
  style.rel = 'stylesheet';
  style.dataset.canvas = '';
  style.href = base + props.static_dir + '/canvas.css?v=' + props.version;
  document.head.appendChild(style);
}
"""
_CANVAS = """
canvas.then(({ mount, gradioExchange }) => {
  let waiting;
  mount(element.querySelector('.canvas-host'), {
    exchange: gradioExchange(server),
    onRevision: (session, revision) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => trigger('revised', { session, revision }), 300);
    },
  });
});
"""
_CHARTS = """
canvas.then(({ mountCharts }) => mountCharts(element.querySelector('.charts-host'), { plotly: base + props.plotly }));
"""


def canvas_component(service: Any) -> Any:
    """The editor as a Gradio component. A factory: a subclass of `gr.HTML` would write files when it is imported."""

    def exchange(envelope: Any) -> dict[str, Any]:
        answer: dict[str, Any] = service.exchange(envelope)
        return answer

    return _component("canvas", "canvas-host", _MODULE + _CANVAS, server_functions=[exchange])


def charts_component() -> Any:
    """The plotly figures of what the canvas shows."""
    return _component("charts", "charts-host", _MODULE + _CHARTS, plotly=str(plotly_js()))


def _component(name: str, host: str, script: str, **props: Any) -> Any:
    import gradio as gr

    gr.set_static_paths(paths=[str(STATIC), str(plotly_js())])
    return gr.HTML(
        html_template=f'<div class="{host} not-prose"></div>',
        css_template="",
        js_on_load=script,
        apply_default_css=False,
        container=False,
        padding=False,
        static_dir=str(STATIC),
        version=version(),
        elem_id=name,
        **props,
    )


def page(base: str = "") -> str:
    """A page with nothing but the editor, for those who embed it. `base`: the path that the app is mounted under."""
    root = escape(base.rstrip("/"), quote=True)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Canvas</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{root}/canvas/static/canvas.css?v={version()}">
<style>html, body, #canvas {{ height: 100%; margin: 0; }}</style>
</head>
<body>
<div id="canvas"></div>
<script type="module">
import {{ mount, httpExchange }} from "{root}/canvas/static/canvas.js?v={version()}";
if (matchMedia("(prefers-color-scheme: dark)").matches) document.body.classList.add("dark");
const source = new URLSearchParams(location.search).get("source") || undefined;
mount(document.querySelector("#canvas"), {{ exchange: httpExchange("{root}/canvas/exchange"), source }});
</script>
</body>
</html>
"""
