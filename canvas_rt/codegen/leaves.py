"""The text of the small classes that an emitted model defines for itself: norms and embeddings, each variant that it uses."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from canvas_rt.codegen.modules import (
    Classes,
    embedding_name,
    gated_name,
    layer_norm_name,
    position_name,
    rms_norm_name,
    sinusoid_name,
)
from canvas_rt.codegen.plan import Plan
from canvas_rt.ir.document import Node
from canvas_rt.ops.catalogue import complete

Attrs = Mapping[str, Any]


def nodes(plan: Plan, op: str) -> list[Node]:
    """The nodes of one op that run."""
    return [item for name in plan.order for item in plan.items(name) if isinstance(item, Node) and item.op == op]


def class_texts(used: Iterable[Node], classes: Classes) -> list[str]:
    """The text of the classes that nodes are of, each once, in the order of their first use."""
    found: dict[str, str] = {}
    for node in used:
        made = _class_of(node, classes)
        if made is not None:
            found.setdefault(*made)
    return list(found.values())


def _class_of(node: Node, classes: Classes) -> tuple[str, str] | None:
    """The name and text of a node's class; None where it is one of PyTorch's or transformers' own."""
    if node.op not in CLASSES:
        return None
    name_of, text_of = CLASSES[node.op]
    name = name_of(classes.prefix, complete(node))
    return None if name is None else (name, text_of(name, complete(node)))


def _weight(attrs: Attrs) -> str:
    shape = "size" if attrs["heads"] is None else "heads, size"
    value = "zeros" if attrs.get("zero_centred") else "ones"
    return f"        self.weight = nn.Parameter(torch.{value}({shape}))\n"


def _sizes(attrs: Attrs) -> str:
    heads = "heads: int, " if attrs["heads"] is not None else ""
    return f"{heads}size: int, " if attrs["weight"] else ""


def rms_norm_class(name: str, attrs: Attrs) -> str:
    weight = "(1.0 + self.weight)" if attrs["zero_centred"] else "self.weight"
    if attrs["zero_centred"] and attrs["form"] == "weight_then_cast":
        weight = "(1.0 + self.weight.float())"
    return RMS_NORM.format(
        name=name,
        sizes=_sizes(attrs),
        weight=_weight(attrs) if attrs["weight"] else "",
        body=_rooted(RMS_BODIES[attrs["form"]], attrs["power"]).format(times=f"{weight} * " if attrs["weight"] else ""),
    )


def _rooted(body: str, power: bool) -> str:
    """A norm's body with its root as it is taken."""
    return re.sub(r"torch\.rsqrt\((.*self\.eps)\)", r"(\1).pow(-0.5)", body) if power else body


def gated_class(name: str, attrs: Attrs) -> str:
    grouped = attrs["group_size"] is not None
    lines = ["wide = hidden_states.to(torch.float32)"]
    if attrs["gate_first"]:
        lines.append("wide = wide * self.act_fn(gate.to(torch.float32))")
    if grouped:
        lines.append("wide = wide.unflatten(-1, (-1, self.group_size))")
    lines.append("wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)")
    if grouped:
        lines.append("wide = wide.flatten(-2)")
    late = attrs["form"] == "weight_then_cast"
    lines.append(f"normed = self.weight{'.float()' if late else ''} * wide{'' if late else '.to(hidden_states.dtype)'}")
    if not attrs["gate_first"]:
        lines.append("normed = normed * self.act_fn(gate.to(torch.float32))")
    lines.append("return normed.to(hidden_states.dtype)")
    return GATED.format(
        name=name,
        arguments=", group_size: int" if grouped else "",
        group="        self.group_size = group_size\n" if grouped else "",
        body="\n".join(f"        {line}" for line in lines),
    )


def layer_norm_class(name: str, attrs: Attrs) -> str:
    has_weight, has_bias = attrs["weight"], attrs["weight"] and attrs["bias"]
    attributes = _weight(attrs) if has_weight else ""
    if has_bias:
        attributes += _weight(attrs).replace("self.weight", "self.bias").replace("ones", "zeros")
    weight, whole = ("self.weight + 1.0", "(self.weight + 1.0)") if attrs["zero_centred"] else ("self.weight",) * 2
    if attrs["zero_centred"]:
        attributes = attributes.replace("torch.ones", "torch.zeros")
    body = LAYER_BODIES[attrs["form"]].format(
        weight=weight if has_weight else "None",
        bias="self.bias" if has_bias else "None",
        wide_weight=f"{whole}.float()" if has_weight else "None",
        wide_bias="self.bias.float()" if has_bias else "None",
        times=f"{whole}.float() * " if has_weight else "",
        plus=" + self.bias.float()" if has_bias else "",
    )
    return RMS_NORM.format(name=name, sizes=_sizes(attrs), weight=attributes, body=body)


RMS_NORM = """
class {name}(nn.Module):
    def __init__(self, {sizes}eps: float) -> None:
        super().__init__()
{weight}        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
{body}"""

RMS_BODIES = {
    "cast_then_weight": """\
        wide = hidden_states.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return {times}wide.to(hidden_states.dtype)
""",
    "weight_then_cast": """\
        wide = hidden_states.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return ({times}wide).to(hidden_states.dtype)
""",
    "factor_cast": """\
        square = hidden_states.to(torch.float32).pow(2).mean(-1, keepdim=True)
        return {times}(hidden_states * torch.rsqrt(square + self.eps).to(hidden_states.dtype))
""",
    "uncast": """\
        square = hidden_states.pow(2).mean(-1, keepdim=True)
        return {times}(hidden_states * torch.rsqrt(square + self.eps))
""",
    "fused": """\
        return {times}nn.functional.rms_norm(hidden_states, hidden_states.shape[-1:], eps=self.eps)
""",
}

GATED = """
class {name}(nn.Module):
    def __init__(self, size: int, eps: float, hidden_act: str{arguments}) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps
{group}        self.act_fn = ACT2FN[hidden_act]

    def forward(self, hidden_states: Tensor, gate: Tensor) -> Tensor:
{body}
"""

LAYER_BODIES = {
    "fused": """\
        return nn.functional.layer_norm(hidden_states, hidden_states.shape[-1:], {weight}, {bias}, self.eps)
""",
    "fused_in_fp32": """\
        wide = hidden_states.to(torch.float32)
        wide = nn.functional.layer_norm(wide, wide.shape[-1:], {wide_weight}, {wide_bias}, self.eps)
        return wide.to(hidden_states.dtype)
""",
    "by_hand": """\
        wide = hidden_states.to(torch.float32)
        mean = wide.mean(-1, keepdim=True)
        variance = (wide - mean).pow(2).mean(-1, keepdim=True)
        wide = (wide - mean) * torch.rsqrt(variance + self.eps)
        return ({times}wide{plus}).to(hidden_states.dtype)
""",
}


def embedding_class(name: str, attrs: Attrs) -> str:
    return SCALED_EMBEDDING.format(name=name, factor=ROUNDED if attrs["rounded"] else "self.factor")


def position_class(name: str, attrs: Attrs) -> str:
    return POSITION_EMBEDDING.format(name=name)


SCALED_EMBEDDING = """
class {name}(nn.Embedding):
    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None, factor: float) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.factor = factor

    def forward(self, input_ids: Tensor) -> Tensor:
        return super().forward(input_ids) * {factor}
"""

ROUNDED = "torch.full((), self.factor, dtype=self.weight.dtype, device=self.weight.device)"

POSITION_EMBEDDING = """
class {name}(nn.Embedding):
    def __init__(self, num_embeddings: int, embedding_dim: int, offset: int) -> None:
        super().__init__(num_embeddings, embedding_dim)
        self.offset = offset

    def forward(self, position_ids: Tensor) -> Tensor:
        return super().forward(position_ids + self.offset)
"""


def sinusoid_class(name: str, attrs: Attrs) -> str:
    exact = "self.dtype" if attrs["rounding"] == "frequencies" else "torch.float"
    return SINUSOIDS.format(
        name=name,
        dtype="" if attrs["rounding"] == "none" else "        self.dtype = torch.get_default_dtype()\n",
        parts=", ".join(
            f"torch.{one}(angles)" for one in (("sin", "cos") if attrs["first"] == "sines" else ("cos", "sin"))
        ),
        frequencies=FREQUENCIES[attrs["spacing"]].format(exact=exact),
        cast=".to(self.dtype)" if attrs["rounding"] == "values" else "",
        argument=", zero: int = -1" if attrs["zero"] is not None else "",
        kept="        self.zero = zero\n" if attrs["zero"] is not None else "",
        hole=".masked_fill(places == self.zero, 0.0)" if attrs["zero"] is not None else "",
    )


SINUSOIDS = """
class {name}(nn.Module):
    def __init__(self, width: int, offset: int = 0{argument}) -> None:
        super().__init__()
        self.width = width
        self.offset = offset
{kept}{dtype}
    @torch.no_grad()
    def forward(self, position_ids: Tensor) -> Tensor:
{frequencies}        places = (position_ids + self.offset)[..., None]
        angles = places.float() * frequencies
        return torch.cat([{parts}], dim=-1){hole}{cast}
"""

FREQUENCIES = {
    "half_open": """\
        exponents = torch.arange(0, self.width, 2, device=position_ids.device).to({exact}) / self.width
        frequencies = 1.0 / 10000**exponents
""",
    "whole": """\
        steps = torch.arange(self.width // 2, device=position_ids.device).float()
        frequencies = torch.exp(steps * -(math.log(10000) / (self.width // 2 - 1)))
""",
}

CLASSES: Mapping[str, tuple[Callable[[str, Attrs], str | None], Callable[[str, Attrs], str]]] = {
    "rms_norm": (rms_norm_name, rms_norm_class),
    "gated_rms_norm": (gated_name, gated_class),
    "layer_norm": (layer_norm_name, layer_norm_class),
    "embedding": (embedding_name, embedding_class),
    "position_embedding": (position_name, position_class),
    "sinusoid": (sinusoid_name, sinusoid_class),
}
"""For each op, what a variant's class is called (None: it is PyTorch's or transformers' own), and its text."""

__all__ = ["class_texts", "nodes"]
