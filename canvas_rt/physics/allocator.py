"""PyTorch's CUDA caching allocator, simulated: how much memory a run reserves beyond what it allocates.

The native backend of torch 2.13 on one stream, with or without `expandable_segments`, on a card of limited memory or
none. Constants are those of c10/core/AllocatorConfig.h; rules are those of c10/cuda/CUDACachingAllocator.cpp, whose
functions the docstrings name.

Not modelled: several streams, CUDA graphs' and users' memory pools, memory that others take from the card meanwhile,
and the settings `max_split_size_mb` (so `release_available_cached_blocks` has nothing to do),
`max_non_split_rounding_mb`, `roundup_power2_divisions`, `garbage_collection_threshold`, `large_segment_size_mb` and
`per_process_memory_fraction`. Where a segment lies is the driver's affair: here each lies above those before it, which
decides between equally large spans of different segments. An expandable segment has addresses for 9/8 of the card's
memory; here it never runs out of them.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from canvas_rt.physics.tape import Event

MIB = 2**20
SMALL = MIB
"""Requests up to this size come from the small pool."""
SMALL_SEGMENT = 2 * MIB
"""What the small pool asks of the driver; also the granule in which its expandable segment grows."""
LARGE_SEGMENT = 20 * MIB
"""The same of the large pool, for requests below `BIG`."""
BIG = 10 * MIB
"""Requests from this size on get a segment of their own, rounded up to `BIG_ROUND`."""
BIG_ROUND = 2 * MIB
ENDLESS = LARGE_SEGMENT * 2**30
"""Addresses of an expandable segment: 20 PiB."""


@dataclass(slots=True, eq=False)
class Span:
    """A stretch of a segment: in use, free, or (in an expandable segment) addresses with no memory behind them."""

    key: int
    """Its address, negated. Lists of free spans ascend by it: the lowest address is at the end, the cheapest to take."""

    size: int
    free: bool
    mapped: bool
    """Whether there is memory behind it. A span that is not mapped is not free."""

    before: "Span | None"
    """The span that ends where this one starts, in the same segment."""

    after: "Span | None"

    @property
    def address(self) -> int:
        return -self.key


@dataclass(slots=True, eq=False)
class Pool:
    """The free spans for small requests, or for large ones."""

    granule: int
    """Bytes in which an expandable segment grows."""

    whole_below: int
    """A span that is larger than the request by no more than this is given whole, not split."""

    at: dict[int, Span]
    """The span that has this key, if it is free. Both pools share it."""

    # A language model's trace has some dozen distinct sizes: one look-up mostly finds the spans that fit exactly.
    keys: dict[int, list[int]] = field(default_factory=dict)
    """The keys of the free spans of each size, ascending."""

    sizes: list[int] = field(default_factory=list)
    """The sizes of `keys`, ascending; some may have no spans left."""

    unmapped: list[Span] = field(default_factory=list)
    """What is not mapped of the expandable segment, by address."""

    def put(self, span: Span) -> None:
        """The span is free from now on."""
        span.free = True
        self.at[span.key] = span
        keys = self.keys.get(span.size)
        if keys is None:
            self.keys[span.size] = [span.key]
            insort(self.sizes, span.size)
        elif not keys or span.key > keys[-1]:
            keys.append(span.key)
        else:
            insort(keys, span.key)

    def take(self, span: Span) -> None:
        """The span is no longer free."""
        span.free = False
        keys = self.keys[span.size]
        if keys[-1] == span.key:
            keys.pop()
        else:
            del keys[bisect_left(keys, span.key)]

    def best_fit(self, size: int) -> Span | None:
        """As in `get_free_block`: the smallest free span that is large enough, the lowest of several."""
        sizes, index = self.sizes, bisect_left(self.sizes, size)
        while index < len(sizes):
            keys = self.keys[sizes[index]]
            if keys:
                span = self.at[keys[-1]]
                return span if span.after is None or span.after.mapped else self._rather_fixed(size)
            del self.keys[sizes.pop(index)]
        return None

    def _rather_fixed(self, size: int) -> Span:
        """A span that can grow counts with all that it can grow to, so that others are used up first."""
        following = self.free_spans(size)
        best = next(following)
        while can_grow(best):
            other = next(following, None)
            if other is None or _room(other) >= _room(best):
                break
            best = other
        return best

    def free_spans(self, at_least: int = 0) -> Iterator[Span]:
        """By size, then by address. Nothing may be put or taken before the last is given."""
        index = bisect_left(self.sizes, at_least)
        while index < len(self.sizes):
            keys = self.keys[self.sizes[index]]
            for key in reversed(keys):
                yield self.at[key]
            if keys:
                index += 1
            else:
                del self.keys[self.sizes.pop(index)]

    def first_room(self, size: int) -> Span:
        """As in `find_expandable_block`: the first of neighbours, free or not mapped, that together are large enough."""
        for hole in self.unmapped:
            first = hole.before if hole.before is not None and hole.before.free else hole
            room = 0
            span: Span | None = first
            while span is not None and room < size and (span.free or not span.mapped):
                room, span = room + span.size, span.after
            if room >= size:
                return first
        raise AssertionError(f"no addresses for {size} bytes")


@dataclass(slots=True, eq=False)
class Allocator:
    """The state of one device's memory."""

    capacity: int | None = None
    """Bytes that segments may take in all; None for no limit."""

    expandable: bool = False
    """Whether `expandable_segments` is on: each pool has one segment, which grows."""

    allocated: int = 0
    """Bytes in use, with what was given beyond the request because it was too little to split off."""

    reserved: int = 0
    """Bytes that segments take."""

    peak_allocated: int = 0
    peak_reserved: int = 0

    segments: int = 0
    """How often the driver gave memory: a segment, or granules of one that can expand (`num_device_alloc`)."""

    retries: int = 0
    """How often it had none, and what is cached was given back before asking again (`num_alloc_retries`)."""

    out_of_memory: bool = False
    """Whether even then it had none. The run is followed as if it had, so that the peak is known."""

    small: Pool = field(init=False)
    large: Pool = field(init=False)
    next_address: int = 0

    def __post_init__(self) -> None:
        at: dict[int, Span] = {}
        self.small = Pool(SMALL_SEGMENT, 0, at)
        self.large = Pool(LARGE_SEGMENT, 0 if self.expandable else SMALL, at)  # as in `should_split`
        if self.expandable:
            for pool in (self.small, self.large):
                pool.unmapped.append(self._new(ENDLESS, mapped=False))

    def allocate(self, size: int) -> Span:
        """Bytes are a multiple of 512, as events have them."""
        live: dict[int, Span] = {}
        self.run([(size, 0)], live)
        return live[0]

    def release(self, span: Span) -> None:
        self.run([(-span.size, 0)], {0: span})

    def run(self, events: Iterable[Event], live: dict[int, Span]) -> None:
        """Follow events, keeping which storages are alive, and where. As in `malloc` and `free_block`."""
        # A deep model replays 100,000 events on each edit: this is one loop, and what is most frequent is written out.
        small, large, at, expandable = self.small, self.large, self.small.at, self.expandable
        small_keys, large_keys = small.keys, large.keys
        allocated, peak = self.allocated, self.peak_allocated
        for nbytes, number in events:
            if nbytes > 0:
                keys = (small_keys if nbytes <= SMALL else large_keys).get(nbytes)
                if keys and not (expandable and can_grow(at[keys[-1]])):
                    span = at[keys.pop()]
                    span.free = False
                else:
                    span = self._fit(small if nbytes <= SMALL else large, nbytes)
                live[number] = span
                allocated += span.size
                if allocated > peak:
                    peak = allocated
            elif nbytes < 0:
                span = live.pop(number)
                allocated -= span.size
                pool = small if nbytes >= -SMALL else large
                before, after = span.before, span.after
                if before is not None and before.free:
                    pool.take(before)
                    _absorb(before, span)
                    span = before
                if after is not None and after.free:
                    pool.take(after)
                    _absorb(span, after)
                pool.put(span)
        self.allocated, self.peak_allocated = allocated, peak

    def _fit(self, pool: Pool, size: int) -> Span:
        """A span of that size, cut from a larger one or asked of the driver."""
        span = pool.best_fit(size)
        if span is None:
            span = self._ask(pool, size)
        else:
            pool.take(span)
        if span.size - size > pool.whole_below:
            pool.put(_split(span, size))
        return span

    # -- the driver

    def _ask(self, pool: Pool, size: int) -> Span:
        """As in `malloc`: ask; give back what is cached and ask again."""
        span = self._from_driver(pool, size, self.capacity)
        if span is None:
            self._give_back()
            self.retries += 1
            span = self._from_driver(pool, size, self.capacity)
        if span is None:
            self.out_of_memory = True
            span = self._from_driver(pool, size, None)
        assert span is not None
        return span

    def _from_driver(self, pool: Pool, size: int, capacity: int | None) -> Span | None:
        """As in `alloc_block`."""
        if self.expandable:
            return self._expand(pool, size, capacity)
        wanted = segment_size(size, pool is self.small)
        return self._new(wanted) if self._reserve(wanted, capacity) else None

    def _new(self, size: int, *, mapped: bool = True) -> Span:
        span = Span(-self.next_address, size, False, mapped, None, None)
        self.next_address += size
        return span

    def _reserve(self, wanted: int, capacity: int | None) -> bool:
        if capacity is not None and self.reserved + wanted > capacity:
            return False
        self.segments += 1
        self.reserved += wanted
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return True

    def _give_back(self) -> None:
        """As in `release_cached_blocks`: segments that are free as a whole, or free granules of those that expand."""
        for pool in (self.large, self.small):
            for span in tuple(pool.free_spans()):
                if self.expandable:
                    self._unmap(pool, span)
                elif span.before is None and span.after is None:
                    pool.take(span)
                    self.reserved -= span.size

    # -- expandable segments

    def _expand(self, pool: Pool, size: int, capacity: int | None) -> Span | None:
        """As in `try_allocate_expandable_block`: memory for the first addresses that have room for the request.

        Where the driver has too little for the last of several holes, those before it stay mapped.
        """
        span = pool.first_room(size)
        if not span.mapped and not self._map(pool, span, min(span.size, size), capacity):
            return None
        while span.size < size:
            hole = span.after
            assert hole is not None
            if not self._map(pool, hole, min(hole.size, size - span.size), capacity):
                return None
            span = hole  # which has absorbed what was before it
        pool.take(span)
        return span

    def _map(self, pool: Pool, span: Span, size: int, capacity: int | None) -> bool:
        """As in `map_block`: memory for so many bytes at the start of the span, in whole granules, or for none."""
        wanted = -(-size // pool.granule) * pool.granule
        if not self._reserve(wanted, capacity):
            return False
        pool.unmapped.remove(span)
        if wanted < span.size:
            insort(pool.unmapped, _split(span, wanted), key=_address)
        span.mapped = True
        for other in (span.before, span.after):
            if other is not None and other.free:
                pool.take(other)
                _absorb(span, other)
        pool.put(span)
        return True

    def _unmap(self, pool: Pool, span: Span) -> None:
        """As in `unmap_block`: the driver gets the whole granules of a free span; what is left of it stays free."""
        address, end = span.address, span.address + span.size
        first = -(-address // pool.granule) * pool.granule
        last = end // pool.granule * pool.granule
        if first >= last:
            return
        pool.take(span)
        if last < end:
            pool.put(_split(span, last - address))
        if address < first:
            left, span = span, _split(span, first - address)
            pool.put(left)
        span.mapped = False
        self.reserved -= span.size
        for other in (span.before, span.after):
            if other is not None and not other.mapped:
                pool.unmapped.remove(other)
                _absorb(span, other)
        insort(pool.unmapped, span, key=_address)


def segment_size(size: int, small: bool) -> int:
    """As in `get_allocation_size`: bytes asked of the driver for a request that nothing cached can serve."""
    if small:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < BIG else -(-size // BIG_ROUND) * BIG_ROUND


def _address(span: Span) -> int:
    return -span.key


def can_grow(span: Span) -> bool:
    """Whether addresses after it are not mapped."""
    return span.after is not None and not span.after.mapped


def _room(span: Span) -> int:
    """Bytes of a free span, with those after it that could be mapped."""
    return span.size + span.after.size if can_grow(span) and span.after else span.size


def _split(span: Span, size: int) -> Span:
    """Cut a span that is in use, or not mapped, down to its first bytes; give the rest."""
    after = span.after
    rest = Span(span.key - size, span.size - size, False, span.mapped, span, after)
    if after is not None:
        after.before = rest
    span.size, span.after = size, rest
    return rest


def _absorb(span: Span, other: Span) -> None:
    """The span takes in its neighbour."""
    if other is span.before:
        span.key, span.before = other.key, other.before
        if span.before is not None:
            span.before.after = span
    else:
        span.after = other.after
        if span.after is not None:
            span.after.before = span
    span.size += other.size


class Replay:
    """Runs events through an allocator, remembering which storage lies where."""

    def __init__(self, capacity: int | None = None, *, expandable: bool = False) -> None:
        self.allocator = Allocator(capacity, expandable)
        self.live: dict[int, Span] = {}

    def run(self, events: Iterable[Event]) -> None:
        self.allocator.run(events, self.live)

    def hold(self, sizes: Iterable[int]) -> None:
        """Allocate for good."""
        self.allocator.run(((size, 0) for size in sizes), {})

    def drop(self) -> None:
        """Free all that events have left."""
        self.allocator.run([(-span.size, number) for number, span in self.live.items()], self.live)
