"""Where a graph attends, and where its logits come from: told by its nodes, before anything runs."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from canvas_rt.ir.document import Document, Node, Stack, Use, layer_environment
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.graph import head, running_order, walk
from canvas_rt.ops.catalogue import OPS, complete
from canvas_rt.physics.keys import Blocks


@lru_cache(maxsize=1024)
def _attentions(blocks: Blocks, block: str) -> tuple[Node, ...]:
    """Attention nodes that run inside a block, stacks included."""
    found: list[Node] = []
    for item in running_order(blocks[block])[0]:
        if isinstance(item, Node):
            found += [item] if item.op == "attention" else []
        else:
            names = [item.block] if isinstance(item, Use) else [kind.block for kind in item.kinds]
            found += [node for name in names for node in _attentions(blocks, name)]
    return tuple(found)


def windows_within(blocks: Blocks, stack: Stack, environment: Mapping[str, Any]) -> tuple[int | None, ...]:
    """The windows of the attentions in a stack's layers, each once."""
    found: dict[int | None, None] = {}
    for kind in stack.kinds:
        scope = layer_environment(environment, kind)
        for node in _attentions(blocks, kind.block):
            found[resolve(complete(node)["window"], scope)] = None
    return tuple(found)


def looks_back(blocks: Blocks, stack: Stack) -> bool:
    """Whether some attention in a stack's layers sees no later token, and so needs to be told what it sees."""
    nodes = (node for kind in stack.kinds for node in _attentions(blocks, kind.block))
    return any(complete(node)["causal"] for node in nodes)


def eager_beside_others(document: Document) -> bool:
    """Whether some attention needs the eager function and some does not: a model has one implementation for all of it."""
    nodes = [v.item for v in walk(document) if isinstance(v.item, Node) and v.item.op == "attention"]
    needs = {bool(n.inputs.keys() & {"sinks", "bias"}) or complete(n)["softcap"] is not None for n in nodes}
    return needs == {True, False}


def windows_of(document: Document) -> frozenset[int]:
    """The windows of all attentions of a document."""
    found = {
        resolve(complete(visit.item)["window"], visit.environment)
        for visit in walk(document)
        if isinstance(visit.item, Node) and visit.item.op == "attention"
    }
    return frozenset(window for window in found if window is not None)


def head_path(blocks: Blocks, root: str) -> str:
    """The root's projection that its first output comes from, through operations that treat each token alone."""
    return next(iter(tail_paths(blocks, root)), "")


OF_EACH_TOKEN = frozenset(
    {"scale", "activation", "softmax"}
    | {
        f"torch.{n}"
        for n in ("to", "div_number", "add_number", "sub_number", "rsub", "pow", "neg", "abs", "exp", "log", "clamp")
    }
)
"""What may follow the head and treats each token alone."""


@lru_cache(maxsize=256)
def tail_paths(blocks: Blocks, root: str) -> tuple[str, ...]:
    """The head and the operations after it, in their order; nothing where no projection gives the logits."""
    block = blocks[root]
    ref = next(iter(block.outputs.values()), "")
    found: list[str] = []
    while True:
        item = block.node(head(ref))
        if not isinstance(item, Node) or len(OPS[item.op].inputs) != 1:
            return ()
        found.insert(0, item.id)
        if item.op == "linear":
            return tuple(found)
        if item.op not in OF_EACH_TOKEN:
            return ()
        ref = next(iter(item.inputs.values()))
