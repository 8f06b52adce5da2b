"""What a real card reaches of its peaks, measured once and kept in a file: products, attention, bandwidth, launches."""

import json
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canvas_rt.errors import CanvasError

if TYPE_CHECKING:
    from canvas_rt.physics.hardware import Hardware
    from canvas_rt.physics.tape import Work

Points = tuple[tuple[float, float], ...]
"""(log2 of the FLOPs of one kernel, share of the peak that it reaches), ascending."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Shares of a card's peaks. Between measured sizes they are interpolated, beyond them the outermost holds."""

    card: str
    """The id of the card whose peaks the shares are of."""

    device: str
    """What the device calls itself."""

    products: tuple[tuple[str, Points], ...]
    """For each kind of number, of square matrices: thin ones are bound by memory."""

    attention: tuple[tuple[str, Points], ...]
    bandwidth_share: float
    launch_s: float

    def share(self, work: "Work") -> float:
        """The share of the peak that a kernel reaches."""
        table = dict(self.attention if len(work.product) == 4 else self.products)
        points = table.get(work.rate)
        return 1.0 if not points else interpolated(points, log2(max(2, work.executed)))

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def interpolated(points: Points, x: float) -> float:
    """On the line between the two nearest points; beyond the outermost, its value."""
    place = bisect_left(points, (x,))
    if place == 0:
        return points[0][1]
    if place == len(points):
        return points[-1][1]
    (x0, y0), (x1, y1) = points[place - 1 : place + 1]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def load_calibration(file: Path | str) -> Calibration:
    """Raises `CanvasError` for a file that is none, naming the field."""
    path = Path(file)
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CanvasError(f"cannot be read: {error}", path=str(file), hint="Make one: canvas-rt calibrate.") from error
    try:
        found = Calibration(
            card=str(read["card"]),
            device=str(read["device"]),
            products=_tables(read["products"]),
            attention=_tables(read["attention"]),
            bandwidth_share=_positive(read["bandwidth_share"]),
            launch_s=_positive(read["launch_s"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CanvasError(
            f"is no calibration: {type(error).__name__} {error}", path=str(file), hint="Make one: canvas-rt calibrate."
        ) from error
    return found


def _tables(read: Any) -> tuple[tuple[str, Points], ...]:
    return tuple((str(rate), tuple(sorted((float(x), _positive(y)) for x, y in points))) for rate, points in read)


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{value!r} is no positive number")
    return float(value)


# ---------------------------------------------------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------------------------------------------------

SIZES = (128, 256, 512, 1024, 2048, 4096, 8192)
"""Of square products."""
LENGTHS = (128, 512, 2048, 8192)
"""Of sequences in attention: 32 heads of 128."""


def calibrate(
    card: "Hardware", device: str = "cuda", *, most_s: float = 60.0, progress: Callable[[str], None] = lambda text: None
) -> Calibration:
    """Measure products, attention, copies and launches on a device. Takes at most about `most_s` seconds.

    `card` is the card whose peaks the shares are of; the CPU serves to try it out. Raises `CanvasError` without a device.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise CanvasError("no CUDA device here", path="device", hint="Run it on the machine with the card.")
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    clock = _Clock(device, most_s / 40)
    rates = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    products, attention = [], []
    for rate, dtype in rates.items():
        peak = card.peak_flops.get(rate)
        if peak is None:
            continue
        progress(f"products of {rate}")
        products.append((rate, _products(clock, device, dtype, peak)))
        if rate != "fp32":
            progress(f"attention in {rate}")
            attention.append((rate, _attention(clock, device, dtype, peak)))
    progress("bandwidth and launches")
    share = min(1.0, _bandwidth(clock, device) / card.bandwidth)
    return Calibration(card.id, name, tuple(products), tuple(attention), share, _launch(clock, device))


@dataclass(frozen=True, slots=True)
class _Clock:
    device: str
    most_s: float

    def seconds(self, run: Callable[[], Any]) -> float:
        """The median of some runs, after one to warm up."""
        import time

        import torch

        wait: Callable[[], None] = torch.cuda.synchronize if self.device == "cuda" else lambda: None
        run()
        wait()
        times: list[float] = []
        started = time.perf_counter()
        while len(times) < 3 or (len(times) < 20 and time.perf_counter() - started < self.most_s):
            start = time.perf_counter()
            run()
            wait()
            times.append(time.perf_counter() - start)
            if time.perf_counter() - started > 10 * self.most_s:
                break
        return sorted(times)[len(times) // 2]


def _products(clock: _Clock, device: str, dtype: Any, peak: float) -> Points:
    import torch

    points: dict[float, float] = {}
    largest = SIZES if device == "cuda" else SIZES[:4]
    for size in largest:
        x, y = (torch.zeros(size, size, dtype=dtype, device=device) for _ in range(2))
        flops = 2 * size**3
        points[log2(flops)] = min(1.0, flops / clock.seconds(partial(torch.matmul, x, y)) / peak)
    return tuple(sorted(points.items()))


def _attention(clock: _Clock, device: str, dtype: Any, peak: float) -> Points:
    import torch
    import torch.nn.functional as F

    points: dict[float, float] = {}
    for length in LENGTHS if device == "cuda" else LENGTHS[:2]:
        q, k, v = (torch.zeros(1, 32, length, 128, dtype=dtype, device=device) for _ in range(3))
        executed = 4 * 32 * 128 * length * (length + 1) // 2
        seconds = clock.seconds(partial(F.scaled_dot_product_attention, q, k, v, is_causal=True))
        points[log2(executed)] = min(1.0, executed / seconds / peak)
    return tuple(sorted(points.items()))


def _bandwidth(clock: _Clock, device: str) -> float:
    """Bytes per second, read and written, of a copy."""
    import torch

    x = torch.zeros(2**28 if device == "cuda" else 2**24, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    return 2 * x.nbytes / clock.seconds(lambda: y.copy_(x))


def _launch(clock: _Clock, device: str) -> float:
    """Seconds for each of many small kernels in a row."""
    import torch

    x, many = torch.zeros(32, device=device), 1000

    def run() -> None:
        for _ in range(many):
            x.add_(1)

    return clock.seconds(run) / many


__all__ = ["Calibration", "calibrate", "load_calibration"]
