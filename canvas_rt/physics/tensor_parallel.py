"""One tensor-parallel rank's share of a document: which linears are cut, what its sizes are, what is summed over ranks.

As in Megatron-LM and transformers' `base_model_tp_plan`: a linear whose result is only read a part at a time (by heads, by
channels of an MLP) gives its columns' part, the linear that reads those parts takes its rows' part, and its result is
summed over the ranks, in place. Embedding and head hold parts of the vocabulary, and the loss is computed on parts of the
logits, as torchtitan does. All else is the same on all ranks.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import gcd
from typing import Any, Literal

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Block, Document, Node
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.graph import Item, Visit, head, parse_layers, running_order, walk
from canvas_rt.ops.catalogue import complete
from canvas_rt.physics.anatomy import tail_paths
from canvas_rt.physics.roofline import Roof
from canvas_rt.physics.setup import Setup
from canvas_rt.physics.traffic import Traffic, ring

Cut = Literal["columns", "rows", "heads", "width", "vocabulary"]
"""How a node is cut: a linear by its columns or rows, `split_heads` by its heads, experts by their width, embedding and
head by the vocabulary."""

Placement = Literal["whole", "channels", "heads"]
"""A value is the same on all ranks, or each has a part of its last dimension, or of its heads."""

_CUT_SETTING: Mapping[Cut, tuple[str, ...]] = {
    "columns": ("out_features",),
    "rows": ("in_features",),
    "heads": ("heads",),
    "width": ("intermediate_size",),
    "vocabulary": ("num_embeddings", "out_features"),
}
_POINTWISE = frozenset({"activation", "dropout", "scale", "add", "sub", "mul"})


@lru_cache(maxsize=512)
def plan(block: Block) -> Mapping[str, Cut]:
    """How the nodes of a block are cut, by their ids; its inputs and outputs are whole."""
    whole: frozenset[str] = frozenset()
    while True:
        cuts, clash = _attempt(block, whole)
        if not clash:
            return cuts
        whole |= clash


def _attempt(block: Block, whole: frozenset[str]) -> tuple[dict[str, Cut], frozenset[str]]:
    """Cut every linear but some; and those whose parts flow into something that cannot take them."""
    cuts: dict[str, Cut] = {}
    values: dict[str, tuple[Placement, frozenset[str]]] = {}
    nothing: tuple[Placement, frozenset[str]] = ("whole", frozenset())
    for item in running_order(block)[0]:
        given = {port: values.get(head(ref), nothing) for port, ref in item.inputs.items()}
        sources = frozenset().union(*(made for _, made in given.values()))
        placed = {port: placement for port, (placement, _) in given.items()}
        result = _cut(item, placed, whole, cuts)
        if result is None:
            return cuts, sources
        if item.id in cuts and cuts[item.id] == "columns":
            sources = frozenset({item.id})
        values[item.id] = (result, sources if result != "whole" else frozenset())
    leaving = (values.get(head(ref), nothing) for ref in block.outputs.values())
    return cuts, frozenset().union(*(made for _, made in leaving))


def _cut(item: Item, given: Mapping[str, Placement], whole: frozenset[str], cuts: dict[str, Cut]) -> Placement | None:
    """How an item's result is placed, for what it is given; None where it cannot take that."""
    placements = set(given.values())
    op = item.op if isinstance(item, Node) else ""
    if op == "linear":
        return _cut_linear(item.id, given["x"], whole, cuts)
    if placements <= {"whole"}:
        if op == "experts":
            cuts[item.id] = "width"
        return "whole"
    if op in ("split_heads", "view_heads") and placements == {"channels"}:
        cuts[item.id] = "heads"
        return "heads"
    if op == "heads_first" and placements == {"heads"}:
        return "heads"
    if op == "merge_heads" and placements == {"heads"}:
        return "channels"
    if op == "apply_rotary" and given["q"] == given["k"] == "heads" and given["cos"] == given["sin"] == "whole":
        return "heads"
    if op == "rotate" and given["x"] == "heads" and given["cos"] == given["sin"] == "whole":
        return "heads"
    if op == "attention" and placements == {"heads"}:
        return "heads"
    if op in ("rms_norm", "layer_norm", "softmax") and placements == {"heads"}:
        return "heads"
    if op in _POINTWISE and len(placements) == 1:
        return placements.pop()
    return None


def _cut_linear(name: str, given: Placement, whole: frozenset[str], cuts: dict[str, Cut]) -> Placement | None:
    if given == "channels":
        cuts[name] = "rows"
        return "whole"
    if given == "heads":
        return None
    if name in whole:
        return "whole"
    cuts[name] = "columns"
    return "channels"


def cuts_of(document: Document) -> dict[str, dict[str, Cut]]:
    """How every block's nodes are cut."""
    found = {name: dict(plan(block)) for name, block in document.blocks.items()}
    tail = tail_paths(document.blocks, document.root)
    if tail:
        found[document.root][tail[0]] = "vocabulary"
    for name, block in document.blocks.items():
        for item in block.nodes:
            if isinstance(item, Node) and item.op == "embedding":
                found[name][item.id] = "vocabulary"
    return found


def local(document: Document, ranks: int) -> Document:
    """What one rank runs: the document with the sizes of its share.

    Raises `CanvasError` where heads or widths do not divide. A vocabulary that does not is padded.
    """
    cuts = cuts_of(document)
    for visit in walk(document):
        if isinstance(visit.item, Node) and visit.item.id in cuts[visit.block]:
            _require_divisible(document, visit, cuts[visit.block][visit.item.id], ranks)
    for name, chosen in cuts.items():
        block = document.blocks[name]
        nodes = tuple(_smaller(node, chosen[node.id], ranks) if node.id in chosen else node for node in block.nodes)
        if chosen:
            document = document.with_block(name, block.replace(nodes=nodes))
    return document


def _smaller(node: Any, cut: Cut, ranks: int) -> Node:
    assert isinstance(node, Node)
    added = f" + {ranks - 1}" if cut == "vocabulary" else ""
    attrs = complete(node)
    changed: dict[str, Any] = {n: _divided(attrs[n], added, ranks) for n in _CUT_SETTING[cut] if n in attrs}
    if node.op == "embedding":
        changed["padding_idx"] = None  # it may be another rank's
    return node.replace(attrs=node.attrs.with_items(changed))


def _divided(value: Any, added: str, ranks: int) -> str:
    text = value[1:] if isinstance(value, str) else str(value)
    return f"=({text}{added}) // {ranks}"


def _require_divisible(document: Document, visit: Visit, cut: Cut, ranks: int) -> None:
    assert isinstance(visit.item, Node)
    attrs = resolve(complete(visit.item), visit.environment)
    for name in _CUT_SETTING[cut] if cut != "vocabulary" else ():
        value = attrs.get(name)
        if isinstance(value, int) and value % ranks:
            message = f"{_named(visit.item, name)} ({value}) do not divide over {ranks} tensor parallel ranks"
            raise CanvasError(message, path=visit.path, hint=_choices(document))


def _named(node: Node, name: str) -> str:
    what = {"heads": "heads", "intermediate_size": "channels of an expert"}
    return what.get(name, "columns" if name == "out_features" else "rows")


def _choices(document: Document) -> str:
    """The numbers of ranks that all that is cut divides by."""
    cuts, common = cuts_of(document), 0
    for visit in walk(document):
        cut = cuts[visit.block].get(visit.item.id)
        if cut is not None and cut != "vocabulary" and isinstance(visit.item, Node):
            attrs = resolve(complete(visit.item), visit.environment)
            common = gcd(common, *(attrs[name] for name in _CUT_SETTING[cut]))
    fitting = [str(n) for n in range(1, min(common, 64) + 1) if common % n == 0]
    return f"Try tensor {', '.join(fitting[:-1])} or {fitting[-1]}." if len(fitting) > 1 else "Only tensor 1 does."


# ---------------------------------------------------------------------------------------------------------------------
# What travels
# ---------------------------------------------------------------------------------------------------------------------


def travelling(
    document: Document, setup: Setup, limit: Roof, ranks: int, absent: frozenset[str] = frozenset()
) -> Traffic:
    """What one rank sends for one forward, and backward in training, of the whole `document`: all of it is waited for.

    Nodes that are `absent` run elsewhere.
    """
    traffic = Traffic()
    for values, times in _summed(document, setup, absent):
        nbytes = times * setup.batch * setup.new_tokens * values * setup.product_dtype.itemsize
        traffic.send("all_reduce", ring("all_reduce", nbytes, ranks))
    traffic.wait(traffic.cost.sent / limit.card.link_bandwidth)
    return traffic


def _summed(document: Document, setup: Setup, absent: frozenset[str]) -> Iterator[tuple[int, int]]:
    """Widths of values that are summed over the ranks, and how often: results forward, gradients of inputs backward."""
    cuts = cuts_of(document)
    seen: set[tuple[str, str]] = set()
    again = 2 if setup.train and setup.recompute == ("full",) else 1
    for visit in walk(document):
        cut, item = cuts[visit.block].get(visit.item.id), visit.item
        if cut is None or not isinstance(item, Node) or visit.path in absent:
            continue
        attrs = resolve(complete(item), visit.environment)
        in_layers = any(map(parse_layers, visit.path.split(".")))
        if cut == "rows":
            yield attrs["out_features"], visit.times * (again if in_layers else 1)
        elif cut == "width":
            yield attrs["size"], visit.times * (again + setup.train)
        elif cut == "vocabulary" and item.op == "embedding":
            yield attrs["embedding_dim"], visit.times
        elif setup.train and item.op == "linear":  # readers of one value sum its gradient together
            place = (visit.path.rpartition(".")[0], next(iter(item.inputs.values())))
            if place not in seen:
                seen.add(place)
                yield attrs["in_features"], visit.times


__all__ = ["cuts_of", "local", "plan", "travelling"]
