"""Write a training bundle: the emitted model, its tokenizer and data, settings that fit, and a script that trains."""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from canvas_rt.codegen.package import emit
from canvas_rt.edits import Edit, SetConfig, apply
from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document
from canvas_rt.physics import check
from canvas_rt.training.data import Data, read_data
from canvas_rt.training.files import files_of
from canvas_rt.training.settings import Setting, Settings, Wishes, choose
from canvas_rt.training.tokens import Tokens, brought, has_tokenizer, trained
from canvas_rt.weights.package import transplant

NO_WISHES = Wishes()
MODEL, DATA, SETTINGS = "model", "data", "settings.toml"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was written."""

    folder: Path
    settings: Settings
    tokens: Tokens
    data: Data

    def __str__(self) -> str:
        run, cpu, gpu = ({s.name: s.value for s in self.settings.sections[name]} for name in ("run", "cpu", "gpu"))
        amount = f"about {self.tokens.count:,} tokens" if self.tokens.count else "tokens of the hub"
        return (
            f"{self.folder}: {run['steps']} steps over {amount}, unigram entropy {self.tokens.entropy:.2f} nats a token\n"
            f"  a CPU       batch {cpu['batch']} × {cpu['sequence']} tokens\n"
            f"  {self.settings.cards} × GPU     batch {gpu['batch']} × {gpu['sequence']} tokens"
            f"{', bfloat16 alone' if gpu['dtype'] == 'bfloat16' else ''}{', recomputing layers' if gpu['recompute'] else ''}\n"
            f"  {SETTINGS} has the reasons; 'python train.py' in the folder trains"
        )


def training_bundle(
    document: Document,
    folder: str | Path,
    *,
    data: Sequence[str | Path] = (),
    column: str = "text",
    weights: str | Path | None = None,
    tokenizer: str | Path | None = None,
    wishes: Wishes = NO_WISHES,
    progress: Callable[[str], None] = lambda words: None,
) -> Bundle:
    """Write what trains a document: whole, or not at all.

    `data`: files of text, JSON lines or parquet, or `hub:NAME`; without any, a small corpus. `weights`: a checkpoint to begin
    with. `tokenizer`: a folder that holds one; without, that of the weights, or one that is trained on the data.

    Raises `CanvasError` before anything is written for a graph that cannot run, data that cannot be read, a batch that cannot
    fit, and a folder that cannot be written.
    """
    place = Path(folder)
    _require_place(place)
    _require_trainable(document)
    progress("reading the data")
    texts = read_data(data, column=column)
    tokens = _tokens(document, texts, weights, tokenizer, progress)
    prepared = _prepared(document, tokens)
    progress("asking what fits")
    settings = choose(prepared, texts, tokens, wishes, weights=weights is not None)
    try:
        scratch = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    except OSError as error:
        raise CanvasError(f"cannot be written: {error.strerror}", path=str(folder)) from error
    try:
        made = scratch / place.name
        made.mkdir()
        _write(prepared, texts, tokens, settings, weights, made, progress)
        if place.is_dir():
            place.rmdir()  # an empty one
        os.replace(made, place)
    except OSError as error:
        raise CanvasError(f"cannot be written: {error.strerror}", path=str(folder), hint="Make room.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Bundle(place, settings, tokens, texts)


def _require_place(place: Path) -> None:
    try:
        if place.is_symlink() or (place.exists() and (not place.is_dir() or any(place.iterdir()))):
            raise CanvasError("exists already", path=str(place), hint="Name a folder that does not exist yet.")
    except OSError as error:
        raise CanvasError(f"cannot be written: {error.strerror}", path=str(place)[:200]) from error
    parent = place.absolute().parent
    if not parent.is_dir():
        raise CanvasError("is no folder", path=str(parent), hint="Make it first, or choose another.")
    if not os.access(parent, os.W_OK):
        raise CanvasError("cannot be written to", path=str(parent), hint="Choose another folder.")


def _require_trainable(document: Document) -> None:
    task = document.purpose
    if not task.generates or task.decodes:
        raise CanvasError(
            f"is {task.words}; bundles are for causal language models", path=document.name, hint="emit writes its code."
        )
    errors = [str(found) for found in check(document).diagnostics if found.severity == "error"]
    if errors:
        raise CanvasError("the graph cannot run:\n" + "\n".join(errors))


def _tokens(
    document: Document,
    data: Data,
    weights: str | Path | None,
    tokenizer: str | Path | None,
    progress: Callable[[str], None],
) -> Tokens:
    vocabulary = document.environment.get("vocab_size")
    if not isinstance(vocabulary, int):
        raise CanvasError("has no vocab_size", path=document.name, hint="Its tokens cannot be told.")
    if tokenizer is not None:
        return brought(Path(tokenizer), data, vocabulary)
    if weights is None:
        progress("training a tokenizer")
        return trained(data, vocabulary)
    if not has_tokenizer(Path(weights)):
        hint = "Name the one that they learned with: --tokenizer DIR."
        raise CanvasError("holds weights without a tokenizer", path=str(weights), hint=hint)
    return brought(Path(weights), data, vocabulary)


def _prepared(document: Document, tokens: Tokens) -> Document:
    """The document with the tokenizer's special tokens, and in the dtype that training leaves its weights in."""
    wanted = {**tokens.special, "dtype": "float32"}
    edits: list[Edit] = [
        SetConfig(name, value)
        for name, value in wanted.items()
        if name in document.config and value is not None and document.config[name] != value
    ]
    return apply(document, *edits) if edits else document


def _write(
    document: Document,
    data: Data,
    tokens: Tokens,
    settings: Settings,
    weights: str | Path | None,
    folder: Path,
    progress: Callable[[str], None],
) -> None:
    progress("emitting the model")
    if weights is None:
        emit(document).write(folder / MODEL)
    else:
        transplant(
            document, weights, folder / MODEL, progress=lambda done, total: progress(f"weights {done / total:.0%}")
        )
    tokens.write(folder / MODEL)
    progress("writing the bundle")
    names = data.copy(folder / DATA) if data.files else ()
    told = _with_files(settings, names)
    (folder / SETTINGS).write_text(told.to_toml(), encoding="utf-8")
    origin = "the weights' own" if tokens.folder else f"byte-level BPE of {tokens.size:,} tokens, trained on the data"
    for name, text in files_of(document, told, origin).items():
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")


def _with_files(settings: Settings, names: tuple[str, ...]) -> Settings:
    def named(setting: Setting) -> Setting:
        return replace(setting, value=names) if setting.name == "files" else setting

    return replace(settings, sections={**settings.sections, "data": tuple(map(named, settings.sections["data"]))})
