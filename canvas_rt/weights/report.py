"""What was carried over, made and dropped when weights were transplanted, by name and bytes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from canvas_rt.ir.files import shown
from canvas_rt.weights.plan import Recipe

FEW = 6
"""How many names a line of text lists."""


@dataclass(frozen=True, slots=True)
class WeightReport:
    """One transplantation."""

    made: tuple[tuple[Recipe, int], ...]
    """Each parameter's recipe, and its bytes."""

    dropped: Mapping[str, int]
    """The checkpoint's tensors that no parameter takes, with their bytes."""

    files: tuple[str, ...]
    """The files that hold the weights."""

    brought: tuple[str, ...] = ()
    """Files of the checkpoint that came along: tokenizer, chat template, license."""

    @property
    def carried_bytes(self) -> int:
        return sum(count for recipe, count in self.made if recipe.carried)

    @property
    def fresh_bytes(self) -> int:
        return sum(count for recipe, count in self.made if not recipe.carried)

    def to_json(self) -> dict[str, Any]:
        return {
            "parameters": [
                {
                    "key": recipe.key,
                    "shape": list(recipe.shape),
                    "recipe": recipe.how,
                    "from": [
                        part.key if part.rows is None else f"{part.key}[{part.rows[0]}:{part.rows[1]}]"
                        for part in recipe.parts
                    ],
                    "bytes": count,
                    **({"why": recipe.why} if recipe.why else {}),
                }
                for recipe, count in self.made
            ],
            "dropped": [{"key": key, "bytes": count} for key, count in self.dropped.items()],
            "files": list(self.files),
            "brought": list(self.brought),
        }

    def lines(self) -> list[str]:
        """A few lines: each way in which parameters were made, and what has no place."""
        groups: dict[str, list[tuple[Recipe, int]]] = {}
        for recipe, count in self.made:
            groups.setdefault(recipe.how, []).append((recipe, count))
        order = sorted(groups, key=lambda how: (not groups[how][0][0].carried, how != "copy"))
        told = [_line(how, {recipe.key: count for recipe, count in groups[how]}, how == "copy") for how in order]
        reasons = {recipe.why: recipe.key for recipe, _ in reversed(self.made) if recipe.why}
        told += [f"  {key}: {why}" for why, key in reasons.items()]
        return told + ([_line("dropped", self.dropped, False)] if self.dropped else [])

    def __str__(self) -> str:
        return "\n".join(self.lines())


def _line(word: str, keys: Mapping[str, int], many: bool) -> str:
    size = sum(keys.values())
    names = [key if re.fullmatch(r"[\w.]+", key) else shown(key) for key in keys]
    listed = (
        "" if many else ": " + ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")
    )
    return f"{word:16} {len(names):5,} tensors, {shown_bytes(size)}{listed}"


def shown_bytes(count: int) -> str:
    """Bytes as people read them: 4.7 GB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
