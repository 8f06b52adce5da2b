"""The text that plain code has in the place of what transformers gives: config, tables of rotations, masks, activations."""

from collections.abc import Mapping
from typing import Any

from canvas_rt.codegen.attention import (
    BIAS,
    BIAS_ROWS,
    CAP,
    NO_BIAS_ROWS,
    SCORES,
    SOFTMAX,
    SUNK,
    SUNK_WIDE,
    one_setting,
)
from canvas_rt.codegen.leaves import nodes
from canvas_rt.codegen.plan import Plan
from canvas_rt.codegen.rotations import LAYOUTS
from canvas_rt.errors import EmitError
from canvas_rt.ops.catalogue import complete

HEADER = '''"""{title}: written by Canvas, in PyTorch alone.

It has the keys of the same model in transformers, so that its weights load (tied ones lie there once):

    model = {model}(Config.from_json("config.json"))
    model.load_state_dict(safetensors.torch.load_file("model.safetensors"), strict=False)

There is no key/value cache: `forward` takes all tokens at once.
"""

import json
import math
from dataclasses import dataclass, field, replace

import torch
from torch import nn


'''

CONFIG = '''\
@dataclass
class Config:
    """What the model's `config.json` says."""

{fields}
{layers}
    @classmethod
    def from_json(cls, path: str) -> "Config":
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        return cls(**{{name: value for name, value in values.items() if name in cls.__dataclass_fields__}})
'''

OF_LAYERS = '''
    def at(self, layer_idx: int) -> "Config":
        """The same for one layer, with the sizes that it has for itself."""
        return replace(self, **self.per_layer_config.get(str(layer_idx), {}))
'''

# activations

ACTIVATION_TEXTS: Mapping[str, str] = {
    "silu": "nn.functional.silu",
    "gelu": "nn.functional.gelu",
    "gelu_pytorch_tanh": 'lambda x: nn.functional.gelu(x, approximate="tanh")',
    "gelu_new": "lambda x: 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))",
    "gelu_fast": "lambda x: 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))",
    "gelu_python": "lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))",
    "quick_gelu": "lambda x: x * torch.sigmoid(1.702 * x)",
    "bloom_gelu": "lambda x: x * 0.5 * (1.0 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))",
    "relu": "nn.functional.relu",
    "relu2": "lambda x: nn.functional.relu(x).square()",
    "relu6": "nn.functional.relu6",
    "leaky_relu": "nn.functional.leaky_relu",
    "tanh": "torch.tanh",
    "sigmoid": "torch.sigmoid",
    "mish": "nn.functional.mish",
    "hardswish": "nn.functional.hardswish",
    "linear": "lambda x: x",
}
"""Activations, by the names that configs give them."""

ACTIVATIONS = """
ACT2FN = {{{table}}}
"""

CONV1D = '''
class Conv1D(nn.Module):
    """A linear map whose weight lies the other way round, [in, out]."""

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.flatten(0, -2), self.weight).unflatten(0, x.shape[:-1])
'''

# masks and attention

SEES = '''
def sees(seq: int, device: torch.device{arguments}) -> Tensor:
    """Which keys each query sees, [queries, keys]."""
    places = torch.arange(seq, device=device)
    distance = places[:, None] - places
    seen = {seen}
{spans}    return seen
'''

SPANS = {
    "window": "    if window is not None:\n        seen = seen & ({distance} < window)\n",
    "chunk": "    if chunk is not None:\n        seen = seen & (places[:, None] // chunk == places // chunk)\n",
}


def sees(text: str, causal: bool) -> str:
    """The function that makes masks: it knows the spans that some code names, and no more."""
    used = [name for name in SPANS if f", {name}=" in text]
    return SEES.format(
        arguments="".join(f", {name}: int | None = None" for name in used),
        seen="distance >= 0" if causal else "distance == distance",
        spans="".join(SPANS[name].format(distance="distance" if causal else "distance.abs()") for name in used),
    )


ATTEND = '''
def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
{arguments}) -> Tensor:
    """Attention by hand: PyTorch's own function has no {what}."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
{wide}{scores}{cap}    if mask is not None:
        weights = weights.masked_fill(~mask, torch.finfo(weights.dtype).min)
{softmax}{dropped}    return torch.matmul(weights, value).transpose(1, 2)
'''


def attend(plan: Plan, dropout: bool) -> str:
    """The function of attention that PyTorch does not have: it knows what the model's does, and no more."""
    used = nodes(plan, "attention")
    capped = any(complete(node)["softcap"] is not None for node in used)
    sunk = any("sinks" in node.inputs for node in used)
    biased = any("bias" in node.inputs for node in used)
    scaling, precision = (one_setting(used, name) for name in ("scaling", "precision"))
    arguments = {
        "softcap: float | None = None": capped,
        "s_aux: Tensor | None = None": sunk,
        "bias: Tensor | None = None": biased,
        "dropout: float = 0.0": dropout,
    }
    known = {"soft cap": capped, "sinks": sunk, "bias for all queries": biased}
    return ATTEND.format(
        arguments="".join(f"    {argument},\n" for argument, there in arguments.items() if there),
        what=" and no ".join(word for word, there in known.items() if there),
        wide="    query, key = query.float(), key.float()\n" if precision == "scores" else "",
        scores=SCORES[scaling].format(
            bias=BIAS if biased and scaling != "fused" else "", rows=BIAS_ROWS if biased else NO_BIAS_ROWS
        ),
        cap=CAP if capped else "",
        softmax=(SUNK_WIDE if precision == "scores" else SUNK) if sunk else SOFTMAX[precision],
        dropped="    weights = nn.functional.dropout(weights, p=dropout)\n" if dropout else "",
    )


# rotations

ROTARY = '''
class {name}(nn.Module):
    """Cosines and sines of each position's angles."""

    def __init__(self, head_dim: int, rope: dict{argument}) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.rope = rope
{kept}
    def frequencies(self, {seq}device: torch.device) -> tuple[Tensor, float]:
        """How fast each pair of channels turns, and the factor on cosines and sines."""
        rope, width = self.rope, {width}
        powers = rope["rope_theta"] ** (torch.arange(0, width, 2, device=device).float() / width)
{stretched}
    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        inv_freq, factor = self.frequencies({length}x.device)
        angles = position_ids[..., None].float() * inv_freq
{layout}        cos, sin = angles.cos() * factor, angles.sin() * factor
        return {result}
'''

STRETCHED = {
    "default": """\
return 1.0 / powers, 1.0
""",
    "linear": """\
return 1.0 / powers / rope["factor"], 1.0
""",
    "llama3": """\
inv_freq, factor, trained = 1.0 / powers, rope["factor"], rope["original_max_position_embeddings"]
low, high = rope["low_freq_factor"], rope["high_freq_factor"]
wavelength = 2 * math.pi / inv_freq
smooth = (trained / wavelength - low) / (high - low)
between = (1 - smooth) * inv_freq / factor + smooth * inv_freq
slow, fast = wavelength > trained / low, wavelength < trained / high
return torch.where(slow, inv_freq / factor, torch.where(fast, inv_freq, between)), 1.0
""",
    "yarn": """\
trained = rope["original_max_position_embeddings"]
factor = {factor}

def place(turns: float) -> float:
    return width * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(rope["rope_theta"]))

def scale(by: float) -> float:
    return 0.1 * by * math.log(factor) + 1.0 if factor > 1 else 1.0

low, high = place(rope.get("beta_fast") or 32), place(rope.get("beta_slow") or 1)
if rope.get("truncate", True):
    low, high = math.floor(low), math.ceil(high)
low, high = max(low, 0), min(high, width - 1)
steps = torch.arange(width // 2, dtype=torch.float32, device=device)
kept = 1 - torch.clamp((steps - low) / (high - low or 0.001), 0, 1)
inv_freq = 1.0 / (factor * powers) * (1 - kept) + 1.0 / powers * kept
attention = rope.get("attention_factor")
if attention is None:
    both = rope.get("mscale") and rope.get("mscale_all_dim")
    attention = scale(rope["mscale"]) / scale(rope["mscale_all_dim"]) if both else scale(1)
return inv_freq, attention
""",
    "proportional": """\
turned = int(rope.get("partial_rotary_factor", 1.0) * self.head_dim // 2)
exponents = torch.arange(0, 2 * turned, 2, device=device).float() / self.head_dim
still = torch.zeros(self.head_dim // 2 - turned, device=device)
return torch.cat((1.0 / rope["rope_theta"] ** exponents, still)) / rope.get("factor", 1.0), 1.0
""",
    "longrope": """\
trained = rope["original_max_position_embeddings"]
factor = {factor}
attention = rope.get("attention_factor")
if attention is None:
    attention = math.sqrt(1 + math.log(factor) / math.log(trained)) if factor > 1 else 1.0
stretch = torch.tensor(rope["long_factor" if seq > trained else "short_factor"], dtype=torch.float32, device=device)
return 1.0 / (stretch * powers), attention
""",
}
"""For each way to stretch positions: what comes of the powers of its base."""

TRAINED = {"yarn", "longrope"}
"""Ways that may go by how long the model's sequences may be."""


def reads_longest(tables: list[Mapping[str, Any]]) -> bool:
    """Whether some rope parameters leave it to the longest sequence how far positions are stretched."""
    return any(table.get("rope_type") in TRAINED and table.get("factor") is None for table in tables)


def rotary_class(name: str, attrs: Mapping[str, Any], tables: list[Mapping[str, Any]], part: bool) -> str:
    """The class of a rotary embedding, with the ways to stretch that the model's rope parameters name."""
    kinds = list(dict.fromkeys(str(table.get("rope_type")) for table in tables))
    unknown = next((kind for kind in kinds if kind not in STRETCHED), None)
    if unknown is not None:
        hint = "Emit the package, whose code may use transformers: without --plain, or with target='code'."
        raise EmitError(f"no plain code stretches positions by '{unknown}'", path="rope_parameters", hint=hint)
    longest, seq = reads_longest(tables), "longrope" in kinds
    factor = 'rope.get("factor") or self.longest / trained' if longest else 'rope["factor"]'
    bodies = {kind: STRETCHED[kind].format(factor=factor) for kind in kinds}
    return ROTARY.format(
        name=name,
        argument=", longest: int" if longest else "",
        kept="        self.longest = longest\n" if longest else "",
        width='int(self.head_dim * self.rope.get("partial_rotary_factor", 1.0))' if part else "self.head_dim",
        stretched=_chosen(bodies),
        seq="seq: int, " if seq else "",
        length="int(position_ids.max()) + 1, " if seq else "",
        layout=LAYOUTS[attrs["layout"]],
        result="cos, sin" if attrs["wide"] else "cos.to(x.dtype), sin.to(x.dtype)",
    )


def _chosen(bodies: Mapping[str, str]) -> str:
    """The statements of one way, or of each where the parameters choose."""
    if len(bodies) == 1:
        return "".join(f"        {line}\n" if line else "\n" for body in bodies.values() for line in body.splitlines())
    parts = []
    for kind, body in bodies.items():
        lines = "".join(f"            {line}\n" if line else "\n" for line in body.splitlines())
        parts.append(f'        if rope["rope_type"] == "{kind}":\n{lines}')
    return "".join(parts) + "        raise ValueError(rope)\n"
