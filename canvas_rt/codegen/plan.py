"""What a document becomes: names, masks, layers and caches of the emitted model, and what forbids to emit it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn

from canvas_rt.codegen.holders import TAKEN
from canvas_rt.codegen.modules import CONSTRUCT, ROTARY_READS, Classes
from canvas_rt.errors import EmitError
from canvas_rt.ir.document import LAYER, Document, Node, Stack, Use
from canvas_rt.ir.expressions import display, is_expression, names_in
from canvas_rt.ir.graph import (
    Item,
    blocks_of,
    execution_order,
    given_alike,
    handed_on,
    key_clashes,
    key_of,
    reachable_blocks,
    running_order,
)
from canvas_rt.ir.halves import Halves, Sides, halves_of, sides_of
from canvas_rt.ir.tasks import CAUSAL_LM, Task
from canvas_rt.ops.catalogue import complete, numbered_setting, op_named, setting_problems, shown
from canvas_rt.ops.learned import MODULE, PARAMETER
from canvas_rt.ops.modules import attends_by, cache_argument, flaw
from canvas_rt.ops.op import parameter_key

PREFIX = "Canvas"
RESERVED = frozenset(dir(nn.Module)) | {
    "config",
    "layer_idx",
    "scaling",
    "sliding_window",
    "num_key_value_groups",
    "attention_dropout",
    "is_causal",
    "gradient_checkpointing",
    "training",
    "post_init",
    "generate",
    "loss_function",
}
"""Attributes that a module has for itself: a node with one of these ids could not be an attribute."""

ENCODED = "encoder_hidden_states"
"""The input of a decoder that takes what the encoder gives."""

LITERAL = frozenset({"choice", "dtype", "text", "name"})
"""Kinds of setting that decide what code is written, and so must be known when it is."""

SWITCHED = frozenset({"fn", "scoring"})
"""Choices that emitted code makes when it runs."""


@dataclass(frozen=True)
class Names:
    """What an emitted module calls its classes."""

    root: str
    """The root block's name."""

    task: Task = CAUSAL_LM
    lead: str = PREFIX
    """What every class's name begins with."""

    @property
    def prefix(self) -> str:
        return self.lead + self.root.removesuffix(self.task.ending).removesuffix("LMHeadModel").removesuffix("MTModel")

    def of(self, block: str) -> str:
        if block == self.root:
            return self.model
        return f"{self.lead}{block}Block" if self.lead + block in self.taken else self.lead + block

    @property
    def model(self) -> str:
        """The whole model's class: its name says what it is for."""
        return f"{self.prefix}{self.task.ending}"

    @property
    def config(self) -> str:
        return f"{self.prefix}Config" if self.lead else "Config"

    @property
    def pretrained(self) -> str:
        return f"{self.prefix}PreTrainedModel"

    @property
    def classes(self) -> Classes:
        return Classes(self.prefix)

    @property
    def taken(self) -> frozenset[str]:
        """Classes that an emitted module may have, whatever its blocks are called."""
        return frozenset({self.config, self.pretrained, *self.classes.all})


@dataclass(frozen=True)
class Tower:
    """A stack of layers, and the block that takes tokens or images to it: a model has one, or an encoder and a decoder."""

    block: str
    holder: str
    """The block in which the stack stands: that block, or one within it."""

    stack: Stack
    part: str = ""
    """`encoder` or `decoder` where there are both."""

    @property
    def kinds_field(self) -> str:
        """Where the config lists which class each layer is of."""
        return "encoder_layer_kinds" if self.part == "encoder" else "layer_kinds"

    @property
    def several_classes(self) -> bool:
        return len(blocks_of(self.stack)) > 1


@dataclass
class Plan:
    """What emission knows of a document as a whole."""

    document: Document
    comments: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Shapes to write beside lines, by block and node."""

    places: Mapping[str, Mapping[str, tuple[str, int]]] = field(default_factory=dict)
    """For each block, where `batch` and `seq` can be read: the input that has them, and the dimension."""

    flat: Mapping[str, bool] = field(default_factory=dict)
    """Blocks whose input that tells batch and sequence has other than three dimensions."""

    @cached_property
    def names(self) -> Names:
        return Names(self.document.root, self.task)

    @property
    def classes(self) -> Classes:
        """The small classes that the model defines for itself."""
        return Classes(self.names.prefix, self.turns_unlike)

    @property
    def task(self) -> Task:
        """What the model is for."""
        return self.document.purpose

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Blocks in use, each before those that use it."""
        return reachable_blocks(self.document)

    def items(self, block: str) -> tuple[Item, ...]:
        """What runs of a block."""
        return running_order(self.document.blocks[block])[0]

    def holding(self, *ops: str) -> frozenset[str]:
        """Blocks that contain one of some ops, themselves or further in."""
        return self.where(lambda node: node.op in ops)

    def where(self, holds: Callable[[Node], bool]) -> frozenset[str]:
        """Blocks that contain a node of some sort, themselves or further in."""
        found: set[str] = set()
        for name in self.order:
            for item in self.items(name):
                if (isinstance(item, Node) and holds(item)) or any(inner in found for inner in blocks_of(item)):
                    found.add(name)
        return frozenset(found)

    @cached_property
    def attending(self) -> frozenset[str]:
        """Blocks that contain attention, or another module with a state in the cache, themselves or further in."""
        return self.where(lambda node: node.op == "attention" or (node.op == MODULE and _has_context(node)))

    @property
    def attention_anywhere(self) -> bool:
        """Whether anything attends."""
        return bool(self.where(_sees))

    @cached_property
    def stateful(self) -> frozenset[str]:
        """Blocks that contain a module which keeps a state of its own, themselves or further in."""
        return self.where(lambda node: node.op == MODULE and not complete(node)["arguments"])

    @cached_property
    def numbered(self) -> frozenset[str]:
        """Blocks that go by the number of the layer in which they stand, themselves or further in."""
        return self.where(lambda node: LAYER in names_in(node.attrs))

    @cached_property
    def positioned(self) -> frozenset[str]:
        """Blocks inside the backbone that number the tokens, themselves or further in."""
        outside = {self.trunk, self.document.root, *(tower.block for tower in self.towers)}
        return self.holding("position_ids", "padded_positions") - outside

    @cached_property
    def halves(self) -> Halves | None:
        """The encoder and the decoder of a model that has both."""
        found = halves_of(self.document)
        if found is None and self.task.decodes:
            message = f"must hold an encoder that reads {self.task.takes} and a decoder that takes {self.task.decodes}"
            hint = "Group each of them, embedding and layers, into a block of its own."
            raise EmitError(message, path=self.document.root, hint=hint)
        return found

    @cached_property
    def sides(self) -> Sides:
        """What follows from what an encoder reads alone, and which attention looks across."""
        return sides_of(self.document)

    @cached_property
    def towers(self) -> tuple[Tower, ...]:
        """The stacks of layers, and the blocks that hold them: the last is the one that gives the logits."""
        if self.halves is None:
            holder, stack = self.only_stack(self.order, "the model")
            root = self.document.blocks[self.document.root]
            uses = [i for i in root.nodes if isinstance(i, Use) and self.task.takes in i.inputs.values()]
            inside = [use.block for use in uses if holder in reachable_blocks(self.document, use.block)]
            return (Tower(inside[0] if inside else holder, holder, stack),)
        sides = ("encoder", self.halves.encoder.block), ("decoder", self.halves.decoder.block)
        stacks = (self.only_stack(reachable_blocks(self.document, block), f"the {part}") for part, block in sides)
        return tuple(Tower(block, *found, part) for (part, block), found in zip(sides, stacks, strict=True))

    def only_stack(self, blocks: Sequence[str], whose: str) -> tuple[str, Stack]:
        """The one stack in some blocks, and the block that holds it."""
        stacks = [(n, i) for n in blocks for i in self.document.blocks[n].nodes if isinstance(i, Stack)]
        if len(stacks) != 1:
            raise EmitError(
                f"{whose} has {len(stacks)} stacks of layers; a Hugging Face model has one",
                hint="Move all layers into one stack: layers of unlike kinds may follow one another in it.",
            )
        return stacks[0]

    @property
    def main(self) -> Tower:
        """The tower that gives the logits."""
        return self.towers[-1]

    @property
    def trunk(self) -> str:
        """The block that the whole model passes all that it is given on to; with an encoder it may be the root itself."""
        return self.main.block if self.halves is None else self.halves.holder

    @property
    def stack(self) -> tuple[str, Stack]:
        """The stack of layers, and the block that holds it."""
        return self.main.holder, self.main.stack

    @property
    def backbone(self) -> tuple[str, Stack]:
        """The block that takes the tokens, and the stack of layers that it holds, itself or further in."""
        return self.main.block, self.main.stack

    def tower_at(self, block: str) -> Tower | None:
        """The tower that a block is, or whose stack it holds."""
        return next((tower for tower in self.towers if block in (tower.block, tower.holder)), None)

    def given_alike(self, stack: Stack) -> tuple[str, ...]:
        """What every layer takes from around a stack, what is carried first."""
        return given_alike(stack, self.document.blocks)

    def handed_on(self, stack: Stack) -> tuple[str, ...]:
        """What layers of a stack hand to later ones, by name."""
        return handed_on(stack, self.document.blocks)

    def stack_of_layers(self, block: str) -> Stack | None:
        """The stack of which a block is a layer."""
        return next((tower.stack for tower in self.towers if block in blocks_of(tower.stack)), None)

    @cached_property
    def shares_keys(self) -> bool:
        """Whether some layers attend to the keys and values of earlier ones."""
        return any(not complete(node)["cached"] for name in self.order for node in self.attention_nodes(name))

    @cached_property
    def layer_blocks(self) -> tuple[str, ...]:
        """The blocks that layers are."""
        return tuple(dict.fromkeys(name for tower in self.towers for name in blocks_of(tower.stack)))

    @cached_property
    def encoding(self) -> frozenset[str]:
        """Blocks that stand in an encoder alone."""
        within = [frozenset(reachable_blocks(self.document, tower.block)) for tower in self.towers]
        return within[0] - within[1] if len(within) > 1 else frozenset()

    def cached(self, block: str) -> bool:
        """Whether attention in a block keeps keys and values."""
        return self.task.generates and block not in self.encoding

    def wants(self, block: str) -> tuple[str, ...]:
        """What a block with attention is told beside its values: masks, and the cache."""
        if self.halves is None:
            return ("attention_mask", "past_key_values") if self.task.generates else ("attention_mask",)
        own = [n for n in reachable_blocks(self.document, block) if self.attention_nodes(n)]
        across = [self.sides.is_across(name) for name in own]
        names = [*(["attention_mask"] if not all(across) else []), *(["encoder_attention_mask"] if any(across) else [])]
        return (*names, "past_key_values") if self.cached(block) else tuple(names)

    @cached_property
    def inner(self) -> frozenset[str]:
        """Blocks that stand inside layers, the layers' own included."""
        return frozenset(n for layer in self.layer_blocks for n in reachable_blocks(self.document, layer))

    @cached_property
    def heterogeneous(self) -> bool:
        """Whether some layers have sizes of their own."""
        return any(kind.sizes for kind in self.backbone[1].kinds)

    @cached_property
    def layers_own(self) -> frozenset[str]:
        """What some layers have for themselves."""
        return frozenset(name for kind in self.backbone[1].kinds for name in kind.sizes)

    @cached_property
    def turns_unlike(self) -> bool:
        """Whether some layers have for themselves what rotary embeddings read."""
        return bool(self.layers_own & {"head_dim", "rope_parameters", "max_position_embeddings"})

    @cached_property
    def windows(self) -> frozenset[str]:
        """Every attention window, as written."""
        nodes = [node for name in self.order for node in self.seeing_nodes(name)]
        overridden = {
            f"{name}={value}"
            for kind in self.backbone[1].kinds
            for name, value in kind.sizes.items()
            if any(f"={name}" in (complete(node)["window"], complete(node)["chunk"]) for node in nodes)
        }
        return frozenset({_span(complete(node)) for node in nodes} | overridden)

    @cached_property
    def masks(self) -> bool:
        """Whether layers see unlike windows, so that each takes its own mask."""
        return len(self.windows) > 1

    @property
    def own_masks(self) -> bool:
        """Whether masks say more than transformers can tell from the config, so that only the model can make them."""
        return (
            self.windows not in ({"None"}, {"=sliding_window"}, set())
            or bool(self.stateful or self.whole)
            or self.keeps_all
        )

    @property
    def given(self) -> tuple[str, ...]:
        """What the whole model is given: tokens or images, and what its task may take beside."""
        inputs = self.document.blocks[self.document.root].inputs
        own = (self.task.takes, self.task.decodes) if self.task.decodes else (self.task.takes,)
        return (*own, *(name for name in self.task.also if name in inputs))

    @property
    def lists_layers(self) -> bool:
        """Whether the config says of each layer what transformers must know of it: for its cache, or its rotary tables."""
        by_type = self.document.config.get("rope_parameters") or {}
        turned = isinstance(by_type, Mapping) and any(isinstance(own, Mapping) for own in by_type.values())
        if not self.task.generates:
            return turned
        return self.masks or bool(self.stateful or self.whole) or self.keeps_all

    @cached_property
    def windowed(self) -> frozenset[str]:
        """Blocks that see no further than a window, themselves or further in."""
        return self.where(lambda node: _sees(node) and _span(complete(node)) != "None")

    @cached_property
    def cache_type(self) -> str:
        """What the cache is told of layers that do not see all: to forget, where their window is the one that the config names.

        A cache that forgets has one window, and a place for each layer: where windows differ, or some layers have no
        place, it keeps all tokens, and the masks hide the rest.
        """
        kinds = {"=sliding_window": "sliding_attention", "chunk =attention_chunk_size": "chunked_attention"}
        spans = [span for span in self.windows if span != "None"]
        if len(spans) != 1 or spans[0] not in kinds or self.without_attention:
            return "full_attention"
        size = self.document.environment.get(spans[0].rpartition("=")[2])
        return "full_attention" if size is None else kinds[spans[0]]

    @property
    def keeps_all(self) -> bool:
        """Whether the config names a window that attention does not have: the cache must not go by it."""
        named = {"sliding_window", "attention_chunk_size"} & {*self.document.sizes, *self.document.config}
        return bool(named) and self.windows != {"=sliding_window"}

    @property
    def causal(self) -> bool:
        """Whether attention sees no later token."""
        return self.is_causal(self.main)

    def is_causal(self, tower: Tower) -> bool:
        """The same of one of two towers: attention that looks across from it sees all."""
        inside = reachable_blocks(self.document, tower.block) if self.halves else self.order
        nodes = [node for name in inside if not self.sides.is_across(name) for node in self.seeing_nodes(name)]
        kinds = {complete(node)["causal"] for node in nodes}
        if len(kinds) > 1:
            raise EmitError("some attention is causal and some is not; a Hugging Face model has one sort")
        return kinds != {False}

    @cached_property
    def eager_only(self) -> bool:
        """Whether some attention does what only the eager function knows: soft caps, sinks and biases."""
        nodes = [node for name in self.order for node in self.attention_nodes(name)]
        return any(complete(node)["softcap"] is not None or node.inputs.keys() & {"sinks", "bias"} for node in nodes)

    @cached_property
    def without_attention(self) -> frozenset[str]:
        """Layer blocks that hold no attention, and so no place in the cache."""
        return frozenset(layer for layer in self.layer_blocks if layer not in self.attending)

    @cached_property
    def whole(self) -> tuple[Node, ...]:
        """Modules kept whole that attend."""
        nodes = (node for name in self.order for node in self.seeing_nodes(name) if node.op == MODULE)
        return tuple(nodes)

    def supports(self, name: str) -> bool:
        """Whether all that attends has an implementation of attention."""
        kept = all(attends_by(complete(node)["source"])[name] for node in self.whole)
        return kept and not self.eager_only

    @property
    def always_masked(self) -> bool:
        """Whether a mask is made though attention could do without."""
        return any(attends_by(complete(node)["source"])["always"] for node in self.whole)

    def seeing_nodes(self, block: str) -> list[Node]:
        """What takes a mask."""
        return [item for item in self.items(block) if isinstance(item, Node) and _sees(item)]

    def attention_nodes(self, block: str) -> list[Node]:
        return [item for item in self.items(block) if isinstance(item, Node) and item.op == "attention"]

    def gives_weights(self, block: str) -> bool:
        """Whether a block's `forward` gives attention weights beside its value, as modules that attend do."""
        return bool(self.attention_nodes(block)) and block not in self.layer_blocks

    def attentions_in(self, block: str, across: bool = False) -> int:
        """How many times a block attends, inner blocks counted by use; or looks `across` at what an encoder gives."""
        own = len(self.attention_nodes(block)) if self.sides.is_across(block) == across else 0
        return own + sum(self.attentions_in(inner, across) for item in self.items(block) for inner in blocks_of(item))

    def validate(self) -> None:
        """Raise `EmitError` for a graph that no Hugging Face model can be."""
        backbone = self.main.block
        for name in self.order:
            stray = next((i.id for i in self.items(name) if isinstance(i, Node) and LAYER in names_in(i.attrs)), None)
            if stray and name not in self.inner:
                raise EmitError(f"goes by the number of a layer ({LAYER}), and stands in none", path=f"{name}.{stray}")
        if self.stateful and not self.task.generates:
            hint = "Take it out, or make the document a causal language model."
            raise EmitError(f"{self.task.words} has no state along the sequence", path=min(self.stateful), hint=hint)
        holders = {tower.holder for tower in self.towers}
        for name in self.attending:
            if name not in self.inner and not holders & set(reachable_blocks(self.document, name)):
                raise EmitError(
                    "attends outside the layers", path=name, hint="Move the attention into a layer of the stack."
                )
        for name in (self.trunk, *(tower.block for tower in self.towers), *holders, self.document.root):
            if self.attention_nodes(name):
                raise EmitError(
                    "attends outside the layers", path=name, hint="Move the attention into a layer of the stack."
                )
        for layer in self.layer_blocks:
            if (times := max(self.attentions_in(layer), self.attentions_in(layer, across=True))) > 1:
                raise EmitError(
                    f"attends {times} times; each layer has one place in the key/value cache",
                    path=layer,
                    hint="Put the second attention into a layer of its own.",
                )
        if self.halves is None:
            self.validate_backbone(backbone)
        for name in self.order:
            for item in self.items(name):
                counts = isinstance(item, Node) and item.op == "position_ids"
                if counts and complete(item)["source"] != (name in self.encoding):  # type: ignore[arg-type]
                    message = "numbers what an encoder reads where a decoder's tokens flow, or the other way round"
                    hint = f"Set source to {str(name in self.encoding).lower()}."
                    raise EmitError(message, path=f"{name}.{item.id}", hint=hint)
        if not self.task.of_tokens and (self.windows != {"None"} or self.causal):
            hint = "Set causal to false, and window and chunk to null, on every attention node."
            raise EmitError(f"the attention of {self.task.words} sees all of an image", path=backbone, hint=hint)
        emitted: dict[str, str] = {self.names.model: self.document.root}
        for name in self.order:
            other = emitted.setdefault(self.names.of(name), name)
            if other != name:
                raise EmitError(
                    f"would be emitted as {self.names.of(name)}, as {other} is",
                    path=name,
                    hint="Call the block otherwise.",
                )
            self.validate_block(name)

    def validate_backbone(self, backbone: str) -> None:
        """The whole model hands on what it is given to one block, and that is all that reads it."""
        root, takes = self.document.blocks[self.document.root], self.task.takes
        uses = [item for item in self.items(self.document.root) if isinstance(item, Use) and item.block == backbone]
        readers = [
            i.id for i in root.nodes if not (isinstance(i, Use) and i.block == backbone) and takes in i.inputs.values()
        ]
        if len(uses) != 1 or dict(uses[0].inputs) != {name: name for name in self.given} or readers:
            raise EmitError(
                f"'{self.document.root}' must pass {takes} to one backbone block, and nothing else may read them",
                path=readers[0] if readers else self.document.root,
                hint="Group embedding, layers and final norm into one block.",
            )
        if "." in key_of(uses[0]):
            raise EmitError(
                "the backbone is an attribute of the whole model, and stands in no list",
                path=uses[0].id,
                hint="Give it a key without a dot.",
            )
        if set(self.document.blocks[backbone].inputs) != set(self.given) or tuple(root.outputs) != ("logits",):
            raise EmitError(f"takes {takes} and gives logits in every {self.task.words}", path=self.document.root)

    def validate_settings(self, node: Node, path: str) -> None:
        """Refuse settings that no code could be written for: what a document says is never pasted into code unread."""
        op, written = op_named(node.op, path), complete(node)
        if (numbered := numbered_setting(node)) is not None:
            raise EmitError(f"{numbered} may not go by the number of the layer ({LAYER})", path=path)
        for name, kind in ((name, one.kind) for name, one in op.settings.items()):
            if kind in LITERAL and name not in SWITCHED and is_expression(written[name]):
                raise EmitError(f"{name} = {display(written[name])} must be written out", path=path)
        literal = {name: value for name, value in written.items() if not names_in(value)}
        known = replace(op, settings={name: op.settings[name] for name in literal if name in op.settings})
        for message, hint in setting_problems(known, literal, shown(node)):
            raise EmitError(message, path=path, hint=hint)
        if node.op == MODULE and (found := flaw({**written, "keys": {}})):
            raise EmitError(found[0], path=path, hint=found[1])

    def validate_block(self, name: str) -> None:
        block = self.document.blocks[name]
        if execution_order(block)[1]:
            raise EmitError("stands in a cycle", path=f"{name}.{execution_order(block)[1][0]}")
        for item in self.items(name):
            if isinstance(item, Node):
                self.validate_settings(item, f"{name}.{item.id}")
        for item_id, other in key_clashes(block).items():
            raise EmitError(f"stands in the checkpoint where {other} does", path=f"{name}.{item_id}")
        for item in block.nodes:
            first, *rest = place_of(item).split(".")
            if first in RESERVED and not (isinstance(item, Node) and item.op not in CONSTRUCT and not rest):
                raise EmitError(
                    f"'{first}' is a name that every module has for itself",
                    path=f"{name}.{item.id}",
                    hint="Rename the node.",
                )
            if taken := next((part for part in rest if part in TAKEN), None):
                message = f"'{taken}' is a name that every list or table of modules has for itself"
                raise EmitError(message, path=f"{name}.{item.id}", hint="Give the node another key.")


def _span(attrs: Mapping[str, Any]) -> str:
    """What an attention sees, as a key: the expression of its window, that of its chunk, or nothing."""
    return f"chunk {attrs['chunk']}" if attrs["chunk"] is not None else str(attrs["window"])


def settings_read(item: Item) -> Mapping[str, Any]:
    """The settings of an item that its block reads: a rotary embedding reads the usual ones by itself."""
    attrs: Mapping[str, Any] = item.attrs if isinstance(item, Node) else {}
    if isinstance(item, Node) and item.op == "rotary_embedding":
        return {name: value for name, value in attrs.items() if ROTARY_READS.get(name) != value}
    return attrs


def is_tensor(item: Item) -> bool:
    """Whether an item is a tensor of the block's own."""
    return isinstance(item, Node) and item.op == PARAMETER


def place_of(item: Item) -> str:
    """What an item is called in the checkpoint, within its block; of a tensor the whole key."""
    return parameter_key(key_of(item), complete(item)["key"] if isinstance(item, Node) and is_tensor(item) else "")


def _sees(node: Node) -> bool:
    """Whether a node takes attention's mask."""
    return node.op == "attention" or (node.op == MODULE and bool(complete(node)["mask"]))


def _has_context(node: Node) -> bool:
    """Whether a module kept whole takes the cache, or a mask."""
    attrs = complete(node)
    return not attrs["arguments"] or bool(attrs["mask"]) or bool(cache_argument(attrs["source"]))
