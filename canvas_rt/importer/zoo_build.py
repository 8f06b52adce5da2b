"""Regenerate the zoo: trace each family once, and bind each published config through transformers' own config class."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from canvas_rt.importer.architecture import ArchitectureImport
from canvas_rt.importer.config import check_config
from canvas_rt.importer.factory import StockFactory, make_config
from canvas_rt.importer.zoo import DOCUMENT, MODELS, zoo_folder
from canvas_rt.ir.document import Document
from canvas_rt.ir.expressions import is_expression
from canvas_rt.ir.files import dumps, read_json, write_whole
from canvas_rt.ir.frozen import thaw


def family_document(model_type: str) -> Document:
    """The architecture as its config class defines it, every size symbolic, at the class's default sizes."""
    document, _ = ArchitectureImport(StockFactory(model_type), {"model_type": model_type}, model_type).run()
    return document


def bindings(family: Document, raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a published config sets: values by transformers' own reading of it, where they differ from the family's."""
    config = make_config(StockFactory(raw["model_type"]), check_config(raw, name), name).to_dict()
    sizes: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for field, known in {**family.config, **family.sizes}.items():
        if is_expression(known) and raw.get(field) is None:
            continue  # left open: it follows from other sizes
        value = config[field]
        if field in family.sizes and value is not None:
            if value != known:
                sizes[field] = value
        elif value != thaw(known):
            others[field] = value
    return {"sizes": sizes, "config": others}


def build(folder: Path) -> dict[str, str]:
    """The text of every generated file of one family, by name."""
    configs = {path.stem: read_json(path) for path in sorted(folder.glob("configs/*.json"))}
    family = family_document(folder.name)
    models = {name: bindings(family, raw, name) for name, raw in configs.items()}
    return {DOCUMENT: dumps(family), MODELS: json.dumps(models, indent=1) + "\n"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="folders of the zoo; all of them by default")
    chosen = parser.parse_args(arguments).families
    for folder in sorted(path.parent for path in zoo_folder().glob("*/configs")):
        if not chosen or folder.name in chosen:
            for name, text in build(folder).items():
                write_whole(folder / name, text)
            print(f"built {folder.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
