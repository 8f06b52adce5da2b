"""The text of rotary positions: the module that makes cosines and sines, and the functions that turn values by them."""

from collections.abc import Mapping
from typing import Any

from canvas_rt.codegen.leaves import nodes
from canvas_rt.codegen.modules import rotary_name
from canvas_rt.codegen.plan import Plan
from canvas_rt.codegen.vocabulary import rotation_suffix
from canvas_rt.ir.document import Node
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.graph import walk
from canvas_rt.ops.catalogue import complete
from canvas_rt.ops.rope import rotary_table, rotary_width
from canvas_rt.physics.shapes import check

Attrs = Mapping[str, Any]

ROTARY = """
class {name}(nn.Module):
    inv_freq: Tensor

    def __init__(self, config: {config}{argument}) -> None:
        super().__init__()
{chosen}        self.config = config
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        init = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = init(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: {config}, **kwargs: Any) -> tuple[Tensor, float]:
{exponents}
        return 1.0 / (config.rope_parameters["rope_theta"] ** exponents), 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].float() * self.inv_freq.to(device=x.device, dtype=torch.float)
{layout}        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return {result}
"""

CHOSEN = """\
        self.layer_type = layer_type
        self.rope_parameters = config.rope_parameters  # of all types of layer
        config = with_values(config, rope_parameters=config.rope_parameters[layer_type])
"""

WHOLE = """\
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float) / config.head_dim"""

PART = """\
        width = int(config.head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
        exponents = torch.arange(0, width, 2, dtype=torch.float) / width"""

LAYOUTS = {
    "halves": "        angles = torch.cat((angles, angles), dim=-1)\n",
    "interleaved": "        angles = torch.repeat_interleave(angles, 2, dim=-1)\n",
    "once": "",
}

ROTATE_HALF = """
def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)
"""

ROTATE_PAIRS = """
def rotate_pairs(x: Tensor) -> Tensor:
    return torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
"""

APPLY_ROTARY = """
def apply_rotary(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor]:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # one for all heads
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
"""

APPLY_EITHER = """
def apply_rotary{suffix}(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor]:
    return rotate{suffix}(q, cos, sin), rotate{suffix}(k, cos, sin)
"""


def texts(plan: Plan) -> list[str]:
    """What a model's rotary positions need: a class for each kind of table, functions for each way to turn."""
    tables: dict[str, str] = {}
    for node in nodes(plan, "rotary_embedding"):
        name = rotary_name(plan.names.prefix, complete(node))
        tables.setdefault(name, rotary_class(name, plan.names.config, complete(node), turns_a_part(plan)))
    return [*tables.values(), *functions(plan)]


def rotary_class(name: str, config: str, attrs: Attrs, part: bool) -> str:
    """The class of a rotary embedding; with `part`, of which only a part of a head's channels may be turned."""
    return ROTARY.format(
        name=name,
        config=config,
        argument="" if attrs["layer_type"] is None else ", layer_type: str",
        chosen="" if attrs["layer_type"] is None else CHOSEN,
        exponents=PART if part else WHOLE,
        layout=LAYOUTS[attrs["layout"]],
        result="cos, sin" if attrs["wide"] else "cos.to(x.dtype), sin.to(x.dtype)",
    )


def turns_a_part(plan: Plan) -> bool:
    """Whether some rotary embedding's parameters say that only a part of a head's channels is turned."""
    environment = plan.document.environment
    found = [resolve(complete(node), environment) for node in nodes(plan, "rotary_embedding")]
    return any("partial_rotary_factor" in rotary_table(attrs) for attrs in found)


def functions(plan: Plan) -> list[str]:
    used = [(node.op, complete(node)) for op in ("apply_rotary", "rotate") for node in nodes(plan, op)]
    if not used:
        return []
    part, parts = _joining(plan), []
    pairs = {attrs["style"] == "interleaved" for _, attrs in used}
    parts += ([ROTATE_HALF] if False in pairs else []) + ([ROTATE_PAIRS] if True in pairs else [])
    done: set[str] = set()
    for op, attrs in sorted(used, key=lambda pair: (rotation_suffix(pair[1]), pair[0] == "apply_rotary")):
        suffix = rotation_suffix(attrs)
        plain = op == "apply_rotary" and not suffix and "" not in part and ("rotate", attrs) not in used
        if f"rotate{suffix}" not in done and not plain:
            parts.append(rotate_function(suffix, attrs, suffix in part))
        if op == "apply_rotary" and f"apply_rotary{suffix}" not in done:
            parts.append(APPLY_ROTARY if plain else APPLY_EITHER.format(suffix=suffix))
        done |= {f"{op}{suffix}", f"rotate{suffix}"}
    return parts


def rotate_function(suffix: str, attrs: Attrs, part: bool) -> str:
    """A function that turns one value; with `part`, of which the tables may be less wide."""
    lines, x = [], "wide" if attrs["wide"] else "x"
    if attrs["tables"] == "first_half":
        lines.append("cos, sin = (table[..., : table.shape[-1] // 2] for table in (cos, sin))")
    if attrs["tables"] != "full":
        interleaved = attrs["style"] == "interleaved"
        spread = "table.repeat_interleave(2, dim=-1)" if interleaved else "torch.cat((table, table), dim=-1)"
        lines.append(f"cos, sin = ({spread} for table in (cos, sin))")
    place = 2 if attrs["tokens_first"] else 1
    lines.append(f"cos, sin = cos.unsqueeze({place}), sin.unsqueeze({place})  # one for all heads")
    if part:
        lines.append("width = cos.shape[-1]")
        lines.append(
            "rest, x = x[..., :-width], x[..., -width:]"
            if attrs["tail"]
            else "x, rest = x[..., :width], x[..., width:]"
        )
    if attrs["wide"]:
        lines.append("wide = x.float()")
    if attrs["style"] == "pairs_to_halves":
        lines.append(f"{x} = torch.cat(({x}[..., 0::2], {x}[..., 1::2]), dim=-1)")
    turned = f"{'rotate_pairs' if attrs['style'] == 'interleaved' else 'rotate_half'}({x}) * sin"
    result = f"{x} * cos {'-' if attrs['style'] == 'backwards' else '+'} {turned}"
    result = f"({result}).to(x.dtype)" if attrs["wide"] else result
    if part:
        lines.append(f"turned = {result}")
        result = f"torch.cat(({'rest, turned' if attrs['tail'] else 'turned, rest'}), dim=-1)"
    head = f"def rotate{suffix}(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:"
    return "\n" + "\n    ".join([head, *lines, f"return {result}"]) + "\n"


def _joining(plan: Plan) -> frozenset[str]:
    """Rotations, by suffix, of which some meet values with more channels than some table turns, or join a rest anyway."""
    document = plan.document
    widths: list[int] = []
    heads: list[tuple[str, int]] = []
    joined: set[str] = set()
    shapes = check(document).shapes
    for visit in walk(document):
        if not isinstance(visit.item, Node):
            continue
        if visit.item.op == "rotary_embedding":
            widths.append(rotary_width(resolve(complete(visit.item), visit.environment)))
        elif visit.item.op in ("apply_rotary", "rotate"):
            attrs = complete(visit.item)
            joined |= {rotation_suffix(attrs)} if attrs["joined"] else set()
            if known := shapes.get(visit.path, (None,))[0]:
                heads.append((rotation_suffix(attrs), known.actual[-1]))
    return frozenset(joined | {s for s, width in heads if widths and width > min(widths) and width not in widths})


__all__ = ["texts"]
