"""The simulated caching allocator follows the rules of PyTorch's."""

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_allocator import Block, Literal

from canvas_rt.physics.allocator import LARGE_SEGMENT, MIB, SMALL_SEGMENT, Allocator, Pool, Replay, Span, segment_size

SIZES = [512, 1024, 16384, MIB // 2, MIB, MIB + 512, 3 * MIB, 8 * MIB, 10 * MIB - 512, 10 * MIB, 15 * MIB, 19 * MIB]
SIZES += [20 * MIB, 20 * MIB + 512, 33 * MIB, 64 * MIB]
FIGURES = ("allocated", "reserved", "peak_allocated", "peak_reserved", "segments", "retries", "out_of_memory")

# Each step frees the n-th of what is alive, if there is any, or allocates.
STEPS = st.lists(st.one_of(st.sampled_from(SIZES), st.integers(0, 7).map(lambda nth: -1 - nth)), max_size=120)


def figures(allocator: Allocator | Literal) -> dict[str, int]:
    return {name: getattr(allocator, name) for name in FIGURES}


def free_sizes(pool: Pool) -> list[int]:
    return [span.size for span in pool.free_spans()]


# -- against the literal allocator


def compare(steps: Iterable[int], capacity: int | None, *, expandable: bool) -> None:
    """Both decide the same every time, and leave the same free."""
    ours, literal = Allocator(capacity, expandable), Literal(capacity, expandable)
    alive: list[tuple[Span, Block]] = []
    for step in steps:
        if step > 0:
            span, block = ours.allocate(step), literal.allocate(step)
            alive.append((span, block))
            assert (span.address, span.size) == (block.address, block.size)
        elif alive:
            span, block = alive.pop(step % len(alive))
            ours.release(span)
            literal.release(block)
        assert figures(ours) == figures(literal)
        for small, pool in ((True, ours.small), (False, ours.large)):
            assert [(span.size, span.address) for span in pool.free_spans()] == [
                (block.size, block.address) for block in literal.free(small)
            ]


@settings(max_examples=200, deadline=None)
@given(
    steps=STEPS, expandable=st.booleans(), capacity=st.none() | st.integers(10, 200).map(lambda count: count * 2 * MIB)
)
def test_it_decides_as_the_literal_allocator_does(steps: list[int], expandable: bool, capacity: int | None) -> None:
    compare(steps, capacity, expandable=expandable)


@pytest.mark.parametrize("expandable", [False, True])
@pytest.mark.parametrize("room", [None, 60, 100, 160, 300, 600])
def test_it_decides_so_when_memory_is_short_for_long(room: int | None, expandable: bool) -> None:
    draw = random.Random(room)
    for _ in range(10):
        # Sizes of which several make up another, and steps that take more than they free until memory is short.
        sizes = draw.sample([*SIZES, *(size * MIB for size in (2, 5, 10, 20, 40, 60))], 8)
        steps = [draw.choice(sizes) if draw.random() < 0.52 else -1 - draw.randrange(40) for _ in range(150)]
        compare(steps, room and room * MIB, expandable=expandable)


@settings(max_examples=100, deadline=None)
@given(
    steps=STEPS, expandable=st.booleans(), capacity=st.none() | st.integers(10, 200).map(lambda count: count * 2 * MIB)
)
def test_whatever_is_asked_spans_tile_their_segments(steps: list[int], expandable: bool, capacity: int | None) -> None:
    allocator = Allocator(capacity, expandable)
    alive: list[Span] = []
    for step in steps:
        if step > 0:
            alive.append(allocator.allocate(step))
            assert alive[-1].size >= step
        elif alive:
            allocator.release(alive.pop(step % len(alive)))
    free = [*allocator.small.free_spans(), *allocator.large.free_spans()]
    assert allocator.allocated == sum(span.size for span in alive)
    assert allocator.reserved == sum(span.size for span in (*alive, *free))
    assert len({(span.address, span.size) for span in (*alive, *free)}) == len(alive) + len(free)
    for span in free:
        assert span.after is None or (span.after.before is span and not span.after.free)


# -- segments of fixed size


@pytest.mark.parametrize(
    ("request_bytes", "reserved"),
    [
        (512, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 512, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (11 * MIB, 12 * MIB),
        (100 * MIB + 512, 102 * MIB),
    ],
)
def test_a_first_request_reserves_a_segment_of_its_class(request_bytes: int, reserved: int) -> None:
    allocator = Allocator()
    allocator.allocate(request_bytes)
    assert allocator.reserved == reserved == segment_size(request_bytes, request_bytes <= MIB)


def test_small_requests_share_a_segment() -> None:
    allocator = Allocator()
    for _ in range(4096):
        allocator.allocate(512)
    assert (allocator.reserved, allocator.allocated, allocator.segments) == (2 * MIB, 2 * MIB, 1)
    allocator.allocate(512)
    assert (allocator.reserved, allocator.segments) == (4 * MIB, 2)


def test_a_large_rest_of_at_most_one_mib_is_not_split_off() -> None:
    allocator = Allocator()
    allocator.allocate(19 * MIB)  # a segment of 20 MiB
    assert allocator.allocated == 20 * MIB
    roomier = Allocator()
    roomier.release(roomier.allocate(20 * MIB))
    roomier.allocate(18 * MIB)
    assert roomier.allocated == 18 * MIB


def test_the_best_fit_is_the_smallest_that_is_large_enough() -> None:
    allocator = Allocator()
    spans = [allocator.allocate(size * MIB) for size in (40, 20, 30)]
    for span in spans:
        allocator.release(span)
    assert allocator.allocate(25 * MIB) is spans[2]


def test_of_equally_good_fits_the_lowest_address_is_taken() -> None:
    allocator = Allocator()
    spans = [allocator.allocate(20 * MIB) for _ in range(3)]
    for span in (spans[1], spans[0], spans[2]):
        allocator.release(span)
    assert [allocator.allocate(20 * MIB) for _ in range(3)] == spans


def test_neighbours_coalesce_only_within_a_segment() -> None:
    allocator = Allocator()
    first, second, third = (allocator.allocate(6 * MIB) for _ in range(3))
    for span in (first, third, second):
        allocator.release(span)
    assert free_sizes(allocator.large) == [20 * MIB]
    other = allocator.allocate(30 * MIB)
    allocator.release(other)
    assert free_sizes(allocator.large) == [20 * MIB, 30 * MIB]


# -- segments that expand


def test_expandable_segments_grow_by_whole_granules() -> None:
    allocator = Allocator(expandable=True)
    allocator.allocate(512)
    assert allocator.reserved == 2 * MIB
    allocator.allocate(33 * MIB)
    assert allocator.reserved == (2 + 40) * MIB
    allocator.allocate(8 * MIB)  # 7 MiB are left: one granule more
    assert (allocator.reserved, allocator.segments) == ((2 + 60) * MIB, 3)


def test_expandable_segments_split_off_whatever_is_left() -> None:
    allocator = Allocator(expandable=True)
    allocator.allocate(19 * MIB + 512)
    assert (allocator.allocated, free_sizes(allocator.large)) == (19 * MIB + 512, [MIB - 512])


def test_the_span_that_can_grow_is_used_last() -> None:
    allocator = Allocator(expandable=True)
    first, _ = allocator.allocate(15 * MIB), allocator.allocate(20 * MIB)
    allocator.release(first)
    assert free_sizes(allocator.large) == [5 * MIB, 15 * MIB]
    assert allocator.allocate(2 * MIB).address == first.address  # though 5 MiB fit more closely


def test_what_different_sizes_leave_coalesces_across_an_expandable_segment() -> None:
    """The case that expandable segments are for: requests that are a little larger than those before."""
    fixed, expandable = Allocator(), Allocator(expandable=True)
    for allocator in (fixed, expandable):
        for size in (40 * MIB, 44 * MIB, 48 * MIB):
            for span in [allocator.allocate(size) for _ in range(10)]:
                allocator.release(span)
    assert (fixed.reserved, expandable.reserved) == ((400 + 440 + 480) * MIB, 480 * MIB)


@given(sizes=st.lists(st.sampled_from(SIZES), min_size=1, max_size=40), data=st.data())
def test_used_as_a_stack_expandable_segments_reserve_what_is_allocated(sizes: list[int], data: st.DataObject) -> None:
    allocator, stack = Allocator(expandable=True), list[Span]()
    peaks = {True: 0, False: 0}
    for size in sizes:
        for _ in range(data.draw(st.integers(0, min(3, len(stack))))):
            allocator.release(stack.pop())
        stack.append(allocator.allocate(size))
        for small in peaks:
            now = sum(span.size for span in stack if (span.size <= MIB) == small)
            peaks[small] = max(peaks[small], now)
    assert allocator.peak_reserved == (
        -(-peaks[True] // SMALL_SEGMENT) * SMALL_SEGMENT + -(-peaks[False] // LARGE_SEGMENT) * LARGE_SEGMENT
    )


# -- when memory runs out


def test_cached_segments_are_given_back_before_memory_runs_out() -> None:
    allocator = Allocator(capacity=100 * MIB)
    allocator.release(allocator.allocate(60 * MIB))
    allocator.allocate(80 * MIB)
    assert (allocator.reserved, allocator.retries, allocator.out_of_memory) == (80 * MIB, 1, False)
    allocator.allocate(30 * MIB)
    assert (allocator.reserved, allocator.retries, allocator.out_of_memory) == (110 * MIB, 2, True)
    assert allocator.peak_reserved == 110 * MIB


def fragmented(*, expandable: bool, freed: slice) -> Allocator:
    """Of 100 MiB, five times 20 MiB were taken and some of them freed; then 40 MiB are asked for."""
    allocator = Allocator(100 * MIB, expandable)
    spans = [allocator.allocate(20 * MIB) for _ in range(5)]
    for span in spans[freed]:
        allocator.release(span)
    allocator.allocate(40 * MIB)
    return allocator


def test_segments_that_lie_apart_make_room_once_they_are_given_back() -> None:
    for expandable in (False, True):  # an expandable segment maps the same memory again at its end
        allocator = fragmented(expandable=expandable, freed=slice(0, 4, 2))
        assert (allocator.reserved, allocator.retries, allocator.out_of_memory) == (100 * MIB, 1, False)


def test_neighbours_in_an_expandable_segment_serve_without_being_given_back() -> None:
    assert fragmented(expandable=True, freed=slice(1, 3)).retries == 0
    assert fragmented(expandable=False, freed=slice(1, 3)).retries == 1


def test_half_free_segments_cannot_be_given_back_but_granules_can() -> None:
    """A quarter is in use, spread out: of fixed segments none is free as a whole."""
    fixed, expandable = Allocator(80 * MIB), Allocator(80 * MIB, expandable=True)
    for allocator in (fixed, expandable):
        spans = [allocator.allocate(40 * MIB) for _ in range(2)]
        for span in spans:
            allocator.release(span)
        halves = [allocator.allocate(size * MIB) for size in (10, 30, 10, 30)]
        for span in (halves[1], halves[3]):
            allocator.release(span)
        allocator.allocate(40 * MIB)
    assert (fixed.reserved, fixed.retries, fixed.out_of_memory) == (120 * MIB, 1, True)
    assert (expandable.reserved, expandable.retries, expandable.out_of_memory) == (80 * MIB, 1, False)


def test_after_memory_has_run_out_the_run_is_followed_as_if_it_had_not() -> None:
    for expandable in (False, True):
        allocator = Allocator(50 * MIB, expandable)
        spans = [allocator.allocate(40 * MIB) for _ in range(3)]
        for span in spans:
            allocator.release(span)
        assert (allocator.out_of_memory, allocator.peak_allocated, allocator.allocated) == (True, 120 * MIB, 0)


# -- replays


def test_a_replay_frees_by_number_and_drops_the_rest() -> None:
    replay = Replay()
    replay.hold([512])
    replay.run([(MIB, 1), (512, 2), (-MIB, 1), (8 * MIB, 3), (0, 4)])
    assert sorted(replay.live) == [2, 3]
    assert replay.allocator.allocated == 1024 + 8 * MIB
    replay.drop()
    assert (replay.live, replay.allocator.allocated) == ({}, 512)
