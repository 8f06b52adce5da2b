"""bart-base: written by Canvas."""

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
    Seq2SeqModelOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


@strict
class CanvasBartConfig(PretrainedConfig):
    model_type = "canvas_bart"
    _auto_class = "AutoConfig"  # whoever saves a model saves this file with it
    keys_to_ignore_at_inference = ["past_key_values"]

    vocab_size: int = 50265
    max_position_embeddings: int = 1024
    encoder_layers: int = 6
    encoder_ffn_dim: int = 3072
    encoder_attention_heads: int = 12
    num_hidden_layers: int = 6
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    hidden_size: int = 768
    encoder_layerdrop: float | int = 0.0
    decoder_layerdrop: float | int = 0.0
    activation_function: str = "gelu"
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    activation_dropout: float | int = 0.1
    init_std: float | int = 0.02
    scale_embedding: bool = False
    use_cache: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    is_decoder: bool = False
    tie_word_embeddings: bool = True
    decoder_start_token_id: int | None = 2
    is_encoder_decoder: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        names = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForSeq2SeqLM": "ForConditionalGeneration"}
        kwargs.setdefault("auto_map", {auto: f"model.CanvasBart{name}" for auto, name in names.items()})
        super().__post_init__(**kwargs)


class CanvasBartPositionEmbedding(nn.Embedding):
    def __init__(self, num_embeddings: int, embedding_dim: int, offset: int) -> None:
        super().__init__(num_embeddings, embedding_dim)
        self.offset = offset

    def forward(self, position_ids: Tensor) -> Tensor:
        return super().forward(position_ids + self.offset)


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
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class CanvasBartEncoderAttention(nn.Module):
    def __init__(self, config: CanvasBartConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = False
        self.scaling = (config.hidden_size // config.encoder_attention_heads) ** -0.5
        self.attention_dropout = config.attention_dropout
        self.num_key_value_groups = 1
        self.head_dim = config.hidden_size // config.encoder_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=True)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        batch, source, _ = hidden_states.shape
        # [batch, encoder_attention_heads, source, hidden_size // encoder_attention_heads]
        q = self.q_proj(hidden_states).view(batch, source, -1, self.head_dim).transpose(1, 2)
        k = self.k_proj(hidden_states).view(batch, source, -1, self.head_dim).transpose(1, 2)
        v = self.v_proj(hidden_states).view(batch, source, -1, self.head_dim).transpose(1, 2)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(self, q, k, v, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.out_proj(attn.reshape(batch, source, -1)), attn_weights


class CanvasBartEncoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasBartConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = CanvasBartEncoderAttention(config, layer_idx)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size, eps=1e-05, bias=True)
        self.fc1 = nn.Linear(config.hidden_size, config.encoder_ffn_dim, bias=True)
        self.activation_fn = ACT2FN[config.activation_function]
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.hidden_size, bias=True)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=1e-05, bias=True)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        attn, _ = self.self_attn(hidden_states, attention_mask, **kwargs)
        hidden_states = hidden_states + attn
        del attn
        hidden_states = self.self_attn_layer_norm(hidden_states)
        hidden_states = hidden_states + self.fc2(self.activation_fn(self.fc1(hidden_states)))
        return self.final_layer_norm(hidden_states)


class CanvasBartPreTrainedModel(PreTrainedModel):
    config: CanvasBartConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CanvasBartEncoderLayer", "CanvasBartDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = _supports_sdpa = _supports_flex_attn = _supports_attention_backend = True
    _can_compile_fullgraph = True


class CanvasBartEncoder(CanvasBartPreTrainedModel):
    _can_record_outputs = {"hidden_states": CanvasBartEncoderLayer, "attentions": CanvasBartEncoderAttention}

    def __init__(self, config: CanvasBartConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.embed_positions = CanvasBartPositionEmbedding(config.max_position_embeddings + 2, config.hidden_size, 2)
        self.layernorm_embedding = nn.LayerNorm(config.hidden_size, eps=1e-05, bias=True)
        self.layers = nn.ModuleList(CanvasBartEncoderLayer(config, index) for index in range(config.encoder_layers))
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
        inputs_embeds = inputs_embeds + self.embed_positions(position_ids)
        hidden_states = self.layernorm_embedding(inputs_embeds)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, **kwargs)
        return BaseModelOutput(last_hidden_state=hidden_states)


class CanvasBartDecoderAttention(nn.Module):
    def __init__(self, config: CanvasBartConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.attention_dropout = config.attention_dropout
        self.num_key_value_groups = 1
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=True)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states.shape
        # [batch, num_attention_heads, seq, hidden_size // num_attention_heads]
        q = self.q_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        k = self.k_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        v = self.v_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        if past_key_values is not None:
            k, v = past_key_values.self_attention_cache.update(k, v, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(self, q, k, v, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.out_proj(attn.reshape(batch, seq, -1)), attn_weights


class CanvasBartCrossAttention(nn.Module):
    def __init__(self, config: CanvasBartConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = False
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.attention_dropout = config.attention_dropout
        self.num_key_value_groups = 1
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=True)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states.shape
        # [batch, num_attention_heads, seq, hidden_size // num_attention_heads]
        q = self.q_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
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
            self, q, k, v, encoder_attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.out_proj(attn.reshape(batch, seq, -1)), attn_weights

    def keys_and_values(self, encoder_hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        batch, source, _ = encoder_hidden_states.shape
        # [batch, num_attention_heads, source, hidden_size // num_attention_heads]
        k = self.k_proj(encoder_hidden_states).view(batch, source, -1, self.head_dim).transpose(1, 2)
        v = self.v_proj(encoder_hidden_states).view(batch, source, -1, self.head_dim).transpose(1, 2)
        return k, v


class CanvasBartDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasBartConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = CanvasBartDecoderAttention(config, layer_idx)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size, eps=1e-05, bias=True)
        self.encoder_attn = CanvasBartCrossAttention(config, layer_idx)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.hidden_size, eps=1e-05, bias=True)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=True)
        self.activation_fn = ACT2FN[config.activation_function]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=True)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=1e-05, bias=True)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        attn, _ = self.self_attn(hidden_states, attention_mask, past_key_values=past_key_values, **kwargs)
        hidden_states = hidden_states + attn
        del attn
        hidden_states = self.self_attn_layer_norm(hidden_states)
        encoder_attn, _ = self.encoder_attn(
            hidden_states,
            encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
        hidden_states = hidden_states + encoder_attn
        del encoder_attn
        hidden_states = self.encoder_attn_layer_norm(hidden_states)
        hidden_states = hidden_states + self.fc2(self.activation_fn(self.fc1(hidden_states)))
        return self.final_layer_norm(hidden_states)


class CanvasBartDecoder(CanvasBartPreTrainedModel):
    _can_record_outputs = {
        "hidden_states": CanvasBartDecoderLayer,
        "attentions": CanvasBartDecoderAttention,
        "cross_attentions": CanvasBartCrossAttention,
    }

    def __init__(self, config: CanvasBartConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.embed_positions = CanvasBartPositionEmbedding(config.max_position_embeddings + 2, config.hidden_size, 2)
        self.layernorm_embedding = nn.LayerNorm(config.hidden_size, eps=1e-05, bias=True)
        self.layers = nn.ModuleList(CanvasBartDecoderLayer(config, index) for index in range(config.num_hidden_layers))
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
        inputs_embeds = inputs_embeds + self.embed_positions(position_ids[0])
        hidden_states = self.layernorm_embedding(inputs_embeds)
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(
                hidden_states,
                encoder_hidden_states,
                mask,
                encoder_attention_mask=encoder_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_states, past_key_values=past_key_values
        )


class CanvasBartModel(CanvasBartPreTrainedModel):
    _tied_weights_keys = {"decoder.embed_tokens.weight": "encoder.embed_tokens.weight"}

    def __init__(self, config: CanvasBartConfig) -> None:
        super().__init__(config)
        self.encoder = CanvasBartEncoder(config)
        self.decoder = CanvasBartDecoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.encoder.embed_tokens = value

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
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Seq2SeqModelOutput:
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
        return Seq2SeqModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )


class CanvasBartForConditionalGeneration(CanvasBartPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {
        "model.decoder.embed_tokens.weight": "model.encoder.embed_tokens.weight",
        "lm_head.weight": "model.encoder.embed_tokens.weight",
    }

    def __init__(self, config: CanvasBartConfig) -> None:
        super().__init__(config)
        self.register_buffer("final_logits_bias", torch.zeros((1, config.vocab_size)))
        self.model = CanvasBartModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

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
        outputs = self.model(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            encoder_outputs,
            past_key_values,
            inputs_embeds,
            decoder_inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        logits = self.lm_head(hidden_states) + self.final_logits_bias
        loss = (
            None
            if labels is None
            else self.loss_function(logits, labels, self.config.vocab_size, shift_labels=labels, **kwargs)
        )
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.decoder_hidden_states,
            decoder_attentions=outputs.decoder_attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
            encoder_attentions=outputs.encoder_attentions,
        )


# What shares a tensor in the original may lie in its checkpoint under the other's name.
register_checkpoint_conversion_mapping(
    "CanvasBartForConditionalGeneration",
    [WeightRenaming("^model\\.shared\\.weight", "model.encoder.embed_tokens.weight")],
    overwrite=True,
)
register_checkpoint_conversion_mapping(
    "CanvasBartModel", [WeightRenaming("^model\\.shared\\.weight", "model.encoder.embed_tokens.weight")], overwrite=True
)
