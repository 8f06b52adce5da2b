"""What must hold for each op: its settings together, and the shapes that arrive at it. Needs no torch."""

from collections.abc import Callable, Iterator

from canvas_rt.ops.op import Facts, Problem
from canvas_rt.ops.rope import rotary_channels, rotary_table


def last_dim(size: str, port: str = "x") -> Callable[[Facts], Iterator[Problem]]:
    def problems(facts: Facts) -> Iterator[Problem]:
        shape = facts.shapes[port]
        if not shape or shape[-1] != facts.attrs[size]:
            yield (
                f"takes {size} = {facts.named(size)}, but {port} is {facts.show(port)}",
                f"Set {size} to {shape[-1] if shape else 1}, or feed it a value whose last dimension is {facts.attrs[size]}.",
            )

    return problems


def broadcast(facts: Facts) -> Iterator[Problem]:
    a, b = facts.shapes["a"], facts.shapes["b"]
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if x != y and 1 not in (x, y):
            yield (
                f"cannot combine {facts.show('a')} with {facts.show('b')}: {x} against {y}",
                "Make both sides the same size; on a residual path, what is added must be as wide as the stream.",
            )
            return


def rank(port: str, rank: int, meaning: str) -> Callable[[Facts], Iterator[Problem]]:
    def problems(facts: Facts) -> Iterator[Problem]:
        if len(facts.shapes[port]) != rank:
            yield f"{port} must be {meaning}, but is {facts.show(port)}", f"Feed it {meaning}."

    return problems


def split_heads(facts: Facts) -> Iterator[Problem]:
    shape = facts.shapes["x"]
    heads, width = facts.attrs["heads"], facts.attrs["head_dim"]
    if len(shape) != 3 or shape[-1] != heads * width:
        yield (
            f"splits {facts.named('heads')} heads of {facts.named('head_dim')}, {heads * width} in all, but x is {facts.show('x')}",
            "Make the projection before it num_heads · head_dim wide.",
        )


def attention(facts: Facts) -> Iterator[Problem]:
    q, k, v = (facts.shapes[port] for port in ("q", "k", "v"))
    if not len(q) == len(k) == len(v) == 4:
        yield (
            f"takes q, k and v as [batch, heads, seq, head_dim], but they are {facts.show('q')}, {facts.show('k')} and {facts.show('v')}",
            "Split the heads first.",
        )
        return
    if k[1] != v[1] or k[2] != v[2]:
        yield (
            f"keys {facts.show('k')} and values {facts.show('v')} differ in heads or length",
            "Give both the same number of heads.",
        )
    if q[3] != k[3]:
        yield f"queries have head_dim {q[3]}, keys {k[3]}", "Queries and keys must have one head_dim."
    if q[1] % k[1]:
        divisors = [n for n in range(1, q[1] + 1) if q[1] % n == 0]
        near = sorted(sorted(divisors, key=lambda n: (abs(n - k[1]), -n))[:2])
        yield (
            f"num_attention_heads ({q[1]}) is not a multiple of num_key_value_heads ({k[1]})",
            f"Each key/value head serves an equal group of query heads: try {' or '.join(map(str, near))}.",
        )


def apply_rotary(facts: Facts) -> Iterator[Problem]:
    cos = facts.shapes["cos"]
    width = (cos[-1] if cos else 0) * (2 if facts.attrs["tables"] == "once" else 1)
    for port in facts.shapes.keys() - {"cos", "sin"}:
        shape = facts.shapes[port]
        if len(shape) != 4 or shape[-1] < width:
            yield (
                f"rotates heads of {width}, but {port} is {facts.show(port)}",
                "Give the rotary embedding the head_dim of the heads that it turns.",
            )


def rotary(facts: Facts) -> Iterator[Problem]:
    if facts.attrs["layer_type"] is not None and not rotary_table(facts.attrs):
        yield (
            f"has no table for layer_type '{facts.attrs['layer_type']}'",
            f"Set layer_type to one of {', '.join(facts.attrs['parameters'])}.",
        )
        return
    width = rotary_channels(facts.attrs)
    if width % 2:
        name = "head_dim" if width == facts.attrs["head_dim"] else "the turned part of head_dim"
        yield f"{name} ({width}) is odd", "Rotary positions turn pairs of channels: make it even."


def relative_bias(facts: Facts) -> Iterator[Problem]:
    exact = facts.attrs["buckets"] // (4 if facts.attrs["both_ways"] else 2)
    if exact < 1 or facts.attrs["farthest"] <= exact:
        yield (
            f"gives the nearest {exact} distances a bucket each, and {facts.named('farthest')} is the farthest",
            f"Set buckets to at least {4 if facts.attrs['both_ways'] else 2}, and farthest to more than {max(1, exact)}.",
        )


def router(facts: Facts) -> Iterator[Problem]:
    yield from stream(facts)
    experts, chosen = facts.attrs["num_experts"], facts.attrs["top_k"]
    if chosen > experts:
        yield (
            f"chooses {facts.named('top_k')} of {facts.named('num_experts')} experts",
            f"Set top_k to at most {experts}, or num_experts to at least {chosen}.",
        )
    groups, best = facts.attrs["groups"], facts.attrs["top_groups"]
    if groups is not None and (experts % groups or best is None or best > groups or experts // groups < 2):
        yield (
            f"chooses from {best} of {groups} groups of {facts.named('num_experts')} experts",
            "Set groups to a divisor of num_experts, and top_groups to at most that.",
        )


def experts(facts: Facts) -> Iterator[Problem]:
    yield from stream(facts)
    x, indices, weights = (facts.shapes[port] for port in ("x", "indices", "weights"))
    if indices != weights:
        yield (
            f"indices {facts.show('indices')} and weights {facts.show('weights')} are not one for one",
            "Take both from one router.",
        )
    elif indices[:-1] != x[:-1]:
        yield (
            f"indices {facts.show('indices')} choose for other tokens than those of x {facts.show('x')}",
            "Let the router read a value of the same tokens.",
        )


def stream(facts: Facts) -> Iterator[Problem]:
    """A value for each token, as wide as `size` says."""
    if len(facts.shapes["x"]) in (2, 3):
        yield from last_dim("size")(facts)
    else:
        yield f"takes x as [batch, seq, size], but x is {facts.show('x')}", "Feed it the stream."


def norm(facts: Facts) -> Iterator[Problem]:
    if facts.attrs["weight"] or facts.attrs["size"] is not None:
        if facts.attrs["size"] is None:
            yield "has a weight of no size", "Set size to the width of the vectors that it takes."
            return
        yield from last_dim("size")(facts)
    heads, shape = facts.attrs["heads"], facts.shapes["x"]
    if heads is not None and (len(shape) < 2 or shape[-2] != heads):
        yield (
            f"has weights for {facts.named('heads')} heads, but x is {facts.show('x')}",
            "Feed it [batch, seq, heads, head_dim] with as many heads.",
        )


def gated_norm(facts: Facts) -> Iterator[Problem]:
    yield from last_dim("size")(facts)
    if facts.shapes["x"] != facts.shapes["gate"]:
        yield (
            f"gates {facts.show('x')} with {facts.show('gate')}",
            "Give the gate the shape of what it gates.",
        )
    group = facts.attrs["group_size"]
    if group is not None and facts.attrs["size"] % group:
        yield (
            f"splits {facts.named('size')} channels into groups of {facts.named('group_size')}",
            "Make group_size a divisor of size.",
        )


def linear(facts: Facts) -> Iterator[Problem]:
    yield from last_dim("in_features")(facts)
    if facts.attrs["transposed"] and not facts.attrs["bias"]:
        yield "is transposed and has no bias", "Set bias: a transposed linear is transformers' Conv1D, which has one."
