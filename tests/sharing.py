"""A Llama in which every other layer attends to the keys and values of the layer before it (Brandon et al. 2024)."""

from benchmarks.cpu_memory import SIZES
from canvas_rt.importer import open_zoo
from canvas_rt.ir.document import Block, Document, LayerKind, Node, Stack, Use, runs_of
from canvas_rt.ir.files import dumps, parse_document, parse_json
from canvas_rt.ir.frozen import FrozenMap

HANDED = {"prev_k": "rotary.k", "prev_v": "v"}


def shared_keys(document: Document | None = None) -> Document:
    """The document, with layers of two kinds in turn: one hands its keys and values on, the other takes them."""
    if document is None:
        document = open_zoo("llama-3.1-8b")
        document = document.replace(sizes=document.sizes.with_items(SIZES))
    layer, attention = document.blocks["LlamaDecoderLayer"], document.blocks["LlamaAttention"]
    blocks = {
        "GivingAttention": attention.replace(outputs=attention.outputs.with_items(HANDED)),
        "TakingAttention": _taking(attention),
        "GivingLayer": _using(layer, "GivingAttention", "self_attn.out").replace(
            outputs=layer.outputs.with_items({name: f"self_attn.{name}" for name in HANDED})
        ),
        "TakingLayer": _using(layer, "TakingAttention", "self_attn", *HANDED).replace(inputs=(*layer.inputs, *HANDED)),
        "LlamaModel": _in_turn(document.blocks["LlamaModel"], int(document.environment["num_hidden_layers"])),
    }
    kept = {n: b for n, b in document.blocks.items() if n not in ("LlamaDecoderLayer", "LlamaAttention", *blocks)}
    text = dumps(document.replace(blocks=FrozenMap({**blocks, **kept})))
    return parse_document(parse_json(text, "sharing"))


def _taking(attention: Block) -> Block:
    changed = {
        "rotary": {"op": "rotate", "inputs": FrozenMap({"x": "q", "cos": "cos", "sin": "sin"})},
        "attention": {"inputs": FrozenMap({"q": "rotary", "k": "prev_k", "v": "prev_v"})},
    }
    nodes = []
    for node in attention.nodes:
        if node.id in ("k_proj", "k", "v_proj", "v"):
            continue
        assert isinstance(node, Node)
        attrs = node.attrs.with_items({"cached": False}) if node.id == "attention" else node.attrs
        nodes.append(node.replace(attrs=attrs, **changed.get(node.id, {})))
    return attention.replace(inputs=(*attention.inputs, *HANDED), nodes=tuple(nodes))


def _using(layer: Block, attention: str, value: str, *taken: str) -> Block:
    items = []
    for item in layer.nodes:
        inputs = {port: value if ref == "self_attn" else ref for port, ref in item.inputs.items()}
        if isinstance(item, Use) and item.id == "self_attn":
            item = item.replace(block=attention)
            inputs |= {name: name for name in taken}
        items.append(item.replace(inputs=FrozenMap(inputs)))
    return layer.replace(nodes=tuple(items))


def _in_turn(model: Block, count: int) -> Block:
    kinds = LayerKind(block="GivingLayer"), LayerKind(block="TakingLayer")
    runs = runs_of(tuple(layer % 2 for layer in range(count)))
    items = (item.replace(kinds=kinds, runs=runs) if isinstance(item, Stack) else item for item in model.nodes)
    return model.replace(nodes=tuple(items))
