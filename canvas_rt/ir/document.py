"""The document: an architecture as named blocks of nodes over symbolic sizes. Declared once, here; every value is frozen."""

import keyword
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Final, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from canvas_rt.errors import CanvasError
from canvas_rt.ir.expressions import expression, is_expression, names_in, resolve
from canvas_rt.ir.frozen import Frozen, FrozenMap, freeze
from canvas_rt.ir.tasks import TASKS, Task, TaskName

SCHEMA_VERSION: Final = 1
MOST_LAYERS = 4096
"""More layers than any stack may repeat: what makes a config a denial of service is its counts, not its widths."""


MOST_KINDS = 256
"""More kinds of layer than any stack may have."""

MOST_NODES = 1024
"""More nodes than any block may hold."""

MOST_NAMES = 512
"""More sizes, config values or ties than any document may hold."""

MOST_INSIDE = 2048
"""More nodes than one layer may unfold into. Thirty blocks, each using the next twice, would be a billion."""

MOST_ITEMS = 2**17
"""More nodes than a document may unfold into, layers alike that stand together counted once."""

DEEPEST_USE = 24
"""More levels of blocks within blocks than any document may have."""

LAYER: Final = "layer"
"""In the expressions of a layer's block: the layer's number, from 0. A layer takes its own part of a table by it."""

RESERVED = frozenset(
    (
        LAYER,
        "model_type",
        "architectures",
        "auto_map",
        "is_encoder_decoder",
        "per_layer_config",
        "layer_types",
        "layer_kinds",
        "encoder_layer_kinds",
        "quantization_config",
    )
)
"""What an emitted config.json says for itself, so that no size or config value may be called so."""


def identifier(text: str) -> str:
    """The text, if it may name a node, a block or a size. Raises `ValueError` where it may not."""
    if len(text) > 64:
        raise ValueError(f"'{text[:40]}…' is longer than 64 characters")
    if not text.isascii() or not text.isidentifier() or keyword.iskeyword(text) or text.startswith("__"):
        raise ValueError(f"'{text}' is not a Python identifier of ASCII letters, digits and '_'")
    return text


def _key(text: str) -> str:
    if text:
        first, *rest = text.split(".")
        if len(text) > 200 or len(rest) > 8:
            raise ValueError(f"'{text[:40]}…' is longer than any key")
        identifier(first)
        for name in rest:
            if not (name.isascii() and name.isdecimal() and len(name) <= 4 and str(int(name)) == name):
                identifier(name)
    return text


WEIGHTS_OF_ITS_OWN = ("=initialise", "=zeros", "=ones", "=identity")
"""What an item's parameters may be where they are none of the origin's."""

PASSED_THROUGH = "."
"""The weights of a block that the origin does not have: of what is inside, those of the place where it stands."""

_PART = re.compile(r"[A-Za-z_]\w*(\.\w+)*(\[[^\[\]]{1,200}:[^\[\]]{1,200}\])?", re.ASCII)


def weight_parts(text: str) -> tuple[str, ...]:
    """The parts that `q_proj + k_proj[0:head_dim]` joins."""
    return tuple(part.strip() for part in re.split(r"\+(?![^\[]*\])", text))


def _weights(text: str) -> str:
    if text in ("", PASSED_THROUGH, *WEIGHTS_OF_ITS_OWN):
        return text
    for part in weight_parts(text):
        if not _PART.fullmatch(part):
            raise ValueError(
                f"'{part[:60]}' names no weights: give keys of the origin beside it, as in 'q_proj + k_proj' or"
                f" 'qkv_proj[0:hidden_size]', or {', '.join(WEIGHTS_OF_ITS_OWN)}"
            )
        for bound in part.partition("[")[2].rstrip("]").split(":") if "[" in part else ():
            try:
                expression(f"={bound}")
            except CanvasError as error:
                raise ValueError(error.message) from error
    return text


def _expression_or_constant(value: Any) -> Any:
    if is_expression(value):
        try:
            expression(value)
        except CanvasError as error:
            raise ValueError(error.message) from error
    elif isinstance(value, tuple):
        for item in value:
            _expression_or_constant(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            _expression_or_constant(item)
    return value


def _size(value: Any) -> Any:
    if not is_expression(value) and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"must be an integer or an expression such as '=head_dim * 2', not {value!r:.60}")
    return value


def _reference(text: str) -> str:
    head, _, port = text.partition(".")
    identifier(head)
    if port:
        identifier(port)
    return text


Identifier = Annotated[str, AfterValidator(identifier)]
Key = Annotated[str, AfterValidator(_key), Field(exclude_if=lambda text: not text)]
"""What an item is called in the checkpoint, where that is not its id: identifiers and numbers, as in `ffn.0`. Or nothing."""
Weights = Annotated[str, AfterValidator(_weights), Field(max_length=800, exclude_if=lambda text: not text)]
"""Where an item's parameters come from, if not from what has its key: keys of the origin beside it (`q_proj`, or several,
joined by `+` along their first dimension, or a range of rows, `qkv_proj[0:hidden_size]`), `.` for a block that the origin
does not have, or `=zeros`, `=ones`, `=identity`, `=initialise`."""
Setting = Annotated[Frozen, AfterValidator(_expression_or_constant)]
"""A constant, or text that begins with `=`: an expression over the model's sizes and config values."""
Size = Annotated[Setting, AfterValidator(_size)]
"""An integer, or an expression that gives one."""
ValueRef = Annotated[str, AfterValidator(_reference)]
"""What feeds a port: a node's id, a node's id and port (`rotary_emb.cos`), or the name of a block's input."""
Name = Annotated[str, Field(min_length=1, max_length=120)]
"""What people call a document."""
Coordinate = Annotated[float, Field(allow_inf_nan=False)]
"""A place on the canvas, in its own unit."""


class Model(BaseModel):
    """Base of all that a document holds: frozen, strict, and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed. Values are taken as they are: validated data stays valid data."""
        # model_copy would carry cached properties over: build anew, without validating again.
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return cast(Self, type(self).model_construct(**{**fields, **changes}))


class Node(Model):
    """One use of an op: what it does, its settings, what feeds it."""

    id: Identifier
    """Unique in its block: the attribute's name in the emitted module, and a part of the checkpoint key, if it has no other."""

    op: str = Field(max_length=80)
    """A name from the catalogue of ops."""

    attrs: FrozenMap[Identifier, Setting] = FrozenMap()
    """The op's settings."""

    inputs: FrozenMap[Identifier, ValueRef] = FrozenMap()
    """For each input port, the value that feeds it."""

    key: Key = ""
    """What it is called in the checkpoint, where that is not its id: `ffn.0` is the first in the list `ffn` of its block.
    Nodes of one key are one module, used several times."""

    weights: Weights = ""
    """Where its parameters come from, if not from the origin's of its key."""


class Use(Model):
    """One use of a block as a node. Uses of one block are linked: an edit of the block changes all of them."""

    id: Identifier
    """Unique in its block."""

    block: Identifier
    """The block's name."""

    inputs: FrozenMap[Identifier, ValueRef] = FrozenMap()
    """For each input of the block, the value that feeds it."""

    key: Key = ""
    """What it is called in the checkpoint, where that is not its id, as of a node."""

    weights: Weights = ""
    """Where the parameters inside it come from, as of a node."""


class LayerKind(Model):
    """What some layers of a stack have in common: their block, and the sizes in which they differ from the model."""

    block: Identifier
    """The block that each such layer is."""

    sizes: FrozenMap[Identifier, Size] = FrozenMap()
    """Sizes that these layers have for themselves; all others are the model's."""


class Run(Model):
    """A range of layers of one kind."""

    start: int = Field(ge=0)
    """The first layer."""

    stop: int = Field(ge=1)
    """One past the last layer."""

    kind: int = Field(ge=0)
    """An index into the stack's kinds."""


class Stack(Model):
    """Layers in a row, each feeding the next: one value is carried through, other inputs go to every layer alike.

    The first output of a layer's block is what it carries on. Any other is handed to later layers: to their inputs of the
    same name, until another layer hands on a value of that name.
    """

    id: Identifier
    """Unique in its block."""

    repeat: Size
    """How many layers."""

    kinds: tuple[LayerKind, ...] = Field(min_length=1, max_length=MOST_KINDS)
    """The kinds of layer; the first is the default."""

    runs: tuple[Run, ...] = Field(default=(), max_length=MOST_LAYERS)
    """Layers that are not of the default kind: sorted, without overlap."""

    source: tuple[int | None, ...] | None = Field(default=None, max_length=MOST_LAYERS)
    """For each layer, the layer of the origin whose weights it takes (`null`: fresh). `null` as a whole: its own."""

    weights: Weights = ""
    """What the origin calls it, if not by its id."""

    inputs: FrozenMap[Identifier, ValueRef] = FrozenMap()
    """For each input of the layers' block, the value that feeds it. The block's first input is the carried one."""

    @model_validator(mode="after")
    def _runs_follow_one_another(self) -> "Stack":
        end = 0
        for run in self.runs:
            if run.kind >= len(self.kinds):
                raise ValueError(f"{self.id}: a run is of kind {run.kind}, but there are {len(self.kinds)} kinds")
            if not end <= run.start < run.stop:
                raise ValueError(f"{self.id}: runs must be sorted, without overlap; {run.start} to {run.stop} is not")
            end = run.stop
        return self

    def kind_indices(self, count: int) -> tuple[int, ...]:
        """The kind of each of `count` layers. Raises `CanvasError` for a count that no stack has."""
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MOST_LAYERS:
            hint = f"A stack has 1 to {MOST_LAYERS} layers."
            raise CanvasError(f"{count} is no number of layers", path=self.id, hint=hint)
        kinds = [0] * count
        for run in self.runs:
            for layer in range(run.start, min(run.stop, count)):
                kinds[layer] = run.kind
        return tuple(kinds)

    def source_of(self, layer: int) -> int | None:
        """The origin's layer whose weights `layer` takes, or None for fresh ones."""
        if self.source is None:
            return layer
        return self.source[layer] if layer < len(self.source) else None


def runs_of(kinds: tuple[int, ...]) -> tuple[Run, ...]:
    """Kinds, layer by layer, as the ranges in which they are not the default."""
    runs: list[Run] = []
    for layer, kind in enumerate(kinds):
        if kind and runs and runs[-1].stop == layer and runs[-1].kind == kind:
            runs[-1] = Run(start=runs[-1].start, stop=layer + 1, kind=kind)
        elif kind:
            runs.append(Run(start=layer, stop=layer + 1, kind=kind))
    return tuple(runs)


def _kind_of_item(value: Any) -> str:
    keys = value if isinstance(value, Mapping) else getattr(type(value), "model_fields", ())
    return "stack" if "kinds" in keys else "use" if "block" in keys else "node"


Item = Annotated[
    Annotated[Node, Tag("node")] | Annotated[Use, Tag("use")] | Annotated[Stack, Tag("stack")],
    Discriminator(_kind_of_item),
]
"""What stands in a block: a node, a use of another block, or a stack."""


class Block(Model):
    """A named graph that is itself used as a node: one module class of the emitted code."""

    inputs: tuple[Identifier, ...]
    """Names of what flows in."""

    nodes: tuple[Item, ...] = Field(max_length=MOST_NODES)
    """In reading order, which is also an order of execution where no cycle forbids one."""

    outputs: FrozenMap[Identifier, ValueRef]
    """Names of what flows out, and the values that they are."""

    role: str = Field(default="", max_length=40)
    """What the block was recognised as: `attention`, `gated_mlp`, `decoder_layer`, `backbone`, `causal_lm`, or nothing."""

    @model_validator(mode="after")
    def _names_are_told_apart(self) -> "Block":
        taken: set[str] = set()
        for name in (*self.inputs, *(node.id for node in self.nodes)):
            if name in taken:
                raise ValueError(f"'{name}' names two things: inputs and nodes of a block have names of their own")
            taken.add(name)
        return self

    @cached_property
    def by_id(self) -> Mapping[str, "Node | Use | Stack"]:
        return {node.id: node for node in self.nodes}

    def node(self, node_id: str) -> "Node | Use | Stack | None":
        return self.by_id.get(node_id)


class Origin(Model):
    """Where a document came from."""

    source: str = Field(default="", max_length=400)
    """A zoo name, a file's name or a hub id; never a path of the importer's machine."""

    model_type: str = Field(default="", max_length=80)
    """The `model_type` of the imported config."""

    architecture: str = Field(default="", max_length=80)
    """The class it was imported from."""

    versions: FrozenMap[str, str] = FrozenMap()
    """The versions of torch and transformers that traced it."""

    sizes: FrozenMap[str, Any] = FrozenMap()
    """The sizes as imported, so that an edited document knows what it left."""

    config: FrozenMap[str, Frozen] = FrozenMap()
    """The other config values as imported."""

    patterns: FrozenMap[str, Frozen] = FrozenMap()
    """What the config listed layer by layer where the graph says it itself: `layer_types`."""

    renamed: Annotated[FrozenMap[str, str], Field(exclude_if=lambda table: not table)] = FrozenMap()
    """Keys of its checkpoint that are others here, because it shares the tensor: `cls.predictions.bias` →
    `cls.predictions.decoder.bias`."""

    structure: str = Field(default="", max_length=64)
    """Of the blocks as imported: equal to `structure(document)` while only sizes and config values were edited."""

    fingerprint: str = Field(default="", max_length=64)
    """Of the architecture as imported: equal to `fingerprint(document)` while nothing was edited."""


class Document(Model):
    """An architecture that can be edited, costed, emitted and verified."""

    schema_version: Literal[1] = 1
    """The version of this schema."""

    name: Name
    """What people call it."""

    root: Identifier
    """The block that is the whole model."""

    task: Annotated[TaskName, Field(exclude_if=lambda name: name == "causal_lm")] = "causal_lm"
    """What it is for: `causal_lm`, `masked_lm`, `image_classification` or `seq2seq_lm`. Left out, it is a causal language model."""

    sizes: FrozenMap[Identifier, Size]
    """Named integers of the model, called as configs call them. One may follow from others: `=hidden_size // num_attention_heads`."""

    config: FrozenMap[Identifier, Frozen]
    """All other values of the config: epsilons, activations, rotary parameters, token ids."""

    blocks: FrozenMap[Identifier, Block]
    """Every block, by name."""

    ties: FrozenMap[str, str] = FrozenMap()
    """Parameters that share another's storage while `tie_word_embeddings` is set: `lm_head.weight` → `model.embed_tokens.weight`."""

    origin: Origin = Origin()
    """Where it came from."""

    layout: FrozenMap[str, tuple[Coordinate, Coordinate]] = FrozenMap()
    """Where the canvas draws a node: `Block/node` → x, y. An input is drawn at `Block/input`, outputs at `Block/return`."""

    tokenizer: FrozenMap[str, Frozen] = FrozenMap()
    """The tokenizer's settings, as far as they are known."""

    log: tuple[Frozen, ...] = ()
    """The edits since the import, as data."""

    drawing: ClassVar[Callable[["Document"], str] | None] = None
    """Draws a document as SVG. What knows the ops stands above this module, and puts itself here when it is loaded."""

    def _repr_svg_(self) -> str | None:
        """What notebooks show."""
        return None if Document.drawing is None else Document.drawing(self)

    def __repr__(self) -> str:
        edits = f", {len(self.log)} edits" if self.log else ""
        return f"Document({self.name!r}, {self.root}, {len(self.blocks)} blocks{edits})"

    __str__ = __repr__

    @model_validator(mode="after")
    def _hangs_together(self) -> "Document":
        for what, table in (("sizes", self.sizes), ("config values", self.config), ("ties", self.ties)):
            if len(table) > MOST_NAMES:
                raise ValueError(f"has {len(table)} {what}; a document has at most {MOST_NAMES}")
        for name in RESERVED & (self.sizes.keys() | self.config.keys()):
            raise ValueError(f"no size or config value may be called '{name}': that name says something else")
        if self.root not in self.blocks:
            raise ValueError(f"root: there is no block '{self.root}'")
        check_uses(self.blocks)
        return self

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        """What every name in an expression stands for: config values, and sizes with their expressions resolved.

        Raises `ExpressionError` where sizes refer to one another in a circle or to nothing.
        """
        values: dict[str, Any] = dict(self.config)
        for name in resolution_order(self.sizes):
            values[name] = resolve(self.sizes[name], values)
        return values

    @property
    def purpose(self) -> Task:
        """The task as such."""
        return TASKS[self.task]

    @property
    def tied(self) -> Mapping[str, str]:
        """The ties in force."""
        return self.ties if self.config.get("tie_word_embeddings") else FrozenMap()

    def block(self, name: str) -> Block:
        return self.blocks[name]

    def with_block(self, name: str, block: Block) -> "Document":
        return self.replace(blocks=self.blocks.with_items({name: block}))


def check_uses(blocks: Mapping[str, Block]) -> None:
    """Refuse blocks that use one that is missing, contain themselves, or unfold without end."""
    pending = {name: _uses(block) for name, block in blocks.items()}
    for name, uses in pending.items():
        missing = next((inner for inner in uses if inner not in blocks), None)
        if missing is not None:
            raise ValueError(f"blocks.{name}: uses the block '{missing}', which does not exist")
    inside: dict[str, int] = {}  # items of each block whose inner blocks are known, its layers left out
    unfolded: dict[str, int] = {}  # with its layers
    for _ in range(DEEPEST_USE):
        for name in [name for name, uses in pending.items() if uses.keys() <= unfolded.keys()]:
            uses, own = pending.pop(name), len(blocks[name].nodes)
            inside[name] = own + sum(inside[inner] * times for inner, (times, _) in uses.items())
            unfolded[name] = own + sum(unfolded[inner] * sum(times) for inner, times in uses.items())
            for items, most in ((inside[name], MOST_INSIDE), (unfolded[name], MOST_ITEMS)):
                if items > most:
                    raise ValueError(f"blocks.{name}: unfolds into {items} nodes; a document has at most {most}")
    if pending:
        name = next(iter(pending))
        raise ValueError(f"blocks.{name}: contains itself, or blocks nested more than {DEEPEST_USE} levels deep")


def _uses(block: Block) -> Mapping[str, tuple[int, int]]:
    """The blocks that a block uses: how often as a node, and in how many ranges of layers."""
    uses: dict[str, tuple[int, int]] = {}

    def add(name: str, nodes: int, ranges: int) -> None:
        before = uses.get(name, (0, 0))
        uses[name] = (before[0] + nodes, before[1] + ranges)

    for item in block.nodes:
        if isinstance(item, Use):
            add(item.block, 1, 0)
        elif isinstance(item, Stack):
            for index, kind in enumerate(item.kinds):
                add(kind.block, 0, len(item.runs) + 1 if index == 0 else 0)
            for run in item.runs:
                add(item.kinds[run.kind].block, 0, 1)
    return uses


def resolution_order(sizes: Mapping[str, Any]) -> Iterator[str]:
    """Sizes, each after those that its expression names; the members of a circle come last and fail when resolved."""
    done: set[str] = set()
    pending = dict(sizes)
    while pending:
        ready = [name for name, value in pending.items() if not (names_in(value) & pending.keys())]
        for name in ready or list(pending):
            yield name
            done.add(name)
            del pending[name]


def layer_environment(environment: Mapping[str, Any], kind: LayerKind, layer: int = 0) -> Mapping[str, Any]:
    """The environment inside a layer of `kind`: the model's, with the sizes that such layers have for themselves.

    Shapes and costs are alike whatever its number, so that any will do for them.
    """
    own = {name: resolve(value, environment) for name, value in kind.sizes.items()}
    return {**environment, **own, LAYER: layer}


__all__ = [
    "LAYER",
    "MOST_LAYERS",
    "SCHEMA_VERSION",
    "Block",
    "Document",
    "LayerKind",
    "Node",
    "Origin",
    "Run",
    "Stack",
    "Use",
    "freeze",
    "layer_environment",
    "runs_of",
]
