"""Emitted folders are imported: by their document where the code is its own, by the code only if that is trusted."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import canvas_rt
from canvas_rt.errors import CanvasError
from canvas_rt.ir import Document, load, save
from canvas_rt.verifier.emitted import import_code

SMALL = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96}
MARK = "ran"
"""A file that code writes where it runs."""


@pytest.fixture(scope="module")
def document() -> Document:
    zoo = canvas_rt.open_zoo("llama-3.2-1b")
    return zoo.replace(name="mine", sizes=zoo.sizes.with_items({**SMALL, "num_key_value_heads": 2}))


@pytest.fixture
def folder(document: Document, tmp_path: Path) -> Path:
    canvas_rt.emit(document).write(tmp_path / "out")
    return tmp_path / "out"


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def leave_a_mark(folder: Path) -> Path:
    """Code that tells, by a file, that it ran."""
    mark = folder.parent / MARK
    with (folder / "model.py").open("a") as stream:
        stream.write(f"\nopen({str(mark)!r}, 'w').close()\n")
    return mark


def test_code_that_is_its_document_s_is_imported_without_running(folder: Path, document: Document) -> None:
    again, report = canvas_rt.import_model(folder)
    assert again == document
    assert report.notes == ("its code is what its document emits: nothing ran",)
    assert report.recognised["rms_norm"] == 3 and report.nodes == sum(report.recognised.values())


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another function": (
        lambda f: change(f / "model.py", "self.act_fn = ACT2FN[config.hidden_act]", "self.act_fn = ACT2FN['relu']"),
        r"model.py differs in line \d+",
    ),
    "a line behind the last": (lambda f: leave_a_mark(f), r"model.py differs in line \d+"),
    "an end of line": (
        lambda f: (f / "model.py").write_bytes((f / "model.py").read_bytes().replace(b"\n", b"\r\n")),
        "model.py differs in line 1",
    ),
    "another class": (
        lambda f: change(f / "config.json", "model.CanvasLlamaForCausalLM", "evil.CanvasLlamaForCausalLM"),
        r"config.json differs in line \d+",
    ),
    "no code": (lambda f: (f / "model.py").unlink(), "model.py is missing"),
    "another document": (
        lambda f: save(load(f / "document.canvas.json").replace(name="x"), f / "document.canvas.json"),
        "model.py differs in line 1",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), CHANGES.values(), ids=CHANGES)
def test_code_that_was_changed_does_not_run_unless_it_is_trusted(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(CanvasError, match=f"holds code that its document does not emit: {message}") as caught:
        canvas_rt.import_model(folder)
    assert "--trust-code (trust_code=True): it runs in a process of its own" in caught.value.hint
    assert not (folder.parent / MARK).exists()
    assert canvas_rt.open_source(folder) == load(folder / "document.canvas.json")


def test_trusted_code_that_computes_the_same_gives_the_document(folder: Path, document: Document) -> None:
    mark = leave_a_mark(folder)
    again, report = canvas_rt.import_model(folder, trust_code=True)
    assert mark.exists()
    assert again == document
    assert report.notes == ("its code was run, and computes what its document says",)


def test_trusted_code_that_computes_something_else_is_traced(folder: Path, document: Document) -> None:
    text = (folder / "model.py").read_text()
    act = next(line.strip() for line in text.splitlines() if "act" in line and "gate_proj(" in line)
    change(folder / "model.py", act, act.replace("gate_proj(", "gate_proj(-"))
    again, report = import_code(folder)  # what the process of its own does
    assert report.notes[0].startswith("its code was run, and computes something else than its document: ")
    assert again.blocks != document.blocks and again.sizes == document.sizes
    assert any(node.op == "torch.neg" for node in again.blocks["LlamaMLP"].nodes)


@pytest.mark.slow
def test_trusted_code_needs_no_document(folder: Path, document: Document) -> None:
    (folder / "document.canvas.json").unlink()
    with pytest.raises(CanvasError, match="auto_map: is not accepted: Canvas never runs code"):
        canvas_rt.import_model(folder)
    again, _ = canvas_rt.import_model(folder, trust_code=True)
    assert (again.blocks, again.sizes) == (document.blocks, document.sizes)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no Python": (lambda f: (f / "model.py").write_text("class"), "model.py: cannot be loaded: SyntaxError"),
    "an exception": (lambda f: (f / "model.py").write_text("1 / 0"), "model.py: cannot be loaded: ZeroDivisionError"),
    "no class": (lambda f: (f / "model.py").write_text("x = 1"), "model.py: cannot be loaded: AttributeError"),
    "code elsewhere": (
        lambda f: change(f / "config.json", '"model.CanvasLlamaForCausalLM', '"some/one--model.CanvasLlamaForCausalLM'),
        "model.py: cannot be loaded: ",
    ),
    "no auto_map": (
        lambda f: (f / "config.json").write_text(json.dumps({"model_type": "llama"})),
        "config.json: auto_map: must name AutoConfig and AutoModelForCausalLM",
    ),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "config.json: auto_map: must name AutoConfig and"),
}


@pytest.mark.parametrize(("spoil", "message"), BROKEN.values(), ids=BROKEN)
def test_trusted_code_that_is_broken_is_told(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(folder)
    with pytest.raises(CanvasError) as caught:
        import_code(folder)
    assert message in str(caught.value)


def test_trusted_code_that_ends_its_process_is_told(folder: Path) -> None:
    (folder / "model.py").write_text("import os; os._exit(3)")
    with pytest.raises(CanvasError, match="out: the process of the import died: exit code 3"):
        canvas_rt.import_model(folder, trust_code=True)
