"""The CUDA card at hand, if there is one: asked for in a process that ends, which leaves nothing on the card."""

from pathlib import Path

from canvas_rt.dryrun.cards import card_file, card_of
from canvas_rt.errors import CanvasError
from canvas_rt.physics.hardware import Hardware
from canvas_rt.verifier.apart import run_apart

LOOK_S = 120.0


def card_at_hand(folder: Path) -> tuple[Hardware, Path]:
    """The first card, and a file in the folder that `measure` takes it from.

    Raises `CanvasError` where there is none.
    """
    child = "canvas_rt.dryrun.child"
    found = run_apart("look for a card", folder, child=child, timeout_s=LOOK_S, most_bytes=None)
    if not found["found"]:
        hint = "Try --device cpu, which runs as much as fits, or --device meta, which runs all without numbers."
        raise CanvasError("there is no CUDA device here", path="device", hint=hint)
    capability = found["capability"]
    card = card_of(found["name"], found["memory"], (capability[0], capability[1]))
    return card, card_file(card, folder / "cards.toml")


def devices() -> tuple[str, ...]:
    """What a dry run can be made on here."""
    import torch

    return ("meta", "cpu", *(("cuda",) if torch.cuda.is_available() else ()))
