"""From traces at several sizes to one symbolic document: align them, express their numbers, fold equal layers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from canvas_rt.importer.names import Places, names_of_blocks, words_of_kinds
from canvas_rt.importer.recognition.ports import ENCODED
from canvas_rt.importer.recognition.traced import Traced
from canvas_rt.importer.symbols import express
from canvas_rt.importer.trace import TraceError
from canvas_rt.ir.document import LAYER, Block, LayerKind, Node, Stack, Use, runs_of
from canvas_rt.ir.expressions import display, numbers_in, parse
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import key_clashes, key_of
from canvas_rt.ops.catalogue import VARIANTS
from canvas_rt.ops.functions import RUN_TIME

PREFIX = "Canvas"
"""What emitted classes are called beside the block's name; import drops it again."""


@dataclass
class Symbols:
    """How the numbers of a model were resolved."""

    resolved: int = 0
    """Settings expressed in config fields, or constant in every probe."""

    literal: list[str] = field(default_factory=list)
    """Settings that are the same number at every size: they are no field's, and no slider moves them."""


PLACES = frozenset({"dim", "dim0", "dim1", "dims", "step", "chunks", "exponent"})
"""Settings that are numbers of the graph itself, and no sizes."""

PART = "torch.select"
"""What takes one part of a value, by its number."""

DIMENSIONS: Mapping[str, tuple[str, ...]] = {
    "linear": ("out_features", "in_features"),
    "embedding": ("num_embeddings", "embedding_dim"),
    "relative_bias": ("buckets", "heads"),
    "rms_norm": ("size",),
    "layer_norm": ("size",),
}
"""Settings that the dimensions of a node's weight are."""

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
        original: Mapping[str, tuple[int, ...]],
        patterns: Sequence[Sequence[str]],
        counted: int | None = None,
        depth_fields: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.traces = traces
        self.environments = environments
        self.overrides = overrides
        self.actual = actual
        self.actual_overrides = actual_overrides
        self.layer_kinds = layer_kinds
        self.links = links
        self.original = original
        """Shapes of the original's parameters at the real sizes: one more point in which numbers must agree."""
        self.patterns = patterns
        """What the config says layer by layer, in words."""
        self.counted = counted
        """How many layers a traced model has, where what stands outside the layers goes by their number."""
        self.depth_fields = depth_fields
        """For lists of layers, the field that says how long each is, where there are several."""
        self.symbols = Symbols()
        self.blocks: dict[str, Block] = {}
        self.places: dict[str, Places] = {}
        self.layer: int | None = None
        self.word = ""
        """What the layer at hand is called."""

    def build(self) -> tuple[str, dict[str, Block]]:
        """The root's name and all blocks, each class with its inner blocks before it."""
        root = self.block("root")
        names = names_of_blocks(self.places)
        self.blocks = {names[name]: _with_blocks(block, names) for name, block in self.blocks.items()}
        return names[root], self.blocks

    def block(self, stand_in: str) -> str:
        """A module's block, under its class's name; modules of one class with equal graphs share it."""
        versions = [trace.blocks[stand_in] for trace in self.traces]
        first = versions[0]
        if any(len(version.nodes) != len(first.nodes) for version in versions):
            raise TraceError(f"{stand_in}: its graph changes with the sizes")
        items = tuple(self.item([version.nodes[i] for version in versions], stand_in) for i in range(len(first.nodes)))
        block = Block(inputs=first.inputs, nodes=items, outputs=first.outputs)
        block = block.replace(role=role_of(block, self.blocks))
        for item, other in key_clashes(block).items():
            raise TraceError(f"{stand_in.replace('__', '.')}: {item} stands where {other} does, and is another module")
        name = self.traces[0].classes[stand_in].removeprefix(PREFIX)
        return self.file(name, block)

    def file(self, name: str, block: Block) -> str:
        candidate, number = name, 1
        while candidate in self.blocks and self.blocks[candidate] != block:
            number += 1
            candidate = f"{name}{number}"
        self.blocks[candidate] = block
        place = self.places.setdefault(candidate, Places(name))
        crosses = ENCODED in block.inputs and block.role == "attention"
        place.words |= {"cross" if crosses else self.word} - {""}
        return candidate

    def item(self, versions: Sequence[Node | Use | Stack], where: str) -> Node | Use | Stack:
        first = versions[0]
        if any(type(version) is not type(first) or version.id != first.id for version in versions):
            raise TraceError(f"{where}: its graph changes with the sizes at {first.id}")
        if isinstance(first, Use):
            block = self.block(first.block)
            self.places[block].ids.add(first.id)
            return first.replace(block=block)
        if isinstance(first, Stack):
            return self.stack(first, where)
        nodes = [version for version in versions if isinstance(version, Node)]
        real = self.real_settings(first, where)
        usual = VARIANTS.get(first.op, {})
        names = dict.fromkeys(name for node in nodes for name in node.attrs)
        if missing := next((n for n in names if any(n not in node.attrs and n not in usual for node in nodes)), None):
            raise TraceError(f"{where}: {first.id} has a setting {missing} at some sizes only")
        own = {"index": f"={LAYER}"} if first.op == PART and self.goes_by_layer(first, where) else {}
        attrs = {
            name: self.setting(
                [node.attrs.get(name, usual.get(name)) for node in nodes], (where, first.id, name), real.get(name)
            )
            for name in names
            if name not in own
        }
        attrs |= own
        return first.replace(attrs=FrozenMap(attrs))

    def goes_by_layer(self, node: Node, where: str) -> bool:
        """Whether each traced layer takes the part of a value that has the layer's own number."""
        parts, trace = where.split("__"), self.traces[0]
        end = next((end for end in range(1, len(parts)) if ".".join(parts[:end]) in trace.layers), None)
        if end is None:
            return False
        taken: list[bool] = []
        for position, index in enumerate(trace.layers[".".join(parts[:end])]):
            block = trace.blocks.get("__".join([*parts[:end], str(position), *parts[end + 1 :]]))
            other = None if block is None else block.node(node.id)
            if isinstance(other, Node) and other.op == PART:
                taken.append(other.attrs["index"] == index)
        return len(taken) > 1 and all(taken)

    def real_settings(self, node: Node, where: str) -> Mapping[str, Any]:
        """Settings of a node that its parameters tell at the real sizes."""
        place = key_of(node).replace(".", "__")
        path = self.original_path(f"{where}__{place}" if where != "root" else place)
        if node.op == "module":
            keys = node.attrs["keys"]
            given = {name: self.original.get(f"{path}.{name}", ()) for name in node.attrs.get("buffers", {})}
            return {
                "keys": {key: self.original.get(f"{path}.{key}") for key in keys},
                "buffers": {name: {"sizes": shape[-1:]} for name, shape in given.items()},
            }
        if node.op == "parameter":
            key = node.attrs.get("key")
            return {"shape": self.original.get(f"{path}.{key}" if key else path)}
        shape = self.original.get(f"{path}.weight")
        names = DIMENSIONS.get(node.op, ())
        if shape is None or len(shape) != len(names) or node.attrs.get("transposed"):
            return {}
        return dict(zip(names, shape, strict=True))

    def original_path(self, stand_in: str) -> str:
        """The path in the original of what is traced at a path: traced layers are those of each kind."""
        parts = stand_in.split("__")
        for index in range(1, len(parts)):
            kept = self.traces[0].layers.get(".".join(parts[:index]))
            if kept is not None and parts[index].isdecimal():
                parts[index] = str(kept[int(parts[index])])
        return ".".join(parts)

    def setting(self, values: Sequence[Any], where: tuple[str, str, str], real: Any = None) -> Any:
        if where in self.links:
            self.symbols.resolved += 1
            return f"={self.links[where]}"
        return self.expressed(values, where, real)

    def expressed(self, values: Sequence[Any], where: tuple[str, str, str], real: Any = None) -> Any:
        """A value as an expression; of a list or a table each part, unless a field of the config is the whole."""
        environments = [self.environment(probe) for probe in range(len(values))]
        seen: tuple[Sequence[Any], Sequence[Mapping[str, Any]]] = values, environments
        if isinstance(real, int) and not isinstance(real, bool):  # what does not hold at the real sizes holds by chance
            seen = [*values, real], [*environments, self.actual_environment]
        found = self.by_depth(express(*seen), where[2], values, real)
        first = values[0]
        if found is None or (isinstance(found, tuple | Mapping) and found == first):
            if isinstance(first, tuple) and all(len(value) == len(first) for value in values):
                reals = real if isinstance(real, tuple) and len(real) == len(first) else (None,) * len(first)
                return tuple(self.expressed([v[i] for v in values], where, reals[i]) for i in range(len(first)))
            if isinstance(first, Mapping) and all(value.keys() == first.keys() for value in values):
                known: Mapping[str, Any] = real if isinstance(real, Mapping) else {}
                parts = {key: self.expressed([v[key] for v in values], where, known.get(key)) for key in first}
                return FrozenMap(parts)
        if found is None and first is not None:
            raise TraceError(
                f"{'.'.join(where).replace('__', '.')}: {list(values)} follows from no field of the config"
            )
        self.symbols.resolved += 1
        counts = isinstance(found, int | float) and not isinstance(found, bool) and found not in (0, 1, -1)
        if counts and where[2] not in PLACES:
            self.symbols.literal.append(".".join(where).replace("__", "."))
        return found

    def by_depth(self, found: Any, name: str, values: Sequence[Any], real: Any) -> Any:
        """An expression in which the number of traced layers is the config's: all traces have equally many."""
        if self.counted is None or self.layer is not None or name in PLACES:
            return found
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
        if not whole or any(value % self.counted for value in values):
            return found
        if found is not None and self.counted not in numbers_in(found):
            return found
        environments = [self.environment(probe) for probe in range(len(values))]
        if isinstance(real, int) and not isinstance(real, bool):
            values, environments = [*values, real], [*environments, self.actual_environment]
        each = express([value // self.counted for value in values], environments)
        if each is None:
            return found
        return f"={parse('num_hidden_layers' if each == 1 else f'num_hidden_layers * ({display(each)})').text}"

    @property
    def actual_environment(self) -> Mapping[str, Any]:
        """What names stand for at the real sizes, in the layer at hand."""
        own = self.actual_overrides.get(self.layer, {}) if self.layer is not None else {}
        return {**self.actual, **dict.fromkeys(RUN_TIME, 1), **own}

    def environment(self, probe: int) -> Mapping[str, Any]:
        """What names stand for in a probe, in the layer at hand."""
        own = self.overrides[probe].get(self.layer, {}) if self.layer is not None else {}
        return {**self.environments[probe], **own} if own else self.environments[probe]

    def stack(self, stack: Stack, where: str) -> Stack:
        """Fold the traced layers: equal blocks with equal sizes of their own are one kind."""
        path = f"{where.replace('__', '.')}.{stack.id}" if where != "root" else stack.id
        indices = self.traces[0].layers[path]
        stands_for = self.layer_kinds(path)
        kinds: list[LayerKind] = []
        traced_kind: dict[int, int] = {}
        # Of two traced layers of one kind the later tells more: what the first is given is of another dtype, or one value
        # for two purposes. The last of all hands nothing on, though others of its kind may.
        blocks = [self.traces[0].blocks[kind.block] for kind in stack.kinds]
        latest: dict[int, int] = {}
        for position, index in enumerate(indices):
            before = latest.setdefault(stands_for[index], position)
            if len(blocks[position].outputs) >= len(blocks[before].outputs):
                latest[stands_for[index]] = position
        count = self.depth_fields.get(path, "num_hidden_layers")
        said = self.patterns if count == "num_hidden_layers" else ()
        positions = latest.values()
        words = self.words(said, [indices[p] for p in positions], [stack.kinds[p].block for p in positions])
        if self.depth_fields:  # of two stacks the one that the model is as deep as is the decoder
            part = "decoder" if count == "num_hidden_layers" else "encoder"
            words = [f"{part}_{word}".strip("_") for word in words]
        for (representative, position), self.word in zip(latest.items(), words, strict=True):
            index = indices[position]
            self.layer = index
            block = self.block(stack.kinds[position].block)
            self.layer = None
            kind = LayerKind(block=block, sizes=FrozenMap(self.actual_overrides.get(index, {})))
            if kind not in kinds:
                kinds.append(kind)
            traced_kind[representative] = kinds.index(kind)
        self.word = ""
        members = tuple(traced_kind[representative] for representative in stands_for)
        order = sorted(range(len(kinds)), key=lambda k: (-members.count(k), members.index(k)))
        rank = {kind: place for place, kind in enumerate(order)}
        repeat = f"={count}" if len(members) == self.actual.get(count) else len(members)
        return stack.replace(
            repeat=repeat, kinds=tuple(kinds[k] for k in order), runs=runs_of(tuple(rank[k] for k in members))
        )

    def words(self, said: Sequence[Sequence[str]], layers: Sequence[int], stand_ins: Sequence[str]) -> list[str]:
        """What tells some layers apart, each of a kind of its own. `said`: what the config says layer by layer."""
        blocks = [self.traces[0].blocks[name] for name in stand_ins]
        common = set.intersection(*({*block.inputs} for block in blocks)) if blocks else set()
        mixed = ["sparse" if self.has_experts(name) else "dense" for name in stand_ins]
        # What hands values on, and what takes them.
        handing = ["giving" if len(b.outputs) > 1 else "taking" if {*b.inputs} - common else "" for b in blocks]
        return words_of_kinds([[one[layer] for one in said] for layer in layers], mixed, handing)

    def has_experts(self, stand_in: str) -> bool:
        """Whether a traced block has experts, or one within it."""
        items = self.traces[0].blocks[stand_in].nodes
        ops = {item.op for item in items if isinstance(item, Node)}
        return "experts" in ops or any(self.has_experts(item.block) for item in items if isinstance(item, Use))


def _with_blocks(block: Block, names: Mapping[str, str]) -> Block:
    """A block whose parts are blocks of other names."""

    def moved(item: Node | Use | Stack) -> Node | Use | Stack:
        if isinstance(item, Use):
            return item.replace(block=names[item.block])
        if isinstance(item, Stack):
            return item.replace(kinds=tuple(kind.replace(block=names[kind.block]) for kind in item.kinds))
        return item

    return block.replace(nodes=tuple(map(moved, block.nodes)))


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
