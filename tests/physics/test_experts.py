"""What a mixture of experts costs: FLOPs of what a token uses, memory as on a GPU, and flaws told before anything runs."""

from itertools import accumulate
from typing import Any

import pytest
import torch
from edit_kinds import EDITS, mixture
from torch.utils.flop_counter import FlopCounterMode
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from canvas_rt.edits import AddNode, Connect, SetAttr, SetSize, apply
from canvas_rt.ir.document import Document
from canvas_rt.ops.kernels import KERNELS, Context
from canvas_rt.physics import check, measure
from canvas_rt.physics.setup import Setup
from canvas_rt.physics.tape import Tape
from canvas_rt.physics.whole import model, peak
from canvas_rt.verifier.checks import Verification

META = torch.device("meta")


def test_indices_and_weights_have_a_place_for_each_choice(small_llama: Document) -> None:
    shapes = check(apply(small_llama, *mixture()), sequence=8).shapes["model.layers.0-3.mlp.gate"]
    assert [str(shape) for shape in shapes] == ["[batch, seq, num_experts_per_tok]"] * 2


@pytest.mark.parametrize("name", ["experts", "experts that differ", "nodes of a mixture"])
def test_flops_and_active_parameters_are_those_of_the_emitted_model(
    name: str, small_llama: Document, tmp_path: Any
) -> None:
    from canvas_rt import emit

    document = apply(small_llama, *EDITS[name])
    emit(document).write(tmp_path / "out")
    emitted: Any = Verification(tmp_path / "out").emitted(document, "eager")
    ids = torch.randint(3, 112, (2, 24))
    with FlopCounterMode(display=False) as forward:
        loss = emitted(input_ids=ids, labels=ids, use_cache=False).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    report = measure(document, batch=2, sequence=24)
    assert (report.flops.forward, report.flops.backward) == (forward.get_total_flops(), backward.get_total_flops())
    assert sum(node.flops_forward for node in report.by_node.values()) == report.flops.forward
    assert 0 < report.parameters.active < report.parameters.total == sum(p.numel() for p in emitted.parameters())


def record(ours: bool, tokens: int, top_k: int) -> tuple[int, ...]:
    """What experts hold after their forward, at most until then, at most in all, and at the end."""
    config = MixtralConfig(hidden_size=256, intermediate_size=384, num_local_experts=8)
    config._experts_implementation = "grouped_mm"
    with META:
        theirs = MixtralExperts(config).to(torch.bfloat16)
        x, shares = (torch.empty(1, tokens, width, dtype=torch.bfloat16, requires_grad=True) for width in (256, top_k))
        indices = torch.empty(1, tokens, top_k, dtype=torch.int64)
        gradient = torch.empty_like(x, requires_grad=False)
    tape = Tape()
    for tensor in (x, shares, indices, gradient, *theirs.parameters()):
        tape.resident(tensor)
    values = {"x": x, "indices": indices, "weights": shares}
    with tape:
        if ours:
            context = Context(1, tokens, META, torch.bfloat16, "flash")
            out = KERNELS["experts"](values, {"fn": "silu"}, dict(theirs.named_parameters()), context)[0]
        else:
            out = theirs(*(value.flatten(0, 1) for value in values.values())).view_as(x)
        split = len(tape.events)
        tape.backward = True
        torch.autograd.backward(out, gradient)
        del out
    held = list(accumulate(nbytes for nbytes, _ in tape.events))
    return held[split - 1], max(held[:split]), max(held), held[-1]


@pytest.mark.parametrize(("tokens", "top_k"), [(64, 2), (1, 1), (512, 4)])
def test_memory_is_that_of_transformers_grouped_experts_to_the_byte(tokens: int, top_k: int) -> None:
    assert record(True, tokens, top_k) == record(False, tokens, top_k)


def test_what_experts_hold_counts_as_activations(small_llama: Document) -> None:
    few, many = (
        peak(
            model(
                apply(small_llama, *mixture(), SetSize("", "num_experts_per_tok", top_k)), Setup("train", 1, 64, "bf16")
            )
        )
        for top_k in (1, 4)
    )
    assert many > few


def test_decoding_reads_only_the_experts_of_its_tokens(small_llama: Document) -> None:
    document = apply(small_llama, *mixture(), SetSize("", "num_experts", 64), SetSize("", "moe_intermediate_size", 512))
    one = 3 * 48 * 512 * 2
    single, batched = (
        measure(document, mode="decode", batch=batch, sequence=16).by_node["model.layers.0-3.mlp.experts"].bytes
        for batch in (1, 8)
    )
    assert 4 * 2 * one < single < 4 * 2.2 * one
    assert 4 * 16 * one < batched < 4 * 18 * one


CHOSEN_ELSEWHERE = (
    AddNode(
        "model.layers.mlp",
        {  # type: ignore[arg-type]
            "id": "other",
            "op": "router",
            "attrs": {"size": "=hidden_size", "num_experts": 16, "top_k": 2},
            "inputs": {"x": "hidden_states"},
        },
    ),
    Connect("model.layers.mlp.experts", "indices", "other.indices"),
)


@pytest.mark.parametrize(
    ("edits", "severity", "path", "message", "hint"),
    [
        (
            (SetSize("", "num_experts_per_tok", 9),),
            "error",
            "model.layers.0-3.mlp.gate",
            "chooses num_experts_per_tok (9) of num_experts (8) experts",
            "Set top_k to at most 8, or num_experts to at least 9.",
        ),
        (
            (SetAttr("model.layers.mlp.gate", "top_k", 12),),
            "error",
            "model.layers.0-3.mlp.gate",
            "chooses 12 of num_experts (8) experts",
            "Set top_k to at most 8, or num_experts to at least 12.",
        ),
        (
            (SetAttr("model.layers.mlp.gate", "size", 50),),
            "error",
            "model.layers.0-3.mlp.gate",
            "takes size = 50, but x is [batch, seq, hidden_size] = [1, 8, 48]",
            "Set size to 48, or feed it a value whose last dimension is 50.",
        ),
        (
            (SetAttr("model.layers.mlp.experts", "num_experts", 4),),
            "error",
            "model.layers.0-3.mlp.experts",
            "holds 4 experts, but model.layers.0-3.mlp.gate chooses from 8",
            "Give both the same num_experts.",
        ),
        (
            CHOSEN_ELSEWHERE,
            "error",
            "model.layers.0-3.mlp.experts",
            "holds 8 experts, but model.layers.0-3.mlp.other chooses from 16",
            "Give both the same num_experts.",
        ),
        (
            (Connect("model.layers.mlp.experts", "indices", "gate.weights"),),
            "error",
            "model.layers.0-3.mlp.experts",
            "takes the numbers of experts, which are whole numbers, but indices is "
            "[batch, seq, num_experts_per_tok] = [1, 8, 2] of fractions",
            "Feed it the indices that a Router gives.",
        ),
        (
            (Connect("model.layers.mlp.experts", "weights", "hidden_states"),),
            "error",
            "model.layers.0-3.mlp.experts",
            "indices [batch, seq, num_experts_per_tok] = [1, 8, 2] and weights [batch, seq, hidden_size] = [1, 8, 48] "
            "are not one for one",
            "Take both from one router.",
        ),
        (
            (SetAttr("model.layers.mlp.gate", "scoring", "=hidden_act"),),
            "error",
            "model.layers.0-3.mlp.gate",
            "scoring = hidden_act (silu) is not known",
            None,
        ),
        (
            (SetSize("", "moe_intermediate_size", 33),),
            "warning",
            "model.layers.0-3.mlp.experts",
            "width 33 is not a multiple of 8: transformers' grouped_mm refuses it in bf16",
            'Make it one, or load the emitted model with experts_implementation="eager".',
        ),
    ],
)
def test_a_flawed_mixture_is_told_with_numbers_and_a_way_out(
    edits: Any, severity: str, path: str, message: str, hint: str | None, small_llama: Document
) -> None:
    found = [d for d in check(apply(small_llama, *mixture(), *edits), sequence=8).diagnostics if d.path == path]
    assert (found[0].severity, found[0].message) == (severity, message)
    assert hint is None or found[0].hint == hint


def test_indices_that_no_router_chose_are_refused(small_llama: Document) -> None:
    twice = {"id": "twice", "op": "add", "inputs": {"a": "gate.indices", "b": "gate.indices"}}
    edited = apply(
        small_llama,
        *mixture(),
        AddNode("model.layers.mlp", twice),  # type: ignore[arg-type]
        Connect("model.layers.mlp.experts", "indices", "twice"),
    )
    (found,) = check(edited, sequence=8).diagnostics
    assert (found.path, found.message) == (
        "model.layers.0-3.mlp.experts",
        "its indices come from no router: they may name experts that do not exist",
    )
