"""Recognise what numbers the tokens, and what looks sines up by those numbers."""

from typing import Any

import torch
from torch import fx

from canvas_rt.importer.buffers import buffer_of
from canvas_rt.importer.calls import shape_of, takes_all
from canvas_rt.importer.positions import counted_after_padding, numbers_each, numbers_tokens, repeats_positions
from canvas_rt.importer.proof import written
from canvas_rt.importer.recognition.reader import Reader
from canvas_rt.importer.sinusoids import sinusoids_in
from canvas_rt.ir.document import Node
from canvas_rt.ir.frozen import freeze
from canvas_rt.ops.catalogue import VARIANTS

aten = torch.ops.aten


def counts_positions(reader: Reader, node: fx.Node) -> bool:
    """`(arange(seq) + past)[None]`, the first rows of a buffer that numbers them, and either for each sequence."""
    batch, *lengths = reader.recogniser.given
    return any(counts(reader, node, (batch, length), encoded) for encoded, length in enumerate(lengths))


def counts(reader: Reader, node: fx.Node, inputs: tuple[int, int], encoded: int) -> bool:
    """The same for tokens of one length: a decoder's, or those that an encoder reads."""
    first = node.args[0] if node.args else None
    if numbers_each(node, inputs):
        reader.refs[node] = number_tokens(reader, node, encoded)
        return True
    if node.target is aten.unsqueeze.default and node.args[1] == 0 and numbers_tokens(first, inputs[1]):
        reader.refs[node] = number_tokens(reader, node, encoded)
        return True
    if node.target is aten.slice.Tensor and is_numbered(reader, first) and shape_of(node)[-1:] == inputs[1:]:
        if len(shape_of(node)) == 2:
            reader.refs[node] = number_tokens(reader, node, encoded)
        else:
            positions = number_tokens(reader, node, encoded)
            reader.add(node, "positions", "torch.select", {"x": positions}, {"dim": 0, "index": 0})
        return True
    if numbers_tokens(node, inputs[1]):
        positions = number_tokens(reader, node, encoded)
        reader.add(node, "positions", "torch.select", {"x": positions}, {"dim": 0, "index": 0})
        return True
    return False


def number_tokens(reader: Reader, node: fx.Node, encoded: int = 0) -> str:
    """What numbers the tokens: one node in a block, where the first stands that does. `encoded`: those of an encoder."""
    attrs = freeze({"source": True} if encoded else {})
    numbering = (item for item in reader.items if isinstance(item, Node) and item.op == "position_ids")
    known = next((item.id for item in numbering if item.attrs == attrs), None)
    if known is None:
        known = reader.unique("position_ids")
        reader.items.append(Node(id=known, op="position_ids", attrs=attrs))
    reader.places[known] = min(reader.order[node], reader.places.get(known, reader.order[node]))
    return known


def numbered_within(reader: Reader, path: str, offset: int) -> int | None:
    """Whose tokens a module numbers by itself to look up a vector for each: 0 for a decoder's, 1 for an encoder's."""
    looked = [node for node in reader.recogniser.graph(path).nodes if node.target is aten.embedding.default]
    if len(looked) != 1 or not isinstance(ids := looked[0].args[1], fx.Node):
        return None
    lengths = reader.recogniser.given[1:]
    return next((place for place, length in enumerate(lengths) if repeats_positions(ids, length, offset)), None)


def counts_after_padding(reader: Reader, node: fx.Node) -> bool:
    """Positions in which padding does not count."""
    ids = counted_after_padding(node, reader.recogniser.inputs)
    if ids is None:
        return False
    reader.add(node, "positions", "padded_positions", {"ids": reader.ref(ids)}, {"padding_idx": node.args[1]})
    return True


def is_numbered(reader: Reader, node: Any) -> bool:
    """Whether a value is a buffer that numbers positions."""
    while isinstance(node, fx.Node) and (
        (node.target is aten.slice.Tensor and takes_all(node)) or node.target is aten.unsqueeze.default
    ):
        node = node.args[0]
    value = reader.kept(str(node.target)) if isinstance(node, fx.Node) and node.op == "get_attr" else None
    buffer = None if value is None else buffer_of(value)
    return buffer is not None and buffer.positions


def looks_up_sinusoids(reader: Reader, node: fx.Node) -> bool:
    """Sines and cosines by position, in a table that the module keeps."""
    found = sinusoids_in(node, reader.kept)
    if found is None:
        return False
    positions, name, attrs = found
    settings = written(attrs, VARIANTS["sinusoid"])
    reader.add(node, name.replace(".", "_"), "sinusoid", {"position_ids": reader.ref(positions)}, settings)
    return True
