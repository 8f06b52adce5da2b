"""What is written, and what is refused."""

from pathlib import Path

import pytest

from canvas_rt import CanvasError, Document, apply, emit
from canvas_rt.edits import AddNode, GroupNodes, RenameNode, SetOutput

MLP = "model.layers.mlp"


def test_a_folder_that_holds_weights_is_never_replaced(small_llama: Document, tmp_path: Path) -> None:
    emit(small_llama).write(tmp_path / "out")
    emit(small_llama).write(tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").write_bytes(b"months of work")
    with pytest.raises(CanvasError, match=r"holds model\.safetensors, which Canvas did not write"):
        emit(small_llama).write(tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == b"months of work"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failing_write_leaves_nothing(small_llama: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CanvasError, match="No space left"):
        emit(small_llama).write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["LlamaConfig", "LlamaRMSNorm", "LlamaRotaryEmbedding", "LlamaPreTrainedModel"])
def test_a_block_does_not_take_the_place_of_a_class_that_every_model_has(name: str, small_llama: Document) -> None:
    edited = apply(small_llama, GroupNodes(MLP, ("act_fn", "gated"), name, "gate"))
    assert f"class Canvas{name}Block(nn.Module):" in emit(edited).files["model.py"]
    both = apply(edited, GroupNodes(MLP, ("gate",), f"{name}Block", "outer"))
    with pytest.raises(CanvasError, match=f"would be emitted as Canvas{name}Block, as {name} is"):
        emit(both)


def test_a_module_cannot_be_called_as_every_module_is(small_llama: Document) -> None:
    with pytest.raises(CanvasError, match="'forward' is a name that every module has for itself"):
        emit(apply(small_llama, RenameNode(f"{MLP}.up_proj", "forward")))


@pytest.mark.parametrize(
    "name",
    ["print", "torch", "kwargs", "self", "layer_idx", "attention_mask", "batch", "config", "super", "hidden_states_1"],
)
def test_values_may_have_any_name(name: str, small_llama: Document) -> None:
    edited = apply(small_llama, RenameNode(f"{MLP}.gated", name), RenameNode("model.layers.self_attn.q", name))
    compile(emit(edited).files["model.py"], "model.py", "exec")


def test_a_long_chain_is_written_over_several_lines(small_llama: Document) -> None:
    edits = []
    for number in range(300):
        source = f"step{number - 1}" if number else "down_proj"
        edits.append(
            AddNode(MLP, {"id": f"step{number}", "op": "scale", "attrs": {"factor": 1.5}, "inputs": {"x": source}})
        )
    edited = apply(small_llama, *edits, SetOutput(MLP, "out", "step299"))
    source = emit(edited).files["model.py"]
    compile(source, "model.py", "exec")
    assert source.count("* 1.5") == 300


def test_the_same_document_gives_the_same_bytes_in_another_process(small_llama: Document, tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    from canvas_rt import save

    save(small_llama, tmp_path / "d.canvas.json")
    program = "import sys, canvas_rt; sys.stdout.write(canvas_rt.emit(canvas_rt.load(sys.argv[1])).files['model.py'])"
    texts = [
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "d.canvas.json")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert texts[0] == texts[1] == emit(small_llama).files["model.py"]
