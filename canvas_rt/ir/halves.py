"""The two halves of an encoder-decoder model: where each stands, which attention looks across, and what only one side feeds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from canvas_rt.ir.document import Block, Document, Node, Stack, Use
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import Item, head, running_order


@dataclass(frozen=True, slots=True)
class Halves:
    """An encoder and a decoder, side by side."""

    holder: str
    """The block in which both stand: the root, or one that the root passes its inputs on to."""

    encoder: Use
    decoder: Use
    takes: str
    """What the holder calls what the encoder reads."""

    decodes: str
    """What the holder calls what the decoder takes."""


def halves_of(document: Document) -> Halves | None:
    """The encoder and the decoder of a document; None where they do not stand side by side, each in a block of its own."""
    task, name = document.purpose, document.root
    takes, decodes = task.takes, task.decodes
    for _ in document.blocks if decodes else ():
        uses = [item for item in running_order(document.blocks[name])[0] if isinstance(item, Use)]
        read = [{ref: port for port, ref in use.inputs.items()} for use in uses]
        both = [place for place, refs in enumerate(read) if {takes, decodes} <= refs.keys()]
        if both:
            name, takes, decodes = uses[both[0]].block, read[both[0]][takes], read[both[0]][decodes]
            continue
        sides = [[use for use, refs in zip(uses, read, strict=True) if ref in refs] for ref in (takes, decodes)]
        if [len(side) for side in sides] != [1, 1]:
            return None
        return Halves(name, sides[0][0], sides[1][0], takes, decodes)
    return None


Side = bool | None
"""What a value follows from: an encoder alone (true), a decoder too (false), or neither."""


@dataclass(frozen=True)
class Sides:
    """What of a model follows from what an encoder reads alone."""

    items: Mapping[str, Mapping[str, Side]]
    """For each block its inputs and its items, by name."""

    across: frozenset[tuple[str, str]]
    """Attention whose queries are the decoder's, and whose keys are the encoder's: by block and id."""

    def encoded(self, block: str, name: str) -> bool:
        """Whether an input or an item of a block follows from the encoder alone."""
        return self.items.get(block, {}).get(name) is True

    def is_across(self, block: str) -> bool:
        """Whether a block holds attention that looks across."""
        return any(where == block for where, _ in self.across)


NEITHER = Sides({}, frozenset())
"""Of a model without an encoder."""


def sides_of(document: Document) -> Sides:
    """Which side each item of a document is on."""
    task, inputs = document.purpose, document.blocks[document.root].inputs
    if not task.decodes:
        return NEITHER
    return sides_within(document.blocks, document.root, frozenset(inputs) - {task.decodes})


@lru_cache(maxsize=256)
def sides_within(blocks: FrozenMap[str, Block], block: str, encoded: frozenset[str]) -> Sides:
    """The same of a block by itself, of whose inputs some are an encoder's."""
    follower = _Follower(blocks)
    follower.block(block, {name: name in encoded for name in blocks[block].inputs})
    return Sides(follower.items, frozenset(follower.across))


@dataclass
class _Follower:
    """Follows values from block to block."""

    blocks: Mapping[str, Block]
    items: dict[str, dict[str, Side]] = field(default_factory=dict)
    across: set[tuple[str, str]] = field(default_factory=set)

    def block(self, name: str, given: Mapping[str, Side]) -> list[Side]:
        """The sides of what a block gives, in the order of its outputs."""
        block = self.blocks[name]
        sides: dict[str, Side] = dict(given)
        own = self.items.setdefault(name, {})
        for port, side in given.items():
            own[port] = side if own.get(port, side) == side else False
        for item in running_order(block)[0]:
            fed = {port: _side(sides, ref) for port, ref in item.inputs.items()}
            outputs = self.item(name, item, fed)
            sides |= outputs
            side = _together(outputs.values())
            own[item.id] = side if own.get(item.id, side) == side else False
        return [_side(sides, ref) for ref in block.outputs.values()]

    def item(self, block: str, item: Item, fed: Mapping[str, Side]) -> dict[str, Side]:
        if isinstance(item, Node):
            if item.op == "attention" and fed.get("k") is True and fed.get("q") is False:
                self.across.add((block, item.id))
            return {item.id: _together(fed.values())}
        if isinstance(item, Use):
            given = self.block(item.block, fed)
            ports = tuple(self.blocks[item.block].outputs)
            return {item.id: _together(given), **{f"{item.id}.{p}": s for p, s in zip(ports, given, strict=True)}}
        return {item.id: self.stack(item, fed)}

    def stack(self, stack: Stack, fed: Mapping[str, Side]) -> Side:
        side = _together(fed.values())  # once a layer has looked across, so have all after it
        for kind in stack.kinds:
            inputs = self.blocks[kind.block].inputs
            self.block(kind.block, {**{port: fed.get(port) for port in inputs}, **dict.fromkeys(inputs[:1], side)})
        return side


def _side(sides: Mapping[str, Side], ref: str) -> Side:
    return sides.get(ref, sides.get(head(ref)))


def _together(sides: Iterable[Side]) -> Side:
    known = set(sides) - {None}
    return None if not known else known == {True}


__all__ = ["NEITHER", "Halves", "Side", "Sides", "halves_of", "sides_of", "sides_within"]
