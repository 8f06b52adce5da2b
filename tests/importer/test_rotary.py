"""Rotary modules and the functions that turn values by them: recognised, proved, emitted and read again."""

import copy
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from canvas_rt.codegen.configs import WITH_VALUES
from canvas_rt.codegen.rotations import ROTATE_HALF, ROTATE_PAIRS, rotary_class, rotate_function
from canvas_rt.codegen.vocabulary import rotation_suffix
from canvas_rt.importer.patterns import DEFAULTS, find_rotations
from canvas_rt.importer.rotary import called_for, layer_types, rotary_as_one_node, rotary_rule
from canvas_rt.ir.document import Node
from canvas_rt.ir.frozen import freeze
from canvas_rt.ops.catalogue import complete
from canvas_rt.ops.rotary import rotate

HALF = torch.bfloat16


def rotary_module(model_type: str, name: str, **values: Any) -> nn.Module:
    config = CONFIG_MAPPING[model_type](max_position_embeddings=64, **values)
    modeling = import_module(type(config).__module__.replace("configuration_", "modeling_"))
    module: nn.Module = getattr(modeling, name)(config)
    return module


LONG: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 32,
}
TABLES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("llama", "LlamaRotaryEmbedding", {}, {}),
    ("llama", "LlamaRotaryEmbedding", {"head_dim": 16, "rope_parameters": LONG}, {}),
    ("cohere", "CohereRotaryEmbedding", {}, {"layout": "interleaved"}),
    ("olmo2", "Olmo2RotaryEmbedding", {}, {"wide": True}),
    ("gpt_oss", "GptOssRotaryEmbedding", {}, {"layout": "once"}),
    ("gpt_neox", "GPTNeoXRotaryEmbedding", {}, {}),
    ("glm4", "Glm4RotaryEmbedding", {}, {}),
    ("gemma3_text", "Gemma3RotaryEmbedding", {}, {"layer_type": True}),
    ("olmo3", "Olmo3RotaryEmbedding", {}, {"layer_type": True, "wide": True}),
]


@pytest.mark.parametrize(("model_type", "name", "values", "settings"), TABLES)
def test_a_rotary_module_is_a_node_for_each_type_of_layer(
    model_type: str, name: str, values: dict[str, Any], settings: dict[str, Any]
) -> None:
    module: Any = rotary_module(model_type, name, **values)
    for layer_type in layer_types(module):
        found = rotary_rule(module, layer_type)
        assert found is not None
        own = {key: value for key, value in found[1].items() if key in ("layer_type", "layout", "wide")}
        assert own == {**settings, **({"layer_type": layer_type} if "layer_type" in settings else {})}
        assert found[1]["parameters"] == module.config.rope_parameters
        assert rotary_rule(emitted(found[1], module.config)) == found


def emitted(attrs: dict[str, Any], config: Any) -> nn.Module:
    settings = complete(Node(id="rotary_emb", op="rotary_embedding", attrs=freeze(attrs)))
    names: dict[str, Any] = {
        "torch": torch,
        "Tensor": torch.Tensor,
        "nn": nn,
        "copy": copy,
        "Any": Any,
        "Config": object,
    }
    names |= {"ROPE_INIT_FUNCTIONS": ROPE_INIT_FUNCTIONS, "dynamic_rope_update": dynamic_rope_update}
    exec(WITH_VALUES.format(config="Config", heterogeneous=""), names)
    exec(rotary_class("RotaryEmbedding", "Config", settings, True), names)
    config = names["with_values"](config, head_dim=attrs["head_dim"])
    layer_type = [settings["layer_type"]] if settings["layer_type"] else []
    module: nn.Module = names["RotaryEmbedding"](config, *layer_type)
    return module


class TwoTables(nn.Module):
    """Reads one rotary module for two types of layer, as models with local and global attention do."""

    def __init__(self) -> None:
        super().__init__()
        self.rotary_emb = rotary_module("gemma3_text", "Gemma3RotaryEmbedding")
        self.scale = nn.Parameter(torch.ones(1, dtype=HALF))

    def forward(self, x: Tensor, position_ids: Tensor) -> Tensor:
        near = self.rotary_emb(x, position_ids, "sliding_attention")[0]
        far = self.rotary_emb(x, position_ids, "full_attention")[1]
        return self.scale * (near + far)


def test_a_module_called_for_two_types_of_layer_is_traced_as_two_calls() -> None:
    model = TwoTables()
    with rotary_as_one_node(model):
        program = torch.export.export(model, (torch.zeros(1, 5, 8), torch.arange(5)[None]), strict=False)
    graphs: Any = torch.export.unflatten(program)
    calls = [str(node.target) for node in graphs.graph.nodes if node.op == "call_module"]
    assert [called_for(graphs.get_submodule(call).graph) for call in calls] == ["sliding_attention", "full_attention"]


ROTATIONS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("llama", "apply_rotary_pos_emb", {}, {}),
    ("llama", "apply_rotary_pos_emb", {"tokens_first": True}, {"tokens_first": True}),
    ("gpt_neox", "apply_rotary_pos_emb", {"width": 8}, {"joined": True}),
    ("phi3", "apply_rotary_pos_emb", {"width": 8}, {"joined": True}),
    ("phi3", "apply_rotary_pos_emb", {}, {"joined": True}),
    (
        "deepseek_v3",
        "apply_rotary_pos_emb_interleave",
        {},
        {"style": "pairs_to_halves", "tables": "first_half"},
    ),
    ("olmo2", "apply_rotary_pos_emb", {"tables": torch.float32}, {"wide": True}),
    ("cohere", "apply_rotary_pos_emb", {}, {"style": "interleaved", "wide": True}),
    ("ernie4_5", "apply_rotary_pos_emb", {}, {"style": "interleaved", "tables": "first_half", "wide": True}),
    ("glm", "apply_rotary_pos_emb", {"width": 8}, {"style": "interleaved", "tables": "first_half", "joined": True}),
    ("nanochat", "apply_rotary_pos_emb", {}, {"style": "backwards"}),
    ("gpt_oss", "apply_rotary_pos_emb", {"width": 8}, {"tables": "once"}),
    (
        "deepseek_v4",
        "apply_rotary_pos_emb",
        {"width": 4, "one": True},
        {"style": "interleaved", "tables": "once", "tail": True, "wide": True, "joined": True},
    ),
    ("gemma4", "apply_rotary_pos_emb", {"one": True}, {}),
]


class Turns(nn.Module):
    """Heads, turned by a family's own function."""

    def __init__(self, function: Any, tokens_first: bool, one: bool) -> None:
        super().__init__()
        self.function, self.tokens_first, self.one = function, tokens_first, one

    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
        q, k = q.view(2, 5, 4, 16), k.view(2, 5, 3, 16)
        if not self.tokens_first:
            q, k = q.transpose(1, 2), k.transpose(1, 2)
        values = (q,) if self.one else (q, k)
        return self.function(*values, cos, sin, unsqueeze_dim=2 if self.tokens_first else 1)


@pytest.mark.parametrize(("family", "name", "how", "settings"), ROTATIONS)
def test_a_rotation_is_found_whatever_its_style(
    family: str, name: str, how: dict[str, Any], settings: dict[str, Any]
) -> None:
    function = getattr(import_module(f"transformers.models.{family}.modeling_{family}"), name)
    one, table = how.get("one", False), (2, 5, how.get("width", 16))
    given = [torch.zeros(2, 5, 64, dtype=HALF), torch.zeros(2, 5, 48, dtype=HALF)]
    given += [torch.zeros(table, dtype=how.get("tables", HALF)) for _ in range(2)]
    program = torch.export.export(Turns(function, how.get("tokens_first", False), one), tuple(given), strict=False)
    found = find_rotations(program.graph)
    assert [bound["@settings"] for bound in found.values()] == [settings] * (1 if one else 2)
    assert {str(bound["cos"]) for bound in found.values()} == {"cos"}


@pytest.mark.parametrize("settings", [settings for *_, settings in ROTATIONS])
@pytest.mark.parametrize("part", [False, True])
def test_an_emitted_rotation_is_the_same_to_the_last_bit(settings: dict[str, Any], part: bool) -> None:
    attrs = {**DEFAULTS, **settings}
    names: dict[str, Any] = {"torch": torch, "Tensor": torch.Tensor}
    for text in (ROTATE_HALF, ROTATE_PAIRS, rotate_function(rotation_suffix(attrs), attrs, part)):
        exec(text, names)
    width = (8 if part else 16) // (2 if attrs["tables"] == "once" else 1)
    for dtype in (torch.float32, torch.bfloat16):
        x, cos, sin = (torch.randn(2, 3, 3, 16).to(dtype), *(torch.randn(2, 3, width).to(dtype) for _ in range(2)))
        assert torch.equal(names[f"rotate{rotation_suffix(attrs)}"](x, cos, sin), rotate(x, cos, sin, attrs))


def test_pairs_that_are_brought_into_halves_are_a_step_of_the_rotation() -> None:
    settings = {"style": "pairs_to_halves"}
    names: dict[str, Any] = {"torch": torch, "Tensor": torch.Tensor}
    for text in (ROTATE_HALF, rotate_function("_pairs", {**DEFAULTS, **settings}, False)):
        exec(text, names)

    def turn(x: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int) -> Tensor:
        turned: Tensor = names["rotate_pairs"](x, cos, sin)
        return turned

    given = [torch.zeros(2, 5, width, dtype=HALF) for width in (64, 48, 16, 16)]
    program = torch.export.export(Turns(turn, False, True), tuple(given), strict=False)
    (bound,) = find_rotations(program.graph).values()
    assert bound["@settings"] == settings
