"""What is recognised is proved equal; what only looks alike is named, and never taken for it."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from canvas_rt import CanvasError, check, import_model
from canvas_rt.importer.architecture import ArchitectureImport
from canvas_rt.importer.factory import StockFactory
from canvas_rt.importer.small import small_config
from canvas_rt.ir.document import Node


class Altered(StockFactory):
    """A stock Llama with one module replaced by one that looks like it."""

    def __init__(self, path: str, make: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__("llama")
        self.path, self.make = path, make

    def model(self, config: Any, dtype: torch.dtype, device: str) -> nn.Module:
        model = super().model(config, dtype, device)
        parent, _, name = self.path.rpartition(".")
        setattr(model.get_submodule(parent), name, self.make(model.get_submodule(self.path)))
        return model


class EpsilonOutside(nn.Module):
    """A norm that adds epsilon after the root: equal to RMSNorm for most inputs."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return self.weight * (wide / (wide.pow(2).mean(-1, keepdim=True).sqrt() + self.eps)).to(x.dtype)


class SlowerRotary(nn.Module):
    """Rotary tables at another speed than the config says."""

    def __init__(self, rotary: Any) -> None:
        super().__init__()
        self.config, self.attention_scaling = rotary.config, rotary.attention_scaling
        self.register_buffer("inv_freq", rotary.inv_freq * 0.5, persistent=False)

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = position_ids[..., None].float() * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class Softplus(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.softplus(x)


@pytest.mark.parametrize(
    ("path", "make", "block", "ops"),
    [
        (
            "model.norm",
            EpsilonOutside,
            "EpsilonOutside",
            [
                "parameter",
                *(f"torch.{name}" for name in ("to", "pow", "mean", "sqrt", "add_number", "div", "type_as")),
                "mul",
            ],
        ),
        ("model.layers.0.mlp.act_fn", lambda module: Softplus(), "Softplus", ["torch.softplus"]),
    ],
)
def test_a_look_alike_is_the_functions_that_it_computes(
    path: str, make: Any, block: str, ops: list[str], small_config: Callable[..., Mapping[str, Any]]
) -> None:
    document, _ = ArchitectureImport(Altered(path, make), small_config(), "altered").run()
    assert [node.op for node in document.blocks[block].nodes if isinstance(node, Node)] == ops
    assert check(document).ok


def test_rotary_tables_at_another_speed_are_not_taken_for_those_of_the_config(
    small_config: Callable[..., Mapping[str, Any]],
) -> None:
    with pytest.raises(CanvasError, match=r"model\.rotary_emb \(SlowerRotary\)"):
        ArchitectureImport(Altered("model.rotary_emb", SlowerRotary), small_config(), "altered").run()


def test_the_report_names_what_was_recognised_and_what_has_no_effect(
    small_config: Callable[..., Mapping[str, Any]],
) -> None:
    _, report = import_model(small_config(pretraining_tp=1))
    assert (report.nodes, report.symbols, report.literals, report.structural) == (24, 46, (), ())
    assert report.recognised["linear"] == 8 and report.recognised["attention"] == 1
    assert "pretraining_tp" in report.without_effect


def test_every_setting_follows_the_config(small_config: Callable[..., Mapping[str, Any]]) -> None:
    document, _ = import_model(small_config("mistral", sliding_window=9))
    attention = document.blocks["MistralAttention"].node("attention")
    assert dict(attention.attrs) == {
        "scale": "=head_dim ** -0.5",
        "window": "=sliding_window",
        "dropout": "=attention_dropout",
    }
    assert document.blocks["MistralMLP"].role == "gated_mlp"
    assert check(document).diagnostics == ()


@pytest.mark.parametrize(
    ("model_type", "field"),
    [("bert", "attention_probs_dropout_prob"), ("gpt2", "attn_pdrop"), ("bart", "attention_dropout")],
)
def test_attention_drops_in_training_what_its_config_says(model_type: str, field: str) -> None:
    document = import_model(small_config(model_type))[0]
    nodes = [i for b in document.blocks.values() for i in b.nodes if isinstance(i, Node) and i.op == "attention"]
    assert {node.attrs["dropout"] for node in nodes} == {f"={field}"}
