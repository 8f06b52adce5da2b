"""Models in memory: stock ones as by their configs, a user's own by their code; none of them is changed."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from canvas_rt import CanvasError, emit, import_model, verify
from canvas_rt.errors import UnsupportedModelError
from canvas_rt.ir import Document
from canvas_rt.ops.parameters import parameter_keys
from canvas_rt.verifier.checks import Verification

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "vocab_size": 112,
    "max_position_embeddings": 64,
}


class WideConfig(PretrainedConfig):
    """A config as people write them: what it is made from, under names of its own."""

    model_type = "wide"
    attribute_map = {"hidden_size": "width", "num_hidden_layers": "depth"}  # noqa: RUF012

    def __init__(self, vocab_size: int = 96, width: int = 40, depth: int = 3, ratio: int = 3, **kwargs: Any) -> None:
        self.vocab_size, self.width, self.depth, self.ratio = vocab_size, width, depth, ratio
        super().__init__(**kwargs)


class WideLayer(nn.Module):
    def __init__(self, config: WideConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, config.ratio * config.width, bias=False)
        self.down = nn.Linear(config.ratio * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.silu(self.up(self.norm(x))))


class WideBackbone(nn.Module):
    def __init__(self, config: WideConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(WideLayer(config) for _ in range(config.depth))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return x


class Wide(PreTrainedModel):
    """A model that no library has."""

    config_class = WideConfig

    def __init__(self, config: WideConfig) -> None:
        super().__init__(config)
        self.model = WideBackbone(config)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
        logits = self.lm_head(self.model(input_ids))
        return transformers.modeling_outputs.CausalLMOutputWithPast(logits=logits)


class TwiceLayer(LlamaDecoderLayer):
    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        return hidden_states + super().forward(hidden_states, **kwargs)


class TwiceLlama(LlamaForCausalLM):
    """A Llama whose layers have one more residual path, under Llama's own config and model type."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        layers = range(config.num_hidden_layers)
        self.model.layers = nn.ModuleList(TwiceLayer(config, index) for index in layers)
        self.post_init()


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_a_stock_model_is_imported_as_by_its_config_and_left_as_it_was(
    small_config: Callable[..., Any], small_llama: Document
) -> None:
    values = {name: value for name, value in small_config().items() if name != "model_type"}
    model = LlamaForCausalLM._from_config(LlamaConfig(**values), attn_implementation="eager").train()
    weights, config = copy.deepcopy(model.state_dict()), copy.deepcopy(model.config.to_dict())
    torch.manual_seed(5)
    document, _ = import_model(model)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))
    # A config in memory no longer tells what it was given from what its class made of it.
    assert document.sizes == {**small_llama.sizes, "head_dim": 8}
    assert (document.blocks, document.config, document.ties) == (
        small_llama.blocks,
        small_llama.config,
        small_llama.ties,
    )
    assert (document.name, document.origin.model_type) == ("LlamaForCausalLM", "llama")
    assert model.training and model.config._attn_implementation == "eager" and model.config.to_dict() == config
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_a_class_that_no_library_has_is_imported_by_its_code(tmp_path: Path) -> None:
    model = Wide(WideConfig(width=56))
    document, report = import_model(model)
    assert parameter_keys(document) == shapes(model)
    assert document.sizes == {"vocab_size": 96, "hidden_size": 56, "num_hidden_layers": 3, "ratio": 3}
    assert document.blocks["WideLayer"].node("up").attrs["out_features"] == "=hidden_size * ratio"
    assert report.recognised == {"embedding": 1, "linear": 3, "layer_norm": 1, "activation": 1, "add": 1}
    assert (document.origin.model_type, document.origin.architecture) == ("wide", "Wide")
    emit(document).write(tmp_path / "wide")
    assert not Verification(tmp_path / "wide").stock  # transformers has none to run beside it


@pytest.mark.slow
def test_a_subclass_of_a_stock_class_is_imported_by_its_own_code_and_proven_by_it() -> None:
    model = TwiceLlama(LlamaConfig(**SMALL))
    document, _ = import_model(model)
    assert [n.id for n in document.blocks["TwiceLayer"].nodes][-1].endswith("residual")
    assert parameter_keys(document) == shapes(model)
    certificate = verify(document)
    assert certificate.passed and certificate.reference == "the document, run node by node"


def test_a_model_that_was_changed_after_it_was_made_is_refused() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SMALL))
    model.model.layers[1].mlp = nn.Identity()
    with pytest.raises(CanvasError, match=r"layers.1.mlp: is Identity, where the class makes LlamaMLP from its config"):
        import_model(model)
    model = LlamaForCausalLM(LlamaConfig(**SMALL))
    del model.model.layers[1:]
    with pytest.raises(CanvasError, match=r"model.layers.1: is not there, where the class makes LlamaDecoderLayer"):
        import_model(model)
    model = LlamaForCausalLM(LlamaConfig(**SMALL))
    model.lm_head = nn.Linear(48, 99, bias=False)
    with pytest.raises(CanvasError, match=r"lm_head.weight: is \[99, 48\], where the class makes \[112, 48\]"):
        import_model(model)


def test_what_has_no_config_is_told_what_it_needs() -> None:
    with pytest.raises(CanvasError, match=r"Linear: is no PreTrainedModel: no config says what its sizes are\nMake it"):
        import_model(nn.Linear(2, 2))
    with pytest.raises(CanvasError, match=r"give the model inside, its '\.module'"):
        import_model(nn.DataParallel(Wide(WideConfig())))
    with pytest.raises(
        CanvasError, match=r"source: is a int, which cannot be imported\nGive a config.json, a model fo"
    ):
        import_model(5)  # type: ignore[arg-type]


def test_a_backbone_is_no_language_model() -> None:
    with pytest.raises(UnsupportedModelError, match=r"LlamaModel: is no causal .*\nGive a LlamaForCausalLM"):
        import_model(transformers.LlamaModel(LlamaConfig(**SMALL)))


def test_a_class_that_cannot_be_made_again_is_told() -> None:
    class Asks(Wide):
        def __init__(self, config: WideConfig, more: int) -> None:
            super().__init__(config)

    with pytest.raises(CanvasError, match=r"Asks: cannot be made from its own config: .*'more'"):
        import_model(Asks(WideConfig(), 1))
