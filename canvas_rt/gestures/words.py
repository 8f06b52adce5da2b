"""Edits in a few words, as a history shows them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from canvas_rt.edits import Edit
from canvas_rt.ir.expressions import display

_WORDS: Mapping[str, Callable[[Any], str]] = {
    "set_size": lambda e: f"set {e.name} to {display(e.value)}" + (f" in {_tail(e.path)}" if e.path else ""),
    "set_config": lambda e: f"set {e.name}",
    "set_attr": lambda e: f"set {_tail(e.path)}.{e.name} to {display(e.value)}",
    "add_node": lambda e: f"add {e.node.id}",
    "remove_node": lambda e: f"delete {_tail(e.path)}",
    "bypass": lambda e: f"delete {_tail(e.path)}",
    "connect": lambda e: f"connect {e.source} to {_tail(e.path)}",
    "disconnect": lambda e: f"disconnect {_tail(e.path)}.{e.port}",
    "set_output": lambda e: f"set the output {e.output}",
    "rename_node": lambda e: f"rename {_tail(e.path)} to {e.new_id}",
    "set_weights": lambda e: f"take other weights for {_tail(e.path)}",
    "rename_block": lambda e: f"rename {e.block} to {e.new_name}",
    "set_tokenizer": lambda e: f"use the tokenizer {e.tokenizer.get('name', 'of before')}",
    "set_name": lambda e: f"rename to {e.name}",
    "insert_layer": lambda e: "insert a layer",
    "delete_layers": lambda e: f"delete layers {_tail(e.path)}",
    "duplicate_layers": lambda e: f"duplicate layers {_tail(e.path)}",
    "move_layers": lambda e: f"move layers {_tail(e.path)}",
    "swap_layers": lambda e: f"swap layers {e.a} and {e.b}",
    "replace_block": lambda e: f"make {_tail(e.path)} a {e.block}",
    "group_nodes": lambda e: f"group {len(e.ids)} nodes",
    "ungroup": lambda e: f"ungroup {_tail(e.path)}",
    "make_unique": lambda e: f"make {_tail(e.path)} unique",
    "place_nodes": lambda e: "move nodes",
    "add_input": lambda e: f"add the input {e.input}",
    "remove_input": lambda e: f"remove the input {e.input}",
    "add_block": lambda e: f"add the block {e.name}",
}

_FIRST = ("add_node", "remove_node", "bypass", "set_output", "connect")
"""Where a gesture makes edits of several kinds, the one that says most."""


def in_words(edits: Sequence[Edit]) -> str:
    """What a gesture's edits do, after the most telling of them."""
    if not edits:
        return "nothing"
    ranked = sorted(edits, key=lambda edit: _FIRST.index(edit.kind) if edit.kind in _FIRST else len(_FIRST))
    chosen = ranked[0]
    alike = sum(edit.kind == chosen.kind for edit in edits)
    known = _WORDS.get(chosen.kind)
    words = known(chosen) if known else chosen.kind.replace("_", " ")
    return words if alike == 1 or chosen.kind == "connect" else f"{words} and {alike - 1} more"


def _tail(path: str) -> str:
    return path.rpartition(".")[2]
