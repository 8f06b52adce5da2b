"""The ops that a node can be: ports, settings, parameters, and what must hold for each. Needs no torch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from canvas_rt.errors import CanvasError, suggest
from canvas_rt.ir.document import LAYER, Node, identifier
from canvas_rt.ir.expressions import display, names_in
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ops.functions import function_op, is_function
from canvas_rt.ops.learned import LEARNED
from canvas_rt.ops.op import Facts, Op, ParameterSpec, Problem, Setting, Shape, show

ACTIVATIONS = (
    "silu",
    "gelu",
    "gelu_pytorch_tanh",
    "gelu_new",
    "relu",
    "relu2",
    "tanh",
    "sigmoid",
    "mish",
    "linear",
    "gelu_fast",
    "quick_gelu",
    "gelu_python",
    "gelu_10",
    "hardswish",
    "laplace",
    "leaky_relu",
    "relu6",
    "sqrtsoftplus",
    "bloom_gelu",
)
"""Pointwise functions by the names that configs give them (`hidden_act`)."""

SCORINGS = ("softmax", "sigmoid", "sqrtsoftplus")
"""How a router turns scores into weights."""

INFINITIES = ("inf", "-inf", "nan")
"""Numbers that JSON cannot say, as plain functions of torch may be given them."""

DTYPES = ("model", "float32", "float64", "float16", "bfloat16", "int64", "int32", "bool", "complex64")
"""Dtypes by name; `model` is the model's own, whatever it is loaded in."""

RMS_FORMS = ("cast_then_weight", "weight_then_cast", "factor_cast", "uncast", "fused")
"""Where an RMSNorm rounds: its normalised value before the weight, the weighted value, only the factor on its input, each step
(all in the dtype of its input), or as PyTorch's own."""

LAYER_FORMS = ("fused", "fused_in_fp32", "by_hand")
"""How a LayerNorm is computed: by PyTorch's own, by PyTorch's own in fp32, or step by step in fp32."""

SCALINGS = ("multiplied", "divided", "fused", "biased")
"""How attention's scores are scaled: by a product, by a quotient, within the product of queries and keys, or after a bias was
added."""

PRECISIONS = ("softmax", "scores", "model")
"""What attention computes in fp32: the softmax alone, all from the scores on, or nothing."""

SPACINGS = ("half_open", "whole")
"""How the frequencies of sines are spaced: as Vaswani et al. write it, or with the last one at 1/10000."""

SHARINGS = ("repeated", "broadcast")
"""How query heads meet keys and values that they share: each gets a copy, or, where there is one for all, the product does it."""

ORDERS = ("closest", "interleaved")
"""Rates of ALiBi for other than a power of two of heads: those of the power below and some between, or every second of the power
above and then the rest."""

ALIASES = {"swish": "silu", "gelu_accurate": "gelu_new", "gelu_python_tanh": "gelu_new"}
"""Other names in use for the same function."""


def _last_dim(size: str, port: str = "x") -> Callable[[Facts], Iterator[Problem]]:
    def problems(facts: Facts) -> Iterator[Problem]:
        shape = facts.shapes[port]
        if not shape or shape[-1] != facts.attrs[size]:
            yield (
                f"takes {size} = {facts.named(size)}, but {port} is {facts.show(port)}",
                f"Set {size} to {shape[-1] if shape else 1}, or feed it a value whose last dimension is {facts.attrs[size]}.",
            )

    return problems


def _broadcast(facts: Facts) -> Iterator[Problem]:
    a, b = facts.shapes["a"], facts.shapes["b"]
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if x != y and 1 not in (x, y):
            yield (
                f"cannot combine {facts.show('a')} with {facts.show('b')}: {x} against {y}",
                "Make both sides the same size; on a residual path, what is added must be as wide as the stream.",
            )
            return


def _rank(port: str, rank: int, meaning: str) -> Callable[[Facts], Iterator[Problem]]:
    def problems(facts: Facts) -> Iterator[Problem]:
        if len(facts.shapes[port]) != rank:
            yield f"{port} must be {meaning}, but is {facts.show(port)}", f"Feed it {meaning}."

    return problems


def _split_heads(facts: Facts) -> Iterator[Problem]:
    shape = facts.shapes["x"]
    heads, width = facts.attrs["heads"], facts.attrs["head_dim"]
    if len(shape) != 3 or shape[-1] != heads * width:
        yield (
            f"splits {facts.named('heads')} heads of {facts.named('head_dim')}, {heads * width} in all, but x is {facts.show('x')}",
            "Make the projection before it num_heads · head_dim wide.",
        )


def _attention(facts: Facts) -> Iterator[Problem]:
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


def _apply_rotary(facts: Facts) -> Iterator[Problem]:
    cos = facts.shapes["cos"]
    width = (cos[-1] if cos else 0) * (2 if facts.attrs["tables"] == "once" else 1)
    for port in facts.shapes.keys() - {"cos", "sin"}:
        shape = facts.shapes[port]
        if len(shape) != 4 or shape[-1] < width:
            yield (
                f"rotates heads of {width}, but {port} is {facts.show(port)}",
                "Give the rotary embedding the head_dim of the heads that it turns.",
            )


def _rotary(facts: Facts) -> Iterator[Problem]:
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


def rotary_table(attrs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rope parameters that a rotary embedding goes by: those of its layer type, where there are several."""
    table = attrs["parameters"]
    if attrs["layer_type"] is not None and isinstance(table, Mapping):
        table = table.get(attrs["layer_type"])
    return table if isinstance(table, Mapping) else {}


def rotary_channels(attrs: Mapping[str, Any]) -> int:
    """How many channels of a head its parameters say are turned. `proportional` turns all, some of them not at all fast."""
    table = rotary_table(attrs)
    if table.get("rope_type") == "proportional":
        return int(attrs["head_dim"])
    factor = table.get("partial_rotary_factor")
    return int(attrs["head_dim"] * (1.0 if factor is None else factor))


def rotary_width(attrs: Mapping[str, Any]) -> int:
    """How many channels of a head are turned: they come in pairs, so an odd number is one short."""
    return 2 * ((rotary_channels(attrs) + 1) // 2)


def _rotary_shape(facts: Facts) -> tuple[Shape, ...]:
    width = rotary_channels(facts.attrs)  # as many as there are, so that their name is known, odd or not
    return ((*facts.shapes["position_ids"], width // 2 if facts.attrs["layout"] == "once" else width),) * 2


def _relative_bias(facts: Facts) -> Iterator[Problem]:
    exact = facts.attrs["buckets"] // (4 if facts.attrs["both_ways"] else 2)
    if exact < 1 or facts.attrs["farthest"] <= exact:
        yield (
            f"gives the nearest {exact} distances a bucket each, and {facts.named('farthest')} is the farthest",
            f"Set buckets to at least {4 if facts.attrs['both_ways'] else 2}, and farthest to more than {max(1, exact)}.",
        )


def _router(facts: Facts) -> Iterator[Problem]:
    yield from _stream(facts)
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


def _experts(facts: Facts) -> Iterator[Problem]:
    yield from _stream(facts)
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


def _stream(facts: Facts) -> Iterator[Problem]:
    """A value for each token, as wide as `size` says."""
    if len(facts.shapes["x"]) in (2, 3):
        yield from _last_dim("size")(facts)
    else:
        yield f"takes x as [batch, seq, size], but x is {facts.show('x')}", "Feed it the stream."


def _expert_parameters(attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    """All experts in one tensor each, as transformers keeps them: gate and up projection one above the other."""
    experts, size, width = attrs["num_experts"], attrs["size"], attrs["intermediate_size"]
    up, wide = ("gate_up_proj", 2 * width) if attrs["gated"] else ("up_proj", width)
    found = []
    for name, out, into in ((up, wide, size), ("down_proj", size, width)):
        shape = (experts, into, out) if attrs["transposed"] else (experts, out, into)
        found.append(ParameterSpec(name, shape, "normal"))
        if attrs["bias"]:
            found.append(ParameterSpec(f"{name}_bias", (experts, out), "zeros"))
    return tuple(found)


def _position_embedding_parameters(attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    shape = attrs["num_embeddings"], attrs["embedding_dim"]
    return (ParameterSpec("weight", shape, "normal", "trained" if attrs["learned"] else "frozen"),)


def _router_parameters(attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    experts = (attrs["num_experts"],)
    found = [ParameterSpec("weight", (*experts, attrs["size"]), "normal")]
    found += [ParameterSpec("bias", experts, "zeros")] if attrs["bias"] else []
    if attrs["correction"] != "none":
        role: Literal["frozen", "buffer"] = "buffer" if attrs["correction"] == "buffer" else "frozen"
        found.append(ParameterSpec("e_score_correction_bias", experts, "zeros", role))
    return tuple(found)


def _norm(facts: Facts) -> Iterator[Problem]:
    if facts.attrs["weight"] or facts.attrs["size"] is not None:
        if facts.attrs["size"] is None:
            yield "has a weight of no size", "Set size to the width of the vectors that it takes."
            return
        yield from _last_dim("size")(facts)
    heads, shape = facts.attrs["heads"], facts.shapes["x"]
    if heads is not None and (len(shape) < 2 or shape[-2] != heads):
        yield (
            f"has weights for {facts.named('heads')} heads, but x is {facts.show('x')}",
            "Feed it [batch, seq, heads, head_dim] with as many heads.",
        )


def _gated_norm(facts: Facts) -> Iterator[Problem]:
    yield from _last_dim("size")(facts)
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


def _norm_parameters(attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    if not attrs["weight"]:
        return ()
    shape = (attrs["size"],) if attrs["heads"] is None else (attrs["heads"], attrs["size"])
    weight = ParameterSpec("weight", shape, "zeros" if attrs.get("zero_centred") else "ones")
    return (weight, ParameterSpec("bias", shape, "zeros")) if attrs.get("bias") else (weight,)


def _linear_problems(facts: Facts) -> Iterator[Problem]:
    yield from _last_dim("in_features")(facts)
    if facts.attrs["transposed"] and not facts.attrs["bias"]:
        yield "is transposed and has no bias", "Set bias: a transposed linear is transformers' Conv1D, which has one."


def _linear_parameters(attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    shape = (attrs["out_features"], attrs["in_features"])
    weight = ParameterSpec("weight", shape[::-1] if attrs["transposed"] else shape, "normal")
    return (weight, ParameterSpec("bias", shape[:1], "zeros")) if attrs["bias"] else (weight,)


def _same_but_last(facts: Facts, size: str) -> tuple[Shape, ...]:
    return ((*facts.shapes["x"][:-1], facts.attrs[size]),)


def _normalised(*names: ParameterSpec) -> tuple[ParameterSpec, ...]:
    return names


def _binary(name: str, title: str, summary: str) -> Op:
    return Op(
        name=name,
        title=title,
        group="arithmetic",
        summary=summary,
        inputs=("a", "b"),
        problems=_broadcast,
        recover=lambda facts: (max(facts.shapes["a"], facts.shapes["b"], key=len),),
    )


_EPS = Setting("number", "added under the root, so that nothing divides by zero", 1e-6)

ROTATIONS = ("half", "interleaved", "pairs_to_halves", "backwards")
"""Which channels are turned together: one of each half, neighbours, neighbours that come out as halves, or one of each half the
other way round."""

_ROTATION: Mapping[str, Setting] = {
    "style": Setting("choice", "which channels are turned together", ROTATIONS[0], options=ROTATIONS),
    "tables": Setting("choice", "how much of cos and sin is used", "full", options=("full", "first_half", "once")),
    "tail": Setting("flag", "whether the last channels are turned where not all are", False),
    "wide": Setting("flag", "whether it computes in fp32", False),
    "tokens_first": Setting("flag", "whether it takes [batch, seq, heads, head_dim]", False),
    "joined": Setting("flag", "whether channels that are not turned are joined on, though there be none", False),
}

SEMANTIC: Mapping[str, Op] = {
    op.name: op
    for op in (
        Op(
            name="embedding",
            title="Embedding",
            group="embedding",
            summary="Looks up a learned vector for each token.",
            inputs=("ids",),
            settings={
                "num_embeddings": Setting("size", "vocabulary"),
                "embedding_dim": Setting("size", "width of a vector"),
                "padding_idx": Setting("number", "the token whose vector gets no gradient", optional=True),
                "factor": Setting("number", "what vectors are multiplied by", 1.0),
                "rounded": Setting("flag", "whether the factor is first rounded to the dtype of the vectors", False),
            },
            parameters=lambda a: (ParameterSpec("weight", (a["num_embeddings"], a["embedding_dim"]), "normal"),),
            recover=lambda facts: ((*facts.shapes["ids"], facts.attrs["embedding_dim"]),),
            whole=frozenset({"ids"}),
        ),
        Op(
            name="position_embedding",
            title="PositionEmbedding",
            group="position",
            summary="Looks up a vector for each position.",
            inputs=("position_ids",),
            settings={
                "num_embeddings": Setting("size", "vectors in all: positions, and those that the offset skips"),
                "embedding_dim": Setting("size", "width of a vector"),
                "offset": Setting("number", "where the first position's vector stands", 0),
                "learned": Setting("flag", "whether it is trained, or only kept in the checkpoint", True),
            },
            parameters=_position_embedding_parameters,
            recover=lambda facts: ((*facts.shapes["position_ids"], facts.attrs["embedding_dim"]),),
            whole=frozenset({"position_ids"}),
            source="Gehring et al. 2017 (arXiv:1705.03122)",
        ),
        Op(
            name="position_ids",
            title="PositionIds",
            group="position",
            summary="Numbers the tokens, continuing after those that the cache holds.",
            inputs=(),
            settings={
                "source": Setting(
                    "flag", "whether they are those that an encoder reads, which are there at once", False
                )
            },
            recover=lambda facts: ((1, 1),),
            whole=frozenset({"out"}),
        ),
        Op(
            name="padded_positions",
            title="PaddedPositions",
            group="position",
            summary="Numbers the tokens of each sequence from one after padding_idx on; padding has that number itself.",
            inputs=("ids",),
            settings={"padding_idx": Setting("integer", "the token that pads")},
            whole=frozenset({"ids", "out"}),
            source="Liu et al. 2019, RoBERTa (arXiv:1907.11692)",
        ),
        Op(
            name="sinusoid",
            title="Sinusoids",
            group="position",
            summary="Sines and cosines that stand for each position, from fast to slow.",
            inputs=("position_ids",),
            settings={
                "width": Setting("size", "how many sines and cosines"),
                "spacing": Setting(
                    "choice", "whether the slowest is 1/10000, or one step faster", SPACINGS[0], options=SPACINGS
                ),
                "rounding": Setting(
                    "choice", "what has the model's dtype", "none", options=("none", "frequencies", "values")
                ),
                "first": Setting("choice", "what comes first", "sines", options=("sines", "cosines")),
                "offset": Setting("number", "what is added to positions", 0),
                "zero": Setting(
                    "number", "the position that has none, offset included (null: all have)", optional=True
                ),
            },
            recover=lambda facts: ((*facts.shapes["position_ids"], facts.attrs["width"]),),
            whole=frozenset({"position_ids"}),
            source="Vaswani et al. 2017 (arXiv:1706.03762)",
        ),
        Op(
            name="rotary_embedding",
            title="RotaryEmbedding",
            group="position",
            summary="Cosines and sines that turn queries and keys by their position.",
            inputs=("position_ids",),
            outputs=("cos", "sin"),
            settings={
                "head_dim": Setting("size", "channels of a head"),
                "parameters": Setting("table", "rope_type, rope_theta and scaling, as in the config's rope_parameters"),
                "max_position_embeddings": Setting("size", "positions that the model was trained for"),
                "layer_type": Setting("text", "which of several tables (null: there is one)", optional=True),
                "layout": Setting(
                    "choice", "where the angle of a pair stands", "halves", options=("halves", "interleaved", "once")
                ),
                "wide": Setting("flag", "whether cosines and sines stay in fp32", False),
            },
            problems=_rotary,
            recover=_rotary_shape,
            whole=frozenset({"position_ids"}),
            source="Su et al. 2021, RoFormer (arXiv:2104.09864)",
        ),
        Op(
            name="apply_rotary",
            title="ApplyRotary",
            group="position",
            summary="Turns queries and keys by their position.",
            inputs=("q", "k", "cos", "sin"),
            outputs=("q", "k"),
            settings=_ROTATION,
            problems=_apply_rotary,
            recover=lambda facts: (facts.shapes["q"], facts.shapes["k"]),
            source="Su et al. 2021, RoFormer (arXiv:2104.09864)",
        ),
        Op(
            name="rotate",
            title="Rotate",
            group="position",
            summary="Turns one value by its position.",
            inputs=("x", "cos", "sin"),
            settings=_ROTATION,
            problems=_apply_rotary,
            source="Su et al. 2021, RoFormer (arXiv:2104.09864)",
        ),
        Op(
            name="linear",
            title="Linear",
            group="mlp",
            summary="A learned projection of the last dimension.",
            inputs=("x",),
            settings={
                "in_features": Setting("size", "width that it takes"),
                "out_features": Setting("size", "width that it gives"),
                "bias": Setting("flag", "whether it adds a learned vector", False),
                "transposed": Setting("flag", "whether its weight is kept as [in_features, out_features]", False),
            },
            parameters=_linear_parameters,
            problems=_linear_problems,
            recover=lambda facts: _same_but_last(facts, "out_features"),
        ),
        Op(
            name="rms_norm",
            title="RMSNorm",
            group="norm",
            summary="Scales each vector to unit root mean square, then by a learned weight.",
            inputs=("x",),
            settings={
                "size": Setting("size", "width of a vector", optional=True),
                "eps": Setting("number", "added under the root (null: the dtype's own)", 1e-6, optional=True),
                "weight": Setting("flag", "whether it has a learned weight", True),
                "zero_centred": Setting("flag", "whether the weight is kept around zero: one is added to it", False),
                "heads": Setting("size", "heads that have a weight each (null: one for all)", optional=True),
                "form": Setting("choice", "where it rounds", RMS_FORMS[0], options=RMS_FORMS),
                "power": Setting("flag", "whether the root is a power of -0.5, whose gradient rounds otherwise", False),
            },
            parameters=_norm_parameters,
            problems=_norm,
            source="Zhang & Sennrich 2019 (arXiv:1910.07467)",
        ),
        Op(
            name="gated_rms_norm",
            title="GatedRMSNorm",
            group="norm",
            summary="An RMSNorm that a gate opens and closes channel by channel, before or after.",
            inputs=("x", "gate"),
            settings={
                "size": Setting("size", "width of a vector"),
                "eps": _EPS,
                "fn": Setting("choice", "the activation on the gate", "silu", options=ACTIVATIONS),
                "gate_first": Setting("flag", "whether the gate stands before the norm", False),
                "group_size": Setting("size", "channels that are normalised together (null: all)", optional=True),
                "form": Setting("choice", "where it rounds", RMS_FORMS[0], options=RMS_FORMS[:2]),
            },
            parameters=lambda a: (ParameterSpec("weight", (a["size"],), "ones"),),
            problems=_gated_norm,
            source="Dao & Gu 2024, Mamba-2 (arXiv:2405.21060)",
        ),
        Op(
            name="layer_norm",
            title="LayerNorm",
            group="norm",
            summary="Centres each vector, scales it to unit variance, then by a learned weight and bias.",
            inputs=("x",),
            settings={
                "size": Setting("size", "width of a vector", optional=True),
                "eps": Setting("number", "added under the root, so that nothing divides by zero", 1e-5),
                "bias": Setting("flag", "whether it adds a learned vector", True),
                "weight": Setting("flag", "whether it has a learned weight, and may have a bias", True),
                "heads": Setting("size", "heads that have a weight each (null: one for all)", optional=True),
                "zero_centred": Setting("flag", "whether the weight is kept around zero: one is added to it", False),
                "form": Setting("choice", "how it is computed", LAYER_FORMS[0], options=LAYER_FORMS),
            },
            parameters=_norm_parameters,
            problems=_norm,
            source="Ba et al. 2016 (arXiv:1607.06450)",
        ),
        Op(
            name="split_heads",
            title="SplitHeads",
            group="shape",
            summary="[batch, seq, heads · head_dim] → [batch, heads, seq, head_dim].",
            inputs=("x",),
            settings={
                "heads": Setting("size", "how many heads"),
                "head_dim": Setting("size", "channels of a head"),
            },
            problems=_split_heads,
            recover=lambda facts: (
                (*facts.shapes["x"][:1], facts.attrs["heads"], *facts.shapes["x"][1:2], facts.attrs["head_dim"]),
            ),
        ),
        Op(
            name="view_heads",
            title="ViewHeads",
            group="shape",
            summary="[batch, seq, heads · head_dim] → [batch, seq, heads, head_dim].",
            inputs=("x",),
            settings={
                "heads": Setting("size", "how many heads"),
                "head_dim": Setting("size", "channels of a head"),
            },
            problems=_split_heads,
            recover=lambda facts: ((*facts.shapes["x"][:2], facts.attrs["heads"], facts.attrs["head_dim"]),),
        ),
        Op(
            name="heads_first",
            title="HeadsFirst",
            group="shape",
            summary="[batch, seq, heads, head_dim] → [batch, heads, seq, head_dim].",
            inputs=("x",),
            problems=_rank("x", 4, "[batch, seq, heads, head_dim]"),
            recover=lambda facts: (tuple(facts.shapes["x"][i] for i in (0, 2, 1, 3)),),
        ),
        Op(
            name="merge_heads",
            title="MergeHeads",
            group="shape",
            summary="[batch, seq, heads, head_dim] → [batch, seq, heads · head_dim].",
            inputs=("x",),
            problems=_rank("x", 4, "[batch, seq, heads, head_dim]"),
        ),
        Op(
            name="attention",
            title="Attention",
            group="attention",
            summary="Causal attention; fewer key/value heads than query heads make it grouped-query attention.",
            inputs=("q", "k", "v", "sinks", "bias"),
            optional=frozenset({"sinks", "bias"}),
            settings={
                "scale": Setting("number", "factor on the scores before the softmax"),
                "window": Setting("size", "how many tokens back it sees (null: all)", optional=True),
                "dropout": Setting("number", "share of scores dropped while training", 0.0),
                "causal": Setting("flag", "whether it sees no later token", True),
                "chunk": Setting("size", "tokens of a chunk, beyond which it does not see (null: all)", optional=True),
                "softcap": Setting("number", "bound that scores approach smoothly (null: none)", optional=True),
                "scaling": Setting("choice", "how scores are scaled", SCALINGS[0], options=SCALINGS),
                "precision": Setting("choice", "what is computed in fp32", PRECISIONS[0], options=PRECISIONS),
                "sharing": Setting("choice", "how heads meet keys that they share", SHARINGS[0], options=SHARINGS),
                "cached": Setting(
                    "flag", "whether keys and values go to the cache (no: an earlier layer's are there)", True
                ),
            },
            problems=_attention,
            recover=lambda facts: (
                ((*(facts.shapes["q"][i] for i in (0, 2, 1)), facts.shapes["v"][-1]),)
                if len(facts.shapes["q"]) == 4
                else (facts.shapes["q"],)
            ),
            source="Ainslie et al. 2023, GQA (arXiv:2305.13245); Vaswani et al. 2017 (arXiv:1706.03762)",
        ),
        Op(
            name="alibi",
            title="Alibi",
            group="position",
            summary="A bias of attention that grows along the keys, in each head at its own rate, so that near keys count more.",
            inputs=(),
            settings={
                "heads": Setting("size", "how many heads"),
                "steepest": Setting("number", "the rates are 2 to the minus this, and roots of it", 8.0),
                "order": Setting("choice", "rates of other than a power of two of heads", "closest", options=ORDERS),
                "counts": Setting("choice", "which key has no bias", "from_first", options=("from_first", "from_last")),
                "rounding": Setting(
                    "choice", "what is rounded to fewer bits", "bias", options=("bias", "slopes", "none")
                ),
            },
            recover=lambda facts: ((1, facts.attrs["heads"], 1, 1),),
            source="Press et al. 2021, ALiBi (arXiv:2108.12409)",
        ),
        Op(
            name="relative_bias",
            title="RelativeBias",
            group="position",
            summary="A bias of attention that each head learns for how far a key is from a query; far ones share theirs.",
            inputs=("position_ids",),
            settings={
                "buckets": Setting("size", "how many biases each head has", 32),
                "heads": Setting("size", "how many heads"),
                "farthest": Setting("size", "the distance from which on all keys are alike", 128),
                "both_ways": Setting("flag", "whether keys before and behind a query are told apart", False),
            },
            parameters=lambda attrs: (ParameterSpec("weight", (attrs["buckets"], attrs["heads"]), "normal"),),
            problems=_relative_bias,
            recover=lambda facts: ((1, facts.attrs["heads"], *facts.shapes["position_ids"][-1:] * 2),),
            whole=frozenset({"position_ids"}),
            source="Raffel et al. 2019, T5 (arXiv:1910.10683)",
        ),
        Op(
            name="activation",
            title="Activation",
            group="mlp",
            summary="A pointwise non-linearity.",
            inputs=("x",),
            settings={"fn": Setting("choice", "which function", "silu", options=ACTIVATIONS)},
        ),
        Op(
            name="router",
            title="Router",
            group="mlp",
            summary="Chooses the experts that serve each token, and how much each of them counts.",
            inputs=("x",),
            outputs=("indices", "weights"),
            settings={
                "size": Setting("size", "width of a vector"),
                "num_experts": Setting("size", "experts to choose from"),
                "top_k": Setting("size", "experts that serve a token"),
                "scoring": Setting("choice", "what makes scores comparable", "softmax", options=SCORINGS),
                "normalise": Setting("flag", "whether the weights of the chosen sum to one", True),
                "norm_eps": Setting("number", "added to that sum, so that nothing divides by zero", 0),
                "factor": Setting("number", "what weights are multiplied by", 1),
                "after_top_k": Setting("flag", "whether only the chosen are scored", False),
                "correction": Setting(
                    "choice", "what sways the choice alone", "none", options=("none", "buffer", "parameter")
                ),
                "groups": Setting("size", "groups of experts (null: none)", optional=True),
                "top_groups": Setting("size", "groups that a token chooses from", optional=True),
                "group_score": Setting("choice", "what a group counts", "best_two", options=("best_two", "best")),
                "outside": Setting(
                    "choice",
                    "what experts outside the best groups score; zero is their weight too",
                    "lowest",
                    options=("lowest", "zero"),
                ),
                "softcap": Setting("number", "what affinities approach at most (null: no limit)", optional=True),
                "bias": Setting("flag", "whether affinities have a learned bias", False),
                "precision": Setting(
                    "choice", "what is computed in fp32", "scores", options=("scores", "logits", "model")
                ),
                "wide_weights": Setting("flag", "whether weights stay as wide as scores", False),
                "sorted": Setting("flag", "whether the best expert comes first", True),
                "in_a_row": Setting("flag", "whether it takes the very row of tokens that the experts take", False),
            },
            parameters=_router_parameters,
            problems=_router,
            recover=lambda facts: ((*facts.shapes["x"][:-1], facts.attrs["top_k"]),) * 2,
            source="Shazeer et al. 2017 (arXiv:1701.06538); Jiang et al. 2024, Mixtral (arXiv:2401.04088)",
            whole=frozenset({"indices"}),
        ),
        Op(
            name="experts",
            title="Experts",
            group="mlp",
            summary="Gated MLPs side by side; each token passes through those that a router chose for it.",
            inputs=("x", "indices", "weights"),
            settings={
                "size": Setting("size", "width of a vector"),
                "intermediate_size": Setting("size", "width within each expert"),
                "num_experts": Setting("size", "how many experts"),
                "fn": Setting("choice", "the activation on the gate", "silu", options=ACTIVATIONS),
                "gated": Setting("flag", "whether an activated gate multiplies the up projection", True),
                "bias": Setting("flag", "whether projections add learned vectors", False),
                "transposed": Setting("flag", "whether weights are kept as [experts, in, out]", False),
                "interleaved": Setting("flag", "whether rows of gate and up projection take turns", False),
                "limit": Setting("number", "what gate and up projection are clamped to (null: not)", optional=True),
                "alpha": Setting("number", "the gate is x · sigmoid(alpha · x) (null: as fn says)", optional=True),
                "shifted": Setting("flag", "whether one is added to the up projection", False),
                "sum_dtype": Setting(
                    "choice", "in which dtype experts are summed", "model", options=("model", "weights", "fp32")
                ),
            },
            parameters=_expert_parameters,
            problems=_experts,
            source="Jiang et al. 2024, Mixtral (arXiv:2401.04088); Shazeer 2020, GLU variants (arXiv:2002.05202)",
            whole=frozenset({"indices"}),
        ),
        Op(
            name="dropout",
            title="Dropout",
            group="arithmetic",
            summary="Zeroes a share of values while training.",
            inputs=("x",),
            settings={"p": Setting("number", "the share", 0.0)},
        ),
        Op(
            name="scale",
            title="Scale",
            group="arithmetic",
            summary="Multiplies by a constant.",
            inputs=("x",),
            settings={"factor": Setting("number", "the constant", 1.0)},
        ),
        Op(
            name="softmax",
            title="Softmax",
            group="arithmetic",
            summary="Turns scores into probabilities that sum to one along the last dimension.",
            inputs=("x",),
        ),
        _binary("add", "Add", "Adds two values: the residual connection."),
        _binary("sub", "Subtract", "Subtracts b from a."),
        _binary("mul", "Multiply", "Multiplies two values: the gate."),
        *LEARNED,
    )
}
"""Ops with a meaning of their own."""


class _Ops(Mapping[str, Op]):
    """Every op: those with a meaning of their own, and any plain function of torch by its name."""

    def __getitem__(self, name: str) -> Op:
        op = SEMANTIC.get(name) or function_op(name)
        if op is None:
            raise KeyError(name)
        return op

    def __contains__(self, name: object) -> bool:
        return name in SEMANTIC or (isinstance(name, str) and function_op(name) is not None)

    def __iter__(self) -> Iterator[str]:
        return iter(SEMANTIC)

    def __len__(self) -> int:
        return len(SEMANTIC)


OPS: Mapping[str, Op] = _Ops()
"""An op by its name. Walking over it gives those with a meaning of their own."""


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    name: FrozenMap(
        {s: setting.default for s, setting in op.settings.items() if setting.optional or setting.default is not None}
    )
    for name, op in SEMANTIC.items()
}
"""By op the settings that a node may leave out, and what they are then."""


def op_named(name: str, path: str = "") -> Op:
    """The op of that name, or a `CanvasError` that offers the nearest."""
    if name not in OPS:
        raise CanvasError(f"there is no op '{name}'", path=path, hint=suggest(name, OPS))
    return OPS[name]


def complete(node: Node) -> Mapping[str, Any]:
    """A node's settings as written, with the op's defaults for those that it leaves out."""
    settings = op_named(node.op, node.id).settings
    return {**{name: setting.default for name, setting in settings.items()}, **node.attrs}


def shown(node: Node) -> Mapping[str, str]:
    return {name: display(value) for name, value in complete(node).items()}


BY_LAYER = ("torch.select", "index")
"""The one setting that may go by the number of the layer: sizes and costs are alike in all layers of a kind."""


def numbered_setting(node: Node) -> str | None:
    """A setting that goes by the number of the layer, and may not; None where there is none."""
    return next((n for n, v in node.attrs.items() if LAYER in names_in(v) and (node.op, n) != BY_LAYER), None)


def setting_problems(op: Op, attrs: Mapping[str, Any], written: Mapping[str, str]) -> Iterator[Problem]:
    """What is wrong with a node's settings, taken one by one."""
    for name in attrs.keys() - op.settings.keys():
        yield f"{op.title} has no setting '{name}'", suggest(name, op.settings) if op.settings else "It has none."
    for name, setting in op.settings.items():
        value = attrs.get(name)
        text = written.get(name, str(value))
        if value is None:
            if not setting.optional:
                yield f"{name} is not set", f"Set {name}: {setting.summary}."
        elif setting.kind == "size" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            yield (
                f"{name} = {text}{_equals(text, value)} must be a whole number of at least 1",
                f"It is: {setting.summary}.",
            )
        elif setting.kind == "number" and value in INFINITIES and is_function(op.name):
            continue
        elif setting.kind == "number" and (isinstance(value, bool) or not isinstance(value, int | float)):
            yield f"{name} = {text}{_equals(text, value)} must be a number", f"It is: {setting.summary}."
        elif setting.kind == "flag" and not isinstance(value, bool):
            yield f"{name} = {text}{_equals(text, value)} must be true or false", f"It is: {setting.summary}."
        elif setting.kind == "choice" and value not in setting.options and ALIASES.get(value) not in setting.options:
            yield f"{name} = {text}{_equals(text, value)} is not known", suggest(str(value), setting.options)
        elif setting.kind == "table" and not isinstance(value, Mapping):
            yield f"{name} = {text}{_equals(text, value)} must be a table", f"It is: {setting.summary}."
        elif setting.kind == "integer" and not _is_integer(value):
            yield f"{name} = {text}{_equals(text, value)} must be a whole number", f"It is: {setting.summary}."
        elif setting.kind == "integers" and not (isinstance(value, tuple) and all(map(_is_integer, value))):
            yield f"{name} = {text}{_equals(text, value)} must be a list of whole numbers", f"It is: {setting.summary}."
        elif setting.kind == "dtype" and value not in DTYPES:
            yield f"{name} = {text}{_equals(text, value)} is no dtype", suggest(str(value), DTYPES)
        elif setting.kind == "text" and not isinstance(value, str):
            yield f"{name} = {text}{_equals(text, value)} must be text", f"It is: {setting.summary}."
        elif setting.kind == "name" and not is_name(value):
            yield f"{name} = {text}{_equals(text, value)} must be a name", f"It is: {setting.summary}."


def is_name(value: Any) -> bool:
    """Whether a value may be an attribute of a module, or is empty."""
    try:
        return value == "" or bool(identifier(value))
    except (ValueError, TypeError, AttributeError):
        return False


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _equals(text: str, value: Any) -> str:
    return "" if text == display(value) else f" ({display(value)})"


def parameter_shapes(node: Node, attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    """A node's learned tensors, for settings resolved to numbers."""
    return op_named(node.op, node.id).parameters(attrs)


__all__ = [
    "ACTIVATIONS",
    "ALIASES",
    "OPS",
    "PRECISIONS",
    "SCALINGS",
    "SCORINGS",
    "SHARINGS",
    "VARIANTS",
    "Facts",
    "FrozenMap",
    "Op",
    "ParameterSpec",
    "Problem",
    "Setting",
    "Shape",
    "complete",
    "is_name",
    "op_named",
    "parameter_shapes",
    "rotary_channels",
    "rotary_table",
    "rotary_width",
    "setting_problems",
    "show",
    "shown",
]
