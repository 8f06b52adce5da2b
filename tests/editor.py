"""The editor as people use it: a server of its own, tabs in Chromium, and what hands do."""

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Locator, Page

ROOT = Path(__file__).parents[1]


class Server:
    """`canvas-rt ui` in a process of its own, which can be killed and started again at the same port."""

    def __init__(self, *arguments: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.arguments = arguments
        self.url = f"http://127.0.0.1:{self.port}/"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            sys.executable,
            "-c",
            "import sys; from canvas_rt.cli import main; sys.exit(main())",
            "ui",
            *self.arguments,
            "--no-browser",
            "--port",
            str(self.port),
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while time.monotonic() < end:
            assert self.process.poll() is None, "the server ended by itself"
            try:
                urllib.request.urlopen(self.url, timeout=2).read(1)
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("the server did not come up")

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Tab:
    """One tab of the editor, and what went wrong in it."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context, self.url = context, url
        self.page: Page = context.new_page()
        self.page.set_default_timeout(12_000)
        self.flaws: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", lambda message: self.flaws.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.flaws.append(str(error)))
        self.page.on(
            "request", lambda request: self.hosts.add(request.url.split("/")[2]) if "://" in request.url else None
        )

    def open(self, query: str = "") -> "Tab":
        self.page.goto(self.url + query)
        self.settled()
        return self

    def settled(self) -> None:
        """Wait until the page has said all that it had to say, and heard the answers."""
        self.page.wait_for_function(
            "() => window.__canvas && window.__canvas.useCanvas.getState().ready"
            " && window.__canvas.useCanvas.getState().status === 'ready'",
            timeout=60_000,
        )
        self.page.wait_for_timeout(50)

    def tab(self, name: str) -> None:
        """Go to another tab of the page, which follows the canvas once it has said what it shows."""
        self.page.wait_for_function(
            "() => document.querySelector('#canvas-session :is(textarea, input)')?.value", timeout=60_000
        )
        self.page.get_by_role("tab", name=name).click()

    def state(self, expression: str) -> Any:
        """Part of what the page knows: `state('revision')`."""
        return self.page.evaluate(f"() => window.__canvas.useCanvas.getState().{expression}")

    def card(self, path: str) -> Any:
        return self.page.locator(f'[data-path="{path}"]')

    def gauge(self) -> str:
        return self.page.get_by_test_id("gauge").inner_text()

    def look(self, path: str) -> None:
        """Go to a level, as the breadcrumbs do."""
        self.page.evaluate("(path) => window.__canvas.useCanvas.getState().look(path)", path)
        self.settled()
        self.page.wait_for_timeout(400)


OpenTab = Callable[..., Tab]


OpenTab = Callable[..., Tab]


def middle(target: Locator) -> tuple[float, float]:
    box = target.bounding_box()
    assert box, "it is not on the screen"
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def port(tab: Tab, path: str, name: str) -> Locator:
    return tab.page.locator(f'[data-path="{path}"] .react-flow__handle[data-handleid="{name}"]').first


def drag(tab: Tab, start: tuple[float, float], end: tuple[float, float], steps: int = 12) -> None:
    mouse = tab.page.mouse
    mouse.move(*start)
    mouse.down()
    mouse.move(*end, steps=steps)
    tab.page.wait_for_timeout(60)
    mouse.up()
    tab.settled()


def slide(tab: Tab, slider: Locator, share: float, steps: int = 25) -> None:
    """Drag a slider's thumb to a share of its length."""
    box = slider.bounding_box()
    assert box
    low, high, now = (float(slider.get_attribute(name) or slider.input_value()) for name in ("min", "max", "value"))
    now = float(slider.input_value())
    y = box["y"] + box["height"] / 2
    at = box["x"] + box["width"] * (now - low) / (high - low)
    drag(tab, (at, y), (box["x"] + box["width"] * share, y), steps)


def field(tab: Tab, path: str, name: str) -> Locator:
    """A field on a node's card."""
    return tab.card(path).get_by_test_id(f"field-{name}")


def inspected(tab: Tab, name: str) -> Locator:
    """A field in the inspector."""
    return tab.page.locator("[data-inspector]").get_by_test_id(f"field-{name}")


def number(target: Locator) -> Locator:
    return target.locator('input:not([type="range"])').first


def type_in(tab: Tab, target: Locator, text: str) -> None:
    number(target).fill(text)
    number(target).press("Enter")
    tab.settled()


def sizes(tab: Tab) -> dict[str, Any]:
    """The document's sizes, as the page knows them."""
    return {f["label"]: f["value"] for f in tab.state("sizes") if f["id"].startswith("size:")}


def away(tab: Tab) -> tuple[float, float]:
    """An empty place on the canvas."""
    box = tab.page.locator(".cv-main").bounding_box()
    assert box
    return box["x"] + 40, box["y"] + box["height"] * 0.6
