"""Names that every config of transformers has for itself."""

CONFIG_NAMES = frozenset(
    {
        "allow_global_per_layer_attribute_access",
        "convert_rope_params_to_dict",
        "default_config_fields",
        "dict_dtype_to_str",
        "from_dict",
        "from_json_file",
        "from_pretrained",
        "get_config_dict",
        "get_mtp_config",
        "get_text_config",
        "is_custom_code",
        "is_heterogeneous",
        "is_remote_code",
        "name_or_path",
        "nested_rope_parameter_keys",
        "num_labels",
        "output_attentions",
        "per_layer_attributes",
        "push_to_hub",
        "register_for_auto_class",
        "rope_scaling",
        "save_pretrained",
        "serialize_explicit_per_layer_config",
        "standardize_rope_params",
        "sub_configs",
        "to_dict",
        "to_diff_dict",
        "to_json_file",
        "to_json_string",
        "torch_dtype",
        "update",
        "update_from_string",
        "use_return_dict",
        "validate",
        "validate_architecture",
        "validate_layer_type",
        "validate_output_attentions",
        "validate_rope",
        "validate_token_ids",
    }
)
"""Methods and properties of `PretrainedConfig`: a field so called would hide them."""

NEEDED = frozenset({"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"})
"""Sizes that transformers reads in every config, whether or not the graph names them."""
