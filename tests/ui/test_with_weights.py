"""Writing the open model with weights: what is said as it goes on, what is in the folder, and what can be wrong."""

import importlib.util
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from canvas_rt import Document, apply, import_model
from canvas_rt.codegen.package import Target
from canvas_rt.edits import SetSize
from canvas_rt.weights import package
from canvas_ui import with_weights
from canvas_ui.limits import Limits
from canvas_ui.public import PUBLIC
from canvas_ui.service import Service
from canvas_ui.with_weights import writing

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
}
SESSION = "s" * 24


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Document]:
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    return folder, import_model(str(folder))[0]


def open_service(document: Document, limits: Limits | None = None) -> Service:
    service = Service(document, limits)
    assert service.exchange({"session": SESSION, "serial": 1, "request": {"type": "hello"}})["ok"]
    return service


def said(service: Service, form: Target, weights: Any, folder: Any) -> list[str]:
    shown = list(writing(service, SESSION, form, str(weights), str(folder), stop=threading.Event()))
    return [words for words, _ in shown if isinstance(words, str)]


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(torch.arange(12)[None], use_cache=False).logits
    return found


def test_a_package_with_weights_loads_as_it_says(origin: tuple[Path, Document], tmp_path: Path) -> None:
    folder, document = origin
    service = open_service(apply(document, SetSize("", "intermediate_size", 96)))
    first, *_, final = said(service, "code", folder, f" {tmp_path / 'out'} ")
    assert first == "Looking at the weights…"
    place, load, proof, empty, *report = final.splitlines()
    assert place == f"Written to {tmp_path / 'out'}." and not empty
    assert proof == "Its card holds no certificate: verify first."
    assert report[0].startswith("copy ") and any(line.startswith("extend ") for line in report)
    model = eval(load.removeprefix("Load it: "), {"AutoModelForCausalLM": AutoModelForCausalLM})
    torch.testing.assert_close(logits(model), logits(LlamaForCausalLM.from_pretrained(folder)), atol=2e-6, rtol=0)


@pytest.mark.parametrize("form", ["native", "plain"])
def test_other_forms_take_weights_too(form: Target, origin: tuple[Path, Document], tmp_path: Path) -> None:
    folder, document = origin
    final = said(open_service(document), form, folder, tmp_path / "out")[-1]
    assert final.startswith(f"Written to {tmp_path / 'out'}."), final
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "model.py").is_file() == (form == "plain")
    assert "certificate" not in final
    if form == "plain":
        spec = importlib.util.spec_from_file_location("carried", tmp_path / "out" / "model.py")
        assert spec is not None and spec.loader is not None
        module = sys.modules["carried"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        plain = module.LlamaForCausalLM(module.Config.from_json(tmp_path / "out" / "config.json")).eval()
        plain.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
        expected = logits(LlamaForCausalLM.from_pretrained(folder))
        torch.testing.assert_close(plain(torch.arange(12)[None]), expected, atol=2e-6, rtol=0)
    if form == "native":
        assert f'AutoModelForCausalLM.from_pretrained("{tmp_path / "out"}")\n' in final
        model = LlamaForCausalLM.from_pretrained(tmp_path / "out")
        assert torch.equal(logits(model), logits(LlamaForCausalLM.from_pretrained(folder)))


def test_what_was_proven_since_the_last_change_stands_on_the_card(
    origin: tuple[Path, Document], tmp_path: Path
) -> None:
    folder, document = origin
    service = open_service(document)
    service.prove(SESSION, document, "logits: passed, as we say here")
    assert "Its card holds the certificate." in said(service, "code", folder, tmp_path / "proven")[-1]
    assert "logits: passed, as we say here" in (tmp_path / "proven" / "README.md").read_text()
    said(service, "native", folder, tmp_path / "native")
    assert "as we say here" not in (tmp_path / "native" / "README.md").read_text(), "it is of the code"
    edit = {"kind": "set_size", "path": "", "name": "intermediate_size", "value": 96}
    service.exchange({"session": SESSION, "serial": 2, "request": {"type": "edit", "edits": [edit]}})
    said(service, "code", folder, tmp_path / "changed")
    assert "as we say here" not in (tmp_path / "changed" / "README.md").read_text()


def test_all_that_can_be_wrong_is_said(
    origin: tuple[Path, Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, document = origin
    service = open_service(document)
    other, taken = tmp_path / "other", tmp_path / "taken"
    LlamaForCausalLM(LlamaConfig(**{**SIZES, "hidden_size": 96})).save_pretrained(other)
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")

    def told(weights: Any, target: Any) -> str:
        final = said(service, "code", weights, target)[-1]
        assert final.startswith("Not written. ") and "Error" not in final, final
        return final

    assert "Folder of the original's weights: is empty" in told(" ", tmp_path / "out")
    assert "Folder to write: is empty" in told(folder, "")
    assert "there is no such folder" in told(tmp_path / "nowhere", tmp_path / "out")
    assert "are not the weights of the model" in told(other, tmp_path / "out")
    assert "holds notes.txt, which Canvas did not write" in told(folder, taken)
    assert "holds weights already" in told(folder, other)
    assert "has no such home" in told("~nobody-of-this-name/x", tmp_path / "out")
    (tmp_path / "file").write_text("x")
    assert "cannot be written" in told(folder, tmp_path / "file" / "out")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))  # type: ignore[attr-defined]
    assert "1.0 kB are free\nMake room, or write to another disk." in told(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_stopped_goes_on_when_it_is_asked_again(
    origin: tuple[Path, Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, document = origin
    service, stop = open_service(document), threading.Event()
    real = package.write_shards

    def slowly(place: Path, shards: Any, append: Any, progress: Any, stop: Any) -> None:
        def wait(tensor: Any, into: int) -> None:
            append(tensor, into)
            time.sleep(0.03)

        real(place, shards, wait, progress, stop)

    monkeypatch.setattr(package, "write_shards", slowly)
    monkeypatch.setattr(with_weights, "SHOWN_S", 0)
    shown = writing(service, SESSION, "code", str(folder), str(tmp_path / "out"), stop=stop)
    words = next(words for words, _ in shown if isinstance(words, str) and words.startswith("Writing: "))
    assert " %, " in words and words.endswith("kB")
    stop.set()
    *_, (final, button) = shown
    assert final == "Stopped. What was written is kept: write again to go on." and button.interactive
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.partial").is_dir()
    assert said(service, "code", folder, tmp_path / "out")[-1].startswith("Written to")
    assert not (tmp_path / ".out.partial").exists()


def test_nothing_is_written_for_a_stranger(origin: tuple[Path, Document], tmp_path: Path) -> None:
    service = open_service(origin[1], PUBLIC)
    (words,) = said(service, "code", origin[0], tmp_path / "out")
    assert words.startswith("Nothing is written to this server.")
    assert not (tmp_path / "out").exists()
