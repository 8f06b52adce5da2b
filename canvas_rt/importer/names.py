"""Names that say what a value or a block is, where the original has none: told by where it goes and where it stands."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from canvas_rt.ir.document import Block, Node, Stack, Use
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ops.catalogue import OPS
from canvas_rt.ops.functions import is_function

WORDS: Mapping[str, str] = {
    "split_heads": "heads",
    "view_heads": "heads",
    "heads_first": "heads",
    "merge_heads": "merged",
    "rotate": "rotary",
    "slice": "part",
    "select": "part",
    "chunk": "parts",
    "split": "parts",
    "cat": "joined",
    "expand": "expanded",
}
"""What the value of an op is called, where that is not the op's own name."""

TABLES = frozenset({"cos", "sin"})
"""Ports that take what follows from positions."""

ROLES = ("q", "k", "v")
"""Ports of an attention, and the names of what feeds them."""


def word_of(op: str) -> str:
    """What the value of an op is called: `torch.unsqueeze` gives `unsqueeze`, `torch.chunk.3` gives `parts`."""
    return WORDS.get(_function(op), _function(op))


def _function(op: str) -> str:
    return op.split(".")[1] if is_function(op) else op


def named_by_use(block: Block, made: Collection[str]) -> Block:
    """A block whose values are called by what they are for: `q` instead of `slice_1_heads`.

    `made`: the nodes that functions gave. All others are modules, whose names are keys of the checkpoint.
    """
    nodes = {item.id: item for item in block.nodes if isinstance(item, Node)}
    free = {name for name in made if name in nodes and _is_generic(nodes[name], nodes)}
    names = _Names({name: name for name in {*block.inputs, *block.by_id} - free})
    for name, proposed in [*_for_attention(block, nodes, made), *_for_gates(block, nodes)]:
        if name in free and names.give(name, proposed):
            free.remove(name)
    chained: set[str] = set()
    for name in [item.id for item in block.nodes if item.id in free]:
        source = next(iter(nodes[name].inputs.values()), "").partition(".")[0]
        chained.add(name)
        if source in chained or not names.give(name, _after(nodes[name], names.known)):
            names.number(name)
    return _renamed(block, names.known)


@dataclass
class _Names:
    """Which node is called what."""

    known: dict[str, str]

    def give(self, node: str, name: str) -> bool:
        """Call a node so, if no other is."""
        taken = not name or name in self.known.values()
        if not taken:
            self.known[node] = name
        return not taken

    def number(self, node: str) -> None:
        """Keep a node's own name, numbered if another has it by now."""
        name, number = node, 1
        while not self.give(node, name):
            number += 1
            name = f"{node}_{number}"


def _is_generic(node: Node, nodes: Mapping[str, Node]) -> bool:
    """Whether a node is called by a function alone, and by no module that it follows."""
    words = {_function(one.op) for one in nodes.values()} | set(WORDS.values())
    stem = re.sub(r"(_\d+|_heads)+$", "", node.id)
    return stem in words and (_reshapes(node) or re.search(r"_\d+$", node.id) is not None)


def _reshapes(node: Node) -> bool:
    """Whether a node computes no number of its own, or is a plain function."""
    shapes = node.op in OPS and OPS[node.op].group == "shape" and node.op != "merge_heads"
    return is_function(node.op) or shapes or node.op == "rotate"


def _for_attention(block: Block, nodes: Mapping[str, Node], made: Collection[str]) -> Iterator[tuple[str, str]]:
    """Names of what queries, keys and values are made of, the nearest to the attention first."""
    attention = next((node for node in nodes.values() if node.op == "attention"), None)
    if attention is None:
        return
    uses: dict[str, list[str]] = {}
    nearest: list[tuple[str, str]] = []
    for role in ROLES:
        path = [name for name in _upstream(attention.inputs[role], role, nodes) if name in made]
        nearest += [(path[0], role)] if path else []
        for name in path:
            uses.setdefault(name, []).append(role)
    alone = [(name, role) for name, role in nearest if len(uses[name]) == 1]
    yield from alone
    yield from ((name, f"{''.join(roles)}_{word_of(nodes[name].op)}") for name, roles in uses.items())


def _upstream(ref: str, role: str, nodes: Mapping[str, Node]) -> list[str]:
    """The functions on the way to a value, backwards up to modules; what turns queries and keys together is passed over."""
    found: list[str] = []
    todo = [ref]
    while todo:
        name = todo.pop(0).partition(".")[0]
        node = nodes.get(name)
        if node is None or name in found:
            continue
        if node.op == "apply_rotary":
            todo.append(node.inputs[role])
        elif _reshapes(node):
            found.append(name)
            todo += [one for port, one in node.inputs.items() if port not in TABLES]
    return found


def _for_gates(block: Block, nodes: Mapping[str, Node]) -> Iterator[tuple[str, str]]:
    """What an activation takes that then weighs another value is a gate."""
    for node in nodes.values():
        if node.op == "mul":
            for ref in node.inputs.values():
                gate = nodes.get(ref)
                if gate is not None and gate.op == "activation" and "." not in gate.inputs["x"]:
                    yield gate.inputs["x"].partition(".")[0], "gate"
                    yield gate.id, "gate_activation"


def _after(node: Node, known: Mapping[str, str]) -> str:
    """A name by what a node is made from: `c_attn_parts`. Nothing where that has none itself."""
    source = next(iter(node.inputs.values()), "").partition(".")[0]
    before = known.get(source, "")
    if not before or before == "hidden_states":
        return ""
    return f"{before.removesuffix('_proj')}_{word_of(node.op)}"


def _renamed(block: Block, names: Mapping[str, str]) -> Block:
    def moved(ref: str) -> str:
        name, dot, port = ref.partition(".")
        return f"{names.get(name, name)}{dot}{port}"

    def inputs(item: Node | Use | Stack) -> FrozenMap[str, str]:
        return FrozenMap({port: moved(ref) for port, ref in item.inputs.items()})

    if all(name == own for name, own in names.items()):
        return block
    nodes = tuple(item.replace(id=names.get(item.id, item.id), inputs=inputs(item)) for item in block.nodes)
    return block.replace(nodes=nodes, outputs=FrozenMap({port: moved(ref) for port, ref in block.outputs.items()}))


# blocks


@dataclass
class Places:
    """Where a block stands."""

    cls: str
    """Its class in the original."""

    ids: set[str] = field(default_factory=set)
    """What its uses are called."""

    words: set[str] = field(default_factory=set)
    """What the layers are called in which it stands."""


def names_of_blocks(places: Mapping[str, Places]) -> dict[str, str]:
    """A name for each block. Blocks of one class that differ are told apart by what they stand as, or by their layers.

    `DeepseekV3SharedExpertsMLP` beside `DeepseekV3MLP`; `Gemma3SlidingAttention` beside `Gemma3FullAttention`.
    """
    names = {block: block for block in places}
    prefix = _prefix([place.cls for place in places.values()])
    groups: dict[str, list[str]] = {}
    for block, place in places.items():
        groups.setdefault(place.cls, []).append(block)
    for cls, group in groups.items():
        if len(group) == 1:
            continue
        for told in ([places[block].ids for block in group], [places[block].words for block in group]):
            given = [_with(cls, next(iter(words)), prefix) for words in told if len(words) == 1]
            others = names.keys() - set(group)
            if len(set(given)) == len(group) and not set(given) & others:
                names.update(zip(group, given, strict=True))
                break
    return names


def _prefix(classes: Sequence[str]) -> str:
    """What the names of all classes begin with, in whole words: `Gemma3`."""
    first = classes[0]
    ends = [end for end in range(len(first), 0, -1) if first[end : end + 1].isupper()]
    fits = (first[:end] for end in ends if all(name.startswith(first[:end]) for name in classes))
    return next((one for one in fits if all(name[len(one) :][:1].isupper() for name in classes)), "")


def _with(cls: str, words: str, prefix: str) -> str:
    """A class's name with words of its own: `Gemma3Attention` and `sliding` give `Gemma3SlidingAttention`."""
    rest = cls.removeprefix(prefix)
    if words.replace("_", "").lower() in rest.lower():
        return cls
    return prefix + "".join(word[:1].upper() + word[1:] for word in words.split("_")) + rest


def words_of_kinds(said: Sequence[Sequence[str]], *more: Sequence[str]) -> list[str]:
    """What tells kinds of layers apart: what the config says of each, without what it says of all.

    `said`: for each kind, its layer types. `more`: words for each kind, taken where they tell more of them apart.
    """
    columns = [column for column in zip(*said, strict=True) if len(set(column)) > 1]
    words = ["_".join(parts) for parts in zip(*map(_apart, columns), strict=True)] if columns else [""] * len(said)
    for others in more:
        both = [f"{word}_{other}".strip("_") for word, other in zip(words, others, strict=True)]
        words = both if len(set(both)) > len(set(words)) else words
    return words


def _apart(column: Sequence[str]) -> list[str]:
    """`sliding_attention` and `full_attention` are `sliding` and `full`."""
    split = [re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").split("_") for text in column]
    while min(map(len, split)) > 1 and len({parts[-1] for parts in split}) == 1:
        split = [parts[:-1] for parts in split]
    return ["_".join(parts) for parts in split]
