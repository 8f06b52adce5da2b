"""gemma-4-26b-a4b: written by Canvas."""

import copy
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, GradientCheckpointingLayer, PretrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.integrations import use_experts_implementation
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


@strict
class CanvasGemma4Config(PretrainedConfig):
    model_type = "canvas_gemma4_text"
    _auto_class = "AutoConfig"  # whoever saves a model saves this file with it
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"num_local_experts": "num_experts"}
    base_model_tp_plan = {
        "layers.*.experts.gate_up_proj": "packed_colwise",
        "layers.*.experts.down_proj": "rowwise",
        "layers.*.experts": "moe_tp_experts",
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.q_norm": "replicated_with_grad_allreduce",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.k_norm": "replicated_with_grad_allreduce",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }
    base_model_ep_plan = {
        "layers.*.experts.gate_up_proj": "grouped_gemm",
        "layers.*.experts.down_proj": "grouped_gemm",
        "layers.*.experts": "ep_dispatch_experts",
    }
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 262144
    hidden_size: int = 2816
    intermediate_size: int = 2112
    num_hidden_layers: int = 30
    num_attention_heads: int = 16
    num_key_value_heads: int = 8
    head_dim: int | None = 256
    max_position_embeddings: int = 262144
    sliding_window: int | None = 1024
    num_experts: int = 128
    top_k_experts: int = 8
    moe_intermediate_size: int = 704
    hidden_activation: str = "gelu_pytorch_tanh"
    initializer_range: float | int = 0.02
    rms_norm_eps: float | int = 1e-06
    use_cache: bool = True
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    bos_token_id: int | None = 2
    tie_word_embeddings: bool = True
    rope_parameters: RopeParameters | dict | None = None
    attention_bias: bool = False
    attention_dropout: float | int = 0.0
    final_logit_softcapping: float | int = 30.0
    use_bidirectional_attention: list | dict | None = None
    vocab_size_per_layer_input: int = 262144
    hidden_size_per_layer_input: int = 0
    attention_k_eq_v: bool = True
    num_kv_shared_layers: int = 0
    enable_moe_block: bool = True
    use_double_wide_mlp: bool = False
    layer_types: list[str] | None = None
    layer_kinds: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.layer_kinds is None:
            self.layer_kinds = ["Gemma4SlidingTextDecoderLayer"] * self.num_hidden_layers
        names = {"AutoConfig": "Config", "AutoModel": "TextModel", "AutoModelForCausalLM": "ForCausalLM"}
        kwargs.setdefault("auto_map", {auto: f"model.CanvasGemma4{name}" for auto, name in names.items()})
        super().__post_init__(**kwargs)


def with_values(config: CanvasGemma4Config, **values: Any) -> CanvasGemma4Config:
    """A copy of a config with some fields changed."""
    changed = copy.copy(config)
    changed.allow_global_per_layer_attribute_access = True  # it is for what stands outside the layers
    for name, value in values.items():
        setattr(changed, name, value)
    return changed


class CanvasGemma4PowerWideRMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states.to(torch.float32)
        wide = wide * (wide.pow(2).mean(-1, keepdim=True) + self.eps).pow(-0.5)
        return (self.weight * wide).to(hidden_states.dtype)


class CanvasGemma4UnweightedPowerRMSNorm(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states.to(torch.float32)
        wide = wide * (wide.pow(2).mean(-1, keepdim=True) + self.eps).pow(-0.5)
        return wide.to(hidden_states.dtype)


class CanvasGemma4RoundedScaledEmbedding(nn.Embedding):
    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None, factor: float) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.factor = factor

    def forward(self, input_ids: Tensor) -> Tensor:
        return super().forward(input_ids) * torch.full(
            (), self.factor, dtype=self.weight.dtype, device=self.weight.device
        )


class CanvasGemma4LayerRotaryEmbedding(nn.Module):
    inv_freq: Tensor

    def __init__(self, config: CanvasGemma4Config, layer_type: str) -> None:
        super().__init__()
        self.layer_type = layer_type
        self.rope_parameters = config.rope_parameters  # of all types of layer
        config = with_values(config, rope_parameters=config.rope_parameters[layer_type])
        self.config = config
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        init = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = init(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: CanvasGemma4Config, **kwargs: Any) -> tuple[Tensor, float]:
        width = int(config.head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
        exponents = torch.arange(0, width, 2, dtype=torch.float) / width
        return 1.0 / (config.rope_parameters["rope_theta"] ** exponents), 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].float() * self.inv_freq.to(device=x.device, dtype=torch.float)
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def rotate_tokens_first(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)  # one for all heads
    return x * cos + rotate_half(x) * sin


def apply_rotary_tokens_first(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return rotate_tokens_first(q, cos, sin), rotate_tokens_first(k, cos, sin)


def eager_attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    groups = module.num_key_value_groups  # of query heads that share a key/value head
    key = key.unsqueeze(2).expand(-1, -1, groups, -1, -1).flatten(1, 2)
    value = value.unsqueeze(2).expand(-1, -1, groups, -1, -1).flatten(1, 2)
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


@use_experts_implementation
class CanvasGemma4Experts(nn.Module):
    """Gated MLPs, their weights packed: `experts_implementation` of transformers may run them in other ways."""

    def __init__(
        self, config: CanvasGemma4Config, hidden_dim: int, intermediate_dim: int, num_experts: int, hidden_act: str
    ) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.num_experts = num_experts
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * intermediate_dim, hidden_dim))
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_dim, intermediate_dim))
        self.act_fn = ACT2FN[hidden_act]

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
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


class CanvasGemma4SlidingTextAttention(nn.Module):
    def __init__(self, config: CanvasGemma4Config, layer_idx: int) -> None:
        super().__init__()
        layer = config.per_layer_config[layer_idx]
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.scaling = 1.0
        self.attention_dropout = layer.attention_dropout
        self.sliding_window = layer.sliding_window
        self.num_key_value_groups = layer.num_attention_heads // layer.num_key_value_heads
        self.head_dim = layer.head_dim
        self.q_proj = nn.Linear(layer.hidden_size, layer.num_attention_heads * layer.head_dim, layer.attention_bias)
        self.q_norm = CanvasGemma4PowerWideRMSNorm(layer.head_dim, eps=layer.rms_norm_eps)
        self.k_proj = nn.Linear(layer.hidden_size, layer.num_key_value_heads * layer.head_dim, layer.attention_bias)
        self.v_proj = nn.Linear(layer.hidden_size, layer.num_key_value_heads * layer.head_dim, layer.attention_bias)
        self.k_norm = CanvasGemma4PowerWideRMSNorm(layer.head_dim, eps=layer.rms_norm_eps)
        self.v_norm = CanvasGemma4UnweightedPowerRMSNorm(eps=layer.rms_norm_eps)
        self.o_proj = nn.Linear(layer.num_attention_heads * layer.head_dim, layer.hidden_size, layer.attention_bias)

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        attention_mask: dict[int | None, Tensor | None] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states.shape
        q_heads = self.q_proj(hidden_states).view(batch, seq, -1, self.head_dim)
        q_norm = self.q_norm(q_heads)
        k_heads = self.k_proj(hidden_states).view(batch, seq, -1, self.head_dim)
        v_heads = self.v_proj(hidden_states).view(batch, seq, -1, self.head_dim)
        q_norm, k = apply_rotary_tokens_first(q_norm, self.k_norm(k_heads), cos, sin)
        q = q_norm.transpose(1, 2)
        k_1 = k.transpose(1, 2)
        v = self.v_norm(v_heads).transpose(1, 2)
        if past_key_values is not None:
            k_1, v = past_key_values.update(k_1, v, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(
            self,
            q,
            k_1,
            v,
            attention_mask[self.sliding_window],
            dropout=dropout,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        return self.o_proj(attn.reshape(batch, seq, -1)), attn_weights


class CanvasGemma4TextMLP(nn.Module):
    def __init__(self, config: CanvasGemma4Config, layer_idx: int) -> None:
        super().__init__()
        layer = config.per_layer_config[layer_idx]
        self.gate_proj = nn.Linear(layer.hidden_size, layer.intermediate_size, bias=False)
        self.act_fn = ACT2FN[layer.hidden_activation]
        self.up_proj = nn.Linear(layer.hidden_size, layer.intermediate_size, bias=False)
        self.down_proj = nn.Linear(layer.intermediate_size, layer.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class CanvasGemma4TextRouter(nn.Module):
    def __init__(self, config: CanvasGemma4Config, layer_idx: int) -> None:
        super().__init__()
        layer = config.per_layer_config[layer_idx]
        self.scaled_factor = layer.hidden_size**-0.5
        self.top_k_experts = layer.top_k_experts
        self.scale = nn.Parameter(torch.zeros((layer.hidden_size,)))
        self.per_expert_scale = nn.Parameter(torch.zeros((layer.num_experts,)))
        self.norm = CanvasGemma4UnweightedPowerRMSNorm(eps=layer.rms_norm_eps)
        self.proj = nn.Linear(layer.hidden_size, layer.num_experts, bias=False)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = (
            self.proj(self.norm(hidden_states) * self.scale * self.scaled_factor)
            .softmax(dim=-1, dtype=torch.float32)
            .topk(self.top_k_experts)
        )
        per_expert_scale_index = self.per_expert_scale[indices,]
        return indices, values / values.sum(dim=-1, keepdim=True) * per_expert_scale_index


class CanvasGemma4SlidingTextDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasGemma4Config, layer_idx: int) -> None:
        super().__init__()
        layer = config.per_layer_config[layer_idx]
        self.hidden_size = layer.hidden_size
        self.register_buffer("layer_scalar", torch.zeros((1,)))
        self.input_layernorm = CanvasGemma4PowerWideRMSNorm(layer.hidden_size, eps=layer.rms_norm_eps)
        self.self_attn = CanvasGemma4SlidingTextAttention(config, layer_idx)
        self.post_attention_layernorm = CanvasGemma4PowerWideRMSNorm(layer.hidden_size, eps=layer.rms_norm_eps)
        self.pre_feedforward_layernorm = CanvasGemma4PowerWideRMSNorm(layer.hidden_size, eps=layer.rms_norm_eps)
        self.mlp = CanvasGemma4TextMLP(config, layer_idx)
        self.post_feedforward_layernorm_1 = CanvasGemma4PowerWideRMSNorm(layer.hidden_size, eps=layer.rms_norm_eps)
        self.router = CanvasGemma4TextRouter(config, layer_idx)
        self.pre_feedforward_layernorm_2 = CanvasGemma4PowerWideRMSNorm(layer.hidden_size, eps=layer.rms_norm_eps)
        self.experts = CanvasGemma4Experts(
            config, layer.hidden_size, layer.moe_intermediate_size, layer.num_experts, layer.hidden_activation
        )
        self.post_feedforward_layernorm_2 = CanvasGemma4PowerWideRMSNorm(layer.hidden_size, eps=layer.rms_norm_eps)
        self.post_feedforward_layernorm = CanvasGemma4PowerWideRMSNorm(layer.hidden_size, eps=layer.rms_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        cos_1: Tensor,
        sin_1: Tensor,
        attention_mask: dict[int | None, Tensor | None] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        batch, seq, _ = hidden_states.shape
        attn, _ = self.self_attn(
            self.input_layernorm(hidden_states), cos, sin, attention_mask, past_key_values=past_key_values, **kwargs
        )
        hidden_states = hidden_states + self.post_attention_layernorm(attn)
        del attn
        post_feedforward_layernorm_1 = self.post_feedforward_layernorm_1(
            self.mlp(self.pre_feedforward_layernorm(hidden_states))
        )
        post_attention_layernorm_residual_reshape = hidden_states.reshape(-1, self.hidden_size)
        out, out_1 = self.router(post_attention_layernorm_residual_reshape)
        hidden_states_1 = self.pre_feedforward_layernorm_2(post_attention_layernorm_residual_reshape)
        tokens = self.experts(hidden_states_1.flatten(0, -2), out.flatten(0, -2), out_1.flatten(0, -2))
        post_feedforward_layernorm_1 = post_feedforward_layernorm_1 + self.post_feedforward_layernorm_2(
            tokens.view_as(hidden_states_1).reshape(batch, seq, self.hidden_size)
        )
        hidden_states = hidden_states + self.post_feedforward_layernorm(post_feedforward_layernorm_1)
        return hidden_states * self.layer_scalar


class CanvasGemma4FullTextAttention(nn.Module):
    def __init__(self, config: CanvasGemma4Config, layer_idx: int) -> None:
        super().__init__()
        layer = config.per_layer_config[layer_idx]
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.scaling = 1.0
        self.attention_dropout = layer.attention_dropout
        self.sliding_window = None
        self.num_key_value_groups = layer.num_attention_heads // 2
        self.q_proj = nn.Linear(layer.hidden_size, 512 * layer.num_attention_heads, layer.attention_bias)
        self.q_norm = CanvasGemma4PowerWideRMSNorm(512, eps=layer.rms_norm_eps)
        self.k_proj = nn.Linear(layer.hidden_size, 1024, layer.attention_bias)
        self.k_norm = CanvasGemma4PowerWideRMSNorm(512, eps=layer.rms_norm_eps)
        self.v_norm = CanvasGemma4UnweightedPowerRMSNorm(eps=layer.rms_norm_eps)
        self.o_proj = nn.Linear(512 * layer.num_attention_heads, layer.hidden_size, layer.attention_bias)

    def forward(
        self,
        hidden_states: Tensor,
        hidden_states_1: Tensor,
        hidden_states_2: Tensor,
        attention_mask: dict[int | None, Tensor | None] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states_2.shape
        q_heads = self.q_proj(hidden_states_2).view(batch, seq, -1, 512)
        q_norm = self.q_norm(q_heads)
        k_heads = self.k_proj(hidden_states_2).view(batch, seq, -1, 512)
        q_norm, k = apply_rotary_tokens_first(q_norm, self.k_norm(k_heads), hidden_states_1, hidden_states)
        q = q_norm.transpose(1, 2)
        k_1 = k.transpose(1, 2)
        v = self.v_norm(k_heads).transpose(1, 2)
        if past_key_values is not None:
            k_1, v = past_key_values.update(k_1, v, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(
            self, q, k_1, v, attention_mask[self.sliding_window], dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(attn.reshape(batch, seq, -1)), attn_weights


class CanvasGemma4FullTextDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasGemma4Config, layer_idx: int) -> None:
        super().__init__()
        layer = config.per_layer_config[layer_idx]
        self.hidden_size = layer.hidden_size
        self.register_buffer("layer_scalar", torch.zeros((1,)))
        self.input_layernorm = CanvasGemma4PowerWideRMSNorm(layer.hidden_size, eps=layer.rms_norm_eps)
        self.self_attn = CanvasGemma4FullTextAttention(config, layer_idx)
        self.post_attention_layernorm = CanvasGemma4PowerWideRMSNorm(layer.hidden_size, eps=layer.rms_norm_eps)
        self.pre_feedforward_layernorm = CanvasGemma4PowerWideRMSNorm(layer.hidden_size, eps=layer.rms_norm_eps)
        self.mlp = CanvasGemma4TextMLP(config, layer_idx)
        self.post_feedforward_layernorm_1 = CanvasGemma4PowerWideRMSNorm(layer.hidden_size, eps=layer.rms_norm_eps)
        self.router = CanvasGemma4TextRouter(config, layer_idx)
        self.pre_feedforward_layernorm_2 = CanvasGemma4PowerWideRMSNorm(layer.hidden_size, eps=layer.rms_norm_eps)
        self.experts = CanvasGemma4Experts(
            config, layer.hidden_size, layer.moe_intermediate_size, layer.num_experts, layer.hidden_activation
        )
        self.post_feedforward_layernorm_2 = CanvasGemma4PowerWideRMSNorm(layer.hidden_size, eps=layer.rms_norm_eps)
        self.post_feedforward_layernorm = CanvasGemma4PowerWideRMSNorm(layer.hidden_size, eps=layer.rms_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        cos_1: Tensor,
        sin_1: Tensor,
        attention_mask: dict[int | None, Tensor | None] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        batch, seq, _ = hidden_states.shape
        attn, _ = self.self_attn(
            sin_1, cos_1, self.input_layernorm(hidden_states), attention_mask, past_key_values=past_key_values, **kwargs
        )
        hidden_states = hidden_states + self.post_attention_layernorm(attn)
        del attn
        post_feedforward_layernorm_1 = self.post_feedforward_layernorm_1(
            self.mlp(self.pre_feedforward_layernorm(hidden_states))
        )
        post_attention_layernorm_residual_reshape = hidden_states.reshape(-1, self.hidden_size)
        out, out_1 = self.router(post_attention_layernorm_residual_reshape)
        hidden_states_1 = self.pre_feedforward_layernorm_2(post_attention_layernorm_residual_reshape)
        tokens = self.experts(hidden_states_1.flatten(0, -2), out.flatten(0, -2), out_1.flatten(0, -2))
        post_feedforward_layernorm_1 = post_feedforward_layernorm_1 + self.post_feedforward_layernorm_2(
            tokens.view_as(hidden_states_1).reshape(batch, seq, self.hidden_size)
        )
        hidden_states = hidden_states + self.post_feedforward_layernorm(post_feedforward_layernorm_1)
        return hidden_states * self.layer_scalar


class CanvasGemma4PreTrainedModel(PreTrainedModel):
    config: CanvasGemma4Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CanvasGemma4SlidingTextDecoderLayer", "CanvasGemma4FullTextDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = _supports_sdpa = _supports_flex_attn = _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": [CanvasGemma4SlidingTextDecoderLayer, CanvasGemma4FullTextDecoderLayer],
        "attentions": [CanvasGemma4SlidingTextAttention, CanvasGemma4FullTextAttention],
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CanvasGemma4Experts):
            for parameter in module.parameters(recurse=False):
                init.normal_(parameter, mean=0.0, std=self.config.initializer_range)


class CanvasGemma4TextModel(CanvasGemma4PreTrainedModel):
    def __init__(self, config: CanvasGemma4Config) -> None:
        super().__init__(config)
        self.embed_tokens = CanvasGemma4RoundedScaledEmbedding(
            config.vocab_size, config.hidden_size, config.pad_token_id, config.hidden_size**0.5
        )
        self.rotary_emb = CanvasGemma4LayerRotaryEmbedding(with_values(config), "sliding_attention")
        self.rotary_emb_1 = CanvasGemma4LayerRotaryEmbedding(with_values(config, head_dim=512), "full_attention")
        classes: dict[str, Any] = {
            "Gemma4SlidingTextDecoderLayer": CanvasGemma4SlidingTextDecoderLayer,
            "Gemma4FullTextDecoderLayer": CanvasGemma4FullTextDecoderLayer,
        }
        self.layers = nn.ModuleList((classes[kind](config, index) for index, kind in enumerate(config.layer_kinds)))
        self.norm = CanvasGemma4PowerWideRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past)[None]
        mask_arguments = {
            "config": self.config,
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
            "position_ids": position_ids,
        }
        windows = {module.sliding_window for module in self.layers.modules() if hasattr(module, "sliding_window")}
        mask = {
            window: create_causal_mask(**mask_arguments)
            if window is None
            else create_sliding_window_causal_mask(**mask_arguments)
            for window in windows
        }
        kwargs.update(position_ids=position_ids, use_cache=use_cache)
        cos, sin = self.rotary_emb(inputs_embeds, position_ids)
        cos_1, sin_1 = self.rotary_emb_1(inputs_embeds, position_ids)
        hidden_states = inputs_embeds
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(
                hidden_states, cos, sin, cos_1, sin_1, mask, past_key_values=past_key_values, **kwargs
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)


class CanvasGemma4ForCausalLM(CanvasGemma4PreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: CanvasGemma4Config) -> None:
        super().__init__(config)
        self.final_logit_softcapping = config.final_logit_softcapping
        self.model = CanvasGemma4TextModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.activation = ACT2FN["tanh"]
        self.post_init()

    @staticmethod
    def create_masks_for_generate(attention_mask: Tensor | None, **kwargs: Any) -> Tensor | None:
        return attention_mask  # windows differ from layer to layer: forward makes the masks itself

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        outputs = self.model(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache=use_cache, **kwargs
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden_states = outputs.last_hidden_state[:, kept, :]
        logits = (
            self.activation(self.lm_head(hidden_states) / self.final_logit_softcapping) * self.final_logit_softcapping
        )
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss, logits, outputs.past_key_values, outputs.hidden_states, outputs.attentions)
