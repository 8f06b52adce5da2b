"""Make a model small enough to run, and keep it the same model: unlike sizes, all layers, all ratios of heads."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document, Stack
from canvas_rt.ir.expressions import is_expression
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import Item
from canvas_rt.ops.parameters import count_parameters
from canvas_rt.physics.shapes import check

HEADS = ("num_attention_heads", "num_key_value_heads")
KEPT = ("num_hidden_layers", "sliding_window")
"""Depth is part of what is verified."""

WINDOW = 7
LONGEST = 32
"""Positions of the small model. Logits are compared beyond it, where dynamic scalings change; decoding stays within."""


TOGETHER = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
"""Sizes that divide one another: where one keeps its value, all do."""


def pinned(document: Document) -> frozenset[str]:
    """Sizes that must keep their values, because the graph holds literal numbers that go with them.

    Found by trying: the fewest of one at a time, those that divide one another, all.
    """
    names = [name for name in document.sizes if name not in KEPT]
    attempts = [frozenset[str](), *(frozenset([name]) for name in names if name not in TOGETHER)]
    attempts += [
        frozenset(TOGETHER) & set(names),
        frozenset(TOGETHER) & set(names) | {"intermediate_size"},
        frozenset(names),
    ]
    return next(
        (attempt for attempt in attempts if check(shrink(document, (), attempt)[0], sequence=4).ok), frozenset(names)
    )


def shrink(
    document: Document, also: Iterable[Mapping[str, Any]] = (), kept: Collection[str] = ()
) -> tuple[Document, Mapping[str, Mapping[int, int]]]:
    """A small document of the same graph, and for each size what its real values became.

    `also`: further sizes that must follow the same map, such as those of the origin. `kept`: sizes that keep their values.
    """
    values = _values(document, also)
    table = {
        name: {value: value for value in found} if name in kept else _small(name, sorted(found), values)
        for name, found in values.items()
    }

    def size(name: str, value: Any) -> Any:
        return value if is_expression(value) else table.get(name, {}).get(value, value)

    blocks = {}
    for name, block in document.blocks.items():
        items: list[Item] = []
        for item in block.nodes:
            if isinstance(item, Stack):
                kinds = tuple(
                    kind.replace(sizes=FrozenMap({n: size(n, v) for n, v in kind.sizes.items()})) for kind in item.kinds
                )
                items.append(item.replace(kinds=kinds))
            else:
                items.append(item)
        blocks[name] = block.replace(nodes=tuple(items))
    sizes = FrozenMap({name: size(name, value) for name, value in document.sizes.items()})
    small = document.replace(sizes=sizes, blocks=FrozenMap(blocks), config=_config(document.config))
    return small, table


def _config(config: Mapping[str, Any]) -> FrozenMap[str, Any]:
    """Token ids must stay inside the small vocabulary, scalings inside the small range of positions."""
    changed: dict[str, Any] = {}
    for name, value in config.items():
        if name == "pad_token_id" and isinstance(value, int) and value >= 0:
            changed[name] = 5
        elif name.endswith("_token_id") and value is not None:
            changed[name] = None
        elif name == "rope_parameters" and isinstance(value, Mapping) and "original_max_position_embeddings" in value:
            changed[name] = FrozenMap({**value, "original_max_position_embeddings": LONGEST // 2})
        elif name == "attention_dropout":
            changed[name] = 0.0
    return FrozenMap({**config, **changed})


def _values(document: Document, also: Iterable[Mapping[str, Any]]) -> dict[str, set[int]]:
    """Every real value of every size: the model's, those of layers of their own, those of the origin."""
    found: dict[str, set[int]] = {}
    kinds = [k.sizes for b in document.blocks.values() for i in b.nodes if isinstance(i, Stack) for k in i.kinds]
    for sizes in (document.sizes, *kinds, *also):
        for name, value in sizes.items():
            if isinstance(value, int):  # an expression follows from others
                found.setdefault(name, set()).add(value)
    return found


def _small(name: str, reals: list[int], values: Mapping[str, set[int]]) -> dict[int, int]:
    if name in KEPT:
        return {real: (min(real, WINDOW + i) if name == "sliding_window" else real) for i, real in enumerate(reals)}
    if name in HEADS:
        return {real: _heads(real, values) for real in reals}
    if name == "head_dim":
        return {real: 6 + 2 * i for i, real in enumerate(reals)}
    if name == "hidden_size":
        unit = math.lcm(*(_heads(value, values) for value in values.get("num_attention_heads", ())))
        # head_dim may follow as hidden_size // heads: keep it a multiple, and even
        return {real: 2 * unit * (max(1, 24 // unit) + 1 + 2 * i) for i, real in enumerate(reals)}
    start = {"intermediate_size": 44, "vocab_size": 122, "max_position_embeddings": LONGEST}.get(name, 18)
    return {real: start + 14 * i for i, real in enumerate(reals)}


def _heads(real: int, values: Mapping[str, set[int]]) -> int:
    """A number of heads in its ratio to all others. Two key/value heads remain: with one, their order could not be told."""
    everything = [value for name in HEADS for value in values.get(name, ())]
    divisor = math.gcd(*everything)
    factor = 2 if min(everything) == divisor > 1 else 1
    return real // divisor * factor


def small_enough(document: Document, most: int = 400_000_000) -> None:
    """Raise `CanvasError` where even the small model is too large to run here."""
    total = count_parameters(document).total
    if total > most:
        raise CanvasError(
            f"has sizes that cannot be scaled down: the smallest model of this graph has {total:,} parameters",
            hint="Give literal sizes as expressions over the model's sizes.",
        )
