"""What constructs the module of a node, in an emitted `__init__`."""

import ast
from collections.abc import Callable, Mapping

from canvas_rt.codegen.syntax import quote, setting
from canvas_rt.ir.document import Node
from canvas_rt.ops.catalogue import complete

Settings = Mapping[str, ast.expr]
Construct = Callable[[Node, Settings, "Classes"], ast.expr]

CONFIG = ast.Name("config", ast.Load())


class Classes:
    """The classes that an emitted module defines for itself."""

    def __init__(self, prefix: str) -> None:
        self.rms_norm = f"{prefix}RMSNorm"
        self.rotary = f"{prefix}RotaryEmbedding"
        self.router = f"{prefix}Router"
        self.experts = f"{prefix}Experts"

    @property
    def all(self) -> frozenset[str]:
        return frozenset({self.rms_norm, self.rotary, self.router, self.experts})


def _call(name: str, arguments: list[ast.expr], **keywords: ast.expr) -> ast.expr:
    return ast.Call(ast.Name(name, ast.Load()), arguments, [ast.keyword(key, value) for key, value in keywords.items()])


def _linear(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    return quote("nn.Linear(i, o, bias=b)", i=attrs["in_features"], o=attrs["out_features"], b=attrs["bias"])


def _embedding(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    made = quote(
        "nn.Embedding(n, d, padding_idx=p)",
        n=attrs["num_embeddings"],
        d=attrs["embedding_dim"],
        p=attrs["padding_idx"],
    )
    if complete(node)["padding_idx"] is None:
        made.keywords.clear()  # type: ignore[attr-defined]
    return made


def _rms_norm(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    return _call(classes.rms_norm, [attrs["size"]], eps=attrs["eps"])


def _layer_norm(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    return quote("nn.LayerNorm(s, eps=e, bias=b)", s=attrs["size"], e=attrs["eps"], b=attrs["bias"])


def _rotary(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    """A rotary embedding reads the config; one with settings of its own reads a copy that holds these."""
    usual = {
        "head_dim": "=head_dim",
        "parameters": "=rope_parameters",
        "max_position_embeddings": "=max_position_embeddings",
    }
    fields = {"parameters": "rope_parameters"}
    # It stands outside the layers, whose own sizes it does not see.
    changed = {fields.get(name, name): setting(value) for name, value in complete(node).items() if value != usual[name]}
    return _call(classes.rotary, [_call("with_values", [CONFIG], **changed) if changed else CONFIG])


def _router(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    written = complete(node)
    usual = {"scoring": "softmax", "normalise": True}
    own = {name: attrs[name] for name, value in usual.items() if written[name] != value}
    return _call(classes.router, [attrs["size"], attrs["num_experts"], attrs["top_k"]], **own)


def _experts(node: Node, attrs: Settings, classes: Classes) -> ast.expr:
    # transformers looks for the experts' implementation in a config that they hold.
    sizes = [attrs[name] for name in ("size", "intermediate_size", "num_experts", "fn")]
    return _call(classes.experts, [CONFIG, *sizes])


CONSTRUCT: Mapping[str, Construct] = {
    "linear": _linear,
    "embedding": _embedding,
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "activation": lambda node, attrs, classes: quote("ACT2FN[name]", name=attrs["fn"]),
    "dropout": lambda node, attrs, classes: quote("nn.Dropout(p)", p=attrs["p"]),
    "rotary_embedding": _rotary,
    "router": _router,
    "experts": _experts,
}
"""Ops that are modules of the emitted class; all others are functions."""
