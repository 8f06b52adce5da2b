"""The verb that opens the editor in a browser."""

import argparse
import json
import os
import sys

from canvas_rt.commands.common import OK, open_source

FIRST = "llama-3.2-1b"
"""What the editor opens when nothing is named."""


def ui(chosen: argparse.Namespace) -> int:
    document = open_source(chosen.source)
    from canvas_ui.app import serve

    screen = sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    browser = screen and sys.stdout.isatty() and not chosen.no_browser

    def announce(address: str) -> None:
        if chosen.json:
            print(json.dumps({"url": address}), flush=True)
        else:
            print(f"Canvas is at {address}  (Ctrl+C stops it)", flush=True)

    serve(document, host=chosen.host, port=chosen.port, browser=browser, announce=announce)
    return OK
