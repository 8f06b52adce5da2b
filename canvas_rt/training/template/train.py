"""Train this model: `python train.py`. Stop it with Ctrl-C, go on with `python train.py --resume`.

On many GPUs: `accelerate launch --config_file accelerate/fsdp2.yaml train.py`, or `torchrun --nproc-per-node 8 train.py`.
settings.toml says how, with the reason for each number; the model is in model/, as Canvas emitted it.
"""

import argparse
import json
import math
import os
import resource
import shutil
import signal
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data is read by one process, before training
# Threads that spin while they wait starve one another on a busy CPU.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from accelerate import DistributedType
from datasets import load_dataset
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

HERE = Path(__file__).resolve().parent
RUNS, FINAL, LOG = HERE / "runs", HERE / "final", HERE / "log.jsonl"
PACKAGE = HERE / "model"
WORLD = int(os.environ.get("WORLD_SIZE", 1))
MAIN = int(os.environ.get("RANK", 0)) == 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model in model/ as settings.toml says.")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in runs/")
    parser.add_argument("--steps", type=int, help="train for so many steps, instead of those in settings.toml")
    parser.add_argument("--cpu", action="store_true", help="use no GPU")
    chosen = parser.parse_args()
    if not chosen.resume and any(RUNS.glob("checkpoint-*")):
        parser.error(f"{RUNS.name}/ holds a run: --resume goes on with it; move it away to begin anew")
    settings = tomllib.loads((HERE / "settings.toml").read_text(encoding="utf-8"))
    on_gpu = torch.cuda.is_available() and not chosen.cpu
    place = {**settings["gpu" if on_gpu else "cpu"]}
    set_seed(settings["seed"])

    tokenizer = AutoTokenizer.from_pretrained(PACKAGE, trust_remote_code=True)
    args = arguments(settings["run"], place, settings["seed"], on_gpu, chosen.steps)
    with args.main_process_first():  # which writes the cache; the others read it
        data, held_out = sequences(settings["data"], tokenizer, place["sequence"], settings["seed"])
    progress = Progress(place["sequence"] * place["sequences_per_step"], on_gpu)
    trainer = Trainer(
        model=load_model(settings["model"], place["dtype"]),
        args=args,
        train_dataset=data,
        eval_dataset=held_out,
        data_collator=default_data_collator,
        callbacks=[progress, StopAfterThisStep()],
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = last_checkpoint() if chosen.resume else None
    if chosen.resume:
        say(f"going on from {checkpoint.name}" if checkpoint else "there is no checkpoint yet: from the beginning")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step < trainer.args.max_steps:
        say(f"stopped after step {trainer.state.global_step}: 'python train.py --resume' goes on")
        return
    say(f"held-out loss {trainer.evaluate()['eval_loss']:.4f}")
    trainer.save_model(str(FINAL))
    if MAIN:
        complete(FINAL)
    say(f"{FINAL.name}/ holds the trained model")


# ---------------------------------------------------------------------------------------------------------------------
# Data and model
# ---------------------------------------------------------------------------------------------------------------------


def sequences(settings: dict[str, Any], tokenizer: Any, length: int, seed: int) -> tuple[Any, Any]:
    """Texts as tokens, one after the other, cut into sequences of one length: those to train on, and some held out."""
    lines = settings["format"] == "text"
    files = [str(HERE / name) for name in settings.get("files", ())]
    source: dict[str, Any] = (
        {"path": settings["format"], "data_files": files}
        if files
        else {"path": settings["hub"], "name": settings.get("config")}
    )
    raw = load_dataset(
        **source,
        **({"keep_linebreaks": True} if lines else {}),
        split="train",
        streaming=settings["streaming"],
        cache_dir=str(HERE / "cache"),
    )
    column = "text" if lines else settings["column"]

    def cut(rows: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        texts = ["".join(rows[column])] if lines else [text for text in rows[column] if text]
        tokens: list[int] = []
        for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
            tokens += ids if lines else [*ids, tokenizer.eos_token_id]
        pieces = [tokens[start : start + length] for start in range(0, len(tokens) - length + 1, length)]
        return {"input_ids": pieces, "labels": pieces}

    cut_up = raw.map(cut, batched=True, batch_size=10_000, remove_columns=raw.column_names)
    held_out, rest = cut_up.take(settings["held_out"]), cut_up.skip(settings["held_out"])
    if settings["streaming"]:
        return rest.shuffle(seed=seed, buffer_size=10_000), held_out
    say(f"{len(rest):,} sequences of {length} tokens; unigram entropy {unigram_entropy(rest):.4f} nats a token")
    return rest, held_out


def unigram_entropy(data: Any) -> float:
    """Nats a token, for one who knows only how often each is there: what training has to get below to have learned more."""
    counts = Counter(token for row in data for token in row["input_ids"])
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values())


def load_model(settings: dict[str, Any], numbers: str) -> Any:
    """The model with the weights in model/, or with fresh ones: in 32 bits, unless all is to be in bfloat16."""
    dtype = torch.bfloat16 if numbers == "bfloat16" else torch.float32
    if settings["weights"]:
        return AutoModelForCausalLM.from_pretrained(PACKAGE, trust_remote_code=True, dtype=dtype)
    config = AutoConfig.from_pretrained(PACKAGE, trust_remote_code=True)
    return AutoModelForCausalLM.from_config(config, trust_remote_code=True, dtype=dtype)


def arguments(run: dict[str, Any], place: dict[str, Any], seed: int, on_gpu: bool, steps: int | None) -> Any:
    """What Trainer is told. The sequences of a step are the same on any number of processes."""
    batch = min(place["batch"], max(1, place["sequences_per_step"] // WORLD))
    accumulation = max(1, place["sequences_per_step"] // (batch * WORLD))
    if batch * WORLD * accumulation != place["sequences_per_step"]:
        say(
            f"steps of {batch * WORLD * accumulation} sequences: {WORLD} processes do not divide those of settings.toml"
        )
    recompute = {"activation_checkpointing": True} if place["recompute"] else {}
    sharded = {"fsdp": True, "fsdp_config": {"version": 2, "reshard_after_forward": True, **recompute}}
    made = TrainingArguments(
        output_dir=str(RUNS),
        max_steps=steps or run["steps"],
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=run["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=run["warmup"],
        weight_decay=run["weight_decay"],
        adam_beta2=run["beta2"],
        max_grad_norm=run["clip"],
        optim="adamw_torch_fused" if on_gpu else "adamw_torch",
        bf16=place["dtype"] == "mixed",
        logging_steps=1,
        logging_nan_inf_filter=False,  # a run that has come apart shows it
        save_steps=run["save_every"],
        save_total_limit=2,
        seed=seed,
        use_cpu=not on_gpu,
        ddp_backend=None if on_gpu or WORLD == 1 else "gloo",
        dataloader_pin_memory=on_gpu,
        prediction_loss_only=True,
        disable_tqdm=True,
        report_to="none",
        **(sharded if WORLD > 1 else recompute),
    )
    if made.distributed_state.distributed_type is DistributedType.MULTI_CPU:
        # FSDP2 shards over gloo, too, but accelerate asks for more than one GPU before it lets it.
        made.distributed_state.distributed_type = DistributedType.MULTI_GPU
    return made


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints and the log
# ---------------------------------------------------------------------------------------------------------------------


def last_checkpoint() -> Path | None:
    """The last one that was written to its end: the trainer's state is."""
    whole = [path.parent for path in RUNS.glob("checkpoint-*/trainer_state.json") if readable(path)]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def readable(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def complete(folder: Path) -> None:
    """Put code, config and tokenizer beside weights, as they were emitted: the folder opens in Canvas and loads anywhere."""
    for path in folder.glob("*.py"):
        path.unlink()  # of a sharded model, transformers copies PyTorch's own code too
    for path in PACKAGE.iterdir():
        if path.is_file() and not path.name.endswith((".safetensors", ".safetensors.index.json", "weights.json")):
            shutil.copyfile(path, folder / path.name)


class Progress(TrainerCallback):
    """A line in log.jsonl for each step, and beside each checkpoint the code."""

    def __init__(self, tokens: int, on_gpu: bool) -> None:
        self.tokens, self.on_gpu, self.before = tokens, on_gpu, resident_now()
        self.moment = 0.0
        self.printed = -math.inf

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not MAIN:
            return
        kept = [line for line in lines_of(LOG) if line["step"] <= state.global_step] if state.global_step else []
        LOG.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self.moment = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not MAIN or not logs or "loss" not in logs:
            return
        now = time.perf_counter()
        line = {
            "step": state.global_step,
            "of": state.max_steps,
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "tokens_per_s": self.tokens / (now - self.moment),
            "memory": torch.cuda.max_memory_allocated() if self.on_gpu else resident_most() - self.before,
            "time": time.time(),
        }
        self.moment = now
        with LOG.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if now - self.printed > 5 or state.global_step == state.max_steps:
            self.printed = now
            say("step {step} of {of}: loss {loss:.4f}, {tokens_per_s:,.0f} tokens/s".format(**line))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if MAIN:
            complete(RUNS / f"checkpoint-{state.global_step}")


class StopAfterThisStep(TrainerCallback):
    """Ctrl-C, or SIGTERM as SLURM sends it, ends the run after the step at hand, with a checkpoint."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.ask)

    def ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if WORLD > 1:  # the signal does not reach all processes within one step, and they must stop after the same
            anybody = torch.tensor(float(self.asked), device=args.device)
            torch.distributed.all_reduce(anybody, torch.distributed.ReduceOp.MAX)
            self.asked = bool(anybody)
        if self.asked:
            control.should_save = control.should_training_stop = True


def lines_of(path: Path) -> list[dict[str, Any]]:
    """What was logged. A line that was cut short is as if it had never been."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


def resident_most() -> int:
    """The most bytes that this process has held in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_now() -> int:
    """Bytes that this process holds: before there is a model, Python and PyTorch itself."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resident_most()


def say(text: str) -> None:
    if MAIN:
        print(text, flush=True)


if __name__ == "__main__":
    main()
