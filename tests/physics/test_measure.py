"""What a model costs: FLOPs as PyTorch counts them, bytes that sum up, and nonsense refused with a way out."""

import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.masking_utils
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from canvas_rt.errors import CanvasError, UnresolvedShape
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import load
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.physics import check, measure
from canvas_rt.physics.report import Report
from canvas_rt.physics.scenario import Scenario

ZOO = Path(__file__).parents[2] / "model_zoo"
LLAMA = load(ZOO / "llama" / "document.canvas.json")
MISTRAL = load(ZOO / "mistral" / "document.canvas.json")
FAMILIES: dict[str, Any] = {
    "llama": (LLAMA, LlamaConfig, LlamaForCausalLM),
    "mistral": (MISTRAL, MistralConfig, MistralForCausalLM),
}
CONFIGS = {
    "grouped": {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 6, "num_key_value_heads": 2},
    "one key head": {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 1},
    "ungrouped": {"hidden_size": 40, "intermediate_size": 72, "num_attention_heads": 5, "num_key_value_heads": 5},
}
COMMON = {"num_hidden_layers": 3, "vocab_size": 112, "max_position_embeddings": 256}
LLAMA_405B = {
    "hidden_size": 16384,
    "intermediate_size": 53248,
    "num_hidden_layers": 126,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


def sized(document: Document, **sizes: object) -> Document:
    return document.replace(sizes=document.sizes.with_items(sizes))


def small(family: str = "llama") -> Document:
    return sized(FAMILIES[family][0], **CONFIGS["grouped"], **COMMON)


@pytest.fixture(autouse=True)
def masks_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    # transformers looks into position ids for packed sequences, which meta tensors cannot answer.
    monkeypatch.setattr(transformers.masking_utils, "find_packed_sequence_indices", lambda position_ids: None)


def original(family: str, sizes: dict[str, int]) -> Any:
    _, config, model = FAMILIES[family]
    with torch.device("meta"):
        return model(config(**sizes, **COMMON, tie_word_embeddings=False))


@pytest.mark.parametrize("sizes", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("family", FAMILIES)
def test_training_flops_are_those_of_the_original_to_the_last_digit(family: str, sizes: dict[str, int]) -> None:
    model = original(family, sizes)
    ids = torch.zeros(2, 24, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as forward:
        loss = model(input_ids=ids, labels=ids).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    report = measure(sized(FAMILIES[family][0], **sizes, **COMMON), batch=2, sequence=24)
    assert (report.flops.forward, report.flops.backward) == (forward.get_total_flops(), backward.get_total_flops())


@pytest.mark.parametrize("family", FAMILIES)
def test_flops_of_prefill_and_decode_are_those_of_the_original(family: str) -> None:
    model = original(family, CONFIGS["grouped"]).eval()
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        with FlopCounterMode(display=False) as prefill:
            model(
                input_ids=torch.zeros(2, 24, dtype=torch.long, device="meta"), past_key_values=cache, logits_to_keep=1
            )
        with FlopCounterMode(display=False) as decode:
            model(input_ids=torch.zeros(2, 1, dtype=torch.long, device="meta"), past_key_values=cache)
    found = [measure(small(family), mode=mode, batch=2, sequence=24).flops for mode in ("prefill", "decode")]
    assert [flops.forward for flops in found] == [prefill.get_total_flops(), decode.get_total_flops()]
    assert [flops.backward for flops in found] == [0, 0]


@pytest.mark.parametrize("mode", ["train", "prefill", "decode"])
def test_nodes_sum_up_to_the_totals(mode: str) -> None:
    report = measure(small(), mode=mode, sequence=64)
    nodes = report.by_node.values()
    assert sum(node.parameters for node in nodes) == report.parameters.total
    assert sum(node.flops_forward for node in nodes) == report.flops.forward
    assert sum(node.flops_backward for node in nodes) == report.flops.backward
    assert sum(node.time_s for node in nodes) == report.time.total_s
    time = report.time
    assert time.compute_s + time.memory_s + time.launch_s == pytest.approx(time.total_s)
    for part in ("weights", "gradients", "optimizer"):
        assert sum(getattr(node, part) for node in nodes) == getattr(report.memory, part), part
    assert sum(node.memory for node in nodes) == report.memory.peak_allocated


@pytest.mark.parametrize("mode", ["train", "prefill", "decode"])
def test_parts_of_memory_sum_up_to_the_peak(mode: str) -> None:
    memory = asdict(measure(small(), mode=mode, sequence=64).memory)
    parts = [memory[part] for part in ("weights", "gradients", "optimizer", "activations", "kv_cache")]
    assert min(parts) >= 0
    assert sum(parts) == memory["peak_allocated"] <= memory["peak_reserved"] < memory["device_total"]


@pytest.mark.parametrize(
    ("dtype", "optimizer", "states"), [("bf16", "adamw", 2), ("fp32", "adamw", 2), ("fp16", "sgd", 0)]
)
def test_weights_gradients_and_moments_have_the_scenarios_dtype(dtype: str, optimizer: str, states: int) -> None:
    memory = measure(small(), dtype=dtype, optimizer=optimizer, sequence=64).memory
    weights = measure(small(), sequence=64).parameters.total * (4 if dtype == "fp32" else 2)
    assert (memory.weights, memory.gradients, memory.optimizer) == (weights, weights, states * weights)


def test_json_has_exactly_the_promised_keys() -> None:
    found = measure(small(), sequence=64).to_json()
    by_node = found.pop("by_node")
    assert {key: sorted(value) if isinstance(value, dict) else type(value) for key, value in found.items()} == {
        "parameters": ["active", "total", "trained"],
        "flops": ["backward", "executed", "forward", "recomputed"],
        "memory": sorted(
            (
                "weights",
                "gradients",
                "optimizer",
                "activations",
                "kv_cache",
                "peak_allocated",
                "peak_reserved",
                "device_total",
            )
        ),
        "time": sorted(
            (
                "compute_s",
                "memory_s",
                "launch_s",
                "communication_s",
                "tokens_per_s",
                "total_s",
                "mfu",
                "first_token_s",
                "next_token_s",
            )
        ),
        "communication": ["all_gather", "all_reduce", "all_to_all", "point_to_point", "reduce_scatter"],
        "fits": bool,
        "hardware": str,
        "cards": int,
        "scenario": sorted(field.name for field in fields(Scenario)),
        "allocator": type(None),
        "budget": type(None),
        "diagnostics": list,
    }
    assert {tuple(node) for node in by_node.values()} == {
        (
            "parameters",
            "flops_forward",
            "flops_backward",
            "bytes",
            "time_s",
            "bound",
            "weights",
            "gradients",
            "optimizer",
            "memory",
            "formulas",
        )
    }


def test_an_8b_model_trains_on_an_a100_in_bf16_but_not_in_fp32() -> None:
    llama_8b = sized(
        LLAMA, intermediate_size=14336, num_key_value_heads=8, vocab_size=128256, max_position_embeddings=131072
    )
    reports = [measure(llama_8b, dtype=dtype, sequence=2048) for dtype in ("bf16", "fp32")]
    assert [report.fits for report in reports] == [True, False]
    assert reports[0].memory.peak_allocated / 2**30 == pytest.approx(60, abs=1)


def test_decoding_is_bound_by_memory_and_takes_at_least_the_time_to_read_the_weights() -> None:
    report = measure(sized(LLAMA, num_hidden_layers=2), mode="decode", sequence=100)
    assert report.time.compute_s == 0
    table = report.by_node["model.embed_tokens"].parameters * 2  # only one row of it is read
    assert report.time.total_s >= (report.memory.weights - table) / 2039e9


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ({"hardware": "a100-80g"}, r"unknown card 'a100-80g'\nDid you mean a100-80gb"),
        ({"mode": "training"}, r"unknown mode 'training'\nDid you mean train"),
        ({"dtype": "bf8"}, r"unknown dtype 'bf8'\nDid you mean .*bf16"),
        ({"optimizer": "adamx"}, r"unknown optimizer 'adamx'\nDid you mean adam or adamw"),
        ({"batch": 0}, "batch: must be a whole number of at least 1, not 0"),
        ({"sequence": -5}, "sequence: must be a whole number of at least 1, not -5"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_scenario_that_makes_no_sense_is_refused_with_a_way_out(scenario: dict[str, Any], message: str) -> None:
    with pytest.raises(CanvasError, match=message):
        measure(small(), **scenario)


def test_a_document_with_flaws_has_no_cost() -> None:
    with pytest.raises(
        UnresolvedShape, match=r"cannot be measured: 1 error\n.*num_attention_heads \(6\) is not a multiple"
    ):
        measure(sized(small(), num_key_value_heads=4))


def test_measuring_again_gives_the_same_report() -> None:
    assert measure(small(), sequence=64) == measure(small(), sequence=64)


def edit_and_measure(step: int) -> Report:
    document = sized(LLAMA, **{**LLAMA_405B, "intermediate_size": 40000 + 128 * step})
    assert check(document, sequence=4096).ok
    return measure(document)


def test_an_edit_of_405b_is_checked_and_measured_fast_enough_to_feel_live() -> None:
    for step in range(3):
        edit_and_measure(step)
    times = []
    for step in range(3, 13):
        start = time.process_time()
        edit_and_measure(step)
        times.append(time.process_time() - start)
    # The goal is 50 ms; a busy machine may take three times as long. benchmarks/ holds the figures.
    assert sorted(times)[len(times) // 2] < 0.150


def test_a_tied_tensor_is_one_whatever_its_node_is_called() -> None:
    tied = sized(small(), vocab_size=20_000)
    tied = tied.replace(config=tied.config.with_items({"tie_word_embeddings": True}))
    root = tied.blocks[tied.root]
    nodes = tuple(node.replace(id="words", key="lm_head") if node.id == "lm_head" else node for node in root.nodes)
    outputs = FrozenMap({port: "words" if ref == "lm_head" else ref for port, ref in root.outputs.items()})
    renamed = tied.with_block(tied.root, root.replace(nodes=nodes, outputs=outputs))
    plain, keyed = (measure(one, batch=1, sequence=2, mode="train") for one in (tied, renamed))
    assert keyed.memory == plain.memory
    assert keyed.parameters.total == plain.parameters.total
