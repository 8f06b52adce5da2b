"""Import a folder that Canvas emitted: its document where the code is what that emits, else the code, if it is trusted."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document, Node
from canvas_rt.ir.files import load, parse_document, read_json, read_regular
from canvas_rt.ir.tasks import TASKS
from canvas_rt.verifier.apart import LONGEST_S, run_apart

if TYPE_CHECKING:
    from canvas_rt.importer.report import ImportReport

DOCUMENT, CODE, CONFIG = "document.canvas.json", "model.py", "config.json"

CONFIGS, HEADS = "AutoConfig", tuple(task.auto for task in TASKS.values())
"""What a config's `auto_map` must name: the config's class, and the model's by one of these names."""


def import_emitted(
    folder: Path,
    *,
    trust_code: bool = False,
    timeout_s: float = LONGEST_S,
    progress: Callable[[str], None] = lambda name: None,
) -> tuple[Document, "ImportReport"]:
    """The document of a folder with code, and a report.

    Where the code is, letter by letter, what the folder's document emits, that document is what it computes, and nothing
    runs. Code that was changed by hand, or by a stranger, runs only with `trust_code`: in a process of its own.

    Raises `CanvasError` that says where the code differs, and what the code itself raises.
    """
    if is_native(folder):
        return import_native(folder)
    if os.path.lexists(folder / DOCUMENT):
        document = load(folder / DOCUMENT)
        changed = difference_in_text(folder, document)
        if not changed:
            return document, read_report(document, "its code is what its document emits: nothing ran")
    else:
        changed = f"it has no {DOCUMENT}"
    if not trust_code:
        raise CanvasError(
            f"holds code that its document does not emit: {changed}. Canvas runs no code unless it is told to",
            path=str(folder),
            hint="If you would run it yourself, add --trust-code (trust_code=True): it runs in a process of its own. "
            f"Name the folder's {DOCUMENT} to open that instead.",
        )
    answer = run_apart("import", folder, timeout_s=timeout_s, progress=progress)
    from canvas_rt.importer.report import ImportReport

    return parse_document(answer["document"], str(folder)), ImportReport.from_json(answer["report"])


def is_plain(folder: Path) -> bool:
    """Whether a folder holds code that transformers does not know how to load."""
    if not _holds(folder, CODE, CONFIG, DOCUMENT):
        return False
    config = read_json(folder / CONFIG)
    return isinstance(config, Mapping) and "model_type" not in config and "auto_map" not in config


def import_native(folder: Path) -> tuple[Document, "ImportReport"]:
    """The document of a folder without code: the one beside its config where that computes it, else what it says."""
    from canvas_rt.codegen.native import told_apart
    from canvas_rt.importer import import_model

    document = load(folder / DOCUMENT)
    imported, report = import_model(read_json(folder / CONFIG))
    found = told_apart(document, imported)
    if not found:
        return document, read_report(document, "its config is what its document computes")
    note = f"its config computes something else than its document: {found}"
    return imported, replace(report, notes=(*report.notes, note))


def _holds(folder: Path, *names: str) -> bool:
    """Whether a folder holds some files; not so where its name is none."""
    return all(os.path.isfile(folder / name) for name in names)


def is_native(folder: Path) -> bool:
    """Whether a folder holds a document and the config of a stock architecture, and no code."""
    if os.path.lexists(folder / CODE) or not _holds(folder, CONFIG, DOCUMENT):
        return False
    config = read_json(folder / CONFIG)
    return isinstance(config, Mapping) and not config.get("auto_map")


def difference_in_text(folder: Path, document: Document) -> str:
    """Where code and config are not what a document emits; empty where they are."""
    from canvas_rt.codegen.package import emit

    expected = emit(document, target="plain" if is_plain(folder) else "code").files
    for name in (CODE, CONFIG):
        if not os.path.lexists(folder / name):
            return f"{name} is missing"
        ours, theirs = expected[name].encode().splitlines(True), read_regular(folder / name).splitlines(True)
        if ours != theirs:
            place = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
            return f"{name} differs in line {1 + (min(len(ours), len(theirs)) if place is None else place)}"
    return ""


def read_report(document: Document, note: str) -> "ImportReport":
    """The report of an import that had only to read."""
    from canvas_rt.importer.report import ImportReport
    from canvas_rt.ir.expressions import is_expression

    nodes = [item for block in document.blocks.values() for item in block.nodes if isinstance(item, Node)]
    recognised = {op: sum(node.op == op for node in nodes) for op in dict.fromkeys(node.op for node in nodes)}
    symbols = sum(is_expression(value) for node in nodes for value in node.attrs.values())
    return ImportReport(len(nodes), recognised, symbols, (), (), (), notes=(note,))


# in the child


def import_code(folder: Path) -> tuple[Document, "ImportReport"]:
    """Trace the classes that a folder's code defines. It runs that code: only in a process of its own.

    Where it computes what the folder's document says, that document is given, with its origin, layout and log.
    """
    from canvas_rt.importer.architecture import ArchitectureImport
    from canvas_rt.importer.factory import ClassFactory, canonical_values
    from canvas_rt.importer.probes import probe_assignments
    from canvas_rt.ops.compare import difference
    from canvas_rt.verifier.shrink import small_form

    raw = read_json(folder / CONFIG)
    config_class, model_class = load_classes(folder, raw)
    known = load(folder / DOCUMENT) if os.path.lexists(folder / DOCUMENT) else None
    pinned = small_form(known)[0] if known is not None else ()
    name = known.name if known is not None else folder.name
    values = canonical_values(config_class, raw)
    try:
        document, report = ArchitectureImport(ClassFactory(config_class, model_class), values, name, pinned).run()
    except CanvasError:
        raise
    except Exception as error:  # whatever the code does
        raise CanvasError(f"cannot be traced: {type(error).__name__}: {str(error)[:300]}", path=CODE) from error
    if known is None:
        return document, replace(report, notes=("its code was run, in a process of its own",))
    found = difference(known, document, probe_assignments(dict(known.environment), pinned))
    if not found:
        return known, replace(report, notes=("its code was run, and computes what its document says",))
    return document, replace(
        report, notes=(f"its code was run, and computes something else than its document: {found}",)
    )


def load_classes(folder: Path, raw: Any) -> tuple[type, type]:
    """The config class and the model class that a folder's config names. Runs the code that defines them."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    from canvas_rt.importer.trace import quiet

    names = raw.get("auto_map") if isinstance(raw, Mapping) else None
    head = next((auto for auto in HEADS if isinstance(names, Mapping) and auto in names), HEADS[0])
    if not isinstance(names, Mapping) or not all(isinstance(names.get(auto), str) for auto in (CONFIGS, head)):
        raise CanvasError(f"must name {CONFIGS} and {head}", path=f"{CONFIG}: auto_map", hint="As emit writes it.")
    try:
        with quiet():
            found = [get_class_from_dynamic_module(names[auto], str(folder)) for auto in (CONFIGS, head)]
    except Exception as error:
        raise CanvasError(f"cannot be loaded: {type(error).__name__}: {error}", path=CODE) from error
    return found[0], found[1]
