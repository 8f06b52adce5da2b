"""Verbs that make documents, show and edit them, and tell two apart."""

import argparse
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import canvas_rt
from canvas_rt.commands.common import OK, check_output, open_source, require_sound
from canvas_rt.errors import CanvasError
from canvas_rt.terminal import done, print_json, progress, say


def zoo(chosen: argparse.Namespace) -> int:
    from canvas_rt.importer import open_zoo, zoo_models
    from canvas_rt.ops.parameters import count_parameters

    rows: list[dict[str, Any]] = []
    for name, model in zoo_models().items():
        document = open_zoo(name)
        rows.append({"name": name, "family": model.family, "parameters": count_parameters(document).total})
    if chosen.json:
        print_json(rows)
        return OK
    for family, models in groupby(rows, key=lambda row: row["family"]):
        print(family)
        for row in sorted(models, key=lambda row: row["parameters"]):
            print(f"  {row['name']:18} {row['parameters']:>15,} parameters")
    return OK


def import_(chosen: argparse.Namespace) -> int:
    from canvas_rt.ir import save
    from canvas_rt.sources import import_model

    check_output(chosen.output)
    progress(f"importing {chosen.source}")
    try:
        document, report = import_model(chosen.source, trust_code=chosen.trust_code, progress=progress)
    finally:
        done()
    save(assigned(document, chosen.set), chosen.output)
    print_json(report.to_json()) if chosen.json else say(f"{document.root} → {chosen.output}\n{report}")
    return OK


def show(chosen: argparse.Namespace) -> int:
    from canvas_rt import text
    from canvas_rt.ir.files import dumps, write_whole
    from canvas_rt.ops.parameters import count_parameters
    from canvas_rt.physics import check as check_document
    from canvas_rt.pictures import picture

    document = open_source(chosen.source)
    if chosen.json and not chosen.svg:
        print(dumps(document), end="")
        return OK
    found = check_document(document)
    if chosen.svg:
        write_whole(Path(chosen.svg), picture(document, found.shapes))
        say(f"{document.name} → {chosen.svg}")
        return OK
    if found.ok:
        say(text.heading(document, count_parameters(document).total))
    else:  # a broken graph is shown for all that, but it has no cost
        errors = sum(diagnostic.severity == "error" for diagnostic in found.diagnostics)
        say(f"{document.root} · {errors} errors: 'canvas-rt check' lists them")
    say(text.unfolded(document) if chosen.unfold else text.folded(document, found.shapes))
    return OK


def edit(chosen: argparse.Namespace) -> int:
    from canvas_rt.edits import apply, parse_edits
    from canvas_rt.ir import save
    from canvas_rt.ir.files import read_json

    if not chosen.apply and not chosen.set:
        raise CanvasError("nothing to edit", hint="Give --set PATH.NAME=VALUE or --apply EDITS.json.")
    check_output(chosen.output)
    document = open_source(chosen.source)
    edited = document
    if chosen.apply:
        edited = apply(edited, *parse_edits(read_json(Path(chosen.apply))))
    edited = assigned(edited, chosen.set)
    save(edited, chosen.output)
    count = len(edited.log) - len(document.log)
    print_json({"edits": count, "output": chosen.output}) if chosen.json else say(
        f"{count} edit{'s' * (count != 1)} → {chosen.output}"
    )
    return OK


def assigned(document: Any, assignments: Sequence[str]) -> Any:
    from canvas_rt.edits import apply, parse_assignment

    edits: list[Any] = []
    for text in assignments:  # each is read against what those before it made
        try:
            edits.append(parse_assignment(apply(document, *edits), text))
        except CanvasError as error:
            name = text.partition("=")[0].strip()[:200]
            if name in str(error):
                raise
            raise CanvasError(error.message.removeprefix("value: "), path=name, hint=error.hint) from error
    return apply(document, *edits) if edits else document


def diff(chosen: argparse.Namespace) -> int:
    a, b = open_source(chosen.a), open_source(chosen.b)
    for name, document in ((chosen.a, a), (chosen.b, b)):
        try:
            require_sound(document)
        except CanvasError as error:
            raise CanvasError(error.message, path=name) from error
    found = canvas_rt.diff(a, b)
    print_json(found.to_json()) if chosen.json else say(found)
    return OK
