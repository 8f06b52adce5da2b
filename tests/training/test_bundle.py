import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from canvas_rt import Document, apply, import_model, load, open_zoo
from canvas_rt.edits import SetAttr, SetName, SetSize
from canvas_rt.errors import CanvasError
from canvas_rt.training import bundle as bundles
from canvas_rt.training import training_bundle


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_bundle_is_whole_and_the_same_each_time(edited_llama: Document, text_file: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        training_bundle(edited_llama, tmp_path / name, data=[text_file])
    files = files_of(tmp_path / "a")
    assert files == files_of(tmp_path / "b")
    assert {"README.md", "train.py", "settings.toml", "slurm.sh", "requirements.txt"} < set(files)
    assert {"model/model.py", "model/config.json", "model/tokenizer.json", "model/document.canvas.json"} < set(files)
    assert files["data/text.txt"] == text_file.read_bytes()
    settings = tomllib.loads(files["settings.toml"].decode())
    assert settings["data"]["files"] == ["data/text.txt"]
    for name in ("one_cpu", "one_gpu", "fsdp2"):
        assert yaml.safe_load(files[f"accelerate/{name}.yaml"])["main_training_function"] == "main"
    assert subprocess.run(["bash", "-n", tmp_path / "a" / "slurm.sh"], check=False).returncode == 0
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_config_document_and_tokenizer_agree_on_special_tokens(
    edited_llama: Document, text_file: Path, tmp_path: Path
) -> None:
    training_bundle(edited_llama, tmp_path / "b", data=[text_file])
    document = load(tmp_path / "b" / "model" / "document.canvas.json")
    assert (document.config["eos_token_id"], document.config["dtype"]) == (0, "float32")
    assert import_model(str(tmp_path / "b" / "model"))[0] == document


def test_weights_and_their_tokenizer_come_along(edited_llama: Document, text_file: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    training_bundle(edited_llama, tmp_path / "first", data=[text_file])
    origin = tmp_path / "first" / "model"
    config = AutoConfig.from_pretrained(origin, trust_remote_code=True)
    AutoModelForCausalLM.from_config(config, trust_remote_code=True).save_pretrained(tmp_path / "weights")
    for name in ("tokenizer.json", "tokenizer_config.json", "document.canvas.json"):
        (tmp_path / "weights" / name).write_bytes((origin / name).read_bytes())
    document = apply(load(origin / "document.canvas.json"), SetSize("", "intermediate_size", 160))
    written = training_bundle(document, tmp_path / "second", data=[text_file], weights=tmp_path / "weights")
    assert written.settings.value("model", "weights") is True
    model = tmp_path / "second" / "model"
    assert (model / "model.safetensors").is_file()
    assert (model / "tokenizer.json").read_bytes() == (origin / "tokenizer.json").read_bytes()


def test_weights_without_a_tokenizer_are_refused(edited_llama: Document, text_file: Path, tmp_path: Path) -> None:
    with pytest.raises(CanvasError, match="holds weights without a tokenizer\nName the one"):
        training_bundle(edited_llama, tmp_path / "b", data=[text_file], weights=tmp_path)


def test_a_broken_graph_and_a_model_for_something_else_are_refused(edited_llama: Document, tmp_path: Path) -> None:
    broken = apply(edited_llama, SetAttr("model.layers.self_attn.q_proj", "out_features", 7))
    with pytest.raises(CanvasError, match="the graph cannot run"):
        training_bundle(broken, tmp_path / "b")
    with pytest.raises(CanvasError, match="is a masked language model; bundles are for causal"):
        training_bundle(open_zoo("modernbert-base"), tmp_path / "b")
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(edited_llama: Document, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    with pytest.raises(CanvasError, match="exists already"):
        training_bundle(edited_llama, tmp_path / "full")
    with pytest.raises(CanvasError, match="is no folder\nMake it first"):
        training_bundle(edited_llama, tmp_path / "nowhere" / "b")
    with pytest.raises(CanvasError, match="cannot be written"):
        training_bundle(edited_llama, tmp_path / ("x" * 300))
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


def test_a_full_disk_leaves_nothing(
    edited_llama: Document, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **settings: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundles, "files_of", full)
    with pytest.raises(CanvasError, match="No space left on device\nMake room"):
        training_bundle(edited_llama, tmp_path / "b", data=[text_file])
    assert not any(tmp_path.iterdir())


def test_a_strangers_name_runs_nothing(edited_llama: Document, text_file: Path, tmp_path: Path) -> None:
    name = 'x"\n#SBATCH --wrap="touch /tmp/x"\n```\n$(touch y)\n'
    training_bundle(apply(edited_llama, SetName(name)), tmp_path / "b", data=[text_file])
    script = (tmp_path / "b" / "slurm.sh").read_text()
    assert len(re.findall("^#SBATCH", script, re.MULTILINE)) == 9
    assert "--job-name=x-" in script and "touch " not in script and "$(touch" not in script
    assert "```\n$(touch" not in (tmp_path / "b" / "README.md").read_text()


def test_large_data_is_read_where_it_is(
    edited_llama: Document, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("canvas_rt.training.data.COPIED", 1)
    training_bundle(edited_llama, tmp_path / "b", data=[text_file])
    settings = tomllib.loads((tmp_path / "b" / "settings.toml").read_text())
    assert settings["data"]["files"] == [os.fspath(text_file.resolve())]
    assert not (tmp_path / "b" / "data").exists()
