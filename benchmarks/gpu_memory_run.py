"""Run one case of `gpu_memory` for real, in a process of its own: `python -m benchmarks.gpu_memory_run SPEC RESULT`.

SPEC is a JSON file: the family with its sizes, the scenario, the device, and where a snapshot of the memory's history goes. RESULT is
written as JSON: what was allocated and reserved, what the device had in use, how long a run took.
"""

import gc
import gzip
import importlib.util
import json
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from benchmarks.gpu_memory_cases import bound
from canvas_rt.ir.document import Document
from canvas_rt.ir.frozen import thaw
from canvas_rt.physics.allocator import Replay
from canvas_rt.physics.scenario import Scenario
from canvas_rt.physics.tape import SINGLE, Event, rounded

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "mixed": torch.float32}
CLASSES: Mapping[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
}
STEPS = 2
"""Memory is that of two training steps: the optimizer's states appear in the first."""
TIMED = 5
"""Runs after them, of which the median is the time."""
MEASURED = "measured"
"""The name of what is profiled on the CPU."""


# ---------------------------------------------------------------------------------------------------------------------
# The model
# ---------------------------------------------------------------------------------------------------------------------


def config_values(document: Document) -> dict[str, Any]:
    """What the class's config is made of: the document's own sizes and settings."""
    values = thaw(dict(document.environment))
    return {name: value for name, value in values.items() if name != "dtype"}


def model_of(family: str, document: Document, scenario: Scenario, device: str) -> Any:
    kind, cls = CLASSES[family] if family in CLASSES else emitted(document)
    config = kind(**config_values(document))
    config._attn_implementation = "eager" if scenario.attention == "eager" else "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[scenario.dtype])
    try:
        with torch.device(device):
            model = cls(config)
    finally:
        torch.set_default_dtype(before)
    if family == "mixture":
        model.set_experts_implementation("grouped_mm")
    return model.train(scenario.train)


def emitted(document: Document) -> tuple[Any, Any]:
    """The classes that Canvas emits. Their text is not formatted, so that this needs no ruff."""
    from canvas_rt.codegen.package import module_source
    from canvas_rt.codegen.plan import Plan

    plan = Plan(document)
    plan.validate()
    folder = Path(tempfile.mkdtemp())
    (folder / "model.py").write_text(module_source(plan), encoding="utf-8")
    found = importlib.util.spec_from_file_location("emitted_model", folder / "model.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["emitted_model"] = module  # transformers looks a model's source up by its module
    found.loader.exec_module(module)
    return getattr(module, plan.names.config), getattr(module, plan.names.model)


def kernel(attention: str) -> AbstractContextManager[Any]:
    """Forces a kernel of `scaled_dot_product_attention`."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backends = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "math": SDPBackend.MATH,
    }
    return sdpa_kernel(backends[attention]) if attention in backends else nullcontext()


# ---------------------------------------------------------------------------------------------------------------------
# What is run
# ---------------------------------------------------------------------------------------------------------------------

Run = Callable[[], None]


def training(model: Any, scenario: Scenario, device: str) -> Run:
    """A step: forward, loss, backward, update."""
    if scenario.recompute == "full":
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        # On a CPU the generator's state, kept for dropout that there is not, would count as its memory.
        enable({"use_reentrant": False, **({"preserve_rng_state": False} if device == "cpu" else {})})
    chosen = scenario.chosen_implementation
    how = {"fused": {"fused": True}, "foreach": {"foreach": True}, "for-loop": {"foreach": False}}[chosen]
    ids, labels = (tokens(model, scenario.batch, scenario.sequence, device) for _ in range(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, **how)  # type: ignore[arg-type]

    def step() -> None:
        with kernel(scenario.attention):
            with torch.autocast(device, torch.bfloat16) if scenario.dtype == "mixed" else nullcontext():
                loss = model(input_ids=ids, labels=labels, use_cache=False).loss
            loss.backward()
        del loss
        optimizer.step()
        optimizer.zero_grad()

    return step


def prefill(model: Any, scenario: Scenario, device: str) -> Run:
    """Read a prompt into an empty cache."""
    ids = tokens(model, scenario.batch, scenario.sequence, device)

    def run() -> None:
        with torch.no_grad(), kernel(scenario.attention):
            model(ids, past_key_values=DynamicCache(config=model.config), logits_to_keep=1)

    return run


def decode(model: Any, scenario: Scenario, device: str) -> Run:
    """Add a token to a cache that is filled with anything."""
    ids = tokens(model, scenario.batch, 1, device)
    cache = filled(model.config, scenario, model.dtype, device)

    def run() -> None:
        with torch.no_grad(), kernel(scenario.attention):
            model(ids, past_key_values=cache, logits_to_keep=1)

    return run


def tokens(model: Any, batch: int, sequence: int, device: str) -> Tensor:
    return torch.randint(0, model.config.vocab_size, (batch, sequence), device=device)


def filled(config: Any, scenario: Scenario, dtype: torch.dtype, device: str) -> DynamicCache:
    cache = DynamicCache(config=config)
    for layer in cache.layers:
        window = getattr(layer, "sliding_window", None)
        kept = scenario.sequence if window is None else min(scenario.sequence, window - 1)
        shape = (scenario.batch, config.num_key_value_heads, kept, config.head_dim)
        keys, values = (torch.randn(shape, dtype=dtype, device=device) for _ in range(2))
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length = scenario.sequence
    return cache


MODES = {"train": training, "prefill": prefill, "decode": decode}


def repeats(scenario: Scenario) -> int:
    return STEPS if scenario.train else 1


# ---------------------------------------------------------------------------------------------------------------------
# On a CPU
# ---------------------------------------------------------------------------------------------------------------------


def on_cpu(spec: Mapping[str, Any], document: Document, scenario: Scenario) -> dict[str, Any]:
    """The peak of PyTorch's CPU allocator, by the profiler, from the first weight on."""
    from torch.profiler import ProfilerActivity, profile, record_function

    torch.set_num_threads(1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = model_of(spec["family"], document, scenario, "cpu")
        run = MODES[scenario.mode](model, scenario, "cpu")
        gc.collect()
        for _ in range(repeats(scenario)):
            with record_function(MEASURED):
                run()
    start = time.perf_counter()
    run()
    return {"allocated": cpu_peak(profiler), "seconds": time.perf_counter() - start}


def cpu_peak(profiler: Any) -> int:
    """Single numbers are left out, as the prediction leaves them out: PyTorch makes many, for numbers of Python."""
    events = profiler.profiler.kineto_results.events()
    begun = min(event.start_ns() for event in events if event.name() == MEASURED)
    changes = sorted((e.start_ns(), place, e.nbytes()) for place, e in enumerate(events) if e.name() == "[memory]")
    held = peak = 0
    for moment, _, nbytes in changes:
        held += nbytes if abs(nbytes) > SINGLE else 0
        if moment >= begun:
            peak = max(peak, held)
    return peak


# ---------------------------------------------------------------------------------------------------------------------
# On a GPU
# ---------------------------------------------------------------------------------------------------------------------


def on_gpu(spec: Mapping[str, Any], document: Document, scenario: Scenario) -> dict[str, Any]:
    """Peaks of the caching allocator, what the device has in use beside them, and the time of a run."""
    torch.cuda.init()
    torch.cuda.memory._record_memory_history(context=None, max_entries=10_000_000)
    found: dict[str, Any] = {}
    try:
        model = model_of(spec["family"], document, scenario, "cuda")
        run = MODES[scenario.mode](model, scenario, "cuda")
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(repeats(scenario)):
            run()
        torch.cuda.synchronize()
    except torch.cuda.OutOfMemoryError as error:
        found["failed"] = f"out of memory: {str(error).splitlines()[0]}"[:300]
    found |= memory_used()
    snapshot = torch.cuda.memory._snapshot()
    torch.cuda.memory._record_memory_history(enabled=None)
    found |= replayed(snapshot, found["total"] - found["context"], scenario.expandable)
    if spec.get("snapshot"):
        with gzip.open(spec["snapshot"], "wb", compresslevel=3) as file:
            pickle.dump(snapshot, file)
    del snapshot
    if "failed" not in found:
        found["seconds"] = timed(run)
    return found


def memory_used() -> dict[str, int]:
    """`device`: what the card had in use when most was reserved, as `nvidia-smi` would have shown it."""
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.memory_reserved()
    context = total - free - reserved
    most = torch.cuda.max_memory_reserved()
    stats = torch.cuda.memory_stats()
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": most,
        "device": most + context,
        "context": context,
        "total": total,
        "retries": stats.get("num_alloc_retries", 0),
    }


def replayed(snapshot: Mapping[str, Any], capacity: int, expandable: bool) -> dict[str, int]:
    """What the simulated allocator makes of the real trace: its error is then its own, not that of the predicted trace."""
    replay = Replay(capacity, expandable=expandable)
    replay.run(traced(snapshot["device_traces"][torch.cuda.current_device()]))
    allocator = replay.allocator
    return {
        "replayed_allocated": allocator.peak_allocated,
        "replayed_reserved": allocator.peak_reserved,
        "events": sum(len(trace) for trace in snapshot["device_traces"]),
    }


def traced(entries: Any) -> Iterator[Event]:
    """Allocations and frees, each storage with a number of its own: addresses are used again."""
    live: dict[int, Event] = {}
    for number, entry in enumerate(entries):
        if entry["action"] == "alloc":
            live[entry["addr"]] = (rounded(max(1, entry["size"])), number)
            yield live[entry["addr"]]
        elif entry["action"] == "free_completed" and entry["addr"] in live:
            nbytes, first = live.pop(entry["addr"])
            yield -nbytes, first


def timed(run: Run) -> float:
    """Seconds of a run: the median of some, the kernels being warm."""
    taken = []
    for _ in range(TIMED):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end) / 1e3)
    return statistics.median(taken)


# ---------------------------------------------------------------------------------------------------------------------


def main(spec_file: str, result_file: str) -> None:
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    scenario = Scenario(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in spec["scenario"].items()}
    )
    found = (on_cpu if spec["device"] == "cpu" else on_gpu)(
        spec, bound(spec["family"], spec["sizes"], spec["config"]), scenario
    )
    Path(result_file).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
