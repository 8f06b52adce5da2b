"""vit-base-patch16-224: written by Canvas."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import GradientCheckpointingLayer, PretrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutput, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


@strict
class CanvasViTConfig(PretrainedConfig):
    model_type = "canvas_vit"
    _auto_class = "AutoConfig"  # whoever saves a model saves this file with it
    base_model_tp_plan = {
        "layers.*.attention.q_proj": "colwise",
        "layers.*.attention.k_proj": "colwise",
        "layers.*.attention.v_proj": "colwise",
        "layers.*.attention.o_proj": "rowwise",
        "layers.*.mlp.fc1": "colwise",
        "layers.*.mlp.fc2": "rowwise",
    }
    base_model_fsdp_plan = {"layers.*": "free_full_weight", "layernorm": "keep_full_weight"}

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-12
    qkv_bias: bool = True
    encoder_stride: int = 16
    pooler_output_size: int = 768
    pooler_act: str = "tanh"

    def __post_init__(self, **kwargs: Any) -> None:
        names = {
            "AutoConfig": "Config",
            "AutoModel": "Model",
            "AutoModelForImageClassification": "ForImageClassification",
        }
        kwargs.setdefault("auto_map", {auto: f"model.CanvasViT{name}" for auto, name in names.items()})
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
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class CanvasConv2d(nn.Module):
    def __init__(self, config: CanvasViTConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.weight = nn.Parameter(
            torch.zeros((config.hidden_size, config.num_channels, config.patch_size, config.patch_size))
        )
        self.bias = nn.Parameter(torch.zeros((config.hidden_size,)))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return nn.functional.conv2d(
            pixel_values, self.weight, self.bias, (self.patch_size, self.patch_size), (0, 0), (1, 1), 1
        )


class CanvasViTPatchEmbeddings(nn.Module):
    def __init__(self, config: CanvasViTConfig) -> None:
        super().__init__()
        self.projection = CanvasConv2d(config)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.projection(pixel_values).flatten(2, -1).transpose(1, -1)


class CanvasViTEmbeddings(nn.Module):
    def __init__(self, config: CanvasViTConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros((1, 1, config.hidden_size)))
        self.position_embeddings = nn.Parameter(
            torch.zeros((1, (config.image_size // config.patch_size) ** 2 + 1, config.hidden_size))
        )
        self.patch_embeddings = CanvasViTPatchEmbeddings(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: Tensor) -> Tensor:
        batch = pixel_values.shape[0]
        patch_embeddings = self.patch_embeddings(pixel_values)
        hidden_states = (
            torch.cat((self.cls_token.expand(batch, -1, -1), patch_embeddings), dim=1) + self.position_embeddings
        )
        return self.dropout(hidden_states)


class CanvasViTAttention(nn.Module):
    def __init__(self, config: CanvasViTConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = False
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        self.num_key_value_groups = 1
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, config.qkv_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=True)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states.shape
        # [batch, num_attention_heads, 197, hidden_size // num_attention_heads]
        q = self.q_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        k = self.k_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        v = self.v_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(self, q, k, v, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.o_proj(attn.reshape(batch, seq, -1)), attn_weights


class CanvasViTMLP(nn.Module):
    def __init__(self, config: CanvasViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=True)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=True)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class CanvasViTLayer(GradientCheckpointingLayer):
    def __init__(self, config: CanvasViTConfig, layer_idx: int) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=True)
        self.attention = CanvasViTAttention(config, layer_idx)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=True)
        self.mlp = CanvasViTMLP(config)
        self.dropout_1 = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        attention_1, _ = self.attention(self.layernorm_before(hidden_states), attention_mask, **kwargs)
        hidden_states_1 = self.dropout(attention_1) + hidden_states
        del attention_1
        return self.dropout_1(self.mlp(self.layernorm_after(hidden_states_1))) + hidden_states_1


class CanvasViTPreTrainedModel(PreTrainedModel):
    config: CanvasViTConfig
    base_model_prefix = "vit"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CanvasViTLayer"]
    _supports_flash_attn = _supports_sdpa = _supports_flex_attn = _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": CanvasViTLayer, "attentions": CanvasViTAttention}

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CanvasConv2d):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
        if isinstance(module, CanvasViTEmbeddings):
            init.normal_(module.cls_token, mean=0.0, std=self.config.initializer_range)
            init.normal_(module.position_embeddings, mean=0.0, std=self.config.initializer_range)


class CanvasViTModel(CanvasViTPreTrainedModel):
    def __init__(self, config: CanvasViTConfig) -> None:
        super().__init__(config)
        self.embeddings = CanvasViTEmbeddings(config)
        self.layers = nn.ModuleList(CanvasViTLayer(config, index) for index in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=True)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(self, pixel_values: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        if pixel_values is None:
            raise ValueError("give pixel_values")
        hidden_states = self.embeddings(pixel_values)
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(hidden_states, **kwargs)
        return BaseModelOutput(last_hidden_state=self.layernorm(hidden_states))


class CanvasViTForImageClassification(CanvasViTPreTrainedModel):
    def __init__(self, config: CanvasViTConfig) -> None:
        super().__init__(config)
        self.vit = CanvasViTModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels, bias=True)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutput:
        outputs = self.vit(pixel_values, **kwargs)
        hidden_states = outputs.last_hidden_state
        logits = self.classifier(hidden_states[:, 0])
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)
