"""Make the model of an emitted folder, to be run for real."""

import importlib.util
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from canvas_rt.codegen.package import config_json, module_source, planned
from canvas_rt.codegen.plan import Plan
from canvas_rt.codegen.windows import naming_window
from canvas_rt.dryrun.steps import DTYPES, made_in
from canvas_rt.ir.document import Document, Node
from canvas_rt.ir.files import dumps
from canvas_rt.ir.frozen import thaw
from canvas_rt.physics.scenario import Scenario

MODULE = "emitted_model"


def write(document: Document, folder: Path) -> None:
    """What `emit` writes as far as it runs. Its text is not formatted: who only runs it needs no ruff."""
    plan = planned(Plan(naming_window(document)))
    (folder / "model.py").write_text(module_source(plan), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config_json(plan)), encoding="utf-8")
    (folder / "document.canvas.json").write_text(dumps(document), encoding="utf-8")


def classes(folder: Path, document: Document) -> tuple[Any, Any]:
    """The config class and the model class that a folder's `model.py` defines. Runs it."""
    plan = Plan(naming_window(document))
    plan.validate()
    found = importlib.util.spec_from_file_location(MODULE, folder / "model.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[MODULE] = module  # transformers looks a model's source up by its module
    found.loader.exec_module(module)
    return getattr(module, plan.names.config), getattr(module, plan.names.model)


def emitted(document: Document) -> tuple[Any, Any]:
    """The classes that Canvas emits for a document, in this process."""
    folder = Path(tempfile.mkdtemp())
    write(document, folder)
    return classes(folder, document)


def config_values(document: Document) -> dict[str, Any]:
    """What a stock class's config is made of: the document's own sizes and settings."""
    values = thaw(dict(document.environment))
    return {name: value for name, value in values.items() if name != "dtype"}


def written_values(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What the emitted class's config is made of: all that its file says of the model."""
    return {name: value for name, value in raw.items() if name not in ("auto_map", "model_type", "dtype")}


def attention_of(document: Document, scenario: Scenario) -> str:
    """The implementation of attention, as transformers names it."""
    return "eager" if scenario.attention == "eager" or Plan(document).eager_only else "sdpa"


def made(cls: Any, config: Any, document: Document, scenario: Scenario, device: str) -> Any:
    """A model with fresh weights. Experts run as on a GPU: all in grouped products."""
    config._attn_implementation = attention_of(document, scenario)
    config.dtype = DTYPES[scenario.dtype]
    with made_in(DTYPES[scenario.dtype], device):
        model = cls(config)
    if any(isinstance(i, Node) and i.op == "experts" for b in document.blocks.values() for i in b.nodes):
        model.set_experts_implementation("grouped_mm")
    return model.train(scenario.train)
