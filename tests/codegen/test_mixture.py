"""An emitted mixture of experts keeps the contract of transformers: packed weights, implementations that can be switched."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_kinds import EDITS, mixture
from transformers import AutoConfig, AutoModelForCausalLM

from canvas_rt import Document, apply, emit
from canvas_rt.edits import AddNode, Connect, GroupNodes, RenameBlock, SetAttr

IDS = torch.randint(3, 112, (2, 12), generator=torch.Generator().manual_seed(0))
Load = Callable[..., Any]


@pytest.fixture
def load(small_llama: Document, tmp_path: Path) -> Load:
    """Emits an edited Llama and loads it with random weights."""

    def made(*edits: Any, **options: Any) -> Any:
        emit(apply(small_llama, *edits)).write(tmp_path / "out")
        config = AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True)
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, trust_remote_code=True, **options)

    return made


def source(document: Document) -> str:
    return emit(document).files["model.py"]


def test_a_block_of_router_and_experts_reads_as_people_write_it(small_llama: Document) -> None:
    assert """
        self.gate = CanvasLlamaRouter(config.hidden_size, config.num_experts, config.num_experts_per_tok)
        self.experts = CanvasLlamaExperts(
            config, config.hidden_size, config.moe_intermediate_size, config.num_experts, config.hidden_act
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        _, weights, indices = self.gate(hidden_states)
        tokens = self.experts(hidden_states.flatten(0, -2), indices.flatten(0, -2), weights.flatten(0, -2))
        return tokens.view_as(hidden_states)
""" in source(apply(small_llama, *mixture()))


def test_only_what_the_routers_do_is_written(small_llama: Document) -> None:
    usual = source(apply(small_llama, *mixture()))
    assert "sigmoid" not in usual and "normalise" not in usual
    varied = source(apply(small_llama, *EDITS["experts that differ"]))
    assert 'layer.num_experts_per_tok, scoring="sigmoid", normalise=False' in varied
    assert 'logits.float().sigmoid() if self.scoring == "sigmoid" else' in varied
    assert "experts" not in source(small_llama)


@pytest.mark.parametrize("name", ["experts", "experts that differ"])
def test_experts_run_in_every_way_that_transformers_knows(name: str, load: Load) -> None:
    found = {}
    for way in ("eager", "grouped_mm", "batched_mm"):
        model = load(*EDITS[name], experts_implementation=way)
        logits = model(input_ids=IDS).logits
        logits.square().mean().backward()
        found[way] = (logits.detach(), *(parameter.grad for parameter in model.parameters()))
    for way in ("grouped_mm", "batched_mm"):
        torch.testing.assert_close(found[way], found["eager"])


def test_the_implementation_can_be_switched_afterwards(load: Load) -> None:
    model = load(*mixture()).eval()
    assert model.config._experts_implementation == "grouped_mm"
    before = model(input_ids=IDS).logits
    model.set_experts_implementation("eager")
    assert model.config._experts_implementation == "eager"
    torch.testing.assert_close(model(input_ids=IDS).logits, before)


def test_weights_are_initialised_with_the_configs_range(load: Load) -> None:
    model = load(*mixture())
    for name in ("gate.weight", "experts.gate_up_proj", "experts.down_proj"):
        parameter = model.get_parameter(f"model.layers.0.mlp.{name}")
        assert parameter.std().item() == pytest.approx(model.config.initializer_range, rel=0.2)
        assert abs(parameter.mean().item()) < 0.005


def test_experts_held_elsewhere_are_left_out(load: Load) -> None:
    experts = load(*mixture(), experts_implementation="eager").model.layers[0].mlp.experts
    x, weights = torch.randn(3, 48), torch.ones(3, 1)
    held, elsewhere = torch.tensor([[1], [2], [3]]), torch.tensor([[1], [8], [3]])
    out, without = experts(x, held, weights), experts(x, elsewhere, weights)
    assert torch.equal(without[[0, 2]], out[[0, 2]]) and not without[1].any()


def test_a_mixture_trains_saves_loads_and_generates(load: Load, tmp_path: Path) -> None:
    model = load(*EDITS["experts in some layers"])
    model.gradient_checkpointing_enable()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(4):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "model.py").write_text((tmp_path / "out" / "model.py").read_text())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    torch.testing.assert_close(again(input_ids=IDS).logits, model(input_ids=IDS).logits)
    tokens = again.generate(IDS[:, :4], max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert torch.equal(tokens[:, :4], IDS[:, :4])


def test_a_block_does_not_take_the_name_of_the_experts_class(small_llama: Document) -> None:
    edited = apply(small_llama, *mixture(), RenameBlock("LlamaSparseMoeBlock", "LlamaExperts"))
    text = emit(edited).files["model.py"]
    assert "class CanvasLlamaExperts(nn.Module):" in text and "class CanvasLlamaExpertsBlock(nn.Module):" in text


def test_a_router_in_a_block_of_its_own_gives_shares_and_experts(small_llama: Document, load: Load) -> None:
    grouped = (*mixture(), GroupNodes("model.layers.mlp", ("gate",), "Choice", "choice"))
    text = source(apply(small_llama, *grouped)).partition("class CanvasChoice")[2]
    assert "-> tuple[Tensor, Tensor]:" in text and "return indices, weights" in text
    own = load(*grouped).eval()
    logits, weights = own(input_ids=IDS).logits, own.state_dict()
    plain = load(*mixture()).eval()
    plain.load_state_dict({key.replace("choice.gate.", "gate."): value for key, value in weights.items()})
    assert torch.equal(plain(input_ids=IDS).logits, logits)


def test_a_router_read_for_its_weights_alone_is_emitted(load: Load) -> None:
    gated = (
        AddNode(
            "model.layers.mlp",
            {  # type: ignore[arg-type]
                "id": "gate",
                "op": "router",
                "attrs": {"size": "=hidden_size", "num_experts": 4, "top_k": 1, "normalise": False},
                "inputs": {"x": "hidden_states"},
            },
        ),
        AddNode(
            "model.layers.mlp",
            {"id": "weighed", "op": "mul", "inputs": {"a": "gated", "b": "gate.weights"}},  # type: ignore[arg-type]
        ),
    )
    model = load(*gated, Connect("model.layers.mlp.down_proj", "x", "weighed"), SetAttr("model.norm", "eps", 1e-5))
    assert model(input_ids=IDS).logits.shape == (2, 12, 112)
    assert "_, weights, _ = self.gate(hidden_states)" in Path(inspect.getfile(type(model))).read_text()
