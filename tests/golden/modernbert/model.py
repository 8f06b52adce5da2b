"""modernbert-base: written by Canvas."""

import copy
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import GradientCheckpointingLayer, PretrainedConfig
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask, sliding_window_bidirectional_overlay
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


@strict
class CanvasModernBertConfig(PretrainedConfig):
    model_type = "canvas_modernbert"
    _auto_class = "AutoConfig"  # whoever saves a model saves this file with it
    base_model_fsdp_plan = {
        "embeddings.tok_embeddings": "free_full_weight",
        "layers.*": "free_full_weight",
        "final_norm": "keep_full_weight",
    }

    vocab_size: int = 50368
    hidden_size: int = 768
    intermediate_size: int = 1152
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    max_position_embeddings: int = 8192
    local_attention: int = 128
    hidden_activation: str = "gelu"
    initializer_range: float | int = 0.02
    initializer_cutoff_factor: float | int = 2.0
    norm_eps: float | int = 1e-05
    norm_bias: bool = False
    pad_token_id: int | None = 50283
    eos_token_id: int | list[int] | None = 50282
    bos_token_id: int | None = 50281
    cls_token_id: int = 50281
    sep_token_id: int = 50282
    attention_bias: bool = False
    attention_dropout: float | int = 0.0
    rope_parameters: RopeParameters | dict | None = None
    embedding_dropout: float | int = 0.0
    mlp_bias: bool = False
    mlp_dropout: float | int = 0.0
    decoder_bias: bool = True
    classifier_pooling: str = "mean"
    deterministic_flash_attn: bool = False
    sparse_prediction: bool = False
    sparse_pred_ignore_index: int = -100
    tie_word_embeddings: bool = True
    layer_types: list[str] | None = None
    layer_kinds: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.layer_kinds is None:
            self.layer_kinds = ["ModernBertEncoderLayer2"] * self.num_hidden_layers
        names = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForMaskedLM": "ForMaskedLM"}
        kwargs.setdefault("auto_map", {auto: f"model.CanvasModernBert{name}" for auto, name in names.items()})
        super().__post_init__(**kwargs)


def with_values(config: CanvasModernBertConfig, **values: Any) -> CanvasModernBertConfig:
    """A copy of a config with some fields changed."""
    changed = copy.copy(config)
    for name, value in values.items():
        setattr(changed, name, value)
    return changed


class CanvasModernBertLayerRotaryEmbedding(nn.Module):
    inv_freq: Tensor

    def __init__(self, config: CanvasModernBertConfig, layer_type: str) -> None:
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
    def compute_default_rope_parameters(config: CanvasModernBertConfig, **kwargs: Any) -> tuple[Tensor, float]:
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


def rotate_wide(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # one for all heads
    wide = x.float()
    return (wide * cos + rotate_half(wide) * sin).to(x.dtype)


def apply_rotary_wide(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return rotate_wide(q, cos, sin), rotate_wide(k, cos, sin)


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
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class CanvasModernBertEmbeddings(nn.Module):
    def __init__(self, config: CanvasModernBertConfig) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
        self.drop = nn.Dropout(config.embedding_dropout)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.drop(self.norm(self.tok_embeddings(input_ids)))


class CanvasModernBertSlidingAttention(nn.Module):
    def __init__(self, config: CanvasModernBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = False
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.attention_dropout = config.attention_dropout
        self.sliding_window = config.local_attention // 2 + 1
        self.num_key_value_groups = 1
        self.qkv_view_size = config.hidden_size // config.num_attention_heads
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, config.attention_bias)
        self.Wo = nn.Linear(config.hidden_size, config.hidden_size, config.attention_bias)
        self.out_drop = nn.Dropout(config.attention_dropout)

    def forward(
        self,
        hidden_states: Tensor,
        hidden_states_1: Tensor,
        hidden_states_2: Tensor,
        attention_mask: dict[int | None, Tensor | None] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states_2.shape
        out_0, out_1, out_2 = self.Wqkv(hidden_states_2).view(batch, seq, 3, -1, self.qkv_view_size).unbind(2)
        q = out_0.transpose(1, 2)
        k = out_1.transpose(1, 2)
        v = out_2.transpose(1, 2)
        q, k = apply_rotary_wide(q, k, hidden_states_1, hidden_states)
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
            sliding_window=self.sliding_window,
            **kwargs,
        )
        return self.out_drop(self.Wo(attn.reshape(batch, seq, -1))), attn_weights


class CanvasModernBertMLP(nn.Module):
    def __init__(self, config: CanvasModernBertConfig) -> None:
        super().__init__()
        self.Wi = nn.Linear(config.hidden_size, 2 * config.intermediate_size, config.mlp_bias)
        self.act = ACT2FN[config.hidden_activation]
        self.drop = nn.Dropout(config.mlp_dropout)
        self.Wo = nn.Linear(config.intermediate_size, config.hidden_size, config.mlp_bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        out_0, out_1 = self.Wi(hidden_states).chunk(2, dim=-1)
        return self.Wo(self.drop(self.act(out_0) * out_1))


class CanvasModernBertEncoderLayer2(GradientCheckpointingLayer):
    def __init__(self, config: CanvasModernBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.attn_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
        self.attn = CanvasModernBertSlidingAttention(config, layer_idx)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
        self.mlp = CanvasModernBertMLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        cos_1: Tensor,
        sin_1: Tensor,
        attention_mask: dict[int | None, Tensor | None] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        attn, _ = self.attn(sin_1, cos_1, self.attn_norm(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + attn
        del attn
        return hidden_states + self.mlp(self.mlp_norm(hidden_states))


class CanvasModernBertFullAttention(nn.Module):
    def __init__(self, config: CanvasModernBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = False
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.attention_dropout = config.attention_dropout
        self.sliding_window = None
        self.num_key_value_groups = 1
        self.qkv_view_size = config.hidden_size // config.num_attention_heads
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, config.attention_bias)
        self.Wo = nn.Linear(config.hidden_size, config.hidden_size, config.attention_bias)
        self.out_drop = nn.Dropout(config.attention_dropout)

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        attention_mask: dict[int | None, Tensor | None] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states.shape
        out_0, out_1, out_2 = self.Wqkv(hidden_states).view(batch, seq, 3, -1, self.qkv_view_size).unbind(2)
        q = out_0.transpose(1, 2)
        k = out_1.transpose(1, 2)
        v = out_2.transpose(1, 2)
        q, k = apply_rotary_wide(q, k, cos, sin)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(
            self, q, k, v, attention_mask[self.sliding_window], dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.out_drop(self.Wo(attn.reshape(batch, seq, -1))), attn_weights


class CanvasModernBertEncoderLayer3(GradientCheckpointingLayer):
    def __init__(self, config: CanvasModernBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.attn_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
        self.attn = CanvasModernBertFullAttention(config, layer_idx)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
        self.mlp = CanvasModernBertMLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        cos_1: Tensor,
        sin_1: Tensor,
        attention_mask: dict[int | None, Tensor | None] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        attn, _ = self.attn(self.attn_norm(hidden_states), cos, sin, attention_mask, **kwargs)
        hidden_states = hidden_states + attn
        del attn
        return hidden_states + self.mlp(self.mlp_norm(hidden_states))


class CanvasModernBertEncoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasModernBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.attn = CanvasModernBertFullAttention(config, layer_idx)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
        self.mlp = CanvasModernBertMLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        cos_1: Tensor,
        sin_1: Tensor,
        attention_mask: dict[int | None, Tensor | None] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        attn, _ = self.attn(hidden_states, cos, sin, attention_mask, **kwargs)
        hidden_states = hidden_states + attn
        del attn
        return hidden_states + self.mlp(self.mlp_norm(hidden_states))


class CanvasModernBertPreTrainedModel(PreTrainedModel):
    config: CanvasModernBertConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "CanvasModernBertEncoderLayer2",
        "CanvasModernBertEncoderLayer3",
        "CanvasModernBertEncoderLayer",
    ]
    _supports_flash_attn = _supports_sdpa = _supports_flex_attn = _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": [CanvasModernBertEncoderLayer2, CanvasModernBertEncoderLayer3, CanvasModernBertEncoderLayer],
        "attentions": [CanvasModernBertSlidingAttention, CanvasModernBertFullAttention],
    }


class CanvasModernBertModel(CanvasModernBertPreTrainedModel):
    def __init__(self, config: CanvasModernBertConfig) -> None:
        super().__init__(config)
        self.embeddings = CanvasModernBertEmbeddings(config)
        self.rotary_emb = CanvasModernBertLayerRotaryEmbedding(
            with_values(config, head_dim=config.hidden_size // config.num_attention_heads), "full_attention"
        )
        self.rotary_emb_1 = CanvasModernBertLayerRotaryEmbedding(
            with_values(config, head_dim=config.hidden_size // config.num_attention_heads), "sliding_attention"
        )
        classes: dict[str, Any] = {
            "ModernBertEncoderLayer2": CanvasModernBertEncoderLayer2,
            "ModernBertEncoderLayer3": CanvasModernBertEncoderLayer3,
            "ModernBertEncoderLayer": CanvasModernBertEncoderLayer,
        }
        self.layers = nn.ModuleList((classes[kind](config, index) for index, kind in enumerate(config.layer_kinds)))
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.tok_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.tok_embeddings = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("give input_ids, and no inputs_embeds: the tokens are embedded within a block")
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        mask_arguments = {
            "config": self.config,
            "inputs_embeds": torch.empty(*input_ids.shape, 1, dtype=self.dtype, device=input_ids.device),
            "attention_mask": attention_mask,
        }
        windows = {module.sliding_window for module in self.modules() if hasattr(module, "sliding_window")}
        mask = {
            window: create_bidirectional_mask(**mask_arguments)
            if window is None
            else create_bidirectional_mask(
                **mask_arguments, and_mask_function=sliding_window_bidirectional_overlay(window - 1)
            )
            for window in windows
        }
        embeddings = self.embeddings(input_ids)
        cos, sin = self.rotary_emb(embeddings, position_ids)
        cos_1, sin_1 = self.rotary_emb_1(embeddings, position_ids)
        hidden_states = embeddings
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(hidden_states, cos, sin, cos_1, sin_1, mask, position_ids=position_ids, **kwargs)
        return BaseModelOutput(last_hidden_state=self.final_norm(hidden_states))


class CanvasModernBertPredictionHead(nn.Module):
    def __init__(self, config: CanvasModernBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.act = ACT2FN["gelu"]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.norm(self.act(self.dense(hidden_states)))


class CanvasModernBertForMaskedLM(CanvasModernBertPreTrainedModel):
    _tied_weights_keys = {"decoder.weight": "model.embeddings.tok_embeddings.weight"}

    def __init__(self, config: CanvasModernBertConfig) -> None:
        super().__init__(config)
        self.model = CanvasModernBertModel(config)
        self.head = CanvasModernBertPredictionHead(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, config.decoder_bias)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.decoder = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        outputs = self.model(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)
        hidden_states = outputs.last_hidden_state
        logits = self.decoder(self.head(hidden_states))
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return MaskedLMOutput(loss, logits, outputs.hidden_states, outputs.attentions)
