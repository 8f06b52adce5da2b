"""qwen3-next-80b-a3b: written by Canvas."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, GradientCheckpointingLayer, PretrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.integrations import use_experts_implementation
from transformers.masking_utils import create_causal_mask, create_recurrent_attention_mask
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet, Qwen3NextPreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs


@strict
class CanvasQwen3NextConfig(PretrainedConfig):
    model_type = "canvas_qwen3_next"
    _auto_class = "AutoConfig"  # whoever saves a model saves this file with it
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"num_local_experts": "num_experts"}
    base_model_tp_plan = {
        "layers.*.mlp.experts.gate_up_proj": "packed_colwise",
        "layers.*.mlp.experts.down_proj": "rowwise",
        "layers.*.mlp.experts": "moe_tp_experts",
        "layers.*.mlp.shared_expert.gate_proj": "colwise",
        "layers.*.mlp.shared_expert.up_proj": "colwise",
        "layers.*.mlp.shared_expert.down_proj": "rowwise",
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

    vocab_size: int = 151936
    hidden_size: int = 2048
    num_hidden_layers: int = 48
    num_attention_heads: int = 16
    num_key_value_heads: int = 2
    max_position_embeddings: int = 262144
    head_dim: int | None = 256
    linear_conv_kernel_dim: int = 4
    linear_key_head_dim: int = 128
    linear_value_head_dim: int = 128
    linear_num_key_heads: int = 16
    linear_num_value_heads: int = 32
    moe_intermediate_size: int = 512
    shared_expert_intermediate_size: int = 512
    num_experts_per_tok: int = 10
    num_experts: int = 512
    intermediate_size: int = 5120
    hidden_act: str = "silu"
    initializer_range: float | int = 0.02
    rms_norm_eps: float | int = 1e-06
    use_cache: bool = True
    tie_word_embeddings: bool = False
    rope_parameters: RopeParameters | dict | None = None
    attention_bias: bool = False
    attention_dropout: float | int = 0.0
    decoder_sparse_step: int = 1
    norm_topk_prob: bool = True
    output_router_logits: bool = False
    router_aux_loss_coef: float | int = 0.001
    mlp_only_layers: list | dict | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = 151643
    eos_token_id: int | list[int] | None = 151645
    layer_types: list[str] | None = None
    layer_kinds: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.layer_kinds is None:
            self.layer_kinds = ["Qwen3NextLinearDecoderLayer"] * self.num_hidden_layers
        names = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
        kwargs.setdefault("auto_map", {auto: f"model.CanvasQwen3Next{name}" for auto, name in names.items()})
        super().__post_init__(**kwargs)


def initialise_as(owner: type[PreTrainedModel], config: Any, kept: nn.Module) -> None:
    """Give a module of transformers fresh weights, as the model that it is from does."""
    model: Any = object.__new__(owner)  # without layers
    nn.Module.__init__(model)
    model.config = config
    for module in reversed([*kept.modules()]):  # a module's own rule comes after those of its parts
        model._init_weights(module)


class CanvasQwen3NextZeroCentredWideRMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return ((1.0 + self.weight.float()) * wide).to(hidden_states.dtype)


class CanvasQwen3NextRotaryEmbedding(nn.Module):
    inv_freq: Tensor

    def __init__(self, config: CanvasQwen3NextConfig) -> None:
        super().__init__()
        self.config = config
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        init = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = init(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: CanvasQwen3NextConfig, **kwargs: Any) -> tuple[Tensor, float]:
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


def rotate_part(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # one for all heads
    width = cos.shape[-1]
    x, rest = x[..., :width], x[..., width:]
    turned = x * cos + rotate_half(x) * sin
    return torch.cat((turned, rest), dim=-1)


def apply_rotary_part(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return rotate_part(q, cos, sin), rotate_part(k, cos, sin)


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


class CanvasQwen3NextRouter(nn.Module):
    """Chooses `top_k` experts for each token."""

    def __init__(self, size: int, num_experts: int, top_k: int, normalise: bool = True) -> None:
        super().__init__()
        self.top_k = top_k
        self.normalise = normalise
        self.weight = nn.Parameter(torch.empty(num_experts, size))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = nn.functional.linear(hidden_states, self.weight)  # [batch, seq, experts]
        scores = logits.softmax(dim=-1, dtype=torch.float)
        weights, indices = scores.topk(self.top_k, dim=-1)  # [batch, seq, top_k]
        if self.normalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return logits.flatten(0, -2), weights.to(logits.dtype), indices


@use_experts_implementation
class CanvasQwen3NextExperts(nn.Module):
    """Gated MLPs, their weights packed: `experts_implementation` of transformers may run them in other ways."""

    def __init__(
        self, config: CanvasQwen3NextConfig, hidden_dim: int, intermediate_dim: int, num_experts: int, hidden_act: str
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


class CanvasQwen3NextMLP(nn.Module):
    def __init__(self, config: CanvasQwen3NextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.shared_expert_intermediate_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]
        self.up_proj = nn.Linear(config.hidden_size, config.shared_expert_intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.shared_expert_intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class CanvasQwen3NextSparseMoeBlock(nn.Module):
    def __init__(self, config: CanvasQwen3NextConfig) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.shared_expert = CanvasQwen3NextMLP(config)
        self.gate = CanvasQwen3NextRouter(
            config.hidden_size, config.num_experts, config.num_experts_per_tok, normalise=config.norm_topk_prob
        )
        self.experts = CanvasQwen3NextExperts(
            config, config.hidden_size, config.moe_intermediate_size, config.num_experts, config.hidden_act
        )
        self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False)
        self.activation = ACT2FN["sigmoid"]

    def forward(self, hidden_states: Tensor) -> Tensor:
        batch, seq, _ = hidden_states.shape
        view = hidden_states.view(-1, self.hidden_size)
        shared_expert = self.shared_expert(view)
        _, weights, indices = self.gate(view)
        tokens = self.experts(view.flatten(0, -2), indices.flatten(0, -2), weights.flatten(0, -2))
        hidden_states_1 = tokens.view_as(view) + self.activation(self.shared_expert_gate(view)) * shared_expert
        return hidden_states_1.reshape(batch, seq, self.hidden_size)


class CanvasQwen3NextLinearDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasQwen3NextConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = CanvasQwen3NextZeroCentredWideRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.linear_attn = Qwen3NextGatedDeltaNet(
            Qwen3NextConfig(
                hidden_act="silu",
                hidden_size=config.hidden_size,
                linear_conv_kernel_dim=config.linear_conv_kernel_dim,
                linear_key_head_dim=config.linear_key_head_dim,
                linear_num_key_heads=config.linear_num_key_heads,
                linear_num_value_heads=config.linear_num_value_heads,
                linear_value_head_dim=config.linear_value_head_dim,
                rms_norm_eps=config.rms_norm_eps,
                num_hidden_layers=config.num_hidden_layers,
                layer_types=["linear_attention"] * config.num_hidden_layers,
            ),
            layer_idx=layer_idx,
        )
        self.post_attention_layernorm = CanvasQwen3NextZeroCentredWideRMSNorm(
            config.hidden_size, eps=config.rms_norm_eps
        )
        self.mlp = CanvasQwen3NextSparseMoeBlock(config)

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        recurrent_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        hidden_states = hidden_states + self.linear_attn(
            self.input_layernorm(hidden_states), cache_params=past_key_values, attention_mask=recurrent_mask
        )
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class CanvasQwen3NextAttention(nn.Module):
    def __init__(self, config: CanvasQwen3NextConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.scaling = config.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.q_heads_head_dim = 2 * config.head_dim
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(
            config.hidden_size, 2 * config.num_attention_heads * config.head_dim, config.attention_bias
        )
        self.q_norm = CanvasQwen3NextZeroCentredWideRMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.k_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, config.attention_bias)
        self.k_norm = CanvasQwen3NextZeroCentredWideRMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, config.attention_bias)
        self.activation = ACT2FN["sigmoid"]
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size, config.attention_bias)

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
        q_heads = self.q_proj(hidden_states).view(batch, seq, -1, self.q_heads_head_dim)
        out_0, out_1 = q_heads.chunk(2, dim=-1)
        merge_heads_1 = out_1.reshape(batch, seq, -1)
        q = self.q_norm(out_0).transpose(1, 2)
        k_heads = self.k_proj(hidden_states).view(batch, seq, -1, self.head_dim)
        k = self.k_norm(k_heads).transpose(1, 2)
        # [batch, num_key_value_heads, seq, head_dim]
        v = self.v_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        q, k = apply_rotary_part(q, k, cos, sin)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        self.num_key_value_groups = q.shape[1] // k.shape[1]
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(self, q, k, v, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.o_proj(attn.reshape(batch, seq, -1) * self.activation(merge_heads_1)), attn_weights


class CanvasQwen3NextFullDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasQwen3NextConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = CanvasQwen3NextZeroCentredWideRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = CanvasQwen3NextAttention(config, layer_idx)
        self.post_attention_layernorm = CanvasQwen3NextZeroCentredWideRMSNorm(
            config.hidden_size, eps=config.rms_norm_eps
        )
        self.mlp = CanvasQwen3NextSparseMoeBlock(config)

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


class CanvasQwen3NextPreTrainedModel(PreTrainedModel):
    config: CanvasQwen3NextConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CanvasQwen3NextLinearDecoderLayer", "CanvasQwen3NextFullDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = _supports_sdpa = _supports_flex_attn = _supports_attention_backend = True
    _can_compile_fullgraph = False
    _can_record_outputs = {
        "hidden_states": [CanvasQwen3NextLinearDecoderLayer, CanvasQwen3NextFullDecoderLayer],
        "attentions": CanvasQwen3NextAttention,
        "router_logits": OutputRecorder(CanvasQwen3NextRouter, index=0),
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (CanvasQwen3NextRouter, CanvasQwen3NextExperts)):
            for parameter in module.parameters(recurse=False):
                init.normal_(parameter, mean=0.0, std=self.config.initializer_range)
        if isinstance(module, CanvasQwen3NextZeroCentredWideRMSNorm):
            init.zeros_(module.weight)
        if isinstance(module, Qwen3NextGatedDeltaNet):
            initialise_as(
                Qwen3NextPreTrainedModel, Qwen3NextConfig(initializer_range=self.config.initializer_range), module
            )


class CanvasQwen3NextModel(CanvasQwen3NextPreTrainedModel):
    def __init__(self, config: CanvasQwen3NextConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.rotary_emb = CanvasQwen3NextRotaryEmbedding(config)
        classes: dict[str, Any] = {
            "Qwen3NextLinearDecoderLayer": CanvasQwen3NextLinearDecoderLayer,
            "Qwen3NextFullDecoderLayer": CanvasQwen3NextFullDecoderLayer,
        }
        self.layers = nn.ModuleList((classes[kind](config, index) for index, kind in enumerate(config.layer_kinds)))
        self.norm = CanvasQwen3NextZeroCentredWideRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
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
        recurrent_mask = create_recurrent_attention_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        mask = create_causal_mask(self.config, inputs_embeds, attention_mask, past_key_values, position_ids)
        kwargs.update(position_ids=position_ids, use_cache=use_cache)
        cos, sin = self.rotary_emb(inputs_embeds, position_ids)
        hidden_states = inputs_embeds
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(
                hidden_states, cos, sin, mask, recurrent_mask=recurrent_mask, past_key_values=past_key_values, **kwargs
            )
        return MoeModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)


class CanvasQwen3NextForCausalLM(CanvasQwen3NextPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: CanvasQwen3NextConfig) -> None:
        super().__init__(config)
        self.model = CanvasQwen3NextModel(config)
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
                outputs.router_logits, self.config.num_experts, self.config.num_experts_per_tok, attention_mask
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
