"""Open whatever a user names: a zoo model, a config.json, a model folder, an emitted folder, a document, a hub id."""

import contextlib
import errno
import gc
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from canvas_rt.errors import CanvasError, suggest
from canvas_rt.importer.config import check_config, ignored_fields, task_of
from canvas_rt.importer.zoo import open_zoo, zoo_models
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import LARGEST_FILE, SUFFIX, load, parse_document, read_json

if TYPE_CHECKING:
    from torch import nn

    from canvas_rt.importer.report import ImportReport

EMITTED = "document.canvas.json"

Importable: TypeAlias = "str | Path | Mapping[str, Any] | nn.Module"
"""What can be imported: a name, a config's fields, or a model in memory."""


def open_source(source: str | Path) -> Document:
    """A document from anything that can be opened. Only configs are traced; the rest is read.

    Raises `CanvasError` that says what was looked for, and where.
    """
    name = str(source)
    if name in zoo_models():
        return open_zoo(name)
    path = Path(name)
    if sort_of(name) == "folder" and os.path.isfile(path / EMITTED):
        return load(path / EMITTED)
    if sort_of(name) == "file":
        data = read_json(path)
        if name.endswith(SUFFIX) or (isinstance(data, dict) and "schema_version" in data):
            return parse_document(data, name)
    return import_model(source)[0]


@contextlib.contextmanager
def _collecting_later() -> Iterator[None]:
    """No garbage is looked for meanwhile: traces make little of it, and what has been loaded by then is much to look through."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@_collecting_later()
def import_model(source: Importable) -> tuple[Document, "ImportReport"]:
    """Trace an architecture into a document, and report what was made of it.

    `source`: a `config.json`, a folder that holds one, a zoo name, a hub id, a config's fields, or a model of
    transformers in memory. Weights in a folder must have the shapes that its config says: their headers are read, never
    they themselves. Never runs code that a file brings. Raises `ConfigError` naming the field at fault,
    `CheckpointError` naming the tensors, `UnsupportedModelError`, or `CanvasError`.
    """
    if not isinstance(source, str | Path | Mapping):
        from canvas_rt.importer.live import import_live

        return import_live(source)
    raw, name = read_config(source)
    config = check_config(raw, name)
    from canvas_rt.importer.architecture import ArchitectureImport
    from canvas_rt.importer.factory import StockFactory
    from canvas_rt.importer.loading import compare_weights

    architecture = ArchitectureImport(StockFactory(config["model_type"], task_of(config)), config, label(name, config))
    note: str = ""
    not_in_model: tuple[str, ...] = ()
    if not isinstance(source, Mapping) and sort_of(str(source)) == "folder":
        within = config["model_type"] != raw["model_type"]
        note, not_in_model = compare_weights(Path(source), architecture.original(), architecture.values, within)
    document, report = architecture.run()
    without_effect = (*report.without_effect, *ignored_fields(raw))
    notes = (note,) if note else ()
    return document, replace(report, without_effect=without_effect, not_in_model=not_in_model, notes=notes)


def label(name: str, config: Mapping[str, Any]) -> str:
    """What people call an imported model: its folder's name, its file's, or its model type."""
    path = Path(name)
    text = path.parent.name if path.name == "config.json" else path.name.removesuffix(".json")
    # A file's name may hold bytes that are no text, and a document cannot.
    text = "".join(character if character.isprintable() else "_" for character in text).strip()[:120]
    return text or str(config["model_type"])


def sort_of(name: str) -> str:
    """What a name stands for on this machine: `file`, `folder`, or nothing at all.

    Raises `CanvasError` for what is there but cannot be read: a pipe, a device, a link that leads nowhere.
    """
    try:
        mode = os.stat(name).st_mode
    except ValueError:  # a name with a null byte
        return ""
    except OSError as error:
        if os.path.islink(name):
            raise CanvasError(
                f"is a link that leads nowhere: {error.strerror}", path=name, hint="Name the file itself."
            ) from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return ""
        raise CanvasError(f"cannot be read: {error.strerror}", path=name) from error
    if stat.S_ISDIR(mode):
        return "folder"
    if stat.S_ISREG(mode):
        return "file"
    raise CanvasError("is not a regular file", path=name, hint="Save what it gives in a file first.")


def read_config(source: str | Path | Mapping[str, Any]) -> tuple[Any, str]:
    """A config's fields, and what to call it in messages."""
    if isinstance(source, Mapping):
        return dict(source), "config.json"
    name = str(source)
    path = Path(name)
    if sort_of(name) == "folder":
        if os.path.isfile(path / EMITTED):
            raise CanvasError(
                "was written by Canvas", path=name, hint="Open it, or import it with canvas_rt.import_model."
            )
        if not os.path.exists(path / "config.json"):
            raise CanvasError(
                "is a folder without a config.json", path=name, hint="Name the folder of a model, or its config.json."
            )
        # Spelt in full, since the folder's name is the model's.
        return read_json(path / "config.json"), os.path.abspath(path / "config.json")
    if sort_of(name) == "file":
        data = read_json(path)
        if isinstance(data, dict) and "schema_version" in data and "blocks" in data:
            raise CanvasError("is a document already", path=name, hint="Open it as it is: 'import' reads configs.")
        return data, name
    if name in zoo_models():
        from canvas_rt.importer.zoo import zoo_folder

        return read_json(zoo_folder() / zoo_models()[name].family / "configs" / f"{name}.json"), name
    return from_hub(name)


def from_hub(name: str) -> tuple[Any, str]:
    """A config from the hub, from its local cache when there is no network."""
    parts = name.split("/")
    known = suggest(name, zoo_models())
    if len(parts) != 2 or not all(parts) or name.endswith((".json", "/")) or name.startswith((".", "/", "~")):
        raise CanvasError("there is no such file, folder or zoo model", path=name[:200] or "(no name)", hint=known)
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return read_json(_downloaded(name)), name
    except LocalEntryNotFoundError as error:
        message = "is no file here, and the hub, where it may be a model, cannot be reached"
        raise CanvasError(message, path=name[:200], hint=known) from error
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        message = f"neither a file here nor a model on the hub: {reason[0][:200]}"
        raise CanvasError(message, path=name[:200], hint=known) from error


def _downloaded(name: str) -> Path:
    """Where the hub's library keeps a model's config, fetched anew where the hub can be reached."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    offline = bool(constants.HF_HUB_OFFLINE)
    if not offline:
        try:  # without a network the download itself would try for half a minute
            size = get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=10).size
        except (HfHubHTTPError, HFValidationError):
            raise
        except Exception:  # no connection, in the words of whichever HTTP library
            offline, size = True, None
        if (size or 0) > LARGEST_FILE:
            raise CanvasError("has a config.json that is too large", path=name, hint="No model needs one so large.")
    return Path(hf_hub_download(name, "config.json", local_files_only=offline))
