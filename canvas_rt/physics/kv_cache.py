"""The memory of keys and values that generation keeps."""

from dataclasses import dataclass
from math import prod

import torch

from canvas_rt.errors import CanvasError, suggest
from canvas_rt.ir.document import Document, Node, Stack, Use
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.graph import live, parse_layers
from canvas_rt.ir.halves import Sides, sides_of
from canvas_rt.ops.catalogue import OPS, complete
from canvas_rt.ops.learned import MODULE
from canvas_rt.ops.modules import states_kept
from canvas_rt.physics.block_run import BlockRun, Flow
from canvas_rt.physics.cache import cache_bytes
from canvas_rt.physics.scenario import CACHES, ITEM_BYTES
from canvas_rt.physics.setup import DTYPES
from canvas_rt.physics.shapes import checked_run


@dataclass(frozen=True, slots=True)
class _Store:
    """How a cache keeps keys and values."""

    cache: str
    page: int
    item: int
    dtype: torch.dtype

    def bytes(self, count: int, tokens: int) -> int:
        """Of so many numbers for each token."""
        slots = -(-tokens // self.page) * self.page if self.page else tokens
        return cache_bytes(count * slots, self.cache, self.item)


def kv_cache_bytes(
    document: Document,
    *,
    batch: int,
    sequence: int,
    source: int | None = None,
    dtype: str = "bf16",
    cache: str = "same",
    page: int = 0,
) -> int:
    """Bytes that the key/value cache holds once `sequence` tokens are in it.

    With an encoder it also holds keys and values of the `source` tokens that this read; left out, as many. A layer with a
    sliding window keeps at most `window` tokens; one that attends to the keys and values of an earlier layer keeps none. A
    module that keeps a state along the sequence (Mamba, delta-net) keeps that, whatever the number of tokens.
    `cache` is the kind of number that it keeps (`scenario.CACHES`), `page` the tokens of a page, of which it has only whole
    ones; 0 for no pages.

    Raises `UnresolvedShape` where `check` would report an error.
    Source: Ainslie et al. 2023 (GQA); checked against the traced cache in tests/physics/test_kv_cache.py.
    """
    if dtype not in ITEM_BYTES:
        raise CanvasError(f"unknown dtype '{dtype}'", path="dtype", hint=suggest(dtype, ITEM_BYTES))
    if cache not in CACHES:
        raise CanvasError(f"unknown cache '{cache}'", path="cache", hint=suggest(cache, CACHES))
    run = checked_run(document, batch, sequence, source)
    return _bytes(document.root, run, _Store(cache, page, ITEM_BYTES[dtype], DTYPES[dtype]), sides_of(document))


def _bytes(name: str, run: BlockRun, store: _Store, sides: Sides) -> int:
    """Of a block, by its name. An encoder keeps nothing: it runs once."""
    running = live(run.block)  # what no output depends on attends to nothing, and may not even be wired
    nodes = (node for node in run.block.nodes if isinstance(node, Node) and node.op == "attention")
    nodes = (node for node in nodes if node.id in running and complete(node)["cached"])
    keeping = [node for node in nodes if not sides.encoded(name, node.id)]
    others = [n for n in run.block.nodes if isinstance(n, Node) and n.op == MODULE and n.id in running]
    inside = [(key, inner) for key, inner in run.inside if key.partition(".")[0] in running]
    own = sum(_of_node(run, node, store) for node in keeping) + sum(_of_state(run, node, store) for node in others)
    return own + sum(_times(key) * _bytes(_block_at(run, key), inner, store, sides) for key, inner in inside)


def _block_at(run: BlockRun, key: str) -> str:
    """The name of the block that runs at a place in another."""
    name, _, span = key.partition(".")
    item = run.block.node(name)
    if isinstance(item, Stack):
        first = int(span.partition("-")[0])
        return item.kinds[item.kind_indices(first + 1)[first]].block
    assert isinstance(item, Use), key
    return item.block


def _times(key: str) -> int:
    span = parse_layers(key.partition(".")[2]) if "." in key else (0, 1)
    assert span is not None, key
    return span[1] - span[0]


def _of_node(run: BlockRun, node: Node, store: _Store) -> int:
    window = resolve(complete(node)["window"], run.environment)
    total = 0
    for port in ("k", "v"):
        flow = flow_of(run, node.inputs[port])
        assert flow is not None, node.id
        batch, heads, tokens, width = flow.shape
        total += store.bytes(batch * heads * width, tokens if window is None else min(tokens, window))
    return total


def _of_state(run: BlockRun, node: Node, store: _Store) -> int:
    """Of a module that keeps a state. It is never of fewer bits."""
    flow = flow_of(run, node.inputs["x"])
    assert flow is not None, node.id
    attrs = resolve(complete(node), run.environment)
    states = states_kept(attrs, flow.shape[0], flow.shape[-1], store.dtype)
    return sum(prod(shape) * dtype.itemsize for shape, dtype in states)


def flow_of(run: BlockRun, ref: str) -> Flow | None:
    """The value that a reference in the block leads to."""
    name, _, port = ref.partition(".")
    if name in run.given:
        return run.given[name]
    flows = run.values[name]
    item = run.block.node(name)
    if len(flows) == 1 or not isinstance(item, Node):
        return flows[0]
    return flows[OPS[item.op].outputs.index(port)]
