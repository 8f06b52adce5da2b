"""What transformers asks of a model, of a plain emitted one and of one whose layers differ in sizes, windows and kinds."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from canvas_rt import Document, apply, emit, import_model
from canvas_rt.edits import Bypass, SetAttr, SetSize

UNLIKE = (
    SetSize("model.layers.1-2.self_attn", "num_key_value_heads", 3),
    SetAttr("model.layers.0.self_attn.attention", "window", None),
    Bypass("model.layers.3.self_attn_residual", "a"),
)
IDS = torch.randint(3, 112, (2, 14), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=["alike", "unlike"])
def folder(request: pytest.FixtureRequest, small_config: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    document: Document = import_model(small_config("mistral", sliding_window=7))[0]
    target = tmp_path_factory.mktemp("contract") / request.param
    emit(apply(document, *UNLIKE) if request.param == "unlike" else document).write(target)
    return target


@pytest.fixture
def model(folder: Path) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    return AutoModelForCausalLM.from_config(config, trust_remote_code=True).eval()


def generate(model: Any, ids: torch.Tensor, **options: Any) -> torch.Tensor:
    mask = options.pop("attention_mask", torch.ones_like(ids))
    return model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0, **options)[
        :, ids.shape[1] :
    ]


@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "static"}], ids=str)
def test_every_cache_generates_the_same(model: Any, options: dict[str, Any]) -> None:
    assert torch.equal(generate(model, IDS, **options), generate(model, IDS))


def test_left_padding_changes_nothing(model: Any) -> None:
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), IDS[:1]], dim=1)
    mask = torch.ones_like(padded)
    mask[:, :4] = 0
    assert torch.equal(generate(model, padded, attention_mask=mask), generate(model, IDS[:1]))


def test_recomputing_layers_gives_the_same_gradients(model: Any) -> None:
    gradients = []
    for recompute in (False, True):
        model.train()
        model.zero_grad()
        if recompute:
            for module in model.modules():
                if hasattr(module, "gradient_checkpointing"):
                    module.gradient_checkpointing = True
                    module._gradient_checkpointing_func = lambda f, *a: torch.utils.checkpoint.checkpoint(
                        f, *a, use_reentrant=False
                    )
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_hidden_states_and_attentions_are_recorded(model: Any) -> None:
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(input_ids=IDS, output_hidden_states=True, output_attentions=True)
    attending = sum(hasattr(layer, "self_attn") for layer in model.model.layers)
    assert [tuple(h.shape) for h in outputs.hidden_states] == [(2, 14, 48)] * 5
    assert [tuple(a.shape) for a in outputs.attentions] == [(2, 6, 14, 14)] * attending


@torch.no_grad()
def test_embeddings_tuples_and_last_logits_are_accepted(model: Any) -> None:
    whole = model(input_ids=IDS).logits
    assert torch.equal(model(inputs_embeds=model.get_input_embeddings()(IDS)).logits, whole)
    assert torch.equal(model(input_ids=IDS, return_dict=False)[0], whole)
    torch.testing.assert_close(model(input_ids=IDS, logits_to_keep=1).logits, whole[:, -1:])


@torch.no_grad()
def test_copies_and_reloads_are_equal(model: Any, tmp_path: Path) -> None:
    whole = model(input_ids=IDS).logits
    assert torch.equal(copy.deepcopy(model)(input_ids=IDS).logits, whole)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True).eval()
    assert torch.equal(again(input_ids=IDS).logits, whole)
    backbone = AutoModel.from_pretrained(tmp_path, trust_remote_code=True).eval()
    assert torch.equal(backbone(input_ids=IDS).last_hidden_state, model.model(input_ids=IDS).last_hidden_state)


def test_loads_through_an_accelerate_device_map(folder: Path, model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True, device_map={"": "cpu"}).eval()
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_nonsense_in_the_config_is_refused(model: Any) -> None:
    with pytest.raises(Exception, match="hidden_size"):
        type(model.config)(hidden_size="abc")


def test_the_vocabulary_can_be_resized(model: Any) -> None:
    model.resize_token_embeddings(130, mean_resizing=False)
    assert model(input_ids=IDS).logits.shape == (2, 14, 130)
