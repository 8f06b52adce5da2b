"""bloom-176b: written by Canvas."""

import math
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, GradientCheckpointingLayer, PretrainedConfig
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.bloom.modeling_bloom import BloomGelu
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


@strict
class CanvasBloomConfig(PretrainedConfig):
    model_type = "canvas_bloom"
    _auto_class = "AutoConfig"  # whoever saves a model saves this file with it
    keys_to_ignore_at_inference = ["past_key_values"]
    base_model_tp_plan = {"h.*.mlp.dense_h_to_4h": "colwise", "h.*.mlp.dense_4h_to_h": "rowwise"}
    base_model_fsdp_plan = {
        "word_embeddings": "free_full_weight",
        "h.*": "free_full_weight",
        "ln_f": "keep_full_weight",
    }

    vocab_size: int = 250880
    hidden_size: int = 14336
    num_hidden_layers: int = 70
    num_attention_heads: int = 112
    layer_norm_epsilon: float | int = 1e-05
    initializer_range: float | int = 0.02
    use_cache: bool = True
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = 3
    apply_residual_connection_post_layernorm: bool = False
    hidden_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    pretraining_tp: int = 1
    slow_but_exact: bool = False
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        names = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
        kwargs.setdefault("auto_map", {auto: f"model.CanvasBloom{name}" for auto, name in names.items()})
        super().__post_init__(**kwargs)


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
    groups = module.num_key_value_groups  # of query heads that share a key/value head
    key = key.unsqueeze(2).expand(-1, -1, groups, -1, -1).flatten(1, 2)
    value = value.unsqueeze(2).expand(-1, -1, groups, -1, -1).flatten(1, 2)
    batch, heads, seq, _ = query.shape
    bias = query.new_zeros(1, 1, seq, key.shape[2]) if bias is None else bias
    rows = bias.expand(batch, heads, -1, -1).flatten(0, 1)
    weights = torch.baddbmm(rows, query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=scaling)
    weights = weights.view(batch, heads, seq, -1)
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def alibi_slopes(heads: int, device: torch.device) -> Tensor:
    closest = 2 ** math.floor(math.log2(heads))
    base = torch.full((), 2 ** (-8.0 / closest), dtype=torch.float32, device=device)
    slopes = torch.pow(base, torch.arange(1, 1 + closest, dtype=torch.int32, device=device))
    if closest == heads:
        return slopes
    base = torch.full((), 2 ** (-8.0 / (2 * closest)), dtype=torch.float32, device=device)
    more = min(closest, heads - closest)
    between = torch.pow(base, torch.arange(1, 1 + 2 * more, 2, dtype=torch.int32, device=device))
    return torch.cat([slopes, between])


def alibi(heads: int, keys: int, like: Tensor) -> Tensor:
    """What each head adds to its scores, growing along the keys."""
    slopes = alibi_slopes(heads, like.device)
    places = torch.arange(0, 0 + keys, device=like.device)
    return (slopes[None, :, None, None] * places).to(like.dtype)  # [1, heads, 1, keys]


class CanvasBloomAttention(nn.Module):
    def __init__(self, config: CanvasBloomConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.attention_dropout = config.attention_dropout
        self.num_attention_heads = config.num_attention_heads
        self.qkv_view_size = config.hidden_size // config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=True)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=True)

    def forward(
        self,
        hidden_states: Tensor,
        hidden_states_1: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states.shape
        qkv_view = self.query_key_value(hidden_states_1).view(
            batch, seq, self.num_attention_heads, 3, self.qkv_view_size
        )
        q = qkv_view[:, :, :, 0].transpose(1, 2)
        k = qkv_view[:, :, :, 1].transpose(1, 2)
        v = qkv_view[:, :, :, 2].transpose(1, 2)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        self.num_key_value_groups = q.shape[1] // k.shape[1]
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(
            self,
            q,
            k,
            v,
            attention_mask,
            dropout=dropout,
            scaling=self.scaling,
            bias=alibi(self.num_attention_heads, k.shape[2], k),
            **kwargs,
        )
        hidden_states = hidden_states + self.dense(attn.reshape(batch, seq, -1))
        return hidden_states, attn_weights


class CanvasBloomMLP(nn.Module):
    def __init__(self, config: CanvasBloomConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, 4 * config.hidden_size, bias=True)
        self.gelu_impl = BloomGelu()
        self.dense_4h_to_h = nn.Linear(4 * config.hidden_size, config.hidden_size, bias=True)

    def forward(self, hidden_states: Tensor, hidden_states_1: Tensor) -> Tensor:
        return hidden_states + self.dense_4h_to_h(self.gelu_impl(self.dense_h_to_4h(hidden_states_1)))


class CanvasBloomBlock(GradientCheckpointingLayer):
    def __init__(self, config: CanvasBloomConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon, bias=True)
        self.self_attention = CanvasBloomAttention(config, layer_idx)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon, bias=True)
        self.mlp = CanvasBloomMLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        self_attention, _ = self.self_attention(
            hidden_states,
            self.input_layernorm(hidden_states),
            attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
        return self.mlp(self_attention, self.post_attention_layernorm(self_attention))


class CanvasBloomPreTrainedModel(PreTrainedModel):
    config: CanvasBloomConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CanvasBloomBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = False
    _supports_sdpa = False
    _supports_flex_attn = False
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": CanvasBloomBlock, "attentions": CanvasBloomAttention}


class CanvasBloomModel(CanvasBloomPreTrainedModel):
    def __init__(self, config: CanvasBloomConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.word_embeddings_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon, bias=True)
        self.h = nn.ModuleList(CanvasBloomBlock(config, index) for index in range(config.num_hidden_layers))
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
        hidden_states = self.word_embeddings_layernorm(inputs_embeds)
        for layer in self.h[: self.config.num_hidden_layers]:
            hidden_states = layer(hidden_states, mask, past_key_values=past_key_values, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=self.ln_f(hidden_states), past_key_values=past_key_values)


class CanvasBloomForCausalLM(CanvasBloomPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "transformer.word_embeddings.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: CanvasBloomConfig) -> None:
        super().__init__(config)
        self.transformer = CanvasBloomModel(config)
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
