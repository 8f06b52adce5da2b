"""Fields of a config that ask for what Canvas does not do, and those that say nothing of an architecture."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from canvas_rt.errors import ConfigError
from canvas_rt.ir.files import shown

ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
HEAD_KINDS = ("ForCausalLM", "LMHeadModel")
"""How the class names of causal language models end."""

NOT_IMPORTED = "is no causal or masked language model and no image classifier, which is all that Canvas imports"

Refusal = Callable[[Any, str], None]


def says_nothing(value: Any) -> bool:
    """Whether a field's value asks for nothing at all."""
    return value is None or value is False or value in ("", [], (), {})


def _never(message: str, hint: str) -> Refusal:
    """Refuse a field unless it says nothing."""

    def refuse(value: Any, path: str) -> None:
        if not says_nothing(value):
            raise ConfigError(message, path=path, hint=hint)

    return refuse


def _own_attention(value: Any, path: str) -> None:
    if value is not None and value not in ATTENTIONS:
        raise ConfigError(
            f"{shown(value)} is not accepted: Canvas never loads kernels that a config names",
            path=path,
            hint="Remove the field: how attention runs is chosen when the model is loaded.",
        )


def check_architectures(value: Any, path: str, accepted: Collection[str | None]) -> None:
    """The classes that a config was saved from: a causal language model's, or an `accepted` one."""
    if value is None:
        return
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise ConfigError(f"must be a list of class names, not {shown(value)}", path=path, hint="Remove the field.")
    other = next((one for one in value if not one.endswith(HEAD_KINDS) and one not in accepted), None)
    if other is not None:
        raise ConfigError(
            f"{shown(other)} {NOT_IMPORTED}",
            path=path,
            hint="Remove the field to import its backbone with the usual head of its model type.",
        )


def whole_heads(value: Any, path: str) -> None:
    """A share of a head's channels, for architectures that turn all of them."""
    if value is None or (value == 1 and not isinstance(value, bool)):
        return
    raise ConfigError(
        f"must be 1, not {shown(value)}: this architecture turns all channels of a head", path=path, hint="Remove it."
    )


_CODE = _never(
    "is not accepted: Canvas never runs code that a config names",
    "Remove the field and import the stock architecture that it builds on.",
)
_BY_LAYER = _never(
    "is not supported: layers of this model type are alike",
    "Remove the field; layers of an imported document can then be edited one by one.",
)
_NESTED = _never(
    "is not supported: a config within the config", "Save the text model's config as a config.json of its own."
)
encoder = _never("is not supported: Canvas imports causal language models", "Remove the field.")

REFUSED: Mapping[str, Refusal] = {
    "auto_map": _CODE,
    "custom_pipelines": _CODE,
    "trust_remote_code": _CODE,
    "quantization_config": _never("is not supported", "Import the unquantised config."),
    "attn_implementation": _own_attention,
    "_attn_implementation": _own_attention,
    "_attn_implementation_internal": _own_attention,
    "experts_implementation": _own_attention,
    "_experts_implementation": _own_attention,
    "_experts_implementation_internal": _own_attention,
    "is_encoder_decoder": encoder,
    "add_cross_attention": encoder,
}
"""Fields that are accepted only while they say nothing; none reaches transformers."""

UNLESS_DECLARED: Mapping[str, Refusal] = {
    "layer_types": _BY_LAYER,
    "per_layer_config": _BY_LAYER,
    "text_config": _NESTED,
    "vision_config": _NESTED,
    "audio_config": _NESTED,
    "partial_rotary_factor": whole_heads,
}
"""Fields that model types know or do not: where one does not, it would be silently ignored."""

_INERT = (
    "_name_or_path name_or_path _commit_hash transformers_version model_type tokenizer_class torchscript return_dict "
    "use_return_dict output_attentions output_hidden_states use_bfloat16 chunk_size_feed_forward id2label label2id "
    "num_labels problem_type finetuning_task task_specific_params pruned_heads tf_legacy_loss architectures "
    "cross_attention_hidden_size prefix decoder_start_token_id forced_bos_token_id forced_eos_token_id "
    "max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p "
    "typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids "
    "num_return_sequences output_scores return_dict_in_generate remove_invalid_values suppress_tokens "
    "begin_suppress_tokens exponential_decay_length_penalty gradient_checkpointing per_layer_config_version "
    "summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout "
    "summary_last_dropout summary_hidden_size classifier_dropout classifier_dropout_prob classifier_activation "
    "classifier_bias classifier_proj_size start_n_top end_n_top use_weighted_layer_sum init_device is_encoder "
    "apply_spec_augment mask_time_prob mask_time_length mask_time_min_masks mask_feature_prob mask_feature_length "
    "mask_feature_min_masks median_filter_width normalize_before add_final_layer_norm"
)
INERT = frozenset(_INERT.split())
"""Fields of configs that say nothing of a language model: they are dropped without a word."""
