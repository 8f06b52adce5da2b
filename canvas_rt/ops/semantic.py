"""The ops that have a meaning of their own: ports, settings, parameters, and a line for people. Needs no torch."""

from collections.abc import Mapping

from canvas_rt.ops import problems, specs
from canvas_rt.ops.choices import (
    ACTIVATIONS,
    LAYER_FORMS,
    ORDERS,
    PRECISIONS,
    RMS_FORMS,
    ROTATIONS,
    SCALINGS,
    SCORINGS,
    SHARINGS,
    SPACINGS,
)
from canvas_rt.ops.learned import LEARNED
from canvas_rt.ops.op import Facts, Op, ParameterSpec, Setting, Shape
from canvas_rt.ops.rope import rotary_channels


def _rotary_shape(facts: Facts) -> tuple[Shape, ...]:
    width = rotary_channels(facts.attrs)  # as many as there are, so that their name is known, odd or not
    return ((*facts.shapes["position_ids"], width // 2 if facts.attrs["layout"] == "once" else width),) * 2


def _same_but_last(facts: Facts, size: str) -> tuple[Shape, ...]:
    return ((*facts.shapes["x"][:-1], facts.attrs[size]),)


def _binary(name: str, title: str, summary: str) -> Op:
    return Op(
        name=name,
        title=title,
        group="arithmetic",
        summary=summary,
        inputs=("a", "b"),
        problems=problems.broadcast,
        recover=lambda facts: (max(facts.shapes["a"], facts.shapes["b"], key=len),),
    )


_EPS = Setting("number", "added under the root, so that nothing divides by zero", 1e-6)

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
            parameters=specs.position_embedding,
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
            problems=problems.rotary,
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
            problems=problems.apply_rotary,
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
            problems=problems.apply_rotary,
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
            parameters=specs.linear,
            problems=problems.linear,
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
            parameters=specs.norm,
            problems=problems.norm,
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
            problems=problems.gated_norm,
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
            parameters=specs.norm,
            problems=problems.norm,
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
            problems=problems.split_heads,
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
            problems=problems.split_heads,
            recover=lambda facts: ((*facts.shapes["x"][:2], facts.attrs["heads"], facts.attrs["head_dim"]),),
        ),
        Op(
            name="heads_first",
            title="HeadsFirst",
            group="shape",
            summary="[batch, seq, heads, head_dim] → [batch, heads, seq, head_dim].",
            inputs=("x",),
            problems=problems.rank("x", 4, "[batch, seq, heads, head_dim]"),
            recover=lambda facts: (tuple(facts.shapes["x"][i] for i in (0, 2, 1, 3)),),
        ),
        Op(
            name="merge_heads",
            title="MergeHeads",
            group="shape",
            summary="[batch, seq, heads, head_dim] → [batch, seq, heads · head_dim].",
            inputs=("x",),
            problems=problems.rank("x", 4, "[batch, seq, heads, head_dim]"),
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
            problems=problems.attention,
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
            problems=problems.relative_bias,
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
            parameters=specs.router,
            problems=problems.router,
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
            parameters=specs.experts,
            problems=problems.experts,
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
