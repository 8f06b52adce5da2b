"""Every setting of a plain function has a control, and what is typed there is the setting."""

from typing import Any

import pytest

from canvas_rt import Document, apply
from canvas_rt.edits import AddNode
from canvas_rt.errors import EditError
from canvas_rt.gestures.scope import nearest_scope
from canvas_rt.ir.document import Node
from canvas_rt.ir.frozen import FrozenMap
from canvas_ui.messages import FieldView, SetField
from canvas_ui.views.fields import field_edits, item_fields

FUNCTIONS = {
    "view": ("torch.reshape", {"size": ("=batch", "=seq", -1)}),
    "cast": ("torch.softmax", {"dim": -1, "dtype": None}),
    "padded": ("torch.pad", {"pad": (0, 1)}),
    "filled": ("torch.full_like", {"value": 1}),
}


@pytest.fixture(scope="module")
def document(small_llama: Document) -> Document:
    inputs = FrozenMap({"x": "hidden_states"})
    nodes = [Node(id=id, op=op, attrs=FrozenMap(attrs), inputs=inputs) for id, (op, attrs) in FUNCTIONS.items()]
    return apply(small_llama, *(AddNode("model.layers.mlp", node) for node in nodes))


def field(document: Document, node: str, name: str) -> FieldView:
    scope = nearest_scope(document, "model.layers.0-3.mlp")
    item = scope.block.node(node)
    assert isinstance(item, Node)
    return next(field for field in item_fields(scope, item) if field.label == name)


def typed(document: Document, node: str, name: str, value: Any) -> Any:
    """A setting after something was typed for it."""
    change = SetField(type="set", field=f"attr:{name}", path=f"model.layers.0-3.mlp.{node}", value=value)
    edited = apply(document, *field_edits(document, change))
    item = nearest_scope(edited, "model.layers.0-3.mlp").block.node(node)
    assert isinstance(item, Node)
    return item.attrs[name]


@pytest.mark.parametrize(
    ("node", "name", "kind", "value"),
    [
        ("view", "size", "table", '["=batch", "=seq", -1]'),
        ("cast", "dim", "number", -1),
        ("cast", "dtype", "choice", None),
        ("padded", "mode", "text", "constant"),
        ("filled", "value", "number", 1),
    ],
)
def test_a_setting_has_the_control_of_its_kind(document: Document, node: str, name: str, kind: str, value: Any) -> None:
    shown = field(document, node, name)
    assert (shown.kind, shown.value) == (kind, value)


@pytest.mark.parametrize(
    ("node", "name", "text", "value"),
    [
        ("view", "size", '["=batch", -1, "=hidden_size"]', ("=batch", -1, "=hidden_size")),
        ("cast", "dim", "1", 1),
        ("cast", "dtype", "float32", "float32"),
        ("cast", "dtype", "null", None),
        ("padded", "mode", "reflect", "reflect"),
        ("filled", "value", "0.5", 0.5),
    ],
)
def test_what_is_typed_is_the_setting(document: Document, node: str, name: str, text: str, value: Any) -> None:
    assert typed(document, node, name, text) == value


@pytest.mark.parametrize(
    ("node", "name", "text", "message"),
    [
        ("view", "size", "[1.5]", "size must be a list of whole numbers"),
        ("view", "size", '["=widht"]', "'widht' is no size of this model"),
        ("cast", "dim", "0.5", "dim must be a whole number"),
        ("cast", "dtype", "float33", "dtype must be one of model, float32"),
    ],
)
def test_what_is_no_value_is_refused(document: Document, node: str, name: str, text: str, message: str) -> None:
    with pytest.raises(EditError, match=message):
        typed(document, node, name, text)
