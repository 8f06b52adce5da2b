"""Open a model of the zoo: a family's parametric document, bound to a published config. Traces nothing, needs no torch."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from canvas_rt.errors import CanvasError, suggest
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import load, with_origin
from canvas_rt.ir.frozen import FrozenMap, freeze

DOCUMENT = "document.canvas.json"
"""In each family's folder: the architecture with every size symbolic."""

MODELS = "models.json"
"""In each family's folder: for each published config, what it binds the sizes to. Generated from `configs/`."""


def zoo_folder() -> Path:
    """Where the families are: inside the installed package, or beside it in a checkout."""
    installed = Path(__file__).parents[1] / "model_zoo"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "model_zoo"


@dataclass(frozen=True, slots=True)
class ZooModel:
    """One entry of the zoo."""

    name: str
    family: str
    bindings: FrozenMap[str, Any]
    """`sizes` and `config` of this model, as far as they differ from the family's document."""


@lru_cache(maxsize=1)
def zoo_models() -> dict[str, ZooModel]:
    """Every model of the zoo by name, family by family."""
    found: dict[str, ZooModel] = {}
    for path in sorted(zoo_folder().glob(f"*/{MODELS}")):
        for name, bindings in json.loads(path.read_text(encoding="utf-8")).items():
            found[name] = ZooModel(name, path.parent.name, freeze(bindings))
    return found


@lru_cache(maxsize=64)
def _family(family: str) -> Document:
    return load(zoo_folder() / family / DOCUMENT)


def open_zoo(name: str) -> Document:
    """A zoo model as a document. Raises `CanvasError` that offers the nearest names."""
    models = zoo_models()
    if name not in models:
        raise CanvasError(f"there is no '{name}' in the zoo", hint=suggest(name, models))
    return bind(_family(models[name].family), models[name])


def bind(family: Document, model: ZooModel) -> Document:
    """A family's document with a model's own sizes and config values, as if that model had been imported."""
    sizes, config = model.bindings["sizes"], model.bindings["config"]
    document: Document = family.replace(
        name=model.name,
        sizes=FrozenMap({**family.sizes.without(*config), **sizes}),
        config=FrozenMap({**family.config.without(*sizes), **config}),
    )
    return with_origin(document, family.origin.replace(source=model.name))
