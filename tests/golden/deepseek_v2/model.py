"""deepseek-v2-lite: written by Canvas."""

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
from transformers.modeling_rope_utils import RopeParameters
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2PreTrainedModel, DeepseekV2RotaryEmbedding
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


@strict
class CanvasDeepseekV2Config(PretrainedConfig):
    model_type = "canvas_deepseek_v2"
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

    vocab_size: int = 102400
    hidden_size: int = 2048
    intermediate_size: int = 10944
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    max_position_embeddings: int = 163840
    head_dim: int | None = None
    kv_lora_rank: int = 512
    n_routed_experts: int = 64
    n_shared_experts: int = 2
    qk_nope_head_dim: int = 128
    v_head_dim: int = 128
    num_experts_per_tok: int = 6
    moe_intermediate_size: int = 1408
    num_key_value_heads: int = 16
    hidden_act: str = "silu"
    initializer_range: float | int = 0.02
    rms_norm_eps: float | int = 1e-06
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 100000
    eos_token_id: int | list[int] | None = 100001
    pretraining_tp: int = 1
    tie_word_embeddings: bool = False
    rope_parameters: RopeParameters | dict | None = None
    attention_bias: bool = False
    attention_dropout: float | int = 0.0
    mlp_bias: bool = False
    first_k_dense_replace: int = 1
    q_lora_rank: list | dict | None = None
    n_group: int = 1
    output_router_logits: bool = False
    qk_rope_head_dim: int = 64
    routed_scaling_factor: float | int = 1.0
    topk_group: int = 1
    topk_method: str = "greedy"
    norm_topk_prob: bool = False
    layer_kinds: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.head_dim is None:
            self.head_dim = self.qk_rope_head_dim
        if self.layer_kinds is None:
            self.layer_kinds = ["DeepseekV2SparseDecoderLayer"] * self.num_hidden_layers
        names = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
        kwargs.setdefault("auto_map", {auto: f"model.CanvasDeepseekV2{name}" for auto, name in names.items()})
        super().__post_init__(**kwargs)


def initialise_as(owner: type[PreTrainedModel], config: Any, kept: nn.Module) -> None:
    """Give a module of transformers fresh weights, as the model that it is from does."""
    model: Any = object.__new__(owner)  # without layers
    nn.Module.__init__(model)
    model.config = config
    for module in reversed([*kept.modules()]):  # a module's own rule comes after those of its parts
        model._init_weights(module)


class CanvasDeepseekV2RMSNorm(nn.Module):
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


class CanvasDeepseekV2ScaledWidePreciseUnsortedRouter(nn.Module):
    """Chooses `top_k` experts for each token."""

    def __init__(self, size: int, num_experts: int, top_k: int, factor: float, normalise: bool = True) -> None:
        super().__init__()
        self.top_k = top_k
        self.normalise = normalise
        self.factor = factor
        self.weight = nn.Parameter(torch.empty(num_experts, size))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = nn.functional.linear(hidden_states.float(), self.weight.float())  # [batch, seq, experts]
        scores = logits.softmax(dim=-1, dtype=torch.float)
        weights, indices = scores.topk(self.top_k, dim=-1, sorted=False)  # [batch, seq, top_k]
        if self.normalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        weights = weights * self.factor
        return logits.flatten(0, -2), weights, indices


@use_experts_implementation
class CanvasDeepseekV2Experts(nn.Module):
    """Gated MLPs, their weights packed: `experts_implementation` of transformers may run them in other ways."""

    def __init__(
        self, config: CanvasDeepseekV2Config, hidden_dim: int, intermediate_dim: int, num_experts: int, hidden_act: str
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


class CanvasDeepseekV2Attention(nn.Module):
    def __init__(self, config: CanvasDeepseekV2Config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.scaling = 1.5896261651209 * (config.head_dim + config.qk_nope_head_dim) ** -0.5
        self.attention_dropout = config.attention_dropout
        self.q_head_dim = config.head_dim + config.qk_nope_head_dim
        self.qk_nope_head_dim = config.qk_nope_head_dim
        self.head_dim = config.head_dim
        self.kv_lora_rank = config.kv_lora_rank
        self.num_attention_heads = config.num_attention_heads
        self.kv_view_size = config.qk_nope_head_dim + config.v_head_dim
        self.v_head_dim = config.v_head_dim
        self.q_proj = nn.Linear(
            config.hidden_size,
            config.num_attention_heads * config.head_dim + config.num_attention_heads * config.qk_nope_head_dim,
            bias=False,
        )
        self.kv_a_proj_with_mqa = nn.Linear(
            config.hidden_size, config.head_dim + config.kv_lora_rank, config.attention_bias
        )
        self.kv_a_layernorm = CanvasDeepseekV2RMSNorm(config.kv_lora_rank, eps=1e-06)
        self.kv_b_proj = nn.Linear(
            config.kv_lora_rank,
            config.num_attention_heads * config.qk_nope_head_dim + config.num_attention_heads * config.v_head_dim,
            bias=False,
        )
        self.o_proj = nn.Linear(
            config.num_attention_heads * config.v_head_dim, config.hidden_size, config.attention_bias
        )

    def forward(
        self,
        hidden_states: Tensor,
        phases: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states.shape
        # [batch, num_attention_heads, seq, head_dim + qk_nope_head_dim]
        q = self.q_proj(hidden_states).view(batch, seq, -1, self.q_head_dim).transpose(1, 2)
        out_0, out_1 = q.split((self.qk_nope_head_dim, self.head_dim), dim=-1)
        out_0_1, out_1_1 = self.kv_a_proj_with_mqa(hidden_states).split((self.kv_lora_rank, self.head_dim), dim=-1)
        kv_a_layernorm_view = self.kv_a_layernorm(out_0_1).view(batch, 1, seq, self.kv_lora_rank)
        view_2 = out_1_1.view(batch, 1, seq, self.head_dim)
        view_as_complex = torch.view_as_complex(
            out_1.to(torch.float32).reshape(batch, self.num_attention_heads, seq, -1, 2)
        )
        view_as_complex_1 = torch.view_as_complex(view_2.to(torch.float32).reshape(batch, 1, seq, -1, 2))
        phases_unsqueeze = phases.unsqueeze(1)
        cast_1 = torch.view_as_real(view_as_complex * phases_unsqueeze).flatten(3, -1).type_as(hidden_states)
        cast_3 = torch.view_as_real(view_as_complex_1 * phases_unsqueeze).flatten(3, -1).type_as(hidden_states)
        q_joined = torch.cat((out_0, cast_1), dim=-1)
        kv_heads = self.kv_b_proj(kv_a_layernorm_view).view(batch, seq, -1, self.kv_view_size).transpose(1, 2)
        out_0_2, out_1 = kv_heads.split((self.qk_nope_head_dim, self.v_head_dim), dim=-1)
        k = torch.cat((out_0_2, cast_3.expand(-1, self.num_attention_heads, -1, -1)), dim=-1)
        if past_key_values is not None:
            k, out_1 = past_key_values.update(k, out_1, self.layer_idx)
        self.num_key_value_groups = q_joined.shape[1] // k.shape[1]
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(
            self, q_joined, k, out_1, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(attn.reshape(batch, seq, -1)), attn_weights


class CanvasDeepseekV2SharedExpertsMLP(nn.Module):
    def __init__(self, config: CanvasDeepseekV2Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(
            config.hidden_size, config.n_shared_experts * config.moe_intermediate_size, config.mlp_bias
        )
        self.act_fn = ACT2FN[config.hidden_act]
        self.up_proj = nn.Linear(
            config.hidden_size, config.n_shared_experts * config.moe_intermediate_size, config.mlp_bias
        )
        self.down_proj = nn.Linear(
            config.n_shared_experts * config.moe_intermediate_size, config.hidden_size, config.mlp_bias
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class CanvasDeepseekV2Moe(nn.Module):
    def __init__(self, config: CanvasDeepseekV2Config) -> None:
        super().__init__()
        self.gate = CanvasDeepseekV2ScaledWidePreciseUnsortedRouter(
            config.hidden_size,
            config.n_routed_experts,
            config.num_experts_per_tok,
            normalise=False,
            factor=config.routed_scaling_factor,
        )
        self.experts = CanvasDeepseekV2Experts(
            config, config.hidden_size, config.moe_intermediate_size, config.n_routed_experts, config.hidden_act
        )
        self.shared_experts = CanvasDeepseekV2SharedExpertsMLP(config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        _, weights, indices = self.gate(hidden_states)
        tokens = self.experts(hidden_states.flatten(0, -2), indices.flatten(0, -2), weights.flatten(0, -2))
        return tokens.view_as(hidden_states) + self.shared_experts(hidden_states)


class CanvasDeepseekV2SparseDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasDeepseekV2Config, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = CanvasDeepseekV2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = CanvasDeepseekV2Attention(config, layer_idx)
        self.post_attention_layernorm = CanvasDeepseekV2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = CanvasDeepseekV2Moe(config)

    def forward(
        self,
        hidden_states: Tensor,
        phases: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        attn, _ = self.self_attn(
            self.input_layernorm(hidden_states), phases, attention_mask, past_key_values=past_key_values, **kwargs
        )
        hidden_states = hidden_states + attn
        del attn
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class CanvasDeepseekV2MLP(nn.Module):
    def __init__(self, config: CanvasDeepseekV2Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, config.mlp_bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class CanvasDeepseekV2DenseDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasDeepseekV2Config, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = CanvasDeepseekV2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = CanvasDeepseekV2Attention(config, layer_idx)
        self.post_attention_layernorm = CanvasDeepseekV2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = CanvasDeepseekV2MLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        phases: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        attn, _ = self.self_attn(
            self.input_layernorm(hidden_states), phases, attention_mask, past_key_values=past_key_values, **kwargs
        )
        hidden_states = hidden_states + attn
        del attn
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class CanvasDeepseekV2PreTrainedModel(PreTrainedModel):
    config: CanvasDeepseekV2Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CanvasDeepseekV2SparseDecoderLayer", "CanvasDeepseekV2DenseDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = _supports_sdpa = _supports_flex_attn = _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": [CanvasDeepseekV2SparseDecoderLayer, CanvasDeepseekV2DenseDecoderLayer],
        "attentions": CanvasDeepseekV2Attention,
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (CanvasDeepseekV2ScaledWidePreciseUnsortedRouter, CanvasDeepseekV2Experts)):
            for parameter in module.parameters(recurse=False):
                init.normal_(parameter, mean=0.0, std=self.config.initializer_range)
        if isinstance(module, DeepseekV2RotaryEmbedding):
            initialise_as(
                DeepseekV2PreTrainedModel, DeepseekV2Config(initializer_range=self.config.initializer_range), module
            )


class CanvasDeepseekV2Model(CanvasDeepseekV2PreTrainedModel):
    def __init__(self, config: CanvasDeepseekV2Config) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.rotary_emb = DeepseekV2RotaryEmbedding(
            DeepseekV2Config(
                head_dim=config.head_dim,
                hidden_size=config.hidden_size,
                max_position_embeddings=config.max_position_embeddings,
                num_attention_heads=config.num_attention_heads,
                num_key_value_heads=config.num_attention_heads,
                qk_nope_head_dim=config.qk_nope_head_dim,
                qk_rope_head_dim=config.head_dim,
                rope_parameters=config.rope_parameters,
                num_hidden_layers=config.num_hidden_layers,
            )
        )
        classes: dict[str, Any] = {
            "DeepseekV2SparseDecoderLayer": CanvasDeepseekV2SparseDecoderLayer,
            "DeepseekV2DenseDecoderLayer": CanvasDeepseekV2DenseDecoderLayer,
        }
        self.layers = nn.ModuleList((classes[kind](config, index) for index, kind in enumerate(config.layer_kinds)))
        self.norm = CanvasDeepseekV2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
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
        rotary_emb = self.rotary_emb(x=inputs_embeds, position_ids=position_ids)
        hidden_states = inputs_embeds
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(hidden_states, rotary_emb, mask, past_key_values=past_key_values, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)


class CanvasDeepseekV2ForCausalLM(CanvasDeepseekV2PreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: CanvasDeepseekV2Config) -> None:
        super().__init__(config)
        self.model = CanvasDeepseekV2Model(config)
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
