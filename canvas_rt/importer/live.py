"""Import a model that lives in this process: what its class makes from its config, whether transformers has it or not."""

import copy
from typing import TYPE_CHECKING, Any

from canvas_rt.errors import CanvasError, UnsupportedModelError, suggest
from canvas_rt.ir.document import Document

if TYPE_CHECKING:
    from canvas_rt.importer.report import ImportReport

SOURCES = "a config.json, a model folder, a zoo name, a hub id, a config's fields, or a model of transformers"

INSIDE = {"module": "DistributedDataParallel", "_orig_mod": "torch.compile", "base_model": "PEFT"}
"""Where what wraps a model keeps it."""


def import_live(model: Any) -> tuple[Document, "ImportReport"]:
    """Trace the architecture of a model in memory. The model is only looked at: no mode, weight or setting changes.

    A class of transformers is imported as from its config; a subclass of `PreTrainedModel` of the user's own by its code.
    Raises `CanvasError` for what is no such model, or was changed after its class had made it.
    """
    import torch
    from transformers import PreTrainedModel

    name = type(model).__name__
    if not isinstance(model, torch.nn.Module):
        raise CanvasError(f"is a {name}, which cannot be imported", path="source", hint=f"Give {SOURCES}.")
    if not isinstance(model, PreTrainedModel):
        raise _no_config(model, name)
    with torch.random.fork_rng(devices=[]):
        compare_with_class(model, name)
        return _stock(model, name) if _is_stock(model) else _own(model, name)


def _no_config(model: Any, name: str) -> CanvasError:
    where = next((attribute for attribute in INSIDE if hasattr(model, attribute)), None)
    hint = (
        "Make it a subclass of transformers.PreTrainedModel with a config class: its config gives the graph its sizes."
    )
    if where is not None:
        hint = f"It looks like a wrapper, of {INSIDE[where]} or the like: give the model inside, its '.{where}'."
    return CanvasError("is no PreTrainedModel: no config says what its sizes are", path=name, hint=hint)


def compare_with_class(model: Any, name: str) -> None:
    """Refuse a model that is no longer what its class makes from its config."""
    import torch

    from canvas_rt.importer.trace import quiet

    try:
        with quiet(), torch.device("meta"):
            made = type(model)(copy.deepcopy(model.config))
    except Exception as error:  # whatever the class does, it cannot be made again at other sizes
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CanvasError(f"cannot be made from its own config: {reason}", path=name) from error
    hint = "Canvas imports what a class makes from its config: put the change into the config, or into a class of your own."
    ours, theirs = ({path: type(part).__name__ for path, part in one.named_modules()} for one in (model, made))
    held, expected = ({key: list(value.shape) for key, value in one.state_dict().items()} for one in (model, made))
    for found, right in ((ours, theirs), (held, expected)):
        for path in (*right, *found):
            if found.get(path) != right.get(path):
                has, had = found.get(path, "not there"), right.get(path, "nothing")
                raise CanvasError(
                    f"is {has}, where the class makes {had} from its config", path=f"{name}: {path}", hint=hint
                )


def _is_stock(model: Any) -> bool:
    return all(type(part).__module__.startswith("transformers.models.") for part in (model, model.config))


def _stock(model: Any, name: str) -> tuple[Document, "ImportReport"]:
    from canvas_rt.importer.architecture import ArchitectureImport
    from canvas_rt.importer.config import check_config, supported
    from canvas_rt.importer.config.classes import model_class_name, task_of, tasks_of
    from canvas_rt.importer.config.refused import NOT_IMPORTED
    from canvas_rt.importer.factory import LEFT_OUT, StockFactory

    raw = {field: value for field, value in model.config.to_dict().items() if field not in LEFT_OUT}
    model_type = model.config.model_type
    known = [model_class_name(model_type, task) for task in tasks_of(model_type)]
    own = {"architectures": [name]} if name in known else {}
    config = check_config({**raw, "model_type": model_type, **own}, name)
    task = task_of({**config, **own})
    if config["model_type"] == model_type and name not in known:
        hint = f"Give a {known[0]}." if known else suggest(model_type, supported())
        raise UnsupportedModelError(NOT_IMPORTED, path=name, hint=hint)
    return ArchitectureImport(StockFactory(config["model_type"], task), config, name).run()


def _own(model: Any, name: str) -> tuple[Document, "ImportReport"]:
    from canvas_rt.importer.architecture import ArchitectureImport
    from canvas_rt.importer.factory import ClassFactory, canonical_values

    config = type(model.config)
    return ArchitectureImport(
        ClassFactory(config, type(model)), canonical_values(config, model.config.to_dict()), name
    ).run()
