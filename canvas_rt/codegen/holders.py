"""Where a module keeps its parts: as attributes of its own, or in the lists and tables that their keys name."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from canvas_rt.codegen.syntax import quote

TAKEN = frozenset(dir(nn.ModuleDict)) | frozenset(dir(nn.ModuleList))
"""What a list or a table of modules has for itself: no part of one could be called so."""


@dataclass
class Holder:
    """A list or a table of modules, or a module that only holds tensors."""

    parts: dict[str, "Holder | None"] = field(default_factory=dict)
    """What it holds, by name: a module (`None`), or another holder. Its tensors are not among them."""

    def within(self, keys: Iterable[str]) -> "Holder":
        """The holder at some keys, made where there is none."""
        found = self
        for key in keys:
            inner = found.parts.setdefault(key, Holder())
            assert inner is not None, key
            found = inner
        return found

    @property
    def is_list(self) -> bool:
        return bool(self.parts) and set(self.parts) == {str(index) for index in range(len(self.parts))}

    def expression(self, made: Mapping[str, ast.expr], path: str) -> ast.expr:
        """What constructs it. `made`: what constructs each module, by its whole key."""
        if not self.parts:
            return quote("nn.Module()")
        names = [str(index) for index in range(len(self.parts))] if self.is_list else list(self.parts)
        values = [
            made[f"{path}.{name}"] if inner is None else inner.expression(made, f"{path}.{name}")
            for name in names
            for inner in [self.parts[name]]
        ]
        if self.is_list:
            return quote("nn.ModuleList(values)", values=ast.List(values, ast.Load()))
        keys: list[ast.expr | None] = [ast.Constant(name) for name in names]
        return quote("nn.ModuleDict(table)", table=ast.Dict(keys, values))

    def accesses(self, owner: ast.expr, path: str = "") -> Iterator[tuple[str, ast.expr]]:
        """How each module and holder is reached from its owner, by its whole key."""
        for name, inner in self.parts.items():
            key = f"{path}.{name}" if path else name
            if not path:
                reached = quote("owner._name_", owner=owner, _name_=name)
            else:
                place = ast.Constant(int(name) if self.is_list else name)
                reached = quote("owner[place]", owner=owner, place=place)
            yield key, reached
            if inner is not None:
                yield from inner.accesses(reached, key)


def holding(modules: Iterable[str], tensors: Iterable[str]) -> Holder:
    """What keeps modules and tensors of some keys."""
    root = Holder()
    for key in modules:
        *around, name = key.split(".")
        root.within(around).parts[name] = None
    for key in tensors:
        root.within(key.split(".")[:-1])
    return root


__all__ = ["TAKEN", "Holder", "holding"]
