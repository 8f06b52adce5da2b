"""Figures as people read them."""

KIB, MIB, GIB = 2**10, 2**20, 2**30


def shown_bytes(count: float) -> str:
    """12.34 GiB, 5.67 MiB."""
    for unit, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(count) >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count:,.0f} bytes"


def shown_seconds(seconds: float) -> str:
    """340 ms, 12.3 s, 25 minutes."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:,.0f} minutes" if seconds < 7200 else f"{seconds / 3600:,.0f} hours"


def shown_flops(count: float) -> str:
    """9.25 TFLOP, 310 MFLOP."""
    for unit, size in (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count:,.0f} FLOP"


def shown(name: str, value: float | None) -> str:
    """A figure by its name; nothing where there is none."""
    if value is None:
        return ""
    if name.startswith("memory."):
        return shown_bytes(value)
    if name.startswith("flops."):
        return shown_flops(value)
    return shown_seconds(value) if name == "time.total_s" else f"{value:,.0f}"


BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float], width: int = 48) -> str:
    """A line of blocks, each as high as the highest of its share of the values."""
    if not values:
        return ""
    width = min(width, len(values))
    parts = [values[len(values) * i // width : len(values) * (i + 1) // width] for i in range(width)]
    top = max(values) or 1
    return "".join(BARS[min(7, int(8 * max(part) / top))] for part in parts)
