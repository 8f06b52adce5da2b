"""From traces at several sizes to one symbolic document: align them, express their numbers, fold equal layers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from canvas_rt.importer.recognise import Traced
from canvas_rt.importer.symbols import express
from canvas_rt.importer.trace import TraceError
from canvas_rt.ir.document import Block, LayerKind, Node, Stack, Use, runs_of
from canvas_rt.ir.frozen import FrozenMap

PREFIX = "Canvas"
"""What emitted classes are called beside the block's name; import drops it again."""


@dataclass
class Symbols:
    """How the numbers of a model were resolved."""

    resolved: int = 0
    """Settings expressed in config fields, or constant in every probe."""

    literal: list[str] = field(default_factory=list)
    """Settings that are the same number at every size: they are no field's, and no slider moves them."""


Overrides = Mapping[int, Mapping[str, Any]]
"""For layers that differ: the sizes that they have for themselves."""


class Builder:
    """Builds blocks from aligned traces."""

    def __init__(
        self,
        traces: Sequence[Traced],
        environments: Sequence[Mapping[str, Any]],
        overrides: Sequence[Overrides],
        actual: Mapping[str, Any],
        actual_overrides: Overrides,
        layer_kinds: Callable[[str], Sequence[int]],
        links: Mapping[tuple[str, str, str], str],
    ) -> None:
        self.traces = traces
        self.environments = environments
        self.overrides = overrides
        self.actual = actual
        self.actual_overrides = actual_overrides
        self.layer_kinds = layer_kinds
        self.links = links
        self.symbols = Symbols()
        self.blocks: dict[str, Block] = {}
        self.layer: int | None = None

    def build(self) -> tuple[str, dict[str, Block]]:
        """The root's name and all blocks, each class with its inner blocks before it."""
        return self.block("root"), self.blocks

    def block(self, stand_in: str) -> str:
        """A module's block, under its class's name; modules of one class with equal graphs share it."""
        versions = [trace.blocks[stand_in] for trace in self.traces]
        first = versions[0]
        if any(len(version.nodes) != len(first.nodes) for version in versions):
            raise TraceError(f"{stand_in}: its graph changes with the sizes")
        items = tuple(self.item([version.nodes[i] for version in versions], stand_in) for i in range(len(first.nodes)))
        block = Block(inputs=first.inputs, nodes=items, outputs=first.outputs)
        block = block.replace(role=role_of(block, self.blocks))
        name = self.traces[0].classes[stand_in].removeprefix(PREFIX)
        return self.file(name, block)

    def file(self, name: str, block: Block) -> str:
        candidate, number = name, 1
        while candidate in self.blocks and self.blocks[candidate] != block:
            number += 1
            candidate = f"{name}{number}"
        self.blocks[candidate] = block
        return candidate

    def item(self, versions: Sequence[Node | Use | Stack], where: str) -> Node | Use | Stack:
        first = versions[0]
        if any(type(version) is not type(first) or version.id != first.id for version in versions):
            raise TraceError(f"{where}: its graph changes with the sizes at {first.id}")
        if isinstance(first, Use):
            return first.replace(block=self.block(first.block))
        if isinstance(first, Stack):
            return self.stack(first, where)
        nodes = [version for version in versions if isinstance(version, Node)]
        attrs = {
            name: self.setting([node.attrs[name] for node in nodes], (where, first.id, name)) for name in first.attrs
        }
        return first.replace(attrs=FrozenMap(attrs))

    def setting(self, values: Sequence[Any], where: tuple[str, str, str]) -> Any:
        if where in self.links:
            self.symbols.resolved += 1
            return f"={self.links[where]}"
        found = express(values, [self.environment(probe) for probe in range(len(values))])
        if found is None and values[0] is not None:
            raise TraceError(
                f"{'.'.join(where).replace('__', '.')}: {list(values)} follows from no field of the config"
            )
        self.symbols.resolved += 1
        if isinstance(found, int | float) and not isinstance(found, bool) and found not in (0, 1):
            self.symbols.literal.append(".".join(where).replace("__", "."))
        return found

    def environment(self, probe: int) -> Mapping[str, Any]:
        """What names stand for in a probe, in the layer at hand."""
        own = self.overrides[probe].get(self.layer, {}) if self.layer is not None else {}
        return {**self.environments[probe], **own} if own else self.environments[probe]

    def stack(self, stack: Stack, where: str) -> Stack:
        """Fold the traced layers: equal blocks with equal sizes of their own are one kind."""
        path = f"{where.replace('__', '.')}.{stack.id}" if where != "root" else stack.id
        indices = self.traces[0].layers[path]
        kinds: list[LayerKind] = []
        traced_kind: dict[int, int] = {}
        for position, index in enumerate(indices):
            self.layer = index
            block = self.block(stack.kinds[position].block)
            self.layer = None
            kind = LayerKind(block=block, sizes=FrozenMap(self.actual_overrides.get(index, {})))
            if kind not in kinds:
                kinds.append(kind)
            traced_kind[index] = kinds.index(kind)
        members = tuple(traced_kind[representative] for representative in self.layer_kinds(path))
        order = sorted(range(len(kinds)), key=lambda k: (-members.count(k), members.index(k)))
        rank = {kind: place for place, kind in enumerate(order)}
        repeat = "=num_hidden_layers" if len(members) == self.actual.get("num_hidden_layers") else len(members)
        return stack.replace(
            repeat=repeat, kinds=tuple(kinds[k] for k in order), runs=runs_of(tuple(rank[k] for k in members))
        )


def role_of(block: Block, blocks: Mapping[str, Block]) -> str:
    """What a block is, told by what stands in it."""
    ops = [node.op for node in block.nodes if isinstance(node, Node)]
    roles = [blocks[node.block].role for node in block.nodes if isinstance(node, Use) and node.block in blocks]
    if "attention" in ops:
        return "attention"
    if any(isinstance(node, Stack) for node in block.nodes) and "embedding" in ops:
        return "backbone"
    if "backbone" in roles and "logits" in block.outputs:
        return "causal_lm"
    if "attention" in roles:
        return "decoder_layer"
    if "experts" in ops:
        return "moe"
    if sorted(ops) == ["activation", "linear", "linear", "linear", "mul"]:
        return "gated_mlp"
    if sorted(ops) == ["activation", "linear", "linear"]:
        return "mlp"
    return ""
