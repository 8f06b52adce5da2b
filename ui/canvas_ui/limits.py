"""What a server allows its visitors, and the line in which heavy work waits its turn."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import MOST_ITEMS, Document
from canvas_rt.ir.graph import walk
from canvas_rt.session import MOST_STEPS
from canvas_rt.verifier.apart import LONGEST_S, MOST_BYTES
from canvas_ui.messages import MOST_TEXT

LOOK_S = 0.05
ENDING_S = 3.0
"""How long a job that was stopped may take to leave, before the next of its session is refused."""

ELSEWHERE = "On a machine of your own Canvas has no such limit: pip install canvas-rt."


class TooLarge(CanvasError):
    """A change would make the document larger than the server allows."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What visitors may ask for. The defaults are those of an editor on one's own machine."""

    at_home: bool = True
    """Whether visitors may use this machine as their own: give it data, and train on it."""

    sessions: int = 200
    """Sessions that are kept; a browser whose session is gone hands it back."""

    text: int = MOST_TEXT
    """Characters of a document, clip or config."""

    nodes: int = MOST_ITEMS
    """Nodes of a model, layers alike that stand together counted once: what checking and measuring it takes."""

    steps: int = MOST_STEPS
    """Steps of undo that a session keeps."""

    journal: int = 5000
    """Requests that a session which is handed back may bring along."""

    pending: int = 64
    """Requests of one session that may wait for one another."""

    jobs: int = 2
    """Heavy jobs at a time: proofs and imports, each a process of its own."""

    waiting: int = 1000
    """Heavy jobs that may wait."""

    jobs_each: int = 1000
    """Heavy jobs of one session, waiting or not."""

    job_s: float = LONGEST_S
    """Seconds that a heavy job may take."""

    job_bytes: int = MOST_BYTES
    """Memory that a heavy job may take."""

    def admit(self, document: Document) -> None:
        """Raise `TooLarge` for a document that is larger than allowed."""
        if self.nodes >= MOST_ITEMS:
            return
        held = sum(len(block.nodes) for block in document.blocks.values())
        if held <= self.nodes:
            try:
                held = sum(1 for _ in islice(walk(document), self.nodes + 1))
            except CanvasError:
                return  # its sizes lead nowhere, so nothing will be unfolded
        if held > self.nodes:
            raise TooLarge(
                f"the model would have more than {self.nodes:,} nodes that differ, and this server takes no more",
                hint=ELSEWHERE,
            )


class Line:
    """Where heavy jobs wait their turn: a few run, a bounded number waits, each session has a bounded share."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.sessions: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.free = threading.BoundedSemaphore(limits.jobs)

    @contextmanager
    def turn(self, session: str, stop: threading.Event | None = None) -> Iterator[None]:
        """Wait for a turn, and have it until the block ends.

        Raises `CanvasError` where the line is full, the session has a job already, or `stop` is set meanwhile.
        """
        stop = stop or threading.Event()
        self._join(session, stop)
        try:
            while not self.free.acquire(timeout=LOOK_S):
                if stop.is_set():
                    raise CanvasError("was stopped")
            try:
                yield
            finally:
                self.free.release()
        finally:
            with self.lock:
                self.sessions -= Counter({session: 1})

    def busy(self) -> bool:
        """Whether the next job will have to wait."""
        with self.lock:
            return self.sessions.total() >= self.limits.jobs

    def _join(self, session: str, stop: threading.Event) -> None:
        end = time.monotonic() + ENDING_S
        while True:
            with self.lock:
                if self.sessions.total() >= self.limits.jobs + self.limits.waiting:
                    raise CanvasError(
                        f"the server is busy: {self.sessions.total()} jobs are running or waiting",
                        hint=f"Try again in a minute. {ELSEWHERE}",
                    )
                if self.sessions[session] < self.limits.jobs_each:
                    self.sessions[session] += 1
                    return
            if time.monotonic() > end or stop.wait(LOOK_S):
                raise CanvasError(
                    "a proof, a run or an import of yours is still running", hint="Wait until it is done, or stop it."
                )
