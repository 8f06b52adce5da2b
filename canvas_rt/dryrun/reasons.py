"""Why a run died: told by how its process ended, or by what it raised."""

from canvas_rt.dryrun.result import Reason
from canvas_rt.verifier.apart import ChildDied

NO_MEMORY = (
    "out of memory",
    "outofmemory",
    "memoryerror",
    "bad_alloc",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
)


def ran_out(text: str) -> bool:
    """Whether what a process said means that it got no more memory."""
    return any(words in text.lower() for words in NO_MEMORY)


def reason_of(died: ChildDied | str, killed_for_memory: bool = False) -> tuple[Reason, str]:
    """The reason and how to say it. `killed_for_memory`: whether the kernel killed something for that meanwhile."""
    if isinstance(died, str):
        return ("out of memory" if ran_out(died) else "raised"), died
    match died.cause:
        case "time":
            return "too long", died.message
        case "stop":
            return "stopped", died.message
        case "signal" if died.signal == 9 and killed_for_memory:
            return "out of memory", "the system killed it, for want of memory"
        case "signal" if ran_out(died.last):
            return "out of memory", died.last
        case "signal":
            return "killed", died.message
        case _:
            return ("out of memory" if ran_out(died.last) else "raised"), died.message


__all__ = ["ran_out", "reason_of"]
