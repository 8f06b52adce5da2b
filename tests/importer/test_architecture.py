"""An import at large: what a config says, what is tried, and how it ends where it cannot go on."""

import pytest
import torch
from torch import Tensor, nn
from transformers import MiniMaxConfig, RwkvConfig, RwkvForCausalLM
from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

from canvas_rt.errors import UnsupportedModelError
from canvas_rt.importer.architecture import ArchitectureImport
from canvas_rt.importer.factory import StockFactory
from canvas_rt.importer.positions import numbers_each
from canvas_rt.importer.small import small_config
from canvas_rt.importer.stateful import own_cache


def test_an_import_that_fails_says_so_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: value for name, value in small_config("llama").items() if name != "model_type"}
    found = ArchitectureImport(StockFactory("llama"), given, "llama")
    monkeypatch.setattr(found, "attempt", lambda: [][1])
    with pytest.raises(
        UnsupportedModelError, match="llama: it cannot be followed: IndexError: list index out of range"
    ):
        found.run()


class Counted(nn.Module):
    """Tokens, numbered for each sequence."""

    def forward(self, ids: Tensor) -> Tensor:
        ones = torch.ones(2, 5, device=ids.device)
        return (torch.cumsum(ones, dim=1) * ones - 1).long()


class Repeated(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        return torch.arange(5).unsqueeze(0).repeat(2, 1)


class Backwards(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        return (4 - torch.arange(5)).unsqueeze(0).repeat(2, 1)


@pytest.mark.parametrize(("module", "numbers"), [(Counted, True), (Repeated, True), (Backwards, False)])
def test_what_counts_the_tokens_of_each_sequence_numbers_them(module: type[nn.Module], numbers: bool) -> None:
    program = torch.export.export(module(), (torch.zeros(2, 5, dtype=torch.long),), strict=False)
    (result,) = next(node for node in program.graph.nodes if node.op == "output").args[0]
    assert numbers_each(result, (2, 5)) is numbers


def test_a_model_that_needs_a_cache_of_its_own_is_refused() -> None:
    config = MiniMaxConfig(**{n: v for n, v in small_config("minimax").items() if n != "model_type"})
    with torch.device("meta"):
        attention = MiniMaxLightningAttention(config, layer_idx=0)
        rwkv = RwkvForCausalLM(RwkvConfig(hidden_size=8, num_hidden_layers=1, vocab_size=8))
    own = "MiniMaxLightningAttention keeps its state in a cache of its own class, by 'get_linear_cache'"
    assert own_cache(attention) == own
    assert own_cache(rwkv) == "RwkvForCausalLM carries what came before in an argument of its own, 'state'"
    assert own_cache(nn.Linear(2, 2)) is None
