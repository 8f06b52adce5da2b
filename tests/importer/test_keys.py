"""Modules in rows, lists and tables, held by others or used twice: followed, emitted, and found under their own keys."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from canvas_rt import emit, import_model
from canvas_rt.edits import AddNode, RenameNode, SetAttr, apply
from canvas_rt.errors import EmitError
from canvas_rt.gestures.clips import copy, paste
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import dumps, parse_document, parse_json
from canvas_rt.ops.compare import difference
from canvas_rt.ops.interpret import Interpreter
from canvas_rt.ops.kernels import Context
from canvas_rt.ops.parameters import count_parameters, parameter_keys
from canvas_rt.physics.shapes import check
from canvas_rt.verifier.emitted import import_code, load_classes


class KeyedConfig(PretrainedConfig):
    model_type = "keyed"

    def __init__(
        self, vocab_size: int = 96, hidden_size: int = 24, num_hidden_layers: int = 2, ratio: int = 3, **kwargs: Any
    ) -> None:
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.ratio = ratio
        super().__init__(**kwargs)


class Held(nn.Module):
    """What a layer uses, and of which it uses a part by itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class KeyedLayer(nn.Module):
    def __init__(self, config: KeyedConfig) -> None:
        super().__init__()
        width, wide = config.hidden_size, config.hidden_size * config.ratio
        self.row = nn.Sequential(nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width))
        self.gates = nn.ModuleList([nn.Linear(width, width, bias=False) for _ in range(3)])
        self.held = Held(width)
        self.shared = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.row(self.shared(x))
        x = x * self.gates[2](self.gates[0](x))
        return x + self.held(self.held.norm(self.shared(x)))


class KeyedBackbone(nn.Module):
    def __init__(self, config: KeyedConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(KeyedLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, input_ids: Tensor) -> Tensor:
        x: Tensor = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return x


class Keyed(PreTrainedModel):
    config_class = KeyedConfig

    def __init__(self, config: KeyedConfig) -> None:
        super().__init__(config)
        self.model = KeyedBackbone(config)
        self.heads = nn.ModuleList([nn.Linear(config.hidden_size, config.vocab_size)])
        self.post_init()

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
        return CausalLMOutputWithPast(logits=self.heads[0](self.model(input_ids)))


@pytest.fixture(scope="module")
def model() -> Keyed:
    return Keyed(KeyedConfig()).eval()


@pytest.fixture(scope="module")
def document(model: Keyed) -> Document:
    return import_model(model)[0]


def run(document: Document, model: nn.Module, ids: Tensor) -> Tensor:
    weights = model.state_dict()
    interpreter = Interpreter(document, lambda key, shape: weights[key], Context(*ids.shape, ids.device, torch.float32))
    return interpreter.run({"input_ids": ids})["logits"]


def test_items_in_lists_have_ids_and_keys(document: Document) -> None:
    keys = {item.id: getattr(item, "key", "") for item in document.blocks["KeyedLayer"].nodes}
    keys = {name: key for name, key in keys.items() if key}
    assert keys == {
        "row_0": "row.0",
        "row_1": "row.1",
        "row_2": "row.2",
        "gates_0": "gates.0",
        "gates_2": "gates.2",
        "held_inner": "held.inner",
        "held_norm": "held.norm",
        "shared_1": "shared",
    }


def test_keys_and_numbers_are_those_of_the_original(document: Document, model: Keyed) -> None:
    theirs = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if "gates.1" not in name}
    assert parameter_keys(document) == theirs
    assert count_parameters(document).total == sum(p.numel() for n, p in model.named_parameters() if "gates.1" not in n)
    ids = torch.randint(0, 96, (2, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(run(document, model, ids), model(ids).logits)


def test_the_emitted_model_holds_them_in_lists_and_tables(document: Document, model: Keyed, tmp_path: Path) -> None:
    source = emit(document)
    code = source.files["model.py"]
    assert "self.row[2](self.row[1](self.row[0](" in code  # every place is taken: a list
    assert 'self.gates["2"](self.gates["0"](' in code  # one is not used: a table
    assert 'self.held["inner"](self.held["norm"](' in code
    assert code.count("self.shared = ") == 1 and code.count("self.shared(") == 2
    source.write(tmp_path / "keyed")
    raw = json.loads(source.files["config.json"])
    config_class, model_class = load_classes(tmp_path / "keyed", raw)
    made: Any = model_class(config_class()).eval()
    made.load_state_dict({n: t for n, t in model.state_dict().items() if "gates.1" not in n})
    ids = torch.randint(0, 96, (2, 7), generator=torch.Generator().manual_seed(2))
    assert difference(document, import_code(tmp_path / "keyed")[0]) == ""
    with torch.no_grad():
        assert torch.equal(made(input_ids=ids).logits, model(ids).logits)


def test_a_key_survives_the_file_and_a_rename(document: Document) -> None:
    assert parse_document(parse_json(dumps(document), "x")) == document
    renamed = apply(document, RenameNode("model.layers.0-1.row_0", "up"))
    assert parameter_keys(renamed) == parameter_keys(document)
    renamed = apply(document, RenameNode("model.layers.0-1.shared", "first"))
    assert parameter_keys(renamed) == parameter_keys(document)  # another node uses it too


def test_nodes_that_are_one_module_are_set_together(document: Document) -> None:
    changed = apply(document, SetAttr("model.layers.0-1.shared_1", "eps", 0.5)).blocks["KeyedLayer"]
    assert changed.by_id["shared"].attrs == changed.by_id["shared_1"].attrs  # type: ignore[union-attr]


def test_what_is_pasted_learns_for_itself(document: Document) -> None:
    level = "model.layers.0-1"
    edits, _ = paste(document, copy(document, [f"{level}.row_0"]), level)
    (added,) = (edit.node for edit in edits if isinstance(edit, AddNode))
    assert (added.id, getattr(added, "key", "")) == ("row_0_1", "")


@pytest.mark.parametrize(("key", "other"), [("row.0", "row_0"), ("row", "row_0"), ("row.0.inner", "row_0")])
def test_two_modules_in_one_place_are_told_and_not_emitted(document: Document, key: str, other: str) -> None:
    block = document.blocks["KeyedLayer"]
    gates = [item.replace(key=key) if item.id == "gates_0" else item for item in block.nodes]
    clashing = document.with_block("KeyedLayer", block.replace(nodes=tuple(gates)))
    errors = [one for one in check(clashing).diagnostics if one.severity == "error"]
    assert any("gates_0" in one.path and other in one.message for one in errors)
    with pytest.raises(EmitError, match=f"gates_0: stands in the checkpoint where {other} does"):
        emit(clashing)


@pytest.mark.parametrize("key", ["0", "a..b", "a.01", "a.0x", "a.b()", 'a["b"]', "a.import", "a." * 9 + "a", "__a.b"])
def test_what_is_no_key_is_no_document(document: Document, key: str) -> None:
    data = document.model_dump(mode="json")
    data["blocks"]["KeyedLayer"]["nodes"][0]["key"] = key
    with pytest.raises(ValueError):
        Document.model_validate_json(json.dumps(data))


def test_no_part_hides_what_lists_and_tables_have(document: Document) -> None:
    block = document.blocks["KeyedLayer"]
    nodes = [item.replace(key="gates.append") if item.id == "gates_0" else item for item in block.nodes]
    with pytest.raises(EmitError, match="'append' is a name that every list or table of modules has for itself"):
        emit(document.with_block("KeyedLayer", block.replace(nodes=tuple(nodes))))
