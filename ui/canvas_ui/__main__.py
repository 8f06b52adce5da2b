"""Serve the editor alone, without Gradio's page around it: `python -m canvas_ui [SOURCE] [--port N]`, then `/canvas`."""

import argparse
import sys

import uvicorn

from canvas_rt.commands.editor import FIRST
from canvas_rt.errors import CanvasError
from canvas_rt.importer.source import open_source
from canvas_ui.server import workspace
from canvas_ui.service import Service


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="canvas_ui", description="Serve the editor alone, under /canvas.")
    parser.add_argument("source", nargs="?", default=FIRST, help="what to open first")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    try:
        document = open_source(chosen.source)
    except CanvasError as error:
        print(error, file=sys.stderr)
        return 1
    uvicorn.run(workspace(Service(document)), host=chosen.host, port=chosen.port, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
