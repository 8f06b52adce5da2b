"""Edits of sizes and config values: in the whole model, in some layers, or in one block of them."""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from canvas_rt.edits.data import AddConfig, AddSize, RemoveSize, SetConfig, SetSize
from canvas_rt.edits.nodes import check_names
from canvas_rt.edits.paths import (
    Step,
    inner_blocks,
    is_part,
    isolate,
    item_at,
    layer_kinds,
    layers_at,
    own_use,
    parse_path,
    scope,
    sources,
    with_item,
    with_layers,
)
from canvas_rt.edits.reserved import CONFIG_NAMES, NEEDED
from canvas_rt.errors import EditError, suggest
from canvas_rt.ir.document import RESERVED, Document, Node, Stack, Use
from canvas_rt.ir.expressions import ExpressionError, expression, is_expression, names_in, resolve
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import Item, blocks_of, names_used, own_names
from canvas_rt.ops.catalogue import OPS

LARGEST_SIZE = 2**31 - 1


def set_size(document: Document, edit: SetSize) -> Document:
    """The widest of three ways that changes nothing else: the document's size, the layers' own, or the block's copy."""
    path = f"{edit.path}.{edit.name}".lstrip(".")
    _check_known(document, edit, path)
    _check_value(document, edit.value, path)
    steps = parse_path(edit.path)
    if not steps:
        return _set_everywhere(document, edit)
    _check_used(document, steps, edit)
    whole = not _is_partial(document, steps)
    if whole and edit.name not in _names_outside(document, steps) and _resolves(_set_everywhere(document, edit)):
        return _without_overrides(_set_everywhere(document, edit), steps, edit.name)
    stack_at = _innermost_stack(document, steps)
    if stack_at is not None:
        prefix, step, inside = steps[:stack_at], steps[stack_at], steps[stack_at + 1 :]
        layer_blocks = inner_blocks(document, scope(document, prefix), step)
        if edit.name not in _names_beside(document, layer_blocks, inside):
            return _set_in_layers(document, prefix, step, edit, whole=not inside and step.layers is None)
    document = isolate(document, steps)
    for block in scope(document, steps):
        document = _substituted(document, block, edit.name, edit.value)
    return document


def set_config(document: Document, edit: SetConfig) -> Document:
    if edit.name not in document.config:
        if edit.name in document.sizes:
            if edit.value is None and _may_be_unset(document, edit.name):
                return document.replace(
                    sizes=document.sizes.without(edit.name), config=document.config.with_items({edit.name: None})
                )
            if edit.value is None:
                raise EditError("cannot be null: the graph needs a whole number", path=edit.name)
            raise EditError("is a size", path=edit.name, hint="SetSize sets it, for the model or for some layers.")
        raise EditError("is no config value of this model", path=edit.name, hint=suggest(edit.name, document.config))
    old = document.config[edit.name]
    if _sort(old) != _sort(edit.value) and old is not None and (edit.value is not None or isinstance(old, bool)):
        raise EditError(f"must be {_sort(old)}, as {_short(old)} is, not {_short(edit.value)}", path=edit.name)
    if old is None and _may_be_unset(document, edit.name) and _sort(edit.value) == "a number":
        _check_value(document, edit.value, edit.name)
        return document.replace(
            config=document.config.without(edit.name), sizes=document.sizes.with_items({edit.name: edit.value})
        )
    return document.replace(config=document.config.with_items({edit.name: edit.value}))


def add_size(document: Document, edit: AddSize) -> Document:
    _check_free(document, edit.name)
    _check_value(document, edit.value, edit.name)
    return document.replace(sizes=document.sizes.with_items({edit.name: edit.value}))


def add_config(document: Document, edit: AddConfig) -> Document:
    _check_free(document, edit.name)
    return document.replace(config=document.config.with_items({edit.name: edit.value}))


def _check_free(document: Document, name: str) -> None:
    if name in document.sizes or name in document.config:
        what, setter = ("size", "SetSize") if name in document.sizes else ("config value", "SetConfig")
        raise EditError(f"there is a {what} '{name}' already", path=name, hint=f"{setter} changes it.")
    if name in RESERVED | CONFIG_NAMES:
        raise EditError("is a name that every config has for itself", path=name, hint="Choose another name.")


def remove_size(document: Document, edit: RemoveSize) -> Document:
    if edit.name not in document.sizes:
        raise EditError(f"there is no size '{edit.name}'", path=edit.name, hint=suggest(edit.name, document.sizes))
    if edit.name in NEEDED:
        raise EditError("stands in every Hugging Face config", path=edit.name, hint="SetSize gives it another value.")
    naming = _naming(document, edit.name)
    if naming:
        more = f" and {len(naming) - 3} more" if len(naming) > 3 else ""
        raise EditError(
            f"{', '.join(naming[:3])}{more} {'names' if len(naming) == 1 else 'name'} it",
            path=edit.name,
            hint="Set what names it to a number, or to another size, first.",
        )
    return document.replace(sizes=document.sizes.without(edit.name))


def _naming(document: Document, name: str) -> list[str]:
    """What names a size: other sizes, and items by block, those of unused blocks too."""
    sizes = [f"the size {size}" for size, value in document.sizes.items() if name in names_in(value)]
    items = [
        f"{block}.{item.id}"
        for block, held in document.blocks.items()
        for item in held.nodes
        if name in own_names(item) or (isinstance(item, Stack) and any(name in kind.sizes for kind in item.kinds))
    ]
    return [*sizes, *items]


def _may_be_unset(document: Document, name: str) -> bool:
    """Whether a size is read only by settings that may be null, as an attention window is."""
    readers = [
        OPS[item.op].settings[setting]
        for block in document.blocks.values()
        for item in block.nodes
        if isinstance(item, Node) and item.op in OPS
        for setting, value in item.attrs.items()
        if name in names_in(value) and setting in OPS[item.op].settings
    ]
    return bool(readers) and all(setting.optional and setting.kind == "size" for setting in readers)


def _sort(value: Any) -> str:
    sorts: Sequence[tuple[Any, str]] = (
        (bool, "true or false"),
        (int | float, "a number"),
        (str, "text"),
        (tuple, "a list"),
        (Mapping, "a table"),
    )
    return next((name for kind, name in sorts if isinstance(value, kind)), "null")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _check_known(document: Document, edit: SetSize, path: str) -> None:
    if edit.name in document.sizes:
        return
    if edit.name in document.config and document.config[edit.name] is None and _may_be_unset(document, edit.name):
        return
    if edit.name in document.config:
        raise EditError("is one value for the whole model, not a size", path=path, hint="SetConfig sets it.")
    raise EditError(f"there is no size '{edit.name}'", path=path, hint=suggest(edit.name, document.sizes))


def _check_value(document: Document, value: int | str, path: str) -> None:
    number: Any = value
    if isinstance(value, str):
        check_names(document, value, path)
        number = resolve(value, document.environment)
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= LARGEST_SIZE:
        gives = f" gives {number!r}, but" if isinstance(value, str) else ""
        got = "" if gives else f", not {number!r}"
        text = value[1:] if isinstance(value, str) else ""
        raise EditError(f"{text}{gives} must be a whole number from 1 to {LARGEST_SIZE}{got}".strip(), path=path)


def _check_used(document: Document, steps: Sequence[Step], edit: SetSize) -> None:
    """Refuse a size that the target does not use: setting it would do nothing."""
    *_, last = steps
    used: frozenset[str] = frozenset()
    for holder in scope(document, steps[:-1]):
        item = item_at(document, holder, last)
        if isinstance(item, Node):
            raise EditError(
                f"{item.id} is a node ({item.op})", path=edit.path, hint="SetAttr changes one of its settings."
            )
        if isinstance(item, Stack) and last.layers is None:
            used |= own_names(item)
    used = used.union(*(names_used(document, block) for block in scope(document, steps)))
    if edit.name not in used:
        sizes = sorted(used & document.sizes.keys())
        raise EditError(
            f"nothing here uses {edit.name}", path=edit.path, hint=f"It uses {', '.join(sizes) or 'no sizes'}."
        )


def _is_partial(document: Document, steps: Sequence[Step]) -> bool:
    return any(
        is_part(document, item_at(document, holder, step), step)
        for index, step in enumerate(steps)
        for holder in scope(document, steps[:index])
    )


def _innermost_stack(document: Document, steps: Sequence[Step]) -> int | None:
    found = None
    for index, step in enumerate(steps):
        if any(isinstance(item_at(document, holder, step), Stack) for holder in scope(document, steps[:index])):
            found = index
    return found


def _names_outside(document: Document, steps: Sequence[Step]) -> frozenset[str]:
    """What the model uses outside a path's target, other sizes included."""
    names = frozenset[str]().union(*(names_in(value) for value in document.sizes.values()))
    return names | _names_beside(document, (document.root,), steps)


def _names_beside(document: Document, blocks: Sequence[str], steps: Sequence[Step]) -> frozenset[str]:
    """What `blocks` use outside the target that `steps` lead to in them."""
    names: frozenset[str] = frozenset()
    for index, step in enumerate(steps):
        last = index == len(steps) - 1
        for holder in blocks:
            for item in document.blocks[holder].nodes:
                if item.id != step.id:
                    names = names.union(own_names(item), *(names_used(document, block) for block in blocks_of(item)))
                elif not (last and step.layers is None):
                    names |= own_names(item)
        blocks = inner_blocks(document, blocks, step)
    return names


def _set_everywhere(document: Document, edit: SetSize) -> Document:
    return document.replace(sizes=document.sizes.with_items({edit.name: edit.value}))


def _resolves(document: Document) -> bool:
    try:
        return bool(document.environment)
    except ExpressionError:
        return False


def _without_overrides(document: Document, steps: Sequence[Step], name: str) -> Document:
    """A document in which no layers on the way to the target have that size for themselves."""
    for index, step in enumerate(steps):
        for holder in scope(document, steps[:index]):
            item = item_at(document, holder, step)
            if isinstance(item, Stack):
                kinds = [kind.replace(sizes=kind.sizes.without(name)) for kind in layer_kinds(document, item)]
                document = with_item(document, holder, with_layers(item, kinds, sources(item, len(kinds))))
    return document


def _set_in_layers(document: Document, prefix: Sequence[Step], step: Step, edit: SetSize, *, whole: bool) -> Document:
    """Give layers a size of their own; one equal to the model's number is the model's."""
    document = isolate(document, prefix)
    own = is_expression(edit.value) or document.environment[edit.name] != edit.value
    for holder in scope(document, prefix):
        stack = item_at(document, holder, step)
        assert isinstance(stack, Stack)
        kinds = layer_kinds(document, stack)
        for layer in layers_at(document, stack, step):
            sizes = kinds[layer].sizes.without(edit.name)
            kinds[layer] = kinds[layer].replace(sizes=sizes.with_items({edit.name: edit.value}) if own else sizes)
        stack = with_layers(stack, kinds, sources(stack, len(kinds)))
        if whole:
            stack = stack.replace(repeat=substitute(stack.repeat, edit.name, edit.value))
        document = with_item(document, holder, stack)
    return document


def _substituted(document: Document, block: str, name: str, value: int | str) -> Document:
    """A document in which a block, and what it uses, has a value in a size's place."""
    for item in document.blocks[block].nodes:
        if isinstance(item, Node):
            changed: Item = item.replace(attrs=substitute(item.attrs, name, value))
        elif isinstance(item, Stack):
            kinds = [
                kind.replace(sizes=kind.sizes.with_items({name: value}))
                if name in names_used(document, kind.block)
                else kind
                for kind in item.kinds
            ]
            changed = item.replace(repeat=substitute(item.repeat, name, value), kinds=tuple(kinds))
        else:
            changed = item
        if changed != item:
            document = with_item(document, block, changed)
    for id in [item.id for item in document.blocks[block].nodes if isinstance(item, Use)]:
        use = document.blocks[block].by_id[id]
        assert isinstance(use, Use)
        if name in names_used(document, use.block):
            document, inner = own_use(document, block, use)
            document = _substituted(document, inner, name, value)
    return document


def substitute(value: Any, name: str, by: int | str) -> Any:
    """A document value with a number or an expression in a name's place."""
    if is_expression(value) and name in names_in(value):
        tree = expression(by).tree if isinstance(by, str) else ast.Constant(by)
        result = expression(value).replace({name: tree})
        return result.tree.value if isinstance(result.tree, ast.Constant) else f"={result.text}"
    if isinstance(value, tuple):
        return tuple(substitute(item, name, by) for item in value)
    if isinstance(value, Mapping):
        return FrozenMap({key: substitute(item, name, by) for key, item in value.items()})
    return value
