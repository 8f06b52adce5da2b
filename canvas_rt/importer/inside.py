"""Bring together in one graph what attention written by hand is made of."""

import operator
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from canvas_rt.importer.calls import shape_of

aten = torch.ops.aten


def with_transposes(graph: fx.Graph) -> None:
    """Write permutations that only turn heads and tokens, or channels too, as transpositions."""
    for node in list(graph.nodes):
        if node.target is not aten.permute.default or len(shape_of(node)) != 4:
            continue
        order = [axis % 4 for axis in node.args[1]]
        if order not in ([0, 2, 1, 3], [0, 2, 3, 1]):
            continue
        with graph.inserting_before(node):
            made = _transposed(graph, node.args[0], 1, 2)
            if order == [0, 2, 3, 1]:
                made = _transposed(graph, made, 2, 3)
        node.replace_all_uses_with(made)
        graph.erase_node(node)


ONE_WORD: Mapping[Any, Any] = {
    aten.broadcast_to.default: aten.expand.default,
    aten.multiply.Tensor: aten.mul.Tensor,
    aten.multiply.Scalar: aten.mul.Scalar,
    aten.subtract.Tensor: aten.sub.Tensor,
    aten.divide.Tensor: aten.div.Tensor,
    aten.concatenate.default: aten.cat.default,
    aten.concat.default: aten.cat.default,
}
"""Functions that have two names."""


def with_chunks(graph: fx.Graph) -> None:
    """Write splits into parts of one size by how many parts there are, whatever their size; and one word for one thing."""
    for node in graph.nodes:
        node.target = ONE_WORD.get(node.target, node.target)
        if node.target is aten.split.Tensor and isinstance(node.args[1], int):
            dim = node.args[2] if len(node.args) > 2 else 0
            whole = shape_of(node.args[0])[dim]
            if whole % node.args[1] == 0:
                node.target = aten.chunk.default
                node.args = (node.args[0], whole // node.args[1], dim)


def without_lists(module: nn.Module, graph: fx.Graph) -> None:
    """Write an index that is a list of neighbours, kept as a tensor, as the part that it takes."""
    for node in list(graph.nodes):
        if node.target is not aten.index.Tensor:
            continue
        indices: Any = node.args[1]
        places = [place for place, index in enumerate(indices) if index is not None]
        kept = _kept(module, indices[places[0]]) if len(places) == 1 else None
        if kept is None or kept.dim() != 1 or not torch.equal(kept, torch.arange(len(kept)) + kept[0]):
            continue
        first = int(kept[0]) % shape_of(node.args[0])[places[0]]
        with graph.inserting_before(node):
            made = graph.call_function(aten.slice.Tensor, (node.args[0], places[0], first, first + len(kept)))
        made.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(made)
        graph.erase_node(node)


def _kept(module: nn.Module, node: Any) -> Tensor | None:
    """A tensor that a module keeps, by the node that reads it."""
    while isinstance(node, fx.Node) and node.op == "call_function" and len(node.all_input_nodes) == 1:
        (node,) = node.all_input_nodes
    found = _reached(module, str(node.target)) if isinstance(node, fx.Node) and node.op == "get_attr" else None
    return found.cpu() if isinstance(found, Tensor) and not isinstance(found, nn.Parameter) else None


def _transposed(graph: fx.Graph, node: Any, first: int, second: int) -> fx.Node:
    made = graph.call_function(aten.transpose.int, (node, first, second))
    made.meta["val"] = node.meta["val"].transpose(first, second)
    return made


# modules


def shares_inlined(module: nn.Module, graph: fx.Graph) -> None:
    """Put the modules that make and thin out attention's shares in their place in the graph: a softmax, and dropout behind one."""
    for node in list(graph.nodes):
        step = _only_step(module, node)
        if step is None or len(shape_of(node)) < 3:
            continue
        if step.target is aten.softmax.int or (step.target is aten.dropout.default and _is_shares(node.args[0])):
            with graph.inserting_before(node):
                made = graph.call_function(step.target, (node.args[0], *step.args[1:]), dict(step.kwargs))
            made.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(made)
            graph.erase_node(node)


def _only_step(module: nn.Module, node: fx.Node) -> fx.Node | None:
    """The function that a called module is, where it is just one."""
    if node.op != "call_module" or len(node.args) != 1:
        return None
    body = getattr(_reached(module, str(node.target)), "graph", None)
    steps = [step for step in body.nodes if step.op == "call_function"] if isinstance(body, fx.Graph) else []
    return steps[0] if len(steps) == 1 else None


_PASSING = (aten.to.dtype, aten.type_as.default, aten.view.default, aten.masked_fill.Scalar, aten.masked_fill.Tensor)


def _is_shares(node: Any) -> bool:
    while isinstance(node, fx.Node) and node.target in _PASSING:
        node = node.args[0]
    return isinstance(node, fx.Node) and node.target is aten.softmax.int


def _reached(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part, None)
    return module


# masks


def move_in(graph_of: Callable[[str], fx.Graph], root: nn.Module, sequence: int) -> None:
    """Compute masks and biases of attention where they are used, not in an outer module that passes them on.

    They follow from nothing but the sizes of the input, so each module can have its own.
    """
    uses = Counter(id(root.get_submodule(inner)) for inner in _inner_paths(root, ""))
    _move_from(graph_of, root, "", sequence, uses)


def _inner_paths(root: nn.Module, path: str) -> list[str]:
    """The paths of all modules that are called with a graph of their own, as often as they are called."""
    graph = getattr(root.get_submodule(path), "graph", None)
    found = []
    for node in graph.nodes if isinstance(graph, fx.Graph) else ():
        if node.op == "call_module":
            inner = f"{path}.{node.target}".lstrip(".")
            found += [inner, *_inner_paths(root, inner)]
    return found


def _move_from(
    graph_of: Callable[[str], fx.Graph], root: nn.Module, path: str, sequence: int, uses: Counter[int]
) -> None:
    module = root.get_submodule(path)
    graph = graph_of(path)
    moved = _about_scores(module, graph, sequence)
    for node in [node for node in graph.nodes if node.op == "call_module"]:
        inner = f"{path}.{node.target}".lstrip(".")
        body = root.get_submodule(inner)
        if not isinstance(getattr(body, "graph", None), fx.Graph):
            continue
        if uses[id(body)] == 1 and not moved.isdisjoint(node.args):
            _move(module, node, body, graph_of(inner), moved)
        _move_from(graph_of, root, inner, sequence, uses)


def _about_scores(module: nn.Module, graph: fx.Graph, sequence: int) -> set[fx.Node]:
    """Values that follow from sizes alone, and are masks or numbers for each key."""
    fixed: set[fx.Node] = set()
    masks: set[fx.Node] = set()
    for node in graph.nodes:
        kept = _reached(module, str(node.target)) if node.op == "get_attr" else None
        made = node.op == "call_function" and isinstance(node.meta.get("val"), Tensor)
        if (made and fixed.issuperset(node.all_input_nodes)) or (
            isinstance(kept, Tensor) and not isinstance(kept, nn.Parameter)
        ):
            fixed.add(node)
            if node.target is torch.ops.canvas_rt.mask.default or not masks.isdisjoint(node.all_input_nodes):
                masks.add(node)
    return masks | {node for node in fixed if _is_bias(node, sequence)}


def _is_bias(node: fx.Node, sequence: int) -> bool:
    """Numbers for each key, as many as there are or may be."""
    shape = shape_of(node)
    return len(shape) >= 3 and (shape[-1] == sequence or shape[-2] == 1) and node.meta["val"].is_floating_point()


def _move(outer: nn.Module, call: fx.Node, body: nn.Module, graph: fx.Graph, moved: set[fx.Node]) -> None:
    """Let a module compute for itself what it is passed."""
    ports = [node for node in graph.nodes if node.op == "placeholder" and node.users]
    arguments = [arg for arg in call.args if isinstance(arg, fx.Node)]
    if len(ports) != len(arguments):
        return
    first = next(node for node in graph.nodes if node.op != "placeholder")
    copies: dict[fx.Node, fx.Node] = {}
    for port, argument in zip(ports, arguments, strict=True):
        if argument in moved:
            with graph.inserting_before(first):
                port.replace_all_uses_with(_copied(outer, argument, body, graph, copies))
    call.args = tuple(arg for arg in call.args if arg not in moved)


# learned tensors of inner modules


def given_out(graph_of: Callable[[str], fx.Graph], root: nn.Module, path: str = "") -> None:
    """Let a module give its own learned tensor to an outer one that reads it, beside what it gives already."""
    graph = graph_of(path)
    calls = {str(node.target): node for node in graph.nodes if node.op == "call_module"}
    for node in [node for node in graph.nodes if node.op == "get_attr" and node.users]:
        holder, _, name = str(node.target).rpartition(".")
        call, learned = calls.get(holder), _reached(root.get_submodule(path), str(node.target))
        if call is not None and isinstance(learned, nn.Parameter) and isinstance(call.meta.get("val"), Tensor):
            _give(graph, call, node, graph_of(f"{path}.{holder}".lstrip(".")), name)
    for target in calls:
        inner = f"{path}.{target}".lstrip(".")
        if isinstance(getattr(root.get_submodule(inner), "graph", None), fx.Graph):
            given_out(graph_of, root, inner)


def _give(graph: fx.Graph, call: fx.Node, read: fx.Node, body: fx.Graph, name: str) -> None:
    output = next(node for node in body.nodes if node.op == "output")
    result = output.args[0][0] if isinstance(output.args[0], tuple | list) else output.args[0]
    with body.inserting_before(output):
        tensor = body.get_attr(name)
    tensor.meta["val"] = read.meta["val"]
    output.args = ((result, tensor),)
    value = call.meta["val"]
    with graph.inserting_after(call):
        parts = [graph.call_function(operator.getitem, (call, index)) for index in (0, 1)]
    for part, given in zip(parts, (value, read.meta["val"]), strict=True):
        part.meta["val"] = given
    call.replace_all_uses_with(parts[0], lambda user: user not in parts)
    call.meta["val"] = (value, read.meta["val"])
    read.replace_all_uses_with(parts[1])


def _copied(
    outer: nn.Module, node: fx.Node, body: nn.Module, graph: fx.Graph, copies: dict[fx.Node, fx.Node]
) -> fx.Node:
    """A value's computation, in another graph."""
    if node not in copies:
        for source in node.all_input_nodes:
            _copied(outer, source, body, graph, copies)
        copies[node] = made = graph.node_copy(node, copies.__getitem__)
        if node.op == "get_attr":
            made.target = f"moved_{str(node.target).replace('.', '_')}"
            setattr(body, made.target, _reached(outer, str(node.target)))
    return copies[node]


__all__ = ["given_out", "move_in", "shares_inlined", "with_chunks", "with_transposes", "without_lists"]
