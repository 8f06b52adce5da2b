"""The command line: one verb for each arrow of the design."""

import argparse
import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import canvas_rt
from canvas_rt import options, train_verb
from canvas_rt.errors import CanvasError
from canvas_rt.options import add_scenario
from canvas_rt.terminal import done, print_json, printable, progress, say

OK, AT_FAULT, USAGE = 0, 1, 2

FIRST = "llama-3.2-1b"
"""What the editor opens when nothing is named."""

SOURCE = "a zoo name, a config.json, a model folder, a *.canvas.json, an emitted folder or a hub id"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. 0: all is well. 1: the graph, the file or the claim is at fault. 2: bad usage."""
    parser = make_parser()
    chosen = parser.parse_args(arguments)
    if not hasattr(chosen, "run"):
        chosen = parser.parse_args(["ui"])
    for stream in (sys.stdout, sys.stderr):  # a terminal without × gets an escape, not a traceback
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return int(chosen.run(chosen))
    except CanvasError as error:
        report_error(error, chosen.json)
        return AT_FAULT
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return AT_FAULT
    except Exception as error:
        if os.environ.get("CANVAS_TRACEBACK"):
            raise
        unexpected = CanvasError(
            f"a flaw of Canvas itself: {type(error).__name__}: {error}",
            hint="CANVAS_TRACEBACK=1 shows where. Please report it.",
        )
        report_error(unexpected, chosen.json)
        return AT_FAULT


def report_error(error: CanvasError, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": error.message, "path": error.path, "hint": error.hint}))
    else:
        print(f"canvas-rt: {printable(str(error))}", file=sys.stderr)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="canvas-rt", description="Open, edit, cost and prove LLM architectures.")
    parser.add_argument("--version", action="version", version=f"canvas-rt {canvas_rt.__version__}")
    verbs = parser.add_subparsers(metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        made.add_argument("--json", action="store_true", help="print JSON for machines")
        made.set_defaults(run=run)
        return made

    made = verb("ui", ui, "open the editor in a browser; what canvas-rt does when it is given no verb")
    made.add_argument("source", nargs="?", default=FIRST, help=f"what to open first: {SOURCE}")
    made.add_argument("--host", default="127.0.0.1", help="the address to listen on; 0.0.0.0 for all")
    made.add_argument("--port", type=port, default=None, help="the port to listen on (the first free one from 7860)")
    made.add_argument("--no-browser", action="store_true", help="only serve; do not open a browser")
    verb("zoo", zoo, "what can be opened by name")
    made = verb("import", import_, "trace an architecture into a document")
    made.add_argument("source", help=SOURCE)
    made.add_argument("-o", "--output", required=True, help="where to write the document (*.canvas.json)")
    made.add_argument(
        "--trust-code",
        action="store_true",
        help="run the code of an emitted folder that was changed, in a process of its own, and import what it computes",
    )
    add_assignments(made)
    made = verb("show", show, "the graph as text, its layers folded")
    made.add_argument("source", help=SOURCE)
    made.add_argument("--unfold", action="store_true", help="every block with its nodes")
    made.add_argument("--svg", metavar="FILE", help="write it as a picture instead")
    made = verb("edit", edit, "apply edits and write the edited document")
    made.add_argument("source", help=SOURCE)
    made.add_argument("-o", "--output", required=True, help="where to write the edited document (*.canvas.json)")
    made.add_argument("--apply", metavar="EDITS.json", help="edits as data, in order")
    add_assignments(made)
    made = verb("check", check, "shapes of every value, and all that is wrong")
    made.add_argument("source", help=SOURCE)
    add_scenario(made)
    made.add_argument("--budget", metavar="vram=80GB", help="also fail where a training step takes more than this")
    made = verb("measure", measure, "parameters, FLOPs, memory and time on a card")
    made.add_argument("source", help=SOURCE)
    add_scenario(made)
    made.add_argument("--by", choices=["node"], help="also list what each node costs, with the formulas of its numbers")
    made = verb("solve", solve, "the largest batch, sequence or size that fits, or the cheapest way that does")
    made.add_argument("source", help=SOURCE)
    made.add_argument(
        "--for",
        dest="what",
        required=True,
        metavar="WHAT",
        help="batch, sequence, layers, the name of a size, recompute, or hardware",
    )
    made.add_argument("--budget", metavar="vram=80GB", help="what it must fit, instead of the card's memory")
    add_scenario(made)
    made = verb("dryrun", dryrun, "run the emitted model for real, in a process of its own, beside what was predicted")
    made.add_argument("source", help=SOURCE)
    made.add_argument("--device", default="meta", metavar="meta|cpu|cuda", help="where to run it (meta: no numbers)")
    made.add_argument("--timeout", type=options.count, metavar="SECONDS", help="how long it may take (300)")
    made.add_argument("--memory", type=byte_count, metavar="SIZE", help="what its tensors may take, such as 8GB")
    add_scenario(made)
    made = verb("calibrate", calibrate, "measure once what a card reaches of its peaks, for better times")
    made.add_argument("-o", "--output", required=True, help="the file to write (*.json)")
    made.add_argument(
        "--hardware", default="a100-80gb", metavar="CARD", help="the card of 'canvas-rt hardware' that it is"
    )
    made.add_argument("--cards", type=Path, metavar="FILE.toml", help="cards of your own, in the form of hardware.toml")
    made.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where to measure")
    made.add_argument("--seconds", type=options.count, default=60, metavar="N", help="about how long it may take (60)")
    made = verb("emit", emit, "write model.py, config.json and what belongs to them")
    made.add_argument("source", help=SOURCE)
    made.add_argument("-o", "--output", required=True, help="the folder to write")
    made.add_argument(
        "--weights",
        metavar="DIR",
        help="a model folder whose safetensors are carried over; what was killed is gone on with by the same command",
    )
    made.add_argument(
        "--shard-size", type=byte_count, metavar="SIZE", help="the largest file of weights, such as 2GB (5GB)"
    )
    made.add_argument("--verify", action="store_true", help="prove the code first, and put the certificate on its card")
    target = made.add_mutually_exclusive_group()
    target.add_argument(
        "--native",
        action="store_const",
        const="native",
        default="code",
        dest="target",
        help="write the config alone, where the model still is a stock architecture of transformers",
    )
    target.add_argument(
        "--plain",
        action="store_const",
        const="plain",
        dest="target",
        help="write the same blocks as one model.py that needs PyTorch alone: no cache, no transformers",
    )
    made = verb("verify", verify, "prove emitted code (runs it, in a process of its own)")
    made.add_argument("source", help=f"a folder that emit wrote, or {SOURCE}")
    made = verb("export", export, "write an emitted model with its weights as a program (runs its code)")
    made.add_argument("folder", help="a folder that 'emit --weights' wrote")
    made.add_argument("-o", "--output", required=True, help="the folder to write")
    made.add_argument("--to", choices=["pt2", "onnx"], default="pt2", help="torch.export (pt2), or ONNX")
    made = verb("push", push, "offer an emitted folder to the hub as a pull request")
    made.add_argument("folder", help="a folder that emit wrote")
    made.add_argument("repository", help="OWNER/NAME on the hub; it is made, private, if there is none")
    made.add_argument("--public", action="store_true", help="make it public, if it is made")
    train_verb.add_options(
        verb("train", train, "write what trains a model, with settings that fit; with --launch, train")
    )
    made = verb("diff", diff, "what tells two documents apart, and what that costs")
    made.add_argument("a", help=SOURCE)
    made.add_argument("b", help=SOURCE)
    made = verb("hardware", hardware, "the table of cards, with sources")
    made.add_argument("--cards", type=Path, metavar="FILE.toml", help="cards of your own, in the form of hardware.toml")
    return parser


def add_assignments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        metavar="PATH.NAME=VALUE",
        action="append",
        default=[],
        help="set a size, a config value or a node's setting, as in model.layers.8-15.self_attn.num_key_value_heads=4",
    )


def port(text: str) -> int:
    """A TCP port, as an argument."""
    if not text.isdecimal() or not 1 <= int(text[:9]) <= 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is no port from 1 to 65535")
    return int(text)


def byte_count(text: str) -> int:
    """A number of bytes, as an argument: `5GB`, `500MB`."""
    found = re.fullmatch(r"(\d{1,6})\s*(k|M|G|T)B", text)
    if not found or not int(found[1]):
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is no size such as 500MB or 5GB")
    return int(found[1]) * int(1000 ** " kMGT".index(found[2]))


def open_source(name: str) -> Any:
    from canvas_rt.importer import open_source as opened

    progress(f"opening {name}")
    try:
        return opened(name)
    finally:
        done()


def ui(chosen: argparse.Namespace) -> int:
    document = open_source(chosen.source)
    from canvas_ui.app import serve

    screen = sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    browser = screen and sys.stdout.isatty() and not chosen.no_browser

    def announce(address: str) -> None:
        if chosen.json:
            print(json.dumps({"url": address}), flush=True)
        else:
            print(f"Canvas is at {address}  (Ctrl+C stops it)", flush=True)

    serve(document, host=chosen.host, port=chosen.port, browser=browser, announce=announce)
    return OK


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


def check_output(path: str) -> None:
    """Say before any work that a file cannot be written."""
    parent = os.path.dirname(path) or "."
    if not os.path.isdir(parent):
        raise CanvasError("is no folder", path=parent, hint="Make it first, or choose another.")
    if not path or os.path.isdir(path):
        raise CanvasError("is a folder", path=path or ".", hint="Name a file that ends in .canvas.json.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise CanvasError("exists and is no regular file", path=path, hint="Choose another name.")
    if not os.access(parent, os.W_OK):
        raise CanvasError("cannot be written to", path=parent, hint="Choose another folder.")


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


def check(chosen: argparse.Namespace) -> int:
    from canvas_rt.physics import check as check_document

    document = open_source(chosen.source)
    found = check_document(document, batch=chosen.batch, sequence=chosen.sequence)
    diagnostics = [*found.diagnostics, *(over_budget(document, chosen) if chosen.budget and found.ok else [])]
    errors = any(diagnostic.severity == "error" for diagnostic in diagnostics)
    if chosen.json:
        shapes = {path: [shape and list(shape.symbolic) for shape in ports] for path, ports in found.shapes.items()}
        print_json({"ok": not errors, "diagnostics": [d.to_json() for d in diagnostics], "shapes": shapes})
    else:
        for diagnostic in diagnostics:
            say(diagnostic)
        print(f"{len(found.shapes)} values; " + ("errors above" if errors else "all shapes agree"))
    return AT_FAULT if errors else OK


def budget_bytes(text: str) -> int:
    """`vram=80GB` as bytes."""
    name, _, size = text.partition("=")
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(gb|gib)\s*", size.lower())
    if name != "vram" or not found:
        raise CanvasError(f"'{text}' is no budget", path="--budget", hint="As in vram=80GB.")
    return int(float(found[1]) * {"gb": 1e9, "gib": 2**30}[found[2]])


def over_budget(document: Any, chosen: argparse.Namespace) -> list[Any]:
    from canvas_rt.diagnostics import Diagnostic

    budget = budget_bytes(chosen.budget)
    scenario = options.scenario_of(document, chosen)
    report = canvas_rt.measure(document, scenario=scenario, thorough=True, **options.card_of(chosen))
    taken = report.memory.device_total
    if taken <= budget:
        return []
    message = f"{chosen.mode} takes {taken / 1e9:.1f} GB, over the budget of {budget / 1e9:.1f} GB"
    return [Diagnostic("error", "", message, "Make the model, the batch or the sequence smaller.")]


def measure(chosen: argparse.Namespace) -> int:
    from canvas_rt import reporting
    from canvas_rt.physics import measure as measure_document

    document = open_source(chosen.source)
    progress("measuring")
    try:
        scenario = options.scenario_of(document, chosen)
        report = measure_document(document, scenario=scenario, thorough=True, **options.card_of(chosen))
    finally:
        done()
    if chosen.json:
        print_json(report.to_json())
        return OK
    say(reporting.told(report, cards=chosen.cards))
    if chosen.by == "node":
        say("\n".join(reporting.by_node(report)))
    return OK


def solve(chosen: argparse.Namespace) -> int:
    from canvas_rt import reporting
    from canvas_rt.solving import solve as solve_for

    document = open_source(chosen.source)
    progress(f"looking for the best {chosen.what}")
    try:
        found = solve_for(
            document,
            chosen.what,
            scenario=options.scenario_of(document, chosen),
            budget=None if chosen.budget is None else budget_bytes(chosen.budget),
            **options.card_of(chosen),
        )
    finally:
        done()
    if chosen.json:
        print_json(found.to_json())
        return OK
    say(f"{found.what} = {found.value}: {found.limit}")
    say(reporting.told(found.report, cards=chosen.cards))
    return OK


def dryrun(chosen: argparse.Namespace) -> int:
    document = open_source(chosen.source)
    try:
        found = canvas_rt.dry_run(
            document,
            device=chosen.device,
            scenario=options.scenario_of(document, chosen),
            timeout_s=chosen.timeout or 300,
            memory_bytes=chosen.memory,
            progress=progress,
            **options.card_of(chosen),
        )
    finally:
        done()
    print_json(found.to_json()) if chosen.json else say(found)
    return OK if found.ran else AT_FAULT


def calibrate(chosen: argparse.Namespace) -> int:
    from canvas_rt.physics.calibration import calibrate as calibrate_card
    from canvas_rt.physics.hardware import load_hardware

    check_output(chosen.output)
    card = load_hardware(chosen.hardware, file=chosen.cards)
    try:
        found = calibrate_card(card, chosen.device, most_s=chosen.seconds, progress=progress)
    finally:
        done()
    found.save(Path(chosen.output))
    if chosen.json:
        print_json({"output": chosen.output, "device": found.device, "bandwidth_share": found.bandwidth_share})
    else:
        share = max((y for _, points in found.products for _, y in points), default=0.0)
        say(
            f"{found.device} reaches {share:.0%} of {card.name}'s peak in products and {found.bandwidth_share:.0%} of its"
        )
        say(f"bandwidth; a launch takes {found.launch_s * 1e6:.1f} µs → {chosen.output}")
    return OK


def check_folder(path: str) -> None:
    """Say before any work that a folder's name is none."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CanvasError(f"cannot be written: {reason}", path=path[:200], hint="Choose another name.") from error


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


def require_sound(document: Any) -> None:
    """Refuse a graph with errors, naming all of them."""
    from canvas_rt.physics.shapes import require_sound as require

    require(document)


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


def train(chosen: argparse.Namespace) -> int:
    return OK if train_verb.run(chosen) else AT_FAULT


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


def hardware(chosen: argparse.Namespace) -> int:
    from dataclasses import asdict

    from canvas_rt.physics.hardware import hardware_names, load_hardware

    cards = [load_hardware(name, file=chosen.cards) for name in hardware_names(file=chosen.cards)]
    if chosen.json:
        print_json([asdict(card) for card in cards])
        return OK
    for card in cards:
        best = max(card.peak_flops.get(dtype, 0) for dtype in ("bf16", "fp16"))
        print(
            f"{card.id:16} {card.memory_bytes / 2**30:6.1f} GiB {card.bandwidth / 1e12:6.2f} TB/s {best / 1e12:7.0f} TFLOP/s"
            f"  {card.source}"
        )
    return OK


if __name__ == "__main__":
    sys.exit(main())
