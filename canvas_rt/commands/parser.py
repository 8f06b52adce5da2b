"""The arguments of each verb, and what they may be."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import canvas_rt
from canvas_rt import options
from canvas_rt.commands import code, costs, documents, editor, train

SOURCE = "a zoo name, a config.json, a model folder, a *.canvas.json, an emitted folder or a hub id"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="canvas-rt", description="Open, edit, cost and prove LLM architectures.")
    parser.add_argument("--version", action="version", version=f"canvas-rt {canvas_rt.__version__}")
    verbs = parser.add_subparsers(metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        made.add_argument("--json", action="store_true", help="print JSON for machines")
        made.set_defaults(run=run)
        return made

    made = verb("ui", editor.ui, "open the editor in a browser; what canvas-rt does when it is given no verb")
    made.add_argument("source", nargs="?", default=editor.FIRST, help=f"what to open first: {SOURCE}")
    made.add_argument("--host", default="127.0.0.1", help="the address to listen on; 0.0.0.0 for all")
    made.add_argument("--port", type=port, default=None, help="the port to listen on (the first free one from 7860)")
    made.add_argument("--no-browser", action="store_true", help="only serve; do not open a browser")
    verb("zoo", documents.zoo, "what can be opened by name")
    made = verb("import", documents.import_, "trace an architecture into a document")
    made.add_argument("source", help=SOURCE)
    made.add_argument("-o", "--output", required=True, help="where to write the document (*.canvas.json)")
    made.add_argument(
        "--trust-code",
        action="store_true",
        help="run the code of an emitted folder that was changed, in a process of its own, and import what it computes",
    )
    add_assignments(made)
    made = verb("show", documents.show, "the graph as text, its layers folded")
    made.add_argument("source", help=SOURCE)
    made.add_argument("--unfold", action="store_true", help="every block with its nodes")
    made.add_argument("--svg", metavar="FILE", help="write it as a picture instead")
    made = verb("edit", documents.edit, "apply edits and write the edited document")
    made.add_argument("source", help=SOURCE)
    made.add_argument("-o", "--output", required=True, help="where to write the edited document (*.canvas.json)")
    made.add_argument("--apply", metavar="EDITS.json", help="edits as data, in order")
    add_assignments(made)
    made = verb("check", costs.check, "shapes of every value, and all that is wrong")
    made.add_argument("source", help=SOURCE)
    options.add_scenario(made)
    made.add_argument("--budget", metavar="vram=80GB", help="also fail where a training step takes more than this")
    made = verb("measure", costs.measure, "parameters, FLOPs, memory and time on a card")
    made.add_argument("source", help=SOURCE)
    options.add_scenario(made)
    made.add_argument("--by", choices=["node"], help="also list what each node costs, with the formulas of its numbers")
    made = verb("solve", costs.solve, "the largest batch, sequence or size that fits, or the cheapest way that does")
    made.add_argument("source", help=SOURCE)
    made.add_argument(
        "--for",
        dest="what",
        required=True,
        metavar="WHAT",
        help="batch, sequence, layers, the name of a size, recompute, or hardware",
    )
    made.add_argument("--budget", metavar="vram=80GB", help="what it must fit, instead of the card's memory")
    options.add_scenario(made)
    made = verb(
        "dryrun", costs.dryrun, "run the emitted model for real, in a process of its own, beside what was predicted"
    )
    made.add_argument("source", help=SOURCE)
    made.add_argument("--device", default="meta", metavar="meta|cpu|cuda", help="where to run it (meta: no numbers)")
    made.add_argument("--timeout", type=options.count, metavar="SECONDS", help="how long it may take (300)")
    made.add_argument("--memory", type=byte_count, metavar="SIZE", help="what its tensors may take, such as 8GB")
    options.add_scenario(made)
    made = verb("calibrate", costs.calibrate, "measure once what a card reaches of its peaks, for better times")
    made.add_argument("-o", "--output", required=True, help="the file to write (*.json)")
    made.add_argument(
        "--hardware", default="a100-80gb", metavar="CARD", help="the card of 'canvas-rt hardware' that it is"
    )
    made.add_argument("--cards", type=Path, metavar="FILE.toml", help="cards of your own, in the form of hardware.toml")
    made.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where to measure")
    made.add_argument("--seconds", type=options.count, default=60, metavar="N", help="about how long it may take (60)")
    made = verb("emit", code.emit, "write model.py, config.json and what belongs to them")
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
    made = verb("verify", code.verify, "prove emitted code (runs it, in a process of its own)")
    made.add_argument("source", help=f"a folder that emit wrote, or {SOURCE}")
    made = verb("export", code.export, "write an emitted model with its weights as a program (runs its code)")
    made.add_argument("folder", help="a folder that 'emit --weights' wrote")
    made.add_argument("-o", "--output", required=True, help="the folder to write")
    made.add_argument("--to", choices=["pt2", "onnx"], default="pt2", help="torch.export (pt2), or ONNX")
    made = verb("push", code.push, "offer an emitted folder to the hub as a pull request")
    made.add_argument("folder", help="a folder that emit wrote")
    made.add_argument("repository", help="OWNER/NAME on the hub; it is made, private, if there is none")
    made.add_argument("--public", action="store_true", help="make it public, if it is made")
    train.add_options(
        verb("train", train.train, "write what trains a model, with settings that fit; with --launch, train")
    )
    made = verb("diff", documents.diff, "what tells two documents apart, and what that costs")
    made.add_argument("a", help=SOURCE)
    made.add_argument("b", help=SOURCE)
    made = verb("hardware", costs.hardware, "the table of cards, with sources")
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
