"""Recognise attention, what is added to its scores, and how queries and keys are turned by their positions."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from canvas_rt.importer.calls import shape_of
from canvas_rt.importer.dissolve import own_path
from canvas_rt.importer.handwritten import alibi_in
from canvas_rt.importer.proof import written
from canvas_rt.importer.recognition.numbering import number_tokens
from canvas_rt.importer.recognition.reader import Reader
from canvas_rt.importer.relative import Relative, adds_nothing, relative_in
from canvas_rt.importer.trace import TraceError
from canvas_rt.ir.document import Node
from canvas_rt.ir.frozen import freeze
from canvas_rt.ops.catalogue import VARIANTS

ATTENTION = torch.ops.canvas_rt.attention.default


def rotates(reader: Reader, node: fx.Node) -> bool:
    """Two values that are turned alike by the same cosines and sines are one node: queries and keys. Any other is its own."""
    if node not in reader.rotations:
        return False
    bound = reader.rotations[node]
    alike = [n for n, b in reader.rotations.items() if all(b[key] == bound[key] for key in ("cos", "sin", "@settings"))]
    tables = {"cos": reader.ref(bound["cos"]), "sin": reader.ref(bound["sin"])}
    if len(alike) != 2:
        reader.add(node, "rotary", "rotate", {"x": reader.ref(bound["x"]), **tables}, bound["@settings"])
        return True
    q, k = alike
    inputs = {"q": reader.ref(reader.rotations[q]["x"]), "k": reader.ref(reader.rotations[k]["x"]), **tables}
    name = reader.add(q, "rotary", "apply_rotary", inputs, bound["@settings"])
    reader.refs[q], reader.refs[k] = f"{name}.q", f"{name}.k"
    reader.places[name] = max(reader.order[q], reader.order[k])
    return True


def attends(reader: Reader, node: fx.Node) -> bool:
    q, k, v, sinks, bias, *settings = node.args
    inputs = {"q": reader.ref(q), "k": reader.ref(k), "v": reader.ref(v)}  # type: ignore[arg-type]
    if sinks is not None:
        inputs["sinks"] = reader.ref(sinks)  # type: ignore[arg-type]
    if isinstance(bias, fx.Node) and not (adds_nothing(bias) or is_nothing(reader, bias)):
        inputs["bias"] = bias_of(reader, bias, shape_of(node)[2])
    names = ("scale", "causal", "window", "chunk", "softcap", "dropout", "scaling", "precision", "sharing")
    attrs = dict(zip(names, settings, strict=True))
    attrs["cached"] = not {inputs["k"], inputs["v"]} <= reader.recogniser.handed & {*reader.inputs}
    reader.add(node, "attention", "attention", inputs, attention_settings(attrs))
    return True


def attends_by_hand(reader: Reader, node: fx.Node) -> bool:
    """Attention that the module writes with functions of its own."""
    found = reader.attentions.get(node)
    if found is None:
        return False
    inputs = {"q": reader.ref(found.q), "k": reader.ref(found.k), "v": reader.ref(found.v)}
    if found.alibi is not None:
        inputs["bias"] = reader.add(node, "alibi", "alibi", {}, written(dict(found.alibi), VARIANTS["alibi"]))
    reader.add(node, "attention", "attention", inputs, attention_settings(found.attrs))
    return True


def is_nothing(reader: Reader, node: fx.Node) -> bool:
    """Whether a value is of zeros alone, which other layers hand on."""
    return reader.refs.get(node, "") in reader.recogniser.nothing


def learns_distances(reader: Reader, node: fx.Node) -> bool:
    """A bias of attention that is learned by distance."""
    numbers = (n for n in reader.recogniser.config.values() if isinstance(n, int) and not isinstance(n, bool))
    learned = relative_in(node, numbers)
    if learned is not None:
        add_relative_bias(reader, node, learned)
    return learned is not None


def bias_of(reader: Reader, node: fx.Node, heads: int) -> str:
    """What attention adds to its scores."""
    if node in reader.refs or learns_distances(reader, node):
        return reader.refs[node]
    found = alibi_in(node, heads, reader.kept)
    if found is None:
        raise TraceError(f"{reader.where}: no rule knows the bias of its attention")
    return reader.add(node, "alibi", "alibi", {}, written(found, VARIANTS["alibi"]))


def add_relative_bias(reader: Reader, node: fx.Node, found: Relative) -> None:
    """A bias that is learned by distance: the embedding that holds it, and what chooses among it, as one node."""
    target = str(found.table.target)
    module = reader.recogniser.submodule(reader.path_of(found.table))
    if not isinstance(module, nn.Embedding):
        raise TraceError(f"{reader.where}: no rule knows the bias of its attention")
    encoded = reader.recogniser.given[1:].index(shape_of(found.table)[0])
    positions = number_tokens(reader, node, encoded) if found.positions is None else reader.ref(found.positions)
    attrs = {"buckets": module.num_embeddings, "heads": module.embedding_dim, "farthest": found.farthest}
    attrs |= {"both_ways": True} if found.both_ways else {}
    item = Node(id=own_path(target).replace(".", "_"), op="relative_bias", attrs=freeze(attrs))
    reader.refs[node] = reader.put_module(found.table, target, item, {"position_ids": positions})


def attention_settings(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an attention without those that are as usual, but for those that every attention shows."""
    shown = ("scale", "window", "dropout")
    return {n: value for n, value in attrs.items() if n in shown or value != VARIANTS["attention"][n]}
