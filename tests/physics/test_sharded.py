"""What a card holds under FSDP2 is what PyTorch's own `fully_shard` holds, to the byte."""

import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from edit_kinds import mixture

from canvas_rt import open_zoo
from canvas_rt.edits import apply
from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import load
from canvas_rt.ops.parameters import count_parameters
from canvas_rt.physics import measure, parallel
from canvas_rt.physics.bench import prepare
from canvas_rt.physics.hardware import load_hardware
from canvas_rt.physics.pipeline import left
from canvas_rt.physics.run import Run, begin, peak_allocated, run_costs, run_memory
from canvas_rt.physics.scenario import Scenario
from canvas_rt.physics.setup import Setup
from canvas_rt.physics.tensor_parallel import local
from canvas_rt.physics.whole import model
from tests.sharded_runs import SIZES, Job, peak_of_a_rank, peak_of_a_stage, tensor_parallel

ZOO = Path(__file__).parents[2] / "model_zoo"
LLAMA = load(ZOO / "llama" / "document.canvas.json")


def document(job: Job) -> Document:
    sizes = {**SIZES, **job.sizes, "num_hidden_layers": job.layers, "vocab_size": job.vocab}
    return LLAMA.replace(sizes=LLAMA.sizes.with_items(sizes))


def predicted(job: Job) -> int:
    return peak_allocated(document(job), scenario_of(job), "cpu")


def scenario_of(job: Job) -> Scenario:
    return Scenario(
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
        lora=job.lora,
    )


def grid() -> list[Any]:
    """Every width of the group, depth, dtype, and both ways to reshard and to update; the peak at each of its places.

    One in five is tested at each commit.
    """
    places: list[dict[str, Any]] = [{"vocab": 50}, {"vocab": 1001}, {"sequence": 4}]
    found = []
    for index, one in enumerate(product((2, 4, 8), (2, 4, 6), (True, False), ("fp32", "bf16", "mixed"))):
        often = (index + index // 6) % 5 == 0
        place = places[index // 3 % (3 if one[2] else 2)]
        job = Job(*one, foreach=index % 4 < 2, **place)
        found.append(pytest.param(job, id="-".join(map(str, (*one, *place))), marks=[] if often else pytest.mark.slow))
    return found


@pytest.mark.parametrize("job", grid())
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
    "adapters": Job(2, 3, lora=4),
    "scaled dot products": Job(2, 3, dtype="bf16", attention="sdpa"),
}


@pytest.mark.parametrize("job", ODD.values(), ids=ODD.keys())
def test_odd_ones_too(job: Job) -> None:
    assert predicted(job) == peak_of_a_rank(job)


FORWARD = {
    "whole layers pile up": Job(8, 6, False, sequence=4),
    "whole layers pile up in bf16": Job(8, 6, False, "bf16", sequence=4),
    "adapters in fp32 beside weights in bf16": Job(4, 3, dtype="bf16", sequence=8, lora=4),
    "adapters and whole layers": Job(2, 4, False, "bf16", lora=4),
}


@pytest.mark.parametrize("job", FORWARD.values(), ids=FORWARD.keys())
def test_so_it_does_where_the_peak_is_in_the_forward(job: Job) -> None:
    assert predicted(job) == peak_of_a_rank(job)


def test_recomputing_layers_keeps_what_transformers_keeps() -> None:
    """Each checkpoint of transformers holds on to the position ids, which the document makes for the angles only."""
    job = Job(2, 6, dtype="mixed", recompute=True)
    assert peak_of_a_rank(job) == predicted(job)


# -- tensor parallelism


def predicted_tensor(job: Job) -> int:
    scenario = Scenario(
        batch=job.batch,
        sequence=job.sequence,
        dtype=job.dtype,
        attention="eager",
        implementation="for-loop",
        tensor=job.ranks,
    )
    return peak_allocated(document(job), scenario, "cpu")


TENSOR = {
    "fp32": Job(2, 3),
    "bf16": Job(2, 3, dtype="bf16"),
    "a vocabulary that does not divide": Job(2, 3, vocab=1001),
    "8 ranks": Job(8, 3, sizes={"num_key_value_heads": 8}),
}


@pytest.mark.parametrize("job", TENSOR.values(), ids=TENSOR.keys())
def test_a_tensor_parallel_rank_holds_what_parallelize_module_leaves_it(job: Job) -> None:
    numbers = count_parameters(local(document(job), job.ranks)).total
    assert (numbers, predicted_tensor(job)) == tensor_parallel(job)


def test_dtensor_keeps_the_embeddings_gradient_of_the_whole_vocabulary() -> None:
    """What an optimizer is given is a view of it: where the peak is in the optimizer, there is so much more."""
    job = Job(2, 6, sequence=4)
    others = job.vocab // 2 * SIZES["hidden_size"] * 4
    assert tensor_parallel(job)[1] - predicted_tensor(job) == others


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (3, r"model.layers.0-3.self_attn.q_proj: columns \(64\) do not divide over 3 .*\nTry tensor 1 or 2"),
        (4, r"model.layers.0-3.self_attn.k: heads \(2\) do not divide over 4 .*\nTry tensor 1 or 2"),
    ],
)
def test_heads_that_do_not_divide_are_named(tensor: int, message: str) -> None:
    with pytest.raises(CanvasError, match=message):
        measure(document(Job()), tensor=tensor)


def test_what_both_ways_of_sharing_leave_a_card_sums_up_by_node() -> None:
    report = measure(document(Job(layers=4, vocab=1000)), data=4, tensor=2, sequence=64)
    nodes = report.by_node.values()
    assert sum(node.memory for node in nodes) == report.memory.peak_allocated
    assert (
        sum(node.parameters for node in nodes)
        == report.parameters.total
        == count_parameters(document(Job(vocab=1000))).total
    )
    assert sum(node.time_s for node in nodes) == pytest.approx(report.time.total_s)


def test_bytes_that_travel_are_those_of_rings() -> None:
    """A layer's weights are gathered twice in bf16 and its gradients scattered once; the root's are gathered once."""
    whole = document(Job(layers=4, vocab=1000))
    report = measure(whole, data=4, sequence=64)
    total = 2 * count_parameters(whole).total
    root = 2 * (2 * 1000 * 64 + 64)
    assert report.communication.all_gather == (2 * total - root) * 3 // 4
    assert report.communication.reduce_scatter == total * 3 // 4
    tensor = measure(whole, tensor=2, sequence=64).communication
    # Two sums forward and two backward in each layer, one for the embedding and one for the head's input.
    assert tensor.all_reduce == (4 * 4 + 2) * 64 * 64 * 2 * 2 * 1 // 2


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "serving": ({"mode": "decode", "data": 2}, "data: 2 data ranks would each serve by themselves"),
    "muon": ({"optimizer": "muon", "data": 2}, "optimizer: muon turns whole matrices"),
    "few bits": ({"weights": "nf4", "lora": 8, "data": 2}, "weights: FSDP2 shares tensors of numbers"),
    "adapters": ({"dtype": "mixed", "lora": 8, "data": 2}, "lora: FSDP2's policy would gather"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_shared_is_refused_with_a_way_out(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CanvasError, match=message) as error:
        measure(document(Job()), **settings)
    assert error.value.hint


# -- pipelines


def stage_peaks(job: Job, stages: int, microbatches: int) -> tuple[list[range], list[int]]:
    """For each stage its layers, and the most bytes that it is predicted to hold."""
    scenario = Scenario(
        batch=job.batch,
        sequence=job.sequence,
        dtype=job.dtype,
        implementation="foreach",
        pipeline=stages,
        microbatches=microbatches,
    )
    bench = prepare(document(job), scenario, load_hardware("a100-80gb"), device="cpu")
    layers, peaks = [], []
    for stage, share in parallel.staged(bench.original, scenario):
        run = begin(replace(bench, document=share, stage=stage))
        layers.append(range(stage.start, stage.start + stage.layers))
        peaks.append(memory_of(run))
    return layers, peaks


def memory_of(run: Run) -> int:
    memory = run_memory(run, run_costs(run)).memory
    return memory.peak_allocated


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("stages", "microbatches"), [(2, 4), (3, 8), (4, 2)])
def test_each_stage_of_a_pipeline_holds_what_one_that_is_run_by_hand_holds(
    stages: int, microbatches: int, dtype: str
) -> None:
    job = Job(layers=7, dtype=dtype, vocab=300, sequence=40, attention="sdpa")
    layers, peaks = stage_peaks(job, stages, microbatches)
    real = [peak_of_a_stage(job, own, stages - index - 1, microbatches) for index, own in enumerate(layers)]
    assert peaks == real


def test_the_allocator_is_followed_with_all_microbatches_that_are_under_way() -> None:
    memory = measure(document(Job(layers=8)), pipeline=2, sequence=512, thorough=True).memory
    assert memory.peak_allocated <= memory.peak_reserved < 1.5 * memory.peak_allocated


def test_a_pipeline_waits_while_it_fills_and_drains() -> None:
    even = document(Job(layers=8, vocab=16))
    few, many = (measure(even, pipeline=4, microbatches=count, sequence=512).time for count in (4, 64))
    assert few.communication_s / few.total_s > 3 / 7 * 0.8
    assert many.communication_s / many.total_s < few.communication_s / few.total_s / 3


# -- experts and contexts


@pytest.fixture
def mixed_experts(small_llama: Document) -> Document:
    return apply(small_llama, *mixture())


def test_an_expert_parallel_rank_serves_with_its_own_experts(mixed_experts: Document) -> None:
    alone, shared = (measure(mixed_experts, mode="decode", sequence=32, data=n, expert=n) for n in (1, 4))
    experts = sum(node.weights for path, node in alone.by_node.items() if path.endswith("experts"))
    assert shared.memory.weights == alone.memory.weights - experts * 3 // 4
    assert shared.memory.kv_cache == alone.memory.kv_cache
    assert shared.parameters == alone.parameters


def test_rows_travel_to_their_experts_and_back(mixed_experts: Document) -> None:
    report = measure(mixed_experts, data=4, expert=2, batch=2, sequence=32)
    environment = mixed_experts.environment
    rows = 2 * 32 * environment["num_experts_per_tok"] * environment["num_hidden_layers"]
    assert report.communication.all_to_all == 4 * rows * environment["hidden_size"] * 2 // 2
    assert sum(node.memory for node in report.by_node.values()) == report.memory.peak_allocated


def test_experts_that_do_not_divide_are_named(mixed_experts: Document) -> None:
    with pytest.raises(CanvasError, match=r"mlp.experts: num_experts \(8\) do not divide over 3 .*\nTry expert 1 or 2"):
        measure(mixed_experts, data=3, expert=3)


def test_a_context_parallel_rank_holds_its_part_of_the_tokens_and_all_keys() -> None:
    """Beside FSDP over the same ranks, it is a run of its part alone, with keys and values gathered in each layer."""
    whole = document(Job(layers=3, vocab=16))
    part = model(whole, Setup("train", 1, 512, "bf16", attention="flash"))
    gathered = model(whole, Setup("train", 1, 512, "bf16", attention="flash", context_ranks=4))
    keys = 2 * 2 * 2048 * 8 * 2  # keys and values, 2 heads, 2048 tokens, 8 wide, 2 bytes
    more = left(gathered).total - left(part).total
    own = keys // 4
    assert more == 3 * (keys - own)
    report = measure(whole, context=4, sequence=2048)
    assert report.communication.all_gather - measure(whole, data=4, sequence=2048).communication.all_gather == (
        3 * keys * 3 // 4
    )
    assert sum(node.memory for node in report.by_node.values()) == report.memory.peak_allocated


REFUSED_TOGETHER: dict[str, tuple[dict[str, Any], str]] = {
    "more stages than layers": ({"pipeline": 5}, r"pipeline: 5 stages need a layer each, and model.layers has 4"),
    "a pipeline of FSDP": ({"pipeline": 2, "data": 2}, "data: how FSDP2's gathering"),
    "a chat in stages": ({"pipeline": 2, "mode": "chat"}, "pipeline: a chat runs on one stage"),
    "batches of microbatches": ({"pipeline": 2, "accumulation": 2}, "accumulation: a pipeline accumulates"),
    "no experts": ({"data": 2, "expert": 2}, "expert: this model has no experts to share"),
    "experts beyond data": ({"expert": 2}, "expert: 2 expert ranks do not divide the 1 data ranks"),
    "an odd sequence": ({"context": 3, "sequence": 64}, "context: 64 tokens do not divide over 3"),
    "contexts that serve": ({"context": 2, "mode": "decode"}, "context: context parallelism is predicted in training"),
    "contexts in fp32": ({"context": 2, "dtype": "fp32"}, "context: parts of a sequence"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED_TOGETHER.values(), ids=REFUSED_TOGETHER.keys())
def test_what_makes_no_sense_together_is_refused_with_a_way_out(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CanvasError, match=message) as error:
        measure(document(Job()), **settings)
    assert error.value.hint


@pytest.mark.parametrize("mode", ["prefill", "decode", "chat"])
def test_a_chat_and_its_parts_run_in_tensor_parallel(mode: str) -> None:
    report = measure(document(Job()), mode=mode, tensor=2, sequence=32, generate=4)
    assert report.memory.kv_cache * 2 == measure(document(Job()), mode=mode, sequence=32, generate=4).memory.kv_cache
    assert report.communication.all_reduce > 0
    assert sum(node.time_s for node in report.by_node.values()) == pytest.approx(report.time.total_s)


def test_405b_on_512_cards_is_reported_within_a_second() -> None:
    whole = open_zoo("llama-3.1-405b")
    measure(whole, data=512, sequence=8192, dtype="mixed", recompute="full")
    start = time.process_time()
    report = measure(whole, data=512, sequence=8192, dtype="mixed", recompute="full")
    assert time.process_time() - start < 1
    assert report.memory.weights == pytest.approx(4 * count_parameters(whole).total / 512, rel=0.001)


def test_what_is_worth_knowing_about_many_cards_is_noted(mixed_experts: Document) -> None:
    found = measure(mixed_experts, data=16, sequence=32)
    notes = [(note.severity, note.path) for note in found.diagnostics]
    assert ("note", "hardware") in notes
    assert ("warning", "model.layers.0-3.mlp.experts") in notes
    assert found.memory.device_total - found.memory.peak_reserved == 2**30  # the context, and one communicator
