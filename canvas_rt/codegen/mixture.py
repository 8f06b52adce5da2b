"""The emitted classes of a mixture of experts, and how their weights are initialised: the contract of transformers 5."""

from collections.abc import Callable, Mapping
from typing import Any

from canvas_rt.codegen.leaves import nodes
from canvas_rt.codegen.modules import (
    EXPERT_NUMBERS,
    ROUTER_NUMBERS,
    buffer_value,
    experts_name,
    layer_norm_name,
    rms_norm_name,
    router_name,
)
from canvas_rt.codegen.plan import Plan
from canvas_rt.codegen.syntax import unparse
from canvas_rt.errors import EmitError
from canvas_rt.ir.document import Node
from canvas_rt.ir.expressions import names_in
from canvas_rt.ops.catalogue import VARIANTS, complete
from canvas_rt.ops.learned import MODULE, PARAMETER
from canvas_rt.ops.modules import config_class, initialiser

Attrs = Mapping[str, Any]

ROUTER = '''
class {name}(nn.Module):
    """Chooses `top_k` experts for each token."""

{declared}    def __init__({signature}) -> None:
        super().__init__()
        self.top_k = top_k
{attributes}        self.weight = nn.Parameter(torch.empty(num_experts, size))
{tensors}
    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
{body}
'''

SOFTMAX = "logits.softmax(dim=-1, dtype=torch.float)"
SIGMOID = "logits.float().sigmoid()"
NORMALISE = "weights = weights / weights.sum(dim=-1, keepdim=True)"

GROUPS = {
    "best_two": "best = groups.topk(2, dim=-1)[0].sum(dim=-1)  # a group counts as much as its best two",
    "best": "best = groups.max(dim=-1).values  # a group counts as much as its best",
}

OUTSIDE = {"lowest": 'float("-inf")', "zero": "0.0"}

CHOSEN_GROUPS = """\
groups = choice.unflatten(-1, (self.groups, -1))
{best}
chosen = torch.zeros_like(best).scatter_(-1, best.topk(self.top_groups, {how})[1], 1)
choice = groups.masked_fill(~chosen.unsqueeze(-1).bool(), {outside}).flatten(-2)"""

EXPERTS = '''
{decorated}class {name}(nn.Module):
    """{summary}, their weights packed{ways}."""

    def __init__(
        self, {config}hidden_dim: int, intermediate_dim: int, num_experts: int{arguments}
    ) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.num_experts = num_experts
{attributes}
    def forward(
        self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
    ) -> Tensor:
        out = torch.zeros_like(hidden_states{out})  # [tokens, hidden_dim]
        chosen = top_k_index.T  # [top_k, tokens]
{apart}        for expert in top_k_index{held}.unique():
            place, token = torch.where(chosen == expert)
{body}
            states = states * top_k_weights[token, place, None]
            out.index_add_(0, token, states.to(out.dtype))
        return out{cast}
{gate}'''

APART = """\
        # Under expert parallelism, experts that another device holds go by the number `num_experts`.
"""

APPLY_GATE = """
    def _apply_gate(self, gate_up: Tensor) -> Tensor:
{body}
"""

GIVEN = """\
        if isinstance(module, {kept}):
            init.copy_(module.{name}, {value})
"""

KEPT = """\
        if isinstance(module, {kept}):
            initialise_as({owner}, {config}, module)
"""

INITIALISE_AS = '''
def initialise_as(owner: type[PreTrainedModel], config: Any, kept: nn.Module) -> None:
    """Give a module of transformers fresh weights, as the model that it is from does."""
    model: Any = object.__new__(owner)  # without layers
    nn.Module.__init__(model)
    model.config = config
    for module in reversed([*kept.modules()]):  # a module's own rule comes after those of its parts
        model._init_weights(module)
'''

INIT_WEIGHTS = """
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
"""

NORMAL = """\
        if isinstance(module, {classes}):
            for parameter in module.parameters(recurse=False):
                {draw}
"""

DRAW = "init.normal_(parameter, mean=0.0, std={std})"
DRAW_WEIGHTS = "init.normal_(parameter, mean=0.0, std={std}) if {weight} else init.zeros_(parameter)"

CORRECTED = """\
            if "e_score_correction_bias" in module._buffers:
                init.zeros_(module.e_score_correction_bias)
"""

TRANSPOSED = """\
        if isinstance(module, Conv1D):
            init.normal_(module.weight, mean=0.0, std={std})
            init.zeros_(module.bias)
"""

DRAWN = """\
        if isinstance(module, {name}):
{draws}"""

ZERO_CENTRED = """\
        if isinstance(module, {classes}):
            init.zeros_(module.weight)
"""


BALANCED = ("output_router_logits", "router_aux_loss_coef")
"""Fields of a config by which transformers adds a loss for experts that are chosen unevenly."""


def balanced(plan: Plan) -> tuple[str, Attrs] | None:
    """The class of the routers whose choice a further loss balances, and their settings; None where the config knows no such loss."""
    if plan.halves is not None or not {*BALANCED} <= {*plan.document.config, *plan.document.sizes}:
        return None
    found = [complete(node) for node in nodes(plan, "router")]
    names = {router_name(plan.names.prefix, attrs) for attrs in found}
    sizes = {(attrs["num_experts"], attrs["top_k"]) for attrs in found}
    own = names_in(tuple(sizes)) & plan.layers_own
    return (names.pop(), found[0]) if len(names) == len(sizes) == 1 and not own else None


def classes(plan: Plan) -> list[str]:
    """The text of the classes that a model's routers and experts are of: one for each variant in use."""
    prefix, parts = plan.names.prefix, []
    for name, variant in _by_class(nodes(plan, "router"), lambda attrs: router_name(prefix, attrs)).items():
        parts.append(router(name, variant))
    for name, variant in _by_class(nodes(plan, "experts"), lambda attrs: experts_name(prefix, attrs)).items():
        parts.append(experts(name, "" if plan.classes.plain else plan.names.config, variant[0]))
    return parts


def _by_class(used: list[Node], name: Callable[[Attrs], str]) -> dict[str, list[Attrs]]:
    found: dict[str, list[Attrs]] = {}
    for node in used:
        found.setdefault(name(complete(node)), []).append(complete(node))
    return found


def router(name: str, variant: list[Attrs]) -> str:
    """The class of routers that are alike but for scoring, normalising and numbers: it knows what they do, and no more."""
    (attrs, *_) = variant
    arguments = ["self", "size: int", "num_experts: int", "top_k: int"]
    attributes, tensors = "", ""
    if attrs["scoring"] != "sqrtsoftplus" and {a["scoring"] for a in variant} != {"softmax"}:
        arguments.append('scoring: str = "softmax"')
        attributes += "        self.scoring = scoring\n"
    if {a["normalise"] for a in variant} != {True}:
        arguments.append("normalise: bool = True")
        attributes += "        self.normalise = normalise\n"
    for number, kind in ROUTER_NUMBERS.items():
        if any(a[number] != VARIANTS["router"][number] for a in variant):
            arguments.append(f"{number}: {kind}")
            attributes += f"        self.{number} = {number}\n"
    # What has no default goes before what has one.
    arguments.sort(key=lambda argument: "=" in argument)
    if attrs["bias"]:
        tensors += "        self.bias = nn.Parameter(torch.zeros(num_experts))\n"
    if attrs["correction"] == "buffer":
        tensors += '        self.register_buffer("e_score_correction_bias", torch.zeros(num_experts))\n'
    elif attrs["correction"] == "parameter":
        tensors += (
            "        self.e_score_correction_bias = nn.Parameter(torch.zeros(num_experts), requires_grad=False)\n"
        )
    body = "\n".join(f"        {line}" for line in _routing(variant))
    signature = ", ".join(arguments)
    declared = "    e_score_correction_bias: Tensor\n\n" if attrs["correction"] == "buffer" else ""
    return ROUTER.format(
        name=name, declared=declared, signature=signature, attributes=attributes, tensors=tensors, body=body
    )


def _routing(variant: list[Attrs]) -> list[str]:
    """The statements of a router's `forward`."""
    (attrs, *_) = variant
    wide = attrs["precision"] == "logits"
    bias = "" if not attrs["bias"] else ", self.bias.float()" if wide else ", self.bias"
    given = ("hidden_states.float()", "self.weight.float()") if wide else ("hidden_states", "self.weight")
    lines = [f"logits = nn.functional.linear({given[0]}, {given[1]}{bias})  # [batch, seq, experts]"]
    late, plain = attrs["after_top_k"], attrs["correction"] == "none" and attrs["groups"] is None
    floated = attrs["precision"] == "scores" and (late or attrs["softcap"] is not None)
    if floated:
        lines.append("logits = logits.float()")
    if attrs["softcap"] is not None:
        lines.append("logits = torch.tanh(logits / self.softcap) * self.softcap")
    if not late:
        lines.append(f"scores = {_scores('logits', variant)}")
    scored = "logits" if late else "scores"
    how = "dim=-1" if attrs["sorted"] else "dim=-1, sorted=False"
    if plain:
        lines.append(f"weights, indices = {scored}.topk(self.top_k, {how})  # [batch, seq, top_k]")
    else:
        swayed = " + self.e_score_correction_bias" if attrs["correction"] != "none" else ""
        lines.append(f"choice = {scored}{swayed}")
        if attrs["groups"] is not None:
            lines += CHOSEN_GROUPS.format(
                best=GROUPS[attrs["group_score"]], how=how, outside=OUTSIDE[attrs["outside"]]
            ).splitlines()
        if attrs["correction"] == "none" and attrs["outside"] == "zero":
            lines.append(f"weights, indices = choice.topk(self.top_k, {how})  # [batch, seq, top_k]")
        else:
            lines.append(f"indices = choice.topk(self.top_k, {how})[1]  # [batch, seq, top_k]")
            lines.append(f"weights = {scored}.gather(-1, indices)")
    if late:
        lines.append(f"weights = {_scores('weights', variant)}")
    safe = attrs["norm_eps"] != 0
    normalise = NORMALISE.replace(
        "weights.sum(dim=-1, keepdim=True)", "(weights.sum(dim=-1, keepdim=True) + self.norm_eps)"
    )
    normalising = {a["normalise"] for a in variant}
    if normalising == {True}:
        lines.append(normalise if safe else NORMALISE)
    else:
        lines += ["if self.normalise:", f"    {normalise if safe else NORMALISE}"]
    if attrs["factor"] != 1:
        lines.append("weights = weights * self.factor")
    cast = "" if attrs["wide_weights"] else ".to(hidden_states.dtype)" if wide or floated else ".to(logits.dtype)"
    return [*lines, f"return logits.flatten(0, -2), weights{cast}, indices"]


def _scores(logits: str, variant: list[Attrs]) -> str:
    """What turns affinities into scores."""
    (attrs, *_) = variant
    scorings = {a["scoring"] for a in variant}
    exact = attrs["precision"] == "model"
    if scorings == {"sqrtsoftplus"}:
        wide = logits if exact or attrs["precision"] == "logits" else f"{logits}.float()"
        return f"nn.functional.softplus({wide}).sqrt()"
    softmax, sigmoid = SOFTMAX, SIGMOID
    if exact or attrs["precision"] == "logits" or attrs["after_top_k"] or attrs["softcap"] is not None:
        sigmoid = "logits.sigmoid()"
    if exact:
        softmax = "logits.softmax(dim=-1)"
    text = softmax if scorings == {"softmax"} else f'{sigmoid} if self.scoring == "sigmoid" else {softmax}'
    return text.replace("logits", logits)


def experts(name: str, config: str, attrs: Attrs) -> str:
    """The class of experts of one variant; without a config it knows nothing of transformers."""
    up = "gate_up_proj" if attrs["gated"] else "up_proj"
    flags = {
        "is_concatenated=False": attrs["interleaved"],
        "is_transposed=True": attrs["transposed"],
        "has_bias=True": attrs["bias"],
        "has_gate=False": not attrs["gated"],
    }
    decorated = ", ".join(flag for flag, said in flags.items() if said)
    arguments = ", hidden_act: str" if attrs["alpha"] is None else ""
    arguments += "".join(f", {n}: {kind}" for n, kind in EXPERT_NUMBERS.items() if attrs[n] is not None)
    body, gate = _expert_body(up, attrs)
    return EXPERTS.format(
        name=name,
        config=f"config: {config}, " if config else "",
        decorated=f"@use_experts_implementation{f'({decorated})' if decorated else ''}\n" if config else "",
        ways=": `experts_implementation` of transformers may run them in other ways" if config else "",
        apart=APART if config else "",
        held="[top_k_index < self.num_experts]" if config else "",
        summary="Gated MLPs" if attrs["gated"] else "MLPs",
        arguments=arguments,
        attributes=_expert_attributes(up, attrs),
        out={"model": "", "weights": ", dtype=top_k_weights.dtype", "fp32": ", dtype=torch.float"}[attrs["sum_dtype"]],
        body="\n".join(f"            {line}" for line in body),
        cast="" if attrs["sum_dtype"] == "model" else ".to(hidden_states.dtype)",
        gate=APPLY_GATE.format(body="\n".join(f"        {line}" for line in gate)) if gate else "",
    )


def _expert_attributes(up: str, attrs: Attrs) -> str:
    wide = "2 * intermediate_dim" if attrs["gated"] else "intermediate_dim"
    lines = []
    for name, out, into in ((up, wide, "hidden_dim"), ("down_proj", "hidden_dim", "intermediate_dim")):
        shape = f"{into}, {out}" if attrs["transposed"] else f"{out}, {into}"
        lines.append(f"self.{name} = nn.Parameter(torch.empty(num_experts, {shape}))")
        if attrs["bias"]:
            lines.append(f"self.{name}_bias = nn.Parameter(torch.zeros(num_experts, {out}))")
    lines += ["self.act_fn = ACT2FN[hidden_act]"] if attrs["alpha"] is None else []
    lines += [f"self.{name} = {name}" for name in EXPERT_NUMBERS if attrs[name] is not None]
    return "".join(f"        {line}\n" for line in lines)


def _expert_body(up: str, attrs: Attrs) -> tuple[list[str], list[str]]:
    """The statements between choosing tokens and weighing what the expert gives, and those of its gate where it is unusual."""
    first, second = (_product(name, attrs) for name in (up, "down_proj"))
    if not attrs["gated"]:
        return [f"states = self.act_fn({first('hidden_states[token]')})", f"states = {second('states')}"], []
    unusual = (
        any(attrs[name] for name in ("interleaved", "shifted"))
        or attrs["limit"] is not None
        or attrs["alpha"] is not None
    )
    if not unusual:
        return [
            f"gate, up = {first('hidden_states[token]', True)}.chunk(2, dim=-1)",
            f"states = {second('self.act_fn(gate) * up')}",
        ], []
    gate = [
        "gate, up = gate_up[..., ::2], gate_up[..., 1::2]"
        if attrs["interleaved"]
        else "gate, up = gate_up.chunk(2, dim=-1)"
    ]
    if attrs["limit"] is not None:
        gate.append("gate, up = gate.clamp(max=self.limit), up.clamp(min=-self.limit, max=self.limit)")
    gated = "self.act_fn(gate)" if attrs["alpha"] is None else "gate * torch.sigmoid(gate * self.alpha)"
    gate.append(f"return {gated} * {'(up + 1)' if attrs['shifted'] else 'up'}")
    return [f"states = self._apply_gate({first('hidden_states[token]')})", f"states = {second('states')}"], gate


def _product(name: str, attrs: Attrs) -> Callable[..., str]:
    bias = f"self.{name}_bias[expert]" if attrs["bias"] else ""
    if not attrs["transposed"]:
        return lambda x, inner=False: f"nn.functional.linear({x}, self.{name}[expert]{', ' + bias if bias else ''})"
    plus = f" + {bias}" if bias else ""

    def product(x: str, inner: bool = False) -> str:
        factor = x if " " not in x else f"({x})"
        text = f"{factor} @ self.{name}[expert]{plus}"
        return f"({text})" if inner else text

    return product


def init_weights(plan: Plan) -> str:
    """What the base class of a model adds: transformers initialises only modules that it knows."""
    prefix = plan.names.prefix
    packed = [router_name(prefix, complete(node)) for node in nodes(plan, "router")]
    packed += [experts_name(prefix, complete(node)) for node in nodes(plan, "experts")]
    packed = list(dict.fromkeys(packed))
    std = "self.config.initializer_range" if "initializer_range" in plan.document.config else "0.02"
    parts = [NORMAL.format(classes=_either(packed), draw=_draw(plan).format(std=std))] if packed else []
    if any(complete(node)["correction"] == "buffer" for node in nodes(plan, "router")):
        parts.append(CORRECTED)
    if any(complete(node)["transposed"] for node in nodes(plan, "linear")):
        parts.append(TRANSPOSED.format(std=std))
    named = {"rms_norm": rms_norm_name, "layer_norm": layer_norm_name}
    norms = [(named[op], complete(node)) for op in named for node in nodes(plan, op)]
    zero_centred = {name(prefix, attrs) or "" for name, attrs in norms if attrs["zero_centred"]}
    if zero_centred:
        parts.append(ZERO_CENTRED.format(classes=_either(sorted(zero_centred))))
    parts += drawn(plan, std) + kept_weights(plan) + given_buffers(plan)
    return INIT_WEIGHTS + "".join(parts) if parts else ""


def drawn(plan: Plan, std: str) -> list[str]:
    """What draws the learned tensors that blocks hold themselves: made as zeros, all but vectors would be alike for ever."""
    parts = []
    for block in plan.order:
        own = [(node, complete(node)) for node in plan.items(block) if isinstance(node, Node) and node.op == PARAMETER]
        keys = [
            f"{node.id}.{attrs['key']}" if attrs["key"] else node.id
            for node, attrs in own
            if attrs["learned"] and len(attrs["shape"]) > 1
        ]
        draws = "".join(f"            init.normal_(module.{key}, mean=0.0, std={std})\n" for key in keys)
        parts += [DRAWN.format(name=plan.names.of(block), draws=draws)] if draws else []
    return parts


def kept_weights(plan: Plan) -> list[str]:
    """What gives modules that are kept whole fresh weights: their own models do it, which are not there."""
    fields, parts = {*plan.document.sizes, *plan.document.config}, []
    for source in sorted({complete(node)["source"] for node in nodes(plan, MODULE)}):
        owner, read = initialiser(source)
        given = ", ".join(f"{name}=self.config.{name}" for name in read if name in fields)
        config = f"{config_class(source).__name__}({given})"
        parts += [KEPT.format(kept=source.partition(".")[2], owner=owner, config=config)] if owner else []
    return parts


def given_buffers(plan: Plan) -> list[str]:
    """What makes the tensors anew that modules kept whole are given: no checkpoint has them."""
    found: dict[tuple[str, str], str] = {}
    for node in nodes(plan, MODULE):
        kept = complete(node)["source"].partition(".")[2]
        for name, parts in complete(node)["buffers"].items():
            value = unparse(buffer_value(parts, "self.config"))
            if found.setdefault((kept, name), value) != value:
                raise EmitError(f"two modules of {kept} are given unlike tensors '{name}'", path=node.id)
    return [GIVEN.format(kept=kept, name=name, value=value) for (kept, name), value in found.items()]


def _draw(plan: Plan) -> str:
    """How a packed parameter is initialised: weights at random, biases as zeros."""
    if any(complete(node)["bias"] for node in nodes(plan, "experts")):
        return DRAW_WEIGHTS.replace("{weight}", "parameter.dim() == 3 or parameter is getattr(module, 'weight', None)")
    routers = [complete(node) for node in nodes(plan, "router")]
    if any(attrs["bias"] or attrs["correction"] == "parameter" for attrs in routers):
        return DRAW_WEIGHTS.replace("{weight}", "parameter.dim() > 1")
    return DRAW


def _either(classes: list[str]) -> str:
    return classes[0] if len(classes) == 1 else f"({', '.join(classes)})"
