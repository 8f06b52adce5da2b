"""Recognise where tokens are put in a row for routers and experts, and get their sequences back."""

import torch
from torch import fx

from canvas_rt.importer.calls import shape_of, source_of
from canvas_rt.importer.recognition.reader import Reader

aten = torch.ops.aten

RESHAPES = (aten.flatten.using_ints, aten.view.default, aten.reshape.default, aten.view_as.default)


def lines_up_tokens(reader: Reader, node: fx.Node) -> bool:
    """Routers and experts may take all tokens in a row, whatever their sequence: the nodes take them as they are."""
    if not isinstance(node.args[0], fx.Node):
        return False
    source, before, after = node.args[0], *(n.meta["val"].shape for n in (node.args[0], node))
    if node.target is aten.flatten.using_ints and before == after:
        reader.refs[node] = reader.ref(source)
        return True
    if before[-1] != after[-1]:
        return False
    into = lines_up(reader, node)
    fed = source.args if is_of(reader, source, "experts") else ()
    back = len(before) == 2 and len(after) == 3 and any(isinstance(a, fx.Node) and lines_up(reader, a) for a in fed)
    if into or back:
        reader.refs[node] = reader.ref(source)
    return into or back


def lines_up(reader: Reader, node: fx.Node) -> bool:
    """Whether a function only puts tokens in a row for routers and experts, whose results get their sequences back."""
    if node.target not in RESHAPES or not isinstance(node.args[0], fx.Node):
        return False
    before, after = shape_of(node.args[0]), shape_of(node)
    if len(before) != 3 or len(after) != 2 or before[-1] != after[-1]:
        return False
    if not all(is_of(reader, user, "router", "experts") for user in node.users):
        return False
    return all(goes_back(user) for user in node.users if is_of(reader, user, "experts"))


def in_a_row(reader: Reader, node: fx.Node) -> bool:
    """Whether a router takes the very row of tokens that experts take, of a value that is read elsewhere too.

    Gradients are summed within the row first.
    """
    if not lines_up(reader, node) or not any(is_of(reader, user, "experts") for user in node.users):
        return False
    source = source_of(node)
    elsewhere = reader.recogniser.shared.get(reader.path, ())
    return len(source.users) > 1 or (source.op == "placeholder" and reader.refs[source] in elsewhere)


def is_of(reader: Reader, node: fx.Node, *ops: str) -> bool:
    """Whether a node is a module that is one of these ops."""
    if node.op != "call_module":
        return False
    leaf = reader.recogniser.leaf(reader.path_of(node))
    return leaf is not None and leaf.op in ops


def goes_back(node: fx.Node) -> bool:
    """Whether all that reads a value of tokens in a row gives them their sequences back first."""
    return all(user.target in RESHAPES and len(shape_of(user)) == 3 for user in node.users)
