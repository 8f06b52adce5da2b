"""Open whatever a user names: a zoo model, a config.json, a model folder, an emitted folder, a document, a hub id."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canvas_rt.errors import CanvasError, suggest
from canvas_rt.importer.config import check_config
from canvas_rt.importer.zoo import open_zoo, zoo_models
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import LARGEST_FILE, SUFFIX, load, parse_document, read_json

if TYPE_CHECKING:
    from canvas_rt.importer.architecture import ImportReport

EMITTED = "document.canvas.json"


def open_source(source: str | Path) -> Document:
    """A document from anything that can be opened. Only configs are traced; the rest is read.

    Raises `CanvasError` that says what was looked for, and where.
    """
    name = str(source)
    if name in zoo_models():
        return open_zoo(name)
    path = Path(name)
    if path.is_dir() and (path / EMITTED).is_file():
        return load(path / EMITTED)
    if path.is_file():
        data = read_json(path)
        if name.endswith(SUFFIX) or (isinstance(data, dict) and "schema_version" in data):
            return parse_document(data, name)
    return import_model(source)[0]


def import_model(source: str | Path | Mapping[str, Any]) -> tuple[Document, "ImportReport"]:
    """Trace an architecture into a document, and report what was made of it.

    `source`: a `config.json`, a folder that holds one, a zoo name, a hub id, or a config's fields. Never runs code that
    the source brings. Raises `ConfigError` naming the field at fault, `UnsupportedModelError`, or `CanvasError`.
    """
    raw, name = read_config(source)
    config = check_config(raw, name)
    from canvas_rt.importer.architecture import ArchitectureImport
    from canvas_rt.importer.factory import StockFactory

    label = Path(name).parent.name if Path(name).name == "config.json" else Path(name).stem
    return ArchitectureImport(StockFactory(config["model_type"]), config, label or str(config["model_type"])).run()


def read_config(source: str | Path | Mapping[str, Any]) -> tuple[Any, str]:
    """A config's fields, and what to call it in messages."""
    if isinstance(source, Mapping):
        return dict(source), str(source.get("model_type", "config"))
    name = str(source)
    path = Path(name)
    if path.is_dir():
        if (path / EMITTED).is_file():
            raise CanvasError("was written by Canvas", path=name, hint="Open its document.canvas.json instead of importing it.")
        if not (path / "config.json").is_file():
            raise CanvasError("is a folder without a config.json", path=name, hint="Name the folder of a model, or its config.json.")
        return read_json(path / "config.json"), str(path.resolve() / "config.json")
    if path.is_file():
        return read_json(path), name
    if name in zoo_models():
        from canvas_rt.importer.zoo import zoo_folder

        return read_json(zoo_folder() / zoo_models()[name].family / "configs" / f"{name}.json"), name
    return from_hub(name)


def from_hub(name: str) -> tuple[Any, str]:
    """A config from the hub, from its local cache when there is no network."""
    parts = name.split("/")
    known = suggest(name, zoo_models())
    if len(parts) != 2 or not all(parts) or name.endswith((".json", "/")) or name.startswith((".", "/", "~")):
        raise CanvasError("there is no such file, folder or zoo model", path=name, hint=known)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        found = Path(hf_hub_download(name, "config.json", local_files_only=bool(os.environ.get("HF_HUB_OFFLINE"))))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CanvasError(f"neither a file here nor a model on the hub: {reason[0][:200]}", path=name, hint=known) from error
    if found.stat().st_size > LARGEST_FILE:
        raise CanvasError("has a config.json that is too large", path=name)
    return read_json(found), name
