"""What a process held over time, as a line of few points that hides no peak."""

from collections.abc import Iterable, Sequence

MOST_POINTS = 400

Point = tuple[float, int]
"""When, in seconds or in operations, and how many bytes."""


def bounded(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most so many points: of each stretch the lowest and the highest, in their order."""
    if len(points) <= most:
        return list(points)
    stretches = max(1, most // 2)
    found: list[Point] = []
    for part in range(stretches):
        piece = points[len(points) * part // stretches : len(points) * (part + 1) // stretches]
        low, high = (choose(piece, key=lambda point: point[1]) for choose in (min, max))
        found += sorted({low, high})
    return found


def summed(changes: Iterable[tuple[float, int]], start: int = 0) -> list[Point]:
    """What is held after each change."""
    held, found = start, []
    for moment, nbytes in changes:
        held += nbytes
        found.append((moment, held))
    return found
