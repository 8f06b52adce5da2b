"""What verbs have in common: how they end, and what is refused before any work."""

import os
from typing import Any

from canvas_rt.errors import CanvasError
from canvas_rt.terminal import done, progress

OK, AT_FAULT, USAGE = 0, 1, 2


def open_source(name: str) -> Any:
    from canvas_rt.importer import open_source as opened

    progress(f"opening {name}")
    try:
        return opened(name)
    finally:
        done()


def require_sound(document: Any) -> None:
    """Refuse a graph with errors, naming all of them."""
    from canvas_rt.physics.shapes import require_sound as require

    require(document)


def check_output(path: str) -> None:
    """Say before any work that a file cannot be written."""
    parent = os.path.dirname(path) or "."
    if not os.path.isdir(parent):
        raise CanvasError("is no folder", path=parent, hint="Make it first, or choose another.")
    if not path or os.path.isdir(path):
        raise CanvasError("is a folder", path=path or ".", hint="Name a file that ends in .canvas.json.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise CanvasError("exists and is no regular file", path=path, hint="Choose another name.")
    if not os.access(parent, os.W_OK):
        raise CanvasError("cannot be written to", path=parent, hint="Choose another folder.")


def check_folder(path: str) -> None:
    """Say before any work that a folder's name is none."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CanvasError(f"cannot be written: {reason}", path=path[:200], hint="Choose another name.") from error
