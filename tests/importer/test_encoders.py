"""Encoders: models that look both ways, for masked language modelling and for images."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, AutoModelForMaskedLM

from canvas_rt.codegen import emit
from canvas_rt.edits import SetAttr, SetSize, apply
from canvas_rt.errors import CanvasError, ConfigError, UnsupportedModelError
from canvas_rt.importer import import_model
from canvas_rt.importer.config import check_config, task_of
from canvas_rt.importer.small import small_config
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import dumps, load, save
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.tasks import TASKS
from canvas_rt.physics import check, measure
from canvas_rt.verifier.checks import Verification

MASKED, IMAGES = TASKS["masked_lm"], TASKS["image_classification"]
BERT = small_config("bert", MASKED)
ENCODERS = (BERT, small_config("modernbert"), small_config("vit"))
IDS = torch.randint(4, 90, (2, 12), generator=torch.Generator().manual_seed(1))
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=ENCODERS, ids=lambda config: config["model_type"])
def document(request: pytest.FixtureRequest) -> Document:
    return import_model(request.param)[0]


@pytest.fixture(scope="module")
def folder(document: Document, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("encoder") / "emitted"
    emit(document).write(target)
    return target


@pytest.fixture
def model(document: Document, folder: Path) -> Any:
    torch.manual_seed(0)
    auto = getattr(transformers, document.purpose.auto)
    return auto.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=True), trust_remote_code=True).eval()


def given(document: Document) -> dict[str, Any]:
    return {"input_ids": IDS} if document.purpose.of_tokens else {"pixel_values": PIXELS}


# what a config's model is for


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"model_type": "bert"}, "masked_lm"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "masked_lm"),
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"]}, "causal_lm"),
        ({"model_type": "bert", "is_decoder": True}, "causal_lm"),
        ({"model_type": "roberta", "architectures": ["RobertaForCausalLM"]}, "causal_lm"),
        ({"model_type": "modernbert"}, "masked_lm"),
        ({"model_type": "vit"}, "image_classification"),
        ({"model_type": "llama"}, "causal_lm"),
        ({"model_type": "bart"}, "causal_lm"),
        ({"model_type": "xlm"}, "causal_lm"),
    ],
)
def test_a_config_says_what_its_model_is_for(config: dict[str, Any], task: str) -> None:
    assert task_of(config).name == task


def test_a_checked_config_is_for_the_same() -> None:
    causal = check_config({**BERT, "architectures": ["BertLMHeadModel"]})
    assert (causal["is_decoder"], task_of(causal).name) == (True, "causal_lm")
    masked = check_config(BERT)
    assert (masked["is_decoder"], task_of(masked)) == (False, MASKED)


def test_an_encoder_that_is_said_to_decode_is_refused() -> None:
    with pytest.raises(ConfigError, match="is_decoder: is true, but a masked language model looks both ways"):
        check_config({**BERT, "is_decoder": True})


@pytest.mark.parametrize(
    ("fields", "labels"),
    [({}, 2), ({"num_labels": 7}, 7), ({"id2label": {str(n): f"label {n}" for n in range(5)}}, 5)],
)
def test_a_classifier_has_as_many_labels_as_its_config_names(fields: dict[str, Any], labels: int) -> None:
    assert check_config({**small_config("vit"), **fields})["num_labels"] == labels


@pytest.mark.parametrize("wrong", [0, -1, 10**9, "5", True])
def test_nonsense_for_a_number_of_labels_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="num_labels"):
        check_config({**small_config("vit"), "num_labels": wrong})


def test_labels_that_contradict_their_number_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_labels: is 3, but id2label names 1"):
        check_config({**small_config("vit"), "num_labels": 3, "id2label": {"0": "cat"}})


def test_other_heads_are_refused() -> None:
    with pytest.raises(ConfigError, match="BertForSequenceClassification"):
        check_config({**BERT, "architectures": ["BertForSequenceClassification"]})


@pytest.mark.parametrize("model_type", ["imagegpt", "perceiver"])
def test_a_class_that_takes_something_else_is_refused(model_type: str) -> None:
    with pytest.raises(CanvasError):
        import_model(small_config(model_type, IMAGES))


def test_a_model_in_memory_is_imported_by_its_class() -> None:
    config = transformers.BertConfig(**{n: v for n, v in BERT.items() if n not in ("model_type", "architectures")})
    document, _ = import_model(transformers.BertForMaskedLM(config))
    assert (document.task, document.origin.architecture) == ("masked_lm", "BertForMaskedLM")
    with pytest.raises(UnsupportedModelError, match="no image classifier"):
        import_model(transformers.BertForSequenceClassification(config))


# the document


def test_attention_looks_both_ways(document: Document) -> None:
    nodes = [n for block in document.blocks.values() for n in block.nodes if getattr(n, "op", "") == "attention"]
    assert nodes and all(node.attrs["causal"] is False for node in nodes)  # type: ignore[union-attr]


def test_windows_alternate_with_whole_attention_and_have_rotary_tables_of_their_own() -> None:
    document, _ = import_model(small_config("modernbert"))
    nodes = [n for block in document.blocks.values() for n in block.nodes if getattr(n, "op", "") == "attention"]
    assert {node.attrs["window"] for node in nodes} == {None, "=local_attention // 2 + 1"}  # type: ignore[union-attr]
    rotary = [
        n for block in document.blocks.values() for n in block.nodes if getattr(n, "op", "") == "rotary_embedding"
    ]
    assert {n.attrs["layer_type"] for n in rotary} == {"full_attention", "sliding_attention"}  # type: ignore[union-attr]


def test_patches_follow_the_size_of_an_image() -> None:
    document, _ = import_model(small_config("vit"))
    finer = apply(document, SetSize("", "patch_size", 8))
    checked = check(finer)
    assert checked.ok
    assert checked.shapes["vit.layers"][0].actual == (1, 17, 64)  # type: ignore[union-attr]
    assert checked.shapes["pixel_values"][0].symbolic == ("batch", "num_channels", "image_size", "image_size")  # type: ignore[union-attr]
    assert checked.shapes["classifier"][0].symbolic == ("batch", "num_labels")  # type: ignore[union-attr]


def test_a_document_keeps_its_task_and_a_causal_one_does_not_name_it(document: Document, tmp_path: Path) -> None:
    save(document, tmp_path / "x.canvas.json")
    assert load(tmp_path / "x.canvas.json") == document
    assert f'"task": "{document.task}"' in dumps(document)
    assert '"task"' not in dumps(document.replace(task="causal_lm"))


def test_a_stranger_may_not_invent_a_task(document: Document, tmp_path: Path) -> None:
    text = dumps(document).replace(f'"task": "{document.task}"', '"task": "x):\\n  import os"')
    (tmp_path / "x.canvas.json").write_text(text)
    with pytest.raises(CanvasError, match="task: Input should be 'causal_lm', 'masked_lm', 'image_classification' or"):
        load(tmp_path / "x.canvas.json")


# cost


def test_it_costs_what_its_matrices_cost_and_keeps_no_cache() -> None:
    config = {**BERT, "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 160, "vocab_size": 500}
    document, _ = import_model(config)
    report = measure(document, mode="prefill", batch=2, sequence=64)
    batch, seq, size, inner, words = 2, 64, 64, 160, 500
    layer = 2 * batch * seq * (4 * size**2 + 2 * size * inner) + 4 * batch * seq**2 * size
    assert report.flops.forward == 3 * layer + 2 * batch * seq * (size**2 + size * words)
    assert report.memory.kv_cache == 0


def test_an_image_costs_what_its_patches_cost() -> None:
    document, _ = import_model({**small_config("vit"), "num_labels": 10})
    report = measure(document, mode="prefill", batch=2, dtype="fp32")
    batch, seq, size, inner = 2, 5, 64, 80
    layer = 2 * batch * seq * (4 * size**2 + 2 * size * inner) + 4 * batch * seq**2 * size
    patches = 2 * batch * 4 * (3 * 16 * 16) * size
    assert report.flops.forward == 2 * layer + patches + 2 * batch * size * 10
    assert report.scenario.sequence == seq


@pytest.mark.parametrize("mode", ["decode", "chat"])
def test_what_generates_nothing_is_not_measured_generating(document: Document, mode: str) -> None:
    with pytest.raises(CanvasError, match=r"mode: an? .* generates nothing"):
        measure(document, mode=mode, batch=1, sequence=16)


def test_a_training_step_can_be_measured(document: Document) -> None:
    report = measure(document, batch=2, sequence=32)
    assert report.flops.backward > report.flops.forward > 0
    assert report.memory.kv_cache == 0


# the emitted model


def test_it_goes_around_and_stays_what_it_is(folder: Path) -> None:
    certificate = Verification(folder).certificate()
    assert certificate.passed, str(certificate)
    assert (certificate.logits.max_abs_diff, certificate.gradients.max_abs_diff) == (0, 0)
    assert certificate.decoding.passed is None
    assert "does not apply" in certificate.decoding.detail
    assert certificate.label == "identical"


@pytest.mark.parametrize(
    ("config", "edit"),
    [
        (BERT, SetSize("bert.encoder.layer.1", "intermediate_size", 48)),
        (small_config("modernbert"), SetAttr("model.layers.1.attn.attention", "window", 3)),
        (small_config("vit"), SetSize("vit.layers.1.mlp", "intermediate_size", 48)),
    ],
    ids=["bert", "modernbert", "vit"],
)
def test_an_edited_one_is_proved_against_its_document(config: dict[str, Any], edit: Any, tmp_path: Path) -> None:
    emit(apply(import_model(config)[0], edit)).write(tmp_path / "emitted")
    certificate = Verification(tmp_path / "emitted").certificate()
    assert certificate.passed, str(certificate)
    assert certificate.label == "changed"


def test_its_files_name_no_generation(document: Document, folder: Path) -> None:
    code = (folder / "model.py").read_text()
    assert not any(word in code for word in ("GenerationMixin", "past_key_values", "use_cache"))
    assert not (folder / "generation_config.json").exists()
    assert document.purpose.auto in (folder / "README.md").read_text()


@torch.no_grad()
def test_it_loads_by_the_class_of_its_task_and_reloads(document: Document, model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    auto = AutoModelForMaskedLM if document.purpose.of_tokens else AutoModelForImageClassification
    again = auto.from_pretrained(tmp_path, trust_remote_code=True).eval()
    assert torch.equal(again(**given(document)).logits, model(**given(document)).logits)
    backbone = AutoModel.from_pretrained(tmp_path, trust_remote_code=True).eval()
    assert torch.equal(
        backbone(**given(document)).last_hidden_state, model.base_model(**given(document)).last_hidden_state
    )


def test_it_gives_a_loss_states_and_attentions(document: Document, model: Any) -> None:
    model.set_attn_implementation("eager")
    labels = IDS if document.purpose.of_tokens else torch.tensor([0, 1])
    outputs = model(**given(document), labels=labels, output_hidden_states=True, output_attentions=True)
    logits = outputs.logits.float().flatten(0, -2)
    torch.testing.assert_close(outputs.loss, torch.nn.functional.cross_entropy(logits, labels.flatten()))
    depth = model.config.num_hidden_layers
    assert (len(outputs.hidden_states), len(outputs.attentions)) == (depth + 1, depth)


def test_what_a_block_learns_itself_does_not_start_as_zeros(document: Document, model: Any) -> None:
    drawn = {name: float(p.detach().std()) for name, p in model.named_parameters() if p.dim() > 1}
    assert all(0.01 < std < 0.03 for std in drawn.values()), drawn


@torch.no_grad()
def test_padding_changes_nothing(document: Document, model: Any) -> None:
    if not document.purpose.of_tokens:
        pytest.skip("an image has no padding")
    padded = torch.cat([IDS[:1], torch.zeros(1, 5, dtype=torch.long)], dim=1)
    mask = (torch.arange(17) < 12).long()[None]
    whole = model(input_ids=IDS[:1]).logits
    torch.testing.assert_close(model(input_ids=padded, attention_mask=mask).logits[:, :12], whole)


SORTS = {
    "mpnet": "distances in a table of biases are whole numbers",
    "ibert": "a tie is a pattern, and modules give their value beside nothing",
    "nomic_bert": "that weights are tied is said by a class, and by no field",
    "esmc": "attention has no groups, and heads no width of their own",
    "mobilebert": "it is made at no other width",
    "data2vec-vision": "attention over patches is written by hand",
}


@pytest.mark.parametrize(
    "model_type", [*SORTS][:1] + [pytest.param(one, marks=pytest.mark.slow) for one in [*SORTS][1:]]
)
def test_encoders_of_all_sorts_go_around(model_type: str, tmp_path: Path) -> None:
    task = IMAGES if model_type.endswith("vision") else MASKED
    emit(import_model(small_config(model_type, task))[0]).write(tmp_path / "emitted")
    certificate = Verification(tmp_path / "emitted").certificate()
    assert certificate.passed, (SORTS[model_type], str(certificate))
    assert (certificate.logits.max_abs_diff, certificate.gradients.max_abs_diff) == (0, 0)


def test_padding_that_is_hidden_by_functions_of_a_model_s_own_is_not_forgotten() -> None:
    with pytest.raises(UnsupportedModelError, match="it hides padding by functions of its own"):
        import_model(small_config("deberta-v2"))


def test_embedded_tokens_are_refused_where_a_block_embeds_them(document: Document, model: Any) -> None:
    if not document.purpose.of_tokens:
        pytest.skip("it embeds no tokens")
    with pytest.raises(ValueError, match="the tokens are embedded within a block"):
        model(inputs_embeds=torch.zeros(1, 3, model.config.hidden_size))


@pytest.mark.parametrize("both", [False, True], ids=["one name", "both names"])
def test_a_tensor_that_the_original_keeps_under_two_names_is_found_under_either(both: bool, tmp_path: Path) -> None:
    document, report = import_model(BERT)
    assert dict(document.origin.renamed) == {"cls.predictions.bias": "cls.predictions.decoder.bias"}
    assert report.unused == ()
    original = transformers.BertForMaskedLM(AutoConfig.for_model(**BERT)).eval()
    for parameter in original.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    emit(document).write(tmp_path / "emitted")
    original.save_pretrained(tmp_path / "original")
    tensors = load_file(tmp_path / "original" / "model.safetensors")
    if both:
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()
    save_file(tensors, tmp_path / "emitted" / "model.safetensors", metadata={"format": "pt"})
    emitted = AutoModelForMaskedLM.from_pretrained(tmp_path / "emitted", trust_remote_code=True).eval()
    expected = original(input_ids=IDS).logits
    assert torch.equal(emitted(input_ids=IDS).logits, expected)
    emitted.save_pretrained(tmp_path / "again")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "again", trust_remote_code=True).eval()
    assert torch.equal(again(input_ids=IDS).logits, expected)


def test_a_stranger_s_names_of_tensors_are_not_pasted_into_code() -> None:
    document, _ = import_model(BERT)
    evil = {'x"], [print("evil")]) #': "cls.predictions.decoder.bias", "cls.predictions.bias": 'y" + evil("'}
    told = document.replace(origin=document.origin.replace(renamed=FrozenMap(evil)))
    code = emit(told).files["model.py"]
    assert "evil" not in code and "register_checkpoint_conversion_mapping" not in code


@torch.no_grad()
def test_segments_are_an_input_of_those_that_have_them(document: Document, model: Any) -> None:
    segments = (torch.arange(12) > 6).long().expand(2, -1)
    if document.origin.model_type != "bert":
        assert "token_type_ids" not in document.blocks[document.root].inputs
        return
    assert document.blocks[document.root].inputs == ("input_ids", "token_type_ids")
    plain = model(input_ids=IDS).logits
    assert torch.equal(model(input_ids=IDS, token_type_ids=torch.zeros_like(IDS)).logits, plain)
    assert not torch.equal(model(input_ids=IDS, token_type_ids=segments).logits, plain)
