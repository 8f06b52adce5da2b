"""bert-base-uncased: written by Canvas."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import GradientCheckpointingLayer, PretrainedConfig
from transformers.activations import ACT2FN
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


@strict
class CanvasBertConfig(PretrainedConfig):
    model_type = "canvas_bert"
    _auto_class = "AutoConfig"  # whoever saves a model saves this file with it
    base_model_fsdp_plan = {
        "embeddings.word_embeddings": "free_full_weight",
        "embeddings.token_type_embeddings": "free_full_weight",
        "embeddings.position_embeddings": "free_full_weight",
        "encoder.layer.*": "free_full_weight",
    }

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-12
    pad_token_id: int | None = 0
    is_decoder: bool = False
    add_cross_attention: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        names = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForMaskedLM": "ForMaskedLM"}
        kwargs.setdefault("auto_map", {auto: f"model.CanvasBert{name}" for auto, name in names.items()})
        super().__post_init__(**kwargs)


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


class CanvasBertEmbeddings(nn.Module):
    def __init__(self, config: CanvasBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=True)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        hidden_states = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        hidden_states = hidden_states + self.position_embeddings(position_ids)
        return self.dropout(self.LayerNorm(hidden_states))


class CanvasBertSelfAttention(nn.Module):
    def __init__(self, config: CanvasBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = False
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        self.num_key_value_groups = 1
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.key = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.value = nn.Linear(config.hidden_size, config.hidden_size, bias=True)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states.shape
        # [batch, num_attention_heads, seq, hidden_size // num_attention_heads]
        query_heads = self.query(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        key_heads = self.key(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        value_heads = self.value(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(
            self, query_heads, key_heads, value_heads, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return attn.reshape(batch, seq, -1), attn_weights


class CanvasBertSelfOutput(nn.Module):
    def __init__(self, config: CanvasBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=True)

    def forward(self, hidden_states: Tensor, hidden_states_1: Tensor) -> Tensor:
        hidden_states_2 = self.dropout(self.dense(hidden_states_1)) + hidden_states
        return self.LayerNorm(hidden_states_2)


class CanvasBertAttention(nn.Module):
    def __init__(self, config: CanvasBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.self = CanvasBertSelfAttention(config, layer_idx)
        self.output = CanvasBertSelfOutput(config)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        self_1, _ = self.self(hidden_states, attention_mask, **kwargs)
        return self.output(hidden_states, self_1)


class CanvasBertIntermediate(nn.Module):
    def __init__(self, config: CanvasBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size, bias=True)
        self.intermediate_act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.intermediate_act_fn(self.dense(hidden_states))


class CanvasBertOutput(nn.Module):
    def __init__(self, config: CanvasBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size, bias=True)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=True)

    def forward(self, hidden_states: Tensor, hidden_states_1: Tensor) -> Tensor:
        hidden_states_2 = self.dropout(self.dense(hidden_states_1)) + hidden_states
        return self.LayerNorm(hidden_states_2)


class CanvasBertLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.attention = CanvasBertAttention(config, layer_idx)
        self.intermediate = CanvasBertIntermediate(config)
        self.output = CanvasBertOutput(config)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        attention_1 = self.attention(hidden_states, attention_mask, **kwargs)
        return self.output(attention_1, self.intermediate(attention_1))


class CanvasBertEncoder(nn.Module):
    def __init__(self, config: CanvasBertConfig) -> None:
        super().__init__()
        self.config = config
        self.layer = nn.ModuleList(CanvasBertLayer(config, index) for index in range(config.num_hidden_layers))

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        for layer in self.layer[: self.config.num_hidden_layers]:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        return hidden_states


class CanvasBertPreTrainedModel(PreTrainedModel):
    config: CanvasBertConfig
    base_model_prefix = "bert"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CanvasBertLayer"]
    _supports_flash_attn = _supports_sdpa = _supports_flex_attn = _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": CanvasBertLayer, "attentions": CanvasBertSelfAttention}


class CanvasBertModel(CanvasBertPreTrainedModel):
    def __init__(self, config: CanvasBertConfig) -> None:
        super().__init__(config)
        self.embeddings = CanvasBertEmbeddings(config)
        self.encoder = CanvasBertEncoder(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.word_embeddings = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("give input_ids, and no inputs_embeds: the tokens are embedded within a block")
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids, dtype=torch.long)
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=torch.empty(*input_ids.shape, 1, dtype=self.dtype, device=input_ids.device),
            attention_mask=attention_mask,
        )
        return BaseModelOutput(
            last_hidden_state=self.encoder(
                self.embeddings(input_ids, token_type_ids, position_ids=position_ids),
                mask,
                position_ids=position_ids,
                **kwargs,
            )
        )


class CanvasBertPredictionHeadTransform(nn.Module):
    def __init__(self, config: CanvasBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.transform_act_fn = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=True)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.LayerNorm(self.transform_act_fn(self.dense(hidden_states)))


class CanvasBertLMPredictionHead(nn.Module):
    def __init__(self, config: CanvasBertConfig) -> None:
        super().__init__()
        self.transform = CanvasBertPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=True)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.decoder(self.transform(hidden_states))


class CanvasBertOnlyMLMHead(nn.Module):
    def __init__(self, config: CanvasBertConfig) -> None:
        super().__init__()
        self.predictions = CanvasBertLMPredictionHead(config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.predictions(hidden_states)


class CanvasBertForMaskedLM(CanvasBertPreTrainedModel):
    _tied_weights_keys = {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"}

    def __init__(self, config: CanvasBertConfig) -> None:
        super().__init__(config)
        self.bert = CanvasBertModel(config)
        self.cls = CanvasBertOnlyMLMHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.cls.predictions.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.cls.predictions.decoder = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        outputs = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        hidden_states = outputs.last_hidden_state
        logits = self.cls(hidden_states)
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return MaskedLMOutput(loss, logits, outputs.hidden_states, outputs.attentions)


# What shares a tensor in the original may lie in its checkpoint under the other's name.
register_checkpoint_conversion_mapping(
    "CanvasBertForMaskedLM",
    [WeightRenaming("^cls\\.predictions\\.bias", "cls.predictions.decoder.bias")],
    overwrite=True,
)
