"""A document may come from a stranger: nothing that it says becomes code, whatever it is called or set to."""

from typing import Any

import pytest
from pydantic import ValidationError

from canvas_rt.codegen import emit
from canvas_rt.errors import EmitError
from canvas_rt.importer.source import open_source
from canvas_rt.ir.document import Document, Node
from canvas_rt.ir.frozen import FrozenMap, freeze
from canvas_rt.physics.shapes import check

EVIL = 'x if print("evil") else x'
MIXER = "mamba2.Mamba2Mixer"
KEPT = "doge.DogeAttention"


def kept(**attrs: Any) -> dict[str, Any]:
    """A module kept whole, with settings of its own."""
    return {"source": KEPT, "fields": {}, "keys": {}, "arguments": "hidden_states", **attrs}


HOSTILE: dict[str, tuple[str, dict[str, Any]]] = {
    "a tensor's key": ("parameter", {"shape": (1,), "key": EVIL}),
    "a tensor's key that closes a call": ("parameter", {"shape": (1,), "key": 'a)+print("evil")#'}),
    "the dtype of a number": ("constant", {"value": 1.0, "dtype": EVIL}),
    "the dtype of a cast": ("torch.to", {"dtype": EVIL}),
    "a field of a kept module": ("module", {"source": MIXER, "fields": {f"hidden_size={EVIL}, y": 1}, "keys": {}}),
    "the class of a kept module": ("module", {"source": "mamba2.Mamba2Model", "fields": {}, "keys": {}}),
    "the folder of a kept module": ("module", {"source": "x\nimport os", "fields": {}, "keys": {}}),
    "an argument of a kept module": ("module", {"source": KEPT, "fields": {}, "keys": {}, "arguments": f"y={EVIL}, x"}),
    "the mask of a kept module": (
        "module",
        {"source": KEPT, "fields": {}, "keys": {}, "arguments": "hidden_states", "mask": EVIL},
    ),
    "a field by layer": (
        "module",
        {"source": KEPT, "fields": {}, "keys": {}, "arguments": "hidden_states", "by_layer": {EVIL: 1}},
    ),
    "a tensor whose sizes are one number": ("module", kept(buffers={"x": {"sizes": 3, "values": (1,), "rank": 1}})),
    "a tensor without end": ("module", kept(buffers={"x": {"sizes": (2**40,), "values": (1,), "rank": 1}})),
    "a tensor of text": ("module", kept(buffers={"x": {"sizes": (1,), "values": (EVIL,), "rank": 1}})),
    "a tensor in place of a method": ("module", kept(buffers={"forward": {"sizes": (1,), "values": (1,), "rank": 1}})),
    "a place that an expression gives": ("module", kept(place="=hidden_size")),
    "a class whose source nobody finds": ("module", kept(source="reformer.LocalSelfAttention", place=True)),
    "the form of a norm": ("rms_norm", {"size": "=hidden_size", "form": EVIL}),
    "a form that an expression gives": ("rms_norm", {"size": "=hidden_size", "form": "=hidden_act"}),
    "an index": ("torch.select", {"dim": 0, "index": EVIL}),
    "a function that torch has, and the table has not": ("torch.load", {}),
}


def holding(op: str, attrs: dict[str, Any]) -> Document:
    """A Llama whose last norm is read by such a node."""
    document = open_source("llama-3.2-1b")
    block = document.blocks["LlamaModel"]
    inputs = {} if op in ("parameter", "constant") else {"x": "norm"}
    node = Node(id="strange", op=op, attrs=freeze(attrs), inputs=FrozenMap(inputs))
    total = Node(id="total", op="add", inputs=FrozenMap({"a": "norm", "b": "strange"}))
    changed = block.replace(nodes=(*block.nodes, node, total), outputs=FrozenMap({"out": "total"}))
    return Document.model_validate(document.with_block("LlamaModel", changed).model_dump())


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_setting_is_refused_by_its_node(case: str) -> None:
    document = holding(*HOSTILE[case])
    with pytest.raises(Exception, match="strange") as refused:
        emit(document)
    assert isinstance(refused.value, EmitError) or "there is no op" in str(refused.value)


@pytest.mark.parametrize("case", HOSTILE)
def test_checking_tells_it_too(case: str) -> None:
    errors = [one for one in check(holding(*HOSTILE[case])).diagnostics if one.severity == "error"]
    assert any("strange" in one.path for one in errors)


def test_text_that_a_function_takes_stays_text() -> None:
    text = 'constant"+print("evil")+"'
    source = emit(holding("torch.pad", {"pad": (0, 0), "mode": text})).files["model.py"]
    assert repr(text) in source


KEYS = (
    "forward.0",
    "config.0",
    "layers.5",
    "norm",
    "norm.x",
    "held.keys",
    "class.0",
    "held.__init__",
    f"x.{EVIL}",
    "0.x",
    "a" * 210,
)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_hides_nothing_and_is_no_code(key: str) -> None:
    document = open_source("llama-3.2-1b")
    block = document.blocks["LlamaModel"]
    sizes = {"in_features": "=hidden_size", "out_features": "=hidden_size", "bias": False}
    with pytest.raises((EmitError, ValidationError)):
        node = Node(id="strange", op="linear", attrs=freeze(sizes), inputs=FrozenMap({"x": "norm"}), key=key)
        changed = block.replace(nodes=(*block.nodes, node), outputs=FrozenMap({"out": "strange"}))
        emit(Document.model_validate(document.with_block("LlamaModel", changed).model_dump()))
