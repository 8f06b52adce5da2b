"""What a model learns, as a scenario holds it: trained or frozen, stored in how many bytes, with adapters beside it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from math import prod

import torch

from canvas_rt.ir.document import Document, Node
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.graph import parse_layers, walk
from canvas_rt.ops.catalogue import complete
from canvas_rt.ops.op import Shape
from canvas_rt.ops.parameters import ParameterRow, parameter_table
from canvas_rt.ops.rope import rotary_width
from canvas_rt.physics import linears
from canvas_rt.physics.optimizers import Learner
from canvas_rt.physics.regimes import Treatment
from canvas_rt.physics.setup import Setup
from canvas_rt.physics.tape import rounded


@dataclass(frozen=True, slots=True)
class Held:
    """One learned tensor of a node, alike in all the layers that its path names."""

    row: ParameterRow
    trained: bool
    dtype: torch.dtype
    sizes: tuple[int, ...]
    """Bytes of each tensor that it is stored as."""

    adapter: bool = False
    ranks: int = 1
    """How many cards share it, each with some of its rows."""

    @property
    def local(self) -> Shape:
        """What of it this card holds, or more: all cards keep room for as many rows as the first."""
        return chunk_shape(self.row.shape, self.ranks)

    @property
    def count(self) -> int:
        """How many tensors of their own it stands for."""
        return self.row.times - self.row.shared

    @property
    def elements(self) -> int:
        """Numbers in one of them."""
        return prod(self.row.shape)

    @property
    def nbytes(self) -> int:
        """Bytes, in all the layers together."""
        return self.count * sum(self.sizes)

    @property
    def gradient_bytes(self) -> int:
        return self.count * prod(self.local) * self.dtype.itemsize if self.trained else 0

    def rounded(self, granule: int) -> int:
        """Bytes as the allocator hands them out."""
        return self.count * sum(rounded(size, granule) for size in self.sizes)


Edges = Mapping[str, tuple[int, ...]]
"""For the path of each stack, the layers with which a run of layers begins that are alike in a scenario."""


def held(document: Document, setup: Setup, treatment: Treatment, edges: Edges) -> tuple[Held, ...]:
    """Every learned tensor, and the adapters beside it, in the order of the model's parameters."""
    if treatment.plain:
        ops: dict[str, str] = {}
    else:
        ops = {visit.path: visit.item.op for visit in walk(document) if isinstance(visit.item, Node)}
    found: list[Held] = []
    for whole in parameter_table(document):
        op = ops.get(whole.path, "")
        for row in _cut(whole, edges):
            found += _of_row(row, op, setup, treatment)
    return tuple(found)


def buffers(document: Document) -> dict[str, tuple[int, ...]]:
    """Bytes of each tensor that a node keeps and does not learn, by its path: rotary embeddings keep frequencies twice,
    as they are and as they were, in fp32 like transformers' own."""
    found = {}
    for visit in walk(document):
        if isinstance(visit.item, Node) and visit.item.op == "rotary_embedding":
            width = rotary_width(resolve(complete(visit.item), visit.environment))
            found[visit.path] = (width // 2 * 4,) * 2 * visit.times
    return found


def _of_row(row: ParameterRow, op: str, setup: Setup, treatment: Treatment) -> Iterator[Held]:
    in_stack = any(parse_layers(part) for part in row.path.split("."))
    dtype = setup.weight_dtype
    # What shares the storage of another is trained where that one is.
    learns = setup.train and row.role == "trained"
    trained = learns and row.times > row.shared and not treatment.is_frozen(row.path, op, in_stack)
    quantised = treatment.is_quantised(op, in_stack) and row.name != "bias"
    storage = treatment.storage if quantised else "same"
    yield Held(row, trained, dtype, linears.stored_sizes(row.shape, storage, dtype.itemsize))
    if setup.train and treatment.is_adapted(row.path, op, in_stack) and row.name == "weight":
        for name, shape in linears.adapter_shapes(row.shape, treatment.rank):
            adapter = replace(row, name=name, shape=shape, shared=0)
            yield Held(adapter, True, torch.float32, (prod(shape) * linears.ADAPTER_BYTES,), adapter=True)


def _cut(row: ParameterRow, known: Edges) -> Iterator[ParameterRow]:
    """A row for each run of layers that are alike."""
    parts = row.path.split(".")
    for index, part in enumerate(parts):
        span = parse_layers(part) if "-" in part else None
        cuts = known.get(".".join(parts[:index]), ()) if span else ()
        edges = [span[0], *(cut for cut in cuts if span[0] < cut < span[1]), span[1]] if span else []
        if len(edges) > 2:
            assert span is not None
            for start, stop in pairwise(edges):
                text = f"{start}" if stop == start + 1 else f"{start}-{stop - 1}"
                path = ".".join([*parts[:index], text, *parts[index + 1 :]])
                times = row.times * (stop - start) // (span[1] - span[0])
                yield from _cut(replace(row, path=path, times=times, shared=0), known)
            return
    yield row


def in_order(rows: Sequence[Held]) -> Iterator[Held]:
    """Each tensor once, layer after layer, as `model.parameters()` gives them."""
    for layers, group in groupby(rows, key=_layers):
        alike = tuple(group)
        span = parse_layers(layers.rpartition(".")[2]) or (0, 1)
        depth = span[1] - span[0]
        for _ in range(depth):
            yield from (row for row in alike for _ in range(row.count // depth))


def _layers(row: Held) -> str:
    """The part of a path that names layers, or nothing."""
    parts = row.row.path.split(".")
    found = next((index for index, part in enumerate(parts) if parse_layers(part)), None)
    return "" if found is None else ".".join(parts[: found + 1])


def learners(rows: Sequence[Held]) -> list[Learner]:
    """What the optimizer is given, in order."""
    return [(row.local, row.dtype) for row in in_order(rows) if row.trained]


def chunk_shape(shape: Shape, ranks: int) -> Shape:
    """The first of so many parts of a tensor, cut between its rows: the others are as large or smaller."""
    return (-(-shape[0] // ranks), *shape[1:]) if ranks > 1 else shape


def shared_out(rows: Sequence[Held], ranks: int, experts: frozenset[str], expert_ranks: int) -> tuple[Held, ...]:
    """The tensors as so many cards hold them together: `FSDPParam` cuts each between its rows, and pads.

    Those of `experts`, by path, are shared by fewer: each of `expert_ranks` has experts of its own.
    """
    if ranks == 1:
        return tuple(rows)
    found = (replace(row, ranks=ranks // expert_ranks if row.row.path in experts else ranks) for row in rows)
    return tuple(replace(row, sizes=(prod(row.local) * row.dtype.itemsize,)) for row in found)
