"""Run a script that ends, as with Ctrl-C, when whoever started it has gone: `python watched.py SCRIPT …`."""

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Its standard input is a pipe that nobody writes to: it ends with the process at its other end."""

    def watch() -> None:
        while os.read(0, 1024):  # not sys.stdin: Python could not end while a thread waits in that
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    sys.argv = sys.argv[1:]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
