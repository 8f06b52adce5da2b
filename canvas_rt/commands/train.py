"""The verb `train`: write a bundle, and watch it train."""

import argparse
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from canvas_rt import options
from canvas_rt.commands.common import AT_FAULT, OK
from canvas_rt.errors import CanvasError
from canvas_rt.terminal import done, print_json, progress, say


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", help="what to train, as for the other verbs; none with --resume")
    parser.add_argument(
        "-o", "--output", required=True, help="the folder to write; with --resume, one that was written"
    )
    parser.add_argument("--launch", action="store_true", help="train on this machine, too")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped, or died")
    data = parser.add_argument_group("the data")
    data.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="FILE",
        help="text, JSON lines or parquet, or hub:NAME[:CONFIG]; a small corpus where none is named",
    )
    data.add_argument("--column", default="text", help="the column that holds the text (text)")
    data.add_argument("--streaming", action="store_true", help="read data as it is needed")
    data.add_argument("--tokenizer", metavar="DIR", help="a folder with a tokenizer; else the weights', or a new one")
    run = parser.add_argument_group("the run; what is left out is chosen, with a reason")
    run.add_argument("--weights", metavar="DIR", help="a model folder whose weights it goes on from")
    run.add_argument("--hardware", default="a100-80gb", metavar="CARD", help="what it is to fit on (a100-80gb)")
    run.add_argument("--cards", type=Path, metavar="FILE.toml", help="cards of your own, in the form of hardware.toml")
    run.add_argument("--sequence", type=options.count, metavar="N", help="tokens of a sequence")
    run.add_argument("--batch", type=options.count, metavar="N", help="sequences at a time on a GPU")
    run.add_argument("--steps", type=options.count, metavar="N", help="optimizer steps")
    run.add_argument("--learning-rate", type=rate, metavar="X", help="the highest")
    run.add_argument(
        "--seed", type=options.amount, default=0, metavar="N", help="of weights and of the data's order (0)"
    )


def rate(text: str) -> float:
    """A learning rate, as an argument."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 10:
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is no learning rate such as 3e-4")
    return number


def train(chosen: argparse.Namespace) -> int:
    """Write the bundle, train it, or both."""
    if chosen.resume and chosen.source:
        raise CanvasError(
            "names a model, and --resume goes on with one", path=chosen.source, hint="Leave one of them out."
        )
    if not chosen.resume and not chosen.source:
        raise CanvasError("nothing to train", hint="Name a model, or --resume with a folder that was written.")
    told: dict[str, Any] = {} if chosen.resume else _write(chosen)
    if not (chosen.launch or chosen.resume):
        if chosen.json:
            print_json(told)
        return OK
    result = _launch(chosen)
    if chosen.json:
        print_json({**told, "run": result.to_json()})
    else:
        say(result)
    return OK if result.outcome != "died" else AT_FAULT


def _write(chosen: argparse.Namespace) -> dict[str, Any]:
    from canvas_rt.importer import open_source
    from canvas_rt.training import Wishes, training_bundle

    progress(f"opening {chosen.source}")
    try:
        bundle = training_bundle(
            open_source(chosen.source),
            chosen.output,
            data=chosen.data,
            column=chosen.column,
            weights=chosen.weights,
            tokenizer=chosen.tokenizer,
            wishes=Wishes(
                chosen.hardware,
                chosen.cards,
                chosen.sequence,
                chosen.batch,
                chosen.steps,
                chosen.learning_rate,
                chosen.streaming,
                chosen.seed,
            ),
            progress=progress,
        )
    finally:
        done()
    if not chosen.json:
        say(bundle)
    settings = {name: [asdict(s) for s in section] for name, section in bundle.settings.sections.items()}
    return {
        "output": chosen.output,
        "tokens": bundle.tokens.count,
        "unigram_entropy": bundle.tokens.entropy,
        "gpus": bundle.settings.cards,
        "settings": settings,
    }


def _launch(chosen: argparse.Namespace) -> Any:
    """Train, and let Ctrl-C end the run with a checkpoint."""
    from canvas_rt.training import launch

    stop = threading.Event()

    def tell(words: str) -> None:
        try:
            print(words, file=sys.stderr) if chosen.json else say(words)
        except BrokenPipeError:  # nobody reads on, as behind head
            stop.set()

    before = signal.signal(signal.SIGINT, lambda number, frame: stop.set())
    try:
        return launch(
            chosen.output,
            resume=chosen.resume,
            steps=chosen.steps if chosen.resume else None,  # a bundle that was just written has them in its settings
            say=tell,
            stop=stop,
        )
    finally:
        signal.signal(signal.SIGINT, before)
