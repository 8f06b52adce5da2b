"""The emitted classes of a mixture of experts, and how their weights are initialised: the contract of transformers 5."""

from canvas_rt.codegen.blocks import Plan
from canvas_rt.ir.document import Node
from canvas_rt.ops.catalogue import complete

ROUTER = '''
class {name}(nn.Module):
    """Chooses `top_k` experts for each token."""

    def __init__({signature}) -> None:
        super().__init__()
        self.top_k = top_k
{attributes}        self.weight = nn.Parameter(torch.empty(num_experts, size))

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = nn.functional.linear(hidden_states, self.weight)  # [batch, seq, experts]
        scores = {scores}
        weights, indices = scores.topk(self.top_k, dim=-1)  # [batch, seq, top_k]
{normalise}        return logits, weights.to(logits.dtype), indices
'''

SOFTMAX = "logits.softmax(dim=-1, dtype=torch.float)"
SIGMOID = "logits.float().sigmoid()"
NORMALISE = "weights = weights / weights.sum(dim=-1, keepdim=True)"

EXPERTS = '''
@use_experts_implementation
class {name}(nn.Module):
    """Gated MLPs, their weights packed: `experts_implementation` of transformers may run them in other ways."""

    def __init__(
        self, config: {config}, hidden_dim: int, intermediate_dim: int, num_experts: int, hidden_act: str
    ) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.num_experts = num_experts
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * intermediate_dim, hidden_dim))
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_dim, intermediate_dim))
        self.act_fn = ACT2FN[hidden_act]

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        out = torch.zeros_like(hidden_states)  # [tokens, hidden_dim]
        chosen = top_k_index.T  # [top_k, tokens]
        # Under expert parallelism, experts that another device holds go by the number `num_experts`.
        for expert in top_k_index[top_k_index < self.num_experts].unique():
            place, token = torch.where(chosen == expert)
            gate, up = nn.functional.linear(hidden_states[token], self.gate_up_proj[expert]).chunk(2, dim=-1)
            states = nn.functional.linear(self.act_fn(gate) * up, self.down_proj[expert])
            states = states * top_k_weights[token, place, None]
            out.index_add_(0, token, states.to(out.dtype))
        return out
'''

INIT_WEIGHTS = """
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, {classes}):
            for parameter in module.parameters(recurse=False):
                init.normal_(parameter, mean=0.0, std={std})
"""


def nodes(plan: Plan, op: str) -> list[Node]:
    """The nodes of one op that run."""
    return [item for name in plan.order for item in plan.items(name) if isinstance(item, Node) and item.op == op]


def classes(plan: Plan) -> list[str]:
    """The text of the classes that a model's routers and experts are of."""
    parts = []
    if nodes(plan, "router"):
        parts.append(router(plan))
    if nodes(plan, "experts"):
        parts.append(EXPERTS.format(name=plan.names.classes.experts, config=plan.names.config))
    return parts


def router(plan: Plan) -> str:
    """The class of routers: it knows what the model's routers do, and no more."""
    scorings = {complete(node)["scoring"] for node in nodes(plan, "router")}
    normalising = {complete(node)["normalise"] for node in nodes(plan, "router")}
    arguments = ["self", "size: int", "num_experts: int", "top_k: int"]
    attributes, scores, normalise = "", SOFTMAX, f"        {NORMALISE}\n"
    if scorings != {"softmax"}:
        arguments.append('scoring: str = "softmax"')
        attributes += "        self.scoring = scoring\n"
        scores = f'{SIGMOID} if self.scoring == "sigmoid" else {SOFTMAX}'
    if normalising != {True}:
        arguments.append("normalise: bool = True")
        attributes += "        self.normalise = normalise\n"
        normalise = f"        if self.normalise:\n            {NORMALISE}\n"
    return ROUTER.format(
        name=plan.names.classes.router,
        signature=", ".join(arguments),
        attributes=attributes,
        scores=scores,
        normalise=normalise,
    )


def init_weights(plan: Plan) -> str:
    """What the base class of a model with packed parameters adds: transformers initialises only modules that it knows."""
    names = plan.names.classes
    own = [cls for op, cls in (("router", names.router), ("experts", names.experts)) if nodes(plan, op)]
    if not own:
        return ""
    known = own[0] if len(own) == 1 else f"({', '.join(own)})"
    std = "self.config.initializer_range" if "initializer_range" in plan.document.config else "0.02"
    return INIT_WEIGHTS.format(classes=known, std=std)
