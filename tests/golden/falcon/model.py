"""falcon-40b: written by Canvas."""

import copy
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, GradientCheckpointingLayer, PretrainedConfig
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


@strict
class CanvasFalconConfig(PretrainedConfig):
    model_type = "canvas_falcon"
    _auto_class = "AutoConfig"  # whoever saves a model saves this file with it
    keys_to_ignore_at_inference = ["past_key_values"]
    base_model_tp_plan = {"h.*.mlp.dense_h_to_4h": "colwise", "h.*.mlp.dense_4h_to_h": "rowwise"}
    base_model_fsdp_plan = {
        "word_embeddings": "free_full_weight",
        "h.*": "free_full_weight",
        "ln_f": "keep_full_weight",
    }

    vocab_size: int = 65024
    hidden_size: int = 8192
    num_hidden_layers: int = 60
    num_attention_heads: int = 128
    num_kv_heads: int = 8
    max_position_embeddings: int = 2048
    ffn_hidden_size: int | None = None
    num_ln_in_parallel_attn: list | dict | None = None
    layer_norm_epsilon: float | int = 1e-05
    initializer_range: float | int = 0.02
    use_cache: bool = True
    hidden_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    alibi: bool = False
    new_decoder_architecture: bool = True
    multi_query: bool = True
    parallel_attn: bool = True
    bias: bool = False
    rope_parameters: RopeParameters | dict | None = None
    bos_token_id: int | None = 11
    eos_token_id: int | list[int] | None = 11
    pad_token_id: int | None = None
    activation: str = "gelu"
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.ffn_hidden_size is None:
            self.ffn_hidden_size = 4 * self.hidden_size
        names = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
        kwargs.setdefault("auto_map", {auto: f"model.CanvasFalcon{name}" for auto, name in names.items()})
        super().__post_init__(**kwargs)


def with_values(config: CanvasFalconConfig, **values: Any) -> CanvasFalconConfig:
    """A copy of a config with some fields changed."""
    changed = copy.copy(config)
    for name, value in values.items():
        setattr(changed, name, value)
    return changed


class CanvasFalconRotaryEmbedding(nn.Module):
    inv_freq: Tensor

    def __init__(self, config: CanvasFalconConfig) -> None:
        super().__init__()
        self.config = config
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        init = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = init(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: CanvasFalconConfig, **kwargs: Any) -> tuple[Tensor, float]:
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


def apply_rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # one for all heads
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


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
    weights = torch.matmul(query, key.transpose(2, 3)) / (1 / scaling)
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class CanvasFalconAttention(nn.Module):
    def __init__(self, config: CanvasFalconConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.attention_dropout = 0.0
        self.qkv_view_size = config.num_attention_heads // config.num_kv_heads + 2
        self.qkv_view_size_1 = config.hidden_size // config.num_attention_heads
        self.k_part_size = config.num_attention_heads // config.num_kv_heads
        self.k_part_size_1 = config.num_attention_heads // config.num_kv_heads + 1
        self.v_part_size = config.num_attention_heads // config.num_kv_heads + 1
        self.v_part_size_1 = config.num_attention_heads // config.num_kv_heads + 2
        self.num_kv_heads = config.num_kv_heads
        self.k_expanded_size = config.num_attention_heads // config.num_kv_heads
        self.k_expanded_size_1 = config.hidden_size // config.num_attention_heads
        self.v_expanded_size = config.num_attention_heads // config.num_kv_heads
        self.v_expanded_size_1 = config.hidden_size // config.num_attention_heads
        self.query_key_value = nn.Linear(
            config.hidden_size,
            config.hidden_size + 2 * (config.hidden_size // config.num_attention_heads * config.num_kv_heads),
            bias=False,
        )
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

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
        qkv_view = self.query_key_value(hidden_states).view(batch, seq, -1, self.qkv_view_size, self.qkv_view_size_1)
        q_part = qkv_view[:, :, :, :-2]
        k_part = qkv_view[:, :, :, self.k_part_size : self.k_part_size_1]
        v_part = qkv_view[:, :, :, self.v_part_size : self.v_part_size_1]
        k_expanded = k_part.expand(batch, seq, self.num_kv_heads, self.k_expanded_size, self.k_expanded_size_1)
        v_expanded = v_part.expand(batch, seq, self.num_kv_heads, self.v_expanded_size, self.v_expanded_size_1)
        q = q_part.flatten(2, 3).transpose(1, 2)
        k = k_expanded.flatten(2, 3).transpose(1, 2)
        v = v_expanded.flatten(2, 3).transpose(1, 2)
        q, k = apply_rotary(q, k, cos, sin)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        self.num_key_value_groups = q.shape[1] // k.shape[1]
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(self, q, k, v, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.dense(attn.reshape(batch, seq, -1)), attn_weights


class CanvasFalconMLP(nn.Module):
    def __init__(self, config: CanvasFalconConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.ffn_hidden_size, bias=False)
        self.act = ACT2FN[config.activation]
        self.dense_4h_to_h = nn.Linear(config.ffn_hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.dense_4h_to_h(self.act(self.dense_h_to_4h(hidden_states)))


class CanvasFalconDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasFalconConfig, layer_idx: int) -> None:
        super().__init__()
        self.ln_attn = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon, bias=True)
        self.ln_mlp = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon, bias=True)
        self.self_attention = CanvasFalconAttention(config, layer_idx)
        self.mlp = CanvasFalconMLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        ln_attn = self.ln_attn(hidden_states)
        ln_mlp = self.ln_mlp(hidden_states)
        self_attention, _ = self.self_attention(
            ln_attn, cos, sin, attention_mask, past_key_values=past_key_values, **kwargs
        )
        hidden_states_1 = self.mlp(ln_mlp) + self_attention
        return hidden_states + hidden_states_1


class CanvasFalconPreTrainedModel(PreTrainedModel):
    config: CanvasFalconConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CanvasFalconDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = _supports_sdpa = _supports_flex_attn = _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": CanvasFalconDecoderLayer, "attentions": CanvasFalconAttention}


class CanvasFalconModel(CanvasFalconPreTrainedModel):
    def __init__(self, config: CanvasFalconConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary_emb = CanvasFalconRotaryEmbedding(
            with_values(config, head_dim=config.hidden_size // config.num_attention_heads)
        )
        self.h = nn.ModuleList(CanvasFalconDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.ln_f = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon, bias=True)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.word_embeddings = value

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
            inputs_embeds = self.word_embeddings(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past)[None]
        mask = create_causal_mask(self.config, inputs_embeds, attention_mask, past_key_values, position_ids)
        kwargs.update(position_ids=position_ids, use_cache=use_cache)
        cos, sin = self.rotary_emb(inputs_embeds, position_ids)
        hidden_states = inputs_embeds
        for layer in self.h[: self.config.num_hidden_layers]:
            hidden_states = layer(hidden_states, cos, sin, mask, past_key_values=past_key_values, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=self.ln_f(hidden_states), past_key_values=past_key_values)


class CanvasFalconForCausalLM(CanvasFalconPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "transformer.word_embeddings.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: CanvasFalconConfig) -> None:
        super().__init__(config)
        self.transformer = CanvasFalconModel(config)
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
        outputs = self.transformer(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache=use_cache, **kwargs
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden_states = outputs.last_hidden_state[:, kept, :]
        logits = self.lm_head(hidden_states)
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss, logits, outputs.past_key_values, outputs.hidden_states, outputs.attentions)
