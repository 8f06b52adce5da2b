"""Encoder-decoder models: two stacks of layers, and attention that looks from one at the other."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForSeq2SeqLM, DynamicCache, EncoderDecoderCache

from canvas_rt.codegen import emit
from canvas_rt.edits import DeleteLayers, SetAttr, SetSize, apply
from canvas_rt.errors import CanvasError, ConfigError, EmitError, UnsupportedModelError
from canvas_rt.importer import import_model
from canvas_rt.importer.config import check_config, task_of
from canvas_rt.importer.factory import StockFactory
from canvas_rt.importer.small import small_config
from canvas_rt.ir.document import Document, Stack
from canvas_rt.ir.files import load, save
from canvas_rt.ir.halves import halves_of, sides_of
from canvas_rt.ir.tasks import TASKS
from canvas_rt.physics import check, kv_cache_bytes, measure
from canvas_rt.verifier.checks import Verification

SEQ2SEQ = TASKS["seq2seq_lm"]
T5 = small_config("t5", SEQ2SEQ)
BART = {**small_config("bart", SEQ2SEQ), "encoder_layers": 3}
GENERATOR = torch.Generator().manual_seed(3)
READ, MADE = torch.randint(4, 90, (2, 11), generator=GENERATOR), torch.randint(4, 90, (2, 7), generator=GENERATOR)
MASK = torch.ones_like(READ).index_fill(1, torch.arange(8, 11), 0)


@pytest.fixture(scope="module")
def document() -> Document:
    return import_model(BART)[0]


@pytest.fixture(scope="module")
def folder(document: Document, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("halves") / "emitted"
    emit(document).write(target)
    return target


@pytest.fixture(scope="module")
def original() -> Any:
    config = StockFactory("bart", SEQ2SEQ).config(check_config(BART))
    model = transformers.BartForConditionalGeneration(config).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.fixture(scope="module")
def model(folder: Path, original: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The emitted class with the original's checkpoint."""
    saved = tmp_path_factory.mktemp("original")
    original.save_pretrained(saved)
    weights = (saved / "model.safetensors").read_bytes()
    for file in folder.iterdir():
        (saved / file.name).write_bytes(file.read_bytes()) if file.is_file() else None
    (saved / "model.safetensors").write_bytes(weights)
    return AutoModelForSeq2SeqLM.from_pretrained(saved, trust_remote_code=True).eval()


# what a config's model is for


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"model_type": "bart", "architectures": ["BartForConditionalGeneration"]}, "seq2seq_lm"),
        ({"model_type": "bart", "architectures": ["BartForCausalLM"]}, "causal_lm"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "seq2seq_lm"),
        ({"model_type": "bart", "is_encoder_decoder": False, "decoder_start_token_id": 2}, "causal_lm"),
        ({"model_type": "bart", "decoder_start_token_id": 2}, "seq2seq_lm"),
        ({"model_type": "t5"}, "seq2seq_lm"),
        ({"model_type": "marian", "architectures": ["MarianMTModel"]}, "seq2seq_lm"),
    ],
)
def test_a_config_says_whether_it_has_both_halves(config: dict[str, Any], task: str) -> None:
    assert task_of(config).name == task


def test_a_checked_config_is_for_the_same() -> None:
    assert task_of(check_config(BART)) is SEQ2SEQ
    assert task_of(check_config({**BART, "architectures": ["BartForCausalLM"]})).name == "causal_lm"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("encoder_layers", -1, "encoder_layers: must be"),
        ("encoder_layers", 10**7, "encoder_layers: is 10000000"),
        ("encoder_attention_heads", 0, "encoder_attention_heads"),
        ("encoder_ffn_dim", "80", "encoder_ffn_dim"),
        ("decoder_start_token_id", 10**6, "decoder_start_token_id: must be"),
        ("decoder_start_token_id", "2", "decoder_start_token_id"),
        ("d_model", True, "d_model"),
        ("architectures", ["BartForSequenceClassification"], "BartForSequenceClassification"),
    ],
)
def test_nonsense_is_refused_by_its_field(field: str, value: Any, message: str) -> None:
    given = {**BART, field: value}
    if field == "d_model":
        given.pop("hidden_size")
    with pytest.raises(ConfigError, match=message):
        check_config(given)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(CanvasError):
        import_model({**BART, "encoder_attention_heads": 7})


# the document


def test_it_holds_two_stacks_and_one_attention_that_looks_across(document: Document) -> None:
    halves = halves_of(document)
    assert halves is not None
    assert (halves.holder, halves.encoder.block, halves.decoder.block) == ("BartModel", "BartEncoder", "BartDecoder")
    assert sides_of(document).across == {("BartCrossAttention", "attention")}
    assert document.task == "seq2seq_lm"
    assert {"BartEncoderAttention", "BartDecoderAttention"} <= document.blocks.keys()
    assert (document.sizes["encoder_layers"], document.sizes["num_hidden_layers"]) == (3, 2)


def test_its_shapes_tell_what_is_read_from_what_is_made(document: Document) -> None:
    shapes = check(document, sequence=16).shapes
    layer = "model.decoder.layers.0-1.encoder_attn"
    assert str(shapes["model.encoder.layers"][0]) == "[batch, source, hidden_size]"
    assert str(shapes[f"{layer}.k_proj"][0]) == "[batch, source, hidden_size]"
    assert str(shapes[f"{layer}.q_proj"][0]) == "[batch, seq, hidden_size]"
    assert str(shapes["lm_head"][0]) == "[batch, seq, vocab_size]"


def test_a_model_in_memory_is_imported_by_its_class(original: Any) -> None:
    document, _ = import_model(original)
    assert (document.task, document.origin.architecture) == ("seq2seq_lm", "BartForConditionalGeneration")


def test_a_file_says_the_task(document: Document, tmp_path: Path) -> None:
    save(document, tmp_path / "x.canvas.json")
    assert load(tmp_path / "x.canvas.json") == document


# proof

QUICK = ("bart", "marian", "t5")
SIBLINGS = ("mbart", "pegasus", "m2m_100", "plbart", "blenderbot", "blenderbot-small", "mvp", "mt5", "umt5")


@pytest.mark.parametrize("model_type", [*QUICK, *(pytest.param(one, marks=pytest.mark.slow) for one in SIBLINGS)])
def test_every_check_passes(model_type: str, tmp_path: Path) -> None:
    config = BART if model_type == "bart" else small_config(model_type, SEQ2SEQ)
    emit(import_model(config)[0]).write(tmp_path / "emitted")
    certificate = Verification(tmp_path / "emitted").certificate()
    assert certificate.passed, str(certificate)
    assert (certificate.label, certificate.logits.max_abs_diff, certificate.gradients.max_abs_diff) == (
        "identical",
        0,
        0,
    )


@pytest.mark.parametrize(
    "edit",
    [
        SetSize("", "encoder_ffn_dim", 52),
        DeleteLayers("model.decoder.layers.1"),
        DeleteLayers("model.encoder.layers.0"),
        SetAttr("model.decoder.layers.0.encoder_attn.attention", "scale", 0.5),
        SetAttr("model.encoder.layers.1.activation_fn", "fn", "silu"),
    ],
    ids=lambda edit: f"{edit.kind} {edit.path}",
)
def test_an_edited_one_is_proved_against_its_document(document: Document, edit: Any, tmp_path: Path) -> None:
    emit(apply(document, edit)).write(tmp_path / "emitted")
    certificate = Verification(tmp_path / "emitted").certificate()
    assert certificate.passed, str(certificate)
    assert certificate.label == "changed"


def test_a_first_layer_hands_its_bias_to_all_later_ones() -> None:
    document, _ = import_model({**T5, "num_layers": 4})
    assert document.blocks["T5EncoderGivingBlock"].outputs.keys() == {"out", "prev_relative_attention_bias"}
    (stack,) = (item for item in document.blocks["T5EncoderStack"].nodes if isinstance(item, Stack))
    assert [kind.block for kind in stack.kinds] == ["T5EncoderTakingBlock", "T5EncoderGivingBlock"]
    assert "torch.zeros" not in {getattr(item, "op", "") for block in document.blocks.values() for item in block.nodes}
    without = apply(document, DeleteLayers("encoder.block.0"))
    assert any("prev_relative_attention_bias" in str(flaw) for flaw in check(without).diagnostics)


def test_a_config_that_means_something_else_by_untied_embeddings_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="tie_word_embeddings: its class ties embeddings whatever"):
        import_model({**T5, "tie_word_embeddings": False})


def test_an_encoder_s_layers_have_no_sizes_of_their_own(document: Document) -> None:
    edited = apply(document, SetSize("model.encoder.layers.1", "encoder_ffn_dim", 40))
    with pytest.raises(EmitError, match="layers of an encoder cannot have sizes of their own"):
        emit(edited)


# what the emitted model is to transformers


@torch.no_grad()
def test_it_takes_the_original_s_checkpoint_and_hides_padding_as_it_does(model: Any, original: Any) -> None:
    given = {"input_ids": READ, "attention_mask": MASK, "decoder_input_ids": MADE}
    given["decoder_attention_mask"] = torch.ones_like(MADE).index_fill(1, torch.tensor([0]), 0)
    ours, theirs = model(**given), original(**given)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.encoder_last_hidden_state, theirs.encoder_last_hidden_state)


def test_labels_stand_where_their_scores_do(model: Any, original: Any) -> None:
    labels = MADE.clone()
    labels[:, -2:] = -100
    ours, theirs = model(input_ids=READ, labels=labels), original(input_ids=READ, labels=labels)
    assert torch.equal(ours.logits, theirs.logits)
    torch.testing.assert_close(ours.loss, theirs.loss)


def test_it_gives_states_and_attentions_of_both_halves(model: Any) -> None:
    model.set_attn_implementation("eager")
    outputs = model(input_ids=READ, decoder_input_ids=MADE, output_hidden_states=True, output_attentions=True)
    model.set_attn_implementation("sdpa")
    assert (len(outputs.encoder_hidden_states), len(outputs.encoder_attentions)) == (4, 3)
    assert (len(outputs.decoder_hidden_states), len(outputs.decoder_attentions), len(outputs.cross_attentions)) == (
        3,
        2,
        2,
    )
    assert outputs.cross_attentions[0].shape == (2, 4, 7, 11)


@torch.no_grad()
def test_beams_and_masks_generate_what_the_original_does(model: Any, original: Any) -> None:
    original.generation_config.forced_eos_token_id = None
    for options in ({"num_beams": 3}, {"do_sample": False, "cache_implementation": "static"}):
        options |= {"attention_mask": MASK, "max_new_tokens": 9}
        assert torch.equal(model.generate(READ, **options), original.generate(READ, **options))


@torch.no_grad()
def test_keys_of_what_was_read_are_made_once(model: Any) -> None:
    calls: list[int] = []
    cross = model.model.decoder.layers[0].encoder_attn
    handle = cross.k_proj.register_forward_hook(lambda module, given, made: calls.append(made.shape[1]))
    model.generate(READ, max_new_tokens=5, do_sample=False)
    handle.remove()
    assert calls == [11]


def test_its_layers_are_computed_again_in_the_backward(model: Any) -> None:
    model.train()
    model.gradient_checkpointing_enable()
    gradients = []
    for checkpointing in (True, False):
        if not checkpointing:
            model.gradient_checkpointing_disable()
        model.zero_grad()
        model(input_ids=READ, labels=MADE, use_cache=False).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    model.eval()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


@torch.no_grad()
def test_it_reloads_and_its_trunk_loads_alone(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, trust_remote_code=True).eval()
    given = {"input_ids": READ, "decoder_input_ids": MADE}
    assert torch.equal(again(**given).logits, model(**given).logits)
    assert again.lm_head.weight is again.get_encoder().embed_tokens.weight is again.get_decoder().embed_tokens.weight
    trunk = AutoModel.from_pretrained(tmp_path, trust_remote_code=True).eval()
    assert torch.equal(trunk(**given).last_hidden_state, model.model(**given).last_hidden_state)


def test_without_a_token_to_start_from_labels_are_refused(model: Any) -> None:
    start, model.config.decoder_start_token_id = model.config.decoder_start_token_id, None
    with pytest.raises(ValueError, match="give decoder_input_ids"):
        model(input_ids=READ, labels=MADE)
    model.config.decoder_start_token_id = start


# what it costs


@torch.no_grad()
def test_the_cache_is_as_large_as_that_of_transformers(document: Document, model: Any) -> None:
    cache = EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))
    model(input_ids=READ, decoder_input_ids=MADE, past_key_values=cache, use_cache=True)
    parts = (cache.self_attention_cache, cache.cross_attention_cache)
    theirs = sum(layer.keys.nbytes + layer.values.nbytes for part in parts for layer in part.layers)
    assert kv_cache_bytes(document, batch=2, sequence=7, source=11, dtype="fp32") == theirs


def test_its_products_are_those_of_transformers(document: Document, original: Any) -> None:
    ids = READ[:, :9].to("meta")
    meta = type(original)._from_config(original.config, attn_implementation="eager").to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        meta(input_ids=ids, decoder_input_ids=ids, use_cache=False)
    report = measure(document, mode="train", batch=2, sequence=9, dtype="fp32", attention="math")
    assert report.flops.forward == counter.get_total_flops()


def test_a_token_costs_neither_the_encoder_nor_the_keys_of_what_it_read(document: Document) -> None:
    costs = {mode: measure(document, mode=mode, batch=2, sequence=50) for mode in ("prefill", "decode")}
    encoder = {
        mode: sum(node.flops_forward for path, node in report.by_node.items() if ".encoder." in path)
        for mode, report in costs.items()
    }
    keys = {mode: report.by_node["model.decoder.layers.0-1.encoder_attn.k_proj"] for mode, report in costs.items()}
    assert encoder["prefill"] > 0 and encoder["decode"] == 0
    assert keys["prefill"].flops_forward > 0 and keys["decode"].flops_forward == 0
    assert costs["decode"].memory.kv_cache == kv_cache_bytes(document, batch=2, sequence=50)
    assert costs["prefill"].memory.kv_cache == kv_cache_bytes(document, batch=2, sequence=1, source=50)


@pytest.mark.parametrize("mode", ["train", "prefill", "decode", "chat"])
@pytest.mark.parametrize("thorough", [False, True])
def test_every_mode_is_measured(document: Document, mode: str, thorough: bool) -> None:
    report = measure(document, mode=mode, batch=2, sequence=50, generate=12, thorough=thorough)
    assert report.memory.peak_allocated > 0 and report.time.total_s > 0


@pytest.mark.parametrize("field", ["tensor", "context", "pipeline"])
def test_what_cuts_one_stack_is_refused(document: Document, field: str) -> None:
    with pytest.raises(CanvasError, match=field):
        measure(document, sequence=64, **{field: 2})
