"""Make a document of blocks: its sizes and config values, what is tied, its origin; and compare its parameters with the original's."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch

from canvas_rt.errors import ConfigError, UnsupportedModelError
from canvas_rt.importer.models import Models
from canvas_rt.importer.probes import is_probed
from canvas_rt.importer.symbols import express
from canvas_rt.ir.document import Document, Origin
from canvas_rt.ir.files import with_origin
from canvas_rt.ir.frozen import FrozenMap, freeze
from canvas_rt.ops.parameters import parameter_keys

PATTERNS = ("layer_types",)
"""What a config lists layer by layer, and the graph says itself."""

AS_TIED = "tie_word_embeddings"


def assemble(models: Models, root: str, blocks: Mapping[str, Any], named: Collection[str]) -> Document:
    """The document of an original's blocks, which name some fields of its config."""
    import transformers

    derived = derived_sizes(models)
    sizes: dict[str, Any] = {}
    config: dict[str, Any] = {}
    refuse_unknown_kinds(models)
    for field, value in models.values.items():
        if not is_finite(value):
            continue  # no JSON can say it; it is the class's own default
        if field == "use_cache" and not models.factory.task.generates:
            continue  # there is none
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and field in named and not field.endswith("_token_id"):
            sizes[field] = derived.get(field, value)
        else:
            config[field] = freeze(value)
    ties = ties_of(models)
    if ties and AS_TIED not in models.values and getattr(models.config, AS_TIED, False):
        config[AS_TIED] = True  # its class says so, and no field
    keys = block_keys(root, blocks, sizes, config)
    # What shares a tensor with no part of the graph has it for itself, and a checkpoint may hold it under that name.
    renamed = {ties[key]: key for key in reversed(keys) if key in ties and ties[key] not in keys}
    ties = among(ties, keys)
    document = Document(
        name=models.name,
        root=root,
        task=models.factory.task.name,
        sizes=FrozenMap(sizes),
        config=FrozenMap(config),
        blocks=FrozenMap(dict(blocks)),
        ties=FrozenMap(ties),
    )
    lists = {name: freeze(value) for name, value in models.config.to_dict().items() if name in PATTERNS}
    if models.overrides:
        lists["per_layer_config"] = freeze({str(layer): own for layer, own in models.overrides.items()})
    origin = Origin(
        patterns=FrozenMap(lists),
        renamed=FrozenMap(renamed),
        source=models.name,
        model_type=str(models.config.model_type),
        architecture=models.model_class.__name__,
        versions=FrozenMap({"torch": torch.__version__, "transformers": transformers.__version__}),
    )
    return with_origin(document, origin)


def refuse_unknown_kinds(models: Models) -> None:
    """What a config calls its layers, other configs must take too: emitted models have one of their own."""
    from transformers.configuration_utils import ALLOWED_MLP_LAYER_TYPES

    told = models.values.get("mlp_layer_types") or ()
    strange = next((name for name in told if name not in ALLOWED_MLP_LAYER_TYPES), None)
    if strange is not None:
        reason = f"its config calls a layer {strange!r:.60}, which no config but its own takes"
        raise UnsupportedModelError(reason, path=models.name)


def ties_of(models: Models) -> dict[str, str]:
    """Keys of parameters that share another's storage, by what the class says, and by its patterns for all its layers."""
    written = getattr(models.model_class, "_tied_weights_keys", None)
    known = dict(written) if isinstance(written, dict) else {}
    few = getattr(models.few_layers, "all_tied_weights_keys", None) or {}
    # What stands for a source may be a pattern, which no key is.
    known = {key: source if source in models.shapes else few.get(key, source) for key, source in known.items()}
    if few.keys() - known.keys():
        original: Any = models.whole()
        known |= original.all_tied_weights_keys
    return known


def derived_sizes(models: Models) -> dict[str, str]:
    """Sizes that the config leaves open and its class works out from others, as expressions."""
    found: dict[str, str] = {}
    for field, value in models.values.items():
        if models.raw.get(field) is not None or not is_probed(field, value) or isinstance(value, float):
            continue
        try:
            seen = [models.left_open(field, assignment) for assignment in models.assignments]
        except ConfigError:
            continue  # the class has a constant for it, which these sizes do not go with
        others = [{n: v for n, v in table.items() if n != field} for table in (*models.assignments, models.values)]
        expression = express([*seen, value], others)
        if isinstance(expression, str):
            found[field] = expression
    return found


def unused_keys(models: Models, document: Document) -> tuple[str, ...]:
    """What of the original's checkpoint is not in a document. Raises `UnsupportedModelError` where a parameter of the document's is
    not the original's at the real sizes, by name and shape, layer kind by kind."""
    theirs = models.shapes
    counts = {name: count for name, count in models.at_depth(models.trace_depth).items() if name in document.sizes}
    small = document.replace(sizes=document.sizes.with_items(counts))
    ours = parameter_keys(small)
    differing = sorted(key for key in ours if ours[key] != theirs.get(key))
    if differing:
        key = differing[0]
        raise UnsupportedModelError(
            f"parameter {key} is {theirs.get(key)} in the original, {ours.get(key)} as imported", path=models.name
        )
    return tuple(sorted(theirs.keys() - ours.keys() - document.origin.renamed.keys()))


def is_finite(value: Any) -> bool:
    """Whether JSON can say a value: it has no infinite number in it."""
    if isinstance(value, Mapping):
        return "__float__" not in value and all(map(is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def among(ties: Mapping[str, str], keys: Collection[str]) -> dict[str, str]:
    """Ties between keys that there are. What shares a tensor that is none of them shares that of the first that does."""
    firsts: dict[str, str] = {}
    found: dict[str, str] = {}
    for key in (key for key in keys if key in ties):
        source = ties[key] if ties[key] in keys else firsts.setdefault(ties[key], key)
        found |= {key: source} if source != key else {}
    return found


def block_keys(root: str, blocks: Mapping[str, Any], sizes: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """The keys of what is learned by blocks that are not yet a document, in its order."""
    made = Document.model_construct(
        name=root, root=root, sizes=FrozenMap(sizes), config=FrozenMap(config), blocks=FrozenMap(dict(blocks))
    )
    return list(parameter_keys(made))
