"""A document from a stranger is refused where it could not be walked, and opened where it is only unfinished."""

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest

from canvas_rt.errors import DocumentError
from canvas_rt.ir.files import parse_document
from canvas_rt.physics import check

LLAMA = json.loads((Path(__file__).parents[2] / "model_zoo" / "llama" / "document.canvas.json").read_text())

Data = dict[str, Any]


def with_value(*path: Any) -> Data:
    """The document with the value at a path replaced by the last part."""
    data = copy.deepcopy(LLAMA)
    *trail, key, value = path
    holder = data
    for part in trail:
        holder = holder[part]
    holder[key] = value
    return data


def stack(**changes: Any) -> Data:
    nodes = LLAMA["blocks"]["LlamaModel"]["nodes"]
    return with_value("blocks", "LlamaModel", "nodes", 3, {**nodes[3], **changes})


def nested(levels: int, times: int) -> Data:
    """A layer with blocks that each use the next some times."""
    data = copy.deepcopy(LLAMA)
    for level in range(levels):
        last = level + 1 == levels
        inner, port = ("LlamaMLP", "hidden_states") if last else (f"B{level + 1}", "x")
        uses = [{"id": f"u{i}", "block": inner, "inputs": {port: f"u{i - 1}" if i else "x"}} for i in range(times)]
        data["blocks"][f"B{level}"] = {"inputs": ["x"], "nodes": uses, "outputs": {"out": f"u{times - 1}"}}
    data["blocks"]["LlamaDecoderLayer"]["nodes"][4] = {
        "id": "mlp",
        "block": "B0",
        "inputs": {"x": "self_attn_residual"},
    }
    return data


MLP = LLAMA["blocks"]["LlamaMLP"]["nodes"]
RUN = {"start": 0, "stop": 4, "kind": 0}
WIDE = [{"id": f"n{i}", "op": "activation", "inputs": {"x": "hidden_states"}} for i in range(2000)]

REFUSED: dict[str, tuple[Data, str]] = {
    "an unknown field": (with_value("foo", 1), "foo: Extra inputs are not permitted"),
    "a field of another type": (with_value("blocks", "LlamaMLP", "nodes", 5), "blocks.LlamaMLP.nodes: Input should be"),
    "a node of another type": (with_value("blocks", "LlamaMLP", "nodes", 0, 5), "blocks.LlamaMLP.nodes.0"),
    "no root": (with_value("root", "Nope"), "root: there is no block 'Nope'"),
    "two nodes of one id": (with_value("blocks", "LlamaMLP", "nodes", [*MLP, MLP[0]]), "'gate_proj' names two things"),
    "a node named as an input": (with_value("blocks", "LlamaMLP", "nodes", 0, "id", "hidden_states"), "names two things"),
    "two inputs of one name": (with_value("blocks", "LlamaMLP", "inputs", ["hidden_states"] * 2), "names two things"),
    "a use of no block": (
        with_value("blocks", "LlamaDecoderLayer", "nodes", 1, "block", "Nope"),
        "blocks.LlamaDecoderLayer: uses the block 'Nope', which does not exist",
    ),
    "layers of no block": (stack(kinds=[{"block": "Nope"}]), "blocks.LlamaModel: uses the block 'Nope'"),
    "a block in itself": (with_value("blocks", "LlamaDecoderLayer", "nodes", 1, "block", "LlamaDecoderLayer"), "contains itself"),
    "blocks in one another": (with_value("blocks", "LlamaDecoderLayer", "nodes", 1, "block", "LlamaModel"), "contains itself"),
    "no kinds": (stack(kinds=[]), "kinds: "),
    "too many kinds": (stack(kinds=[{"block": "LlamaDecoderLayer"}] * 300), "kinds: "),
    "a run of no kind": (stack(runs=[{**RUN, "kind": 5}]), "layers: a run is of kind 5, but there are 1 kinds"),
    "a run backwards": (stack(runs=[{**RUN, "start": 5}]), "layers: runs must be sorted, without overlap; 5 to 4 is not"),
    "runs that overlap": (stack(runs=[RUN, {**RUN, "start": 2, "stop": 6}]), "2 to 6 is not"),
    "a negative run": (stack(runs=[{**RUN, "start": -1}]), "runs.0.start: Input should be greater than or equal to 0"),
    "a million sources": (stack(source=[0] * 10**6), "source: "),
    "a billion nodes": (nested(30, 2), "nodes; a document has at most"),
    "a million nodes": (nested(20, 2), "nodes; a document has at most"),
    "blocks without end": (nested(40, 1), "nested more than 24 levels deep"),
    "a wide block": (with_value("blocks", "LlamaMLP", "nodes", WIDE), "nodes: "),
    "too many sizes": (with_value("sizes", {f"s{i}": 1 for i in range(600)}), "has 600 sizes; a document has at most 512"),
    "a config value that is emitted": (with_value("config", "auto_map", {}), "may be called 'auto_map'"),
    "a size that is emitted": (with_value("sizes", "model_type", 1), "may be called 'model_type'"),
    "a size that is no number": (with_value("sizes", "hidden_size", "64"), "sizes.hidden_size: must be an integer"),
    "a size that is half": (with_value("sizes", "hidden_size", 1.5), "sizes.hidden_size: must be an integer"),
    "an infinite value": (with_value("config", "rms_norm_eps", float("inf")), "must be a finite number"),
    "code for a size": (with_value("sizes", "hidden_size", "=__import__('os').system('true')"), "may hold only names"),
    "code for a setting": (with_value("blocks", "LlamaMLP", "nodes", 0, "attrs", "bias", "=[].__class__"), "only names"),
    "deep parentheses": (with_value("sizes", "hidden_size", "=" + "(" * 10**4 + ")" * 10**4), "is longer than 400"),
    "a nameless document": (with_value("name", ""), "name: "),
    "a long name": (with_value("name", "x" * 200), "name: "),
}  # fmt: skip


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_at_once(data: Data, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(DocumentError) as caught:
        parse_document(data)
    assert time.monotonic() - start < 2
    assert message in str(caught.value)
    assert len(str(caught.value)) < 4000


@pytest.mark.parametrize("name", ["__class__", "import", "a b", "", "1a", "ünï", "a" * 65, "a.b", None, 5], ids=str)
def test_a_name_is_an_identifier(name: Any) -> None:
    for path in (("blocks", "LlamaMLP", "nodes", 0, "id"), ("blocks", "LlamaMLP", "inputs", 0), ("root",)):
        with pytest.raises(DocumentError, match=r"identifier|characters|valid string"):
            parse_document(with_value(*path, name))
    for table in ("sizes", "config", "blocks"):
        if isinstance(name, str):
            with pytest.raises(DocumentError):
                parse_document(with_value(table, name, LLAMA["blocks"]["LlamaMLP"] if table == "blocks" else 1))


UNFINISHED: dict[str, tuple[Data, str]] = {
    "an input without a wire": (with_value("blocks", "LlamaMLP", "nodes", 1, "inputs", {}), "x is not connected"),
    "a wire that leads nowhere": (
        with_value("blocks", "LlamaMLP", "nodes", 1, "inputs", {"x": "nothing"}),
        "there is no node or input 'nothing'",
    ),
    "a block without outputs": (with_value("blocks", "LlamaMLP", "outputs", {}), "LlamaMLP gives nothing"),
    "an op that is not known": (with_value("blocks", "LlamaMLP", "nodes", 0, "op", "linnear"), "Did you mean linear"),
    "nodes in a circle": (with_value("blocks", "LlamaMLP", "nodes", 0, "inputs", {"x": "gated"}), "in a circle"),
    "a size without a value": (with_value("sizes", "hidden_size", "=9 ** 9 ** 9"), "sizes.hidden_size"),
    "a size that names itself": (with_value("sizes", "hidden_size", "=hidden_size"), "sizes.hidden_size"),
    "a million layers": (with_value("sizes", "num_hidden_layers", 10**6), "is more than 4096"),
    "no layers": (with_value("sizes", "num_hidden_layers", 0), "must be a whole number of at least 1"),
    "a setting that is text": (with_value("blocks", "LlamaMLP", "nodes", 0, "attrs", "in_features", "abc"), "in_features"),
    "a run beyond the layers": (stack(runs=[{**RUN, "stop": 99}]), "have a kind of their own, but the layers are"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "message"), UNFINISHED.values(), ids=UNFINISHED)
def test_it_opens_and_check_tells_what_is_wrong(data: Data, message: str) -> None:
    found = check(parse_document(data))
    assert not found.ok
    assert message in "\n".join(map(str, found.diagnostics))
