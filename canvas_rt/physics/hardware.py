"""The cards that a model can be measured against, read from `hardware.toml` or from a user's file of the same form."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from importlib import resources
from pathlib import Path

from canvas_rt.errors import CanvasError, suggest

PEAK_DTYPES = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8")


@dataclass(frozen=True, slots=True)
class Hardware:
    """One accelerator: what fits on it, how fast it computes and how fast it moves data."""

    id: str
    """What users type, and the name of its table: `a100-80gb`."""

    name: str
    """What its maker calls it."""

    architecture: str
    """The generation, in lower case: `ampere`, `hopper`, `cdna3`, `apple9`."""

    memory_bytes: int
    """Bytes that a process can allocate, as the driver reports them; less than `nominal_gb` promises."""

    nominal_gb: int
    """The capacity it is sold under, in units of 2**30 bytes."""

    bandwidth: float
    """Peak memory bandwidth, in bytes per second."""

    link_bandwidth: float
    """Bytes per second that it sends to its peers, in one direction, over all its links together."""

    power_watts: int
    """Board power limit; for Apple, that of the whole computer."""

    source: str
    """Title and address of the datasheet."""

    peak_flops: Mapping[str, float] = field(hash=False)
    """Dense operations per second by dtype (`PEAK_DTYPES`). A dtype that the card has no fast path for is absent."""


def hardware_names(*, file: Path | None = None) -> tuple[str, ...]:
    """The ids of the cards that come with Canvas, and of those in a user's file, sorted."""
    own = {} if file is None else _parse(_read(file), str(file))
    return tuple(sorted({*_built_in_cards(), *own}))


def load_hardware(name: str, *, file: Path | None = None) -> Hardware:
    """The card called `name`.

    `file` is a user's own TOML in the form of `hardware.toml`; where it has a card of the same name, it wins.

    Raises `CanvasError` for an unknown card, an unreadable file, or a flaw in the card's table, naming the field.
    """
    own = {} if file is None else _parse(_read(file), str(file))
    if name in own:
        return _hardware(name, own[name], str(file))
    cards = _built_in_cards()
    if name in cards:
        return _hardware(name, cards[name], "hardware.toml")
    raise CanvasError(f"unknown card {name!r}", path="hardware", hint=suggest(name, {*cards, *own}))


@lru_cache(maxsize=1)
def _built_in_cards() -> dict[str, object]:
    table = resources.files("canvas_rt.physics").joinpath("hardware.toml")
    return _parse(table.read_text(encoding="utf-8"), "hardware.toml")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CanvasError(f"cannot be read: {error}", path=str(file)) from error


def _parse(text: str, origin: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CanvasError(f"not valid TOML: {error}", path=origin) from error


def _hardware(name: str, table: object, origin: str) -> Hardware:
    reader = _Reader(table, f"{origin}: {name}")
    reader.allow({item.name for item in fields(Hardware)} - {"id"})
    return Hardware(
        id=name,
        name=reader.text("name"),
        architecture=reader.text("architecture"),
        memory_bytes=reader.whole("memory_bytes"),
        nominal_gb=reader.whole("nominal_gb"),
        bandwidth=reader.number("bandwidth"),
        link_bandwidth=reader.number("link_bandwidth"),
        power_watts=reader.whole("power_watts"),
        source=reader.text("source"),
        peak_flops=_peak_flops(reader),
    )


def _peak_flops(reader: "_Reader") -> dict[str, float]:
    peaks = _Reader(reader.value("peak_flops"), f"{reader.path}.peak_flops")
    peaks.allow(set(PEAK_DTYPES))
    if "fp32" not in peaks.table:
        raise CanvasError("is missing: every card has one", path=f"{peaks.path}.fp32")
    return {dtype: peaks.number(dtype) for dtype in PEAK_DTYPES if dtype in peaks.table}


class _Reader:
    """Reads one TOML table, so that every complaint names the table and the field."""

    def __init__(self, table: object, path: str) -> None:
        if not isinstance(table, dict):
            raise CanvasError(f"must be a table, not {table!r}", path=path)
        self.table: dict[str, object] = table
        self.path = path

    def allow(self, known: set[str]) -> None:
        for key in self.table:
            if key not in known:
                raise CanvasError("unknown field", path=f"{self.path}.{key}", hint=suggest(key, known))

    def value(self, key: str) -> object:
        if key not in self.table:
            raise CanvasError("is missing", path=f"{self.path}.{key}")
        return self.table[key]

    def text(self, key: str) -> str:
        value = self.value(key)
        if isinstance(value, str) and value.strip():
            return value
        raise self._wrong(key, "text")

    def whole(self, key: str) -> int:
        value = self.value(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        raise self._wrong(key, "a positive whole number")

    def number(self, key: str) -> float:
        value = self.value(key)
        # TOML writes inf and nan as floats; a card has neither.
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf"):
            return float(value)
        raise self._wrong(key, "a positive number")

    def _wrong(self, key: str, wanted: str) -> CanvasError:
        return CanvasError(f"must be {wanted}, not {self.table[key]!r}", path=f"{self.path}.{key}")
