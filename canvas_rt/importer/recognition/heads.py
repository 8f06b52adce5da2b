"""Recognise views and transposes that split a stream into heads, and those that merge heads again."""

import torch
from torch import fx

from canvas_rt.importer.calls import shape_of, source_of
from canvas_rt.importer.recognition.reader import Reader

aten = torch.ops.aten

VIEWS = (aten.view.default, aten.reshape.default)


def splits_heads(reader: Reader, node: fx.Node) -> bool:
    """`[batch, seq, heads · width]`, or heads in their place, as heads that come first."""
    view = node.args[0]
    if list(node.args[1:]) not in ([1, 2], [2, 1]) or not isinstance(view, fx.Node):
        return False
    if views_as_heads(reader, view) and view not in reader.refs:
        return add_heads(reader, node, view, "split_heads")
    if len(shape_of(node)) != 4:
        return False
    ref = reader.ref(view)
    name = ref.removesuffix("_norm").removesuffix("_heads") if ref.endswith(("_norm", "_heads")) else f"{ref}_heads"
    reader.add(node, name.partition(".")[0], "heads_first", {"x": ref})
    return True


def views_heads(reader: Reader, node: fx.Node) -> bool:
    """`[batch, seq, heads · width]` as heads in their place."""
    return views_as_heads(reader, node) and add_heads(reader, node, node, "view_heads")


def views_as_heads(reader: Reader, node: fx.Node) -> bool:
    if node.target not in VIEWS or not isinstance(node.args[0], fx.Node):
        return False
    before, after = shape_of(node.args[0]), shape_of(node)
    return len(before) == 3 and len(after) == 4 and before[:2] == after[:2] and reader.recogniser.is_stream(after)


def add_heads(reader: Reader, node: fx.Node, view: fx.Node, op: str) -> bool:
    shape = shape_of(view)
    ref = reader.ref(source_of(view))
    name = ref.removesuffix("_proj") if ref.endswith("_proj") else f"{ref.partition('.')[0]}_heads"
    if op == "view_heads" and ref.endswith("_proj"):
        name += "_heads"
    reader.add(node, name, op, {"x": ref}, {"heads": int(shape[2]), "head_dim": int(shape[3])})
    return True


def merges_heads(reader: Reader, node: fx.Node) -> bool:
    if not isinstance(node.args[0], fx.Node):
        return False
    before, after = shape_of(node.args[0]), shape_of(node)
    if len(before) != 4 or len(after) != 3 or before[:2] != after[:2] or not reader.recogniser.is_stream(after):
        return False
    reader.add(node, "merged", "merge_heads", {"x": reader.ref(node.args[0])})
    return True
