"""Layers that hand values to later ones: what is wrong with them, what they cost, what they hold."""

import pytest

from benchmarks import cpu_memory
from benchmarks.cpu_memory import SIZES, Case, generate, train
from canvas_rt.edits import DeleteLayers, DuplicateLayers, MoveLayers, apply
from canvas_rt.importer import open_zoo
from canvas_rt.physics import check, kv_cache_bytes, measure
from tests.sharing import shared_keys

DOCUMENT = shared_keys()
ALONE = open_zoo("llama-3.1-8b")
ALONE = ALONE.replace(sizes=ALONE.sizes.with_items(SIZES))


def test_what_is_handed_on_has_a_shape_in_each_layer() -> None:
    found = check(DOCUMENT, batch=2, sequence=16)
    assert found.diagnostics == ()
    # no error: the attention of the second kind is given keys of the first
    assert str(found.shapes["model.layers.1.self_attn.attention"][0]) == "[batch, seq, num_attention_heads, head_dim]"


def test_a_layer_that_takes_what_none_before_it_hands_on_is_named_with_a_way_out() -> None:
    (flaw,) = check(apply(DOCUMENT, DeleteLayers("model.layers.0")), sequence=16).diagnostics
    assert flaw.path == "model.layers.0"
    assert flaw.message == "takes prev_k and prev_v, which no layer before it hands on"
    assert "stand before it" in flaw.hint


def test_layers_may_be_moved_and_copied_where_what_they_take_stays_before_them() -> None:
    copied = apply(DOCUMENT, DuplicateLayers("model.layers.1"))
    assert check(copied, sequence=16).ok
    moved = apply(DOCUMENT, MoveLayers("model.layers.2-3", 0))
    assert check(moved, sequence=16).ok
    assert not check(apply(DOCUMENT, MoveLayers("model.layers.1", 0)), sequence=16).ok


def test_only_layers_that_make_keys_have_a_place_in_the_cache() -> None:
    sizes = [kv_cache_bytes(document, batch=1, sequence=64) for document in (DOCUMENT, ALONE)]
    assert sizes[0] * 2 == sizes[1]


def test_a_token_reads_as_much_as_without_sharing() -> None:
    """Attention itself costs the same; projections of keys and values are gone from every other layer."""
    ours, theirs = (measure(d, mode="decode", sequence=256).flops.forward for d in (DOCUMENT, ALONE))
    projections = 2 * 2 * SIZES["hidden_size"] * SIZES["num_key_value_heads"] * SIZES["head_dim"]
    assert theirs - ours == 2 * projections


@pytest.mark.parametrize(
    "case",
    [
        train("shared", dtype="bf16", optimizer="sgd", batch=4, sequence=128),
        train("shared", dtype="bf16", optimizer="sgd", recompute="full"),
        generate("prefill", "shared", dtype="bf16", attention="auto"),
    ],
    ids=lambda case: case.name,
)
def test_a_real_run_takes_what_was_predicted(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cpu_memory.MADE, "shared", shared_keys)
    assert cpu_memory.predicted(case) == cpu_memory.measured(case)
