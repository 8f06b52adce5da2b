"""Look into the texts that a model is to train on: that they are readable, and how much they are."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canvas_rt.errors import CanvasError

CORPUS = Path(__file__).parent / "corpus.txt"
"""Where nothing else is named: the Python language reference by topics, about half a megabyte of English and code."""

LICENSE = Path(__file__).parent / "corpus.LICENSE"

FORMATS = {".txt": "text", ".md": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
"""The formats of `datasets`, by the ending of a file's name."""

SAMPLE = 8 * 2**20
"""Bytes of text that are looked at; a tokenizer is trained on them."""

COPIED = 64 * 2**20
"""Bytes of data that are copied into a bundle; more is read where it is."""


@dataclass(frozen=True, slots=True)
class Data:
    """Texts to train on."""

    files: tuple[Path, ...]
    format: str
    """As `datasets` calls it: `text`, `json` or `parquet`."""

    column: str
    """The column that holds the text; of plain text, `text`."""

    sample: tuple[str, ...]
    """Texts from the beginning, about `SAMPLE` bytes of them."""

    bytes: int
    """Of text, in all: estimated where the sample is not all there is; 0 where nobody knows."""

    hub: str = ""
    """A dataset of the hub instead of files, streamed: `NAME`, or `NAME:CONFIG`."""

    @property
    def copied(self) -> bool:
        """Whether a bundle brings the files along."""
        return sum(file.stat().st_size for file in self.files) <= COPIED

    @property
    def shipped(self) -> bool:
        return self.files == (CORPUS,)

    def copy(self, folder: Path) -> tuple[str, ...]:
        """Put the files into a folder, or leave them where they are; how they are named from its parent."""
        if not self.copied:
            return tuple(str(file.resolve()) for file in self.files)
        folder.mkdir(parents=True)
        names = []
        for number, file in enumerate(self.files):
            name = file.name if len({f.name for f in self.files}) == len(self.files) else f"{number}-{file.name}"
            shutil.copyfile(file, folder / name)
            names.append(f"{folder.name}/{name}")
        if self.shipped:
            shutil.copyfile(LICENSE, folder / LICENSE.name)
        return tuple(names)


def read_data(files: Sequence[str | Path] = (), *, column: str = "text") -> Data:
    """What the files hold, as far as one has to know to train on them. Without any: the corpus that ships.

    `hub:NAME` or `hub:NAME:CONFIG` is a dataset of the hub, of which the beginning is fetched.

    Raises `CanvasError` for a file that is none, empty, no text, or lacks the column.
    """
    if len(files) == 1 and str(files[0]).startswith("hub:"):
        return read_hub(str(files[0]).removeprefix("hub:"), column=column)
    paths = tuple(Path(file) for file in files) or (CORPUS,)
    formats = {path: _format(path) for path in paths}
    if len(set(formats.values())) > 1:
        raise CanvasError("are of several formats", path=", ".join(map(str, paths)), hint="Give files of one format.")
    form = formats[paths[0]]
    for path in paths:
        _require_readable(path)
    sample: list[str] = []
    seen = looked_at = 0
    for path in paths:
        reader = READERS[form](path, column)
        for text, taken in reader:
            sample.append(text)
            seen, looked_at = seen + len(text.encode("utf-8", "replace")), looked_at + taken
            if seen >= SAMPLE:
                break
        if seen >= SAMPLE:
            break
    if not any(text.strip() for text in sample):
        raise CanvasError("holds no text", path=str(paths[0]), hint="Name files with something to train on.")
    whole = sum(path.stat().st_size for path in paths)
    return Data(paths, form, column, tuple(sample), round(seen * max(1.0, whole / max(1, looked_at))))


def read_hub(name: str, *, column: str = "text") -> Data:
    """The beginning of a dataset of the hub. Raises `CanvasError` where it cannot be had, or lacks the column."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise CanvasError("needs datasets", path=f"hub:{name}", hint="pip install 'canvas-rt[train]'") from error
    path, _, config = name.partition(":")
    sample: list[str] = []
    seen = 0
    try:
        for row in load_dataset(path, config or None, split="train", streaming=True):
            sample.append(_cell(row, column, f"hub:{name}"))
            seen += len(sample[-1])
            if seen >= SAMPLE:
                break
    except CanvasError:
        raise
    except Exception as error:  # whatever the network, the hub or the dataset has
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        raise CanvasError(f"cannot be read: {reason}", path=f"hub:{name}", hint="Name files instead.") from error
    return Data((), "hub", column, tuple(sample), 0, hub=name)


def _format(path: Path) -> str:
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        known = ", ".join(FORMATS)
        raise CanvasError("has an unknown format", path=str(path), hint=f"Known by their endings: {known}.")
    return found


def _require_readable(path: Path) -> None:
    if not path.is_file():
        raise CanvasError("is no file", path=str(path), hint="Name files of text, JSON lines or parquet.")
    if not os.access(path, os.R_OK):
        raise CanvasError("cannot be read", path=str(path), hint="Look at its permissions.")
    if not path.stat().st_size:
        raise CanvasError("is empty", path=str(path), hint="Name files with something to train on.")


# A reader gives texts, and with each the bytes of the file that it took.

Texts = Iterator[tuple[str, int]]


def _text(path: Path, column: str) -> Texts:
    with path.open("rb") as file:
        while piece := file.readlines(2**20):
            raw = b"".join(piece)
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise CanvasError(
                    f"is no text in UTF-8: byte {error.object[error.start]:#04x} stands where none can",
                    path=str(path),
                    hint="Convert it, or name another file.",
                ) from error
            if "\0" in text:
                raise CanvasError("is no text: it holds zero bytes", path=str(path), hint="Name another file.")
            yield text, len(raw)


def _lines(path: Path, column: str) -> Texts:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise CanvasError(
                    f"line {number} is no JSON", path=str(path), hint='One object a line, such as {"text": "…"}.'
                ) from error
            yield _cell(row, column, f"{path}: line {number}"), len(line)


def _cell(row: Any, column: str, where: str) -> str:
    if not isinstance(row, Mapping):
        raise CanvasError("is no object", path=where, hint='As in {"text": "…"}.')
    if column not in row:
        there = ", ".join(map(str, list(row)[:8])) or "none"
        raise CanvasError(
            f"has no column '{column}'", path=where, hint=f"Name the one with the text; there are: {there}."
        )
    if row[column] is None:
        return ""
    if not isinstance(row[column], str):
        kind = type(row[column]).__name__
        raise CanvasError(f"column '{column}' holds {kind}, not text", path=where, hint="Name another column.")
    return str(row[column])


def _parquet(path: Path, column: str) -> Texts:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise CanvasError("needs pyarrow", path=str(path), hint="pip install 'canvas-rt[train]'") from error
    from pyarrow import ArrowException

    try:
        file = parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise CanvasError("is no parquet file", path=str(path), hint="Name another file.") from error
    names = file.schema_arrow.names
    if column not in names:
        hint = f"Name the one with the text; there are: {', '.join(names[:8])}."
        raise CanvasError(f"has no column '{column}'", path=str(path), hint=hint)
    rows = max(1, file.metadata.num_rows)
    each = path.stat().st_size / rows
    for batch in file.iter_batches(batch_size=256, columns=[column]):
        for value in batch.column(0).to_pylist():
            yield _cell({column: value}, column, str(path)), round(each)


READERS: Mapping[str, Callable[[Path, str], Texts]] = {"text": _text, "json": _lines, "parquet": _parquet}
