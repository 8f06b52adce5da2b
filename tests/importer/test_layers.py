"""Layers that take their own part of a table, and layers that hand values to later ones."""

from pathlib import Path
from typing import Any

import pytest

from canvas_rt import emit, import_model
from canvas_rt.edits import AddNode, DeleteLayers, DuplicateLayers, SetAttr, apply
from canvas_rt.errors import CanvasError, EmitError
from canvas_rt.importer.small import small_config
from canvas_rt.ir.document import Document, Node, Stack
from canvas_rt.ir.files import dumps, parse_document, parse_json
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import handed_on, walk
from canvas_rt.ops.catalogue import complete
from canvas_rt.physics import check
from canvas_rt.verifier.checks import Verification
from tests.sharing import shared_keys

SHARING: dict[str, Any] = {
    "num_hidden_layers": 7,
    "num_kv_shared_layers": 3,
    "layer_types": [
        f"{kind}_attention" for kind in ["sliding", "full", "sliding", "full", "sliding", "sliding", "full"]
    ],
}
"""The last three layers attend to what the third and the fourth have made."""


@pytest.fixture(scope="module")
def gemma() -> Document:
    return import_model({**small_config("gemma4_text"), **SHARING})[0]


def attentions(document: Document) -> dict[str, bool]:
    """For each attention, whether its keys and values are its own."""
    nodes = ((v.path, v.item) for v in walk(document) if isinstance(v.item, Node) and v.item.op == "attention")
    return {path: complete(node)["cached"] for path, node in nodes}


def stack_of(document: Document) -> Stack:
    return next(visit.item for visit in walk(document) if isinstance(visit.item, Stack))


def test_each_layer_takes_its_own_part_of_a_table(gemma: Document) -> None:
    parts = [v for v in walk(gemma) if isinstance(v.item, Node) and v.item.op == "torch.select"]
    assert {part.item.attrs["index"] for part in parts} == {"=layer"}  # type: ignore[union-attr]
    table = gemma.blocks["Gemma4TextModel"].node("embed_tokens_per_layer")
    assert isinstance(table, Node)
    assert table.attrs["embedding_dim"] == "=num_hidden_layers * hidden_size_per_layer_input"


def test_layers_hand_on_keys_and_values_by_what_they_see(gemma: Document) -> None:
    assert handed_on(stack_of(gemma), gemma.blocks) == ("prev_k", "prev_v", "prev_k_2", "prev_v_2")
    assert [path for path, own in attentions(gemma).items() if not own] == [
        "model.layers.4-5.self_attn.attention",
        "model.layers.6.self_attn.attention",
    ]
    assert check(gemma, sequence=16).ok


def test_what_is_emitted_is_proven_with_the_cache_too(gemma: Document, tmp_path: Path) -> None:
    emit(gemma).write(tmp_path / "gemma")
    certificate = Verification(tmp_path / "gemma").certificate()
    assert certificate.passed, str(certificate)


def test_a_layer_less_is_a_part_less(gemma: Document, tmp_path: Path) -> None:
    emit(apply(gemma, DeleteLayers("model.layers.1"))).write(tmp_path / "gemma")
    certificate = Verification(tmp_path / "gemma").certificate()
    assert certificate.passed, str(certificate)


def test_a_graph_that_hands_values_on_is_proven(tmp_path: Path) -> None:
    emit(apply(shared_keys(), DuplicateLayers("model.layers.1"))).write(tmp_path / "shared")
    certificate = Verification(tmp_path / "shared").certificate()
    assert certificate.passed, str(certificate)


def test_the_number_of_a_layer_means_nothing_outside_the_layers() -> None:
    node = Node(id="part", op="torch.select", attrs={"dim": 2, "index": "=layer"}, inputs={"x": "layers"})  # type: ignore[arg-type]
    outside = apply(shared_keys(), AddNode("model", node, after="layers"))
    model = outside.blocks["LlamaModel"]
    used = outside.with_block("LlamaModel", model.replace(outputs=FrozenMap({"out": "part"})))
    flaw = next(found for found in check(used, sequence=16).diagnostics if found.severity == "error")
    assert flaw.path == "model.part" and "layer" in flaw.message
    with pytest.raises(EmitError, match="goes by the number of a layer"):
        emit(used)


def test_no_size_may_be_called_as_the_number_of_a_layer() -> None:
    document = shared_keys()
    named = document.replace(sizes=document.sizes.with_items({"layer": 3}))
    with pytest.raises(CanvasError, match="'layer'"):
        parse_document(parse_json(dumps(named), "named"))


def test_tables_of_rotations_that_layers_pass_on_are_not_what_they_carry() -> None:
    document = import_model(small_config("deepseek_v2"))[0]
    stack = stack_of(document)
    assert handed_on(stack, document.blocks) == ()
    assert list(stack.inputs) == ["hidden_states", "phases"]


@pytest.mark.parametrize("value", ["=64 * (layer + 1)", "=intermediate_size + 0 * layer"])
def test_no_size_goes_by_the_number_of_the_layer(value: str) -> None:
    """Layers of a kind are counted, costed and emitted as one."""
    with pytest.raises(CanvasError, match="'layer' is no size of this model"):
        apply(shared_keys(), SetAttr("model.layers.mlp.up_proj", "out_features", value))
    document = shared_keys()
    mlp = document.blocks["LlamaMLP"]
    nodes = tuple(
        node.replace(attrs=node.attrs.with_items({"out_features": value})) if node.id == "up_proj" else node
        for node in mlp.nodes
        if isinstance(node, Node)
    )
    strange = document.with_block("LlamaMLP", mlp.replace(nodes=nodes))
    told = {flaw.message for flaw in check(strange, sequence=16).diagnostics}
    assert "out_features goes by the number of the layer (layer)" in told
    with pytest.raises(EmitError, match="may not go by the number of the layer"):
        emit(strange)


@pytest.mark.parametrize("name", ["self", "kwargs", "attention_mask", "hidden_states_1"])
def test_whatever_values_are_called_that_are_handed_on_the_code_holds(name: str, tmp_path: Path) -> None:
    text = dumps(shared_keys()).replace('"prev_k"', f'"{name}"').replace('self_attn.prev_k"', f'self_attn.{name}"')
    emit(parse_document(parse_json(text, "strange"))).write(tmp_path / "strange")
    certificate = Verification(tmp_path / "strange").certificate()
    assert certificate.passed, str(certificate)
