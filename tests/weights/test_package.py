"""Whole transplantations: small checkpoints, written by transformers and read by it again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from canvas_rt import CanvasError, Document, apply, import_model
from canvas_rt.edits import DeleteLayers, InsertLayer, RenameNode, SetConfig, SetSize, Ungroup
from canvas_rt.errors import CheckpointError
from canvas_rt.weights import Stopped, transplant

LAYER = "model.layers"
SIZES = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "initializer_range": 0.2,
}
IDS = torch.randint(0, 96, (2, 15), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Document]:
    """A Llama in six shards, with what lies beside it."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder, max_shard_size="60KB")  # type: ignore[arg-type]
    (folder / "tokenizer.json").write_text("{}")
    (folder / "LICENSE.txt").write_text("Do what you like.")
    (folder / "modeling_other.py").write_text("raise SystemExit")
    return folder, import_model(str(folder))[0]


@torch.no_grad()
def logits(folder: Path, ids: torch.Tensor = IDS) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, experts_implementation="eager")
    return model.float().eval()(ids, use_cache=False).logits  # type: ignore[no-any-return]


PRESERVING: dict[str, tuple[Any, ...]] = {
    "nothing": (),
    "wider layers": (SetSize("", "intermediate_size", 112),),
    "one wider layer": (SetSize(f"{LAYER}.1.mlp", "intermediate_size", 96),),
    "keys of their own": (SetSize("", "num_key_value_heads", 6),),
    "more queries": (SetSize("", "num_attention_heads", 9),),
    "a layer more": (InsertLayer(LAYER, 1),),
    "deeper": (SetSize("", "num_hidden_layers", 5),),
    "names": (RenameNode(f"{LAYER}.mlp.up_proj", "widen"), RenameNode(LAYER, "blocks")),
    "no block": (Ungroup(f"{LAYER}.mlp"),),
    "a bias": (SetConfig("mlp_bias", True),),
}


@pytest.mark.parametrize("name", PRESERVING)
def test_edits_that_preserve_the_function_preserve_the_loss(
    name: str, origin: tuple[Path, Document], tmp_path: Path
) -> None:
    folder, document = origin
    transplant(apply(document, *PRESERVING[name]), folder, tmp_path / "out")
    torch.testing.assert_close(logits(tmp_path / "out"), logits(folder), atol=2e-6, rtol=0)


def test_layers_fewer_heads_shared_and_tokens_added(origin: tuple[Path, Document], tmp_path: Path) -> None:
    folder, document = origin
    edited = apply(
        document,
        DeleteLayers(f"{LAYER}.1"),
        SetSize("", "num_key_value_heads", 1),
        SetSize("", "vocab_size", 100),
    )
    report = transplant(edited, folder, tmp_path / "out", shard_bytes=50_000)
    assert {recipe.how for recipe, _ in report.made} == {"copy", "mean over groups", "extend"}
    assert len(report.dropped) == 9
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    weights = model.state_dict()
    before = LlamaForCausalLM.from_pretrained(folder).state_dict()
    assert torch.equal(weights[f"{LAYER}.1.mlp.up_proj.weight"], before[f"{LAYER}.2.mlp.up_proj.weight"])
    keys = before[f"{LAYER}.0.self_attn.k_proj.weight"].view(3, 8, 48).mean(0)
    torch.testing.assert_close(weights[f"{LAYER}.0.self_attn.k_proj.weight"], keys)
    rows = before["model.embed_tokens.weight"]
    torch.testing.assert_close(weights["model.embed_tokens.weight"], torch.cat([rows, rows.mean(0).expand(4, -1)]))
    assert model.generate(IDS[:1], max_new_tokens=5, do_sample=False, pad_token_id=0).shape == (1, 20)


def test_what_belongs_to_the_model_comes_along_and_code_does_not(origin: tuple[Path, Document], tmp_path: Path) -> None:
    folder, document = origin
    report = transplant(document, folder, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"tokenizer.json", "LICENSE.txt", "generation_config.json", "model.safetensors", "model.py"} < names
    assert "modeling_other.py" not in names and not any(name.startswith(".") for name in names)
    told = json.loads((tmp_path / "out" / "weights.json").read_text())
    assert told == report.to_json()
    assert sum(row["bytes"] for row in told["parameters"]) == sum(
        tensor.nbytes for tensor in load_file(tmp_path / "out" / "model.safetensors").values()
    )


def test_experts_that_lie_one_by_one_are_put_together(tmp_path: Path) -> None:
    torch.manual_seed(0)
    MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=3)).save_pretrained(tmp_path / "in")  # type: ignore[arg-type]
    assert any(".experts.2." in key for key in load_file(tmp_path / "in" / "model.safetensors"))
    document = apply(import_model(str(tmp_path / "in"))[0], SetSize("", "intermediate_size", 96))
    transplant(document, tmp_path / "in", tmp_path / "out")
    torch.testing.assert_close(logits(tmp_path / "out"), logits(tmp_path / "in"), atol=2e-6, rtol=0)


def test_an_emitted_model_is_an_origin_too(origin: tuple[Path, Document], tmp_path: Path) -> None:
    folder, document = origin
    transplant(apply(document, DeleteLayers(f"{LAYER}.0")), folder, tmp_path / "first")
    again = import_model(str(tmp_path / "first"))[0]
    transplant(apply(again, SetSize("", "intermediate_size", 96)), tmp_path / "first", tmp_path / "second")
    torch.testing.assert_close(logits(tmp_path / "second"), logits(tmp_path / "first"), atol=2e-6, rtol=0)


def test_the_same_document_gives_the_same_bytes(origin: tuple[Path, Document], tmp_path: Path) -> None:
    folder, document = origin
    edited = apply(document, InsertLayer(LAYER, 1))
    for name in ("a", "b"):
        transplant(edited, folder, tmp_path / name)
    ours, theirs = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b"))
    assert ours == theirs


def test_a_kill_leaves_nothing_or_a_whole_result(origin: tuple[Path, Document], tmp_path: Path) -> None:
    folder, document = origin
    target = tmp_path / "out"
    script = tmp_path / "run.py"
    script.write_text(
        "import os, sys, time\n"
        "import canvas_rt\n"
        "from canvas_rt.weights import package\n"
        "real = package.write_shards\n"
        "def slowly(folder, shards, append, *rest):\n"
        "    def wait(tensor, into):\n"
        "        append(tensor, into)\n"
        "        print(tensor.key, flush=True)\n"
        "        time.sleep(0.05)\n"
        "    real(folder, shards, wait, *rest)\n"
        "package.write_shards = slowly\n"
        f"document, _ = canvas_rt.import_model({str(folder)!r})\n"
        f"canvas_rt.transplant(document, {str(folder)!r}, {str(target)!r}, shard_bytes=50_000)\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(8):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not target.exists()
    assert (tmp_path / ".out.partial").is_dir()
    before = max(p.stat().st_mtime_ns for p in (tmp_path / ".out.partial").iterdir() if p.suffix == ".safetensors")
    time.sleep(0.02)
    transplant(document, folder, target, shard_bytes=50_000)
    assert not (tmp_path / ".out.partial").exists()
    assert min(p.stat().st_mtime_ns for p in target.glob("*.safetensors")) <= before  # what was whole was kept
    assert torch.equal(logits(target), logits(folder))


def test_what_is_stopped_goes_on_where_it_was(origin: tuple[Path, Document], tmp_path: Path) -> None:
    folder, document = origin
    target, stop = tmp_path / "out", threading.Event()

    def enough(done: int, total: int) -> None:
        assert done < total
        if done > total / 2:
            stop.set()

    with pytest.raises(Stopped, match="was stopped\nWhat was written is kept: run it again to go on"):
        transplant(document, folder, target, shard_bytes=50_000, progress=enough, stop=stop)
    assert not target.exists() and (tmp_path / ".out.partial").is_dir()
    transplant(document, folder, target, shard_bytes=50_000)
    assert not (tmp_path / ".out.partial").exists()
    assert torch.equal(logits(target), logits(folder))


def test_other_weights_do_not_go_on_with_what_was_begun(
    origin: tuple[Path, Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, document = origin

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("canvas_rt.weights.package.copy_bytes", full)
        with pytest.raises(CanvasError, match="cannot be written: No space left on device"):
            transplant(document, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    other = shutil.copytree(folder, tmp_path / "other")
    for file in other.glob("*.safetensors"):
        save_file({key: tensor * 2 for key, tensor in load_file(file).items()}, file, {"format": "pt"})
    transplant(document, other, tmp_path / "out")
    assert torch.equal(logits(tmp_path / "out"), logits(other))


def test_too_little_room_is_told_before_anything_is_written(
    origin: tuple[Path, Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, document = origin
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))  # type: ignore[attr-defined]
    with pytest.raises(CanvasError, match=r"takes 2\d\d\.\d kB, and 1\.0 kB are free"):
        transplant(document, folder, tmp_path / "out")
    assert not list(tmp_path.glob(".*"))


def test_weights_of_another_model_are_refused(origin: tuple[Path, Document], tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**{**SIZES, "hidden_size": 96, "num_hidden_layers": 2})).save_pretrained(
        tmp_path / "in"
    )  # type: ignore[arg-type]
    with pytest.raises(
        CheckpointError, match="are not the weights of the model that the document was imported from"
    ) as told:
        transplant(origin[1], tmp_path / "in", tmp_path / "out")
    assert "embed_tokens.weight is [96, 96] in the checkpoint, [96, 48] in the model" in str(told.value)
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.partial").exists()


def test_folders_without_safetensors_are_refused(origin: tuple[Path, Document], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    (tmp_path / "file").write_text("x")
    for name, message in {
        "empty": "holds no .*safetensors files",
        "pickled": r"holds pytorch_model\.bin, but no safetensors",
        "missing": "there is no such folder",
        "file": "is a file",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            transplant(origin[1], tmp_path / name, tmp_path / "out")


def test_quantised_weights_are_refused(origin: tuple[Path, Document], tmp_path: Path) -> None:
    folder = shutil.copytree(origin[0], tmp_path / "in")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "mxfp4"}}))
    with pytest.raises(CheckpointError, match=r'holds quantised weights \("mxfp4"\)'):
        transplant(origin[1], folder, tmp_path / "out")


def test_a_folder_of_others_is_left_alone(origin: tuple[Path, Document], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(CanvasError, match=r"holds notes\.txt, which Canvas did not write"):
        transplant(origin[1], origin[0], tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["notes.txt"]


def test_two_at_once_do_not_write_into_one_another(origin: tuple[Path, Document], tmp_path: Path) -> None:
    import fcntl

    folder, document = origin
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    (partial / "theirs").write_text("kept")
    handle = os.open(partial, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(CanvasError, match="is being written by another process"):
        transplant(document, folder, tmp_path / "out")
    assert (partial / "theirs").read_text() == "kept"
    os.close(handle)
    transplant(document, folder, tmp_path / "out")
    assert not (tmp_path / "out" / "theirs").exists()


def test_a_card_says_of_the_original_what_is_yaml_and_no_more(origin: tuple[Path, Document], tmp_path: Path) -> None:
    folder = shutil.copytree(origin[0], tmp_path / "in")
    head = "license: apache-2.0\nlicense_name: a: b\nlicense_link: https://x.org/l\nlibrary_name: other"
    (folder / "README.md").write_text(f"---\n{head}\n---\nlanguage: en\n")
    for file in folder.glob("model*"):
        file.unlink()
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)  # type: ignore[arg-type]
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "a`\n## b": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})
    transplant(origin[1], folder, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.split("---")[1].strip().splitlines() == [
        "library_name: transformers",
        "tags: [canvas]",
        "license: apache-2.0",
        "license_link: https://x.org/l",
    ]
    assert "\n## b" not in card and "dropped" in card
