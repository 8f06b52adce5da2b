"""How fast the editor is: slider to gauge, frames while panning, dragging and zooming, time to open, size of the bundle.

It drives the real editor in headless Chromium without a GPU. Run it on an otherwise idle machine.
"""

import gzip
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import CDPSession, Page, sync_playwright

from benchmarks.record import machine, save, table
from canvas_rt import zoo_models
from canvas_ui.host import STATIC

SIZES = (100, 500, 2000, 5000)
STATE = "window.__canvas.useCanvas.getState()"
READY = f"() => window.__canvas && {STATE}.ready && {STATE}.status === 'ready'"

GRAPH = """
(count) => {
  // A drawing of `count` nodes: a chain with a residual around every third, as a flattened transformer is.
  const nodes = [], wires = [];
  const share = { parameters: 1 / count, flops: 1 / count, memory: 1 / count, time: 1 / count };
  const shape = { symbolic: ["batch", "seq", "hidden_size"], actual: [1, 4096, 2048] };
  for (let i = 0; i < count; i++) {
    const residual = i >= 3 && i % 3 === 0;
    const ports = residual ? ["a", "b"] : ["x"];
    nodes.push({
      path: `n${i}`, id: `n${i}`, kind: "node", title: residual ? "Add" : "Linear", detail: "hidden_size → hidden_size",
      group: residual ? "arithmetic" : "mlp", inputs: ports.map((name) => ({ name, shape, dtype: "float", wired: true })),
      outputs: [{ name: "out", shape, dtype: "float", wired: true }], fields: [], share, parameters: 4194304,
    });
    const wire = (from, port) => wires.push({
      id: `n${i}:${port}`, source: { path: `n${from}`, port: "out" }, target: { path: `n${i}`, port }, shape,
    });
    if (residual) { wire(i - 1, "a"); wire(i - 3, "b"); } else if (i > 0) wire(i - 1, "x");
  }
  const began = performance.now();
  window.__canvas.useCanvas.setState({
    path: `bench-${count}`, crumbs: [{ path: "", label: "bench" }], expanded: [], layers: null,
    nodes: new Map(nodes.map((node) => [node.path, node])), wires: new Map(wires.map((wire) => [wire.id, wire])),
    order: nodes.map((node) => node.path), selection: new Set(), selectedWires: new Set(),
  });
  return began;
}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(source: str) -> tuple[subprocess.Popen[bytes], str]:
    port = free_port()
    command = [str(Path(sys.executable).parent / "canvas-rt"), "ui", source, "--no-browser", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/"
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=2).read(1)
            return process, url
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the editor did not come up")


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def slider_to_gauge(page: Page, source: str) -> tuple[float, float, int]:
    """Milliseconds from a move of the slider to the gauge's new text, while it is dragged: median, p95, moves."""
    page.evaluate(f"(name) => {STATE}.send({{ type: 'open', source: 'zoo', name }})", source)
    page.wait_for_function(READY)
    page.wait_for_timeout(800)
    page.evaluate("""() => {
      const seen = (window.__latency = []);
      let moved = null;
      document.addEventListener("input", () => { moved ??= performance.now(); }, true);
      new MutationObserver(() => requestAnimationFrame(() => {
        if (moved !== null) { seen.push(performance.now() - moved); moved = null; }
      })).observe(document.querySelector('[data-testid="gauge"]'), { subtree: true, childList: true, characterData: true });
    }""")
    page.locator('[data-path="model.layers"] input[type="range"]').first.wait_for()
    box = page.locator('[data-path="model.layers"] input[type="range"]').first.bounding_box()
    assert box
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.5, y)
    page.mouse.down()
    for step in range(120):
        share = 0.5 + 0.35 * (((step % 40) / 40) if (step // 40) % 2 == 0 else 1 - (step % 40) / 40)
        page.mouse.move(box["x"] + box["width"] * share, y)
        page.wait_for_timeout(30)
    page.mouse.up()
    page.wait_for_function(READY)
    seen: list[float] = page.evaluate("() => window.__latency")
    return statistics.median(seen), percentile(seen, 0.95), len(seen)


CLOSE = """() => { const { flow, useScene } = window.__canvas; const node = useScene.getState().scene.byPath.get("n5");
  flow.setCenter(node.left + 100, node.top + 40, { zoom: 1 }); }"""
COUNT_FRAMES = """() => { window.__frames = []; const tick = (now) => { window.__frames.push(now);
  window.__ticking = requestAnimationFrame(tick); }; window.__ticking = requestAnimationFrame(tick); }"""
STOP_FRAMES = "() => { cancelAnimationFrame(window.__ticking); return window.__frames; }"


def frames(page: Page, devtools: CDPSession, action: Callable[[], None]) -> tuple[float, float]:
    """Frames a second while an action goes on, and the main thread's milliseconds for each."""

    def busy() -> float:
        metrics = devtools.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    page.evaluate(COUNT_FRAMES)
    before = busy()
    action()
    spent = busy() - before
    times: list[float] = page.evaluate(STOP_FRAMES)
    span = (times[-1] - times[0]) / 1000
    return (len(times) - 1) / span, 1000 * spent / max(1, len(times) - 1)


def sweep(page: Page, x: float, y: float, dx: float, dy: float, steps: int = 90) -> None:
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(steps):
        page.mouse.move(x + dx * step / steps, y + dy * step / steps)
    page.mouse.up()


def drawing(page: Page, devtools: CDPSession, count: int) -> dict[str, Any]:
    began: float = page.evaluate(GRAPH, count)
    page.wait_for_function(
        "(count) => window.__canvas.useScene.getState().scene.all.length >= count", arg=count, timeout=60_000
    )
    ready: float = page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"
    )
    page.wait_for_timeout(700)
    pane = page.locator(".cv-main").bounding_box()
    assert pane
    x, y = pane["x"] + pane["width"] / 2, pane["y"] + pane["height"] / 2
    found: dict[str, Any] = {"ready_ms": ready - began}

    def pan() -> None:
        sweep(page, x + 250, y, 120, -300)
        sweep(page, x + 250, y - 150, -120, 300)

    found["fitted pan"] = frames(page, devtools, pan)
    page.evaluate(CLOSE)
    page.wait_for_timeout(500)
    found["pan"] = frames(page, devtools, pan)
    page.evaluate(CLOSE)
    page.wait_for_timeout(500)
    card = page.locator('[data-path="n5"]').bounding_box()
    assert card
    found["drag"] = frames(page, devtools, lambda: sweep(page, card["x"] + 20, card["y"] + 10, 260, 120, 120))

    def zoom() -> None:
        page.mouse.move(x, y)
        for step in range(60):
            page.mouse.wheel(0, 60 if step < 30 else -60)
            page.wait_for_timeout(12)

    found["zoom"] = frames(page, devtools, zoom)
    return found


def open_times(page: Page) -> dict[str, float]:
    """Milliseconds from asking for a model to its picture."""
    times = {}
    for name in zoo_models():
        times[name] = page.evaluate(
            f"""async (name) => {{
              const began = performance.now();
              await {STATE}.send({{ type: "open", source: "zoo", name }});
              while (!document.querySelector('[data-path="model.layers"]')) await new Promise(requestAnimationFrame);
              await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
              return performance.now() - began;
            }}""",
            name,
        )
        page.wait_for_timeout(400)
    return times


def main() -> None:
    process, url = start("llama-3.1-405b")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--disable-gpu", "--no-sandbox"]
            )
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            began = time.perf_counter()
            page.goto(url)
            page.wait_for_function(READY, timeout=60_000)
            page.locator('[data-path="model.layers"]').wait_for()
            cold = time.perf_counter() - began
            devtools = page.context.new_cdp_session(page)
            devtools.send("Performance.enable")
            opened = open_times(page)
            latency = {name: slider_to_gauge(page, name) for name in ("llama-3.2-1b", "llama-3.1-8b", "llama-3.1-405b")}
            drawn = {count: drawing(page, devtools, count) for count in SIZES}
            version = browser.version
            browser.close()
    finally:
        process.kill()
    report(cold, opened, latency, drawn, version)


def report(cold: float, opened: dict[str, float], latency: Any, drawn: Any, version: str) -> None:
    bundle = {name: len(gzip.compress((STATIC / name).read_bytes(), 9)) for name in ("canvas.js", "canvas.css")}
    frames_of = ("pan", "drag", "zoom", "fitted pan")
    figures = {
        "machine": {**machine(), "chromium": version},
        "slider_to_gauge_ms": {name: {"median": m, "p95": p, "moves": n} for name, (m, p, n) in latency.items()},
        "drawing": drawn,
        "first_picture_s": cold,
        "open_ms": opened,
        "gzipped_bytes": bundle,
    }
    parts = [
        f"Headless Chromium {version} with `--disable-gpu`, on the same two cores as the server.",
        "## From the slider to the gauge",
        "From the slider's input event, while it is dragged without a pause, to the frame that shows the gauge's new text.",
        table(
            ["model", "median ms", "p95 ms", "moves"],
            [(name, round(m), round(p), n) for name, (m, p, n) in latency.items()],
        ),
        "## Frames",
        "Frames a second, and the main thread's milliseconds for each. *Fitted*: the whole graph in view; the others at zoom 1.",
        table(
            ["nodes", "drawn after ms", *frames_of],
            [
                (
                    f"{count:,}",
                    round(found["ready_ms"]),
                    *(f"{found[name][0]:.0f} ({found[name][1]:.1f} ms)" for name in frames_of),
                )
                for count, found in drawn.items()
            ],
        ),
        "## Opening",
        f"From nothing to the first picture: {cold:.2f} s. Then, in the open page, from asking for a zoo model to its picture:",
        table(["model", "ms"], [(name, round(ms)) for name, ms in opened.items()]),
        "## The bundle",
        f"{bundle['canvas.js'] / 1000:.0f} kB of JavaScript and {bundle['canvas.css'] / 1000:.0f} kB of CSS, gzipped.",
    ]
    save("editor", "How fast the editor is", figures, parts)
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
