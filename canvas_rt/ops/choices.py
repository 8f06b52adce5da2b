"""The words that settings of ops choose from. Needs no torch."""

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

ROTATIONS = ("half", "interleaved", "pairs_to_halves", "backwards")
"""Which channels are turned together: one of each half, neighbours, neighbours that come out as halves, or one of each half the
other way round."""
