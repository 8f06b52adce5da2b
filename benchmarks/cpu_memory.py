"""Predicted memory against what PyTorch's own CPU allocator hands out, in real steps of small models: to the byte.

`python -m benchmarks.cpu_memory` runs every case of the grid for real and writes results/cpu_memory.{json,md}.
"""

import gc
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import canvas_rt
from benchmarks import record
from canvas_rt.edits import DeleteLayers, SetSize, apply
from canvas_rt.ir.document import Document
from canvas_rt.physics.run import peak_allocated
from canvas_rt.physics.scenario import Scenario

SINGLE = 8
"""Bytes of the largest single number. PyTorch makes many for numbers of Python, on the host: left out on both sides."""

SIZES: Mapping[str, int] = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "mixed": torch.float32}


@dataclass(frozen=True)
class Case:
    """One run that is predicted and then made."""

    family: str
    """`llama` and `mistral` are transformers' own classes, `edited` is what Canvas emits for a Llama whose layers differ."""

    scenario: Scenario
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        s, usual = self.scenario, Scenario(attention="eager")
        words = [self.family, s.mode, s.dtype, f"{s.batch}×{s.sequence}", s.attention]
        if s.train:
            words += [f"{s.optimizer} {s.implementation}"]
        words += [
            f"{n} {getattr(s, n)}" for n in ("recompute", "accumulation", "lora") if getattr(s, n) != getattr(usual, n)
        ]
        words += [f"{name} {value}" for name, value in self.sizes.items()]
        return ", ".join(words)


def train(family: str = "llama", sizes: Mapping[str, int] | None = None, **settings: Any) -> Case:
    usual: dict[str, Any] = {"batch": 2, "sequence": 64, "attention": "eager", "implementation": "foreach"}
    return Case(family, Scenario(**{**usual, **settings}), sizes or {})


def generate(mode: str, family: str = "llama", sizes: Mapping[str, int] | None = None, **settings: Any) -> Case:
    return Case(
        family, Scenario(mode=mode, **{"batch": 2, "sequence": 96, "attention": "eager", **settings}), sizes or {}
    )


def grid() -> Iterator[Case]:
    """Family, depth, batch, sequence, dtype, attention, optimizer and its implementation, recomputation, loss of layers."""
    wide = {"vocab_size": 20000}
    for dtype in ("fp32", "bf16", "mixed"):
        for implementation in ("foreach", "for-loop"):
            yield train(dtype=dtype, implementation=implementation)
        yield train(dtype=dtype, sizes=wide)
        yield train(dtype=dtype, attention="auto", batch=4, sequence=128, optimizer="sgd")
        yield train("mistral", {"sliding_window": 40}, dtype=dtype, attention="auto", sequence=128, optimizer="sgd")
    for optimizer in ("adam", "sgd", "sgd-momentum", "adafactor"):
        for implementation in ("foreach", "for-loop"):
            # In 16 bits the CPU's mean, which Adafactor takes, makes a wide copy inside its kernel; a card's does not. Its
            # loop holds a thing from one tensor to the next: their order matters, which is that of the emitted model.
            family, dtype = ("edited", "fp32") if optimizer == "adafactor" else ("llama", "bf16")
            sizes = {"vocab_size": 5000}
            yield train(family, sizes, dtype=dtype, optimizer=optimizer, implementation=implementation)
    for optimizer in ("muon", "lion"):
        yield train(dtype="bf16", optimizer=optimizer, implementation="for-loop", sizes={"num_hidden_layers": 2})
    for layers in (1, 2, 12):
        yield train(dtype="bf16", sizes={"num_hidden_layers": layers}, batch=3, sequence=80)
    yield train(dtype="bf16", sizes={"num_key_value_heads": 8}, attention="auto", batch=4)
    yield train(dtype="fp32", sizes={"num_key_value_heads": 1}, sequence=200, batch=1)
    yield train("mistral", dtype="bf16", batch=4, sequence=128, optimizer="sgd")
    for accumulation in (2, 3):
        yield train(dtype="bf16", accumulation=accumulation, optimizer="sgd-momentum", batch=4, sequence=128)
    for recompute in ("none", "full"):
        for dtype in ("fp32", "bf16", "mixed"):
            yield train("edited", dtype=dtype, recompute=recompute, batch=4, sequence=128, optimizer="sgd")
    yield train(
        "edited", {"vocab_size": 20000}, dtype="bf16", recompute="full", attention="auto", batch=4, sequence=256
    )
    for rank in (4, 16):
        yield train(dtype="fp32", lora=rank, batch=4, sequence=128)
    yield train(dtype="bf16", lora=8, lora_targets=("q_proj", "v_proj"), batch=4, sequence=128)
    for dtype in ("fp32", "bf16"):
        for mode in ("prefill", "decode"):
            # transformers' own layers keep the weights of eager attention until they return; what Canvas emits does not.
            yield generate(mode, "edited", dtype=dtype)
            yield generate(mode, dtype=dtype, attention="auto", batch=3)
    yield generate("prefill", "mistral", {"sliding_window": 40}, dtype="bf16", attention="auto")
    yield generate("decode", "mistral", {"sliding_window": 40}, dtype="bf16", attention="auto")
    yield generate("prefill", dtype="bf16", attention="auto", sizes={"num_hidden_layers": 12})


# ---------------------------------------------------------------------------------------------------------------------


def edited(whole: Document) -> Document:
    """Layers that differ."""
    return apply(
        whole,
        DeleteLayers("model.layers.3"),
        SetSize("model.layers.1", "num_key_value_heads", 4),
        SetSize("model.layers.0", "intermediate_size", 512),
    )


MADE: dict[str, Callable[[Document], Document]] = {"edited": edited}
"""Families that only Canvas has the classes of, and what makes each of a Llama."""


def document(case: Case) -> Document:
    """The document of a case."""
    family = "mistral" if case.family == "mistral" else "llama"
    zoo = canvas_rt.open_zoo({"llama": "llama-3.1-8b", "mistral": "mistral-7b-v0.1"}[family])
    sizes = {**SIZES, **case.sizes}
    found = zoo.replace(sizes=zoo.sizes.with_items({n: v for n, v in sizes.items() if n in zoo.sizes}))
    found = found.replace(config=found.config.with_items({n: v for n, v in sizes.items() if n in zoo.config}))
    return MADE.get(case.family, lambda whole: whole)(found)


def predicted(case: Case) -> int:
    """Bytes at the peak, as Canvas tells them."""
    return peak_allocated(document(case), case.scenario, "cpu")


def measured(case: Case) -> int:
    """Bytes at the peak of a real run: two steps of training, a prompt, or one token."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _model(case)
        run, inputs = (_training if case.scenario.train else _inference)(case, model)
        fixed = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in _tensors(model)}
        held = sum(nbytes for nbytes in (*fixed.values(), *(t.nbytes for t in inputs)) if nbytes > SINGLE)
        return held + _peak(run)


def _tensors(model: Any) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _model(case: Case) -> Any:
    attention = "sdpa" if case.scenario.attention == "auto" else "eager"
    torch.set_default_dtype(DTYPES[case.scenario.dtype])
    try:
        model = _emitted(case, attention) if case.family in MADE else _original(case, attention)
    finally:
        torch.set_default_dtype(torch.float32)
    if case.scenario.lora:
        model = _adapted(case, model)
    if case.scenario.recompute == "full":
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    return model.train() if case.scenario.train else model.eval()


def _original(case: Case, attention: str) -> Any:
    import transformers

    name = {"llama": "Llama", "mistral": "Mistral"}[case.family]
    settings = {"sliding_window": None} if case.family == "mistral" else {}
    config = getattr(transformers, f"{name}Config")(
        **{**SIZES, **settings, **case.sizes}, attn_implementation=attention, tie_word_embeddings=False
    )
    return getattr(transformers, f"{name}ForCausalLM")(config)


def _emitted(case: Case, attention: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        canvas_rt.emit(document(case)).write(folder)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        dtype = DTYPES[case.scenario.dtype]
        return AutoModelForCausalLM.from_config(
            config, trust_remote_code=True, attn_implementation=attention, dtype=dtype
        )


def _adapted(case: Case, model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    s = case.scenario
    targets = list(s.lora_targets) or "all-linear"
    return get_peft_model(model, LoraConfig(r=s.lora, lora_alpha=2 * s.lora, target_modules=targets, lora_dropout=0.0))


Run = tuple[Callable[[], None], tuple[Tensor, ...]]
"""What is run, and the tensors that it is given."""


def _training(case: Case, model: Any) -> Run:
    s = case.scenario
    ids, labels = (torch.zeros(s.batch, s.sequence, dtype=torch.long) for _ in range(2))
    optimizer = _optimizer(s, [p for p in model.parameters() if p.requires_grad])

    def two_steps() -> None:
        for _ in range(2):
            for _ in range(s.accumulation):
                with torch.autocast("cpu", torch.bfloat16, enabled=s.dtype == "mixed"):
                    loss = model(input_ids=ids, labels=labels, use_cache=False).loss
                loss.backward()
                del loss
            optimizer.step()
            optimizer.zero_grad()

    return two_steps, (ids, labels)


def _optimizer(s: Scenario, parameters: list[Tensor]) -> Any:
    from canvas_rt.physics import optimizers

    if s.optimizer == "muon":  # its authors give it the matrices, and AdamW the rest; a model's order is kept
        return _Both(parameters)
    if s.optimizer == "lion":
        return optimizers.Lion(parameters)
    kind, settings = {
        "adamw": (torch.optim.AdamW, {}),
        "adam": (torch.optim.Adam, {}),
        "sgd": (torch.optim.SGD, {}),
        "sgd-momentum": (torch.optim.SGD, {"momentum": 0.9}),
        "adafactor": (torch.optim.Adafactor, {}),
    }[s.optimizer]
    return kind(parameters, foreach=s.implementation == "foreach", **settings)


class _Both:
    """Muon for matrices, AdamW for vectors."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parts = [
            torch.optim.Muon([p for p in parameters if p.dim() == 2]),
            torch.optim.AdamW([p for p in parameters if p.dim() != 2], foreach=False),
        ]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()


def _inference(case: Case, model: Any) -> Run:
    from transformers import DynamicCache

    s = case.scenario
    new = s.sequence if s.mode == "prefill" else 1
    ids = torch.zeros(s.batch, new, dtype=torch.long)
    cache = DynamicCache(config=model.config)
    kept: list[Any] = []
    if s.mode == "decode":
        with torch.no_grad():
            model(torch.zeros(s.batch, s.sequence, dtype=torch.long), past_key_values=cache, logits_to_keep=1)

    def once() -> None:
        if s.mode == "decode":  # what the cache holds after many steps, made anew so that the profiler sees it
            for layer in (layer for layer in cache.layers if layer.keys is not None):
                kept.append((layer.keys, layer.values))  # whose end the profiler could not tell the size of
                layer.keys, layer.values = (_stored(case, t) for t in (layer.keys, layer.values))
        with torch.no_grad():
            kept.append(model(ids, past_key_values=cache, logits_to_keep=1))

    return once, (ids,)


def _stored(case: Case, kept: Tensor) -> Tensor:
    """Keys or values in a storage of their own. Of a window, transformers keeps a view of one token more."""
    tokens = min(case.scenario.sequence, case.sizes.get("sliding_window", case.scenario.sequence))
    return torch.zeros(*kept.shape[:2], tokens, kept.shape[3], dtype=kept.dtype)[:, :, -kept.shape[2] :]


def _peak(run: Callable[[], None]) -> int:
    """The highest sum of what the allocator hands out while something runs."""
    gc.collect()
    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            run()
    finally:
        gc.enable()
    found: list[tuple[int, int]] = []

    def visit(event: Any) -> None:
        if event.tag.name == "Allocation" and abs(event.extra_fields.alloc_size) > SINGLE:
            found.append((event.start_time_ns, event.extra_fields.alloc_size))
        for child in event.children:
            visit(child)

    for event in recorded.profiler.kineto_results.experimental_event_tree():
        visit(event)
    found.sort(key=lambda pair: pair[0])
    return max(accumulate(nbytes for _, nbytes in found))


def main() -> None:
    rows = []
    for case in grid():
        real, told = measured(case), predicted(case)
        print(f"{told - real:+d} of {real:,}: {case.name}", flush=True)
        rows.append({"case": case.name, "measured": real, "predicted": told, "scenario": asdict(case.scenario)})
    exact = sum(row["measured"] == row["predicted"] for row in rows)
    figures = {"machine": record.machine(), "cases": rows}
    parts = [
        f"{exact} of {len(rows)} cases agree to the byte. Measured: every allocation and release of PyTorch's CPU allocator, "
        "as the torch profiler records them, in two steps of training (or in a prompt, or one token) of transformers' own "
        "model, of what Canvas emits (`edited`) or of PEFT's adapters on it; weights, buffers and inputs are added. "
        f"Allocations of up to {SINGLE} bytes are left out on both sides: PyTorch makes them on the host for numbers of Python.",
        record.table(
            ("case", "measured", "predicted", "difference"),
            [(r["case"], f"{r['measured']:,}", f"{r['predicted']:,}", r["predicted"] - r["measured"]) for r in rows],
        ),
    ]
    record.save("cpu_memory", "Predicted memory against the real CPU allocator", figures, parts)


if __name__ == "__main__":
    main()


__all__ = ["Case", "grid", "measured", "predicted"]
