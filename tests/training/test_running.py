"""Runs for real, in processes of their own, on one core: a tiny model for a few steps."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from canvas_rt import Document, open_source
from canvas_rt.cli import main
from canvas_rt.errors import CanvasError
from canvas_rt.training import Run, Step, Wishes, launch, training_bundle

STEPS = 60


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def fresh(edited_llama: Document, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of short sequences that has not trained yet."""
    folder = tmp_path_factory.mktemp("fresh") / "bundle"
    training_bundle(edited_llama, folder, data=[text_file], wishes=Wishes(sequence=32, steps=STEPS, learning_rate=3e-3))
    settings = folder / "settings.toml"
    text = re.sub(r"save_every = \d+", "save_every = 4", settings.read_text())
    settings.write_text(re.sub(r"sequences_per_step = \d+", "sequences_per_step = 8", text))
    return folder


@pytest.fixture(scope="module")
def whole(fresh: Path) -> Run:
    """One run from its beginning to its end."""
    os.environ["OMP_NUM_THREADS"] = "1"
    return launch(fresh)


@pytest.fixture
def bundle(fresh: Path, tmp_path: Path) -> Path:
    """The same bundle, untouched."""
    skipped = shutil.ignore_patterns("runs", "final", "log.jsonl")
    return Path(shutil.copytree(fresh, tmp_path / "bundle", ignore=skipped))


def losses(run: Run) -> list[float]:
    return [step.loss for step in run.steps]


def test_a_run_learns_and_is_measured(whole: Run) -> None:
    assert whole.outcome == "finished", whole
    assert [step.step for step in whole.steps] == list(range(1, STEPS + 1))
    assert losses(whole)[-1] < losses(whole)[0] - 0.3
    assert all(step.tokens_per_s > 0 and step.memory > 0 for step in whole.steps)
    assert whole.predicted_memory > 0


def test_stopped_and_resumed_it_follows_the_same_curve(bundle: Path, whole: Run) -> None:
    stop = threading.Event()

    def watch(step: Step) -> None:
        if step.step >= 3:
            stop.set()

    first = launch(bundle, watch=watch, stop=stop)
    assert first.outcome == "stopped" and "goes on" in first.reason, first
    assert 3 <= len(first.steps) < STEPS
    second = launch(bundle, resume=True)
    assert second.outcome == "finished"
    assert losses(second) == losses(whole)


def test_killed_and_resumed_it_follows_the_same_curve(bundle: Path, whole: Run) -> None:
    def kill(step: Step) -> None:
        if step.step == 6:
            for child in psutil.Process().children(recursive=True):
                child.send_signal(signal.SIGKILL)

    first = launch(bundle, watch=kill)
    assert first.outcome == "died" and "SIGKILL" in first.reason
    half = bundle / "runs" / "checkpoint-99"  # what a kill in the middle of a checkpoint leaves
    half.mkdir()
    (half / "trainer_state.json").write_text('{"global_')
    second = launch(bundle, resume=True)
    assert second.outcome == "finished"
    assert losses(second) == losses(whole)


def test_two_processes_that_share_the_weights_follow_the_same_curve(bundle: Path, whole: Run) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    done = subprocess.run(torchrun, cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (bundle / "runs" / f"checkpoint-{STEPS}" / "pytorch_model_fsdp.bin").exists()  # it was sharded
    assert not list((bundle / "final").glob("_fsdp*"))
    found = [json.loads(line)["loss"] for line in (bundle / "log.jsonl").read_text().splitlines()]
    assert found == pytest.approx(losses(whole), abs=1e-4)


LOGITS = """
import sys
sys.path.insert(0, ".")
import torch
import train
from transformers import AutoModelForCausalLM

ids = torch.arange(48).view(2, 24)

class Kept(train.Trainer):
    def save_model(self, output_dir=None, _internal_call=False):
        super().save_model(output_dir, _internal_call)
        with torch.no_grad():
            Kept.logits = self.model.eval()(ids).logits

train.Trainer = Kept
sys.argv = ["train.py", "--steps", "2"]
train.main()
for folder in ("final", "runs/checkpoint-2"):
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        print("difference", float((model(ids).logits - Kept.logits).abs().max()))
    print("generated", model.generate(ids[:1, :4], max_new_tokens=5, do_sample=False).shape[1] > 4)
"""


def test_checkpoints_equal_the_trainers_model_and_open_again(bundle: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LOGITS], cwd=bundle, capture_output=True, text=True, check=False)
    assert done.stdout.count("difference 0.0\ngenerated True") == 2, done.stdout + done.stderr[-2000:]
    document = open_source(str(bundle / "model"))
    for folder in ("final", "runs/checkpoint-2"):
        assert main(["import", str(bundle / folder), "-o", str(bundle / "again.canvas.json")]) == 0
        assert open_source(str(bundle / "again.canvas.json")) == document


@pytest.mark.slow
def test_streamed_rows_of_json_train_too(edited_llama: Document, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"body": f"row {n} " * 20}) + "\n" for n in range(80)))
    wishes = Wishes(sequence=32, steps=2, streaming=True)
    training_bundle(edited_llama, tmp_path / "b", data=[rows], column="body", wishes=wishes)
    run = launch(tmp_path / "b")
    assert run.outcome == "finished", run
    assert len(run.steps) == 2


def test_a_script_that_raises_is_a_result_with_its_reason(bundle: Path) -> None:
    (bundle / "train.py").write_text("raise RuntimeError('the cat ate it')\n")
    run = launch(bundle)
    assert (run.outcome, run.reason, run.steps) == ("died", "RuntimeError: the cat ate it", ())


def test_what_is_no_bundle_or_too_large_for_this_machine_is_said_at_once(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(CanvasError, match="is no bundle"):
        launch(tmp_path)
    begun = bundle / "runs" / "checkpoint-5"
    begun.mkdir(parents=True)
    with pytest.raises(CanvasError, match="holds a run\nResume it"):
        launch(bundle)
    begun.rmdir()
    settings = bundle / "settings.toml"
    settings.write_text(re.sub(r"predicted_memory = \d+", f"predicted_memory = {2**50}", settings.read_text()))
    with pytest.raises(CanvasError, match=r"takes 1,048,576\.0 GiB, and this machine has"):
        launch(bundle)


def test_the_verb_says_what_it_chose(
    edited_llama: Document, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from canvas_rt import save

    save(edited_llama, tmp_path / "d.canvas.json")
    asked = ["train", str(tmp_path / "d.canvas.json"), "-o", str(tmp_path / "b"), "--data", str(text_file)]
    assert main([*asked, "--steps", "3", "--sequence", "32", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["run"][0] == {"name": "steps", "value": 3, "reason": "as you said"}
    assert told["gpus"] == 1 and told["unigram_entropy"] > 0
    assert main(asked) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["train", "-o", str(tmp_path / "b"), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["outcome"] == "finished"
    assert main(["train", "-o", str(tmp_path)]) == 1
