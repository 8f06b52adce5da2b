"""A module that only holds a model's backbone, and is never called, becomes a block that passes on what it is given."""

from collections.abc import Callable

from canvas_rt.ir.document import Block, Node, Use
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import key_of


def hold_backbone(blocks: dict[str, Block], classes: dict[str, str], class_of: Callable[[str], str]) -> None:
    """Give the root's parts `holder.part` a block for their holder, where it holds nothing else that the root uses.

    `class_of`: the class of the module at a path.
    """
    for item in [one for one in blocks["root"].nodes if isinstance(one, Use) and "." in one.key]:
        root = blocks["root"]
        holder, _, part = item.key.partition(".")
        others = {key_of(one).partition(".")[0] for one in root.nodes if one is not item}
        if not part.isidentifier() or holder in others:
            continue
        inner = Use(id=part, block=item.block, inputs=FrozenMap({port: port for port in item.inputs}))
        given = {port: part if port == "out" else f"{part}.{port}" for port in blocks[item.block].outputs}
        blocks[holder] = Block(inputs=tuple(item.inputs), nodes=(inner,), outputs=FrozenMap(given))
        classes[holder] = class_of(holder)
        held = item.replace(id=holder, block=holder, key="")
        nodes = tuple(held if one is item else one for one in root.nodes)
        blocks["root"] = _reading(root.replace(nodes=nodes), item.id, holder)


def _reading(block: Block, old: str, new: str) -> Block:
    """A block in which what an item gives is read under another name."""

    def told(refs: FrozenMap[str, str]) -> FrozenMap[str, str]:
        parts = {port: ref.partition(".") for port, ref in refs.items()}
        return FrozenMap(
            {port: f"{new if name == old else name}{dot}{rest}" for port, (name, dot, rest) in parts.items()}
        )

    nodes: tuple[Node | Use, ...] = tuple(item.replace(inputs=told(item.inputs)) for item in block.nodes)  # type: ignore[misc]
    return block.replace(nodes=nodes, outputs=told(block.outputs))


__all__ = ["hold_backbone"]
