"""Attention that a module writes by hand: found going back from its second product, and proved by running both."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx

from canvas_rt.importer.calls import MODEL_DTYPE, shape_of
from canvas_rt.importer.patterns import evaluate
from canvas_rt.importer.proof import DTYPES, generator
from canvas_rt.importer.seen import Visible, additive, kind_of, visible_in
from canvas_rt.ops.catalogue import VARIANTS
from canvas_rt.ops.choices import ORDERS, PRECISIONS, SCALINGS
from canvas_rt.ops.kernels import KERNELS, Context
from canvas_rt.ops.scores import alibi

aten = torch.ops.aten

PRODUCTS = frozenset({aten.matmul.default, aten.bmm.default, aten.baddbmm.default})
SOFTMAXES = frozenset({aten.softmax.int, aten._softmax.default})
CASTS = frozenset({aten.to.dtype, aten._to_copy.default, aten.type_as.default})
MOVES = CASTS | {
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.dropout.default,
    aten.expand.default,
    aten.flatten.using_ints,
    aten.repeat_interleave.self_int,
    aten.reshape.default,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.view.default,
}
"""Functions that change no number, but for its precision."""

FORMS = tuple(product(PRECISIONS, SCALINGS))
"""Every way to compute the shares, the usual one first."""


def likely_forms(*, narrow: bool, folded: bool) -> list[tuple[str, str]]:
    """All forms, the likely ones first. Where few numbers are seen, several may give the same.

    `narrow`: whether the softmax gives the model's dtype. `folded`: whether queries and keys meet in a product of three
    dimensions, whose gradients round in another way than those of four.
    """
    return sorted(FORMS, key=lambda form: ((form[0] == "model") is not narrow, (form[1] == "fused") is not folded))


@dataclass(frozen=True)
class Attention:
    """Attention that was found: what feeds it, and its settings."""

    q: fx.Node
    k: fx.Node
    v: fx.Node
    attrs: Mapping[str, Any]
    alibi: Mapping[str, Any] | None
    """The settings of the bias that it adds to its scores."""


@dataclass(frozen=True)
class _Parts:
    """What stands where in attention written by hand."""

    end: fx.Node
    """What it gives, [batch, queries, heads, width]."""

    shares: fx.Node
    product: fx.Node
    """That of queries and keys."""

    q: fx.Node
    k: fx.Node
    v: fx.Node
    inside: tuple[fx.Node, ...]
    """All functions from queries, keys and values to the end."""

    @property
    def sharing(self) -> str:
        """Whether all heads' queries meet one head of keys as it is."""
        keys: Any = self.product.args[-1]
        shape, heads = shape_of(keys), shape_of(self.end)[2]
        return "broadcast" if len(shape) == 4 and shape[1] == 1 < heads else "repeated"


def find_attentions(graph: fx.Graph, tensor: Callable[[str], Tensor | None]) -> dict[fx.Node, Attention]:
    """Where a graph attends by functions of its own: the node that gives [batch, queries, heads, width], and what it does.

    `tensor` gives a tensor that the module keeps without learning it, by name.
    """
    found: dict[fx.Node, Attention] = {}
    if not any(node.target in SOFTMAXES for node in graph.nodes):
        return found
    for node in graph.nodes:
        if node.target is aten.transpose.int and len(shape_of(node)) == 4 and sorted(node.args[1:]) == [1, 2]:
            parts = _parts(node)
            proved = parts and _Trial(parts, tensor).attention()
            if proved:
                found[node] = proved
    return found


# where its parts are


def _parts(end: fx.Node) -> _Parts | None:
    second = _source(end.args[0], MOVES)
    if second.target not in PRODUCTS or len(second.args) != 2:
        return None
    shares, values = second.args
    if not isinstance(shares, fx.Node) or not isinstance(values, fx.Node):
        return None
    softmax = _source(shares, MOVES | {aten.masked_fill.Scalar, aten.masked_fill.Tensor, aten.where.self})
    if softmax.target not in SOFTMAXES:
        return None
    first = _first_product(softmax)
    if first is None:
        return None
    batch, length, heads, _ = shape_of(end)
    queries, keys = first.args[-2:]
    q = _heads(queries, batch, heads, length, turned=False)
    k = _heads(keys, batch, heads, length, turned=True)
    v = _heads(values, batch, heads, length, turned=False)
    if q is None or k is None or v is None:
        return None
    return _Parts(end, softmax, first, q, k, v, tuple(_between(end, {q, k, v})))


def _source(node: Any, passing: frozenset[Any]) -> fx.Node:
    """A value, or the nearest before it that is not just moved."""
    while node.target in passing and isinstance(_main(node), fx.Node):
        node = _main(node)
    return node  # type: ignore[no-any-return]


def _main(node: fx.Node) -> fx.Node:
    """The value that a function passes on."""
    place = 1 if node.target is aten.where.self and node.args[1].op != "get_attr" else 0  # type: ignore[union-attr]
    return node.args[place]  # type: ignore[return-value]


def _first_product(softmax: fx.Node) -> fx.Node | None:
    """The product of queries and keys: the only one that the scores are made of, short of those behind it."""
    found, todo, seen = [], list(softmax.all_input_nodes), set()
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.target in PRODUCTS:
            found.append(node)
        elif node.op == "call_function":
            todo += node.all_input_nodes
    return found[0] if len(found) == 1 else None


def _heads(node: Any, batch: int, heads: int, length: int, *, turned: bool) -> fx.Node | None:
    """What a factor is made of by moving numbers: [batch, heads of its own, length, width], the farthest back."""
    best = None
    while isinstance(node, fx.Node):
        shape = shape_of(node)
        fits = len(shape) == 4 and shape[0] == batch and heads % max(1, shape[1]) == 0 and shape[2] == length
        if not turned and fits:
            best = node
        if turned and _turns_last(node):
            turned = False
        elif node.target not in MOVES:
            break
        node = node.args[0]
    return best


def _turns_last(node: fx.Node) -> bool:
    """Whether it swaps the last two dimensions."""
    axes: Any = node.args[1:]
    rank = len(shape_of(node))
    return node.target is aten.transpose.int and {axis % rank for axis in axes} == {rank - 2, rank - 1}


def _between(end: fx.Node, stops: set[fx.Node]) -> Iterator[fx.Node]:
    """All that a node is computed of, back to some values."""
    seen, todo = set(stops), [end]
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            yield node
            todo += node.all_input_nodes


# what it does


class _Trial:
    """Runs attention written by hand beside our own."""

    def __init__(self, parts: _Parts, tensor: Callable[[str], Tensor | None]) -> None:
        self.parts = parts
        self.tensor = tensor
        self.length = shape_of(parts.end)[1]
        self.moving = self._moving()
        self.edge = tuple(node for node in parts.inside if node not in self.moving and self._meets(node))

    def _moving(self) -> frozenset[fx.Node]:
        """The nodes inside that depend on queries, keys or values."""
        found = {self.parts.q, self.parts.k, self.parts.v}
        changed = True
        while changed:
            more = {n for n in self.parts.inside if n not in found and not found.isdisjoint(n.all_input_nodes)}
            found |= more
            changed = bool(more)
        return frozenset(found)

    def _meets(self, node: fx.Node) -> bool:
        return not self.moving.isdisjoint(node.users)

    def attention(self) -> Attention | None:
        """What it does; nothing where it cannot be run, or no settings of ours give the same."""
        parts = self.parts
        try:
            visible, bias = self.visible(), self.bias()
            folded = parts.product.target is not aten.matmul.default
            narrow = parts.shares.meta["val"].dtype is MODEL_DTYPE
            for precision, scaling in likely_forms(narrow=narrow, folded=folded):
                for scale in self.factors():
                    form = {"scaling": scaling, "precision": precision, "sharing": parts.sharing}
                    attrs = {"scale": scale, **form, **kind_of(visible)}
                    if self.equal(attrs, bias):
                        return Attention(parts.q, parts.k, parts.v, {**attrs, "dropout": self.dropout()}, bias)
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError):
            pass
        return None

    def fixed(self, dtype: torch.dtype) -> dict[fx.Node, Tensor]:
        return _fixed(self.parts.inside, self.tensor, dtype)

    def given(self, dtype: torch.dtype) -> list[Tensor]:
        """Queries, keys and values at random, laid out as they are in the model: how sums are rounded depends on it."""
        random = generator()
        made = []
        for node in (self.parts.q, self.parts.k, self.parts.v):
            like = node.meta["val"]
            value = torch.empty_strided(like.shape, like.stride(), dtype=dtype)
            made.append(value.copy_(torch.randn(like.shape, generator=random)))
        return made

    def run(self, node: fx.Node, given: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """What a node inside gives."""
        values = dict(zip((self.parts.q, self.parts.k, self.parts.v), given, strict=True))
        result: Tensor = evaluate(node, values | self.fixed(dtype), dtype)
        return result

    def visible(self) -> Visible:
        """Which keys a query sees: what masks and kept tensors say, and what alike scores show to be so."""
        known = [visible_in(node, self.tensor) for node in self.parts.inside]
        told = [seen for seen in known if seen is not None]
        spans = [seen.window for seen in told if seen.window is not None]
        chunks = [seen.chunk for seen in told if seen.chunk is not None]
        both = Visible(any(seen.causal for seen in told), min(spans, default=None), min(chunks, default=None))
        zeros = [torch.zeros_like(value) for value in self.given(torch.float32)]
        shown = self.run(self.parts.shares, zeros, torch.float32) > 0
        shown = shown.view(-1, *shown.shape[-2:])
        for candidate in (both, Visible(True), Visible(False)):
            if bool((shown == candidate.mask(self.length)[0]).all()):
                return candidate
        raise ValueError("sees what is neither causal, a window nor a chunk")

    def bias(self) -> dict[str, Any] | None:
        """The settings of ALiBi, where it adds that to its scores."""
        heads = shape_of(self.parts.end)[2]
        found = (alibi_in(node, heads, self.tensor) for node in self.edge)
        return next((attrs for attrs in found if attrs is not None), None)

    def factors(self) -> tuple[float, ...]:
        """What scores may be scaled by: each number that stands inside, its reciprocal, and one."""
        numbers: list[float] = []
        for node in self.parts.inside:
            if node in self.moving:
                arguments = (*node.args, *node.kwargs.values())
                numbers += [float(a) for a in arguments if isinstance(a, int | float) and not isinstance(a, bool)]
        for node, value in self.fixed(torch.float32).items():
            if node in self.edge and not value.dim():
                numbers.append(float(value))
        found = [1.0] + [f for n in numbers if n > 0 and math.isfinite(n) for f in (n, 1 / n)]
        return tuple(dict.fromkeys(found))

    def dropout(self) -> float:
        return next((float(n.args[1]) for n in self.parts.inside if n.target is aten.dropout.default), 0.0)  # type: ignore[arg-type]

    def equal(self, attrs: Mapping[str, Any], bias: Mapping[str, Any] | None) -> bool:
        """Whether our attention gives the same, to the last bit: values in fp32 and in bf16, gradients in fp32."""
        return all(self.equal_in(dtype, attrs, bias) for dtype in DTYPES)

    def equal_in(self, dtype: torch.dtype, attrs: Mapping[str, Any], bias: Mapping[str, Any] | None) -> bool:
        given = [value.requires_grad_() for value in self.given(dtype)]
        theirs = self.run(self.parts.end, given, dtype)
        ours = attend(given, attrs, bias, dtype)
        if theirs.dtype != ours.dtype or not torch.equal(theirs, ours):
            return False
        if dtype is not torch.float32:
            return True
        pull = torch.randn(theirs.shape, generator=generator())
        return all(map(torch.equal, torch.autograd.grad(theirs, given, pull), torch.autograd.grad(ours, given, pull)))


def _fixed(
    nodes: Iterable[fx.Node], tensor: Callable[[str], Tensor | None], dtype: torch.dtype
) -> dict[fx.Node, Tensor]:
    """What masks and kept tensors hold, in a model of some dtype."""
    values: dict[fx.Node, Tensor] = {}
    for node in nodes:
        if node.target is torch.ops.canvas_rt.mask.default:
            values[node] = additive(node.args, dtype)
        elif node.op == "get_attr":
            kept = tensor(str(node.target))
            if kept is None:
                raise ValueError(f"{node} is learned")
            values[node] = kept.detach().to(dtype) if kept.dtype is torch.bfloat16 else kept.detach()
    return values


def alibi_in(node: fx.Node, heads: int, tensor: Callable[[str], Tensor | None]) -> dict[str, Any] | None:
    """The settings with which ALiBi is what a node computes of nothing but numbers; None where there are none."""
    shape, value = shape_of(node), node.meta.get("val")
    if not shape or not value.is_floating_point() or math.prod(shape) % (heads * shape[-1]):  # type: ignore[union-attr]
        return None
    before = tuple(_between(node, set()))
    try:
        theirs = {dtype: evaluate(node, _fixed(before, tensor, dtype), dtype) for dtype in DTYPES}
    except (RuntimeError, ValueError, TypeError):
        return None
    # For a power of two of heads both orders are one: then the formula tells them apart.
    by_formula = any(n.target is aten.pow.Scalar for n in before)
    orders = sorted(ORDERS, key=lambda order: (order == "interleaved") is not by_formula)
    for order, counts, rounding in product(orders, ("from_first", "from_last"), ("bias", "slopes", "none")):
        attrs = {"heads": heads, "order": order, "counts": counts, "rounding": rounding}
        settings = {**VARIANTS["alibi"], **attrs}
        if all(_same_bias(alibi(shape[-1], settings, dtype), theirs[dtype]) for dtype in DTYPES):
            return attrs
    return None


def _same_bias(ours: Tensor, theirs: Tensor) -> bool:
    _, heads, _, keys = ours.shape
    rows = theirs.reshape(-1, heads, *theirs.shape[-2:] if theirs.shape[-1] == keys else (1, keys))
    return ours.dtype is theirs.dtype and bool((rows == ours).all())


def attend(
    given: Sequence[Tensor], attrs: Mapping[str, Any], bias: Mapping[str, Any] | None, dtype: torch.dtype
) -> Tensor:
    """What the op gives for queries, keys and values."""
    q, k, v = given
    context = Context(q.shape[0], q.shape[2], q.device, dtype, backend="eager")
    inputs = {"q": q, "k": k, "v": v}
    if bias is not None:
        inputs["bias"] = alibi(k.shape[2], {**VARIANTS["alibi"], **bias}, dtype)
    (out,) = KERNELS["attention"](inputs, {**VARIANTS["attention"], **attrs}, {}, context)
    return out


__all__ = ["Attention", "attend", "find_attentions"]
