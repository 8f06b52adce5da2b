"""jamba-v0.1: written by Canvas."""

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
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.jamba.configuration_jamba import JambaConfig
from transformers.models.jamba.modeling_jamba import JambaMambaMixer, JambaPreTrainedModel
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs


@strict
class CanvasJambaConfig(PretrainedConfig):
    model_type = "canvas_jamba"
    _auto_class = "AutoConfig"  # whoever saves a model saves this file with it
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"num_local_experts": "num_experts"}
    base_model_tp_plan = {
        "layers.*.feed_forward.experts.gate_up_proj": "packed_colwise",
        "layers.*.feed_forward.experts.down_proj": "rowwise",
        "layers.*.feed_forward.experts": "moe_tp_experts",
        "layers.*.feed_forward.gate_proj": "colwise",
        "layers.*.feed_forward.up_proj": "colwise",
        "layers.*.feed_forward.down_proj": "rowwise",
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
    }
    base_model_ep_plan = {
        "layers.*.feed_forward.experts.gate_up_proj": "grouped_gemm",
        "layers.*.feed_forward.experts.down_proj": "grouped_gemm",
        "layers.*.feed_forward.experts": "ep_dispatch_experts",
    }
    base_model_fsdp_plan = {
        "embed_tokens": "free_full_weight",
        "layers.*": "free_full_weight",
        "final_layernorm": "keep_full_weight",
    }

    vocab_size: int = 65536
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    num_experts_per_tok: int = 2
    num_experts: int = 16
    mamba_d_state: int = 16
    mamba_d_conv: int = 4
    mamba_expand: int = 2
    mamba_dt_rank: int = 256
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    initializer_range: float | int = 0.02
    rms_norm_eps: float | int = 1e-06
    use_cache: bool = True
    output_router_logits: bool = False
    router_aux_loss_coef: float | int = 0.001
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    max_position_embeddings: int = 262144
    attention_dropout: float | int = 0.0
    expert_layer_period: int = 2
    expert_layer_offset: int = 1
    attn_layer_period: int = 8
    attn_layer_offset: int = 4
    use_mamba_kernels: bool = True
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    use_mambapy: bool = False
    use_associative_scan: bool = True
    layer_types: list[str] | None = None
    layer_kinds: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.layer_kinds is None:
            self.layer_kinds = ["JambaSparseMambaDecoderLayer"] * self.num_hidden_layers
        names = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
        kwargs.setdefault("auto_map", {auto: f"model.CanvasJamba{name}" for auto, name in names.items()})
        super().__post_init__(**kwargs)


def initialise_as(owner: type[PreTrainedModel], config: Any, kept: nn.Module) -> None:
    """Give a module of transformers fresh weights, as the model that it is from does."""
    model: Any = object.__new__(owner)  # without layers
    nn.Module.__init__(model)
    model.config = config
    for module in reversed([*kept.modules()]):  # a module's own rule comes after those of its parts
        model._init_weights(module)


class CanvasJambaRMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(hidden_states.dtype)


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


class CanvasJambaRouter(nn.Module):
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
class CanvasJambaExperts(nn.Module):
    """Gated MLPs, their weights packed: `experts_implementation` of transformers may run them in other ways."""

    def __init__(
        self, config: CanvasJambaConfig, hidden_dim: int, intermediate_dim: int, num_experts: int, hidden_act: str
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


class CanvasJambaSparseMoeBlock(nn.Module):
    def __init__(self, config: CanvasJambaConfig) -> None:
        super().__init__()
        self.router = CanvasJambaRouter(
            config.hidden_size, config.num_experts, config.num_experts_per_tok, normalise=False
        )
        self.experts = CanvasJambaExperts(
            config, config.hidden_size, config.intermediate_size, config.num_experts, "silu"
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        _, weights, indices = self.router(hidden_states)
        tokens = self.experts(hidden_states.flatten(0, -2), indices.flatten(0, -2), weights.flatten(0, -2))
        return tokens.view_as(hidden_states)


class CanvasJambaSparseMambaDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasJambaConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = CanvasJambaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mamba = JambaMambaMixer(
            JambaConfig(
                hidden_act="silu",
                hidden_size=config.hidden_size,
                mamba_conv_bias=True,
                mamba_d_conv=config.mamba_d_conv,
                mamba_d_state=config.mamba_d_state,
                mamba_dt_rank=config.mamba_dt_rank,
                mamba_expand=config.mamba_expand,
                mamba_proj_bias=False,
                num_attention_heads=config.num_attention_heads,
                num_key_value_heads=config.num_key_value_heads,
                rms_norm_eps=config.rms_norm_eps,
                use_associative_scan=True,
                use_mamba_kernels=True,
                use_mambapy=False,
                num_hidden_layers=config.num_hidden_layers,
            ),
            layer_idx=layer_idx,
        )
        self.pre_ff_layernorm = CanvasJambaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.feed_forward = CanvasJambaSparseMoeBlock(config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        recurrent_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        hidden_states = hidden_states + self.mamba(
            self.input_layernorm(hidden_states), cache_params=past_key_values, attention_mask=recurrent_mask
        )
        return hidden_states + self.feed_forward(self.pre_ff_layernorm(hidden_states))


class CanvasJambaMLP(nn.Module):
    def __init__(self, config: CanvasJambaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.act_fn = ACT2FN["silu"]
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class CanvasJambaDenseMambaDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasJambaConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = CanvasJambaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mamba = JambaMambaMixer(
            JambaConfig(
                hidden_act="silu",
                hidden_size=config.hidden_size,
                mamba_conv_bias=True,
                mamba_d_conv=config.mamba_d_conv,
                mamba_d_state=config.mamba_d_state,
                mamba_dt_rank=config.mamba_dt_rank,
                mamba_expand=config.mamba_expand,
                mamba_proj_bias=False,
                num_attention_heads=config.num_attention_heads,
                num_key_value_heads=config.num_key_value_heads,
                rms_norm_eps=config.rms_norm_eps,
                use_associative_scan=True,
                use_mamba_kernels=True,
                use_mambapy=False,
                num_hidden_layers=config.num_hidden_layers,
            ),
            layer_idx=layer_idx,
        )
        self.pre_ff_layernorm = CanvasJambaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.feed_forward = CanvasJambaMLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        recurrent_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        hidden_states = hidden_states + self.mamba(
            self.input_layernorm(hidden_states), cache_params=past_key_values, attention_mask=recurrent_mask
        )
        return hidden_states + self.feed_forward(self.pre_ff_layernorm(hidden_states))


class CanvasJambaAttention(nn.Module):
    def __init__(self, config: CanvasJambaConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.attention_dropout = config.attention_dropout
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(
            config.hidden_size,
            config.hidden_size // config.num_attention_heads * config.num_key_value_heads,
            bias=False,
        )
        self.v_proj = nn.Linear(
            config.hidden_size,
            config.hidden_size // config.num_attention_heads * config.num_key_value_heads,
            bias=False,
        )
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states.shape
        # [batch, num_attention_heads, seq, hidden_size // num_attention_heads]
        q = self.q_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        # [batch, num_key_value_heads, seq, hidden_size // num_attention_heads]
        k = self.k_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        v = self.v_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(self, q, k, v, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.o_proj(attn.reshape(batch, seq, -1)), attn_weights


class CanvasJambaAttentionDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasJambaConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = CanvasJambaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = CanvasJambaAttention(config, layer_idx)
        self.pre_ff_layernorm = CanvasJambaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.feed_forward = CanvasJambaMLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        attn, _ = self.self_attn(
            self.input_layernorm(hidden_states), attention_mask, past_key_values=past_key_values, **kwargs
        )
        hidden_states = hidden_states + attn
        del attn
        return hidden_states + self.feed_forward(self.pre_ff_layernorm(hidden_states))


class CanvasJambaPreTrainedModel(PreTrainedModel):
    config: CanvasJambaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "CanvasJambaSparseMambaDecoderLayer",
        "CanvasJambaDenseMambaDecoderLayer",
        "CanvasJambaAttentionDecoderLayer",
    ]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = _supports_sdpa = _supports_flex_attn = _supports_attention_backend = True
    _can_compile_fullgraph = False
    _can_record_outputs = {
        "hidden_states": [
            CanvasJambaSparseMambaDecoderLayer,
            CanvasJambaDenseMambaDecoderLayer,
            CanvasJambaAttentionDecoderLayer,
        ],
        "attentions": CanvasJambaAttention,
        "router_logits": OutputRecorder(CanvasJambaRouter, index=0),
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (CanvasJambaRouter, CanvasJambaExperts)):
            for parameter in module.parameters(recurse=False):
                init.normal_(parameter, mean=0.0, std=self.config.initializer_range)
        if isinstance(module, JambaMambaMixer):
            initialise_as(JambaPreTrainedModel, JambaConfig(initializer_range=self.config.initializer_range), module)


class CanvasJambaModel(CanvasJambaPreTrainedModel):
    def __init__(self, config: CanvasJambaConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        classes: dict[str, Any] = {
            "JambaSparseMambaDecoderLayer": CanvasJambaSparseMambaDecoderLayer,
            "JambaDenseMambaDecoderLayer": CanvasJambaDenseMambaDecoderLayer,
            "JambaAttentionDecoderLayer": CanvasJambaAttentionDecoderLayer,
        }
        self.layers = nn.ModuleList((classes[kind](config, index) for index, kind in enumerate(config.layer_kinds)))
        self.final_layernorm = CanvasJambaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
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
        hidden_states = inputs_embeds
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(
                hidden_states, mask, recurrent_mask=recurrent_mask, past_key_values=past_key_values, **kwargs
            )
        return MoeModelOutputWithPast(
            last_hidden_state=self.final_layernorm(hidden_states), past_key_values=past_key_values
        )


class CanvasJambaForCausalLM(CanvasJambaPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: CanvasJambaConfig) -> None:
        super().__init__(config)
        self.model = CanvasJambaModel(config)
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
