"""The text of modules that a document keeps whole, where plain code knows what they do without transformers."""

from collections.abc import Mapping

from canvas_rt.codegen.leaves import gated_class
from canvas_rt.ir.document import Node
from canvas_rt.ops.catalogue import complete

GATED_DELTA_RULE = '''
def gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, chunk: int = 64
) -> Tensor:
    """What a state gives that decays with each token, and is corrected for its key: chunk by chunk, decays in logarithms.

    Source: Yang et al. 2025, Gated Delta Networks.
    """
    seq, missing = q.shape[2], -q.shape[2] % chunk
    q, k, v = (nn.functional.pad(x, (0, 0, 0, missing)) for x in (q, k, v))
    beta, decay = (nn.functional.pad(x, (0, missing)) for x in (beta, decay))
    parts = (q, k, k * beta[..., None], v * beta[..., None])
    q, k, weighed, values = (x.unflatten(2, (-1, chunk)) for x in parts)  # [batch, heads, chunks, chunk, width]
    total = decay.unflatten(2, (-1, chunk)).cumsum(-1)
    later = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).triu(1)
    between = (total[..., :, None] - total[..., None, :]).masked_fill(later, float("-inf")).exp()
    system, within = weighed @ k.transpose(-1, -2) * between, q @ k.transpose(-1, -2) * between
    held = weighed * total.exp()[..., None]
    values, held = (torch.linalg.solve_triangular(system, x, upper=False, unitriangular=True) for x in (values, held))
    q, k = q * total.exp()[..., None], k * (total[..., -1:] - total).exp()[..., None]
    state, out = v.new_zeros(*v.shape[:2], k.shape[-1], v.shape[-1]), []
    for index in range(q.shape[2]):
        new = values[:, :, index] - held[:, :, index] @ state
        out.append(q[:, :, index] @ state + within[:, :, index] @ new)
        state = state * total[:, :, index, -1].exp()[..., None, None] + k[:, :, index].transpose(-1, -2) @ new
    return torch.cat(out, dim=2)[:, :, :seq]
'''

GATED_DELTA_NET = '''
class {name}(nn.Module):
    """Linear attention by the gated delta rule, with a short convolution before it."""

    def __init__(
        self,
        hidden_act: str,
        hidden_size: int,
        linear_conv_kernel_dim: int,
        linear_key_head_dim: int,
        linear_num_key_heads: int,
        linear_num_value_heads: int,
        linear_value_head_dim: int,
        rms_norm_eps: float,
    ) -> None:
        super().__init__()
        keys, values = linear_num_key_heads * linear_key_head_dim, linear_num_value_heads * linear_value_head_dim
        self.parts = (keys, keys, values)
        self.widths = (linear_key_head_dim, linear_key_head_dim, linear_value_head_dim)
        self.groups = linear_num_value_heads // linear_num_key_heads
        self.act_fn = ACT2FN[hidden_act]
        width, length = sum(self.parts), linear_conv_kernel_dim
        self.dt_bias = nn.Parameter(torch.ones(linear_num_value_heads))
        self.A_log = nn.Parameter(torch.empty(linear_num_value_heads).uniform_(0.01, 16).log())
        self.conv1d = nn.Conv1d(width, width, length, groups=width, padding=length - 1, bias=False)
        self.norm = {name}Norm(linear_value_head_dim, rms_norm_eps, "silu")
        self.out_proj = nn.Linear(values, hidden_size, bias=False)
        self.in_proj_qkv = nn.Linear(hidden_size, width, bias=False)
        self.in_proj_z = nn.Linear(hidden_size, values, bias=False)
        self.in_proj_b = nn.Linear(hidden_size, linear_num_value_heads, bias=False)
        self.in_proj_a = nn.Linear(hidden_size, linear_num_value_heads, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        mixed = self.conv1d(self.in_proj_qkv(hidden_states).transpose(1, 2))[..., : hidden_states.shape[1]]
        parts = self.act_fn(mixed).transpose(1, 2).split(self.parts, dim=-1)
        # [batch, heads, seq, width], in fp32
        q, k, v = (x.unflatten(-1, (-1, size)).transpose(1, 2).float() for x, size in zip(parts, self.widths))
        q, k = (x.repeat_interleave(self.groups, dim=1) for x in (q, k))
        q, k = (x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6) for x in (q, k))
        beta = self.in_proj_b(hidden_states).sigmoid().transpose(1, 2).float()
        step = nn.functional.softplus(self.in_proj_a(hidden_states).float() + self.dt_bias)
        decay = (-self.A_log.float().exp() * step).transpose(1, 2)
        out = gated_delta_rule(q * q.shape[-1] ** -0.5, k, v, decay, beta).transpose(1, 2).to(hidden_states.dtype)
        gate = self.in_proj_z(hidden_states).unflatten(-1, (-1, out.shape[-1]))
        return self.out_proj(self.norm(out, gate).flatten(2))
'''

_NORM = {"group_size": None, "gate_first": False, "form": "cast_then_weight"}

KEPT: Mapping[str, str] = {
    source: gated_class(f"{source.partition('.')[2]}Norm", _NORM)
    + GATED_DELTA_RULE
    + GATED_DELTA_NET.format(name=source.partition(".")[2])
    for source in ("qwen3_5.Qwen3_5GatedDeltaNet", "qwen3_5_moe.Qwen3_5MoeGatedDeltaNet")
}
"""By what transformers calls a module: the classes that plain code has for it, made with the fields that it reads."""


def is_known(node: Node) -> bool:
    """Whether plain code has a class for a module kept whole."""
    return complete(node)["source"] in KEPT


__all__ = ["KEPT", "is_known"]
