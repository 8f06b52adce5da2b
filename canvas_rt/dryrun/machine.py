"""What the machine at hand has: cores, free memory, speed of products and copies, and whether it kills for memory."""

import contextlib
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

MEMORY = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")
LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Files of a control group: what its processes may have, and have. Version 2, then version 1."""

PRODUCT = 768
COPIED_BYTES = 2**27
DRAWN = 2**20


class Speed(NamedTuple):
    """How fast this CPU is."""

    flops: float
    """Of matrix products, in operations a second."""

    bandwidth: float
    """Bytes read and written in a second, into memory that is new to the process as a step's mostly is."""

    drawing: float
    """Random numbers drawn in a second, for weights."""


def usable_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def free_bytes(memory: Path = MEMORY, group: Path = GROUP) -> int:
    """Memory that a new process can have: what is available, within what the control group leaves."""
    found = [_left(group / most, group / now) for most, now in LIMITS]
    return min([_available(memory), *(nbytes for nbytes in found if nbytes is not None)])


def _available(memory: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in memory.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    # Elsewhere than on Linux nobody says: half of what is built in.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _left(most: Path, now: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):  # a group without a limit says "max"
        return max(0, int(most.read_text()) - int(now.read_text()))
    return None


@cache
def speed(dtype: torch.dtype) -> Speed:
    """Tried for a moment: the best of two products, of two copies, and of two draws."""
    a, b = (torch.ones(PRODUCT, PRODUCT, dtype=dtype) for _ in range(2))
    source, weights = torch.ones(COPIED_BYTES // 4), torch.empty(DRAWN, dtype=dtype)
    products = _seconds(lambda: torch.mm(a, b))
    copies = _seconds(source.clone)
    return Speed(2 * PRODUCT**3 / products, 2 * COPIED_BYTES / copies, DRAWN / _seconds(weights.normal_))


def _seconds(work: Callable[[], object]) -> float:
    """The better of two tries."""
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return max(1e-9, min(taken))


def killed_for_memory() -> int:
    """How many processes the kernel has killed for want of memory, as long as it counts them."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def limit_data(more_bytes: int) -> None:
    """Let this process have so many bytes more than it has, and a little for threads and kernels; Linux alone counts them."""
    import resource

    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        has = int(next(line.split()[1] for line in lines if line.startswith("VmData:"))) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (has + more_bytes + SLACK_BYTES,) * 2)


SLACK_BYTES = 256 * 2**20
"""For threads' stacks and what kernels hold beside tensors."""
