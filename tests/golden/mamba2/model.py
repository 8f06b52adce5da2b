"""mamba-codestral-7b: written by Canvas."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, GradientCheckpointingLayer, PretrainedConfig
from transformers.masking_utils import create_recurrent_attention_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.models.mamba2.configuration_mamba2 import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer, Mamba2PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


@strict
class CanvasMamba2Config(PretrainedConfig):
    model_type = "canvas_mamba2"
    _auto_class = "AutoConfig"  # whoever saves a model saves this file with it
    keys_to_ignore_at_inference = ["past_key_values"]
    base_model_fsdp_plan = {
        "embeddings": "free_full_weight",
        "layers.*": "free_full_weight",
        "norm_f": "keep_full_weight",
    }

    num_heads: int = 128
    head_dim: int | None = 64
    vocab_size: int = 32768
    hidden_size: int = 4096
    state_size: int = 128
    num_hidden_layers: int = 64
    expand: int = 2
    conv_kernel: int = 4
    n_groups: int = 8
    chunk_size: int = 256
    layer_norm_epsilon: float | int = 1e-05
    pad_token_id: int | None = 0
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: str = "silu"
    initializer_range: float | int = 0.1
    residual_in_fp32: bool = True
    time_step_rank: int = 256
    time_step_min: float | int = 0.001
    time_step_max: float | int = 0.1
    time_step_floor: float | int = 0.0001
    rescale_prenorm_residual: bool = False
    use_cache: bool = True
    tie_word_embeddings: bool = False
    layer_types: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        names = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
        kwargs.setdefault("auto_map", {auto: f"model.CanvasMamba2{name}" for auto, name in names.items()})
        super().__post_init__(**kwargs)


def initialise_as(owner: type[PreTrainedModel], config: Any, kept: nn.Module) -> None:
    """Give a module of transformers fresh weights, as the model that it is from does."""
    model: Any = object.__new__(owner)  # without layers
    nn.Module.__init__(model)
    model.config = config
    for module in reversed([*kept.modules()]):  # a module's own rule comes after those of its parts
        model._init_weights(module)


class CanvasMamba2RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(hidden_states.dtype)


class CanvasMamba2Block(GradientCheckpointingLayer):
    def __init__(self, config: CanvasMamba2Config, layer_idx: int) -> None:
        super().__init__()
        self.norm = CanvasMamba2RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mixer = Mamba2Mixer(
            Mamba2Config(
                chunk_size=config.chunk_size,
                conv_kernel=config.conv_kernel,
                expand=config.expand,
                head_dim=config.head_dim,
                hidden_act="silu",
                hidden_size=config.hidden_size,
                layer_norm_epsilon=config.layer_norm_epsilon,
                n_groups=config.n_groups,
                num_heads=config.num_heads,
                state_size=config.state_size,
                time_step_floor=0.0001,
                time_step_max=0.1,
                time_step_min=0.001,
                time_step_rank=256,
                use_bias=False,
                use_conv_bias=True,
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
        norm = self.norm(hidden_states.to(next(self.parameters()).dtype))
        return hidden_states.to(torch.float32) + self.mixer(
            norm, cache_params=past_key_values, attention_mask=recurrent_mask
        )


class CanvasMamba2PreTrainedModel(PreTrainedModel):
    config: CanvasMamba2Config
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CanvasMamba2Block"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = _supports_sdpa = _supports_flex_attn = _supports_attention_backend = True
    _can_compile_fullgraph = False
    _can_record_outputs = {"hidden_states": CanvasMamba2Block}

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Mamba2Mixer):
            initialise_as(
                Mamba2PreTrainedModel,
                Mamba2Config(
                    initializer_range=self.config.initializer_range,
                    num_hidden_layers=self.config.num_hidden_layers,
                    rescale_prenorm_residual=self.config.rescale_prenorm_residual,
                ),
                module,
            )


class CanvasMamba2Model(CanvasMamba2PreTrainedModel):
    def __init__(self, config: CanvasMamba2Config) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(CanvasMamba2Block(config, index) for index in range(config.num_hidden_layers))
        self.norm_f = CanvasMamba2RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
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
        recurrent_mask = create_recurrent_attention_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        kwargs.update(position_ids=position_ids, use_cache=use_cache)
        hidden_states = inputs_embeds
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(
                hidden_states, attention_mask, recurrent_mask=recurrent_mask, past_key_values=past_key_values, **kwargs
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm_f(hidden_states), past_key_values=past_key_values)


class CanvasMamba2ForCausalLM(CanvasMamba2PreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "backbone.embeddings.weight"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: CanvasMamba2Config) -> None:
        super().__init__(config)
        self.backbone = CanvasMamba2Model(config)
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
        outputs = self.backbone(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache=use_cache, **kwargs
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden_states = outputs.last_hidden_state[:, kept, :]
        logits = self.lm_head(hidden_states.to(next(self.parameters()).dtype)).to(torch.float32)
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss, logits, outputs.past_key_values, outputs.hidden_states, outputs.attentions)
