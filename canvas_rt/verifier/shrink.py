"""Make a model small enough to run, and keep it the same model: unlike sizes, all layers, all ratios of heads."""

import ast
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from canvas_rt.errors import CanvasError
from canvas_rt.importer.probes import probe_assignments
from canvas_rt.ir.document import Block, Document, Node, Stack
from canvas_rt.ir.expressions import expression, is_expression, names_in
from canvas_rt.ir.frozen import FrozenMap, freeze
from canvas_rt.ir.graph import Item
from canvas_rt.ops.compare import at_sizes
from canvas_rt.ops.parameters import count_parameters
from canvas_rt.physics.shapes import check

HEADS = ("num_attention_heads", "num_key_value_heads")
KEPT = ("num_hidden_layers", "sliding_window")
"""Depth is part of what is verified."""

WINDOW = 7
TRAINED = "original_max_position_embeddings"
LONGEST = 32
"""Positions of the small model. Logits are compared beyond it, where dynamic scalings change; decoding stays within."""


TOGETHER = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
"""Sizes that divide one another: where one keeps its value, all do."""


def pinned(document: Document) -> frozenset[str]:
    """Sizes that must keep their values, because the graph holds literal numbers that go with them.

    Found by trying, at the small sizes and at those of the probes: the fewest of one at a time, those that divide one
    another, all.
    """
    names = [name for name in document.sizes if name not in KEPT]
    attempts = [frozenset[str](), *(frozenset([name]) for name in names if name not in TOGETHER)]
    experts = frozenset(expert_counts(document)[0] & set(names))
    together = frozenset(TOGETHER) & set(names)
    attempts += [experts, together, together | {"intermediate_size"}, frozenset(names)]
    return next((attempt for attempt in attempts if _stands(document, attempt)), frozenset(names))


Table = Mapping[str, Mapping[int, int]]
"""For each size what its real values become."""


def small_form(document: Document) -> tuple[frozenset[str], Document, Table]:
    """A small document of the same graph: the sizes that keep their values in it, itself, and what its sizes became.

    Where nothing but the import has set sizes, they are those of a probe, which the architecture is known to take.
    """
    probed = _as_probed(document)
    if probed is not None:
        return frozenset(), *probed
    kept = pinned(document)
    return kept, *shrink(document, [document.origin.sizes], kept)


def _as_probed(document: Document) -> tuple[Document, Table] | None:
    own = any(k.sizes for b in document.blocks.values() for i in b.nodes if isinstance(i, Stack) for k in i.kinds)
    if own or document.sizes != document.origin.sizes or document.blocks == {}:
        return None
    if any(isinstance(document.config.get(name), int) for name in ("vocab_size", "hidden_size")):
        return None  # the graph says in numbers how wide it is
    values = dict(document.environment)
    found = probe_assignments(values, (), (), document.origin.model_type)[PROBE]
    sizes = {
        name: found[name]
        for name, real in document.sizes.items()
        if isinstance(real, int) and isinstance(found.get(name), int) and name not in KEPT
    }
    if "sliding_window" in document.sizes and isinstance(document.sizes["sliding_window"], int):
        sizes["sliding_window"] = min(document.sizes["sliding_window"], WINDOW)
    if "max_position_embeddings" in sizes:
        sizes["max_position_embeddings"] = 2 * LONGEST if _learns_positions(document) else LONGEST
    others = {
        name: freeze(found[name]) for name in document.config if name in found and not isinstance(found[name], float)
    }
    config = _config(document, document.config.with_items(others))
    small = document.replace(sizes=document.sizes.with_items(sizes), config=config)
    if not check(small, sequence=4).ok:
        return None
    return small, {name: {int(document.sizes[name]): size} for name, size in sizes.items()}


PROBE = 1
"""Which probe's sizes are run: heads in groups of four, as many models have them."""


def _stands(document: Document, kept: frozenset[str]) -> bool:
    """Whether the graph holds when all other sizes change."""
    alike = document.replace(
        blocks=FrozenMap({name: _changed(b, lambda *_: None) for name, b in document.blocks.items()})
    )
    probes = probe_assignments(dict(document.environment), kept)
    small, probed = shrink(document, (), kept)[0], [at_sizes(alike, values) for values in probes]
    return all(check(tried, sequence=4).ok for tried in (small, *probed)) and all(map(_divides, probed))


def _divides(document: Document) -> bool:
    """Whether every quotient in a setting is exact: from a rounded one, no probe could tell what it is of."""
    settings = [v for b in document.blocks.values() for i in b.nodes if isinstance(i, Node) for v in i.attrs.values()]
    for value in settings:
        for part in ast.walk(expression(value).tree) if is_expression(value) else ():
            if isinstance(part, ast.BinOp) and isinstance(part.op, ast.FloorDiv):
                rest = expression("=" + ast.unparse(ast.BinOp(part.left, ast.Mod(), part.right)))
                if rest.evaluate(document.environment):
                    return False
    return True


def _changed(block: Block, change: Callable[[str, Any], Any]) -> Block:
    """A block with other values for the sizes that its layers have for themselves; None takes one away."""
    items: list[Item] = []
    for item in block.nodes:
        if isinstance(item, Stack):
            own = [{name: change(name, value) for name, value in kind.sizes.items()} for kind in item.kinds]
            kept = [FrozenMap({name: value for name, value in sizes.items() if value is not None}) for sizes in own]
            kinds = (kind.replace(sizes=sizes) for kind, sizes in zip(item.kinds, kept, strict=True))
            items.append(item.replace(kinds=tuple(kinds)))
        else:
            items.append(item)
    return block.replace(nodes=tuple(items))


def shrink(
    document: Document, also: Iterable[Mapping[str, Any]] = (), kept: Collection[str] = ()
) -> tuple[Document, Mapping[str, Mapping[int, int]]]:
    """A small document of the same graph, and for each size what its real values became.

    `also`: further sizes that must follow the same map, such as those of the origin. `kept`: sizes that keep their values.
    """
    values = _values(document, also)
    few = _few_experts(document, values, kept)
    table: dict[str, Mapping[int, int]] = {
        name: {value: value for value in found}
        if name in kept
        else few.get(name) or _small(name, sorted(found), values)
        for name, found in values.items()
    }
    for width in _turned_widths(document) & table.get("head_dim", {}).keys():
        table["head_dim"] = {**table["head_dim"], width: width}  # code outside the layers holds it as a number
    if _learns_positions(document) and "max_position_embeddings" not in kept:
        longer = table.get("max_position_embeddings", {})
        table["max_position_embeddings"] = {real: small + LONGEST for real, small in longer.items()}

    for name in (_other_vocabularies(document) & table.keys()) - {*kept}:
        if min(values[name]) >= max(values["vocab_size"]):  # every token has a row there too
            most = max(table["vocab_size"].values())
            table[name] = {real: most + 8 + 14 * i for i, real in enumerate(sorted(values[name]))}

    def size(name: str, value: Any) -> Any:
        return value if is_expression(value) else table.get(name, {}).get(value, value)

    blocks = {name: _changed(block, size) for name, block in document.blocks.items()}
    sizes = FrozenMap({name: size(name, value) for name, value in document.sizes.items()})
    small = document.replace(sizes=sizes, blocks=FrozenMap(blocks), config=_config(document, document.config))
    return small, table


def _turned_widths(document: Document) -> set[int]:
    """Widths of heads that rotary tables have as numbers: of layers that have one for themselves."""
    nodes = (i for b in document.blocks.values() for i in b.nodes if isinstance(i, Node) and i.op == "rotary_embedding")
    return {node.attrs["head_dim"] for node in nodes if isinstance(node.attrs.get("head_dim"), int)}


def _other_vocabularies(document: Document) -> set[str]:
    """Sizes that say how many rows a further table of tokens has."""
    items = (item for block in document.blocks.values() for item in block.nodes)
    tables = (i for i in items if isinstance(i, Node) and i.op == "embedding" and "input_ids" in i.inputs.values())
    names = set().union(*(names_in(table.attrs["num_embeddings"]) for table in tables))
    return names - {"vocab_size"} if "vocab_size" in names else set()


def _learns_positions(document: Document) -> bool:
    """Whether the model has a table of positions, beyond which it knows none."""
    nodes = (i for b in document.blocks.values() for i in b.nodes if isinstance(i, Node) and i.op != "rotary_embedding")
    return any("max_position_embeddings" in names_in(node.attrs) for node in nodes)


def _config(document: Document, config: Mapping[str, Any]) -> FrozenMap[str, Any]:
    """Token ids must stay inside the small vocabulary, scalings inside the small range of positions.

    What the graph holds as a number stays as it is.
    """
    changed: dict[str, Any] = {}
    held = {v for b in document.blocks.values() for i in b.nodes if isinstance(i, Node) for v in i.attrs.values()}
    numbers = {value for value in held if isinstance(value, int | float)}
    for name, value in config.items():
        if name == "pad_token_id" and isinstance(value, int) and value >= 0:
            changed[name] = 5
        elif name.endswith("_token_id") and isinstance(value, int):
            changed[name] = min(value, 4)
        elif name == "rope_parameters" and isinstance(value, Mapping) and value.get(TRAINED, 0) not in {0, *numbers}:
            changed[name] = FrozenMap({**value, TRAINED: LONGEST // 2})
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


def _few_experts(
    document: Document, values: Mapping[str, set[int]], kept: Collection[str]
) -> dict[str, dict[int, int]]:
    """Numbers of experts, there and chosen, small and in order: a token must not be served by more than there are."""
    names, numbers = expert_counts(document)
    known = sorted(numbers.union(*(values[name] for name in names & values.keys())))
    fixed = bool(numbers or names & set(kept))  # what stays as it is must stay in order with the rest
    small = {real: real if fixed else min(real, 2 + 3 * index) for index, real in enumerate(known)}
    return {name: {real: small[real] for real in values[name]} for name in names & values.keys()}


def expert_counts(document: Document) -> tuple[set[str], set[int]]:
    """The sizes that say how many experts there are or are chosen, and the numbers that do."""
    names: set[str] = set()
    numbers: set[int] = set()
    for block in document.blocks.values():
        for node in block.nodes:
            if isinstance(node, Node) and node.op in ("router", "experts"):
                counts = [value for name, value in node.attrs.items() if name in ("num_experts", "top_k")]
                names.update(*map(names_in, counts))
                numbers.update(value for value in counts if isinstance(value, int))
    return names, numbers


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
