"""Record what PyTorch does on meta tensors: FLOPs, bytes moved, and when each storage is allocated and freed."""

import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import canvas_rt.ops.experts  # noqa: F401  (registers the grouped product)
from canvas_rt.physics import meta

GRANULE = 512
"""The CUDA caching allocator rounds every request up to a multiple of this. PyTorch's CPU allocator does not round."""

Event = tuple[int, int]
"""Bytes (negative where they are freed) and the storage's number."""

Form = tuple[tuple[int, ...], int]
"""The shape of what a storage holds, and the bytes of each number."""

aten = torch.ops.aten


SINGLE = 8
"""Bytes of the largest single number."""


def rounded(nbytes: int, granule: int = GRANULE) -> int:
    """Bytes that the allocator hands out for a request.

    The CPU's allocator does not round. Single numbers are left out there: PyTorch makes many, for numbers of Python, that a
    card never sees.
    """
    if granule == 1:
        return nbytes if nbytes > SINGLE else 0
    return -(-nbytes // granule) * granule


RATES: Mapping[torch.dtype, str] = {
    torch.float64: "fp32",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float8_e4m3fn: "fp8",
    torch.float8_e5m2: "fp8",
}
"""Which of a card's peaks bounds a product of numbers of this dtype."""


@dataclass(frozen=True, slots=True)
class Work:
    """One kernel."""

    owner: str
    """The path of the node that it belongs to, within what was traced."""

    backward: bool
    flops: int
    """By the formulas of `torch.utils.flop_counter`; attention's backward as twice its forward."""

    executed: int
    """What the kernel really runs: flash attention skips hidden pairs, and its backward recomputes scores."""

    moved: int
    """Bytes read and written, each tensor once."""

    rate: str = "fp32"
    """The numbers that it multiplies, as a card's peaks are named."""

    again: bool = False
    """Whether the forward ran it already: recomputation."""

    product: tuple[int, ...] = ()
    """Of a matrix product the sizes (m, n, k), of attention (batch · heads, queries, keys, width)."""


_FLASH = {
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
}
_FLASH_BACKWARD = {
    aten._scaled_dot_product_flash_attention_backward.default,
    aten._scaled_dot_product_efficient_attention_backward.default,
}
_FLASH_KERNEL_BACKWARD = aten._scaled_dot_product_flash_attention_backward.default
_EFFICIENT = aten._scaled_dot_product_efficient_attention.default
_FREE = {
    aten._unsafe_view.default,
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
}
"""Beside views, operations that launch no kernel."""


def _gathered(args: Sequence[Any], out: Tensor) -> int:
    return 2 * out.nbytes + int(args[1].nbytes)


def _scattered(args: Sequence[Any], out: Tensor) -> int:
    return out.nbytes + 2 * int(args[0].nbytes) + int(args[1].nbytes)


def _chosen(args: Sequence[Any], out: Tensor) -> int:
    return 2 * int(args[1].nbytes)


def _grouped(args: Sequence[Any], out: Tensor) -> int:
    """Of the experts' weights, those of at most as many experts as there are rows."""
    x, weight = args[0], args[1]
    return int(x.nbytes + out.nbytes + weight.nbytes * min(len(x), len(weight)) // len(weight))


_MOVED: Mapping[Any, Callable[[Sequence[Any], Any], int]] = {
    torch.ops.canvas_rt.grouped_mm.default: _grouped,
    aten.embedding.default: _gathered,
    aten.embedding_dense_backward.default: _scattered,
    aten.nll_loss_forward.default: lambda args, out: _chosen(args, out[0]),
    aten.nll_loss_backward.default: lambda args, out: out.nbytes + _chosen(args[1:], out),
}
"""Operations that touch only some rows of a tensor that they are given."""


def _nbytes(value: Any) -> int:
    if isinstance(value, Tensor):
        # An expanded tensor is read once, not once for each repetition.
        return min(value.nbytes, value.untyped_storage().nbytes())
    if isinstance(value, list | tuple):
        return sum(map(_nbytes, value))
    return 0


def visible_pairs(queries: int, keys: int, window: int | None, *, causal: bool = True) -> int:
    """Pairs of a query and a key that attention scores, the queries being the last of the positions."""
    if not causal:  # as many keys after a query as before it, and its own once
        reach = keys if window is None else min(window, keys)
        return queries * keys if window is None else 2 * visible_pairs(keys, keys, reach) - keys
    reach = keys if window is None else min(window, keys)
    first = keys - queries + 1  # keys that the first query sees
    growing = max(0, min(reach, keys) - first + 1)
    return growing * first + growing * (growing - 1) // 2 + (queries - growing) * reach


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records while it is entered. Storages that it has not met are allocations; their death is a free."""

    def __init__(self, *, fast: bool = True, granule: int = GRANULE) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.run = meta.run if fast else _plainly
        self.granule = granule
        self.events: list[Event] = []
        self.work: list[Work] = []
        self.live: dict[int, Any] = {}
        self.compressed: dict[int, float] = {}
        """For storages that stand for others of fewer bits: bytes there for each byte here."""
        self.makers: list[str] = []
        """Whose each storage is, by its number: the path of the node that made it."""
        self.forms: list[Form] = []
        """What each storage holds, by its number."""
        self.owner = ""
        self.window: int | None = None
        """Of the attention at hand; its backward looks it up by owner."""
        self.causal = True
        """Whether the attention at hand sees no later token."""
        self.windows: dict[str, tuple[int | None, bool]] = {}
        """For each attention its window, and whether it is causal."""
        self.masked: set[str] = set()
        """Whose attention reads a mask: the kernel skips nothing then."""
        self.flex = False
        """Whether flash attention stands for flex_attention, whose backward keeps less."""
        self.backward = False
        self.again = False
        """While a forward is computed anew within the backward."""
        self.paused = False
        """While set, nothing is recorded: what is made then belongs to the tracing, not to the model."""
        self.ends: list[int] = []
        """Autograd's sequence number at the end of each node's forward, ascending, and whose it was."""
        self.owners: list[str] = []

    # -- storages

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """What is made inside is not recorded."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def resident(self, tensor: Tensor) -> None:
        """Know a storage without recording it: weights and inputs, which live throughout."""
        self._watch(tensor, recorded=False)

    @property
    def count(self) -> int:
        """How many storages have a number."""
        return len(self.makers)

    def rounded(self, nbytes: int) -> int:
        """Bytes that the device's allocator hands out for a request."""
        return rounded(nbytes, self.granule)

    def adopt(self, tensor: Tensor) -> int:
        """Know a storage that something else allocated; its death is recorded. Gives its number."""
        return self._watch(tensor, recorded=True)

    def number(self, tensor: Tensor) -> int:
        """The number of a storage that the tape knows."""
        return int(self.live[tensor.untyped_storage()._cdata][1])

    def forget(self, tensor: Tensor) -> int:
        """Hand a storage over: its death is no longer recorded. Gives its number."""
        number = self.number(tensor)
        self._watch(tensor, recorded=False, number=number)
        return number

    def hidden(self, nbytes: int) -> int:
        """Record an allocation that no tensor shows. Gives its number."""
        self.makers.append(self.owner)
        self.forms.append(((nbytes,), 1))
        self.events.append((self.rounded(nbytes), self.count - 1))
        return self.count - 1

    def gone(self, nbytes: int, number: int) -> None:
        """Record that what no tensor shows is freed."""
        self.events.append((-self.rounded(nbytes), number))

    def close(self) -> None:
        """Record nothing more, whatever dies."""
        self.live.clear()

    def stored(self, tensor: Tensor, nbytes: int) -> None:
        """What a tensor stands for lies in memory in so many bytes: what is read of it is counted so."""
        self.compressed[tensor.untyped_storage()._cdata] = nbytes / max(1, tensor.nbytes)

    def _watch(self, tensor: Tensor, *, recorded: bool, number: int = -1) -> int:
        storage = tensor.untyped_storage()
        key, nbytes, events, live = storage._cdata, self.rounded(storage.nbytes()), self.events, self.live
        if number < 0:
            number = self.count
            self.makers.append(self.owner)
            self.forms.append((tuple(tensor.shape), tensor.element_size()))

        def died(reference: Any) -> None:
            known = live.get(key)
            if known is not None and known[0] is reference:
                del live[key]
                if recorded:
                    events.append((-nbytes, number))

        live[key] = (weakref.ref(storage, died), number)
        return number

    def _see(self, out: Any) -> None:
        if isinstance(out, Tensor):
            storage = out.untyped_storage()
            nbytes = self.rounded(storage.nbytes()) if out.device.type == "meta" else 0
            if nbytes and storage._cdata not in self.live:
                self.events.append((nbytes, self._watch(out, recorded=True)))
        elif isinstance(out, list | tuple):
            for item in out:
                self._see(item)

    # -- work

    def finished(self, owner: str, outputs: Sequence[Tensor]) -> None:
        """A node's forward is done: what autograd has recorded up to here and not before is its."""
        numbers = [out.grad_fn._sequence_nr() for out in outputs if out.grad_fn is not None]
        if numbers and max(numbers) > (self.ends[-1] if self.ends else -1):
            self.ends.append(max(numbers))
            self.owners.append(owner)

    def _attribute(self) -> str:
        if self.backward and not self.again:
            node = torch._C._current_autograd_node()
            number = node._sequence_nr() if node is not None else -1
            if 0 <= number <= (self.ends[-1] if self.ends else -1):
                self.owner = self.owners[bisect_left(self.ends, number)]
        return self.owner

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default and args[0].device.type == "meta":
            return 1.0  # nobody knows; no shape depends on it
        if self.paused:
            return func(*args, **kwargs)
        if func.is_view or func in _FREE:
            if self.backward:
                self._attribute()
            out = self.run(func, args, kwargs)
            self._see(out)
            return out
        owner = self._attribute()
        buffers = self._buffers(args) if func is _FLASH_KERNEL_BACKWARD else ()
        out = self.run(func, args, kwargs)
        self._see(out)
        for number, nbytes in buffers:
            self.gone(nbytes, number)
        flops, executed = self._flops(func, args, kwargs, out, owner)
        measure = _MOVED.get(func)
        moved = measure(args, out) if measure else _nbytes(args) + _nbytes(out)
        if self.compressed:
            moved -= self._spared(args, moved)
        rate, product = _product(func, args) if flops else ("fp32", ())
        self.work.append(Work(owner, self.backward, flops, executed, moved, rate, self.again, product))
        return out

    def _flops(self, func: Any, args: Any, kwargs: Any, out: Any, owner: str) -> tuple[int, int]:
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            return 0, 0
        flops = int(formula(*args, **kwargs, out_val=out))
        if func is _EFFICIENT and args[3] is not None:
            self.masked.add(owner)
        if func in _FLASH and owner not in self.masked:
            self.windows[owner] = self.window, self.causal
            pairs = visible_pairs(args[0].shape[2], args[1].shape[2], self.window, causal=self.causal)
            return flops, flops * pairs // (args[0].shape[2] * args[1].shape[2])
        if func in _FLASH_BACKWARD:
            # Five matmuls run; the mathematics has four, twice the forward's two.
            q, k = args[1], args[2]
            if owner in self.masked:
                return flops * 4 // 5, flops
            window, causal = self.windows.get(owner, (None, True))
            pairs = visible_pairs(q.shape[2], k.shape[2], window, causal=causal)
            return flops * 4 // 5, flops * pairs // (q.shape[2] * k.shape[2])
        return flops, flops

    def _spared(self, args: Any, moved: int) -> int:
        """Bytes that need not be read because a tensor lies in memory in fewer bits."""
        spared = 0.0
        for arg in args:
            share = self.compressed.get(arg.untyped_storage()._cdata) if isinstance(arg, Tensor) else None
            if share is not None:
                spared += min(arg.nbytes, moved) * (1 - share)
        return int(spared)

    def _buffers(self, args: Any) -> tuple[tuple[int, int], ...]:
        """What flash attention's backward allocates inside: row sums and q's gradient in fp32, k's and v's ungrouped.

        Source: flash_api.cpp of FlashAttention 2, `mha_bwd`; sequence rounded to 128, head_dim to 32.
        """
        q, k = args[1], args[2]
        batch, heads, queries, width = q.shape
        long, wide = -(-queries // 128) * 128, -(-width // 32) * 32
        if self.flex:
            return ((self.hidden(4 * batch * heads * queries), 4 * batch * heads * queries),)
        sizes = [4 * batch * heads * long, 4 * batch * heads * long * wide]
        if k.shape[1] != heads:
            sizes += [batch * heads * k.shape[2] * width * k.element_size()] * 2
        return tuple((self.hidden(nbytes), nbytes) for nbytes in sizes)


_ATTENTIONS = _FLASH | _FLASH_BACKWARD


def _product(func: Any, args: Sequence[Any]) -> tuple[str, tuple[int, ...]]:
    """What numbers are multiplied, and the sizes of the product."""
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    first = tensors[0]
    if func in _ATTENTIONS:
        q, k = tensors[:2] if func in _FLASH else tensors[1:3]
        return RATES[q.dtype], (q.shape[0] * q.shape[1], q.shape[2], k.shape[2], q.shape[3])
    x, y = tensors[-2:] if func is aten.addmm.default else tensors[:2]
    rate = RATES.get(first.dtype, "fp32")
    if x.dim() == 2 and y.dim() == 2:
        return rate, (x.shape[0], y.shape[1], x.shape[1])
    if x.dim() == 3 and y.dim() == 3:
        return rate, (x.shape[0] * x.shape[1], y.shape[2], x.shape[2])
    return rate, (x.shape[0], y.shape[1], x.shape[1])  # rows in groups, each times a weight of its own


def _plainly(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return func(*args, **kwargs)
