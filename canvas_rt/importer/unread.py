"""Take out of traced blocks what flows in or out and nobody reads: what adds nothing, and what is only given along."""

from collections.abc import Collection, Iterator, Mapping

from canvas_rt.ir.document import Block, Node, Stack, Use
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import head, live

Item = Node | Use | Stack


def without_unread(blocks: dict[str, Block], root: str, nothing: Collection[str]) -> None:
    """Leave out inputs that are called as one of `nothing`, and values of inner blocks that are not read.

    Each block stands for one module, and so is used once.
    """
    for name, block in blocks.items():
        items = tuple(item.replace(inputs=_kept(item.inputs, nothing)) for item in block.nodes)
        blocks[name] = block.replace(inputs=tuple(port for port in block.inputs if port not in nothing), nodes=items)
    _outputs_read(blocks, root)


def _kept(inputs: Mapping[str, str], nothing: Collection[str]) -> FrozenMap[str, str]:
    return FrozenMap({port: ref for port, ref in inputs.items() if port not in nothing})


def _outputs_read(blocks: dict[str, Block], name: str) -> None:
    """From a block inwards: a use gives what is read of it, under plain names."""
    block = blocks[name]
    needed = live(block)
    block = block.replace(nodes=tuple(item for item in block.nodes if item.id in needed))
    for item in block.nodes:
        if isinstance(item, Use):
            block = _narrowed(blocks, block, item)
    blocks[name] = block
    for inner in [inner for item in block.nodes for inner in _inside(item)]:
        _outputs_read(blocks, inner)


def _narrowed(blocks: dict[str, Block], block: Block, use: Use) -> Block:
    inner = blocks[use.block]
    read = {ref for ref in _references(block) if head(ref) == use.id}
    kept = [port for port in inner.outputs if f"{use.id}.{port}" in read or use.id in read]
    if len(kept) == len(inner.outputs):
        return block
    names = dict(zip(kept, ["out", *(f"out_{index}" for index in range(1, len(kept)))], strict=False))
    blocks[use.block] = inner.replace(outputs=FrozenMap({names[port]: inner.outputs[port] for port in kept}))

    def moved(ref: str) -> str:
        if head(ref) != use.id:
            return ref
        return use.id if len(kept) == 1 else f"{use.id}.{names[ref.partition('.')[2]]}"

    items = tuple(
        item.replace(inputs=FrozenMap({p: moved(ref) for p, ref in item.inputs.items()})) for item in block.nodes
    )
    return block.replace(nodes=items, outputs=FrozenMap({port: moved(ref) for port, ref in block.outputs.items()}))


def _references(block: Block) -> Iterator[str]:
    yield from (ref for item in block.nodes for ref in item.inputs.values())
    yield from block.outputs.values()


def _inside(item: Item) -> Iterator[str]:
    if isinstance(item, Use):
        yield item.block
    elif isinstance(item, Stack):
        yield from (kind.block for kind in item.kinds)


__all__ = ["without_unread"]
