"""The text of classes: what `inspect.getsource` gives, with each file read once. Before Python 3.13 it parses a file for each class."""

import ast
import inspect
import sys
from collections.abc import Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any


def class_text(cls: Any) -> str:
    """A class's code; empty where its file is not to be found."""
    module = sys.modules.get(cls.__module__)
    try:
        known = {} if module is None else _classes(module)
        return known.get(cls.__qualname__) or inspect.getsource(cls)
    except (OSError, TypeError):
        return ""


@lru_cache(maxsize=64)
def _classes(module: ModuleType) -> Mapping[str, str]:
    """The classes that stand in a module's file by themselves: those that stand there once."""
    text = inspect.getsource(module)
    lines = text.splitlines(keepends=True)
    found: dict[str, list[str]] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found.setdefault(node.name, []).append("".join(lines[first - 1 : node.end_lineno]))
    return {name: texts[0] for name, texts in found.items() if len(texts) == 1}
