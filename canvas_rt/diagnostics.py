"""What is wrong with a user's graph: each flaw with its place, its numbers and a way out."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One flaw in a document, addressed to the person who drew it."""

    severity: Severity
    """`error`: cannot run. `warning`: runs, but probably not as meant. `note`: worth knowing."""

    path: str
    """Where: node ids joined by dots, as in `model.layers.8-15.self_attn.o_proj`."""

    message: str
    """What is wrong, with both numbers."""

    hint: str = ""
    """A way out."""

    def __str__(self) -> str:
        text = f"{self.severity}: {self.path}: {self.message}" if self.path else f"{self.severity}: {self.message}"
        return f"{text}\n  {self.hint}" if self.hint else text

    def to_json(self) -> dict[str, str]:
        return {"severity": self.severity, "path": self.path, "message": self.message, "hint": self.hint}
