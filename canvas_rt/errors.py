"""What Canvas raises when it cannot go on, told so that a user can."""

from collections.abc import Iterable
from difflib import get_close_matches


class CanvasError(Exception):
    """Something outside the graph is wrong: a file, a name, a config field. Its text says what, where and what to try."""

    def __init__(self, message: str, *, path: str = "", hint: str = "") -> None:
        self.message = message
        self.path = path
        self.hint = hint
        super().__init__(": ".join(part for part in (path, message) if part) + (f"\n{hint}" if hint else ""))


class ConfigError(CanvasError):
    """A model's config cannot be used; `path` names the field."""


class CheckpointError(CanvasError):
    """A model folder's weights cannot be read, or are not those of its config; `path` names the file."""


class DocumentError(CanvasError):
    """A file is not a valid Canvas document; `path` leads to the flaw."""


class EditError(CanvasError):
    """An edit cannot be applied to this document; nothing was changed."""


class UnsupportedModelError(CanvasError):
    """The architecture is known but Canvas cannot import it; the text says why."""


class EmitError(CanvasError):
    """The document cannot be written as a model; `path` names the node."""


class UnresolvedShape(CanvasError):
    """A document has flaws that leave shapes open, so it has no cost; the text lists what `check` found first."""


def suggest(name: str, known: Iterable[str]) -> str:
    """A hint that offers the names nearest to a mistyped one, or all of them where they are few."""
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(close) + "?"
    return "Known: " + ", ".join(names[:20]) + (", …" if len(names) > 20 else "") + "."
