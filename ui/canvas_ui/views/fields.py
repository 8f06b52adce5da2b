"""The settings that people change, as fields; and a changed field as edits."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeGuard

from canvas_rt.edits import Edit, SetAttr, SetConfig, SetSize
from canvas_rt.errors import CanvasError, EditError
from canvas_rt.gestures.scope import Scope, nearest_scope, scope_at, split
from canvas_rt.gestures.tokenizers import TOKENIZERS, UNKNOWN, tokenizer_of, use_tokenizer
from canvas_rt.ir.document import Document, Node, Stack, Use
from canvas_rt.ir.expressions import display, is_expression, names_in, resolve
from canvas_rt.ir.frozen import freeze, thaw
from canvas_rt.ir.graph import Item, names_used, own_names
from canvas_rt.ops.catalogue import OPS, complete
from canvas_rt.ops.choices import ACTIVATIONS, DTYPES
from canvas_rt.ops.op import Setting
from canvas_ui.messages import FieldView, SetField

Reach = Literal["all", "layers", "node"]
MOST_ON_CARD = 3


def slider(value: int, usual: int | None = None) -> tuple[int, int, int]:
    """A slider's least and greatest value and its step, made for the usual value: they stay as they are while it is dragged."""
    top = _power_of_two(usual or value)
    greatest = max(top * 2, 8)
    if value > greatest:
        greatest = _power_of_two(value)
    step = max(1, top >> 6) if top >= 512 else 1
    return step, greatest, step


def _power_of_two(value: int) -> int:
    """The power of two at or above a number."""
    return 1 << (max(value, 1) - 1).bit_length()


def size_field(scope: Scope, name: str, item: Item | None, summary: str = "") -> FieldView:
    """A size, as it stands in a level."""
    document = scope.document
    value = scope.environment.get(name)
    written = document.sizes[name]
    own = _own_size(scope, name)
    if own is not None:
        written = own
    derived = is_expression(written)
    usual = _usual(document, name)
    low, high, step = slider(value, usual) if _whole(value) else (None, None, None)
    scopes = _scopes(scope, name, item)
    return FieldView(
        id=f"size:{name}",
        label=name,
        kind="size",
        value=value if _whole(value) else None,
        written=display(written),
        derived=derived,
        minimum=None if derived else low,
        maximum=None if derived else high,
        step=None if derived else step,
        summary=summary,
        scopes=scopes,
        reach=_reach(scope, scopes[0], item),
        slider=True,
    )


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _usual(document: Document, name: str) -> int | None:
    """The size that the document was opened with: what a slider's range is made for."""
    value = document.origin.sizes.get(name)
    return value if _whole(value) else None


def _own_size(scope: Scope, name: str) -> Any:
    """The value that the layers of a level have for themselves; None where it is the model's."""
    if scope.layers is None:
        return None
    kind = scope.layers.stack.kinds[scope.layers.kinds[scope.layers.chosen.start]]
    return kind.sizes.get(name)


def _scopes(scope: Scope, name: str, item: Item | None) -> list[Reach]:
    """What a change of a size may reach, the likeliest first."""
    found: list[Reach] = ["all"]
    if scope.layers is not None:
        near = scope.layers.partial or _own_size(scope, name) is not None
        found = ["layers", "all"] if near else ["all", "layers"]
    if isinstance(item, Use) or (isinstance(item, Node) and _setting_of(item, name)):
        found.append("node")
    return found


def _setting_of(node: Node, name: str) -> str | None:
    """The setting that is just this size."""
    return next((setting for setting, value in complete(node).items() if value == f"={name}"), None)


def _reach(scope: Scope, reach: Reach, item: Item | None) -> str:
    if reach == "all":
        return "the whole model"
    if reach == "node":
        return "this node alone" if not isinstance(item, Use) else "this block alone"
    assert scope.layers is not None
    layers = scope.layers
    if not layers.partial:
        return f"all {layers.count} layers"
    return f"layer {layers.text}" if len(layers.chosen) == 1 else f"layers {layers.text}"


def config_field(scope: Scope, name: str, label: str, setting: Setting | None = None) -> FieldView:
    """A config value that a node's setting, or the document, is made of."""
    value = thaw(scope.document.config[name])
    kind = _kind(name, value) if setting is None else _field_kind(setting, value)
    return FieldView(
        id=f"config:{name}",
        label=label,
        kind=kind,
        value=_shown(value, kind),
        written=_text(value),
        options=list(ACTIVATIONS) if kind == "choice" else [],
        summary=setting.summary if setting else "",
        scopes=["all"],
        reach="the whole model",
    )


def _kind(name: str, value: Any) -> Literal["number", "flag", "choice", "text", "table"]:
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "choice" if value in ACTIVATIONS else "text"
    return "table" if isinstance(value, Mapping | list) else "text"


def _field_kind(setting: Setting, value: Any) -> Literal["size", "number", "flag", "choice", "text", "table"]:
    if setting.kind == "choice" and value not in setting.options:
        return "text"
    return _CONTROLS[setting.kind]


_CONTROLS: Mapping[str, Literal["size", "number", "flag", "choice", "text", "table"]] = {
    "size": "size",
    "number": "number",
    "flag": "flag",
    "choice": "choice",
    "text": "text",
    "table": "table",
    "integer": "number",
    "integers": "table",
    "dtype": "choice",
    "name": "text",
}
"""By the kind of a setting: the control that changes it."""


def _options(setting: Setting) -> list[str]:
    if setting.kind != "dtype":
        return list(setting.options)
    return ["null", *DTYPES] if setting.optional else list(DTYPES)


def _text(value: Any) -> str:
    return (
        json.dumps(value)
        if isinstance(value, Mapping | list) or value is None or isinstance(value, bool)
        else str(value)
    )


def _shown(value: Any, kind: str) -> Any:
    return _text(value) if kind == "table" else value


def attr_field(scope: Scope, node: Node, name: str, setting: Setting) -> FieldView:
    """A setting that is a node's own: a constant, or an expression over several names."""
    written = complete(node)[name]
    try:
        value = resolve(written, scope.environment)
    except CanvasError:
        value = written if setting.kind == "integers" else None  # it may name what only a run knows, as batch and seq
    kind = _field_kind(setting, value)
    low = high = step = None
    derived = is_expression(written)
    if kind == "size" and _whole(value) and not derived:
        low, high, step = slider(value)
    return FieldView(
        id=f"attr:{name}",
        label=name,
        kind=kind,
        value=_shown(thaw(value), kind),
        written=display(written),
        derived=derived,
        minimum=low,
        maximum=high,
        step=step,
        options=_options(setting),
        summary=setting.summary + (" (null: none)" if setting.optional else ""),
        scopes=["node"],
        reach=_attr_reach(scope),
        slider=kind == "size" and not derived,
    )


def _attr_reach(scope: Scope) -> str:
    if scope.layers is None:
        return "this node"
    return f"this node in {_reach(scope, 'layers', None)}"


def item_fields(scope: Scope, item: Item) -> list[FieldView]:
    """All that can be set of an item, its own settings before the sizes behind them."""
    document = scope.document
    if isinstance(item, Stack):
        return [*_repeat(scope, item), *(size_field(scope, name, item) for name in _inner_names(document, item))]
    if isinstance(item, Use):
        return [size_field(scope, name, item) for name in _inner_names(document, item)]
    return list(_node_fields(scope, item))


def _inner_names(document: Document, item: Use | Stack) -> list[str]:
    blocks = [item.block] if isinstance(item, Use) else [kind.block for kind in item.kinds]
    used = frozenset[str]().union(*(names_used(document, block) for block in blocks))
    own = own_names(item) if isinstance(item, Stack) else frozenset()
    return [name for name in document.sizes if name in used and name not in own]


def _repeat(scope: Scope, stack: Stack) -> Iterator[FieldView]:
    for name in scope.document.sizes:
        if name in own_names(stack):
            yield size_field(scope, name, stack, "how many layers")


def _node_fields(scope: Scope, node: Node) -> Iterator[FieldView]:
    document = scope.document
    seen: set[str] = set()
    behind: list[str] = []
    for name, setting in OPS[node.op].settings.items() if node.op in OPS else ():
        value = complete(node)[name]
        one = str(value)[1:] if is_expression(value) and str(value)[1:] in names_in(value) else ""
        if one in document.sizes and one not in seen:
            seen.add(one)
            yield size_field(scope, one, node, f"{name}: {setting.summary}")
        elif one in document.config and one not in seen:
            seen.add(one)
            yield config_field(scope, one, one, setting)
        elif not one:
            yield attr_field(scope, node, name, setting)
            behind += [size for size in document.sizes if size in names_in(value)]
    for size in dict.fromkeys(behind):
        if size not in seen:
            yield size_field(scope, size, node)


def card_fields(scope: Scope, item: Item, carried: Iterable[str]) -> list[FieldView]:
    """The few fields on a node's card: sizes of its own, not those that merely pass through, nor those that follow."""
    through = set(carried)
    if isinstance(item, Stack):
        return list(_repeat(scope, item))[:1]
    fields = [field for field in item_fields(scope, item) if field.slider and field.value is not None]
    own = [field for field in fields if field.label not in through and not _follows_by_nature(scope, field)]
    choices = [field for field in item_fields(scope, item) if field.kind == "choice"]
    return [*own, *choices][:MOST_ON_CARD]


def tokenizer_field(document: Document) -> FieldView:
    """Which tokenizer the model's token ids come from. Choosing one sets the vocabulary."""
    return FieldView(
        id="tokenizer:",
        label="tokenizer",
        kind="choice",
        value=tokenizer_of(document),
        written=tokenizer_of(document),
        options=[UNKNOWN, *TOKENIZERS],
        summary="what makes token ids of text; choosing one sets vocab_size",
        scopes=["all"],
        reach="the whole model",
    )


def input_fields(document: Document) -> list[FieldView]:
    """What can be set of the model's input. An image is as large as the model's own sizes say."""
    if not document.purpose.of_tokens:
        return []
    sizes = [size_field(nearest_scope(document, ""), "vocab_size", None)] if "vocab_size" in document.sizes else []
    return [tokenizer_field(document), *sizes]


def _follows_by_nature(scope: Scope, field: FieldView) -> bool:
    """Whether a size followed from others when the model was opened, and still does."""
    return (
        field.derived and field.id.startswith("size:") and is_expression(scope.document.origin.sizes.get(field.label))
    )


def document_fields(document: Document) -> list[FieldView]:
    """The document's own sizes and config values."""
    scope = nearest_scope(document, "")
    sizes = [size_field(scope, name, None) for name in document.sizes]
    return [*sizes, *(config_field(scope, name, name) for name in document.config)]


# ---------------------------------------------------------------------------------------------------------------------


def field_edits(document: Document, change: SetField) -> list[Edit]:
    """A changed field as edits. Raises `EditError` for text that is no value."""
    sort, _, name = change.field.partition(":")
    if sort == "config":
        return [SetConfig(name, freeze(_typed(change.value, document.config.get(name), name)))]
    if sort == "tokenizer":
        return list(use_tokenizer(document, str(change.value)))
    if sort == "attr":
        return [SetAttr(change.path, name, _value(change.value, name, _attr_now(document, change.path, name)))]
    if sort != "size":
        raise EditError(f"there is no field '{change.field}'")
    value = _value(change.value, name, 1)
    if change.scope == "node":
        return [_set_here(document, change.path, name, value)]
    if change.scope == "layers" or (change.scope is None and _near(document, change.path, name)):
        scope = _level_of(document, change.path)
        if scope.layers is not None:
            return [SetSize(f"{scope.layers.path}.{scope.layers.text}", name, value)]
    return [SetSize("", name, value)]


def _level_of(document: Document, path: str) -> Scope:
    return nearest_scope(document, split(path)[0]) if path else nearest_scope(document, "")


def _near(document: Document, path: str, name: str) -> bool:
    scope = _level_of(document, path)
    return scope.layers is not None and (scope.layers.partial or _own_size(scope, name) is not None)


def _set_here(document: Document, path: str, name: str, value: Any) -> Edit:
    level, id = split(path)
    item = scope_at(document, level).block.node(id)
    if isinstance(item, Node):
        setting = _setting_of(item, name)
        if setting is None:
            raise EditError(f"{id} has no setting that is {name} alone", path=path, hint="Change the setting itself.")
        return SetAttr(path, setting, value)
    return SetSize(path, name, value)


def _attr_now(document: Document, path: str, name: str) -> Any:
    level, id = split(path)
    item = scope_at(document, level).block.node(id)
    return OPS[item.op].settings[name].kind if isinstance(item, Node) and name in OPS[item.op].settings else None


def _value(value: Any, name: str, like: Any) -> Any:
    """A typed value as what it stands for: a number, an expression, a flag, null, a table."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("="):
        return text
    if like in ("choice", "text") or (like == "dtype" and text != "null"):
        return text
    return freeze(_parsed(text, name))


def _parsed(text: str, name: str) -> Any:
    plain = text.replace(",", "").replace("_", "")
    try:
        return int(plain)
    except ValueError:
        pass
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise EditError(
            f"'{text[:60]}' is no value for {name}",
            path=name,
            hint="Type a number, or = and an expression such as =head_dim * 2.",
        ) from None


def _typed(value: Any, now: Any, name: str) -> Any:
    """A typed config value, of the sort that stands there."""
    if isinstance(value, float) and value.is_integer() and not isinstance(now, float):
        return int(value)
    if not isinstance(value, str) or isinstance(now, str):
        return value
    return _parsed(value.strip(), name)
