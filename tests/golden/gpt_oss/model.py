"""gpt-oss-120b: written by Canvas."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, GradientCheckpointingLayer, PretrainedConfig
from transformers import initialization as init
from transformers.integrations import use_experts_implementation
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs


@strict
class CanvasGptOssConfig(PretrainedConfig):
    model_type = "canvas_gpt_oss"
    _auto_class = "AutoConfig"  # whoever saves a model saves this file with it
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"num_experts": "num_local_experts"}
    base_model_ep_plan = {
        "layers.*.mlp.experts.gate_up_proj": "grouped_gemm",
        "layers.*.mlp.experts.gate_up_proj_bias": "grouped_gemm",
        "layers.*.mlp.experts.down_proj": "grouped_gemm",
        "layers.*.mlp.experts.down_proj_bias": "grouped_gemm",
        "layers.*.mlp.experts": "ep_dispatch_experts",
    }
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    num_hidden_layers: int = 36
    num_local_experts: int = 128
    vocab_size: int = 201088
    hidden_size: int = 2880
    intermediate_size: int = 2880
    head_dim: int | None = 64
    num_attention_heads: int = 64
    num_key_value_heads: int = 8
    sliding_window: int | None = 128
    max_position_embeddings: int = 131072
    num_experts_per_tok: int = 4
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    initializer_range: float | int = 0.02
    rms_norm_eps: float | int = 1e-05
    rope_parameters: RopeParameters | dict | None = None
    attention_dropout: float | int = 0.0
    swiglu_alpha: float | int = 1.702
    swiglu_limit: float | int = 7.0
    router_aux_loss_coef: float | int = 0.9
    output_router_logits: bool = False
    use_cache: bool = True
    pad_token_id: int | None = 199999
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 200002
    attention_bias: bool = True
    layer_types: list[str] | None = None
    layer_kinds: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.layer_kinds is None:
            self.layer_kinds = ["GptOssSlidingDecoderLayer"] * self.num_hidden_layers
        names = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
        kwargs.setdefault("auto_map", {auto: f"model.CanvasGptOss{name}" for auto, name in names.items()})
        super().__post_init__(**kwargs)


class CanvasGptOssWideRMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight * wide).to(hidden_states.dtype)


class CanvasGptOssSingleRotaryEmbedding(nn.Module):
    inv_freq: Tensor

    def __init__(self, config: CanvasGptOssConfig) -> None:
        super().__init__()
        self.config = config
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        init = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = init(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: CanvasGptOssConfig, **kwargs: Any) -> tuple[Tensor, float]:
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float) / config.head_dim
        return 1.0 / (config.rope_parameters["rope_theta"] ** exponents), 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].float() * self.inv_freq.to(device=x.device, dtype=torch.float)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def rotate_once(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = (torch.cat((table, table), dim=-1) for table in (cos, sin))
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # one for all heads
    return x * cos + rotate_half(x) * sin


def apply_rotary_once(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return rotate_once(q, cos, sin), rotate_once(k, cos, sin)


def eager_attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    groups = module.num_key_value_groups  # of query heads that share a key/value head
    key = key.unsqueeze(2).expand(-1, -1, groups, -1, -1).flatten(1, 2)
    value = value.unsqueeze(2).expand(-1, -1, groups, -1, -1).flatten(1, 2)
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    if s_aux is not None:  # a sink takes a share of each query's attention, and gives nothing
        sinks = s_aux.reshape(1, -1, 1, 1).expand(query.shape[0], -1, query.shape[-2], -1)
        weights = torch.cat([weights, sinks], dim=-1)
    weights = weights - weights.max(dim=-1, keepdim=True).values
    weights = nn.functional.softmax(weights, dim=-1, dtype=weights.dtype)[..., : key.shape[2]].to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class CanvasGptOssLateBiasedRouter(nn.Module):
    """Chooses `top_k` experts for each token."""

    def __init__(self, size: int, num_experts: int, top_k: int, normalise: bool = True) -> None:
        super().__init__()
        self.top_k = top_k
        self.normalise = normalise
        self.weight = nn.Parameter(torch.empty(num_experts, size))
        self.bias = nn.Parameter(torch.zeros(num_experts))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = nn.functional.linear(hidden_states, self.weight, self.bias)  # [batch, seq, experts]
        logits = logits.float()
        weights, indices = logits.topk(self.top_k, dim=-1)  # [batch, seq, top_k]
        weights = weights.softmax(dim=-1, dtype=torch.float)
        if self.normalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return logits.flatten(0, -2), weights.to(hidden_states.dtype), indices


@use_experts_implementation(is_concatenated=False, is_transposed=True, has_bias=True)
class CanvasGptOssClampedSwishBiasedTransposedInterleavedShiftedExperts(nn.Module):
    """Gated MLPs, their weights packed: `experts_implementation` of transformers may run them in other ways."""

    def __init__(
        self,
        config: CanvasGptOssConfig,
        hidden_dim: int,
        intermediate_dim: int,
        num_experts: int,
        limit: float,
        alpha: float,
    ) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.num_experts = num_experts
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, hidden_dim, 2 * intermediate_dim))
        self.gate_up_proj_bias = nn.Parameter(torch.zeros(num_experts, 2 * intermediate_dim))
        self.down_proj = nn.Parameter(torch.empty(num_experts, intermediate_dim, hidden_dim))
        self.down_proj_bias = nn.Parameter(torch.zeros(num_experts, hidden_dim))
        self.limit = limit
        self.alpha = alpha

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        out = torch.zeros_like(hidden_states)  # [tokens, hidden_dim]
        chosen = top_k_index.T  # [top_k, tokens]
        # Under expert parallelism, experts that another device holds go by the number `num_experts`.
        for expert in top_k_index[top_k_index < self.num_experts].unique():
            place, token = torch.where(chosen == expert)
            states = self._apply_gate(hidden_states[token] @ self.gate_up_proj[expert] + self.gate_up_proj_bias[expert])
            states = states @ self.down_proj[expert] + self.down_proj_bias[expert]
            states = states * top_k_weights[token, place, None]
            out.index_add_(0, token, states.to(out.dtype))
        return out

    def _apply_gate(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up[..., ::2], gate_up[..., 1::2]
        gate, up = gate.clamp(max=self.limit), up.clamp(min=-self.limit, max=self.limit)
        return gate * torch.sigmoid(gate * self.alpha) * (up + 1)


class CanvasGptOssSlidingAttention(nn.Module):
    def __init__(self, config: CanvasGptOssConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.scaling = config.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.sliding_window = config.sliding_window
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.head_dim = config.head_dim
        self.sinks = nn.Parameter(torch.zeros((config.num_attention_heads,)))
        self.q_proj = nn.Linear(config.hidden_size, config.head_dim * config.num_attention_heads, config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.head_dim * config.num_key_value_heads, config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.head_dim * config.num_key_value_heads, config.attention_bias)
        self.o_proj = nn.Linear(config.head_dim * config.num_attention_heads, config.hidden_size, config.attention_bias)

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
        # [batch, num_attention_heads, seq, head_dim]
        q = self.q_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        # [batch, num_key_value_heads, seq, head_dim]
        k = self.k_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        v = self.v_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        q, k = apply_rotary_once(q, k, cos, sin)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(
            self,
            q,
            k,
            v,
            attention_mask[self.sliding_window],
            dropout=dropout,
            scaling=self.scaling,
            s_aux=self.sinks,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        return self.o_proj(attn.reshape(batch, seq, -1)), attn_weights


class CanvasGptOssMLP(nn.Module):
    def __init__(self, config: CanvasGptOssConfig) -> None:
        super().__init__()
        self.router = CanvasGptOssLateBiasedRouter(
            config.hidden_size, config.num_local_experts, config.num_experts_per_tok, normalise=False
        )
        self.experts = CanvasGptOssClampedSwishBiasedTransposedInterleavedShiftedExperts(
            config,
            config.hidden_size,
            config.intermediate_size,
            config.num_local_experts,
            limit=config.swiglu_limit,
            alpha=config.swiglu_alpha,
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        _, weights, indices = self.router(hidden_states)
        tokens = self.experts(hidden_states.flatten(0, -2), indices.flatten(0, -2), weights.flatten(0, -2))
        return tokens.view_as(hidden_states)


class CanvasGptOssSlidingDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasGptOssConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = CanvasGptOssWideRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = CanvasGptOssSlidingAttention(config, layer_idx)
        self.post_attention_layernorm = CanvasGptOssWideRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = CanvasGptOssMLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        attention_mask: dict[int | None, Tensor | None] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        attn, _ = self.self_attn(
            self.input_layernorm(hidden_states), cos, sin, attention_mask, past_key_values=past_key_values, **kwargs
        )
        hidden_states = hidden_states + attn
        del attn
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class CanvasGptOssFullAttention(nn.Module):
    def __init__(self, config: CanvasGptOssConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.scaling = config.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.sliding_window = None
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.head_dim = config.head_dim
        self.sinks = nn.Parameter(torch.zeros((config.num_attention_heads,)))
        self.q_proj = nn.Linear(config.hidden_size, config.head_dim * config.num_attention_heads, config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.head_dim * config.num_key_value_heads, config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.head_dim * config.num_key_value_heads, config.attention_bias)
        self.o_proj = nn.Linear(config.head_dim * config.num_attention_heads, config.hidden_size, config.attention_bias)

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
        # [batch, num_attention_heads, seq, head_dim]
        q = self.q_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        # [batch, num_key_value_heads, seq, head_dim]
        k = self.k_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        v = self.v_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        q, k = apply_rotary_once(q, k, cos, sin)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(
            self,
            q,
            k,
            v,
            attention_mask[self.sliding_window],
            dropout=dropout,
            scaling=self.scaling,
            s_aux=self.sinks,
            **kwargs,
        )
        return self.o_proj(attn.reshape(batch, seq, -1)), attn_weights


class CanvasGptOssFullDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasGptOssConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = CanvasGptOssWideRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = CanvasGptOssFullAttention(config, layer_idx)
        self.post_attention_layernorm = CanvasGptOssWideRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = CanvasGptOssMLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        attention_mask: dict[int | None, Tensor | None] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        attn, _ = self.self_attn(
            self.input_layernorm(hidden_states), cos, sin, attention_mask, past_key_values=past_key_values, **kwargs
        )
        hidden_states = hidden_states + attn
        del attn
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class CanvasGptOssPreTrainedModel(PreTrainedModel):
    config: CanvasGptOssConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CanvasGptOssSlidingDecoderLayer", "CanvasGptOssFullDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = False
    _supports_sdpa = False
    _supports_flex_attn = False
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": [CanvasGptOssSlidingDecoderLayer, CanvasGptOssFullDecoderLayer],
        "attentions": [CanvasGptOssSlidingAttention, CanvasGptOssFullAttention],
        "router_logits": OutputRecorder(CanvasGptOssLateBiasedRouter, index=0),
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(
            module, (CanvasGptOssLateBiasedRouter, CanvasGptOssClampedSwishBiasedTransposedInterleavedShiftedExperts)
        ):
            for parameter in module.parameters(recurse=False):
                init.normal_(
                    parameter, mean=0.0, std=self.config.initializer_range
                ) if parameter.dim() == 3 or parameter is getattr(module, "weight", None) else init.zeros_(parameter)


class CanvasGptOssModel(CanvasGptOssPreTrainedModel):
    def __init__(self, config: CanvasGptOssConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.rotary_emb = CanvasGptOssSingleRotaryEmbedding(config)
        classes: dict[str, Any] = {
            "GptOssSlidingDecoderLayer": CanvasGptOssSlidingDecoderLayer,
            "GptOssFullDecoderLayer": CanvasGptOssFullDecoderLayer,
        }
        self.layers = nn.ModuleList((classes[kind](config, index) for index, kind in enumerate(config.layer_kinds)))
        self.norm = CanvasGptOssWideRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
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
    ) -> MoeModelOutputWithPast:
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
        hidden_states = inputs_embeds
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(hidden_states, cos, sin, mask, past_key_values=past_key_values, **kwargs)
        return MoeModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)


class CanvasGptOssForCausalLM(CanvasGptOssPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: CanvasGptOssConfig) -> None:
        super().__init__(config)
        self.model = CanvasGptOssModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
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
        output_router_logits: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> MoeCausalLMOutputWithPast:
        if output_router_logits is None:
            output_router_logits = self.config.output_router_logits
        outputs = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache=use_cache,
            output_router_logits=output_router_logits,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden_states = outputs.last_hidden_state[:, kept, :]
        logits = self.lm_head(hidden_states)
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        aux_loss = None
        if output_router_logits:
            aux_loss = load_balancing_loss_func(
                outputs.router_logits, self.config.num_local_experts, self.config.num_experts_per_tok, attention_mask
            )
            if loss is not None:
                loss = loss + self.config.router_aux_loss_coef * aux_loss.to(loss.device)
        return MoeCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            aux_loss=aux_loss,
            router_logits=outputs.router_logits,
        )
