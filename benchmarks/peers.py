"""Hold Canvas' numbers and those of other tools against the truth that can be established without a GPU.

Truth is: parameters by counting them on meta, the cache by transformers' `DynamicCache` on meta, FLOPs by `FlopCounterMode`,
and the peak of memory by running the model for real on the CPU, under PyTorch's profiler.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers.masking_utils
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import canvas_rt
from benchmarks import gpu_memory_run
from benchmarks.gpu_memory_cases import bound
from benchmarks.peer_formulas import (
    accelerate_estimate,
    largest_layer,
    viewed,
    viewed_memory,
    zero2_bytes,
    zero3_bytes,
)
from benchmarks.record import RESULTS, machine, save, table
from canvas_rt.importer.zoo import zoo_folder, zoo_models
from canvas_rt.ir.document import Document
from canvas_rt.physics import measure
from canvas_rt.physics.hardware import load_hardware
from canvas_rt.physics.kv_cache import kv_cache_bytes
from canvas_rt.physics.run import peak_allocated
from canvas_rt.physics.scenario import ITEM_BYTES, Scenario

PUBLISHED = ("smollm-135m", "llama-3.2-1b", "llama-3.1-8b", "mistral-7b-v0.1", "mistral-nemo-12b")
"""Mistral NeMo's heads are 128 wide, where hidden_size / num_attention_heads is 160; Mistral 7B v0.1 has a window."""
CARD = load_hardware("a100-80gb")
CACHE = {"batch": 8, "sequence": 8192}
PROMPT = 2048
PATIENCE_S = 420
"""For one run of MemTracker."""
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Real:
    """A model that is run here, and how."""

    name: str
    scenario: Scenario
    family: str = "llama"
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Of a model that nobody published; empty for one of the zoo."""

    def document(self) -> Document:
        return bound(self.family, self.sizes, {}) if self.sizes else canvas_rt.open_zoo(self.name)


ODD = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 96,
    "vocab_size": 16000,
    "max_position_embeddings": 2048,
}
WINDOWED = {**ODD, "head_dim": 64, "sliding_window": 128}


def training(batch: int, sequence: int, dtype: str = "fp32") -> Scenario:
    return Scenario(batch=batch, sequence=sequence, dtype=dtype, implementation="for-loop")


def prompt(batch: int, sequence: int) -> Scenario:
    return Scenario(mode="prefill", batch=batch, sequence=sequence, dtype="fp32")


# Few tokens in bf16: a CPU without units for it takes a second for each.
TRAINED = (
    Real("smollm-135m", training(1, 128)),
    Real("smollm-135m", training(1, 512)),
    Real("Llama, heads of 96", training(2, 256), "llama", ODD),
    Real("Llama, heads of 96", training(1, 64, "mixed"), "llama", ODD),
    Real("Mistral, window 128", training(2, 512), "mistral", WINDOWED),
)
PROMPTED = (
    Real("smollm-135m", prompt(1, 512)),
    Real("Llama, heads of 96", prompt(4, 1024), "llama", ODD),
    Real("Mistral, window 128", prompt(2, 1024), "mistral", WINDOWED),
)
LARGE = tuple(Real(name, training(1, 512)) for name in ("llama-3.2-1b", "llama-3.1-8b"))
"""Too large to be run here: two predictions side by side."""


# ---------------------------------------------------------------------------------------------------------------------
# Truth
# ---------------------------------------------------------------------------------------------------------------------


def config_of(name: str) -> Any:
    path = zoo_folder() / zoo_models()[name].family / "configs" / f"{name}.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    return CONFIG_MAPPING[raw.pop("model_type")](**raw)


@cache
def on_meta(name: str) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config_of(name)).eval()


def parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def cached(config: Any, batch: int, sequence: int) -> int:
    """Bytes of the keys and values that transformers' cache keeps of a prompt, in bf16."""
    kept = DynamicCache(config=config)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = (batch, config.num_key_value_heads, sequence, width)
    for layer in range(config.num_hidden_layers):
        keys, values = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for _ in range(2))
        kept.update(keys, values, layer)
    return sum(part.numel() * part.itemsize for layer in kept.layers for part in (layer.keys, layer.values))


def flops(model: Any, sequence: int) -> int:
    """Of a prompt of which only the last token's logits are wanted."""
    ids = torch.zeros(1, sequence, dtype=torch.long, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(ids, past_key_values=DynamicCache(config=model.config), logits_to_keep=1)
    return int(counter.get_total_flops())


def run(real: Real) -> int:
    """The peak of a real run on this CPU."""
    return int(gpu_memory_run.on_cpu({"family": real.family}, real.document(), real.scenario)["allocated"])


# ---------------------------------------------------------------------------------------------------------------------
# Estimates
# ---------------------------------------------------------------------------------------------------------------------


def timed(estimate: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the CPU seconds that it took."""
    start = time.process_time()
    found = estimate()
    return found, time.process_time() - start


def tracked(real: Real) -> dict[str, Any]:
    """MemTracker's peak of a real run, with fake tensors: nothing is allocated."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    start = time.process_time()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = gpu_memory_run.model_of(real.family, real.document(), real.scenario, "cpu")
        tracker = MemTracker()
        tracker.track_external(model)
        with tracker:
            once = gpu_memory_run.MODES[real.scenario.mode](model, real.scenario, "cpu")
            for _ in range(gpu_memory_run.repeats(real.scenario)):
                once()
                tracker.reset_mod_stats()
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    return {"peak": int(peak), "cpu_s": time.process_time() - start}


def tracked_apart(real: Real) -> dict[str, Any]:
    """The same in a process of its own, stopped when it takes too long."""
    spec = json.dumps({**asdict(real), "sizes": dict(real.sizes)})
    command = [sys.executable, "-m", "benchmarks.peers", "--tracked", spec]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=Path(__file__).parents[1], check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {PATIENCE_S} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no word"])[-1][:200]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def weights_row(name: str) -> dict[str, Any]:
    model = on_meta(name)
    config, sizes = model.config, sizes_of(model.config)
    ours, our_s = timed(lambda: measure(canvas_rt.open_zoo(name), mode="prefill", sequence=512).memory.weights)
    theirs, their_s = timed(lambda: accelerate_estimate(config))
    seen, seen_s = timed(lambda: viewed(sizes, batch=1, sequence=512, decode=False).weights)
    found = {"canvas": ours, "accelerate": theirs.weights["float16"], "llm_viewer": seen}
    return {
        "model": name,
        "truth": 2 * parameters(model),
        "found": found,
        "cpu_s": {"canvas": our_s, "accelerate": their_s, "llm_viewer": seen_s},
    }


def sizes_of(config: Any) -> dict[str, int]:
    names = (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "num_hidden_layers",
        "vocab_size",
    )
    return {name: getattr(config, name) for name in names}


def cache_row(name: str) -> dict[str, Any]:
    config = config_of(name)
    ours, our_s = timed(lambda: kv_cache_bytes(canvas_rt.open_zoo(name), dtype="bf16", **CACHE))
    seen, seen_s = timed(lambda: viewed_memory(sizes_of(config), **CACHE)["cache"])
    return {
        "model": name,
        "truth": cached(config, **CACHE),
        "found": {"canvas": ours, "llm_viewer": seen},
        "cpu_s": {"canvas": our_s, "llm_viewer": seen_s},
    }


def prompt_row(name: str) -> dict[str, Any]:
    """FLOPs and roofline time of a prompt, and the time of a token after it."""
    model = on_meta(name)
    document, sizes = canvas_rt.open_zoo(name), sizes_of(model.config)
    peak, bandwidth = CARD.peak_flops["bf16"], CARD.bandwidth
    reports = [measure(document, hardware=CARD.id, mode=mode, sequence=PROMPT) for mode in ("prefill", "decode")]
    seen = [viewed(sizes, batch=1, sequence=PROMPT, decode=decode) for decode in (False, True)]
    return {
        "model": name,
        "truth": flops(model, PROMPT),
        "found": {"canvas": reports[0].flops.forward, "llm_viewer": seen[0].operations},
        "seconds": {
            "canvas": [report.time.total_s for report in reports],
            "llm_viewer": [one.seconds(peak, bandwidth) for one in seen],
        },
    }


def training_row(real: Real, *, really: bool = True) -> dict[str, Any]:
    document, scenario = real.document(), real.scenario
    ours, our_s = timed(lambda: peak_allocated(document, scenario, "cpu"))
    tracker = tracked_apart(real)
    found: dict[str, Any] = {"canvas": ours, "memtracker": tracker.get("peak")}
    taken: dict[str, Any] = {"canvas": our_s, "memtracker": tracker.get("cpu_s")}
    with torch.device("meta"):
        model = gpu_memory_run.model_of(real.family, document, scenario, "meta")
    if scenario.train:
        theirs, taken["accelerate"] = timed(lambda: accelerate_estimate(model.config))
        found["accelerate"] = theirs.training["float16" if scenario.dtype == "mixed" else "float32"]
        if scenario.dtype == "mixed":  # ZeRO's estimators know no other way to train
            found["zero2"] = zero2_bytes(parameters(model))
            found["zero3"] = zero3_bytes(parameters(model), largest_layer(model))
    else:
        s = {"batch": scenario.batch, "sequence": scenario.sequence, "item": ITEM_BYTES[scenario.dtype]}
        seen, taken["llm_viewer"] = timed(lambda: viewed_memory(sizes_of(model.config), **s)["total"])
        found["llm_viewer"] = seen
    return {
        "model": f"{real.name}, {scenario.dtype} {scenario.batch}×{scenario.sequence}",
        "truth": run(real) if really else None,
        "found": found,
        "cpu_s": taken,
        **({"memtracker_failed": tracker["failed"]} if "failed" in tracker else {}),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------------------------------------------------

NAMES = {
    "canvas": "Canvas",
    "accelerate": "accelerate",
    "llm_viewer": "LLM-Viewer",
    "memtracker": "MemTracker",
    "zero2": "ZeRO-2",
    "zero3": "ZeRO-3",
}


def error(row: Mapping[str, Any], tool: str) -> str:
    value, truth = row["found"].get(tool), row["truth"]
    if value is None or truth is None:
        return "–"
    return "exact" if value == truth else f"{value / truth - 1:+.2%}"


def seconds(row: Mapping[str, Any], tool: str) -> str:
    value = row.get("cpu_s", {}).get(tool)
    if value is None:
        return row.get("memtracker_failed", "–") if tool == "memtracker" else "–"
    return f"{value:.3f}" if value < 10 else f"{value:.0f}"


def compared(rows: Sequence[Mapping[str, Any]], tools: Sequence[str], unit: str, scale: float, timing: bool) -> str:
    """The truth, each tool's error, and what an estimate costs."""
    headings = ["model", unit, *(NAMES[tool] for tool in tools)]
    headings += [f"{NAMES[tool]}, CPU s" for tool in tools if timing and any(tool in r["cpu_s"] for r in rows)]

    def line(row: Mapping[str, Any]) -> list[str]:
        truth = "–" if row["truth"] is None else f"{row['truth'] / scale:,.1f}"
        cells = [row["model"], truth, *(error(row, tool) for tool in tools)]
        return cells + [
            seconds(row, tool) for tool in tools if timing and any(tool in other["cpu_s"] for other in rows)
        ]

    return table(headings, map(line, rows))


def large_line(row: Mapping[str, Any]) -> list[str]:
    values = [row["found"][tool] for tool in ("canvas", "memtracker")]
    apart = "–" if None in values else f"{values[0] - values[1]:+,}"
    return [
        row["model"],
        *("–" if value is None else f"{value:,}" for value in values),
        apart,
        seconds(row, "canvas"),
        seconds(row, "memtracker"),
    ]


def time_line(row: Mapping[str, Any]) -> list[str]:
    ours, seen = row["seconds"]["canvas"], row["seconds"]["llm_viewer"]
    return [row["model"], *(f"{one * 1e3:.2f}" for pair in zip(ours, seen, strict=True) for one in pair)]


def main() -> None:
    # transformers looks into position ids for packed sequences, which meta tensors cannot answer.
    transformers.masking_utils.find_packed_sequence_indices = lambda position_ids: None
    about = machine()
    measure(canvas_rt.open_zoo("tinyllama-1.1b"), sequence=64)  # imports and first calls are not an estimate's cost
    weights = [weights_row(name) for name in PUBLISHED]
    caches = [cache_row(name) for name in PUBLISHED]
    prompts = [prompt_row(name) for name in PUBLISHED]
    trained = [training_row(real) for real in TRAINED]
    prompted = [training_row(real) for real in PROMPTED]
    large = [training_row(real, really=False) for real in LARGE]
    figures = {
        "machine": {**about, "versions": versions()},
        "weights": weights,
        "cache": caches,
        "prompt": prompts,
        "training": trained,
        "prefill": prompted,
        "large": large,
    }
    save("peers", "Against peers on the same models", figures, parts(figures))
    (RESULTS / "peers.md").replace(Path(__file__).parent / "peers.md")


def versions() -> dict[str, str]:
    import accelerate

    return {
        "accelerate": accelerate.__version__,
        "DeepSpeed": "formulas of 0.19.8",
        "LLM-Viewer": "formulas of arXiv 2402.16363 and commit 01b269d",
        "MemTracker": f"torch {torch.__version__}",
    }


def parts(figures: Mapping[str, Any]) -> list[str]:
    return [
        "Peers: " + ", ".join(f"{name} ({version})" for name, version in figures["machine"]["versions"].items()) + ". "
        "A column gives a tool's error, estimate / truth − 1; – is where a tool has no such number. CPU s: one estimate, "
        "imports left out.",
        "## Weights",
        "Truth: the parameters of the full model on meta, 2 bytes each. accelerate's own code builds `AutoModel`, which has "
        "no language-model head; LLM-Viewer leaves out embeddings, head and norms and takes every head as "
        "hidden_size / num_attention_heads wide. DeepSpeed's estimators are given the parameters.",
        compared(figures["weights"], ("canvas", "accelerate", "llm_viewer"), "MiB", MIB, True),
        "## Keys and values",
        f"Truth: what transformers' `DynamicCache` keeps of {CACHE['batch']} × {CACHE['sequence']} tokens in bf16.",
        compared(figures["cache"], ("canvas", "llm_viewer"), "MiB", MIB, True),
        "## A prompt's FLOPs and roofline",
        f"Truth: `FlopCounterMode` on the full model on meta, 1 × {PROMPT} tokens, the last token's logits. LLM-Viewer also "
        "counts what norms, softmax and activations do to each number.",
        compared(figures["prompt"], ("canvas", "llm_viewer"), "GFLOP", 1e9, False),
        f"The roofline's milliseconds on {CARD.name} in bf16, for that prompt and for the token after it. Canvas has "
        "FlashAttention and every kernel of transformers' own norms and rotary embeddings, LLM-Viewer one pass over each and "
        "the scores of attention in memory. Without a card there is no truth here.",
        table(
            ["model", "prompt, Canvas", "prompt, LLM-Viewer", "token, Canvas", "token, LLM-Viewer"],
            map(time_line, figures["prompt"]),
        ),
        "## Peak of training",
        "Truth: two AdamW steps (one tensor at a time) run here, the most that PyTorch's CPU allocator had given out, single "
        "numbers left out, by the profiler. MemTracker follows the same two steps with fake tensors. accelerate and ZeRO "
        "know no sequence and no batch; ZeRO's figures are those of one card, for its own 16-bit training with fp32 copies, "
        "held against autocast's here.",
        compared(figures["training"], ("canvas", "memtracker", "accelerate", "zero2", "zero3"), "MiB", MIB, True),
        "## Peak of a prompt",
        "Truth: likewise, for a prompt read into an empty cache, in fp32.",
        compared(figures["prefill"], ("canvas", "memtracker", "llm_viewer"), "MiB", MIB, True),
        "## Training models too large to be run here",
        "Bytes at the peak of the same two steps. MemTracker counts single numbers too, of which an optimizer keeps one for "
        "each tensor.",
        table(["model", "Canvas", "MemTracker", "apart", "Canvas, CPU s", "MemTracker, CPU s"], map(large_line, figures["large"])),
    ]  # fmt: skip


def tracked_main(spec: str) -> None:
    asked = json.loads(spec)
    scenario = Scenario(**{k: tuple(v) if isinstance(v, list) else v for k, v in asked.pop("scenario").items()})
    print(json.dumps(tracked(Real(scenario=scenario, **asked))))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--tracked"]:
        tracked_main(sys.argv[2])
    else:
        main()
