"""Work that a page waits for: done in a thread, told as it goes on."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from canvas_rt.errors import CanvasError

BEAT_S = 1.0
"""How often somebody who waits hears something, if only that there is nothing new: a page that was closed is noticed so."""

MOST_SHOWN = 8
"""Jobs of a kind whose progress is shown at a time, those that wait for their turn among them."""

Tell = Callable[[Any], None]


def in_thread(work: Callable[[Tell], Any]) -> Iterator[Any]:
    """Begin some work; what it tells as it goes on, None where nothing is new, and last what it gives, or its `CanvasError`."""
    said: queue.Queue[Any] = queue.Queue()
    result: list[Any] = []
    done = object()

    def run() -> None:
        try:
            result.append(work(said.put))
        except CanvasError as error:
            result.append(error)
        except Exception as error:  # a flaw of ours must end the wait, too
            result.append(CanvasError(f"{type(error).__name__}: {error}"))
        said.put(done)

    threading.Thread(target=run, daemon=True).start()
    return _told(said, result, done)


def _told(said: "queue.Queue[Any]", result: list[Any], done: object) -> Iterator[Any]:
    while True:
        try:
            news = said.get(timeout=BEAT_S)
        except queue.Empty:
            yield None
            continue
        if news is done:
            yield result[0]
            return
        yield news
