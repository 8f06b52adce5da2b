"""mpt-30b: written by Canvas."""

import math
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, GradientCheckpointingLayer, PretrainedConfig
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


@strict
class CanvasMptConfig(PretrainedConfig):
    model_type = "canvas_mpt"
    _auto_class = "AutoConfig"  # whoever saves a model saves this file with it
    keys_to_ignore_at_inference = ["past_key_values"]
    base_model_tp_plan = {"blocks.*.ffn.up_proj": "colwise", "blocks.*.ffn.down_proj": "rowwise"}
    base_model_fsdp_plan = {"wte": "free_full_weight", "blocks.*": "free_full_weight", "norm_f": "keep_full_weight"}

    hidden_size: int = 7168
    num_attention_heads: int = 64
    num_hidden_layers: int = 48
    vocab_size: int = 50432
    expansion_ratio: int = 4
    max_seq_len: int = 8192
    resid_pdrop: float | int = 0.0
    layer_norm_epsilon: float | int = 1e-05
    emb_pdrop: float | int = 0.0
    learned_pos_emb: bool = True
    attn_config: list | dict | None = None
    logit_scale: list | dict | None = None
    no_bias: bool = True
    embedding_fraction: float | int = 1.0
    norm_type: str = "low_precision_layernorm"
    use_cache: bool = False
    initializer_range: float | int = 0.02
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        names = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
        kwargs.setdefault("auto_map", {auto: f"model.CanvasMpt{name}" for auto, name in names.items()})
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
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if bias is not None:
        weights = weights + bias
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def alibi_slopes(heads: int, device: torch.device) -> Tensor:
    count = 2 ** math.ceil(math.log2(heads))
    powers = torch.arange(1, count + 1, dtype=torch.int64, device=device).float() * (8.0 / count)
    slopes = 1.0 / torch.pow(2, powers)
    return slopes if count == heads else torch.cat([slopes[1::2], slopes[::2]])[:heads]


def alibi(heads: int, keys: int, like: Tensor) -> Tensor:
    """What each head adds to its scores, growing along the keys."""
    slopes = alibi_slopes(heads, like.device)
    places = torch.arange(1 - keys, 1 - keys + keys, device=like.device)
    return slopes[None, :, None, None] * places  # [1, heads, 1, keys]


class CanvasMptAttention(nn.Module):
    def __init__(self, config: CanvasMptConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.attention_dropout = 0.0
        self.num_key_value_groups = config.num_attention_heads // config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.num_attention_heads = config.num_attention_heads
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states.shape
        out_0, out_1, out_2 = self.Wqkv(hidden_states).chunk(3, dim=-1)
        # [batch, num_attention_heads, seq, hidden_size // num_attention_heads]
        q = out_0.view(batch, seq, -1, self.head_dim).transpose(1, 2)
        k = out_1.view(batch, seq, -1, self.head_dim).transpose(1, 2)
        v = out_2.view(batch, seq, -1, self.head_dim).transpose(1, 2)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
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
        return self.out_proj(attn.reshape(batch, seq, -1)), attn_weights


class CanvasMptMLP(nn.Module):
    def __init__(self, config: CanvasMptConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, 4 * config.hidden_size, bias=False)
        self.act = ACT2FN["gelu"]
        self.down_proj = nn.Linear(4 * config.hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor, hidden_states_1: Tensor) -> Tensor:
        return self.down_proj(self.act(self.up_proj(hidden_states_1))) + hidden_states


class CanvasMptBlock(GradientCheckpointingLayer):
    def __init__(self, config: CanvasMptConfig, layer_idx: int) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon, bias=False)
        self.attn = CanvasMptAttention(config, layer_idx)
        self.resid_attn_dropout = nn.Dropout(0.0)
        self.norm_2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon, bias=False)
        self.ffn = CanvasMptMLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        attn, _ = self.attn(self.norm_1(hidden_states), attention_mask, past_key_values=past_key_values, **kwargs)
        hidden_states_1 = self.resid_attn_dropout(attn) + hidden_states
        del attn
        return self.ffn(hidden_states_1, self.norm_2(hidden_states_1))


class CanvasMptPreTrainedModel(PreTrainedModel):
    config: CanvasMptConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CanvasMptBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = False
    _supports_sdpa = False
    _supports_flex_attn = False
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": CanvasMptBlock, "attentions": CanvasMptAttention}


class CanvasMptModel(CanvasMptPreTrainedModel):
    def __init__(self, config: CanvasMptConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(CanvasMptBlock(config, index) for index in range(config.num_hidden_layers))
        self.norm_f = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon, bias=False)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.wte

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.wte = value

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
            inputs_embeds = self.wte(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past)[None]
        mask = create_causal_mask(self.config, inputs_embeds, attention_mask, past_key_values, position_ids)
        kwargs.update(position_ids=position_ids, use_cache=use_cache)
        hidden_states = inputs_embeds
        for layer in self.blocks[: self.config.num_hidden_layers]:
            hidden_states = layer(hidden_states, mask, past_key_values=past_key_values, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=self.norm_f(hidden_states), past_key_values=past_key_values)


class CanvasMptForCausalLM(CanvasMptPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: CanvasMptConfig) -> None:
        super().__init__(config)
        self.transformer = CanvasMptModel(config)
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
