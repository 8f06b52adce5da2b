"""t5-base: written by Canvas."""

import math
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import (
    Cache,
    DynamicCache,
    EncoderDecoderCache,
    GenerationMixin,
    GradientCheckpointingLayer,
    PretrainedConfig,
)
from transformers.activations import ACT2FN
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqLMOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs


@strict
class CanvasT5Config(PretrainedConfig):
    model_type = "canvas_t5"
    _auto_class = "AutoConfig"  # whoever saves a model saves this file with it
    keys_to_ignore_at_inference = ["past_key_values"]

    vocab_size: int = 32128
    hidden_size: int = 768
    head_dim: int | None = 64
    d_ff: int = 3072
    num_layers: int = 12
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float | int = 0.1
    layer_norm_epsilon: float | int = 1e-06
    initializer_factor: float | int = 1.0
    feed_forward_proj: str = "relu"
    use_cache: bool = True
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    is_decoder: bool = False
    tie_word_embeddings: bool = True
    decoder_start_token_id: int | None = 0
    is_encoder_decoder: bool = True
    encoder_layer_kinds: list[str] | None = None
    layer_kinds: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.encoder_layer_kinds is None:
            self.encoder_layer_kinds = ["T5EncoderTakingBlock"] * self.num_layers
        if self.layer_kinds is None:
            self.layer_kinds = ["T5DecoderTakingBlock"] * self.num_hidden_layers
        names = {"AutoConfig": "Config", "AutoModelForSeq2SeqLM": "ForConditionalGeneration"}
        kwargs.setdefault("auto_map", {auto: f"model.CanvasT5{name}" for auto, name in names.items()})
        super().__post_init__(**kwargs)


class CanvasT5RMSNorm(nn.Module):
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
    bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if bias is not None:
        weights = weights + bias
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def relative_bias(table: nn.Embedding, position_ids: Tensor, keys: int, farthest: int, both_ways: bool) -> Tensor:
    """What each head adds to its scores for how far a key is from a query: far ones share a bucket."""
    buckets = table.num_embeddings
    distance = torch.arange(keys, device=position_ids.device)[None, :] - position_ids[0][:, None]
    chosen = torch.zeros_like(distance)
    if both_ways:
        buckets //= 2
        chosen = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        distance = -torch.min(distance, torch.zeros_like(distance))
    exact = buckets // 2
    steps = torch.log(distance.float() / exact) / math.log(farthest / exact) * (buckets - exact)
    shared = torch.min(exact + steps.long(), torch.full_like(distance, buckets - 1))
    chosen = chosen + torch.where(distance < exact, distance, shared)
    return table(chosen).permute(2, 0, 1).unsqueeze(0)  # [1, heads, queries, keys]


class CanvasT5EncoderTakingAttention(nn.Module):
    def __init__(self, config: CanvasT5Config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = False
        self.scaling = 1.0
        self.attention_dropout = config.dropout_rate
        self.num_key_value_groups = 1
        self.head_dim = config.head_dim
        self.q = nn.Linear(config.hidden_size, config.head_dim * config.num_attention_heads, bias=False)
        self.k = nn.Linear(config.hidden_size, config.head_dim * config.num_attention_heads, bias=False)
        self.v = nn.Linear(config.hidden_size, config.head_dim * config.num_attention_heads, bias=False)
        self.o = nn.Linear(config.head_dim * config.num_attention_heads, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        prev_relative_attention_bias: Tensor,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, source, _ = hidden_states.shape
        # [batch, num_attention_heads, source, head_dim]
        q_heads = self.q(hidden_states).view(batch, source, -1, self.head_dim).transpose(1, 2)
        k_heads = self.k(hidden_states).view(batch, source, -1, self.head_dim).transpose(1, 2)
        v_heads = self.v(hidden_states).view(batch, source, -1, self.head_dim).transpose(1, 2)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(
            self,
            q_heads,
            k_heads,
            v_heads,
            attention_mask,
            dropout=dropout,
            scaling=self.scaling,
            bias=prev_relative_attention_bias,
            **kwargs,
        )
        return self.o(attn.reshape(batch, source, -1)), attn_weights


class CanvasT5EncoderTakingLayerSelfAttention(nn.Module):
    def __init__(self, config: CanvasT5Config, layer_idx: int) -> None:
        super().__init__()
        self.layer_norm = CanvasT5RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.SelfAttention = CanvasT5EncoderTakingAttention(config, layer_idx)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self,
        hidden_states: Tensor,
        prev_relative_attention_bias: Tensor,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        self_attention, _ = self.SelfAttention(
            self.layer_norm(hidden_states), prev_relative_attention_bias, attention_mask, **kwargs
        )
        return hidden_states + self.dropout(self_attention)


class CanvasT5DenseActDense(nn.Module):
    def __init__(self, config: CanvasT5Config) -> None:
        super().__init__()
        self.wi = nn.Linear(config.hidden_size, config.d_ff, bias=False)
        self.act = ACT2FN[config.feed_forward_proj]
        self.dropout = nn.Dropout(config.dropout_rate)
        self.wo = nn.Linear(config.d_ff, config.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.wo(self.dropout(self.act(self.wi(hidden_states))))


class CanvasT5LayerFF(nn.Module):
    def __init__(self, config: CanvasT5Config) -> None:
        super().__init__()
        self.layer_norm = CanvasT5RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.DenseReluDense = CanvasT5DenseActDense(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states + self.dropout(self.DenseReluDense(self.layer_norm(hidden_states)))


class CanvasT5EncoderTakingBlock(GradientCheckpointingLayer):
    def __init__(self, config: CanvasT5Config, layer_idx: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            [CanvasT5EncoderTakingLayerSelfAttention(config, layer_idx), CanvasT5LayerFF(config)]
        )

    def forward(
        self,
        hidden_states: Tensor,
        prev_relative_attention_bias: Tensor | None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        return self.layer[1](
            self.layer[0](hidden_states, prev_relative_attention_bias, attention_mask, **kwargs)
        ), prev_relative_attention_bias


class CanvasT5EncoderGivingAttention(nn.Module):
    def __init__(self, config: CanvasT5Config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = False
        self.scaling = 1.0
        self.attention_dropout = config.dropout_rate
        self.num_key_value_groups = 1
        self.head_dim = config.head_dim
        self.relative_attention_max_distance = config.relative_attention_max_distance
        self.q = nn.Linear(config.hidden_size, config.head_dim * config.num_attention_heads, bias=False)
        self.k = nn.Linear(config.hidden_size, config.head_dim * config.num_attention_heads, bias=False)
        self.v = nn.Linear(config.hidden_size, config.head_dim * config.num_attention_heads, bias=False)
        self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_attention_heads)
        self.o = nn.Linear(config.head_dim * config.num_attention_heads, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        batch, source, _ = hidden_states.shape
        # [batch, num_attention_heads, source, head_dim]
        q_heads = self.q(hidden_states).view(batch, source, -1, self.head_dim).transpose(1, 2)
        k_heads = self.k(hidden_states).view(batch, source, -1, self.head_dim).transpose(1, 2)
        v_heads = self.v(hidden_states).view(batch, source, -1, self.head_dim).transpose(1, 2)
        bias = relative_bias(
            self.relative_attention_bias,
            position_ids,
            k_heads.shape[2],
            self.relative_attention_max_distance,
            both_ways=True,
        )
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(
            self, q_heads, k_heads, v_heads, attention_mask, dropout=dropout, scaling=self.scaling, bias=bias, **kwargs
        )
        return bias, self.o(attn.reshape(batch, source, -1)), attn_weights


class CanvasT5EncoderGivingLayerSelfAttention(nn.Module):
    def __init__(self, config: CanvasT5Config, layer_idx: int) -> None:
        super().__init__()
        self.layer_norm = CanvasT5RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.SelfAttention = CanvasT5EncoderGivingAttention(config, layer_idx)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        out, out_1 = self.SelfAttention(
            self.layer_norm(hidden_states), position_ids=position_ids, attention_mask=attention_mask, **kwargs
        )[:2]
        hidden_states = hidden_states + self.dropout(out_1)
        return out, hidden_states


class CanvasT5EncoderGivingBlock(GradientCheckpointingLayer):
    def __init__(self, config: CanvasT5Config, layer_idx: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            [CanvasT5EncoderGivingLayerSelfAttention(config, layer_idx), CanvasT5LayerFF(config)]
        )

    def forward(
        self,
        hidden_states: Tensor,
        prev_relative_attention_bias: Tensor | None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        out, out_1 = self.layer[0](hidden_states, position_ids=position_ids, attention_mask=attention_mask, **kwargs)
        return self.layer[1](out_1), out


class CanvasT5PreTrainedModel(PreTrainedModel):
    config: CanvasT5Config
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "CanvasT5EncoderTakingBlock",
        "CanvasT5EncoderGivingBlock",
        "CanvasT5DecoderTakingBlock",
        "CanvasT5DecoderGivingBlock",
    ]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = False
    _supports_sdpa = False
    _supports_flex_attn = False
    _supports_attention_backend = True
    _can_compile_fullgraph = True


class CanvasT5EncoderStack(CanvasT5PreTrainedModel):
    _can_record_outputs = {
        "hidden_states": [CanvasT5EncoderTakingBlock, CanvasT5EncoderGivingBlock],
        "attentions": [CanvasT5EncoderTakingAttention, OutputRecorder(CanvasT5EncoderGivingAttention, index=2)],
    }

    def __init__(self, config: CanvasT5Config) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout_rate)
        classes: dict[str, Any] = {
            "T5EncoderTakingBlock": CanvasT5EncoderTakingBlock,
            "T5EncoderGivingBlock": CanvasT5EncoderGivingBlock,
        }
        self.block = nn.ModuleList(
            (classes[kind](config, index) for index, kind in enumerate(config.encoder_layer_kinds))
        )
        self.final_layer_norm = CanvasT5RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.dropout_1 = nn.Dropout(config.dropout_rate)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device).unsqueeze(0)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=inputs_embeds, attention_mask=attention_mask)
        hidden_states = self.dropout(inputs_embeds)
        prev_relative_attention_bias = None
        for layer in self.block:
            hidden_states, prev_relative_attention_bias = layer(
                hidden_states, prev_relative_attention_bias, attention_mask=mask, position_ids=position_ids, **kwargs
            )
        return BaseModelOutput(last_hidden_state=self.dropout_1(self.final_layer_norm(hidden_states)))


class CanvasT5DecoderTakingAttention(nn.Module):
    def __init__(self, config: CanvasT5Config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.scaling = 1.0
        self.attention_dropout = config.dropout_rate
        self.num_key_value_groups = 1
        self.head_dim = config.head_dim
        self.q = nn.Linear(config.hidden_size, config.head_dim * config.num_attention_heads, bias=False)
        self.k = nn.Linear(config.hidden_size, config.head_dim * config.num_attention_heads, bias=False)
        self.v = nn.Linear(config.hidden_size, config.head_dim * config.num_attention_heads, bias=False)
        self.o = nn.Linear(config.head_dim * config.num_attention_heads, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        prev_relative_attention_bias: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states.shape
        # [batch, num_attention_heads, seq, head_dim]
        q_heads = self.q(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        k_heads = self.k(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        v_heads = self.v(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        if past_key_values is not None:
            k_heads, v_heads = past_key_values.self_attention_cache.update(k_heads, v_heads, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(
            self,
            q_heads,
            k_heads,
            v_heads,
            attention_mask,
            dropout=dropout,
            scaling=self.scaling,
            bias=prev_relative_attention_bias,
            **kwargs,
        )
        return self.o(attn.reshape(batch, seq, -1)), attn_weights


class CanvasT5DecoderTakingLayerSelfAttention(nn.Module):
    def __init__(self, config: CanvasT5Config, layer_idx: int) -> None:
        super().__init__()
        self.layer_norm = CanvasT5RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.SelfAttention = CanvasT5DecoderTakingAttention(config, layer_idx)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self,
        hidden_states: Tensor,
        prev_relative_attention_bias: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        self_attention, _ = self.SelfAttention(
            self.layer_norm(hidden_states),
            prev_relative_attention_bias,
            attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
        return hidden_states + self.dropout(self_attention)


class CanvasT5CrossAttention(nn.Module):
    def __init__(self, config: CanvasT5Config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = False
        self.scaling = 1.0
        self.attention_dropout = config.dropout_rate
        self.num_key_value_groups = 1
        self.head_dim = config.head_dim
        self.q = nn.Linear(config.hidden_size, config.head_dim * config.num_attention_heads, bias=False)
        self.k = nn.Linear(config.hidden_size, config.head_dim * config.num_attention_heads, bias=False)
        self.v = nn.Linear(config.hidden_size, config.head_dim * config.num_attention_heads, bias=False)
        self.o = nn.Linear(config.head_dim * config.num_attention_heads, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states.shape
        # [batch, num_attention_heads, seq, head_dim]
        q_heads = self.q(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        if past_key_values is not None and past_key_values.is_updated.get(self.layer_idx):
            kept = past_key_values.cross_attention_cache.layers[self.layer_idx]
            k = kept.keys
            v = kept.values
        else:
            k, v = self.keys_and_values(encoder_hidden_states)
            if past_key_values is not None:
                k, v = past_key_values.cross_attention_cache.update(k, v, self.layer_idx)
                past_key_values.is_updated[self.layer_idx] = True
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(
            self, q_heads, k, v, encoder_attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o(attn.reshape(batch, seq, -1)), attn_weights

    def keys_and_values(self, encoder_hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        batch, source, _ = encoder_hidden_states.shape
        # [batch, num_attention_heads, source, head_dim]
        k_heads = self.k(encoder_hidden_states).view(batch, source, -1, self.head_dim).transpose(1, 2)
        v_heads = self.v(encoder_hidden_states).view(batch, source, -1, self.head_dim).transpose(1, 2)
        return k_heads, v_heads


class CanvasT5LayerCrossAttention(nn.Module):
    def __init__(self, config: CanvasT5Config, layer_idx: int) -> None:
        super().__init__()
        self.layer_norm = CanvasT5RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.EncDecAttention = CanvasT5CrossAttention(config, layer_idx)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        enc_dec_attention, _ = self.EncDecAttention(
            self.layer_norm(hidden_states),
            encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
        return hidden_states + self.dropout(enc_dec_attention)


class CanvasT5DecoderTakingBlock(GradientCheckpointingLayer):
    def __init__(self, config: CanvasT5Config, layer_idx: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            [
                CanvasT5DecoderTakingLayerSelfAttention(config, layer_idx),
                CanvasT5LayerCrossAttention(config, layer_idx),
                CanvasT5LayerFF(config),
            ]
        )

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        prev_relative_attention_bias: Tensor | None,
        attention_mask: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        return self.layer[2](
            self.layer[1](
                self.layer[0](
                    hidden_states,
                    prev_relative_attention_bias,
                    attention_mask,
                    past_key_values=past_key_values,
                    **kwargs,
                ),
                encoder_hidden_states,
                encoder_attention_mask=encoder_attention_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        ), prev_relative_attention_bias


class CanvasT5DecoderGivingAttention(nn.Module):
    def __init__(self, config: CanvasT5Config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.scaling = 1.0
        self.attention_dropout = config.dropout_rate
        self.num_key_value_groups = 1
        self.head_dim = config.head_dim
        self.relative_attention_max_distance = config.relative_attention_max_distance
        self.q = nn.Linear(config.hidden_size, config.head_dim * config.num_attention_heads, bias=False)
        self.k = nn.Linear(config.hidden_size, config.head_dim * config.num_attention_heads, bias=False)
        self.v = nn.Linear(config.hidden_size, config.head_dim * config.num_attention_heads, bias=False)
        self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_attention_heads)
        self.o = nn.Linear(config.head_dim * config.num_attention_heads, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        batch, seq, _ = hidden_states.shape
        # [batch, num_attention_heads, seq, head_dim]
        q_heads = self.q(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        k_heads = self.k(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        v_heads = self.v(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        if past_key_values is not None:
            k_heads, v_heads = past_key_values.self_attention_cache.update(k_heads, v_heads, self.layer_idx)
        bias = relative_bias(
            self.relative_attention_bias,
            position_ids,
            k_heads.shape[2],
            self.relative_attention_max_distance,
            both_ways=False,
        )
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(
            self, q_heads, k_heads, v_heads, attention_mask, dropout=dropout, scaling=self.scaling, bias=bias, **kwargs
        )
        return bias, self.o(attn.reshape(batch, seq, -1)), attn_weights


class CanvasT5DecoderGivingLayerSelfAttention(nn.Module):
    def __init__(self, config: CanvasT5Config, layer_idx: int) -> None:
        super().__init__()
        self.layer_norm = CanvasT5RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.SelfAttention = CanvasT5DecoderGivingAttention(config, layer_idx)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        out, out_1 = self.SelfAttention(
            self.layer_norm(hidden_states),
            position_ids=position_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )[:2]
        hidden_states = hidden_states + self.dropout(out_1)
        return out, hidden_states


class CanvasT5DecoderGivingBlock(GradientCheckpointingLayer):
    def __init__(self, config: CanvasT5Config, layer_idx: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            [
                CanvasT5DecoderGivingLayerSelfAttention(config, layer_idx),
                CanvasT5LayerCrossAttention(config, layer_idx),
                CanvasT5LayerFF(config),
            ]
        )

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        prev_relative_attention_bias: Tensor | None,
        attention_mask: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        out, out_1 = self.layer[0](
            hidden_states,
            position_ids=position_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
        return self.layer[2](
            self.layer[1](
                out_1,
                encoder_hidden_states,
                position_ids=position_ids,
                encoder_attention_mask=encoder_attention_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        ), out


class CanvasT5DecoderStack(CanvasT5PreTrainedModel):
    _can_record_outputs = {
        "hidden_states": [CanvasT5DecoderTakingBlock, CanvasT5DecoderGivingBlock],
        "attentions": [CanvasT5DecoderTakingAttention, OutputRecorder(CanvasT5DecoderGivingAttention, index=2)],
        "cross_attentions": CanvasT5CrossAttention,
    }

    def __init__(self, config: CanvasT5Config) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout_rate)
        classes: dict[str, Any] = {
            "T5DecoderTakingBlock": CanvasT5DecoderTakingBlock,
            "T5DecoderGivingBlock": CanvasT5DecoderGivingBlock,
        }
        self.block = nn.ModuleList((classes[kind](config, index) for index, kind in enumerate(config.layer_kinds)))
        self.final_layer_norm = CanvasT5RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.dropout_1 = nn.Dropout(config.dropout_rate)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache(config=self.config))
        if position_ids is None:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past)[None]
        encoder_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=encoder_attention_mask,
            encoder_hidden_states=encoder_hidden_states,
        )
        mask = create_causal_mask(self.config, inputs_embeds, attention_mask, past_key_values, position_ids)
        hidden_states = self.dropout(inputs_embeds)
        prev_relative_attention_bias = None
        for layer in self.block[: self.config.num_hidden_layers]:
            hidden_states, prev_relative_attention_bias = layer(
                hidden_states,
                encoder_hidden_states,
                prev_relative_attention_bias,
                attention_mask=mask,
                encoder_attention_mask=encoder_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.dropout_1(self.final_layer_norm(hidden_states)), past_key_values=past_key_values
        )


class CanvasT5ForConditionalGeneration(CanvasT5PreTrainedModel, GenerationMixin):
    _tied_weights_keys = {
        "decoder.embed_tokens.weight": "encoder.embed_tokens.weight",
        "lm_head.weight": "encoder.embed_tokens.weight",
    }

    def __init__(self, config: CanvasT5Config) -> None:
        super().__init__(config)
        self.scaled_factor = config.hidden_size**-0.5
        self.encoder = CanvasT5EncoderStack(config)
        self.decoder = CanvasT5DecoderStack(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.encoder.embed_tokens = value

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """What the decoder reads to give the labels: the token that it starts from, then every label but the last."""
        start, padding = self.config.decoder_start_token_id, self.config.pad_token_id
        if start is None or padding is None:
            raise ValueError("give decoder_input_ids: the config has no decoder_start_token_id, or no pad_token_id")
        ids = torch.cat([labels.new_full((labels.shape[0], 1), start), labels[:, :-1]], dim=1)
        return ids.masked_fill(ids == -100, padding)  # a label of -100 counts for nothing

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        if labels is not None and decoder_input_ids is None and (decoder_inputs_embeds is None):
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
            )
        elif not isinstance(encoder_outputs, BaseModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoder_outputs.last_hidden_state,
            encoder_attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        logits = self.lm_head(hidden_states * self.scaled_factor)
        loss = (
            None
            if labels is None
            else self.loss_function(logits, labels, self.config.vocab_size, shift_labels=labels, **kwargs)
        )
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )


# What shares a tensor in the original may lie in its checkpoint under the other's name.
register_checkpoint_conversion_mapping(
    "CanvasT5ForConditionalGeneration",
    [WeightRenaming("^shared\\.weight", "encoder.embed_tokens.weight")],
    overwrite=True,
)
