"""Whole small models under PyTorch's own FSDP2, in a fake process group on fake CPU tensors: what one rank allocates.

A CPU has no side streams: what FSDP2 lets go of is free at once. It keeps what other streams still read by reference, so
a card allocates the same.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.tensor._sharding_prop as propagation
import transformers.masking_utils
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {"hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 8, "num_key_value_heads": 2}
SINGLE = 8
"""Bytes of the largest single number: PyTorch makes many of them for numbers of Python."""


@dataclass(frozen=True)
class Job:
    """Two steps of a small Llama."""

    ranks: int = 2
    layers: int = 4
    reshard: bool = True
    dtype: str = "fp32"
    foreach: bool = True
    vocab: int = 50
    batch: int = 2
    sequence: int = 100
    attention: str = "eager"
    accumulation: int = 1
    recompute: bool = False
    frozen: tuple[str, ...] = ()
    """Parts of the paths of what is not trained."""
    lora: int = 0
    """Rank of adapters in fp32 beside the layers' linears; all else is frozen then."""
    sizes: Mapping[str, int] = field(default_factory=dict)


@contextmanager
def fake_ranks(*shape: int, names: tuple[str, ...] | None = None) -> Iterator[DeviceMesh]:
    """A mesh of processes of which only the first exists. DTensor runs operations at the size of the whole tensor to learn
    their shapes: nobody sees those."""
    original = propagation.ShardingPropagator._propagate_tensor_meta_non_cached
    detect = propagation.detect_fake_mode

    @wraps(original)
    def unseen(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            return original(*args, **kwargs)

    count = 1
    for size in shape:
        count *= size
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    propagation.ShardingPropagator._propagate_tensor_meta_non_cached = unseen
    propagation.detect_fake_mode = lambda *args, **kwargs: None
    packed = transformers.masking_utils.find_packed_sequence_indices
    transformers.masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield init_device_mesh("cpu", shape, mesh_dim_names=names)
    finally:
        transformers.masking_utils.find_packed_sequence_indices = packed
        propagation.detect_fake_mode = detect
        propagation.ShardingPropagator._propagate_tensor_meta_non_cached = original
        dist.destroy_process_group()


class Ledger(TorchDispatchMode):
    """The sum of all storages, and the most that it was. FSDP2 frees storages by resizing them."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()
        self.live: dict[int, list[Any]] = {}
        self.now = self.peak = 0
        for tensor in known:
            self.see(tensor)

    def see(self, tensor: Tensor) -> None:
        storage = getattr(tensor, "_local_tensor", tensor).untyped_storage()
        key, nbytes = storage._cdata, storage.nbytes()
        if key in self.live or nbytes <= SINGLE:
            return

        def died(reference: Any) -> None:
            entry = self.live.get(key)
            if entry is not None and entry[0] is reference:
                self._change(-self.live.pop(key)[1])

        self.live[key] = [weakref.ref(storage, died), nbytes]
        self._change(nbytes)

    def _change(self, nbytes: int) -> None:
        self.now += nbytes
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.see, out)
        return out

    def __enter__(self) -> "Ledger":
        self.resize, ledger = torch.UntypedStorage.resize_, self

        def resize(storage: Any, size: int) -> Any:
            ledger.resize(storage, size)
            entry = ledger.live[storage._cdata]
            entry[1], before = storage.nbytes(), entry[1]
            ledger._change(entry[1] - before)
            return storage

        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]
        return super().__enter__()  # type: ignore[return-value]

    def __exit__(self, *args: Any) -> None:
        torch.UntypedStorage.resize_ = self.resize  # type: ignore[method-assign]
        super().__exit__(*args)


class Adapted(torch.nn.Module):
    """A linear with an adapter, as PEFT runs it."""

    def __init__(self, linear: torch.nn.Linear, rank: int) -> None:
        super().__init__()
        self.weight = linear.weight
        rows, columns = linear.weight.shape
        self.down = torch.nn.Parameter(torch.zeros(rank, columns, device="cpu"))
        self.up = torch.nn.Parameter(torch.zeros(rows, rank, device="cpu"))

    def forward(self, x: Tensor) -> Tensor:
        result = torch.nn.functional.linear(x, self.weight)
        dtype = result.dtype
        wide = x.to(self.down.dtype)
        linear = torch.nn.functional.linear
        result = result + linear(linear(wide, self.down), self.up) * 2.0
        return result.to(dtype)


def adapt(model: Any, rank: int) -> None:
    model.requires_grad_(False)
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, torch.nn.Linear):
                    setattr(part, name, Adapted(linear, rank))


def build(job: Job) -> Any:
    """transformers' Llama, its parts in the order in which a document has them: `fully_shard` frees gradients by it."""
    config = LlamaConfig(
        **{**SIZES, **job.sizes},
        num_hidden_layers=job.layers,
        vocab_size=job.vocab,
        use_cache=False,
        tie_word_embeddings=False,
        attn_implementation=job.attention,
    )
    torch.set_default_dtype(torch.bfloat16 if job.dtype == "bf16" else torch.float32)
    try:
        with torch.device("cpu"):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    for layer in model.model.layers:
        parts = layer._modules
        for name in ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp"):
            parts[name] = parts.pop(name)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(f".{part}." in f".{name}" for part in job.frozen))
    if job.lora:
        adapt(model, job.lora)
    if job.recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def shard(model: Any, job: Job, mesh: DeviceMesh) -> None:
    settings: dict[str, Any] = {"mesh": mesh}
    if job.dtype == "mixed":
        settings["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in model.model.layers:
        fully_shard(layer, **settings, reshard_after_forward=job.reshard)
    fully_shard(model, **settings)


def two_steps(model: Any, optimizer: Any, job: Job, tokens: Sequence[Tensor], between: Callable[[], None]) -> None:
    ids, labels = tokens
    for step in range(2):
        if step:
            between()
        for _ in range(job.accumulation):
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            del loss
        optimizer.step()
        optimizer.zero_grad()


def peak_of_a_rank(job: Job, *, tracker: bool = False) -> int:
    """The most bytes that rank 0 holds, by a ledger of storages or by PyTorch's FSDPMemTracker."""
    with fake_ranks(job.ranks) as mesh, FakeTensorMode():
        model = build(job)
        shard(model, job, mesh)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], foreach=job.foreach)
        tokens = [torch.zeros(job.batch, job.sequence, dtype=torch.long, device="cpu") for _ in range(2)]
        if not tracker:
            with Ledger([*model.parameters(), *model.buffers(), *tokens]) as ledger:
                two_steps(model, optimizer, job, tokens, lambda: None)
            return ledger.peak
        watch = FSDPMemTracker(model, optimizer)
        watch.track_inputs(tuple(tokens))
        with watch:
            two_steps(model, optimizer, job, tokens, watch.reset_mod_stats)
        return sum(place["Total"] for place in watch.get_tracker_snapshot("peak").values())


def tensor_plan(model: Any) -> dict[str, ParallelStyle]:
    """As `base_model_tp_plan` of transformers and torchtitan's Llama: the loss sees a part of the logits."""
    columns = {name: ColwiseParallel() for name in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")}
    rows = {name: RowwiseParallel() for name in ("o_proj", "down_proj")}
    found: dict[str, ParallelStyle] = {
        "model.embed_tokens": RowwiseParallel(input_layouts=Replicate()),
        "lm_head": ColwiseParallel(output_layouts=Shard(-1)),
    }
    for name, _ in model.named_modules():
        style = {**columns, **rows}.get(name.rpartition(".")[2])
        if style is not None:
            found[name] = style
    return found


def tensor_parallel(job: Job) -> tuple[int, int]:
    """Numbers that rank 0 learns, and the most bytes that it holds, under `parallelize_module`."""
    with fake_ranks(job.ranks) as mesh, FakeTensorMode():
        model = build(job)
        parallelize_module(model, mesh, tensor_plan(model))
        model.config.vocab_size = -(-job.vocab // job.ranks)  # of the logits that the loss sees
        optimizer = torch.optim.AdamW(model.parameters(), foreach=False)  # foreach takes no mix
        tokens = [torch.zeros(job.batch, job.sequence, dtype=torch.long, device="cpu") for _ in range(2)]
        with Ledger([*model.parameters(), *model.buffers(), *tokens]) as ledger:
            two_steps(model, optimizer, job, tokens, lambda: None)
        local = (getattr(parameter, "_local_tensor", parameter) for parameter in model.parameters())
        return sum(tensor.numel() for tensor in local), ledger.peak


class StageRun:
    """One stage of a pipeline, run by hand: what arrives is made, what leaves is kept until its gradient comes."""

    def __init__(self, job: Job, model: Any, layers: range, tokens: Sequence[Tensor]) -> None:
        self.job, self.model, self.layers = job, model, layers
        self.ids, self.labels = tokens
        self.first, self.last = layers.start == 0, layers.stop == job.layers
        self.dtype = next(model.parameters()).dtype
        self.under_way: list[tuple[Tensor, Tensor]] = []

    def stream(self) -> Tensor:
        shape = self.job.batch, self.job.sequence, SIZES["hidden_size"]
        return torch.empty(shape, dtype=self.dtype, device="cpu")

    def forward(self) -> None:
        inner = self.model.model
        arriving = inner.embed_tokens(self.ids) if self.first else self.stream().requires_grad_()
        hidden = arriving
        angles = self.angles(hidden)
        for index in self.layers:
            hidden = inner.layers[index](hidden, position_embeddings=angles, attention_mask=None)
        if self.last:
            logits = self.model.lm_head(inner.norm(hidden))
            hidden = self.model.loss_function(logits=logits, labels=self.labels, vocab_size=self.job.vocab)
        self.under_way.append((self.ids if self.first else arriving, hidden))

    def angles(self, hidden: Tensor) -> Any:
        positions = torch.arange(self.job.sequence, device="cpu").unsqueeze(0)
        return self.model.model.rotary_emb(hidden, positions)

    def backward(self) -> None:
        _, leaving = self.under_way[0]
        gradient = None if self.last else self.stream()
        torch.autograd.backward([leaving], None if gradient is None else [gradient])
        del leaving, gradient
        self.under_way.pop(0)


def one_f_one_b(run: StageRun, stages_after: int, microbatches: int) -> None:
    """Narayanan et al. 2021: forwards until the first gradient can come, then one backward for each forward."""
    ahead = min(stages_after, microbatches)
    for _ in range(ahead):
        run.forward()
    for _ in range(microbatches - ahead):
        run.forward()
        run.backward()
    for _ in range(ahead):
        run.backward()


def peak_of_a_stage(job: Job, layers: range, stages_after: int, microbatches: int) -> int:
    with FakeTensorMode():
        model = build(job)
        inner = model.model
        for index in range(job.layers):
            if index not in layers:
                inner.layers[index] = None
        if layers.start:
            inner.embed_tokens = None
        if layers.stop < job.layers:
            inner.norm = model.lm_head = None
        optimizer = torch.optim.AdamW(model.parameters(), foreach=job.foreach)
        tokens = [torch.zeros(job.batch, job.sequence, dtype=torch.long, device="cpu") for _ in range(2)]
        run = StageRun(job, model, layers, tokens)
        with Ledger([*model.parameters(), *model.buffers(), *tokens]) as ledger:
            for _ in range(2):
                one_f_one_b(run, stages_after, microbatches)
                optimizer.step()
                optimizer.zero_grad()
        return ledger.peak
