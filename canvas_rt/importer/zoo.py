"""Open a model of the zoo: a parametric document of its family, bound to a published config. Traces nothing, needs no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from canvas_rt.errors import CanvasError, suggest
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import load, with_origin
from canvas_rt.ir.frozen import FrozenMap, freeze

DOCUMENT = "document.canvas.json"
"""In each family's folder: the architecture with every size symbolic, at its class's default sizes or its first model's.
Models that differ in more than values, as in which layers are of which kind, share a document `NAME.canvas.json`."""

MODELS = "models.json"
"""In each family's folder: for each published config, its document and what it binds there. Generated from `configs/`."""


def zoo_folder() -> Path:
    """Where the families are: inside the installed package, or beside it in a checkout."""
    installed = Path(__file__).parents[1] / "model_zoo"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "model_zoo"


@dataclass(frozen=True, slots=True)
class ZooModel:
    """One entry of the zoo: a document, and what this model has for itself."""

    name: str
    family: str

    document: str
    """The file in the family's folder that has this model's structure."""

    sizes: FrozenMap[str, Any]
    """Sizes that differ from the document's."""

    config: FrozenMap[str, Any]
    """Config values that differ from the document's."""

    patterns: FrozenMap[str, Any]
    """What its config lists layer by layer, where that differs."""


@lru_cache(maxsize=1)
def zoo_models() -> dict[str, ZooModel]:
    """Every model of the zoo by name, family by family."""
    found: dict[str, ZooModel] = {}
    for path in sorted(zoo_folder().glob(f"*/{MODELS}")):
        for name, own in json.loads(path.read_text(encoding="utf-8")).items():
            found[name] = zoo_model(name, path.parent.name, own)
    return found


def zoo_model(name: str, family: str, own: Mapping[str, Any]) -> ZooModel:
    """An entry as `models.json` has it."""
    return ZooModel(name, family, own["document"], *(freeze(own[part]) for part in ("sizes", "config", "patterns")))


@lru_cache(maxsize=64)
def _document(family: str, file: str) -> Document:
    return load(zoo_folder() / family / file)


def open_zoo(name: str) -> Document:
    """A zoo model as a document. Raises `CanvasError` that offers the nearest names."""
    models = zoo_models()
    if name not in models:
        raise CanvasError(f"there is no '{name}' in the zoo", hint=suggest(name, models))
    return bind(_document(models[name].family, models[name].document), models[name])


def bind(document: Document, model: ZooModel) -> Document:
    """A document with a model's own sizes and config values, as if that model had been imported."""
    bound: Document = document.replace(
        name=model.name,
        sizes=FrozenMap({**document.sizes.without(*model.config), **model.sizes}),
        config=FrozenMap({**document.config.without(*model.sizes), **model.config}),
    )
    patterns = FrozenMap({**document.origin.patterns, **model.patterns})
    return with_origin(bound, document.origin.replace(source=model.name, patterns=patterns))
