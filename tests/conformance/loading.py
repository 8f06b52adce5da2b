"""Checks of loading, saving, copying and the config."""

import copy
import io
import json
import pickle

import accelerate
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from canvas_rt.ops.parameters import parameter_keys
from conformance.checks import alike, check, folder, logits, own, run
from conformance.subjects import Subject


@check
def auto_config_loads(subject: Subject) -> None:
    """AutoConfig gives the folder's own config class, and what the file says."""
    config = AutoConfig.from_pretrained(subject.folder, trust_remote_code=subject.document is not None)
    told = json.loads((subject.folder / "config.json").read_text())
    assert type(config) is type(subject.loaded.config)
    assert (config.model_type, config.hidden_size) == (told["model_type"], subject.config.hidden_size)


@check
def auto_model_loads(subject: Subject) -> None:
    """AutoModel gives the backbone: the states that the whole model makes its scores of."""
    backbone = AutoModel.from_pretrained(subject.folder, trust_remote_code=subject.document is not None).eval()
    ids, whole = subject.ids(), subject.model()
    assert type(backbone).__name__ == type(whole.base_model).__name__
    alike(run(backbone, ids).last_hidden_state, run(whole.base_model, ids).last_hidden_state)


@check
def every_key_is_loaded(subject: Subject) -> None:
    """Loading finds every key, and leaves none over."""
    _, info = subject.load(subject.folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]


@check
def saves_and_loads(subject: Subject) -> None:
    """save_pretrained and from_pretrained give the same model, and the code goes with it."""
    model, ids = subject.model(), subject.ids()
    with folder() as saved:
        model.save_pretrained(saved)
        alike(logits(subject.load(saved), ids), logits(model, ids))
        assert subject.document is None or (saved / "model.py").exists()


@check
def saves_in_shards(subject: Subject) -> None:
    """A checkpoint in many files has an index, and loads."""
    model, ids = subject.model(), subject.ids()
    with folder() as saved:
        model.save_pretrained(saved, max_shard_size="60KB")
        index = json.loads((saved / "model.safetensors.index.json").read_text())
        assert len(set(index["weight_map"].values())) > 1
        alike(logits(subject.load(saved), ids), logits(model, ids))


@check
def trained_weights_are_saved(subject: Subject) -> None:
    """What changed after loading is what is saved."""
    model, ids = subject.model(), subject.ids()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)
    with folder() as saved:
        model.save_pretrained(saved)
        alike(logits(subject.load(saved), ids), logits(model, ids))


@check
def a_missing_tensor_is_initialised(subject: Subject) -> None:
    """A checkpoint without a tensor loads: it is named as missing, and made as a new model makes it."""
    model = subject.model()
    weights = model.state_dict()
    ties = set(getattr(model, "all_tied_weights_keys", {}) or {})
    lost = next(k for k in weights if weights[k].dim() == 2 and k not in ties and "embed" not in k and "wte" not in k)
    with folder() as saved:
        model.save_pretrained(saved, state_dict={k: v for k, v in weights.items() if k != lost})
        again, info = subject.load(saved, output_loading_info=True)
        assert set(info["missing_keys"]) == {lost}
        assert torch.isfinite(logits(again, subject.ids())).all()


@own
@check
def a_direct_import_saves_a_folder_that_loads(subject: Subject) -> None:
    """A model made from `import model` saves its code and an auto_map that names all three classes."""
    module, told = subject.module, json.loads((subject.folder / "config.json").read_text())
    names = told["auto_map"]
    config_class = getattr(module, names["AutoConfig"].partition(".")[2])
    model_class = getattr(module, names[subject.auto].partition(".")[2])
    values = {n: v for n, v in told.items() if n not in ("auto_map", "architectures", "model_type", "dtype")}
    model = model_class(config_class(**values)).eval()
    with folder() as saved:
        model.save_pretrained(saved)
        written = json.loads((saved / "config.json").read_text()).get("auto_map", {})
        assert written.keys() == names.keys()
        assert (saved / "model.py").read_text() == (subject.folder / "model.py").read_text()
        again = subject.load(saved)
        alike(logits(again, subject.ids()), logits(model, subject.ids()))
        AutoModel.from_pretrained(saved, trust_remote_code=True)


@own
@check
def auto_map_names_every_class(subject: Subject) -> None:
    """config.json leads AutoConfig, AutoModel and the task's class to classes of model.py, and has a type of its own."""
    told = json.loads((subject.folder / "config.json").read_text())
    assert {"AutoConfig", "AutoModel", subject.auto} <= told["auto_map"].keys()
    for reference in told["auto_map"].values():
        file, _, name = reference.partition(".")
        assert file == "model" and hasattr(subject.module, name)
    assert told["model_type"].startswith("canvas_")
    assert told["architectures"] == [told["auto_map"][subject.auto].partition(".")[2]]


@own
@check
def keys_are_the_documents(subject: Subject) -> None:
    """The state dict has the document's keys and shapes."""
    assert subject.document is not None
    shapes = {key: tuple(value.shape) for key, value in subject.loaded.state_dict().items()}
    assert shapes == {key: tuple(shape) for key, shape in parameter_keys(subject.document).items()}


@own
@check
def parameters_are_counted(subject: Subject) -> None:
    """num_parameters gives what the document counts."""
    from canvas_rt.ops.parameters import count_parameters

    assert subject.document is not None
    assert subject.loaded.num_parameters() == count_parameters(subject.document).total


@check
def ties_hold(subject: Subject) -> None:
    """Where the config ties embeddings, both are one tensor after loading, copying and casting."""
    for model in (subject.model(), subject.model().to(torch.bfloat16)):
        tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
        head = model.get_output_embeddings()
        assert head is not None or not tied
        if head is not None:
            assert (head.weight is model.get_input_embeddings().weight) == bool(tied)


@check
def bf16_keeps_rotary_tables(subject: Subject) -> None:
    """Loaded in bf16, parameters are bf16 and tables that are not saved stay what they were, bit by bit."""
    wide, narrow = subject.model(), subject.load(subject.folder, dtype=torch.bfloat16)
    floats = {p.dtype for p in narrow.parameters() if p.is_floating_point()}
    assert torch.bfloat16 in floats
    kept = {n: b for n, b in wide.named_buffers() if n not in wide.state_dict() and b.is_floating_point()}
    for name, buffer in narrow.named_buffers():
        if name in kept and "inv_freq" in name:
            assert buffer.dtype == torch.float32 and torch.equal(buffer, kept[name]), name
    assert torch.isfinite(logits(narrow, subject.ids())).all()


@check
def half_runs(subject: Subject) -> None:
    """`.half()` gives half-precision scores."""
    assert logits(subject.model().half(), subject.ids()).dtype == torch.float16


@check
def empty_then_loaded(subject: Subject) -> None:
    """A model made without memory takes a checkpoint by accelerate."""
    ids, whole = subject.ids(), subject.model()
    with accelerate.init_empty_weights():
        model = subject.fresh()
    assert all(parameter.is_meta for parameter in model.parameters())
    model.tie_weights()
    model = accelerate.load_checkpoint_and_dispatch(model, str(subject.folder), device_map={"": "cpu"}).eval()
    alike(logits(model, ids), logits(whole, ids))


@check
def moves_to_meta(subject: Subject) -> None:
    """`.to("meta")` leaves nothing behind, and shapes can be told without memory."""
    model = subject.model().to("meta")
    assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))
    if any(name.endswith("experts") for name, _ in model.named_modules()):
        return  # which token goes to which is data
    given = subject.ids().to("meta")
    assert logits(model, given).shape == (2, 12, subject.text.vocab_size)


@check
def new_weights_are_initialised(subject: Subject) -> None:
    """A model of the config alone has finite weights of the config's spread, norms as norms are."""
    model = subject.fresh()
    spread = getattr(model.config.get_text_config(), "initializer_range", None)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    named = model.named_modules()
    linear = next(m for n, m in named if (isinstance(m, nn.Linear) and n != "lm_head") or hasattr(m, "nf"))
    if spread is not None:
        assert linear.weight.std().item() == pytest.approx(spread, rel=0.25)


@check
def initialising_again_makes_tables_anew(subject: Subject) -> None:
    """Tables that no checkpoint holds are right after a model is filled from an empty one."""
    model, whole = subject.fresh(), subject.model()
    tables = {n: b.clone() for n, b in model.named_buffers() if n not in model.state_dict()}
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name in tables and buffer.is_floating_point():
                buffer.fill_(float("nan"))
    model.apply(model._init_weights)
    for name, buffer in model.named_buffers():
        if name in tables and not isinstance(getattr(model.get_submodule(name.rpartition(".")[0]), "p", None), float):
            assert torch.equal(buffer, tables[name]), name
    del whole


@check
def copies_are_equal(subject: Subject) -> None:
    """deepcopy gives a model that computes the same and shares nothing."""
    model = subject.model()
    again = copy.deepcopy(model)
    alike(logits(again, subject.ids()), logits(model, subject.ids()))
    assert {p.data_ptr() for p in again.parameters()}.isdisjoint(p.data_ptr() for p in model.parameters())


@check
def pickles(subject: Subject) -> None:
    """Config and model survive pickle and torch.save."""
    model = subject.model()
    assert pickle.loads(pickle.dumps(model.config)).to_dict() == model.config.to_dict()
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    again = torch.load(stored, weights_only=False)
    alike(logits(again, subject.ids()), logits(model, subject.ids()))


@check
def config_goes_around(subject: Subject) -> None:
    """A config is the same through a dict, JSON and a folder."""
    config = subject.config
    assert type(config).from_dict(config.to_dict()).to_dict() == config.to_dict()
    with folder() as saved:
        config.save_pretrained(saved)
        again = (
            AutoConfig.from_pretrained(saved, trust_remote_code=subject.document is not None)
            if (subject.document is None or (saved / "model.py").exists())
            else type(config).from_pretrained(saved)
        )
        ours, theirs = again.to_dict(), config.to_dict()
        for values in (ours, theirs):
            for name in ("_name_or_path", "auto_map"):
                values.pop(name, None)
        assert ours == theirs


@check
def config_has_defaults(subject: Subject) -> None:
    """A config of no values at all can be made."""
    assert type(subject.config)().hidden_size > 0


@check
def nonsense_in_the_config_is_refused(subject: Subject) -> None:
    """A text where a number belongs is refused, and the field is named."""
    config_class = type(subject.config)
    for name in ("hidden_size", "num_hidden_layers", "vocab_size"):
        known = config_class.attribute_map.get(name, name)
        with pytest.raises(Exception, match=known):
            config_class(**{known: "abc"})


@own
@check
def every_number_of_the_config_is_typed(subject: Subject) -> None:
    """So is each other field that is a number."""
    config_class = type(subject.config)
    for name, kind in config_class.__annotations__.items():
        if kind in (int, float | int, bool) or kind in ("int", "float | int", "bool"):
            with pytest.raises(Exception, match=name):
                config_class(**{name: "abc"})


@check
def generation_config_is_kept(subject: Subject) -> None:
    """generation_config.json is saved and loaded, with the tokens that end a text."""
    model = subject.model()
    model.generation_config.max_length = 77
    with folder() as saved:
        model.save_pretrained(saved)
        again = subject.load(saved)
        assert again.generation_config.max_length == 77
        assert again.generation_config.eos_token_id == model.generation_config.eos_token_id
        assert again.generation_config.eos_token_id == getattr(subject.text, "eos_token_id", None)
