"""The ops that a node can be: ports, settings, parameters, and what must hold for each. Needs no torch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from canvas_rt.errors import CanvasError, suggest
from canvas_rt.ir.document import Node
from canvas_rt.ir.expressions import display
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ops.op import Facts, Op, ParameterSpec, Problem, Setting, Shape, show

ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "relu2", "tanh", "sigmoid", "mish", "linear")
"""Pointwise functions by the names that configs give them (`hidden_act`)."""

SCORINGS = ("softmax", "sigmoid")
"""How a router turns scores into weights."""

ALIASES = {"swish": "silu", "gelu_fast": "gelu_new"}
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
    for port in ("q", "k"):
        shape = facts.shapes[port]
        if len(shape) != 4 or shape[-1] != cos[-1]:
            yield (
                f"rotates heads of {cos[-1] if cos else 0}, but {port} is {facts.show(port)}",
                "Give the rotary embedding the head_dim of the heads that it turns.",
            )


def _rotary(facts: Facts) -> Iterator[Problem]:
    if facts.attrs["head_dim"] % 2:
        yield f"head_dim ({facts.attrs['head_dim']}) is odd", "Rotary positions turn pairs of channels: make it even."


def _router(facts: Facts) -> Iterator[Problem]:
    yield from _stream(facts)
    experts, chosen = facts.attrs["num_experts"], facts.attrs["top_k"]
    if chosen > experts:
        yield (
            f"chooses {facts.named('top_k')} of {facts.named('num_experts')} experts",
            f"Set top_k to at most {experts}, or num_experts to at least {chosen}.",
        )


def _experts(facts: Facts) -> Iterator[Problem]:
    yield from _stream(facts)
    x, indices, weights = (facts.shapes[port] for port in ("x", "indices", "weights"))
    if indices != weights:
        yield (
            f"indices {facts.show('indices')} and weights {facts.show('weights')} are not one for one",
            "Take both from one router.",
        )
    elif len(indices) != 3 or indices[:2] != x[:2]:
        yield (
            f"indices {facts.show('indices')} choose for other tokens than those of x {facts.show('x')}",
            "Let the router read a value of the same tokens.",
        )


def _stream(facts: Facts) -> Iterator[Problem]:
    """A value for each token, as wide as `size` says."""
    if len(facts.shapes["x"]) == 3:
        yield from _last_dim("size")(facts)
    else:
        yield f"takes x as [batch, seq, size], but x is {facts.show('x')}", "Feed it the stream."


def _expert_parameters(attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    """All experts in one tensor each, as transformers keeps them: gate and up projection one above the other."""
    experts, size, width = attrs["num_experts"], attrs["size"], attrs["intermediate_size"]
    return (
        ParameterSpec("gate_up_proj", (experts, 2 * width, size), "normal"),
        ParameterSpec("down_proj", (experts, size, width), "normal"),
    )


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

OPS: Mapping[str, Op] = {
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
            },
            parameters=lambda a: (ParameterSpec("weight", (a["num_embeddings"], a["embedding_dim"]), "normal"),),
            recover=lambda facts: ((*facts.shapes["ids"], facts.attrs["embedding_dim"]),),
            whole=frozenset({"ids"}),
        ),
        Op(
            name="position_ids",
            title="PositionIds",
            group="position",
            summary="Numbers the tokens, continuing after those that the cache holds.",
            inputs=(),
            recover=lambda facts: ((1, 1),),
            whole=frozenset({"out"}),
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
            },
            problems=_rotary,
            recover=lambda facts: ((*facts.shapes["position_ids"], facts.attrs["head_dim"]),) * 2,
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
            problems=_apply_rotary,
            recover=lambda facts: (facts.shapes["q"], facts.shapes["k"]),
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
            },
            parameters=lambda a: (
                ParameterSpec("weight", (a["out_features"], a["in_features"]), "normal"),
                *((ParameterSpec("bias", (a["out_features"],), "zeros"),) if a["bias"] else ()),
            ),
            problems=_last_dim("in_features"),
            recover=lambda facts: _same_but_last(facts, "out_features"),
        ),
        Op(
            name="rms_norm",
            title="RMSNorm",
            group="norm",
            summary="Scales each vector to unit root mean square, then by a learned weight.",
            inputs=("x",),
            settings={"size": Setting("size", "width of a vector"), "eps": _EPS},
            parameters=lambda a: (ParameterSpec("weight", (a["size"],), "ones"),),
            problems=_last_dim("size"),
            source="Zhang & Sennrich 2019 (arXiv:1910.07467)",
        ),
        Op(
            name="layer_norm",
            title="LayerNorm",
            group="norm",
            summary="Centres each vector, scales it to unit variance, then by a learned weight and bias.",
            inputs=("x",),
            settings={
                "size": Setting("size", "width of a vector"),
                "eps": Setting("number", "added under the root, so that nothing divides by zero", 1e-5),
                "bias": Setting("flag", "whether it adds a learned vector", True),
            },
            parameters=lambda a: (
                ParameterSpec("weight", (a["size"],), "ones"),
                *((ParameterSpec("bias", (a["size"],), "zeros"),) if a["bias"] else ()),
            ),
            problems=_last_dim("size"),
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
            inputs=("q", "k", "v"),
            settings={
                "scale": Setting("number", "factor on the scores before the softmax"),
                "window": Setting("size", "how many tokens back it sees (null: all)", optional=True),
                "dropout": Setting("number", "share of scores dropped while training", 0.0),
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
            },
            parameters=lambda a: (ParameterSpec("weight", (a["num_experts"], a["size"]), "normal"),),
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
    )
}


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
        elif setting.kind == "number" and (isinstance(value, bool) or not isinstance(value, int | float)):
            yield f"{name} = {text}{_equals(text, value)} must be a number", f"It is: {setting.summary}."
        elif setting.kind == "flag" and not isinstance(value, bool):
            yield f"{name} = {text}{_equals(text, value)} must be true or false", f"It is: {setting.summary}."
        elif setting.kind == "choice" and value not in setting.options and ALIASES.get(value) not in setting.options:
            yield f"{name} = {text}{_equals(text, value)} is not known", suggest(str(value), setting.options)
        elif setting.kind == "table" and not isinstance(value, Mapping):
            yield f"{name} = {text}{_equals(text, value)} must be a table", f"It is: {setting.summary}."


def _equals(text: str, value: Any) -> str:
    return "" if text == display(value) else f" ({display(value)})"


def parameter_shapes(node: Node, attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    """A node's learned tensors, for settings resolved to numbers."""
    return op_named(node.op, node.id).parameters(attrs)


__all__ = [
    "ACTIVATIONS",
    "ALIASES",
    "OPS",
    "SCORINGS",
    "Facts",
    "FrozenMap",
    "Op",
    "ParameterSpec",
    "Problem",
    "Setting",
    "Shape",
    "complete",
    "op_named",
    "parameter_shapes",
    "setting_problems",
    "show",
    "shown",
]
