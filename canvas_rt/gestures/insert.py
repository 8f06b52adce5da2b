"""Put something from the palette into a level: free, on a wire, or at a port, with settings that fit what arrives."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from canvas_rt.edits import AddBlock, AddConfig, AddInput, AddNode, AddSize, Edit, PlaceNodes, SetOutput, apply
from canvas_rt.edits.data import OUTPUTS
from canvas_rt.edits.wires import in_ports, out_ports, unused_name
from canvas_rt.errors import CanvasError, EditError, suggest
from canvas_rt.gestures.recipes import RECIPES, USUAL, USUAL_CONFIG, Recipe, stack
from canvas_rt.gestures.scope import Scope, item_at, scope_at, split
from canvas_rt.gestures.tokenizers import likeliest, use_tokenizer
from canvas_rt.gestures.wires import End, connect, feed, local_ref
from canvas_rt.ir.document import DEEPEST_USE, Block, Document, LayerKind, Node, Stack, Use
from canvas_rt.ir.expressions import names_in
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import Item, head, reachable_blocks
from canvas_rt.ops.catalogue import OPS
from canvas_rt.ops.functions import RUN_TIME
from canvas_rt.ops.op import Op

Shapes = Mapping[str, Any]
"""For each path, the shapes of its outputs, as `check` files them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that can be put into a graph."""

    id: str
    """`op:linear`, `recipe:gated_mlp`, `block:LlamaMLP`, `stack:LlamaDecoderLayer`, `io:input`, `io:output`."""

    title: str
    group: str
    summary: str
    source: str = ""


GROUPS: Mapping[str, str] = {
    "io": "Input and output",
    "embedding": "Embeddings and positions",
    "attention": "Attention",
    "norm": "Norms",
    "mlp": "MLPs and projections",
    "moe": "Mixture of experts",
    "arithmetic": "Glue",
    "stack": "Layers",
    "block": "Blocks of this document",
}
"""The palette's groups, in order."""

_SHOWN_UNDER = {"position": "embedding", "shape": "arithmetic"}


def palette(document: Document) -> tuple[Entry, ...]:
    """All that can be put into a document, blocks of its own last."""
    fixed = [
        Entry("io:input", "Text input", "io", "Token ids, as the tokenizer gives them: [batch, seq]."),
        Entry("io:tokenizer", "Tokenizer", "io", "What makes token ids of text; it says how large the vocabulary is."),
        Entry("recipe:logits", "Logits", "io", "A projection onto the vocabulary: a score for each token."),
        Entry("io:output", "Output", "io", "Another output of this block."),
    ]
    ops = [
        Entry(
            f"op:{op.name}",
            op.title,
            "io" if op.name == "softmax" else _SHOWN_UNDER.get(op.group, op.group),
            op.summary,
            op.source,
        )
        for op in OPS.values()
        if op.group != "function"  # those come with the models that hold them
    ]
    ready = [Entry(f"recipe:{r.id}", r.title, r.group, r.summary, r.source) for r in RECIPES.values()]
    layers = [
        Entry(f"stack:{name}", f"Stack of {name}", "stack", f"num_hidden_layers × {name}, each feeding the next.")
        for name in reachable_blocks(document)
        if document.blocks[name].role == "decoder_layer"
    ]
    own = [
        Entry(f"block:{name}", name, "block", f"Another use of this block, linked: {len(block.nodes)} nodes.")
        for name, block in document.blocks.items()
        if name != document.root
    ]
    found = [
        *fixed,
        *ready,
        *ops,
        Entry("recipe:stack", "Stack of layers", "stack", "num_hidden_layers new decoder layers."),
        *layers,
        *own,
    ]
    order = list(GROUPS)
    return tuple(sorted(found, key=lambda entry: order.index(entry.group)))


@dataclass(frozen=True, slots=True)
class Spot:
    """Where something is to go."""

    level: str
    """The level's path."""

    wire: End | None = None
    """The wire to put it on, by the port that the wire feeds."""

    source: End | None = None
    """The output that it is to read."""

    target: End | None = None
    """The input that it is to feed."""

    position: tuple[float, float] | None = None


def insert(document: Document, what: str, spot: Spot, shapes: Shapes) -> tuple[tuple[Edit, ...], str]:
    """Edits that put an entry of the palette at a spot, and the path of what they add."""
    if spot.wire is not None:
        wire = _where_it_is_cut(document, spot.wire, spot.level)
        spot = Spot(split(wire[0])[0], wire, spot.source, spot.target, spot.position)
    scope = scope_at(document, spot.level)
    sort, _, name = what.partition(":")
    if sort == "io":
        return _border(scope, name, spot)
    edits = list(_needed(document, sort, name))
    document = apply(document, *edits)
    scope = scope_at(document, spot.level)
    arriving = _arriving(document, scope, spot)
    item = _item(scope, sort, name, arriving, shapes)
    wires = _wires(scope, item, arriving)
    item = item.replace(inputs=FrozenMap(wires))
    path = scope.inside(item.id)
    new: list[Edit] = [AddNode(spot.level, item, before=_reader(scope, spot))]
    document = apply(document, *new)
    new += placed(document, spot.level, {item.id: spot.position})
    document = apply(document, *new[1:])
    if spot.source is not None and arriving is None:
        ports = in_ports(document, item)
        if not ports:
            raise EditError(f"{item.id} has no input", path=path, hint="Add it free, and connect its output.")
        new += connect(document, spot.source, (path, ports[0]))
        document = apply(document, *new[-1:])
    target = spot.wire or spot.target
    if target is not None:
        outs = out_ports(document, item)
        new += connect(document, (path, outs[0]), target)
    return (*edits, *new), path


def _where_it_is_cut(document: Document, wire: End, level: str) -> End:
    """The port that the part of a wire within a level feeds: a wire that crosses the border of a block has several."""
    inner = split(wire[0])[0]
    for _ in range(DEEPEST_USE):
        ref = _fed_by(document, wire)
        scope = scope_at(document, inner)
        giver = scope.block.node(head(ref))
        inside = scope.inside(head(ref))
        if isinstance(giver, Use) and (level == inside or level.startswith(f"{inside}.")):
            outputs = tuple(document.blocks[giver.block].outputs)
            wire, inner = (f"{inside}.{OUTPUTS}", ref.partition(".")[2] or outputs[0]), inside
        elif inner != level and inner.startswith(level) and ref in scope.block.inputs and _is_use(document, inner):
            wire, inner = (inner, ref), split(inner)[0]
        else:
            break
    return wire


def _is_use(document: Document, path: str) -> bool:
    return bool(path) and isinstance(item_at(document, path)[1], Use) if not path[-1:].isdecimal() else False


def _fed_by(document: Document, wire: End) -> str:
    """What a port reads, as its level calls it."""
    at, item = item_at(document, wire[0])
    found = at.block.outputs.get(wire[1]) if isinstance(item, str) else item.inputs.get(wire[1])
    if found is None:
        raise EditError("there is no wire here", path=f"{wire[0]}.{wire[1]}")
    return found


def _reader(scope: Scope, spot: Spot) -> str | None:
    """The node to stand before in reading order."""
    target = spot.wire or spot.target
    if target is None or split(target[0])[0] != scope.path:
        return None
    name = split(target[0])[1]
    return name if scope.block.node(name) else None


def _border(scope: Scope, name: str, spot: Spot) -> tuple[tuple[Edit, ...], str]:
    """A new input or output of the level's block."""
    if name == "input":
        fresh = unused_name("input_ids" if not scope.path else "x", (*scope.block.inputs, *scope.block.by_id))
        edits: list[Edit] = [AddInput(scope.path, fresh)]
        if spot.target is not None and split(spot.target[0])[0] == scope.path:
            edits.append(feed(spot.target, fresh))
        edits += placed(apply(scope.document, *edits), scope.path, {fresh: spot.position})
        return tuple(edits), scope.inside(fresh)
    if name == "tokenizer":
        if scope.path or not scope.block.inputs:
            raise EditError(
                "a tokenizer stands before the whole model", path=scope.path, hint="Go to the outermost level."
            )
        return use_tokenizer(scope.document, likeliest(scope.document)), scope.inside(scope.block.inputs[0])
    if name == "output":
        if spot.source is None:
            raise EditError("say what it gives", hint="Drag a wire from the node whose value is to be the output.")
        ref = local_ref(scope.document, spot.source)
        return (SetOutput(scope.path, unused_name("out", scope.block.outputs), ref),), scope.inside("return")
    raise CanvasError(f"there is no 'io:{name}' in the palette")


def placed(document: Document, level: str, positions: Mapping[str, tuple[float, float] | None]) -> list[Edit]:
    """The edit that says where new nodes stand. An edit of some layers gave them a block of their own: it is asked for now."""
    known = {name: position for name, position in positions.items() if position is not None}
    return [PlaceNodes(scope_at(document, level).block_name, FrozenMap(known))] if known else []


def _needed(document: Document, sort: str, name: str) -> Iterator[Edit]:
    """Edits that give the document the blocks, sizes and config values that an entry names."""
    blocks: dict[str, Block] = {}
    if sort == "recipe" and name in RECIPES:
        blocks = _recipe_blocks(document, RECIPES[name])
    elif sort == "recipe" and name == "stack":
        blocks = _recipe_blocks(document, RECIPES["decoder_layer"])
    names: set[str] = {"num_hidden_layers"} if sort == "stack" or name == "stack" else set()
    names |= {"hidden_size", "vocab_size"} if name == "logits" else set()
    for block in blocks.values():
        for item in block.nodes:
            names |= names_in(item.attrs) if isinstance(item, Node) else set()
    yield from _named(document, names)
    for block_name, block in blocks.items():
        yield AddBlock(block_name, block)


def _named(document: Document, names: set[str]) -> Iterator[Edit]:
    known = document.sizes.keys() | document.config.keys()
    for name, value in USUAL.items():  # in an order in which each follows those that it names
        wanted = name in names or ("head_dim" in names and name in names_in(USUAL["head_dim"]))
        if wanted and name not in known:
            yield AddSize(name, value)
    for name, value in USUAL_CONFIG.items():
        if name in names and name not in known:
            yield AddConfig(name, value)


def _recipe_blocks(document: Document, recipe: Recipe) -> dict[str, Block]:
    """A recipe's blocks under free names, inner ones first."""
    made: dict[str, Block] = {}

    def add(name: str, block: Block) -> str:
        free = unused_name(name, (*document.blocks, *made))
        made[free] = block
        return free

    block = recipe.build(add)
    add(recipe.block, block)
    return made


def _arriving(document: Document, scope: Scope, spot: Spot) -> str | None:
    """The value that a new node is to read, as its level calls it."""
    if spot.wire is not None:
        return _fed_by(document, spot.wire)
    if spot.source is not None and split(spot.source[0])[0] == scope.path:
        return local_ref(document, spot.source)
    return None


def _item(scope: Scope, sort: str, name: str, arriving: str | None, shapes: Shapes) -> Item:
    document = scope.document
    taken = (*scope.block.inputs, *scope.block.by_id)
    if sort == "op":
        if name not in OPS:
            raise CanvasError(f"there is no op '{name}'", hint=suggest(name, OPS))
        width = last_dim(scope, arriving, shapes) or usual_width(document)
        attrs = fitting(document, OPS[name], width)
        return Node(id=unused_name(_short(name), taken), op=name, attrs=FrozenMap(attrs))
    if sort == "recipe" and name == "logits":
        width = last_dim(scope, arriving, shapes) or usual_width(document)
        attrs = {"in_features": width, "out_features": "=vocab_size", "bias": False}
        return Node(id=unused_name("lm_head", taken), op="linear", attrs=FrozenMap(attrs))
    if sort == "recipe" and name in RECIPES:
        newest = list(document.blocks)[-1]  # the recipe's own block was added last
        return Use(id=unused_name(RECIPES[name].new_id, taken), block=newest)
    if sort == "recipe" and name == "stack":
        return stack(unused_name("layers", taken), list(document.blocks)[-1])
    if sort in ("block", "stack"):
        if name not in document.blocks:
            raise CanvasError(f"there is no block '{name}'", hint=suggest(name, document.blocks))
        if sort == "stack":
            kinds = (LayerKind(block=name),)
            return Stack(id=unused_name("layers", taken), repeat="=num_hidden_layers", kinds=kinds)
        return Use(id=unused_name(_snake(name), taken), block=name)
    raise CanvasError(f"there is no '{sort}:{name}' in the palette")


_IDS = {
    "rms_norm": "norm",
    "layer_norm": "norm",
    "linear": "proj",
    "activation": "act",
    "embedding": "embed",
    "router": "gate",
}


def _short(op: str) -> str:
    return _IDS.get(op, op)


def _snake(name: str) -> str:
    """`LlamaDecoderLayer` as `layer`: the last word, as ids usually are."""
    words = "".join(
        f" {c}" if c.isupper() and i and not name[i - 1].isupper() else c for i, c in enumerate(name)
    ).split()
    word = words[-1].lower() if words else "block"
    return word if word.isidentifier() else "block"


def last_dim(scope: Scope, ref: str | None, shapes: Shapes) -> Any:
    """The width of a value of a level: an expression in the model's own sizes, or a number; None where it is not known."""
    shape = shape_of(scope, ref, shapes)
    if shape is None or not shape.symbolic:
        return None
    text, actual = shape.symbolic[-1], shape.actual[-1]
    if text in RUN_TIME or text == str(actual):
        return actual
    known = scope.document.sizes.keys() | scope.document.config.keys()
    return f"={text}" if names_in(f"={text}") <= known else actual


def shape_of(scope: Scope, ref: str | None, shapes: Shapes) -> Any:
    """The shape of a value of a level, as `check` found it; None where it is not known."""
    if ref is None:
        return None
    name, _, port = ref.partition(".")
    if name in scope.block.inputs:
        return _input_shape(scope, name, shapes)
    item = scope.block.node(name)
    found = shapes.get(scope.first(name), ())
    ports = out_ports(scope.document, item) if item is not None else ()
    index = ports.index(port) if port in ports else 0
    return found[index] if index < len(found) else None


def _input_shape(scope: Scope, name: str, shapes: Shapes) -> Any:
    """The shape of a block's input: that of the value that feeds it, in the level around."""
    if not scope.path:
        return next(iter(shapes.get(name, ())), None)
    path = scope.path
    if scope.layers is not None and path == f"{scope.layers.path}.{scope.layers.text}":
        path = scope.layers.path
    around, item = item_at(scope.document, path)
    assert not isinstance(item, str)
    return shape_of(around, item.inputs.get(name), shapes)


def usual_width(document: Document) -> Any:
    return "=hidden_size" if "hidden_size" in document.sizes else 512


def fitting(document: Document, op: Op, width: Any) -> dict[str, Any]:
    """Settings for a new node that takes values of a width, in the document's own sizes where it has them."""
    named = {
        "num_embeddings": "vocab_size",
        "heads": "num_attention_heads",
        "head_dim": "head_dim",
        "max_position_embeddings": "max_position_embeddings",
        "parameters": "rope_parameters",
        "num_experts": "num_experts",
        "top_k": "num_experts_per_tok",
        "intermediate_size": "intermediate_size",
    }
    literal = {**USUAL, "rope_parameters": USUAL_CONFIG["rope_parameters"], "head_dim": 64, "num_attention_heads": 8}
    attrs: dict[str, Any] = {}
    for name, setting in op.settings.items():
        if name in ("in_features", "out_features", "size", "embedding_dim", "width"):
            attrs[name] = width
        elif name in named and not setting.optional:
            wanted = named[name]
            known = wanted in document.sizes or wanted in document.config
            attrs[name] = f"={wanted}" if known else literal[wanted]
        elif name == "scale":
            attrs[name] = "=head_dim ** -0.5" if "head_dim" in document.sizes else 0.125
        elif name == "fn" and "hidden_act" in document.config:
            attrs[name] = "=hidden_act"
        elif name == "eps" and "rms_norm_eps" in document.config:
            attrs[name] = "=rms_norm_eps"
        elif setting.default is None and not setting.optional:
            attrs[name] = {"integer": 0, "number": 1.0, "integers": (width,)}.get(setting.kind)
        else:
            attrs[name] = setting.default
    return attrs


def _wires(scope: Scope, item: Item, arriving: str | None) -> dict[str, str]:
    """What feeds a new node: the value at hand its first port, values of the level the ports that are called like them."""
    document = scope.document
    named = {name: name for name in scope.block.inputs}
    for other in scope.block.nodes:
        ports = out_ports(document, other)
        named.update({other.id: other.id} if len(ports) == 1 else {port: f"{other.id}.{port}" for port in ports})
    ports = in_ports(document, item)
    wires = {port: named[port] for port in ports[1:] if port in named}
    if ports and arriving is not None:
        wires[ports[0]] = arriving
    elif isinstance(item, Node) and len(ports) == 1 and ports[0] in named:
        wires[ports[0]] = named[ports[0]]
    return wires


__all__ = ["GROUPS", "Entry", "Spot", "fitting", "insert", "last_dim", "palette", "shape_of"]
