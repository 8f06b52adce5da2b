"""The text of the functions of attention: the eager one, and what makes a bias for it."""

from collections.abc import Iterable
from typing import Any

from canvas_rt.codegen.leaves import nodes
from canvas_rt.codegen.plan import Plan
from canvas_rt.codegen.syntax import setting, unparse
from canvas_rt.errors import EmitError
from canvas_rt.ir.document import Node
from canvas_rt.ops.catalogue import complete


def eager_attention(plan: Plan) -> str:
    """The text of the eager attention function: it knows what the model's attention does, and no more."""
    used = nodes(plan, "attention")
    capped = any(complete(node)["softcap"] is not None for node in used)
    sunk = any("sinks" in node.inputs for node in used)
    biased = any("bias" in node.inputs for node in used)
    scaling, precision, sharing = (one_setting(used, name) for name in ("scaling", "precision", "sharing"))
    added = BIAS if biased and scaling != "fused" else ""
    return EAGER_ATTENTION.format(
        repeated=REPEATED if sharing == "repeated" else "",
        arguments=("    softcap: float | None = None,\n" if capped else "")
        + ("    s_aux: Tensor | None = None,\n" if sunk else "")
        + ("    bias: Tensor | None = None,\n" if biased else ""),
        wide="    query, key = query.float(), key.float()\n" if precision == "scores" else "",
        scores=SCORES[scaling].format(bias=added, rows=BIAS_ROWS if biased else NO_BIAS_ROWS),
        cap=CAP if capped else "",
        softmax=(SUNK_WIDE if precision == "scores" else SUNK) if sunk else SOFTMAX[precision],
    )


def one_setting(used: Iterable[Node], name: str) -> Any:
    """A setting that all nodes must share."""
    found = {complete(node)[name] for node in used}
    if len(found) > 1:
        raise EmitError(
            f"{name} is {' here, '.join(sorted(map(str, found)))} there: one eager function serves all attention",
            hint=f"Set {name} alike on every {next(iter(used)).op} node.",
        )
    return found.pop()


SCORES = {
    "multiplied": "    weights = torch.matmul(query, key.transpose(2, 3)) * scaling\n{bias}",
    "divided": "    weights = torch.matmul(query, key.transpose(2, 3)) / (1 / scaling)\n{bias}",
    "biased": "    weights = torch.matmul(query, key.transpose(2, 3))\n{bias}    weights = weights * scaling\n",
    "fused": """\
    batch, heads, seq, _ = query.shape
{rows}    weights = torch.baddbmm(rows, query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=scaling)
    weights = weights.view(batch, heads, seq, -1)
""",
}

BIAS = """\
    if bias is not None:
        weights = weights + bias
"""

BIAS_ROWS = """\
    bias = query.new_zeros(1, 1, seq, key.shape[2]) if bias is None else bias
    rows = bias.expand(batch, heads, -1, -1).flatten(0, 1)
"""

NO_BIAS_ROWS = """\
    rows = query.new_zeros(batch * heads, seq, key.shape[2])
"""

CAP = """\
    if softcap is not None:
        weights = torch.tanh(weights / softcap) * softcap
"""

SOFTMAX = {
    "softmax": """\
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
""",
    "model": """\
    weights = nn.functional.softmax(weights, dim=-1).to(query.dtype)
""",
    "scores": """\
    weights = nn.functional.softmax(weights, dim=-1).to(value.dtype)
""",
}

SUNK = """\
    if s_aux is not None:  # a sink takes a share of each query's attention, and gives nothing
        sinks = s_aux.reshape(1, -1, 1, 1).expand(query.shape[0], -1, query.shape[-2], -1)
        weights = torch.cat([weights, sinks], dim=-1)
    weights = weights - weights.max(dim=-1, keepdim=True).values
    weights = nn.functional.softmax(weights, dim=-1, dtype=weights.dtype)[..., : key.shape[2]].to(query.dtype)
"""

SUNK_WIDE = """\
    if s_aux is not None:  # a sink takes a share of each query's attention, and gives nothing
        sinks = s_aux.reshape(1, -1, 1, 1).expand(query.shape[0], -1, query.shape[-2], -1)
        weights = torch.cat([weights, sinks], dim=-1)
    weights = nn.functional.softmax(weights, dim=-1)[..., : key.shape[2]].to(value.dtype)
"""

# Expanded, as transformers does it: repeat_interleave would sum gradients in another order.
REPEATED = """\
    groups = module.num_key_value_groups  # of query heads that share a key/value head
    key = key.unsqueeze(2).expand(-1, -1, groups, -1, -1).flatten(1, 2)
    value = value.unsqueeze(2).expand(-1, -1, groups, -1, -1).flatten(1, 2)
"""

EAGER_ATTENTION = """
def eager_attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
{arguments}    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
{repeated}{wide}{scores}{cap}    if attention_mask is not None:
        weights = weights + attention_mask
{softmax}    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights
"""


# biases


def alibi_function(plan: Plan) -> str:
    """The text of what makes ALiBi."""
    used = nodes(plan, "alibi")
    order, counts, rounding, steepest = (
        one_setting(used, name) for name in ("order", "counts", "rounding", "steepest")
    )
    number = unparse(setting(steepest, "self.config"))
    return ALIBI.format(
        slopes=SLOPES[order].format(steepest=number),
        first="1 - keys" if counts == "from_last" else "0",
        round="    slopes = slopes.bfloat16()\n" if rounding == "slopes" else "",
        cast="" if rounding == "none" else ".to(like.dtype)",
    )


ALIBI = '''
def alibi_slopes(heads: int, device: torch.device) -> Tensor:
{slopes}

def alibi(heads: int, keys: int, like: Tensor) -> Tensor:
    """What each head adds to its scores, growing along the keys."""
    slopes = alibi_slopes(heads, like.device)
{round}    places = torch.arange({first}, {first} + keys, device=like.device)
    return (slopes[None, :, None, None] * places){cast}  # [1, heads, 1, keys]
'''

SLOPES = {
    "closest": """\
    closest = 2 ** math.floor(math.log2(heads))
    base = torch.full((), 2 ** (-{steepest} / closest), dtype=torch.float32, device=device)
    slopes = torch.pow(base, torch.arange(1, 1 + closest, dtype=torch.int32, device=device))
    if closest == heads:
        return slopes
    base = torch.full((), 2 ** (-{steepest} / (2 * closest)), dtype=torch.float32, device=device)
    more = min(closest, heads - closest)
    between = torch.pow(base, torch.arange(1, 1 + 2 * more, 2, dtype=torch.int32, device=device))
    return torch.cat([slopes, between])
""",
    "interleaved": """\
    count = 2 ** math.ceil(math.log2(heads))
    powers = torch.arange(1, count + 1, dtype=torch.int64, device=device).float() * ({steepest} / count)
    slopes = 1.0 / torch.pow(2, powers)
    return slopes if count == heads else torch.cat([slopes[1::2], slopes[::2]])[:heads]
""",
}

RELATIVE_BIAS = '''
def relative_bias(
    table: nn.Embedding, position_ids: Tensor, keys: int, farthest: int, both_ways: bool
) -> Tensor:
    """What each head adds to its scores for how far a key is from a query: far ones share a bucket."""
    buckets = table.num_embeddings
    distance = torch.arange(keys, device=position_ids.device)[None, :] - position_ids[0][:, None]
    chosen = torch.zeros_like(distance)
    if both_ways:
        buckets //= 2
        chosen = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        distance = -torch.min(distance, torch.zeros_like(distance))
    exact = buckets // 2
    steps = torch.log(distance.float() / exact) / math.log(farthest / exact) * (buckets - exact)
    shared = torch.min(exact + steps.long(), torch.full_like(distance, buckets - 1))
    chosen = chosen + torch.where(distance < exact, distance, shared)
    return table(chosen).permute(2, 0, 1).unsqueeze(0)  # [1, heads, queries, keys]
'''

__all__ = ["RELATIVE_BIAS", "alibi_function", "eager_attention", "one_setting"]
