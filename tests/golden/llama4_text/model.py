"""llama-4-maverick-17b-128e: written by Canvas."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, GradientCheckpointingLayer, PretrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask, create_chunked_causal_mask, sliding_window_overlay
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_rope_utils import RopeParameters
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.llama4.configuration_llama4 import Llama4TextConfig
from transformers.models.llama4.modeling_llama4 import Llama4PreTrainedModel, Llama4TextRotaryEmbedding
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


@strict
class CanvasLlama4Config(PretrainedConfig):
    model_type = "canvas_llama4_text"
    _auto_class = "AutoConfig"  # whoever saves a model saves this file with it
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"num_experts": "num_local_experts"}
    base_model_tp_plan = {
        "layers.*.feed_forward.gate_proj": "colwise",
        "layers.*.feed_forward.up_proj": "colwise",
        "layers.*.feed_forward.down_proj": "rowwise",
        "layers.*.feed_forward.shared_expert.gate_proj": "colwise",
        "layers.*.feed_forward.shared_expert.up_proj": "colwise",
        "layers.*.feed_forward.shared_expert.down_proj": "rowwise",
    }

    vocab_size: int = 202048
    hidden_size: int = 5120
    intermediate_size: int = 8192
    intermediate_size_mlp: int = 16384
    num_hidden_layers: int = 48
    num_attention_heads: int = 40
    num_key_value_heads: int = 8
    head_dim: int | None = 128
    max_position_embeddings: int = 1048576
    num_local_experts: int = 128
    attention_chunk_size: int = 8192
    hidden_act: str = "silu"
    initializer_range: float | int = 0.02
    rms_norm_eps: float | int = 1e-05
    use_cache: bool = True
    pad_token_id: int | None = 200018
    bos_token_id: int | None = 200000
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = False
    attention_dropout: float | int = 0.0
    num_experts_per_tok: int = 1
    moe_layers: list | dict | None = None
    interleave_moe_layer_step: int = 2
    use_qk_norm: bool = False
    output_router_logits: bool = False
    router_aux_loss_coef: float | int = 0.001
    router_jitter_noise: float | int = 0.0
    rope_parameters: RopeParameters | dict | None = None
    no_rope_layers: list | dict | None = None
    no_rope_layer_interval: int = 4
    attn_temperature_tuning: bool = False
    floor_scale: int = 8192
    attn_scale: float | int = 0.1
    attention_bias: bool = False
    layer_types: list[str] | None = None
    layer_kinds: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.layer_kinds is None:
            self.layer_kinds = ["Llama4TextDecoderLayer"] * self.num_hidden_layers
        names = {"AutoConfig": "Config", "AutoModel": "TextModel", "AutoModelForCausalLM": "ForCausalLM"}
        kwargs.setdefault("auto_map", {auto: f"model.CanvasLlama4{name}" for auto, name in names.items()})
        super().__post_init__(**kwargs)


def initialise_as(owner: type[PreTrainedModel], config: Any, kept: nn.Module) -> None:
    """Give a module of transformers fresh weights, as the model that it is from does."""
    model: Any = object.__new__(owner)  # without layers
    nn.Module.__init__(model)
    model.config = config
    for module in reversed([*kept.modules()]):  # a module's own rule comes after those of its parts
        model._init_weights(module)


class CanvasLlama4RMSNorm(nn.Module):
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
    weights = nn.functional.softmax(weights, dim=-1).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class CanvasLlama4ChunkedTextAttention(nn.Module):
    def __init__(self, config: CanvasLlama4Config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.scaling = config.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.attention_chunk_size = config.attention_chunk_size
        self.head_dim = config.head_dim
        self.num_attention_heads = config.num_attention_heads
        self.num_key_value_heads = config.num_key_value_heads
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * config.head_dim, config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, config.attention_bias)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size, config.attention_bias)

    def forward(
        self,
        hidden_states: Tensor,
        phases: Tensor,
        attention_mask: dict[Any, Tensor | None] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states.shape
        q_heads = self.q_proj(hidden_states).view(batch, seq, -1, self.head_dim)
        k_heads = self.k_proj(hidden_states).view(batch, seq, -1, self.head_dim)
        # [batch, num_key_value_heads, seq, head_dim]
        v = self.v_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        view_as_complex = torch.view_as_complex(
            q_heads.to(torch.float32).reshape(batch, seq, self.num_attention_heads, -1, 2)
        )
        view_as_complex_1 = torch.view_as_complex(
            k_heads.to(torch.float32).reshape(batch, seq, self.num_key_value_heads, -1, 2)
        )
        q_flatten = torch.view_as_real(view_as_complex * phases.unsqueeze(2)).flatten(3, -1)
        k_flatten = torch.view_as_real(view_as_complex_1 * phases.unsqueeze(2)).flatten(3, -1)
        cast_1_heads = q_flatten.type_as(hidden_states).transpose(1, 2)
        cast_3_heads = k_flatten.type_as(hidden_states).transpose(1, 2)
        if past_key_values is not None:
            cast_3_heads, v = past_key_values.update(cast_3_heads, v, self.layer_idx)
        self.num_key_value_groups = cast_1_heads.shape[1] // cast_3_heads.shape[1]
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(
            self,
            cast_1_heads,
            cast_3_heads,
            v,
            attention_mask["chunk", self.attention_chunk_size],
            dropout=dropout,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(attn.reshape(batch, seq, -1)), attn_weights


class CanvasLlama4FeedForwardTextMLP(nn.Module):
    def __init__(self, config: CanvasLlama4Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size_mlp, bias=False)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size_mlp, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size_mlp, config.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(self.activation_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class CanvasLlama4TextDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasLlama4Config, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = CanvasLlama4RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = CanvasLlama4ChunkedTextAttention(config, layer_idx)
        self.post_attention_layernorm = CanvasLlama4RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.feed_forward = CanvasLlama4FeedForwardTextMLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        phases: Tensor,
        attention_mask: dict[Any, Tensor | None] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        attn, _ = self.self_attn(
            self.input_layernorm(hidden_states), phases, attention_mask, past_key_values=past_key_values, **kwargs
        )
        hidden_states = hidden_states + attn
        del attn
        return hidden_states + self.feed_forward(self.post_attention_layernorm(hidden_states))


class CanvasLlama4RouterBlock(nn.Module):
    def __init__(self, config: CanvasLlama4Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((config.num_local_experts, config.hidden_size)))
        self.activation = ACT2FN["sigmoid"]

    def forward(self, hidden_states: Tensor) -> Tensor:
        linear_plain = nn.functional.linear(hidden_states, self.weight)
        values, indices = linear_plain.topk(1)
        return self.activation(
            torch.full_like(linear_plain, float("-inf")).scatter(-1, indices, values).to(torch.float32)
        ).type_as(hidden_states)


class CanvasLlama4TextExperts(nn.Module):
    def __init__(self, config: CanvasLlama4Config) -> None:
        super().__init__()
        self.num_local_experts = config.num_local_experts
        self.hidden_size = config.hidden_size
        self.gate_up_proj = nn.Parameter(
            torch.zeros((config.num_local_experts, config.hidden_size, 2 * config.intermediate_size))
        )
        self.down_proj = nn.Parameter(
            torch.zeros((config.num_local_experts, config.intermediate_size, config.hidden_size))
        )
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        out_0, out_1 = torch.bmm(
            hidden_states.view(self.num_local_experts, -1, self.hidden_size), self.gate_up_proj
        ).chunk(2, dim=-1)
        return torch.bmm(out_1 * self.act_fn(out_0), self.down_proj).view(-1, self.hidden_size)


class CanvasLlama4SharedExpertTextMLP(nn.Module):
    def __init__(self, config: CanvasLlama4Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(self.activation_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class CanvasLlama4TextMoe(nn.Module):
    def __init__(self, config: CanvasLlama4Config) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.num_local_experts = config.num_local_experts
        self.router = CanvasLlama4RouterBlock(config)
        self.experts = CanvasLlama4TextExperts(config)
        self.shared_expert = CanvasLlama4SharedExpertTextMLP(config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        reshape = hidden_states.reshape(-1, self.hidden_size)
        router = self.router(reshape)
        experts = self.experts(reshape.repeat(self.num_local_experts, 1) * router.transpose(0, -1).reshape(-1, 1))
        return self.shared_expert(reshape) + experts.reshape(self.num_local_experts, -1, self.hidden_size).sum(dim=0)


class CanvasLlama4TextDecoderLayer2(GradientCheckpointingLayer):
    def __init__(self, config: CanvasLlama4Config, layer_idx: int) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.input_layernorm = CanvasLlama4RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = CanvasLlama4ChunkedTextAttention(config, layer_idx)
        self.post_attention_layernorm = CanvasLlama4RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.feed_forward = CanvasLlama4TextMoe(config)

    def forward(
        self,
        hidden_states: Tensor,
        phases: Tensor,
        attention_mask: dict[Any, Tensor | None] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        batch, seq, _ = hidden_states.shape
        attn, _ = self.self_attn(
            self.input_layernorm(hidden_states), phases, attention_mask, past_key_values=past_key_values, **kwargs
        )
        hidden_states = hidden_states + attn
        del attn
        return hidden_states + self.feed_forward(self.post_attention_layernorm(hidden_states)).view(
            batch, seq, self.hidden_size
        )


class CanvasLlama4FullTextAttention(nn.Module):
    def __init__(self, config: CanvasLlama4Config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.scaling = config.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.sliding_window = None
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * config.head_dim, config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, config.attention_bias)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size, config.attention_bias)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: dict[Any, Tensor | None] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states.shape
        q_proj = self.q_proj(hidden_states)
        k_proj = self.k_proj(hidden_states)
        # [batch, num_key_value_heads, seq, head_dim]
        v = self.v_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        # [batch, num_attention_heads, seq, head_dim]
        q = q_proj.view(batch, seq, -1, self.head_dim).transpose(1, 2)
        # [batch, num_key_value_heads, seq, head_dim]
        k = k_proj.view(batch, seq, -1, self.head_dim).transpose(1, 2)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(
            self, q, k, v, attention_mask[self.sliding_window], dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(attn.reshape(batch, seq, -1)), attn_weights


class CanvasLlama4TextDecoderLayer3(GradientCheckpointingLayer):
    def __init__(self, config: CanvasLlama4Config, layer_idx: int) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.input_layernorm = CanvasLlama4RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = CanvasLlama4FullTextAttention(config, layer_idx)
        self.post_attention_layernorm = CanvasLlama4RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.feed_forward = CanvasLlama4TextMoe(config)

    def forward(
        self,
        hidden_states: Tensor,
        phases: Tensor,
        attention_mask: dict[Any, Tensor | None] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        batch, seq, _ = hidden_states.shape
        attn, _ = self.self_attn(
            self.input_layernorm(hidden_states), attention_mask, past_key_values=past_key_values, **kwargs
        )
        hidden_states = hidden_states + attn
        del attn
        return hidden_states + self.feed_forward(self.post_attention_layernorm(hidden_states)).view(
            batch, seq, self.hidden_size
        )


class CanvasLlama4PreTrainedModel(PreTrainedModel):
    config: CanvasLlama4Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "CanvasLlama4TextDecoderLayer",
        "CanvasLlama4TextDecoderLayer2",
        "CanvasLlama4TextDecoderLayer3",
    ]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = _supports_sdpa = _supports_flex_attn = _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": [CanvasLlama4TextDecoderLayer, CanvasLlama4TextDecoderLayer2, CanvasLlama4TextDecoderLayer3],
        "attentions": [CanvasLlama4ChunkedTextAttention, CanvasLlama4FullTextAttention],
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CanvasLlama4RouterBlock):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
        if isinstance(module, CanvasLlama4TextExperts):
            init.normal_(module.gate_up_proj, mean=0.0, std=self.config.initializer_range)
            init.normal_(module.down_proj, mean=0.0, std=self.config.initializer_range)
        if isinstance(module, Llama4TextRotaryEmbedding):
            initialise_as(
                Llama4PreTrainedModel, Llama4TextConfig(initializer_range=self.config.initializer_range), module
            )


class CanvasLlama4TextModel(CanvasLlama4PreTrainedModel):
    def __init__(self, config: CanvasLlama4Config) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.rotary_emb = Llama4TextRotaryEmbedding(
            Llama4TextConfig(
                head_dim=config.head_dim,
                hidden_size=config.hidden_size,
                interleave_moe_layer_step=2,
                max_position_embeddings=config.max_position_embeddings,
                no_rope_layer_interval=4,
                num_attention_heads=config.num_attention_heads,
                num_key_value_heads=config.num_key_value_heads,
                rope_parameters=config.rope_parameters,
                num_hidden_layers=config.num_hidden_layers,
            )
        )
        classes: dict[str, Any] = {
            "Llama4TextDecoderLayer": CanvasLlama4TextDecoderLayer,
            "Llama4TextDecoderLayer2": CanvasLlama4TextDecoderLayer2,
            "Llama4TextDecoderLayer3": CanvasLlama4TextDecoderLayer3,
        }
        self.layers = nn.ModuleList((classes[kind](config, index) for index, kind in enumerate(config.layer_kinds)))
        self.norm = CanvasLlama4RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
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
        mask: dict[Any, Tensor | None] = {
            window: create_causal_mask(**mask_arguments)
            if window is None
            else create_causal_mask(**mask_arguments, and_mask_function=sliding_window_overlay(window))
            for window in windows
        }
        chunks = {m.attention_chunk_size for m in self.modules() if hasattr(m, "attention_chunk_size")}
        mask |= {("chunk", size): create_chunked_causal_mask(**mask_arguments) for size in chunks}
        kwargs.update(position_ids=position_ids, use_cache=use_cache)
        rotary_emb = self.rotary_emb(x=inputs_embeds, position_ids=position_ids)
        hidden_states = inputs_embeds
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(hidden_states, rotary_emb, mask, past_key_values=past_key_values, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)


class CanvasLlama4ForCausalLM(CanvasLlama4PreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: CanvasLlama4Config) -> None:
        super().__init__(config)
        self.model = CanvasLlama4TextModel(config)
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
