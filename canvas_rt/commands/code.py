"""Verbs that write a document's code, with or without weights, prove it, and pass it on."""

import argparse
import os
from pathlib import Path
from typing import Any

import canvas_rt
from canvas_rt.commands.common import AT_FAULT, OK, check_folder, open_source, require_sound
from canvas_rt.errors import CanvasError
from canvas_rt.terminal import done, print_json, progress, say


def emit(chosen: argparse.Namespace) -> int:
    from canvas_rt.codegen.cards import CardNotes
    from canvas_rt.codegen.native import native_config

    check_folder(chosen.output)
    document = open_source(chosen.source)
    require_sound(document)
    certificate = prove(document, chosen) if chosen.verify else ""
    progress("emitting")
    try:
        source = canvas_rt.emit(document, target=chosen.target, notes=CardNotes(certificate=certificate))
        native = native_config(document) if chosen.target != "native" else None
    finally:
        done()
    report = carry(document, chosen, certificate) if chosen.weights else None
    if report is None:
        source.write(chosen.output)
    if chosen.json:
        told = {"output": chosen.output, "files": sorted(os.listdir(chosen.output) if report else source.files)}
        stock = {"native": native is None or native.config is not None, "left": native.left if native else ""}
        print_json({**told, **stock, **({"weights": report.to_json()} if report else {})})
        return OK
    lines = source.files.get("model.py", "").count("\n")
    files = [f"model.py ({lines} lines)" if name == "model.py" else name for name in source.files]
    say(f"{chosen.output}: {', '.join([*files, *(report.files if report else ())])}")
    if report:
        say(report)
    say(stock_or_not(document.origin.architecture, native))
    return OK


def stock_or_not(name: str, native: Any) -> str:
    """Whether a model still is a stock architecture, as a line of text."""
    if native is None:
        return f"this still is {name}: its config alone runs natively, in transformers, vLLM and wherever that does"
    return f"{native}: --native writes just that, without code" if native.config is not None else str(native)


def prove(document: Any, chosen: argparse.Namespace) -> str:
    """The certificate of what a document becomes. Raises `CanvasError` where it does not hold."""
    from canvas_rt.verifier.apart import scratch_folder

    if chosen.target == "plain":
        raise CanvasError("no certificate is of plain code", hint="Leave out --verify, or --plain.")
    with scratch_folder() as scratch:
        folder = scratch / "emitted"
        canvas_rt.emit(document, target=chosen.target).write(folder)
        try:
            certificate = canvas_rt.verify(folder, progress=progress)
        finally:
            done()
    if not certificate.passed:
        raise CanvasError(f"is not written: its code is not proven\n{certificate}", path=chosen.output)
    return str(certificate)


def carry(document: Any, chosen: argparse.Namespace, certificate: str) -> Any:
    """Write the emitted folder with the weights of a checkpoint, and a bar that says how far it is."""
    from canvas_rt.weights.package import SHARD
    from canvas_rt.weights.report import shown_bytes

    def bar(written: int, total: int) -> None:
        share = written / total if total else 1.0
        progress(f"weights [{'#' * int(24 * share):24}] {shown_bytes(written)} of {shown_bytes(total)}")

    size = chosen.shard_size or SHARD
    try:
        return canvas_rt.transplant(
            document,
            chosen.weights,
            chosen.output,
            target=chosen.target,
            shard_bytes=size,
            certificate=certificate,
            progress=bar,
        )
    finally:
        done()


def verify(chosen: argparse.Namespace) -> int:
    from canvas_rt.verifier.emitted import is_native

    target: Any = chosen.source
    if not os.path.isfile(os.path.join(target, "model.py")) and not is_native(Path(target)):
        if os.path.isdir(target) and not os.path.isfile(os.path.join(target, "config.json")):
            raise CanvasError(
                "holds no model.py", path=target, hint="Verify a folder that 'canvas-rt emit' wrote, or a document."
            )
        target = open_source(target)
        require_sound(target)
    try:
        certificate = canvas_rt.verify(target, progress=progress)
    finally:
        done()
    print_json(certificate.to_json()) if chosen.json else say(certificate)
    return OK if certificate.passed else AT_FAULT


def export(chosen: argparse.Namespace) -> int:
    from canvas_rt.verifier.doors import export as written

    try:
        answer = written(chosen.folder, chosen.output, format=chosen.to, progress=progress)
    finally:
        done()
    if chosen.json:
        print_json({"output": chosen.output, **answer})
    else:
        say(f"{chosen.output}: {', '.join(answer['files'])}\n{answer['told']}")
    return OK


def push(chosen: argparse.Namespace) -> int:
    from canvas_rt.verifier.doors import push as pushed

    address = pushed(chosen.folder, chosen.repository, private=not chosen.public)
    print_json({"pull_request": address}) if chosen.json else say(address)
    return OK
