"""PyTorch's CUDA caching allocator, simulated: how much memory a run reserves beyond what it allocates.

Native backend, default settings, one stream. Constants and rules from c10/core/AllocatorConfig.h and
c10/cuda/CUDACachingAllocator.cpp (torch 2.13).
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field

from canvas_rt.physics.tape import Event

MIB = 2**20
SMALL = MIB
"""Requests up to this size come from the small pool."""
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB
BIG = 10 * MIB
"""Requests from this size on get a segment of their own, rounded up to `BIG_ROUND`."""
BIG_ROUND = 2 * MIB


@dataclass(slots=True, eq=False)
class Span:
    """A stretch of a segment, in use or free. Neighbours are those of the same segment."""

    address: int
    size: int
    small: bool
    free: bool
    before: "Span | None"
    after: "Span | None"


Entry = tuple[int, int, Span]
"""Size, address, span: sorted so, the best fit is the first that is large enough."""


@dataclass(slots=True)
class Allocator:
    """The state of one device's memory."""

    capacity: int | None = None
    """Bytes that segments may take in all; None for no limit."""

    allocated: int = 0
    reserved: int = 0
    peak_allocated: int = 0
    peak_reserved: int = 0
    segments: int = 0
    """How often a segment was asked of the driver."""

    out_of_memory: bool = False
    """Whether a request did not fit even after cached segments were given back."""

    small: list[Entry] = field(default_factory=list)
    large: list[Entry] = field(default_factory=list)
    next_address: int = 0

    def allocate(self, size: int) -> Span:
        """Bytes are a multiple of 512, as events have them."""
        # A deep model replays 100,000 events on each edit: this is written for speed.
        small = size <= SMALL
        pool = self.small if small else self.large
        index = bisect_left(pool, (size,)) if pool else 0
        span = pool.pop(index)[2] if index < len(pool) else self._segment(size, small)
        rest = span.size - size
        if rest and (small or rest > SMALL):
            after = span.after
            tail = Span(span.address + size, rest, small, True, span, after)
            if after is not None:
                after.before = tail
            span.size, span.after = size, tail
            insort(pool, (rest, tail.address, tail))
        span.free = False
        self.allocated += span.size  # with the rest where it was too little to split off
        if self.allocated > self.peak_allocated:
            self.peak_allocated = self.allocated
        return span

    def release(self, span: Span) -> None:
        self.allocated -= span.size
        pool = self.small if span.small else self.large
        before, after = span.before, span.after
        if before is not None and before.free:
            _remove(pool, before)
            span.address, span.size, span.before = before.address, span.size + before.size, before.before
            if span.before is not None:
                span.before.after = span
        if after is not None and after.free:
            _remove(pool, after)
            span.size, span.after = span.size + after.size, after.after
            if span.after is not None:
                span.after.before = span
        span.free = True
        insort(pool, (span.size, span.address, span))

    def _segment(self, size: int, small: bool) -> Span:
        wanted = segment_size(size, small)
        if self.capacity is not None and self.reserved + wanted > self.capacity:
            self._give_back()
            self.out_of_memory |= self.reserved + wanted > self.capacity
        self.segments += 1
        self.reserved += wanted
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        span = Span(self.next_address, wanted, small, False, None, None)
        self.next_address += wanted
        return span

    def _give_back(self) -> None:
        """Return segments that are free as a whole to the driver."""
        for pool in (self.small, self.large):
            whole = [entry for entry in pool if entry[2].before is None and entry[2].after is None]
            self.reserved -= sum(entry[0] for entry in whole)
            pool[:] = [entry for entry in pool if entry not in whole]


def segment_size(size: int, small: bool) -> int:
    """Bytes asked of the driver for a request that nothing cached can serve."""
    if small:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < BIG else -(-size // BIG_ROUND) * BIG_ROUND


def _remove(pool: list[Entry], span: Span) -> None:
    del pool[bisect_left(pool, (span.size, span.address))]


class Replay:
    """Runs events through an allocator, remembering which storage lies where."""

    def __init__(self, capacity: int | None = None) -> None:
        self.allocator = Allocator(capacity)
        self.live: dict[int, Span] = {}

    def run(self, events: Iterable[Event]) -> None:
        allocate, release, live = self.allocator.allocate, self.allocator.release, self.live
        for nbytes, number in events:
            if nbytes > 0:
                live[number] = allocate(nbytes)
            elif nbytes < 0:
                release(live.pop(number))

    def hold(self, sizes: Iterable[int]) -> None:
        """Allocate for good."""
        for nbytes in sizes:
            self.allocator.allocate(nbytes)

    def drop(self) -> None:
        """Free all that events have left."""
        for span in self.live.values():
            self.allocator.release(span)
        self.live.clear()
