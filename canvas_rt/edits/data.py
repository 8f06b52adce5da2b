"""Edits as data: every change that can be made to a document, each a frozen value that goes to and from JSON."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, dataclass_transform, get_args

from pydantic import AfterValidator, Field, ValidationError

from canvas_rt.errors import EditError, suggest
from canvas_rt.ir.document import (
    Block,
    Coordinate,
    Identifier,
    Item,
    Model,
    Name,
    Setting,
    Size,
    ValueRef,
    Weights,
    identifier,
)
from canvas_rt.ir.frozen import Frozen, FrozenMap

Path = Annotated[str, Field(max_length=1000)]
"""Ids joined by dots, as in `model.layers.8-15.self_attn.q_proj`; empty for the whole model."""

Index = Annotated[int, Field(ge=0)]

OUTPUTS = "return"
"""What `PlaceNodes` calls a block's outputs: a keyword, so that no node or input has that name."""


def _drawn(text: str) -> str:
    return text if text == OUTPUTS else identifier(text)


Drawn = Annotated[str, AfterValidator(_drawn)]
"""What the canvas draws of a block: a node's id, the name of an input, or `return`, the outputs."""


@dataclass_transform(kw_only_default=False, field_specifiers=(Field,))
class _Edit(Model):
    """Base of all edits. Fields may be given by position, as in `SetSize("model.layers.3", "head_dim", 64)`."""

    def __init__(self, /, *values: Any, **fields: Any) -> None:
        names = [name for name in type(self).model_fields if name != "kind"]
        if len(values) > len(names):
            raise TypeError(f"{type(self).__name__} takes {', '.join(names)}")
        try:
            super().__init__(**dict(zip(names, values, strict=False)), **fields)
        except ValidationError as error:
            raise EditError(_flaws(error), path=type(self).__name__) from error

    # Pydantic would otherwise validate JSON through `__init__`, as Python values: lists would then be no tuples.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


class SetSize(_Edit):
    """Give a size another value: in the whole model, in some layers, or in one block within them."""

    kind: Literal["set_size"] = Field("set_size", init=False)
    path: Path
    """Whose size: empty for the model's, or a path to layers, a stack or a block."""

    name: Identifier
    """The size, called as the document calls it."""

    value: Size
    """A positive integer, or an expression that gives one."""


class SetConfig(_Edit):
    """Give a config value another value: an epsilon, the activation, the rotary parameters."""

    kind: Literal["set_config"] = Field("set_config", init=False)
    name: str = Field(max_length=80)
    """The value's name in the config."""

    value: Frozen
    """Any JSON value of the sort that stands there."""


class SetAttr(_Edit):
    """Change one setting of a node."""

    kind: Literal["set_attr"] = Field("set_attr", init=False)
    path: Path
    """The node."""

    name: Identifier
    """One of its op's settings."""

    value: Setting
    """A constant, or an expression such as `=head_dim * 2`."""


class AddSize(_Edit):
    """Give the model a size that it does not have, for settings to name."""

    kind: Literal["add_size"] = Field("add_size", init=False)
    name: Identifier
    """Its name, free among sizes and config values."""

    value: Size
    """A positive integer, or an expression that gives one."""


class RemoveSize(_Edit):
    """Take a size out of the model. Refused while something names it."""

    kind: Literal["remove_size"] = Field("remove_size", init=False)
    name: Identifier
    """The size."""


class AddConfig(_Edit):
    """Give the config a value that it does not have."""

    kind: Literal["add_config"] = Field("add_config", init=False)
    name: Identifier
    """Its name, free among sizes and config values."""

    value: Frozen
    """Any JSON value."""


class SetName(_Edit):
    """Call the document otherwise. Its architecture stays as it is, so this is not logged."""

    kind: Literal["set_name"] = Field("set_name", init=False)
    name: Name
    """What people call it."""


class SetTokenizer(_Edit):
    """Say which tokenizer makes the model's token ids. The graph stays as it is, so this is not logged."""

    kind: Literal["set_tokenizer"] = Field("set_tokenizer", init=False)
    tokenizer: FrozenMap[str, Frozen]
    """Its settings, such as `name` and `vocab_size`; empty for one that is not known."""


class AddBlock(_Edit):
    """Put a new block into the document, for `AddNode`, `ReplaceBlock` and `InsertLayer` to use."""

    kind: Literal["add_block"] = Field("add_block", init=False)
    name: Identifier
    """Its name, free among blocks."""

    block: Block
    """What it holds."""


class RenameBlock(_Edit):
    """Call a block otherwise, wherever it is used. The class of the emitted code is named after it."""

    kind: Literal["rename_block"] = Field("rename_block", init=False)
    block: Identifier
    """The block."""

    new_name: Identifier
    """Its new name, free among blocks."""


class PlaceNodes(_Edit):
    """Say where the canvas draws what is in a block. Its architecture stays as it is, so this is not logged."""

    kind: Literal["place_nodes"] = Field("place_nodes", init=False)
    block: Identifier
    """The block."""

    positions: FrozenMap[Drawn, tuple[Coordinate, Coordinate] | None]
    """For a node, an input or `return`: x and y, or null for where the canvas would put it by itself."""


class AddNode(_Edit):
    """Put a node, a use of a block, or a stack of layers into a block."""

    kind: Literal["add_node"] = Field("add_node", init=False)
    block_path: Path
    """The block that gets it: empty for the root, or a path to a use or layers."""

    node: Item
    """What is added, with its wires."""

    before: Identifier | None = None
    """The node that it stands before in reading order."""

    after: Identifier | None = None
    """The node that it stands after; without either it comes last."""


class RemoveNode(_Edit):
    """Take a node out of its block. Refused while something reads it."""

    kind: Literal["remove_node"] = Field("remove_node", init=False)
    path: Path
    """The node, use or stack."""


class Connect(_Edit):
    """Feed a value to an input port, in place of what fed it before."""

    kind: Literal["connect"] = Field("connect", init=False)
    path: Path
    """The node that reads."""

    port: Identifier
    """Its input port."""

    source: ValueRef
    """The value: a node of the same block, with its port where it has several, or one of the block's inputs."""


class Disconnect(_Edit):
    """Take away what feeds an input port."""

    kind: Literal["disconnect"] = Field("disconnect", init=False)
    path: Path
    """The node that reads."""

    port: Identifier
    """Its input port."""


class RenameNode(_Edit):
    """Give a node another id. The keys of its parameters change with it."""

    kind: Literal["rename_node"] = Field("rename_node", init=False)
    path: Path
    """The node."""

    new_id: Identifier
    """Its new id, free in its block."""


class SetWeights(_Edit):
    """Say where a node's weights come from when weights are carried over from the origin."""

    kind: Literal["set_weights"] = Field("set_weights", init=False)
    path: Path
    """The node, or the use of a block."""

    weights: Weights = ""
    """Keys of the origin beside it, `=zeros`, `=ones`, `=identity` or `=initialise`; empty: those of its own key."""


class Bypass(_Edit):
    """Remove a node and give what fed it to those that read it."""

    kind: Literal["bypass"] = Field("bypass", init=False)
    path: Path
    """The node."""

    port: Identifier | None = None
    """The input that passes through; needed where a node has several inputs and none is the stream."""


class InsertLayer(_Edit):
    """Put one layer with fresh weights into a stack."""

    kind: Literal["insert_layer"] = Field("insert_layer", init=False)
    path: Path
    """The stack."""

    at: Index | None = None
    """The index that the new layer will have; without it, the end."""

    like: Index | None = None
    """The layer whose block and sizes it takes; without it, the layer before it."""

    block: Identifier | None = None
    """Its block, where it is not like another layer."""


class DeleteLayers(_Edit):
    """Take layers out of a stack."""

    kind: Literal["delete_layers"] = Field("delete_layers", init=False)
    path: Path
    """The layers: `model.layers.8-15`."""


class DuplicateLayers(_Edit):
    """Repeat layers, weights included."""

    kind: Literal["duplicate_layers"] = Field("duplicate_layers", init=False)
    path: Path
    """The layers: `model.layers.8-15`."""

    at: Index | None = None
    """The index that the first copy will have; without it, right after the originals."""


class MoveLayers(_Edit):
    """Move layers to another place in their stack, weights included."""

    kind: Literal["move_layers"] = Field("move_layers", init=False)
    path: Path
    """The layers: `model.layers.8-15`."""

    to: Index
    """The index that the first of them will have afterwards."""


class SwapLayers(_Edit):
    """Exchange two layers, weights included."""

    kind: Literal["swap_layers"] = Field("swap_layers", init=False)
    path: Path
    """The stack."""

    a: Index
    """One layer."""

    b: Index
    """The other."""


class ReplaceBlock(_Edit):
    """Make a use, or some layers, be of another block. Wires to ports of the same name stay."""

    kind: Literal["replace_block"] = Field("replace_block", init=False)
    path: Path
    """The use, the stack or the layers."""

    block: Identifier
    """A block of the document."""


class GroupNodes(_Edit):
    """Put nodes into a new block of their own, used once in their place."""

    kind: Literal["group_nodes"] = Field("group_nodes", init=False)
    block_path: Path
    """The block that holds them."""

    ids: tuple[Identifier, ...] = Field(min_length=1)
    """The nodes."""

    block: Identifier
    """The new block's name."""

    new_id: Identifier
    """The id of its use."""


class Ungroup(_Edit):
    """Replace a use of a block by the nodes of that block."""

    kind: Literal["ungroup"] = Field("ungroup", init=False)
    path: Path
    """The use."""


class MakeUnique(_Edit):
    """Give a use, or some layers, a copy of their block, so that edits no longer reach the other uses."""

    kind: Literal["make_unique"] = Field("make_unique", init=False)
    path: Path
    """The use, the stack or the layers."""


class SetOutput(_Edit):
    """Say which value an output of a block is; a new name adds an output."""

    kind: Literal["set_output"] = Field("set_output", init=False)
    block_path: Path
    """The block: empty for the root, or a path to a use or layers."""

    output: Identifier
    """The output's name."""

    source: ValueRef | None
    """A value of the block; null takes the output away."""


class AddInput(_Edit):
    """Give a block another input. What uses the block feeds it nothing until it is connected."""

    kind: Literal["add_input"] = Field("add_input", init=False)
    block_path: Path
    """The block: empty for the root, or a path to a use or layers."""

    input: Identifier
    """The input's name, free among the block's inputs and nodes."""


class RemoveInput(_Edit):
    """Take an input from a block, and the wires that fed it. Refused while something in the block reads it."""

    kind: Literal["remove_input"] = Field("remove_input", init=False)
    block_path: Path
    """The block: empty for the root, or a path to a use or layers."""

    input: Identifier
    """The input."""


class Restore(_Edit):
    """Undo edits: put back what each changed part was, and take their entries out of the log."""

    kind: Literal["restore"] = Field("restore", init=False)
    entries: Index = 0
    """How many entries of the log are taken back."""

    name: Name | None = None
    """The former name; null, here and below: it did not change."""

    root: Identifier | None = None
    """The former root."""

    sizes: FrozenMap[Identifier, Size] | None = None
    """The former sizes, all of them."""

    config: FrozenMap[str, Frozen] | None = None
    """The former config, all of it."""

    ties: FrozenMap[str, str] | None = None
    """The former ties, all of them."""

    layout: FrozenMap[str, tuple[Coordinate, Coordinate]] | None = None
    """The former layout, all of it."""

    tokenizer: FrozenMap[str, Frozen] | None = None
    """The former tokenizer's settings, all of them."""

    blocks: FrozenMap[Identifier, Block | None] = FrozenMap()
    """Former blocks; null for those that did not exist."""

    order: tuple[Identifier, ...] | None = None
    """The former order of the blocks."""


Edit = Annotated[
    SetSize
    | SetConfig
    | SetAttr
    | AddSize
    | RemoveSize
    | AddConfig
    | SetName
    | SetTokenizer
    | AddBlock
    | RenameBlock
    | PlaceNodes
    | AddNode
    | RemoveNode
    | Connect
    | Disconnect
    | RenameNode
    | SetWeights
    | Bypass
    | InsertLayer
    | DeleteLayers
    | DuplicateLayers
    | MoveLayers
    | SwapLayers
    | ReplaceBlock
    | GroupNodes
    | Ungroup
    | MakeUnique
    | SetOutput
    | AddInput
    | RemoveInput
    | Restore,
    Field(discriminator="kind"),
]
"""Any change to a document."""

KINDS: Mapping[str, type[_Edit]] = {edit.model_fields["kind"].default: edit for edit in get_args(get_args(Edit)[0])}
"""The edits by their `kind`."""


def dump(edit: Edit) -> dict[str, Any]:
    """An edit as plain JSON values, without the fields left at their defaults."""
    return {"kind": edit.kind, **edit.model_dump(mode="json", exclude_defaults=True)}


def parse_edits(data: Any) -> tuple[Edit, ...]:
    """Read edits from JSON values: a list of them, or one. Raises `EditError` naming the edit and the field."""
    items = data if isinstance(data, list | tuple) else [data]
    return tuple(_parse(item, index) for index, item in enumerate(items))


def _parse(item: Any, index: int) -> Any:
    where = f"edit {index}"
    if not isinstance(item, Mapping):
        raise EditError(f"must be an object with a 'kind', not {item!r:.60}", path=where)
    kind = item.get("kind")
    if kind is None:
        raise EditError("has no 'kind'", path=where, hint=f"One of: {', '.join(KINDS)}.")
    if not isinstance(kind, str) or kind not in KINDS:
        raise EditError(f"kind: there is no edit '{kind!s:.60}'", path=where, hint=suggest(str(kind), KINDS))
    try:
        return KINDS[kind].model_validate_json(json.dumps(item))
    except ValidationError as error:
        raise EditError(_flaws(error), path=f"{where} ({kind})") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise EditError(f"is not JSON: {error}", path=f"{where} ({kind})") from error


def _flaws(error: ValidationError) -> str:
    flaws = error.errors(include_url=False, include_input=False)
    return "; ".join(
        f"{'.'.join(map(str, flaw['loc']))}: {flaw['msg'].removeprefix('Value error, ')}" for flaw in flaws
    )
