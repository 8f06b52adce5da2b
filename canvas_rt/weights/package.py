"""Write an emitted model with its weights: the origin's, carried over tensor by tensor, whole or not at all."""

import hashlib
import json
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from canvas_rt.codegen.cards import CardNotes
from canvas_rt.codegen.package import Source, Target, emit
from canvas_rt.edits import apply, parse_edits
from canvas_rt.errors import CanvasError, CheckpointError
from canvas_rt.importer.checkpoint import INDEX
from canvas_rt.importer.source import EMITTED
from canvas_rt.ir.document import Document, Item, Origin, Stack
from canvas_rt.ir.files import dumps, load
from canvas_rt.ir.frozen import FrozenMap, thaw
from canvas_rt.weights.held import DTYPES, Held, copy_bytes, write_all
from canvas_rt.weights.make import make_slabs
from canvas_rt.weights.plan import WeightPlan, weight_plan
from canvas_rt.weights.report import WeightReport, shown_bytes
from canvas_rt.weights.shards import Shard, Stopped, Written, shards_of, write_shards

SHARD = 5 * 10**9
"""Bytes of the largest file, unless one tensor is larger."""

REPORT = "weights.json"
"""The file that says of each parameter where it is from."""

BROUGHT = re.compile(
    r"(tokenizer(_config)?|special_tokens_map|added_tokens|vocab|chat_template|preprocessor_config)\.json"
    r"|vocab\.txt|merges\.txt|[\w.-]+\.(model|jinja)|(LICENSE|NOTICE|USE_POLICY)(\.\w+)?"
)
"""Files of a model folder that belong to the edited model too. None of them is code."""

LARGEST_BROUGHT = 2**28

KEPT = "What was written is kept: run it again to go on."

Progress = Callable[[int, int], None]
"""Called with the bytes written, and all there are to write."""


def transplant(
    document: Document,
    weights: str | Path,
    folder: str | Path,
    *,
    target: Target = "code",
    shard_bytes: int = SHARD,
    certificate: str = "",
    progress: Progress = lambda done, total: None,
    stop: threading.Event | None = None,
) -> WeightReport:
    """Emit a document into a folder, with weights made of those of the checkpoint folder `weights`.

    Never more is in memory than the tensors of which one parameter is made. What was killed or stopped is gone on with by
    the next call: until then all of it is in `.NAME.partial` beside the folder, which comes to be by one rename. The report
    is also written there, as `weights.json`. `certificate`: what was proven of the code, for the model card. `stop`: once
    it is set, the tensor that is being written is the last.

    Raises `CheckpointError` for weights that cannot be read or are another model's, `Stopped`, and `CanvasError` where
    there is no room for the new ones or the folder holds something else.
    """
    source, place = emit(document, target=target), Path(folder)
    held_by = since(document, Path(weights))
    origin = Held(Path(weights), held_by)
    plan = weight_plan(held_by, origin.shapes)
    dtypes = _dtypes(plan, origin)
    shards = shards_of((Written(r.key, dtypes[r.key], r.shape) for r in plan.recipes), shard_bytes)
    if place.is_dir() and any(place.glob("*.safetensors")):
        raise CanvasError("holds weights already", path=str(place), hint="Choose another folder, or remove this one.")
    source.check_replaceable(place)
    partial = place.parent / f".{place.name}.partial"
    by_key = {recipe.key: recipe for recipe in plan.recipes}
    total = sum(shard.bytes for shard in shards)

    def append(tensor: Written, into: int) -> None:
        recipe = by_key[tensor.key]
        entry = origin.raw(recipe.parts[0].key) if recipe.how == "copy" else None
        if entry is not None:
            copy_bytes(entry, into)
        else:
            for slab in make_slabs(recipe, origin.shapes.__getitem__, origin.rows, DTYPES[tensor.dtype]):
                _write(slab, into)

    try:
        with _alone(partial):
            _begin(partial, _digest(document, origin, shard_bytes, target))
            try:
                _require_room(partial, shards)
            except CanvasError:
                _leave(partial)
                raise
            write_shards(partial, shards, append, lambda done: progress(done, total), stop)
            report = WeightReport(
                tuple(
                    (recipe, tensor.bytes)
                    for shard in shards
                    for tensor in shard.tensors
                    for recipe in [by_key[tensor.key]]
                ),
                _dropped(plan, origin),
                tuple(shard.name for shard in shards) + ((INDEX,) if len(shards) > 1 else ()),
                _bring(Path(weights), partial),
            )
            notes = CardNotes(
                str(report), _front(document, origin), certificate, "tokenizer_config.json" in report.brought
            )
            _finish(emit(document, target=target, notes=notes), report, partial, place)
    except Stopped as stopped:
        raise Stopped(stopped.message, path=str(folder), hint=KEPT) from stopped
    except OSError as error:
        raise CanvasError(f"cannot be written: {error.strerror}", path=str(folder), hint=KEPT) from error
    return report


def since(document: Document, folder: Path) -> Document:
    """A document as edited since a folder was emitted, if these are that folder's weights: else as it is.

    What was emitted with its edits has them in its weights; only later edits are still to be made of them.
    """
    path = folder / EMITTED
    if not path.is_file():
        return document
    emitted = load(path)
    done = len(emitted.log)
    if not done or emitted.origin != document.origin:
        return document
    if document.log[:done] != emitted.log:
        raise CheckpointError(
            "holds the weights of a model with other edits",
            path=str(folder),
            hint="Name the weights of the original, or import this folder and make the edits there.",
        )
    return apply(_begun_anew(emitted), *parse_edits(thaw(document.log[done:])))


def _begun_anew(document: Document) -> Document:
    """A document as if it had been imported as it is now."""

    def own(item: Item) -> Item:
        bare = item.replace(weights="")
        return bare.replace(source=None) if isinstance(bare, Stack) else bare

    blocks = {name: block.replace(nodes=tuple(map(own, block.nodes))) for name, block in document.blocks.items()}
    origin = Origin(sizes=document.sizes, config=document.config)
    return document.replace(blocks=FrozenMap(blocks), origin=origin)


def _write(tensor: object, into: int) -> None:
    import torch

    assert isinstance(tensor, torch.Tensor)
    write_all(into, memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data))


def _dtypes(plan: WeightPlan, origin: Held) -> Mapping[str, str]:
    """The dtype of each parameter: that of what it is made of; of new ones, that of most."""
    own = {recipe.key: origin.dtypes[recipe.parts[0].key] for recipe in plan.recipes if recipe.parts}
    counted: Counter[str] = Counter()
    for recipe in plan.recipes:
        if recipe.key in own:
            counted[own[recipe.key]] += recipe.count
    usual = counted.most_common(1)[0][0] if counted else "F32"
    return {recipe.key: own.get(recipe.key, usual) for recipe in plan.recipes}


def _dropped(plan: WeightPlan, origin: Held) -> Mapping[str, int]:
    """Tensors that are not taken: by the model's keys, and by the file's where the model has no place for them."""
    from math import prod

    from canvas_rt.importer.checkpoint import BITS

    own = {key: prod(origin.shapes[key]) * BITS[origin.dtypes[key]] // 8 for key in plan.dropped}
    return {**own, **{key: origin.entries[key].bytes for key in origin.unread}}


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Nobody else may write into the folder meanwhile; a process that dies lets go of it."""
    import fcntl

    if partial.is_symlink() or (partial.exists() and not partial.is_dir()):
        raise CanvasError("is in the way", path=str(partial), hint="Move it elsewhere.")
    partial.mkdir(parents=True, exist_ok=True)
    handle = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            hint = "Wait for it, or choose another folder."
            raise CanvasError("is being written by another process", path=str(partial), hint=hint) from error
        yield
    finally:
        os.close(handle)


def _digest(document: Document, origin: Held, shard_bytes: int, target: Target) -> str:
    """Of all that decides what is written."""
    files = sorted({entry.file for entry in origin.entries.values()})
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([dumps(document), states, shard_bytes, target]).encode()).hexdigest()


def _begin(partial: Path, digest: str) -> None:
    """Keep what an earlier call for the same has written, and nothing else."""
    note = partial / "plan"
    if not (note.is_file() and note.read_text() == digest):
        for path in partial.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        note.write_text(digest)


def _leave(partial: Path) -> None:
    """Take the folder away where nothing has been written into it yet."""
    if {path.name for path in partial.iterdir()} == {"plan"}:
        shutil.rmtree(partial)


def _require_room(partial: Path, shards: tuple[Shard, ...]) -> None:
    there = sum(file.stat().st_size for file in partial.iterdir())
    needed = sum(shard.bytes + len(shard.header) for shard in shards) - there
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise CanvasError(
            f"takes {shown_bytes(needed)}, and {shown_bytes(free)} are free",
            path=str(partial.parent),
            hint="Make room, or write to another disk.",
        )


def _bring(folder: Path, partial: Path) -> tuple[str, ...]:
    """Copy what belongs to the model beside its weights: tokenizer, chat template, generation settings, license."""
    names = []
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if not (BROUGHT.fullmatch(name) or name == "generation_config.json"):
            continue
        if path.is_file() and path.stat().st_size <= LARGEST_BROUGHT:
            shutil.copyfile(path, partial / name)
            names.append(name)
    return tuple(names)


FRONT = re.compile(
    r"^(license|license_name|license_link|language|pipeline_tag): ((?:https?://)?[\w./ -]{1,200})$",
    re.MULTILINE | re.ASCII,
)
"""What a derived model's card says as its original's does."""

HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def _front(document: Document, origin: Held) -> str:
    """Lines for the head of the model card: the license, and what the model was made of."""
    card = origin.folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace")[:20_000] if card.is_file() else ""
    head = text.split("\n---", 1)[0] if text.startswith("---\n") else ""
    lines = [f"{name}: {value}" for name, value in FRONT.findall(head)]
    for name in (document.origin.source, origin.config.get("_name_or_path")):
        if isinstance(name, str) and HUB_ID.fullmatch(name):
            return "\n".join([*lines, f"base_model: {name}"])
    return "\n".join(lines)


def _finish(source: Source, report: WeightReport, partial: Path, target: Path) -> None:
    """Put the code beside the weights, and the folder where it belongs."""
    for name, text in source.files.items():
        if name not in report.brought:
            (partial / name).write_text(text, encoding="utf-8")
    (partial / REPORT).write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    (partial / "plan").unlink()
    if target.exists():
        shutil.rmtree(target)  # what Canvas itself wrote, and no weights
    os.replace(partial, target)
