"""Read `--set PATH.name=VALUE` as an edit."""

import json
from collections.abc import Mapping
from typing import Any

from canvas_rt.edits.data import Edit, SetAttr, SetConfig, SetSize
from canvas_rt.edits.paths import item_at, scope, split_path
from canvas_rt.errors import EditError, suggest
from canvas_rt.ir.document import Document, Node
from canvas_rt.ir.frozen import freeze
from canvas_rt.ir.graph import Item
from canvas_rt.ops.catalogue import op_named


def parse_assignment(document: Document, text: str) -> Edit:
    """The edit that an assignment means: of a size, of a config value, or of a node's setting.

    `hidden_size=2048`, `rms_norm_eps=1e-5`, `model.layers.8-15.self_attn.num_key_value_heads=4`,
    `model.layers.0.self_attn.attention.window=512`. The value is JSON where it reads as JSON, else text;
    `out_features==head_dim * 2` sets the expression `=head_dim * 2`.
    """
    target, equals, written = text.partition("=")
    if not equals or not target.strip():
        raise EditError(f"'{text}' is no assignment", hint="As in model.layers.8-15.self_attn.num_key_value_heads=4.")
    path, _, name = target.strip().rpartition(".")
    value = _value(written.strip())
    if not path:
        return _of_model(document, name, value)
    head, *rest = target.strip().split(".")
    if isinstance(document.config.get(head), Mapping):
        return SetConfig(head, _with_entry(document.config[head], rest, value, head))
    item = _item(document, path)
    if not isinstance(item, Node):
        return _of_block(document, path, name, value)
    settings = op_named(item.op, path).settings
    if name not in settings:
        raise EditError(
            f"{item.op} has no setting '{name}'",
            path=path,
            hint=suggest(name, settings) if settings else "It has none.",
        )
    return SetAttr(path, name, value)


def _value(text: str) -> Any:
    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    try:
        return freeze(json.loads(text, parse_constant=refuse))
    except (ValueError, RecursionError):
        return text


def _of_model(document: Document, name: str, value: Any) -> Edit:
    if name in document.sizes and value is not None:
        return SetSize("", name, value)
    if name in document.config or name in document.sizes:
        return SetConfig(name, value)
    known = document.sizes.keys() | document.config.keys()
    raise EditError(f"there is no size or config value '{name}'", hint=suggest(name, known))


def _of_block(document: Document, path: str, name: str, value: Any) -> Edit:
    if name in document.sizes:
        return SetSize(path, name, value)
    if name in document.config and document.config[name] is None:
        return SetSize(path, name, value)
    if name in document.config:
        raise EditError(f"{name} is one value for the whole model", path=path, hint=f"Set it as {name}=….")
    raise EditError(f"there is no size '{name}'", path=path, hint=suggest(name, document.sizes))


def _with_entry(table: Mapping[str, Any], keys: list[str], value: Any, path: str) -> Any:
    """A table of the config with one entry set."""
    key, *rest = keys
    if key not in table:
        raise EditError(f"has no entry '{key}'", path=path, hint=suggest(key, table))
    if rest and not isinstance(table[key], Mapping):
        raise EditError("is no table", path=f"{path}.{key}")
    return freeze({**table, key: _with_entry(table[key], rest, value, f"{path}.{key}") if rest else value})


def _item(document: Document, path: str) -> Item:
    steps, last = split_path(path)
    return item_at(document, scope(document, steps)[0], last)
