"""What no trace can follow is kept whole: it runs the original's own code, and is taken from transformers."""

from pathlib import Path

import pytest
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.doge.modeling_doge import DogeAttention, DogeForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaMLP

from canvas_rt.codegen import emit
from canvas_rt.importer.small import small_config
from canvas_rt.importer.source import import_model
from canvas_rt.importer.whole import keepable_within
from canvas_rt.ir.document import Document, Node, Stack, runs_of
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ops.catalogue import complete
from canvas_rt.ops.modules import (
    beside,
    flaw,
    is_keepable,
    lists_needed,
    module_class,
    named_arguments,
    sets_layers_apart,
)
from canvas_rt.ops.parameters import count_parameters
from canvas_rt.physics import measure
from canvas_rt.physics.shapes import check


@pytest.fixture(scope="module")
def doge() -> Document:
    """Its attention masks keys by what their values say."""
    return import_model(small_config("doge"))[0]


def kept(document: Document) -> list[Node]:
    nodes = (item for block in document.blocks.values() for item in block.nodes if isinstance(item, Node))
    return [node for node in nodes if node.op == "module"]


def test_an_attention_that_makes_its_own_mask_is_one_node(doge: Document) -> None:
    (node,) = kept(doge)
    assert node.attrs["source"] == "doge.DogeAttention"
    given = [name for name, _ in named_arguments(complete(node))]
    assert given == ["hidden_states", "position_embeddings", "position_embeddings"]
    assert complete(node)["mask"] == "attention_mask"


def test_its_sizes_are_those_of_the_config(doge: Document) -> None:
    (node,) = kept(doge)
    assert node.attrs["fields"]["hidden_size"] == "=hidden_size"
    assert node.attrs["keys"]["q_proj.weight"] == ("=hidden_size", "=hidden_size")
    original = DogeForCausalLM.config_class(**{n: v for n, v in small_config("doge").items() if n != "model_type"})
    assert count_parameters(doge).total == sum(p.numel() for p in DogeForCausalLM(original).parameters())


def test_it_is_checked_like_any_other_node(doge: Document) -> None:
    assert check(doge).diagnostics == ()


def test_emitted_code_takes_it_from_transformers(doge: Document) -> None:
    source = emit(doge).files["model.py"]
    assert "from transformers.models.doge.modeling_doge import DogeAttention" in source
    assert "position_embeddings=(cos, sin)" in source


def test_an_implementation_of_attention_that_is_set_later_reaches_it(doge: Document, tmp_path: Path) -> None:
    emit(doge).write(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True, attn_implementation="sdpa")
    own = [module.config for module in model.modules() if isinstance(module, DogeAttention)]
    model.set_attn_implementation("eager")
    assert own and {config._attn_implementation for config in own} == {"eager"}


def test_the_innermost_module_around_a_fault_is_kept() -> None:
    model = DogeForCausalLM(DogeForCausalLM.config_class(**small_of("doge")))
    assert keepable_within(model, "model.layers.1.self_attn.q_proj", ()) == "model.layers.1.self_attn"
    assert keepable_within(model, "model.layers.1.self_attn", (DogeAttention,)) is None  # a layer is no part of one


def small_of(model_type: str) -> dict[str, object]:
    return {name: value for name, value in small_config(model_type).items() if name != "model_type"}


def test_only_what_a_config_makes_can_be_kept() -> None:
    assert is_keepable(LlamaMLP)
    assert is_keepable(LlamaDecoderLayer)
    assert not is_keepable(nn.Linear)
    assert not is_keepable(DogeForCausalLM)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"source": "doge.DogeModel"}, "no module of transformers that can be kept whole"),
        ({"source": "os.path"}, "no module of transformers that can be kept whole"),
        ({"fields": {"secret": 1}}, "reads no field 'secret'"),
        ({"by_layer": {"secret": 1}}, "reads no field 'secret'"),
        ({"arguments": "hidden_states,secret"}, "takes no argument 'secret'"),
        ({"mask": "secret"}, "takes no argument 'secret'"),
    ],
)
def test_what_it_cannot_be_given_is_told(settings: dict[str, object], said: str) -> None:
    usual = {
        "source": "doge.DogeAttention",
        "fields": {},
        "by_layer": {},
        "keys": {},
        "arguments": "hidden_states",
        "mask": "",
    }
    found = flaw({**usual, **settings})
    assert found is not None
    assert said in found[0]


def test_a_class_is_found_by_its_folder_and_name() -> None:
    assert module_class("doge.DogeAttention") is DogeAttention


def test_a_layer_stands_beside_others_that_its_config_allows() -> None:
    mixer = "olmo_hybrid.OlmoHybridGatedDeltaNet"
    assert beside(mixer, "layer_types", "linear_attention") == "full_attention"  # it insists on both
    assert beside("doge.DogeAttention", "layer_types", "full_attention") == "full_attention"


def test_a_config_that_lists_its_layers_is_given_as_many_as_the_model_has() -> None:
    assert lists_needed("zamba2.Zamba2MambaMixer")["layers_block_type"] == "linear_attention"
    assert lists_needed("doge.DogeAttention") == {}


def test_a_config_that_sets_layers_apart_is_told_that_there_are_none_such() -> None:
    assert sets_layers_apart("dots3_note.Dots3NoteTextAttention")
    assert not sets_layers_apart("doge.DogeAttention")


def test_a_module_kept_whole_reads_the_sizes_of_its_layer(doge: Document) -> None:
    name = next(name for name, block in doge.blocks.items() if block.role == "backbone")
    block = doge.blocks[name]
    (stack,) = (item for item in block.nodes if isinstance(item, Stack))
    kinds = (*stack.kinds, stack.kinds[0].replace(sizes=FrozenMap({"rms_norm_eps": 1e-3, "hidden_size": 64})))
    apart = stack.replace(kinds=kinds, runs=runs_of((0, 1)))
    document = doge.with_block(name, block.replace(nodes=tuple(apart if i is stack else i for i in block.nodes)))
    source = emit(document).files["model.py"]
    assert "hidden_size=layer.hidden_size" in source
    # What stands outside the layers cannot read of the config what some layers have for themselves.
    assert (
        "general = with_values(config)" in source and "nn.Embedding(general.vocab_size, general.hidden_size" in source
    )
    assert "allow_global_per_layer_attribute_access = True" in source


def test_a_module_whose_work_follows_the_data_has_a_shape_and_says_that_it_is_not_counted() -> None:
    document = import_model(small_config("dbrx"))[0]
    found = check(document, sequence=16)
    assert found.ok
    assert {flaw.message for flaw in found.diagnostics} == {"its operations follow the data: none are counted"}
    assert measure(document, sequence=16).flops.backward > 0
