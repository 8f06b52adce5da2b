"""Put the graphs of modules that only hold others into the graphs that use them: their parts keep their keys."""

from typing import Any

from torch import fx, nn


def dissolve(graphs: nn.Module, model: nn.Module, path: str = "") -> None:
    """Dissolve a traced model's rows of learning modules, and modules of which another uses a part by itself."""
    graph = _graph_of(graphs, path)
    while graph is not None and (call := _to_dissolve(graph, model, path)) is not None:
        body = _graph_of(graphs, _joined(path, str(call.target)))
        assert body is not None
        _put_in_place(graph, call, body)
    for node in graph.nodes if graph is not None else ():
        if node.op == "call_module":
            dissolve(graphs, model, _joined(path, str(node.target)))


def _to_dissolve(graph: fx.Graph, model: nn.Module, path: str) -> fx.Node | None:
    """A call of a module that does not stay one, if there is any."""
    calls: dict[str, fx.Node] = {str(node.target): node for node in graph.nodes if node.op == "call_module"}
    for target, node in calls.items():
        module = model.get_submodule(own_path(_joined(path, target)))
        row = type(module) is nn.Sequential
        shared = any(other.startswith(f"{target}.") and _learns(model, _joined(path, other)) for other in calls)
        if (row or shared) and _learns(model, _joined(path, target)):
            return node
    return None


def _learns(model: nn.Module, path: str) -> bool:
    return any(True for _ in model.get_submodule(own_path(path)).parameters())


def own_path(path: str) -> str:
    """A module's path, whichever of its calls it stands for."""
    return ".".join(part.partition("@")[0] for part in path.split("."))


def _graph_of(graphs: nn.Module, path: str) -> fx.Graph | None:
    graph = getattr(graphs.get_submodule(path) if path else graphs, "graph", None)
    return graph if isinstance(graph, fx.Graph) else None


def _joined(path: str, target: str) -> str:
    return f"{path}.{target}" if path else target


def _put_in_place(graph: fx.Graph, call: fx.Node, body: fx.Graph) -> None:
    """Compute in place what a called module computes."""
    arguments = [arg for arg in call.args if isinstance(arg, fx.Node)]
    ports = [node for node in body.nodes if node.op == "placeholder" and node.users]
    known: dict[fx.Node, Any] = dict(zip(ports, arguments, strict=True))
    results: Any = None
    with graph.inserting_before(call):
        for step in body.nodes:
            if step.op == "output":
                results = fx.node.map_arg(step.args[0], known.__getitem__)
            elif step.op != "placeholder":
                known[step] = made = graph.node_copy(step, known.__getitem__)
                if step.op in ("call_module", "get_attr"):
                    made.target = f"{call.target}.{step.target}"
    _give(graph, call, results)


def _give(graph: fx.Graph, call: fx.Node, results: Any) -> None:
    if isinstance(results, tuple | list):
        for user in list(call.users):
            user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
            graph.erase_node(user)
    else:
        call.replace_all_uses_with(results)
    graph.erase_node(call)


__all__ = ["dissolve", "own_path"]
