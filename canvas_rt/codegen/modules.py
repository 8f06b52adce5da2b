"""What constructs the module of a node, in an emitted `__init__`."""

import ast
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

from canvas_rt.codegen.syntax import constant, quote, setting
from canvas_rt.ir.document import Node
from canvas_rt.ir.expressions import is_expression
from canvas_rt.ops.catalogue import VARIANTS, complete
from canvas_rt.ops.choices import LAYER_FORMS, RMS_FORMS
from canvas_rt.ops.modules import beside, config_class, lists_needed, made_with, sets_layers_apart

Settings = Mapping[str, ast.expr]
Construct = Callable[[Node, Settings, "Classes"], ast.expr]

CONFIG = ast.Name("config", ast.Load())


FORM_WORDS = {
    "cast_then_weight": "",
    "weight_then_cast": "Wide",
    "factor_cast": "Narrow",
    "uncast": "Uncast",
    "fused": "Fused",
    "fused_in_fp32": "Wide",
    "by_hand": "Manual",
}
"""What sets the class of a norm's form apart from others."""


def rms_norm_name(prefix: str, attrs: Mapping[str, Any]) -> str | None:
    """What a variant's class is called; None for PyTorch's own."""
    if attrs["form"] == "fused" and attrs["size"] is not None and attrs["heads"] is None and not attrs["zero_centred"]:
        return None
    words = ("ZeroCentred" if attrs["zero_centred"] else "") + ("Power" if attrs["power"] else "")
    return f"{prefix}{_words(attrs)}{words}{FORM_WORDS[attrs['form']]}RMSNorm"


def layer_norm_name(prefix: str, attrs: Mapping[str, Any]) -> str | None:
    if attrs["form"] == "fused" and attrs["size"] is not None and attrs["heads"] is None and not attrs["zero_centred"]:
        return None
    bias = "Biased" if attrs["weight"] and attrs["bias"] else ""
    word = FORM_WORDS[attrs["form"]] if attrs["form"] != "fused" else ""
    centred = "ZeroCentred" if attrs["zero_centred"] else ""
    return f"{prefix}{_words(attrs)}{bias}{centred}{word}LayerNorm"


def gated_name(prefix: str, attrs: Mapping[str, Any]) -> str:
    grouped = "Grouped" if attrs["group_size"] is not None else ""
    gated = "PreGated" if attrs["gate_first"] else "Gated"
    return f"{prefix}{grouped}{gated}{FORM_WORDS[attrs['form']]}RMSNorm"


def embedding_name(prefix: str, attrs: Mapping[str, Any]) -> str | None:
    if attrs["factor"] == 1:
        return None
    return f"{prefix}{'Rounded' if attrs['rounded'] else ''}ScaledEmbedding"


def position_name(prefix: str, attrs: Mapping[str, Any]) -> str:
    return f"{prefix}PositionEmbedding"


def sinusoid_name(prefix: str, attrs: Mapping[str, Any]) -> str:
    word = {"none": "", "frequencies": "Rounded", "values": "Narrow"}[attrs["rounding"]]
    holed = "Padded" if attrs["zero"] is not None else ""
    swapped = "Cosine" if attrs["first"] == "cosines" else ""
    return f"{prefix}{'Whole' if attrs['spacing'] == 'whole' else ''}{swapped}{word}{holed}Sinusoids"


def rotary_name(prefix: str, attrs: Mapping[str, Any]) -> str:
    layout = {"halves": "", "interleaved": "Interleaved", "once": "Single"}[attrs["layout"]]
    typed = "" if attrs["layer_type"] is None else "Layer"
    return f"{prefix}{typed}{layout}{'Wide' if attrs['wide'] else ''}RotaryEmbedding"


def _words(attrs: Mapping[str, Any]) -> str:
    return ("" if attrs["weight"] else "Unweighted") + ("" if attrs["heads"] is None else "Headwise")


class Classes:
    """The classes that an emitted module defines for itself."""

    def __init__(self, prefix: str, heterogeneous: bool = False, plain: bool = False, longest: bool = False) -> None:
        self.prefix = prefix
        self.plain = plain
        """Whether they know nothing of transformers."""
        self.longest = longest
        """Whether plain rotary embeddings are told how long sequences may be."""
        self.heterogeneous = heterogeneous
        """Whether layers have sizes of their own: what stands outside them reads a copy of the config that has those of all."""

    @property
    def all(self) -> frozenset[str]:
        own = {f"{self.prefix}Router", f"{self.prefix}Experts", position_name(self.prefix, {})}
        for layout, layer_type, wide in product(("halves", "interleaved", "once"), (None, ""), (False, True)):
            own.add(rotary_name(self.prefix, {"layout": layout, "layer_type": layer_type, "wide": wide}))
        options = ("half_open", "whole"), ("none", "frequencies", "values"), ("sines", "cosines"), (None, 0)
        for values in product(*options):
            own.add(
                sinusoid_name(self.prefix, dict(zip(("spacing", "rounding", "first", "zero"), values, strict=True)))
            )
        own |= {f"{self.prefix}{word}ScaledEmbedding" for word in ("", "Rounded")}
        return frozenset(own | {name for name in self.norms if name is not None})

    @property
    def norms(self) -> set[str | None]:
        """The class of every variant that there can be."""
        found: set[str | None] = set()
        switches = (True, False)
        for weight, heads, flag, power, form in product(
            switches, (None, 1), switches, switches, RMS_FORMS + LAYER_FORMS
        ):
            attrs = {"size": None, "weight": weight, "heads": heads, "bias": flag, "zero_centred": flag, "form": form}
            attrs["power"] = power
            named = rms_norm_name if form in RMS_FORMS else layer_norm_name
            found |= {named(self.prefix, attrs), layer_norm_name(self.prefix, {**attrs, "form": LAYER_FORMS[0]})}
            found.add(gated_name(self.prefix, {"group_size": heads, "gate_first": flag, "form": form}))
        return found


def _call(name: str, arguments: list[ast.expr], **keywords: ast.expr) -> ast.expr:
    return ast.Call(ast.Name(name, ast.Load()), arguments, [ast.keyword(key, value) for key, value in keywords.items()])


def _linear(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    if complete(node)["transposed"]:
        return quote("Conv1D(o, i)", i=attrs["in_features"], o=attrs["out_features"])
    told = isinstance(attrs["bias"], ast.Attribute) and "bias" in attrs["bias"].attr  # by the setting's own name
    call = "nn.Linear(i, o, b)" if told else "nn.Linear(i, o, bias=b)"
    return quote(call, i=attrs["in_features"], o=attrs["out_features"], b=attrs["bias"])


def _embedding(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    sizes = [attrs["num_embeddings"], attrs["embedding_dim"]]
    name = embedding_name(classes.prefix, complete(node))
    if name is not None:
        return _call(name, [*sizes, attrs["padding_idx"], attrs["factor"]])
    made = quote("nn.Embedding(n, d, padding_idx=p)", n=sizes[0], d=sizes[1], p=attrs["padding_idx"])
    if complete(node)["padding_idx"] is None:
        made.keywords.clear()  # type: ignore[attr-defined]
    return made


def _position_embedding(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    sizes = [attrs[name] for name in ("num_embeddings", "embedding_dim", "offset")]
    made = _call(position_name(classes.prefix, complete(node)), sizes)
    return made if complete(node)["learned"] else quote("made.requires_grad_(False)", made=made)


def _sinusoid(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    written = complete(node)
    own = {name: attrs[name] for name, usual in (("offset", 0), ("zero", None)) if written[name] != usual}
    return _call(sinusoid_name(classes.prefix, written), [attrs["width"]], **own)


def _norm_sizes(node: Node, attrs: Settings) -> list[ast.expr]:
    """What constructs a norm's weight."""
    written = complete(node)
    if not written["weight"]:
        return []
    return [attrs["size"]] if written["heads"] is None else [attrs["heads"], attrs["size"]]


def _rms_norm(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    name = rms_norm_name(classes.prefix, complete(node))
    if name is None:
        made = quote("nn.RMSNorm(s, eps=e, elementwise_affine=w)", s=attrs["size"], e=attrs["eps"], w=attrs["weight"])
        if complete(node)["weight"]:
            made.keywords.pop()  # type: ignore[attr-defined]
        return made
    return _call(name, _norm_sizes(node, attrs), eps=attrs["eps"])


def _gated_rms_norm(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    group = [] if complete(node)["group_size"] is None else [attrs["group_size"]]
    return _call(gated_name(classes.prefix, complete(node)), [attrs["size"], attrs["eps"], attrs["fn"], *group])


def _layer_norm(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    name = layer_norm_name(classes.prefix, complete(node))
    if name is not None:
        return _call(name, _norm_sizes(node, attrs), eps=attrs["eps"])
    if not complete(node)["weight"]:
        return quote("nn.LayerNorm(s, eps=e, elementwise_affine=False)", s=attrs["size"], e=attrs["eps"])
    return quote("nn.LayerNorm(s, eps=e, bias=b)", s=attrs["size"], e=attrs["eps"], b=attrs["bias"])


ROTARY_READS = {
    "head_dim": "=head_dim",
    "parameters": "=rope_parameters",
    "max_position_embeddings": "=max_position_embeddings",
}
"""What a rotary embedding reads of the config by itself, unless it has settings of its own."""


def _rotary(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    """A rotary embedding reads the config; one with settings of its own reads a copy that holds these."""
    written = complete(node)
    fields = {"parameters": "rope_parameters"}
    # It stands outside the layers, whose own sizes it does not see.
    changed = {fields.get(n, n): attrs[n] for n, value in ROTARY_READS.items() if written[n] != value}
    layer_type = [] if written["layer_type"] is None else [attrs["layer_type"]]
    name = rotary_name(classes.prefix, written)
    copied = changed or classes.heterogeneous
    if classes.plain:
        table = (
            quote("table[kind]", table=attrs["parameters"], kind=attrs["layer_type"])
            if layer_type
            else attrs["parameters"]
        )
        return _call(name, [attrs["head_dim"], table, *([attrs["max_position_embeddings"]] if classes.longest else [])])
    return _call(name, [_call("with_values", [CONFIG], **changed) if copied else CONFIG, *layer_type])


ROUTER_NUMBERS = {"norm_eps": "float", "factor": "float", "groups": "int", "top_groups": "int", "softcap": "float"}
"""What a router is given beside its sizes, where it is not as usual: numbers, which do not set its class apart."""

ROUTER_WORDS: Mapping[str, Mapping[Any, str]] = {
    "after_top_k": {True: "Late"},
    "correction": {"buffer": "Balanced", "parameter": "Corrected"},
    "group_score": {"best": "Best"},
    "outside": {"zero": "Zeroed"},
    "bias": {True: "Biased"},
    "precision": {"logits": "Wide", "model": "Narrow"},
    "wide_weights": {True: "Precise"},
    "sorted": {False: "Unsorted"},
}
EXPERT_NUMBERS = {"limit": "float", "alpha": "float"}
EXPERT_WORDS: Mapping[str, Mapping[Any, str]] = {
    "gated": {False: "Ungated"},
    "bias": {True: "Biased"},
    "transposed": {True: "Transposed"},
    "interleaved": {True: "Interleaved"},
    "shifted": {True: "Shifted"},
    "sum_dtype": {"weights": "Precise", "fp32": "Wide"},
}


def router_name(prefix: str, attrs: Mapping[str, Any]) -> str:
    """What a variant's class is called; all that has numbers of its own is in the word for these."""
    numbers = [name for name in ("softcap", "groups", "factor", "norm_eps") if attrs[name] != VARIANTS["router"][name]]
    known = {"softcap": "Capped", "groups": "Grouped", "factor": "Scaled", "norm_eps": "Safe"}
    scoring = "Softplus" if attrs["scoring"] == "sqrtsoftplus" else ""
    return f"{prefix}{scoring}{''.join(known[n] for n in numbers)}{_said(ROUTER_WORDS, attrs)}Router"


def experts_name(prefix: str, attrs: Mapping[str, Any]) -> str:
    known = {"limit": "Clamped", "alpha": "Swish"}
    numbers = "".join(word for name, word in known.items() if attrs[name] is not None)
    return f"{prefix}{numbers}{_said(EXPERT_WORDS, attrs)}Experts"


def _said(words: Mapping[str, Mapping[Any, str]], attrs: Mapping[str, Any]) -> str:
    return "".join(known.get(attrs[name], "") for name, known in words.items())


def _router(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    written = complete(node)
    usual = {name: VARIANTS["router"][name] for name in ("scoring", "normalise", *ROUTER_NUMBERS)}
    own = {name: attrs[name] for name, value in usual.items() if written[name] != value}
    if written["scoring"] == "sqrtsoftplus":
        del own["scoring"]
    return _call(
        router_name(classes.prefix, written), [attrs[name] for name in ("size", "num_experts", "top_k")], **own
    )


def _experts(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    # transformers looks for the experts' implementation in a config that they hold.
    written = complete(node)
    sizes = [attrs[name] for name in ("size", "intermediate_size", "num_experts")]
    sizes += [attrs["fn"]] if written["alpha"] is None else []
    numbers = {name: attrs[name] for name in EXPERT_NUMBERS if written[name] is not None}
    return _call(experts_name(classes.prefix, written), sizes if classes.plain else [CONFIG, *sizes], **numbers)


def _activation(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    if complete(node)["fn"] == "bloom_gelu" and not classes.plain:  # no name that configs give
        return quote("BloomGelu()")
    return quote("ACT2FN[name]", name=attrs["fn"])


def buffer_value(parts: Mapping[str, Any], owner: str) -> ast.expr:
    """A tensor that a module kept whole is given: each number as often as its part is long."""
    ones: list[ast.expr] = [ast.Constant(1)] * (parts["rank"] - 1)
    made = [
        quote(
            "torch.full(shape, value)", shape=ast.Tuple([*ones, setting(n, owner)], ast.Load()), value=setting(v, owner)
        )
        for n, v in zip(parts["sizes"], parts["values"], strict=True)
    ]
    return made[0] if len(made) == 1 else quote("torch.cat(parts, dim=-1)", parts=ast.List(made, ast.Load()))


def _module(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    """A module of transformers kept whole: it takes a config of its own class."""
    written = complete(node)
    source = written["source"]
    fields = dict(zip(written["fields"], _values(attrs["fields"]), strict=True))
    if classes.plain:
        return _call(source.partition(".")[2], [], **fields)
    fields["num_hidden_layers"] = quote("config.num_hidden_layers")
    for (name, own), value in zip(written["by_layer"].items(), _values(attrs["by_layer"]), strict=True):
        other = own if is_expression(own) else beside(source, name, own)
        listed = "[own if index == layer_idx else other for index in range(config.num_hidden_layers)]"
        alike = quote("[own] * config.num_hidden_layers", own=value)
        fields[name] = alike if other == own else quote(listed, own=value, other=constant(other))
    for name, first in lists_needed(source).items():
        if name not in fields:
            fields[name] = quote("[first] * config.num_hidden_layers", first=constant(first))
    if sets_layers_apart(source):  # what this layer has for itself, it is given
        fields["per_layer_config"] = ast.Dict([], [])
    own = _call(config_class(source).__name__, [], **fields)
    if written["mask"]:
        own = _call("attending_as", [CONFIG, own])
    known = {"layer_idx": ast.Name("layer_idx", ast.Load()), "initialize_mixer_weights": ast.Constant(False)}
    return _call(source.partition(".")[2], [own], **{name: known[name] for name in made_with(source)})


def _values(table: ast.expr) -> list[ast.expr]:
    assert isinstance(table, ast.Dict)
    return table.values


CONSTRUCT: Mapping[str, Construct] = {
    "module": _module,
    "linear": _linear,
    "embedding": _embedding,
    "position_embedding": _position_embedding,
    "relative_bias": lambda node, attrs, classes: _call("nn.Embedding", [attrs["buckets"], attrs["heads"]]),
    "rms_norm": _rms_norm,
    "gated_rms_norm": _gated_rms_norm,
    "layer_norm": _layer_norm,
    "activation": _activation,
    "dropout": lambda node, attrs, classes: quote("nn.Dropout(p)", p=attrs["p"]),
    "sinusoid": _sinusoid,
    "rotary_embedding": _rotary,
    "router": _router,
    "experts": _experts,
}
"""Ops that are modules of the emitted class; all others are functions."""
