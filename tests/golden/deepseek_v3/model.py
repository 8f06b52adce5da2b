"""deepseek-v3: written by Canvas."""

import copy
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, GradientCheckpointingLayer, PretrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.integrations import use_experts_implementation
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


@strict
class CanvasDeepseekV3Config(PretrainedConfig):
    model_type = "canvas_deepseek_v3"
    _auto_class = "AutoConfig"  # whoever saves a model saves this file with it
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"num_experts": "n_routed_experts", "num_local_experts": "n_routed_experts"}
    base_model_tp_plan = {
        "layers.*.mlp.experts.gate_up_proj": "packed_colwise",
        "layers.*.mlp.experts.down_proj": "rowwise",
        "layers.*.mlp.experts": "moe_tp_experts",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
        "layers.*.mlp.shared_experts.gate_proj": "colwise",
        "layers.*.mlp.shared_experts.up_proj": "colwise",
        "layers.*.mlp.shared_experts.down_proj": "rowwise",
    }
    base_model_ep_plan = {
        "layers.*.mlp.experts.gate_up_proj": "grouped_gemm",
        "layers.*.mlp.experts.down_proj": "grouped_gemm",
        "layers.*.mlp.experts": "ep_dispatch_experts",
    }
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 129280
    hidden_size: int = 7168
    intermediate_size: int = 18432
    moe_intermediate_size: int = 2048
    num_hidden_layers: int = 61
    num_attention_heads: int = 128
    n_shared_experts: int = 1
    n_routed_experts: int = 256
    kv_lora_rank: int = 512
    q_lora_rank: int = 1536
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    qk_nope_head_dim: int = 128
    n_group: int = 8
    topk_group: int = 4
    num_experts_per_tok: int = 8
    max_position_embeddings: int = 163840
    num_key_value_heads: int = 128
    output_router_logits: bool = False
    routed_scaling_factor: float | int = 2.5
    first_k_dense_replace: int = 3
    norm_topk_prob: bool = True
    hidden_act: str = "silu"
    initializer_range: float | int = 0.02
    rms_norm_eps: float | int = 1e-06
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    pretraining_tp: int = 1
    tie_word_embeddings: bool = False
    rope_parameters: RopeParameters | dict | None = None
    rope_interleave: bool = True
    attention_bias: bool = False
    attention_dropout: float | int = 0.0
    num_mtp_layers: int = 1
    head_dim: int | None = 64
    layer_kinds: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.layer_kinds is None:
            self.layer_kinds = ["DeepseekV3SparseDecoderLayer"] * self.num_hidden_layers
        names = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
        kwargs.setdefault("auto_map", {auto: f"model.CanvasDeepseekV3{name}" for auto, name in names.items()})
        super().__post_init__(**kwargs)


def with_values(config: CanvasDeepseekV3Config, **values: Any) -> CanvasDeepseekV3Config:
    """A copy of a config with some fields changed."""
    changed = copy.copy(config)
    for name, value in values.items():
        setattr(changed, name, value)
    return changed


class CanvasDeepseekV3RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(hidden_states.dtype)


class CanvasDeepseekV3RotaryEmbedding(nn.Module):
    inv_freq: Tensor

    def __init__(self, config: CanvasDeepseekV3Config) -> None:
        super().__init__()
        self.config = config
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        init = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = init(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: CanvasDeepseekV3Config, **kwargs: Any) -> tuple[Tensor, float]:
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float) / config.head_dim
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


def rotate_pairs_to_halves_first_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = (table[..., : table.shape[-1] // 2] for table in (cos, sin))
    cos, sin = (torch.cat((table, table), dim=-1) for table in (cos, sin))
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # one for all heads
    x = torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1)
    return x * cos + rotate_half(x) * sin


def rotate_pairs_to_halves_first_half_tail_part(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = (table[..., : table.shape[-1] // 2] for table in (cos, sin))
    cos, sin = (torch.cat((table, table), dim=-1) for table in (cos, sin))
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # one for all heads
    width = cos.shape[-1]
    rest, x = x[..., :-width], x[..., -width:]
    x = torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1)
    turned = x * cos + rotate_half(x) * sin
    return torch.cat((rest, turned), dim=-1)


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


class CanvasDeepseekV3GroupedScaledBalancedWidePreciseUnsortedRouter(nn.Module):
    """Chooses `top_k` experts for each token."""

    e_score_correction_bias: Tensor

    def __init__(
        self,
        size: int,
        num_experts: int,
        top_k: int,
        factor: float,
        groups: int,
        top_groups: int,
        scoring: str = "softmax",
        normalise: bool = True,
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.scoring = scoring
        self.normalise = normalise
        self.factor = factor
        self.groups = groups
        self.top_groups = top_groups
        self.weight = nn.Parameter(torch.empty(num_experts, size))
        self.register_buffer("e_score_correction_bias", torch.zeros(num_experts))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = nn.functional.linear(hidden_states.float(), self.weight.float())  # [batch, seq, experts]
        scores = logits.sigmoid() if self.scoring == "sigmoid" else logits.softmax(dim=-1, dtype=torch.float)
        choice = scores + self.e_score_correction_bias
        groups = choice.unflatten(-1, (self.groups, -1))
        best = groups.topk(2, dim=-1)[0].sum(dim=-1)  # a group counts as much as its best two
        chosen = torch.zeros_like(best).scatter_(-1, best.topk(self.top_groups, dim=-1, sorted=False)[1], 1)
        choice = groups.masked_fill(~chosen.unsqueeze(-1).bool(), float("-inf")).flatten(-2)
        indices = choice.topk(self.top_k, dim=-1, sorted=False)[1]  # [batch, seq, top_k]
        weights = scores.gather(-1, indices)
        if self.normalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        weights = weights * self.factor
        return logits.flatten(0, -2), weights, indices


@use_experts_implementation
class CanvasDeepseekV3Experts(nn.Module):
    """Gated MLPs, their weights packed: `experts_implementation` of transformers may run them in other ways."""

    def __init__(
        self, config: CanvasDeepseekV3Config, hidden_dim: int, intermediate_dim: int, num_experts: int, hidden_act: str
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


class CanvasDeepseekV3Attention(nn.Module):
    def __init__(self, config: CanvasDeepseekV3Config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.scaling = 1.8738542070926 * (config.qk_rope_head_dim + config.qk_nope_head_dim) ** -0.5
        self.attention_dropout = config.attention_dropout
        self.q_b_head_dim = config.qk_rope_head_dim + config.qk_nope_head_dim
        self.kv_lora_rank = config.kv_lora_rank
        self.qk_rope_head_dim = config.qk_rope_head_dim
        self.kv_view_size = config.v_head_dim + config.qk_nope_head_dim
        self.qk_nope_head_dim = config.qk_nope_head_dim
        self.v_head_dim = config.v_head_dim
        self.num_attention_heads = config.num_attention_heads
        self.q_a_proj = nn.Linear(config.hidden_size, config.q_lora_rank, config.attention_bias)
        self.q_a_layernorm = CanvasDeepseekV3RMSNorm(config.q_lora_rank, eps=1e-06)
        self.q_b_proj = nn.Linear(
            config.q_lora_rank,
            config.num_attention_heads * config.qk_rope_head_dim + config.num_attention_heads * config.qk_nope_head_dim,
            bias=False,
        )
        self.kv_a_proj_with_mqa = nn.Linear(
            config.hidden_size, config.kv_lora_rank + config.qk_rope_head_dim, config.attention_bias
        )
        self.kv_a_layernorm = CanvasDeepseekV3RMSNorm(config.kv_lora_rank, eps=1e-06)
        self.kv_b_proj = nn.Linear(
            config.kv_lora_rank,
            config.num_attention_heads * config.v_head_dim + config.num_attention_heads * config.qk_nope_head_dim,
            bias=False,
        )
        self.o_proj = nn.Linear(
            config.num_attention_heads * config.v_head_dim, config.hidden_size, config.attention_bias
        )

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states.shape
        # [batch, num_attention_heads, seq, qk_rope_head_dim + qk_nope_head_dim]
        q_b = (
            self.q_b_proj(self.q_a_layernorm(self.q_a_proj(hidden_states)))
            .view(batch, seq, -1, self.q_b_head_dim)
            .transpose(1, 2)
        )
        out_0, out_1 = self.kv_a_proj_with_mqa(hidden_states).split((self.kv_lora_rank, self.qk_rope_head_dim), dim=-1)
        kv_a_layernorm_view = self.kv_a_layernorm(out_0).view(batch, 1, seq, self.kv_lora_rank)
        rotate = rotate_pairs_to_halves_first_half(out_1.view(batch, 1, seq, self.qk_rope_head_dim), cos, sin)
        rotate_1 = rotate_pairs_to_halves_first_half_tail_part(q_b, cos, sin)
        kv_heads = self.kv_b_proj(kv_a_layernorm_view).view(batch, seq, -1, self.kv_view_size).transpose(1, 2)
        out_0, v = kv_heads.split((self.qk_nope_head_dim, self.v_head_dim), dim=-1)
        k = torch.cat((out_0, rotate.expand(-1, self.num_attention_heads, -1, -1)), dim=-1)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        self.num_key_value_groups = rotate_1.shape[1] // k.shape[1]
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(
            self, rotate_1, k, v, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(attn.reshape(batch, seq, -1)), attn_weights


class CanvasDeepseekV3SharedExpertsMLP(nn.Module):
    def __init__(self, config: CanvasDeepseekV3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(
            config.hidden_size, config.moe_intermediate_size * config.n_shared_experts, bias=False
        )
        self.act_fn = ACT2FN[config.hidden_act]
        self.up_proj = nn.Linear(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts, bias=False)
        self.down_proj = nn.Linear(
            config.moe_intermediate_size * config.n_shared_experts, config.hidden_size, bias=False
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class CanvasDeepseekV3MoE(nn.Module):
    def __init__(self, config: CanvasDeepseekV3Config) -> None:
        super().__init__()
        self.gate = CanvasDeepseekV3GroupedScaledBalancedWidePreciseUnsortedRouter(
            config.hidden_size,
            config.n_routed_experts,
            config.num_experts_per_tok,
            scoring="sigmoid",
            normalise=config.norm_topk_prob,
            factor=config.routed_scaling_factor,
            groups=config.n_group,
            top_groups=config.topk_group,
        )
        self.experts = CanvasDeepseekV3Experts(
            config, config.hidden_size, config.moe_intermediate_size, config.n_routed_experts, config.hidden_act
        )
        self.shared_experts = CanvasDeepseekV3SharedExpertsMLP(config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        _, weights, indices = self.gate(hidden_states)
        tokens = self.experts(hidden_states.flatten(0, -2), indices.flatten(0, -2), weights.flatten(0, -2))
        return tokens.view_as(hidden_states) + self.shared_experts(hidden_states)


class CanvasDeepseekV3SparseDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasDeepseekV3Config, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = CanvasDeepseekV3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = CanvasDeepseekV3Attention(config, layer_idx)
        self.post_attention_layernorm = CanvasDeepseekV3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = CanvasDeepseekV3MoE(config)

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        attn, _ = self.self_attn(
            self.input_layernorm(hidden_states), cos, sin, attention_mask, past_key_values=past_key_values, **kwargs
        )
        hidden_states = hidden_states + attn
        del attn
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class CanvasDeepseekV3MLP(nn.Module):
    def __init__(self, config: CanvasDeepseekV3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class CanvasDeepseekV3DenseDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasDeepseekV3Config, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = CanvasDeepseekV3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = CanvasDeepseekV3Attention(config, layer_idx)
        self.post_attention_layernorm = CanvasDeepseekV3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = CanvasDeepseekV3MLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        attn, _ = self.self_attn(
            self.input_layernorm(hidden_states), cos, sin, attention_mask, past_key_values=past_key_values, **kwargs
        )
        hidden_states = hidden_states + attn
        del attn
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class CanvasDeepseekV3PreTrainedModel(PreTrainedModel):
    config: CanvasDeepseekV3Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CanvasDeepseekV3SparseDecoderLayer", "CanvasDeepseekV3DenseDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = _supports_sdpa = _supports_flex_attn = _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": [CanvasDeepseekV3SparseDecoderLayer, CanvasDeepseekV3DenseDecoderLayer],
        "attentions": CanvasDeepseekV3Attention,
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(
            module, (CanvasDeepseekV3GroupedScaledBalancedWidePreciseUnsortedRouter, CanvasDeepseekV3Experts)
        ):
            for parameter in module.parameters(recurse=False):
                init.normal_(parameter, mean=0.0, std=self.config.initializer_range)
            if "e_score_correction_bias" in module._buffers:
                init.zeros_(module.e_score_correction_bias)


class CanvasDeepseekV3Model(CanvasDeepseekV3PreTrainedModel):
    def __init__(self, config: CanvasDeepseekV3Config) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.rotary_emb = CanvasDeepseekV3RotaryEmbedding(with_values(config, head_dim=config.qk_rope_head_dim))
        classes: dict[str, Any] = {
            "DeepseekV3SparseDecoderLayer": CanvasDeepseekV3SparseDecoderLayer,
            "DeepseekV3DenseDecoderLayer": CanvasDeepseekV3DenseDecoderLayer,
        }
        self.layers = nn.ModuleList((classes[kind](config, index) for index, kind in enumerate(config.layer_kinds)))
        self.norm = CanvasDeepseekV3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
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
        mask = create_causal_mask(self.config, inputs_embeds, attention_mask, past_key_values, position_ids)
        kwargs.update(position_ids=position_ids, use_cache=use_cache)
        cos, sin = self.rotary_emb(inputs_embeds, position_ids)
        hidden_states = inputs_embeds
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(hidden_states, cos, sin, mask, past_key_values=past_key_values, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)


class CanvasDeepseekV3ForCausalLM(CanvasDeepseekV3PreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: CanvasDeepseekV3Config) -> None:
        super().__init__(config)
        self.model = CanvasDeepseekV3Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

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
        logits = self.lm_head(hidden_states)
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss, logits, outputs.past_key_values, outputs.hidden_states, outputs.attentions)
