"""Tell whether a document still is a stock architecture of transformers with another config, and which edit left it."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from canvas_rt.codegen.windows import WINDOW, with_window
from canvas_rt.edits import apply, parse_edits
from canvas_rt.errors import CanvasError
from canvas_rt.importer import import_model
from canvas_rt.importer.architecture import AT_RUN_TIME, ArchitectureImport
from canvas_rt.importer.assembly import PATTERNS
from canvas_rt.importer.config import check_config
from canvas_rt.importer.config.classes import declared, model_class_name, own_values
from canvas_rt.importer.config.fields import LISTS, layer_index
from canvas_rt.importer.factory import StockFactory
from canvas_rt.importer.probes import probe_assignments
from canvas_rt.importer.zoo import open_zoo, zoo_models
from canvas_rt.ir.document import Document, Node, Origin, Stack, runs_of
from canvas_rt.ir.expressions import expression, is_expression, resolve
from canvas_rt.ir.files import structure
from canvas_rt.ir.frozen import FrozenMap, thaw
from canvas_rt.ir.graph import layer_count, names_used, reachable_blocks, walk
from canvas_rt.ops.catalogue import complete
from canvas_rt.ops.compare import difference
from canvas_rt.ops.parameters import parameter_keys

BY_LAYER = "per_layer_config"
"""What a config says of sizes that layers have for themselves."""


BY_SPAN = ("full_attention", "sliding_attention")
"""What `layer_types` calls layers that see all, and those that see as far as the config's window."""

INDICES = frozenset(name for name, (check, _) in LISTS.items() if check is layer_index)
"""Fields that list the numbers of layers."""

LEADING = "first_k_dense_replace"
"""The field by which a config says how many layers come before those of another kind, where it does not list them."""


@dataclass(frozen=True, slots=True)
class Native:
    """Whether a document still is a stock architecture."""

    architecture: str
    """The class of transformers that was imported."""

    config: Mapping[str, Any] | None
    """What `config.json` says for that class to be the same computation; None where no config does."""

    left: str = ""
    """Where there is none: the edit that left the stock architecture, and what is another since."""

    def __str__(self) -> str:
        if self.config is not None:
            return f"this still is {self.architecture} with another config"
        return (
            f"no longer stock {self.architecture}: {self.left}"
            if self.architecture
            else f"no stock architecture: {self.left}"
        )


class Untold(Exception):
    """Only an import of a config would tell, and none may be made."""


_MAY_IMPORT: ContextVar[bool] = ContextVar("may import", default=True)


def native_config(document: Document, *, proven: bool = False) -> Native:
    """Whether transformers' own class with some config is what a document computes.

    Told by the origin's graph at the document's sizes; with `proven` that config is imported too, as a stranger's would be,
    and its graph and the class's parameters are compared with the document's.
    """
    name = document.origin.architecture
    try:
        flaw = _flaw_or_broken(document)
        config = None if flaw else stock_config(document)
        if config is not None and proven:
            flaw = _disproof(document, config)
    except Untold:
        raise
    except Exception as error:  # what a class has to say against a config, it says in its own way
        flaw, config = _said(error), None
    return Native(name, None, _told(document, flaw)) if flaw else Native(name, config)


def native_at_once(document: Document) -> Native | None:
    """The same, without a trace, which changes torch while it lasts; None where only an imported config would tell."""
    before = _MAY_IMPORT.set(False)
    try:
        return native_config(document)
    except Untold:
        return None
    finally:
        _MAY_IMPORT.reset(before)


# the verdict


def _flaw(document: Document) -> str:
    """Why no config of the origin's class gives a document; nothing where one does."""
    origin = document.origin
    if not _known(document):
        return f"{origin.architecture or 'a document without an origin'} is no class of transformers"
    own = sorted({name for stack in _stacks(document).values() for kind in stack.kinds for name in kind.sizes})
    if own and BY_LAYER not in origin.patterns:
        return f"some layers have {', '.join(own)} for themselves, which the config of {origin.architecture} cannot say"
    if _is_as_imported(document):
        return ""
    said = saying_windows(document)
    found = difference(
        said, stock_document(said, anew=said is not document), probe_assignments(dict(said.environment), ())
    )
    return _worded(found, document)


def _is_as_imported(document: Document) -> bool:
    """Whether blocks are those that were imported, and nothing was set that might have made them others."""
    stacks = _stacks(document).values()
    deeper = document.sizes.get("num_hidden_layers") != document.origin.sizes.get("num_hidden_layers")
    if _unfollowed(document) or (deeper and any(len(stack.kinds) > 1 for stack in stacks)):
        return False
    return structure(_without_sources(document)) == document.origin.structure


def _known(document: Document) -> bool:
    """Whether a document comes from a class of transformers."""
    origin = document.origin
    return bool(origin.architecture) and origin.architecture == model_class_name(origin.model_type, document.purpose)


def _stacks(document: Document) -> dict[str, Stack]:
    """The stacks of layers, each by its place in the checkpoint; the one that gives the logits comes last."""
    return {visit.key: visit.item for visit in walk(document) if isinstance(visit.item, Stack)}


def _without_sources(document: Document) -> Document:
    """A document that does not say whose weights its layers take."""
    return _with_stacks(document, lambda block, stack: stack.replace(source=None))


def _with_stacks(document: Document, change: Callable[[str, Stack], Stack]) -> Document:
    """A document with its stacks changed, each by the block that holds it."""
    blocks = {
        name: block.replace(
            nodes=tuple(change(name, item) if isinstance(item, Stack) else item for item in block.nodes)
        )
        for name, block in document.blocks.items()
    }
    made: Document = document.replace(blocks=FrozenMap(blocks))
    return made


def _unfollowed(document: Document) -> tuple[str, ...]:
    """Config values that were changed, and of which it is not known that the graph follows them as the class does."""
    origin, named = document.origin, names_used(document, document.root)
    known = declared(origin.model_type).keys() | origin.config.keys()
    changed = [name for name, value in document.config.items() if name in known and value != _was(origin, name)]
    return tuple(name for name in changed if not _follows(document, name, name in named))


def _was(origin: Origin, name: str) -> Any:
    return origin.config.get(name, origin.sizes.get(name))


def _follows(document: Document, name: str, named: bool) -> bool:
    """Whether a changed value changes nothing but what names it."""
    if name in AT_RUN_TIME or name.endswith("_token_id"):
        return True
    before, after = _was(document.origin, name), document.config[name]
    tables = [value for value in (before, after) if isinstance(value, Mapping)]
    # A scaling of positions may scale attention, too.
    return named and not any("mscale" in json.dumps(thaw(table)) for table in tables)


# the origin


def _imported(text: str) -> Document:
    """The document of a config, as JSON, under the field names that Canvas gives."""
    if not _MAY_IMPORT.get():
        raise Untold
    return _traced(text)


@lru_cache(maxsize=16)
def _traced(text: str) -> Document:
    values = json.loads(text)
    return import_model(values)[0]


def origin_document(origin: Origin, task: Any) -> Document | None:
    """The document that was imported, opened or traced anew; None where what is traced now is another graph."""
    if origin.source in zoo_models() and structure(open_zoo(origin.source)) == origin.structure:
        return open_zoo(origin.source)
    literal = {name: value for name, value in origin.sizes.items() if not is_expression(value)}
    values = {name: thaw(value) for name, value in {**literal, **origin.config, **origin.patterns}.items()}
    found = _imported(json.dumps(_as_config(origin, values, task)))
    return found if structure(found) == origin.structure else None


def stock_document(document: Document, *, anew: bool = False) -> Document:
    """What the origin's class computes at a config that says all of a document that a config can say.

    That is the origin's graph with other numbers, where it is known to follow them; else, or `anew`, the config is imported.
    """
    before = origin_document(document.origin, document.purpose)
    lists = _lists(document, before)
    if anew or before is None or _unfollowed(document) or lists is None:
        lists = lists or _lists(document, None) or {}
        return _restating(_imported(json.dumps(_config(document, lists))), document, lists)
    return _restating(_at(before, document), document, lists)


def _restating(stock: Document, document: Document, lists: Mapping[str, Any]) -> Document:
    """A stock document with what the other has of its own, and with its words for what the graph says itself."""
    config = {name: v for name, v in document.config.items() if name in lists or name not in stock.environment}
    sizes = {name: value for name, value in document.sizes.items() if name not in stock.environment}
    return stock.replace(config=stock.config.with_items(config), sizes=stock.sizes.with_items(sizes))


def _at(before: Document, document: Document) -> Document:
    """The origin's document at another's sizes and config, its layers of the kinds that the other's stand for."""
    ours, sizes = _stacks(document), dict(document.sizes)
    changed: dict[tuple[str, str], Stack] = {}
    for visit in walk(before):
        stack, place = visit.item, visit.key
        if isinstance(stack, Stack) and place in ours:
            kinds = stack.kind_indices(layer_count(before, stack))
            standing = _standing(document, ours[place], before, stack)
            changed[visit.block, stack.id] = stack.replace(runs=runs_of(tuple(kinds[layer] for layer in standing)))
            if is_expression(stack.repeat) and (name := expression(stack.repeat).text) in sizes:
                sizes[name] = len(standing)
    moved = _with_stacks(before, lambda block, stack: changed.get((block, stack.id), stack))
    return moved.replace(sizes=FrozenMap(sizes), config=document.config)


def _standing(document: Document, stack: Stack, before: Document | None, old: Stack | None) -> list[int]:
    """For each layer, the origin's layer that it is like: its own, or another that is of its kind."""
    kinds = stack.kind_indices(layer_count(document, stack))
    places = dict(enumerate(old.kind_indices(layer_count(before, old)))) if before is not None and old else {}
    blocks = {layer: old.kinds[kind].block for layer, kind in places.items()} if old else {}
    known = {kind.block for kind in old.kinds} if old else set()

    def own(layer: int) -> int | None:
        source, block = stack.source_of(layer), stack.kinds[kinds[layer]].block
        fits = source is not None and (not places or source in places)
        return source if fits and (block not in known or blocks[source or 0] == block) else None

    like: dict[int, int] = {}
    for layer, kind in enumerate(kinds):
        if (source := own(layer)) is not None:
            like.setdefault(kind, source)
    for kind, one in enumerate(stack.kinds):
        like.setdefault(kind, next((layer for layer, block in blocks.items() if block == one.block), 0))
    found = (own(layer) for layer in range(len(kinds)))
    return [like[kind] if source is None else source for kind, source in zip(kinds, found, strict=True)]


# the config


def stock_config(document: Document) -> dict[str, Any]:
    """What `config.json` says for the origin's class to be the document, under the class's own field names."""
    document = saying_windows(document)
    several = any(len(stack.kinds) > 1 for stack in _stacks(document).values())
    before = origin_document(document.origin, document.purpose) if several else None
    return _config(document, _lists(document, before) or _lists(document, None) or {})


def _config(document: Document, lists: Mapping[str, Any]) -> dict[str, Any]:
    """A document's config with some lists by layer; what its class works out by itself is left out."""
    origin = document.origin
    known = declared(origin.model_type).keys() | origin.sizes.keys() | origin.config.keys() | {"num_labels"}
    names = [name for name in (*document.sizes, *document.config) if name in known]
    values = {name: thaw(document.environment[name]) for name in names}
    for stack in [*_stacks(document).values()][-1:]:
        values["num_hidden_layers"] = layer_count(document, stack)
    values |= {name: thaw(value) for name, value in lists.items()}
    open_ones = {name for name, value in document.sizes.items() if is_expression(value)}
    factory = StockFactory(origin.model_type, document.purpose)
    brief = {name: value for name, value in values.items() if name not in open_ones}
    same = open_ones and factory.config(brief).to_dict() == factory.config(values).to_dict()
    return _as_config(origin, brief if same else values, document.purpose)


def _as_config(origin: Origin, values: Mapping[str, Any], task: Any) -> dict[str, Any]:
    named = {"model_type": origin.model_type, "architectures": [origin.architecture]}
    return {**named, **own_values(origin.model_type, values, task)}


def _lists(document: Document, before: Document | None) -> dict[str, Any] | None:
    """What the origin's config says layer by layer, for the layers that there are; None where no list tells kinds apart."""
    origin, stacks = document.origin, _stacks(document)
    if not stacks:
        return {}
    place, stack = list(stacks.items())[-1]
    old = None if before is None else _stacks(before).get(place)
    standing = _standing(document, stack, before, old)
    depth = int(_was(origin, "num_hidden_layers") or 0)
    told = {**{name: value for name, value in origin.patterns.items() if name in PATTERNS}, **origin.config}
    listed = {name: by_layer for name, value in told.items() if (by_layer := _by_layer(name, value, depth))}
    found: dict[str, Any] = {name: [value[layer] for layer in standing] for name, value in listed.items()}
    for name in found.keys() & INDICES:
        found[name] = [layer for layer, is_in in enumerate(found[name]) if is_in]
    if "layer_types" in found:
        spans = _spans(document, stack)
        found["layer_types"] = [
            BY_SPAN[resolve(spans[layer], document.environment) is not None]
            if layer in spans and word in BY_SPAN
            else word
            for layer, word in enumerate(found["layer_types"])
        ]
    if BY_LAYER in origin.patterns:
        kinds = [stack.kinds[kind].sizes for kind in stack.kind_indices(len(standing))]
        own = ({name: resolve(value, document.environment) for name, value in sizes.items()} for sizes in kinds)
        found[BY_LAYER] = {str(layer): sizes for layer, sizes in enumerate(own) if sizes}
    if before is None or old is None or len(old.kinds) < 2:
        return found
    return _telling(document, found, listed, old.kind_indices(depth), standing)


def _by_layer(name: str, value: Any, depth: int) -> tuple[Any, ...]:
    """What a config says of each layer in a list: its word for it, or whether it is among those listed; else nothing."""
    if not isinstance(value, tuple) or name.endswith("_token_id"):
        return ()
    if name in INDICES:
        return tuple(layer in value for layer in range(depth))
    return value if len(value) == depth and (name not in LISTS or LISTS[name][1]) else ()


def saying_windows(document: Document) -> Document:
    """A document that takes from its config the one window that some of its layers have as a number, if its class can."""
    stacks = [*_stacks(document).values()]
    if (
        not stacks
        or "layer_types" not in document.origin.patterns
        or WINDOW not in declared(document.origin.model_type)
    ):
        return document
    spans = set(_spans(document, stacks[-1]).values())
    known = {resolve(span, document.environment) for span in spans} - {None}
    if len(known) != 1 or not any(isinstance(span, int) for span in spans):
        return document
    switch = {"use_sliding_window": True} if "use_sliding_window" in document.config else {}
    named = with_window(document, next(iter(known)))
    return named.replace(config=named.config.with_items(switch))


def _spans(document: Document, stack: Stack) -> dict[int, Any]:
    """The window of each layer that attends, as written, where all that attends in it has the same."""
    found: dict[int, Any] = {}
    for layer, kind in enumerate(stack.kind_indices(layer_count(document, stack))):
        blocks = [document.blocks[name] for name in reachable_blocks(document, stack.kinds[kind].block)]
        nodes = [item for block in blocks for item in block.nodes if isinstance(item, Node) and item.op == "attention"]
        windows = {complete(node)["window"] for node in nodes}
        if len(windows) == 1:
            (found[layer],) = windows
    return found


def _telling(
    document: Document,
    found: dict[str, Any],
    listed: Mapping[str, Sequence[Any]],
    kinds: Sequence[int],
    standing: Sequence[int],
) -> dict[str, Any] | None:
    """Lists by layer, if they tell the origin's kinds of layer apart; or how many come first, where that does."""
    if list(standing) == list(range(len(kinds))):
        return found
    words: dict[tuple[Any, ...], set[int]] = {}
    for layer, kind in enumerate(kinds):
        words.setdefault(tuple(value[layer] for value in listed.values()), set()).add(kind)
    if listed and all(len(one) == 1 for one in words.values()):
        return found
    now = [kinds[layer] for layer in standing]
    leading = next((place for place, kind in enumerate(now) if kind != kinds[0]), len(now))
    if LEADING in document.config and document.config[LEADING] and set(now[leading:]).isdisjoint({kinds[0]}):
        return {**found, LEADING: leading}
    return None


# the proof


def _disproof(document: Document, config: Mapping[str, Any]) -> str:
    """What tells transformers' class at a config from a document; nothing where they are the same."""
    raw = check_config(config)
    importing = ArchitectureImport(StockFactory(document.origin.model_type, document.purpose), raw, document.name)
    flaw = parameters_flaw(document, importing.original())
    if flaw:
        return flaw
    return told_apart(document, importing.run()[0])


def told_apart(document: Document, imported: Document, pinned: Collection[str] = ()) -> str:
    """What tells a config's graph from a document; what the config lists layer by layer, the graph says itself."""
    document = saying_windows(document)
    lists = [name for name, value in document.config.items() if isinstance(value, tuple)]
    stock = _restating(imported, document, dict.fromkeys((*lists, LEADING)))
    found = difference(document, stock, probe_assignments(dict(document.environment), pinned))
    return _worded(found, document)


def _worded(found: str, document: Document) -> str:
    """A difference in terms of the document at hand and the class that it came from."""
    return found.replace(" in one", " here").replace("in the other", f"in {document.origin.architecture}")


def parameters_flaw(document: Document, model: torch.nn.Module) -> str:
    """Where a model's parameters or ties are not a document's; nothing where they are."""
    ours = parameter_keys(document)
    theirs = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    key = next((key for key in ours if ours[key] != theirs.get(key)), "")
    if key:
        return f"{key} is {ours[key]} here, {theirs.get(key, 'missing')} in {type(model).__name__}"
    named = dict(model.named_parameters(remove_duplicate=False))
    for tied, source in document.tied.items():
        if tied in named and named[tied] is not named.get(source):
            return f"{tied} is tied to {source} here, and not in {type(model).__name__}"
    for tied, source in document.ties.items():
        if tied not in document.tied and tied in named and named[tied] is named.get(source):
            return f"{tied} is tied to {source} in {type(model).__name__}, and not here"
    return ""


# the edit


def _told(document: Document, flaw: str) -> str:
    """The edit that left the stock architecture, with what it changed; or what is another now, where the log cannot tell."""
    found = _leaving(document)
    if found is None:
        return flaw
    index, what = found
    edit = json.dumps(thaw(document.log[index]), ensure_ascii=False)
    return f"edit {index + 1} of {len(document.log)}, {edit}: {what}"


def _leaving(document: Document) -> tuple[int, str] | None:
    """The last edit before which the document was stock, by its place in the log, and what is another after it."""
    if not document.log or not _known(document):
        return None
    try:
        steps = _replayed(document)
        flaw = _flaw_or_broken(document)
        for index in range(len(document.log) - 1, -1, -1):
            earlier = _flaw_or_broken(steps[index])
            if not earlier:
                return index, flaw
            flaw = earlier
    except (CanvasError, Untold):  # the log does not lead here, or only an import would tell where it begins
        return None
    return None


def _flaw_or_broken(document: Document) -> str:
    """Between the edits of one gesture a graph may be one that cannot be walked."""
    try:
        return _flaw(document)
    except Untold:
        raise
    except KeyError as error:  # a port without a wire
        return f"nothing feeds {error}"
    except Exception as error:
        return _said(error)


def _said(error: Exception) -> str:
    """An error in one line; one of Python's own with what it is."""
    text = " ".join(str(error).split())[:300]
    return error.message if isinstance(error, CanvasError) else f"{type(error).__name__}: {text}"


def _replayed(document: Document) -> list[Document]:
    """The origin's document, and what each edit of the log made of it. Raises `CanvasError` where they do not lead here."""
    before = origin_document(document.origin, document.purpose)
    if before is None:
        raise CanvasError("the origin is another graph now")
    steps = [before]
    for edit in parse_edits(thaw(document.log)):
        steps.append(apply(steps[-1], edit))
    if structure(steps[-1]) != structure(document):
        raise CanvasError("the log does not lead to this document")
    return steps


__all__ = ["Native", "native_at_once", "native_config", "parameters_flaw", "stock_config", "told_apart"]
