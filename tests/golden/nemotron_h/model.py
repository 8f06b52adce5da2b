"""nemotron-h-8b: written by Canvas."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, GradientCheckpointingLayer, PretrainedConfig
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask, create_recurrent_attention_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.nemotron_h.configuration_nemotron_h import NemotronHConfig
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMamba2Mixer, NemotronHPreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


@strict
class CanvasNemotronHConfig(PretrainedConfig):
    model_type = "canvas_nemotron_h"
    _auto_class = "AutoConfig"  # whoever saves a model saves this file with it
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"num_experts": "n_routed_experts", "num_local_experts": "n_routed_experts"}
    base_model_tp_plan = {
        "layers.*.mixer.up_proj": "colwise",
        "layers.*.mixer.down_proj": "rowwise",
        "layers.*.mixer.q_proj": "colwise",
        "layers.*.mixer.k_proj": "colwise",
        "layers.*.mixer.v_proj": "colwise",
        "layers.*.mixer.o_proj": "rowwise",
    }
    base_model_fsdp_plan = {
        "embeddings": "free_full_weight",
        "layers.*": "free_full_weight",
        "norm_f": "keep_full_weight",
    }

    vocab_size: int = 131072
    hidden_size: int = 4096
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    head_dim: int | None = 128
    intermediate_size: int = 21504
    ssm_state_size: int = 128
    mamba_num_heads: int = 128
    mamba_head_dim: int = 64
    n_groups: int = 8
    conv_kernel: int = 4
    expand: int = 2
    chunk_size: int = 128
    num_hidden_layers: int = 52
    layers_block_type: list | dict | None = None
    tie_word_embeddings: bool = False
    use_cache: bool = True
    num_logits_to_keep: int = 1
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    max_position_embeddings: int = 8192
    attention_bias: bool = False
    attention_dropout: float | int = 0.0
    sliding_window: int | None = None
    mlp_hidden_act: str = "relu2"
    mlp_bias: bool = False
    use_mamba_kernels: bool = True
    mamba_hidden_act: str = "silu"
    time_step_min: float | int = 0.001
    time_step_max: float | int = 0.1
    time_step_floor: float | int = 0.0001
    use_conv_bias: bool = True
    mamba_proj_bias: bool = False
    mamba_ssm_cache_dtype: str = "float32"
    n_routed_experts: int = 8
    output_router_logits: bool = False
    n_shared_experts: int = 1
    moe_intermediate_size: int = 7688
    moe_shared_expert_intermediate_size: int = 7688
    moe_latent_size: list | dict | None = None
    moe_shared_expert_overlap: bool = True
    num_experts_per_tok: int = 2
    routed_scaling_factor: float | int = 1.0
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    num_nextn_predict_layers: int = 0
    mtp_layers_block_type: list | dict | None = None
    use_bias: bool = False
    initializer_range: float | int = 0.02
    layer_norm_epsilon: float | int = 1e-05
    residual_in_fp32: bool = False
    hidden_dropout: float | int = 0.0
    rescale_prenorm_residual: bool = True
    layer_types: list[str] | None = None
    layer_kinds: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.layer_kinds is None:
            self.layer_kinds = ["NemotronHLinearAttentionBlock"] * self.num_hidden_layers
        names = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
        kwargs.setdefault("auto_map", {auto: f"model.CanvasNemotronH{name}" for auto, name in names.items()})
        super().__post_init__(**kwargs)


def initialise_as(owner: type[PreTrainedModel], config: Any, kept: nn.Module) -> None:
    """Give a module of transformers fresh weights, as the model that it is from does."""
    model: Any = object.__new__(owner)  # without layers
    nn.Module.__init__(model)
    model.config = config
    for module in reversed([*kept.modules()]):  # a module's own rule comes after those of its parts
        model._init_weights(module)


class CanvasNemotronHWideRMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight * wide).to(hidden_states.dtype)


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


class CanvasNemotronHLinearAttentionBlock(GradientCheckpointingLayer):
    def __init__(self, config: CanvasNemotronHConfig, layer_idx: int) -> None:
        super().__init__()
        self.norm = CanvasNemotronHWideRMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mixer = NemotronHMamba2Mixer(
            NemotronHConfig(
                chunk_size=config.chunk_size,
                conv_kernel=config.conv_kernel,
                expand=config.expand,
                hidden_size=config.hidden_size,
                layer_norm_epsilon=config.layer_norm_epsilon,
                mamba_head_dim=config.mamba_head_dim,
                mamba_hidden_act="silu",
                mamba_num_heads=config.mamba_num_heads,
                n_groups=config.n_groups,
                num_attention_heads=config.num_attention_heads,
                num_key_value_heads=config.num_key_value_heads,
                ssm_state_size=config.ssm_state_size,
                time_step_floor=0.0001,
                time_step_max=0.1,
                time_step_min=0.001,
                use_bias=False,
                use_conv_bias=True,
                use_mamba_kernels=True,
                num_hidden_layers=config.num_hidden_layers,
            ),
            layer_idx=layer_idx,
            initialize_mixer_weights=False,
        )

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        recurrent_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        return hidden_states + self.mixer(
            self.norm(hidden_states), cache_params=past_key_values, attention_mask=recurrent_mask
        )


class CanvasNemotronHMLP(nn.Module):
    def __init__(self, config: CanvasNemotronHConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, config.mlp_bias)
        self.act_fn = ACT2FN[config.mlp_hidden_act]
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, config.mlp_bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.up_proj(hidden_states)))


class CanvasNemotronHMlpBlock(GradientCheckpointingLayer):
    def __init__(self, config: CanvasNemotronHConfig, layer_idx: int) -> None:
        super().__init__()
        self.norm = CanvasNemotronHWideRMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mixer = CanvasNemotronHMLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        return hidden_states + self.mixer(self.norm(hidden_states))


class CanvasNemotronHAttention(nn.Module):
    def __init__(self, config: CanvasNemotronHConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.scaling = config.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        batch, seq, _ = hidden_states.shape
        # [batch, num_attention_heads, seq, head_dim]
        q = self.q_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        # [batch, num_key_value_heads, seq, head_dim]
        k = self.k_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        v = self.v_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        attn, attn_weights = attention(self, q, k, v, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.o_proj(attn.reshape(batch, seq, -1)), attn_weights


class CanvasNemotronHFullAttentionBlock(GradientCheckpointingLayer):
    def __init__(self, config: CanvasNemotronHConfig, layer_idx: int) -> None:
        super().__init__()
        self.norm = CanvasNemotronHWideRMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mixer = CanvasNemotronHAttention(config, layer_idx)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        mixer, _ = self.mixer(self.norm(hidden_states), attention_mask, past_key_values=past_key_values, **kwargs)
        return hidden_states + mixer


class CanvasNemotronHPreTrainedModel(PreTrainedModel):
    config: CanvasNemotronHConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "CanvasNemotronHLinearAttentionBlock",
        "CanvasNemotronHMlpBlock",
        "CanvasNemotronHFullAttentionBlock",
    ]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = _supports_sdpa = _supports_flex_attn = _supports_attention_backend = True
    _can_compile_fullgraph = False
    _can_record_outputs = {
        "hidden_states": [
            CanvasNemotronHLinearAttentionBlock,
            CanvasNemotronHMlpBlock,
            CanvasNemotronHFullAttentionBlock,
        ],
        "attentions": CanvasNemotronHAttention,
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, NemotronHMamba2Mixer):
            initialise_as(
                NemotronHPreTrainedModel,
                NemotronHConfig(
                    initializer_range=self.config.initializer_range,
                    mamba_num_heads=self.config.mamba_num_heads,
                    rescale_prenorm_residual=self.config.rescale_prenorm_residual,
                    time_step_floor=self.config.time_step_floor,
                    time_step_max=self.config.time_step_max,
                    time_step_min=self.config.time_step_min,
                ),
                module,
            )


class CanvasNemotronHModel(CanvasNemotronHPreTrainedModel):
    def __init__(self, config: CanvasNemotronHConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        classes: dict[str, Any] = {
            "NemotronHLinearAttentionBlock": CanvasNemotronHLinearAttentionBlock,
            "NemotronHMlpBlock": CanvasNemotronHMlpBlock,
            "NemotronHFullAttentionBlock": CanvasNemotronHFullAttentionBlock,
        }
        self.layers = nn.ModuleList((classes[kind](config, index) for index, kind in enumerate(config.layer_kinds)))
        self.norm_f = CanvasNemotronHWideRMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings = value

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
            inputs_embeds = self.embeddings(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past)[None]
        recurrent_mask = create_recurrent_attention_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        mask = create_causal_mask(self.config, inputs_embeds, attention_mask, past_key_values, position_ids)
        kwargs.update(position_ids=position_ids, use_cache=use_cache)
        hidden_states = inputs_embeds
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(
                hidden_states, mask, recurrent_mask=recurrent_mask, past_key_values=past_key_values, **kwargs
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm_f(hidden_states), past_key_values=past_key_values)


class CanvasNemotronHForCausalLM(CanvasNemotronHPreTrainedModel, GenerationMixin):
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: CanvasNemotronHConfig) -> None:
        super().__init__(config)
        self.model = CanvasNemotronHModel(config)
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
        logits = self.lm_head(hidden_states).to(torch.float32)
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss, logits, outputs.past_key_values, outputs.hidden_states, outputs.attentions)
