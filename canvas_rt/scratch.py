"""Temporary folders that go with their process: at its end, and if it was killed, when the next one sweeps."""

import contextlib
import os
import shutil
import tempfile
import weakref
from pathlib import Path

try:
    import fcntl
except ImportError:  # without locks nothing is swept
    fcntl = None  # type: ignore[assignment]

PREFIX = "canvas-rt-"
"""What the names of these folders begin with, and those of no others: each is locked while its process lives."""


class Scratch:
    """A temporary folder, until it is closed, forgotten, or its process ends.

    The system lets go of a lock when a process dies, whichever way; a process id would be given to another one.
    """

    def __init__(self) -> None:
        name, handle = _made()
        self.path = Path(name)
        self._close = weakref.finalize(self, _remove, name, handle)

    def close(self) -> None:
        self._close()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        self.close()


def sweep() -> None:
    """Remove the folders of processes that were killed."""
    if fcntl is None:
        return
    for name in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, gone meanwhile, or locked: its process lives
            handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(handle).st_uid == os.getuid():
                    shutil.rmtree(name, ignore_errors=True)
            finally:
                os.close(handle)


def _made() -> tuple[str, int]:
    """A new folder, and the open file by which it is locked."""
    while True:
        name = tempfile.mkdtemp(prefix=PREFIX)
        if fcntl is None:
            return name, -1
        try:
            handle = os.open(name, os.O_RDONLY)
        except FileNotFoundError:
            continue
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.isdir(name):  # a sweep may have come between
            return name, handle
        os.close(handle)


def _remove(name: str, handle: int) -> None:
    shutil.rmtree(name, ignore_errors=True)
    if handle >= 0:
        os.close(handle)
