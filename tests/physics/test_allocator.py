"""The simulated caching allocator follows the rules of PyTorch's."""

import random
from itertools import pairwise

import pytest

from canvas_rt.physics.allocator import MIB, Allocator, Replay, segment_size


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
    assert (allocator.reserved, allocator.allocated) == (2 * MIB, 2 * MIB)
    allocator.allocate(512)
    assert allocator.reserved == 4 * MIB


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


def test_neighbours_coalesce_only_within_a_segment() -> None:
    allocator = Allocator()
    first, second, third = (allocator.allocate(6 * MIB) for _ in range(3))
    for span in (first, third, second):
        allocator.release(span)
    assert [entry[0] for entry in allocator.large] == [20 * MIB]
    other = allocator.allocate(30 * MIB)
    allocator.release(other)
    assert [entry[0] for entry in allocator.large] == [20 * MIB, 30 * MIB]


def test_cached_segments_are_given_back_before_memory_runs_out() -> None:
    allocator = Allocator(capacity=100 * MIB)
    allocator.release(allocator.allocate(60 * MIB))
    allocator.allocate(80 * MIB)
    assert (allocator.reserved, allocator.out_of_memory) == (80 * MIB, False)
    allocator.allocate(30 * MIB)
    assert allocator.out_of_memory


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_asked_spans_never_overlap_and_sums_hold(seed: int) -> None:
    draw = random.Random(seed)
    replay = Replay()
    alive: dict[int, int] = {}
    for number in range(600):
        if alive and draw.random() < 0.45:
            gone = draw.choice(list(alive))
            replay.run([(-alive.pop(gone), gone)])
        else:
            alive[number] = draw.choice([512, 4096, MIB, 3 * MIB, 15 * MIB, 64 * MIB]) + 512 * draw.randrange(20)
            replay.run([(alive[number], number)])
        spans = sorted((span.address, span.size) for span in replay.live.values())
        assert all(start + size <= after for (start, size), (after, _) in pairwise(spans))
        assert all(replay.live[key].size >= size for key, size in alive.items())
        assert replay.allocator.allocated == sum(size for _, size in spans) <= replay.allocator.reserved
    replay.drop()
    allocator = replay.allocator
    assert allocator.allocated == 0
    assert sum(entry[0] for entry in (*allocator.small, *allocator.large)) == allocator.reserved
