"""Regenerate the zoo: import every published config, and keep one document for those that differ in values alone."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from canvas_rt.errors import CanvasError
from canvas_rt.importer.architecture import ArchitectureImport
from canvas_rt.importer.config import task_of
from canvas_rt.importer.factory import StockFactory
from canvas_rt.importer.source import import_model
from canvas_rt.importer.zoo import DOCUMENT, MODELS, bind, zoo_folder, zoo_model
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import SUFFIX, dumps, write_whole
from canvas_rt.ir.frozen import thaw


def bindings(document: Document, imported: Document, file: str) -> dict[str, Any]:
    """What makes of a document, which is in `file`, the one that was imported, if values alone can."""

    def differing(known: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
        return {name: thaw(value) for name, value in own.items() if name not in known or value != known[name]}

    return {
        "document": file,
        "sizes": differing(document.sizes, imported.sizes),
        "config": differing(document.config, imported.config),
        "patterns": differing(document.origin.patterns, imported.origin.patterns),
    }


def family_document(model_type: str) -> Document | None:
    """The architecture as its config class defines it, at the class's default sizes; None where those cannot be traced."""
    given = {"model_type": model_type}
    try:
        return ArchitectureImport(StockFactory(model_type, task_of(given)), given, model_type).run()[0]
    except CanvasError:
        return None


def build(folder: Path) -> dict[str, str]:
    """The text of every generated file of one family, by name."""
    imports = {path.stem: import_model(path)[0] for path in sorted(folder.glob("configs/*.json"))}
    family = family_document(folder.name)
    documents, models = shared({} if family is None else {DOCUMENT: family}, folder.name, imports)
    if family is not None and DOCUMENT not in {own["document"] for own in models.values()}:
        documents, models = shared({}, folder.name, imports)  # no published model has the default structure
    texts = {file: dumps(document) for file, document in documents.items()}
    return {**texts, MODELS: json.dumps(models, indent=1) + "\n"}


def shared(
    known: Mapping[str, Document], family: str, imports: Mapping[str, Document]
) -> tuple[dict[str, Document], dict[str, Any]]:
    """Documents, by their files, to which all that was imported can be bound, and what each model binds."""
    documents = dict(known)
    models: dict[str, Any] = {}
    for name, imported in imports.items():
        offers = [bindings(document, imported, file) for file, document in documents.items()]
        fitting = (own for own in offers if bind(documents[own["document"]], zoo_model(name, family, own)) == imported)
        own = next(fitting, None)
        if own is None:
            file = f"{name}{SUFFIX}" if documents else DOCUMENT
            documents[file] = imported
            own = bindings(imported, imported, file)
        models[name] = own
    return documents, models


def write(folder: Path) -> None:
    """Generate a family's files anew, and remove documents that no model has any more."""
    texts = build(folder)
    for name, text in texts.items():
        write_whole(folder / name, text)
    for path in folder.glob(f"*{SUFFIX}"):
        if path.name not in texts:
            path.unlink()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="folders of the zoo; all of them by default")
    chosen = parser.parse_args(arguments).families
    for folder in sorted(path.parent for path in zoo_folder().glob("*/configs")):
        if not chosen or folder.name in chosen:
            write(folder)
            print(f"built {folder.name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
