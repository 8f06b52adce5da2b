"""What a card holds under FSDP2 is what PyTorch's own `fully_shard` holds, to the byte."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from canvas_rt.ir.document import Document
from canvas_rt.ir.files import load
from canvas_rt.physics.measuring import peak_allocated
from canvas_rt.physics.scenario import Scenario
from tests.sharded_runs import SIZES, Job, peak_of_a_rank

ZOO = Path(__file__).parents[2] / "model_zoo"
LLAMA = load(ZOO / "llama" / "document.canvas.json")


def document(job: Job) -> Document:
    sizes = {**SIZES, **job.sizes, "num_hidden_layers": job.layers, "vocab_size": job.vocab}
    return LLAMA.replace(sizes=LLAMA.sizes.with_items(sizes))


def predicted(job: Job) -> int:
    scenario = Scenario(
        batch=job.batch,
        sequence=job.sequence,
        dtype=job.dtype,
        attention="auto" if job.attention == "sdpa" else job.attention,
        implementation="foreach" if job.foreach else "for-loop",
        data=job.ranks,
        reshard=job.reshard,
        accumulation=job.accumulation,
        recompute="full" if job.recompute else "none",
        frozen=job.frozen,
    )
    return peak_allocated(document(job), scenario, "cpu")


def grid() -> list[Job]:
    """Every width of the group, depth, dtype, and both ways to reshard and to update; the peak at each of its places."""
    places: list[dict[str, Any]] = [{"vocab": 50}, {"vocab": 1001}, {"sequence": 4}]
    every = enumerate(product((2, 4, 8), (2, 4, 6), (True, False), ("fp32", "bf16", "mixed")))
    return [
        Job(*one, foreach=index % 2 == 0, **places[index % 5 % (3 if one[2] else 2)])
        for index, one in every
        if (index + index // 6) % 3 == 0
    ]


@pytest.mark.parametrize("job", grid(), ids=str)
def test_a_rank_holds_what_fully_shard_holds(job: Job) -> None:
    assert predicted(job) == peak_of_a_rank(job)


@pytest.mark.parametrize("reshard", [True, False])
@pytest.mark.parametrize("dtype", ["fp32", "mixed"])
def test_fsdp_mem_tracker_says_the_same_but_for_single_numbers(dtype: str, reshard: bool) -> None:
    job = Job(4, 3, reshard, dtype, vocab=1001)
    assert 0 <= peak_of_a_rank(job, tracker=True) - predicted(job) < 150  # step counts and losses, 4 to 8 bytes each


ODD = {
    "gradients accumulate": Job(8, 6, sequence=4, accumulation=3),
    "gradients accumulate beside activations": Job(2, 4, dtype="mixed", accumulation=2),
    "the peak is while gradients are reduced": Job(2, 1, dtype="mixed", sequence=3, sizes={"intermediate_size": 2000}),
    "a layer's rows do not divide": Job(7, 3, sequence=8),
    "fewer rows than ranks": Job(48, 2, sequence=8),
    "the embedding is frozen": Job(2, 3, frozen=("model.embed_tokens",), sequence=8),
    "the first layers are frozen": Job(
        4, 4, frozen=("model.embed_tokens", "model.layers.0", "model.layers.1"), sequence=8
    ),
    "the first layers are frozen and whole": Job(
        4, 4, False, frozen=("model.embed_tokens", "model.layers.0", "model.layers.1")
    ),
    "norms are frozen": Job(2, 3, frozen=("input_layernorm", "post_attention_layernorm"), sequence=8),
    "scaled dot products": Job(2, 3, dtype="bf16", attention="sdpa"),
}


@pytest.mark.parametrize("job", ODD.values(), ids=ODD.keys())
def test_odd_ones_too(job: Job) -> None:
    assert predicted(job) == peak_of_a_rank(job)


@pytest.mark.parametrize(("dtype", "kept"), [("fp32", 0), ("bf16", 2)])
def test_where_whole_layers_pile_up_in_the_forward_transformers_holds_a_little_more(dtype: str, kept: int) -> None:
    """The frame of its `forward` names the position ids, and the embeddings, which in 16 bits no backward needs."""
    job = Job(8, 6, False, dtype, sequence=4)
    embeddings = kept * job.batch * job.sequence * SIZES["hidden_size"]
    assert peak_of_a_rank(job) - predicted(job) == 8 * job.sequence + embeddings


def test_recomputing_layers_keeps_what_transformers_keeps_but_its_position_ids() -> None:
    """Each checkpoint of transformers holds on to the position ids, which the document makes for the angles only."""
    job = Job(2, 6, dtype="mixed", recompute=True)
    assert peak_of_a_rank(job) - predicted(job) == 8 * job.sequence
