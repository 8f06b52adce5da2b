"""The card that the driver reports, as the table of cards would have it."""

import re
from dataclasses import fields, replace
from pathlib import Path

from canvas_rt.physics.hardware import PEAK_DTYPES, Hardware, hardware_names, load_hardware

ARCHITECTURES = {7: "volta", 8: "ampere", 9: "hopper", 10: "blackwell", 12: "blackwell"}
"""By the major number of the compute capability."""
OTHERS = {(7, 5): "turing", (8, 9): "ada"}
UNKNOWN = "a100-80gb"
"""Whose peaks a card gets that has no namesake."""


def card_of(name: str, memory_bytes: int, capability: tuple[int, int]) -> Hardware:
    """The known card of that name, with the memory that the driver reports. Of several, the nearest in memory."""
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    form = {"pcie", "nvl"} & words

    def alike(card: Hardware) -> bool:
        own = set(re.split(r"[^a-z0-9]+", card.name.lower()))
        models = {word for word in own if re.fullmatch(r"[a-z]{1,2}\d{1,3}[a-z]?|\d{4}", word)}
        return bool(models) and models <= words and {"pcie", "nvl"} & own == form

    known = [card for card in map(load_hardware, hardware_names()) if alike(card)]
    if known:
        nearest = min(known, key=lambda card: abs(card.memory_bytes - memory_bytes))
        return replace(nearest, memory_bytes=memory_bytes)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    architecture = OTHERS.get(capability, ARCHITECTURES.get(capability[0], "unknown"))
    like = load_hardware(UNKNOWN)
    source = f"peaks of {like.name}, for want of a datasheet"
    return replace(
        like,
        id=slug,
        name=name,
        architecture=architecture,
        memory_bytes=memory_bytes,
        nominal_gb=max(1, round(memory_bytes / 2**30)),
        source=source,
    )


def card_file(card: Hardware, path: Path) -> Path:
    """The card in the form of `hardware.toml`."""
    lines = [f"[{card.id}]"]
    for item in fields(card):
        value = getattr(card, item.name)
        if item.name == "peak_flops":
            peaks = ", ".join(f"{dtype} = {value[dtype]!r}" for dtype in PEAK_DTYPES if dtype in value)
            lines.append(f"peak_flops = {{ {peaks} }}")
        elif item.name != "id":
            lines.append(f"{item.name} = {quoted(value) if isinstance(value, str) else repr(value)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
