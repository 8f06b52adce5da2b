"""Whatever edits are made, the document stays valid, other layers stay as they were, and all can be undone."""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, find, given, settings
from hypothesis import strategies as st

from canvas_rt.edits import (
    AddBlock,
    AddConfig,
    AddInput,
    AddNode,
    AddSize,
    Bypass,
    Connect,
    DeleteLayers,
    Disconnect,
    DuplicateLayers,
    Edit,
    GroupNodes,
    InsertLayer,
    MakeUnique,
    MoveLayers,
    PlaceNodes,
    RemoveInput,
    RemoveNode,
    RemoveSize,
    RenameBlock,
    RenameNode,
    ReplaceBlock,
    Restore,
    SetAttr,
    SetConfig,
    SetName,
    SetOutput,
    SetSize,
    SetTokenizer,
    SetWeights,
    SwapLayers,
    Ungroup,
    apply,
    dump,
    inverse,
    parse_edits,
)
from canvas_rt.edits.apply import UNLOGGED
from canvas_rt.edits.data import KINDS
from canvas_rt.edits.paths import parse_path, scope
from canvas_rt.errors import CanvasError, EditError
from canvas_rt.ir.document import Block, Document, LayerKind, Node, Stack, Use
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.files import dumps, fingerprint, load, structure
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import Visit, execution_order, walk

SAMPLES = sorted((Path(__file__).parents[2] / "model_zoo").glob("*/document.canvas.json"))
PROPERTIES = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


@cache
def sample(index: int) -> Document:
    return load(SAMPLES[index])


class Drawing:
    """Draws edits that can often be made to a document."""

    def __init__(self, draw: st.DrawFn, document: Document) -> None:
        self.draw = draw
        self.document = document
        self.count: int = document.environment["num_hidden_layers"]

    def one_of(self, options: Iterable[Any]) -> Any:
        known = list(options)
        assume(known)
        return self.draw(st.sampled_from(known))

    def layers(self) -> str:
        first = self.draw(st.integers(0, self.count - 1))
        last = self.draw(st.integers(first, min(self.count - 1, first + 4)))
        return f"model.layers.{first}" if first == last else f"model.layers.{first}-{last}"

    def path(self, *sorts: type[Any]) -> str:
        """To an item of one of the sorts: in the layers where it stands, in others, or in all."""
        root = self.document.blocks[self.document.root].nodes  # walk leaves out what nothing reads
        paths = [visit.path for visit in walk(self.document) if isinstance(visit.item, sorts)]
        path: str = self.one_of(dict.fromkeys([*paths, *(item.id for item in root if isinstance(item, sorts))]))
        head, found, rest = path.partition("model.layers.")
        if not found or head:
            return path
        return (
            f"{self.one_of(['model.layers', self.layers(), found + rest.partition('.')[0]])}.{rest.partition('.')[2]}"
        )

    def block(self) -> str:
        """A path to a block."""
        return self.one_of(["", self.layers(), self.path(Use)])  # type: ignore[no-any-return]

    def inside(self, path: str) -> Block:
        """The block that a path leads to, in the first of its layers."""
        try:
            return self.document.blocks[scope(self.document, parse_path(path))[0]]
        except EditError:
            assume(False)
            raise

    def value(self, block: Block) -> str:
        ids = [*block.inputs, *block.by_id, *(f"{id}.{port}" for id in block.by_id for port in ("cos", "q"))]
        return self.one_of(ids)  # type: ignore[no-any-return]

    def new_id(self) -> str:
        return self.one_of(["fresh", "again", "other", "mlp"])  # type: ignore[no-any-return]

    def setting(self) -> SetAttr:
        path = self.path(Node)
        item = self.inside(path.rpartition(".")[0]).node(path.rpartition(".")[2])
        assume(isinstance(item, Node) and item.attrs)
        assert isinstance(item, Node)
        return SetAttr(path, self.one_of(item.attrs), self.one_of([7, True, None, "=head_dim", "gelu"]))

    def wire(self) -> tuple[str, str, Block]:
        """A node, one of its ports and its block."""
        path = self.path(Node)
        block = self.inside(path.rpartition(".")[0])
        item = block.node(path.rpartition(".")[2])
        assume(item is not None and item.inputs)
        assert item is not None
        return path, self.one_of(item.inputs), block

    def group(self) -> GroupNodes:
        path = self.block()
        ids = list(self.inside(path).by_id)
        assume(ids)
        first = self.draw(st.integers(0, len(ids) - 1))
        last = self.draw(st.integers(first, min(len(ids) - 1, first + 3)))
        return GroupNodes(path, tuple(ids[first : last + 1]), "Grouped", self.new_id())

    def added(self, sort: str) -> AddNode:
        path = self.block()
        block = self.inside(path)
        if sort == "use":
            return AddNode(path, Use(id=self.new_id(), block=self.one_of(self.document.blocks)))
        if sort == "stack":
            kind = LayerKind(block=self.one_of(self.document.blocks))
            return AddNode(path, Stack(id=self.new_id(), repeat=2, kinds=(kind,)))
        node = Node(id=self.new_id(), op="dropout", inputs=FrozenMap({"x": self.value(block)}))
        return AddNode(path, node, after=self.one_of([None, *block.by_id]))

    def output(self) -> SetOutput:
        path = self.block()
        block = self.inside(path)
        source = self.one_of([None, self.value(block)])
        return SetOutput(path, self.one_of(["extra", *block.outputs]), source)

    def block_name(self) -> str:
        return self.one_of(self.document.blocks)  # type: ignore[no-any-return]

    def new_block(self) -> AddBlock:
        inner = self.one_of([None, *self.document.blocks])
        x = FrozenMap({"x": "x"})
        item = Node(id="inside", op="dropout", inputs=x) if inner is None else Use(id="inside", block=inner)
        return AddBlock(self.one_of(["New", "Spare"]), Block(inputs=("x",), nodes=(item,), outputs=FrozenMap(y="x")))

    def placed(self) -> PlaceNodes:
        name = self.block_name()
        places = st.none() | st.tuples(st.floats(-1e6, 1e6), st.integers(-900, 900).map(float))
        known = [*self.document.blocks[name].inputs, *self.document.blocks[name].by_id, "return"]
        return PlaceNodes(name, FrozenMap(self.draw(st.dictionaries(st.sampled_from(known), places, max_size=4))))

    def port(self) -> tuple[str, str]:
        path = self.one_of([self.block(), "model.layers"])
        return path, self.one_of(["added", *self.inside(path).inputs])

    def connected(self) -> Connect:
        path, port, block = self.wire()
        return Connect(path, port, self.value(block))


WEIGHTS = ("=zeros", "=initialise", "q_proj", "a.b[0:4] + c", "")

MAKERS: dict[str, Callable[[Drawing], Edit]] = {
    "set_size": lambda d: SetSize(
        d.one_of(["", "model.layers", d.layers(), d.path(Use)]),
        d.one_of(d.document.sizes),
        d.one_of([1, 4, 8, 64, "=hidden_size // 2", "=vocab_size"]),
    ),
    "set_config": lambda d: SetConfig("rms_norm_eps", d.draw(st.floats(0, 1))),
    "set_attr": Drawing.setting,
    "add_node": lambda d: d.added(d.one_of(["node", "use", "stack"])),
    "add_size": lambda d: AddSize(d.one_of(["width", "rank"]), d.one_of([8, "=hidden_size // 2", "=rank * 2"])),
    "remove_size": lambda d: RemoveSize(d.one_of(d.document.sizes)),
    "add_config": lambda d: AddConfig(d.one_of(["note", "factor"]), d.one_of([None, 0.5, "text", (1, 2)])),
    "set_tokenizer": lambda d: SetTokenizer(FrozenMap({"name": d.draw(st.text(max_size=20))})),
    "set_name": lambda d: SetName(d.draw(st.text(min_size=1, max_size=120))),
    "add_block": Drawing.new_block,
    "rename_block": lambda d: RenameBlock(d.block_name(), d.one_of(["Other", "LlamaMLP", "Renamed"])),
    "place_nodes": Drawing.placed,
    "add_input": lambda d: AddInput(*d.port()),
    "remove_input": lambda d: RemoveInput(*d.port()),
    "remove_node": lambda d: RemoveNode(d.path(Node, Use)),
    "connect": Drawing.connected,
    "disconnect": lambda d: Disconnect(*d.wire()[:2]),
    "rename_node": lambda d: RenameNode(d.path(Node, Use), d.new_id()),
    "set_weights": lambda d: SetWeights(d.path(Node, Use), d.one_of(WEIGHTS)),
    "bypass": lambda d: Bypass(d.path(Node, Use), d.one_of([None, "a"])),
    "insert_layer": lambda d: InsertLayer("model.layers", d.one_of([None, 0, d.count]), d.one_of([None, 0])),
    "delete_layers": lambda d: DeleteLayers(d.layers()),
    "duplicate_layers": lambda d: DuplicateLayers(d.layers(), d.one_of([None, 0])),
    "move_layers": lambda d: MoveLayers(d.layers(), d.one_of([0, 1])),
    "swap_layers": lambda d: SwapLayers("model.layers", 0, d.count - 1),
    "replace_block": lambda d: ReplaceBlock(d.one_of([d.path(Use), d.layers()]), d.one_of(d.document.blocks)),
    "group_nodes": Drawing.group,
    "ungroup": lambda d: Ungroup(d.path(Use)),
    "make_unique": lambda d: MakeUnique(d.one_of([d.path(Use), d.layers()])),
    "set_output": Drawing.output,
}


@st.composite
def edits(draw: st.DrawFn, document: Document) -> Any:
    """An edit of any kind."""
    return MAKERS[draw(st.sampled_from(list(MAKERS)))](Drawing(draw, document))


def attempt(document: Document, edit: Edit) -> Document:
    """The edited document; examples whose edit is refused are dropped."""
    try:
        return apply(document, edit)
    except EditError:
        assume(False)
        raise


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """A sample after a few edits, its layers still where they were."""
    document = sample(draw(st.integers(0, len(SAMPLES) - 1)))
    for _ in range(draw(st.integers(0, 3))):
        try:
            edited = apply(document, draw(edits(document)))
        except EditError:
            continue
        if any(visit.path == "model.layers" for visit in walk(edited)):
            document = edited
    return document


@PROPERTIES
@given(st.data())
def test_an_edit_and_its_inverse_give_the_same_document(data: st.DataObject) -> None:
    document = data.draw(documents())
    edit = data.draw(edits(document))
    edited = attempt(document, edit)
    (undo,) = parse_edits(dump(inverse(document, edit)))
    restored = apply(edited, undo)
    assert restored == document
    assert dumps(restored) == dumps(document)


@PROPERTIES
@given(st.data())
def test_an_edited_document_is_valid_and_can_be_walked(data: st.DataObject) -> None:
    document = data.draw(documents())
    edit = data.draw(edits(document))
    edited = attempt(document, edit)
    assert Document.model_validate_json(dumps(edited)) == edited
    assert all(visit.block in edited.blocks for visit in walk(edited))
    if edit.kind in UNLOGGED:
        assert (edited.log, fingerprint(edited), structure(edited)) == (
            document.log,
            fingerprint(document),
            structure(document),
        )
    else:
        assert parse_edits(edited.log[-1]) == (edit,)
    drawn = {f"{name}/{id}" for name, block in edited.blocks.items() for id in (*block.inputs, *block.by_id, "return")}
    assert edited.layout.keys() <= drawn
    for block in edited.blocks.values():
        assert not execution_order(block)[1]
        known = {*block.inputs, *block.by_id}
        assert {ref.partition(".")[0] for item in block.nodes for ref in item.inputs.values()} <= known
        assert len(block.by_id) == len(block.nodes)


def numbers(visit: Visit) -> Any:
    """A node's settings as numbers, or why they are none."""
    assert isinstance(visit.item, Node)
    try:
        return resolve(visit.item.attrs, visit.environment)
    except CanvasError as error:
        return str(error)


def by_layer(document: Document) -> dict[int, list[tuple[Any, ...]]]:
    """What stands in each layer, with numbers for sizes and without the names of blocks."""
    found: dict[int, list[tuple[Any, ...]]] = {}
    for visit in walk(document):
        head, _, rest = visit.path.partition("model.layers.")
        if rest and not head:
            span, _, inner = rest.partition(".")
            first, _, last = span.partition("-")
            attrs = numbers(visit) if isinstance(visit.item, Node) else None
            for layer in range(int(first), int(last or first) + 1):
                found.setdefault(layer, []).append((inner, attrs, dict(visit.item.inputs)))
    return found


@PROPERTIES
@given(st.data())
def test_an_edit_of_some_layers_leaves_the_others_as_they_were(data: st.DataObject) -> None:
    document = data.draw(documents())
    edit = data.draw(edits(document))
    path = getattr(edit, "path", getattr(edit, "block_path", ""))
    parts = path.split(".")
    assume(path.startswith("model.layers.") and parts[2][0].isdecimal())
    assume(not isinstance(edit, DeleteLayers | DuplicateLayers | MoveLayers))
    first, _, last = parts[2].partition("-")
    chosen = range(int(first), int(last or first) + 1)
    before, after = by_layer(document), by_layer(attempt(document, edit))
    assume(len(chosen) < len(before))
    assert {k: v for k, v in after.items() if k not in chosen} == {k: v for k, v in before.items() if k not in chosen}


@PROPERTIES
@given(st.data())
def test_edits_together_do_what_they_do_one_by_one(data: st.DataObject) -> None:
    document = data.draw(documents())
    first = data.draw(edits(document))
    once = attempt(document, first)
    second = data.draw(edits(document))
    twice = attempt(once, second)
    assert apply(document, first, second) == twice
    assert apply(twice, inverse(document, (first, second))) == document


def test_edits_are_made_all_or_none(document: Document) -> None:
    before = dumps(document)
    with pytest.raises(EditError, match="norm feeds the output out"):
        apply(document, SetSize("", "hidden_size", 64), RemoveNode("model.norm"))
    assert dumps(document) == before


def test_each_edit_is_logged_as_data(document: Document) -> None:
    edits = (SetSize("", "hidden_size", 64), RenameNode("lm_head", "head"))
    assert [dict(entry) for entry in apply(document, *edits).log] == [dump(edit) for edit in edits]


def test_what_undoes_an_edit_holds_only_what_it_changed(document: Document) -> None:
    undo = inverse(document, SetAttr("model.layers.3.mlp.act_fn", "fn", "relu"))
    assert undo == Restore(
        entries=1,
        blocks=FrozenMap(
            {
                "LlamaModel": document.blocks["LlamaModel"],
                "LlamaDecoderLayer2": None,
                "LlamaMLP2": None,
            }
        ),
    )


@pytest.mark.parametrize(
    ("undo", "message"),
    [
        (Restore(entries=1), "takes back 1 edits, but the log holds 0"),
        (Restore(root="Nope"), "the root, Nope, is not a block of the document"),
        (Restore(blocks=FrozenMap({"LlamaMLP": None})), "LlamaDecoderLayer.mlp: is of the block LlamaMLP"),
        (Restore(order=("LlamaMLP",)), "its order does not name the blocks that there are"),
        (Restore(sizes=FrozenMap()), "'num_hidden_layers', which is not a size"),
    ],
)
def test_an_undo_of_something_else_is_refused(document: Document, undo: Restore, message: str) -> None:
    with pytest.raises(EditError, match=message):
        apply(document, undo)


def test_a_document_that_does_not_hang_together_is_not_edited(document: Document) -> None:
    broken = document.replace(blocks=document.blocks.without("LlamaMLP"))
    with pytest.raises(EditError, match=r"LlamaDecoderLayer\.mlp: is of the block LlamaMLP, which does not exist"):
        apply(broken, SetSize("", "hidden_size", 64))


def test_a_circle_of_sizes_can_be_mended(document: Document) -> None:
    circular = document.replace(sizes=document.sizes.with_items({"hidden_size": "=head_dim * 32"}))
    assert apply(circular, SetSize("", "hidden_size", 4096)).sizes == document.sizes


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"restore"}))
def test_every_kind_of_edit_is_tried(kind: str, document: Document) -> None:
    def possible(edit: Edit) -> bool:
        try:
            return bool(apply(document, edit))
        except EditError:
            return False

    unread = Node(id="unread", op="dropout", inputs=FrozenMap({"x": "model"}))
    document = apply(
        document,
        SetAttr("model.layers.3.mlp.act_fn", "fn", "relu"),
        AddNode("", unread),
        AddSize("rank", 8),
        AddInput("model.layers", "added"),
    )
    drawn = st.composite(lambda draw: MAKERS[kind](Drawing(draw, document)))()
    assert find(drawn, possible, settings=settings(max_examples=3000, database=None, deadline=None)).kind == kind
