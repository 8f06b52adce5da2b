"""`--set PATH.name=VALUE` is read as the edit that it means."""

import pytest

from canvas_rt.edits import Edit, SetAttr, SetConfig, SetSize, apply, parse_assignment
from canvas_rt.errors import EditError
from canvas_rt.ir.document import Document
from canvas_rt.ir.frozen import FrozenMap


@pytest.mark.parametrize(
    ("text", "edit"),
    [
        ("hidden_size=2048", SetSize("", "hidden_size", 2048)),
        (" hidden_size = 2048 ", SetSize("", "hidden_size", 2048)),
        ("num_key_value_heads==num_attention_heads", SetSize("", "num_key_value_heads", "=num_attention_heads")),
        ("rms_norm_eps=1e-5", SetConfig("rms_norm_eps", 1e-5)),
        ("hidden_act=gelu", SetConfig("hidden_act", "gelu")),
        ("tie_word_embeddings=true", SetConfig("tie_word_embeddings", True)),
        ("pad_token_id=null", SetConfig("pad_token_id", None)),
        (
            "rope_parameters.rope_theta=500000",
            SetConfig("rope_parameters", FrozenMap({"rope_theta": 500000, "rope_type": "default"})),
        ),
        (
            "model.layers.8-15.self_attn.num_key_value_heads=4",
            SetSize("model.layers.8-15.self_attn", "num_key_value_heads", 4),
        ),
        ("model.layers.3.intermediate_size=64", SetSize("model.layers.3", "intermediate_size", 64)),
        (
            "model.layers.0.self_attn.attention.window=512",
            SetAttr("model.layers.0.self_attn.attention", "window", 512),
        ),
        ("lm_head.out_features==vocab_size * 2", SetAttr("lm_head", "out_features", "=vocab_size * 2")),
    ],
)
def test_an_assignment_is_an_edit_that_can_be_made(document: Document, text: str, edit: Edit) -> None:
    assert parse_assignment(document, text) == edit
    apply(document, edit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hidden_size", "'hidden_size' is no assignment"),
        ("=4", "'=4' is no assignment"),
        ("hiden_size=4", "there is no size or config value 'hiden_size'\nDid you mean hidden_size"),
        ("model.hiden_size=4", "there is no size 'hiden_size'\nDid you mean hidden_size"),
        ("model.rms_norm_eps=4", "rms_norm_eps is one value for the whole model\nSet it as rms_norm_eps="),
        ("modle.hidden_size=4", "there is no 'modle' in LlamaForCausalLM\nDid you mean model"),
        ("lm_head.outfeatures=4", "linear has no setting 'outfeatures'\nDid you mean out_features"),
        ("rope_parameters.theta=4", "rope_parameters: has no entry 'theta'\nDid you mean rope_theta"),
        ("hidden_size=wide", "value: must be an integer or an expression .*, not 'wide'"),
        ("hidden_size=NaN", "must be an integer or an expression"),
        ("model.layers.40.mlp.intermediate_size=4", "layers has 32 layers, 0 to 31"),
    ],
)
def test_what_names_nothing_is_refused(document: Document, text: str, message: str) -> None:
    with pytest.raises(EditError, match=message):
        parse_assignment(document, text)
