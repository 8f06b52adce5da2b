"""The command line: one verb for each arrow of the design."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Sequence

from canvas_rt.commands.common import AT_FAULT, OK
from canvas_rt.commands.parser import make_parser
from canvas_rt.errors import CanvasError
from canvas_rt.terminal import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. 0: all is well. 1: the graph, the file or the claim is at fault. 2: bad usage."""
    parser = make_parser()
    chosen = parser.parse_args(arguments)
    if not hasattr(chosen, "run"):
        chosen = parser.parse_args(["ui"])
    for stream in (sys.stdout, sys.stderr):  # a terminal without × gets an escape, not a traceback
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return int(chosen.run(chosen))
    except CanvasError as error:
        report_error(error, chosen.json)
        return AT_FAULT
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return AT_FAULT
    except Exception as error:
        if os.environ.get("CANVAS_TRACEBACK"):
            raise
        unexpected = CanvasError(
            f"a flaw of Canvas itself: {type(error).__name__}: {error}",
            hint="CANVAS_TRACEBACK=1 shows where. Please report it.",
        )
        report_error(unexpected, chosen.json)
        return AT_FAULT


def report_error(error: CanvasError, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": error.message, "path": error.path, "hint": error.hint}))
    else:
        print(f"canvas-rt: {printable(str(error))}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
