"""What a block's shapes and costs depend on, as a value: two uses that agree in it share one computation."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from canvas_rt.ir.document import Block, Document
from canvas_rt.ir.frozen import FrozenMap, freeze
from canvas_rt.ir.graph import blocks_of, names_used, reachable_blocks

Blocks = FrozenMap[str, Block]
Environment = FrozenMap[str, Any]


@lru_cache(maxsize=4096)
def below(blocks: Blocks, block: str) -> Blocks:
    """The block and those inside it; all, where one of them is missing, so that a hint can offer the others."""
    stub = stand_in(blocks, block, FrozenMap())
    found = reachable_blocks(stub, block)
    if any(inner not in blocks for name in found for item in blocks[name].nodes for inner in blocks_of(item)):
        return blocks
    return FrozenMap({name: blocks[name] for name in found})


@lru_cache(maxsize=4096)
def names_below(blocks: Blocks, block: str) -> frozenset[str]:
    """The sizes and config values that a block and those inside it refer to."""
    return names_used(stand_in(blocks, block, FrozenMap()), block)


def relevant(blocks: Blocks, block: str, environment: Mapping[str, Any]) -> Environment:
    """The part of an environment that a block can see."""
    names = names_below(blocks, block)
    return FrozenMap({name: freeze(environment[name]) for name in sorted(names) if name in environment})


def stand_in(blocks: Blocks, root: str, environment: Environment, ties: Mapping[str, str] = FrozenMap()) -> Document:
    """A document that is one block, with every name already a value."""
    return Document.model_construct(
        name=root,
        root=root,
        sizes=FrozenMap(),
        config=FrozenMap({**environment, "tie_word_embeddings": bool(ties)}) if ties else environment,
        blocks=blocks,
        ties=FrozenMap(ties),
    )


__all__ = ["Blocks", "Environment", "below", "names_below", "relevant", "stand_in"]
