"""The small model that is run is the same model: experts stay in order, and numbers that go together stay so."""

from typing import Any

import pytest
from edit_kinds import mixture

from canvas_rt import Document, apply
from canvas_rt.edits import AddSize, SetAttr, SetSize
from canvas_rt.importer.probes import probe_assignments
from canvas_rt.physics import check
from canvas_rt.verifier.shrink import pinned, shrink

NAMES = ("num_experts", "num_experts_per_tok")


@pytest.mark.parametrize(
    ("edits", "small"),
    [
        ((), (5, 2)),
        ((SetSize("", "num_experts", 384), SetSize("", "num_experts_per_tok", 8)), (5, 2)),
        ((SetSize("", "num_experts_per_tok", 1),), (5, 1)),
        ((SetSize("", "num_experts_per_tok", 8),), (2, 2)),
        ((SetAttr("model.layers.mlp.gate", "top_k", 4),), (8, 18)),
    ],
)
def test_experts_become_few_and_stay_more_than_are_chosen(edits: Any, small: Any, small_llama: Document) -> None:
    shrunk = shrink(apply(small_llama, *mixture(), *edits))[0]
    assert tuple(shrunk.sizes[name] for name in NAMES) == small
    assert check(shrunk, sequence=4).ok


def test_layers_of_their_own_keep_the_order_too(small_llama: Document) -> None:
    document = apply(small_llama, *mixture(), SetSize("model.layers.0.mlp", "num_experts", 3))
    shrunk = shrink(document)[0]
    assert shrunk.sizes["num_experts"] == 8 and check(shrunk, sequence=4).ok


@pytest.mark.parametrize(
    ("edits", "kept"),
    [
        ((), set()),
        ((SetSize("", "num_experts_per_tok", 8),), {"num_experts_per_tok"}),
        (
            (SetAttr("model.layers.mlp.gate", "num_experts", 8), SetAttr("model.layers.mlp.experts", "num_experts", 8)),
            {"num_experts_per_tok"},
        ),
        ((AddSize("spare", 3),), set()),
    ],
)
def test_only_what_must_is_pinned(edits: Any, kept: set[str], small_llama: Document) -> None:
    assert pinned(apply(small_llama, *mixture(), *edits)) == kept


def test_a_quotient_that_does_not_come_out_even_is_held(small_llama: Document) -> None:
    edit = SetAttr("model.layers.mlp.experts", "intermediate_size", "=moe_intermediate_size // num_experts")
    document = apply(small_llama, *mixture(), edit)
    assert {"num_experts", "moe_intermediate_size"} <= pinned(document)


def test_probes_keep_unknown_sizes_in_order_and_unlike() -> None:
    config = {"hidden_size": 64, "zeta": 9, "alpha": 2, "beta": 700, "eps": 1e-5}
    for probe in probe_assignments(config, (), ({"alpha": 5},)):
        assert probe["alpha"] < probe["zeta"] < probe["beta"]
        assert len(set(probe.values())) == len(probe)
