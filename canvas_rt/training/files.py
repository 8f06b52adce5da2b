"""The files of a bundle that are the same but for a few numbers: accelerate's configs, a SLURM script, the README."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from canvas_rt.ir.document import Document
from canvas_rt.ops.parameters import count_parameters
from canvas_rt.training.settings import Settings

TEMPLATE = Path(__file__).parent / "template"
A_NODE = 8
"""GPUs of a machine, as clouds and clusters have them."""

NEEDED = ("torch", "transformers", "accelerate", "datasets", "safetensors")


def files_of(document: Document, settings: Settings, tokenizer: str) -> Mapping[str, str]:
    """Text by file name, for all but the model and the data."""
    return {
        "README.md": _readme(document, settings, tokenizer),
        "train.py": (TEMPLATE / "train.py").read_text(encoding="utf-8"),
        "requirements.txt": "".join(f"{name}{_pin(name)}\n" for name in NEEDED),
        "accelerate/one_cpu.yaml": _accelerate("NO", use_cpu=True),
        "accelerate/one_gpu.yaml": _accelerate("NO", mixed=settings.value("gpu", "dtype") == "mixed"),
        "accelerate/fsdp2.yaml": _fsdp2(settings),
        "slurm.sh": _slurm(document, settings),
    }


def _pin(name: str) -> str:
    try:
        return ">=" + version(name).partition("+")[0]
    except PackageNotFoundError:
        return ""


def _accelerate(kind: str, *, use_cpu: bool = False, mixed: bool = False, processes: int = 1, more: str = "") -> str:
    return f"""compute_environment: LOCAL_MACHINE
distributed_type: '{kind}'
use_cpu: {str(use_cpu).lower()}
mixed_precision: '{"bf16" if mixed else "no"}'
num_machines: 1
num_processes: {processes}
machine_rank: 0
main_training_function: main
rdzv_backend: static
same_network: true
{more}"""


def _fsdp2(settings: Settings) -> str:
    """train.py itself tells accelerate how to shard: under torchrun it has to, and so both do the same."""
    more = f"""fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_reshard_after_forward: true
  fsdp_state_dict_type: FULL_STATE_DICT
  fsdp_activation_checkpointing: {str(settings.value("gpu", "recompute")).lower()}
"""
    processes = max(2, settings.cards)
    return _accelerate("FSDP", mixed=settings.value("gpu", "dtype") == "mixed", processes=processes, more=more)


def _slurm(document: Document, settings: Settings) -> str:
    nodes = -(-settings.cards // A_NODE)
    here = min(max(1, settings.cards), A_NODE)
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in document.name)[:40] or "model"
    return f"""#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={here}
#SBATCH --cpus-per-task={4 * here}
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --output=%x-%j.log

# sbatch slurm.sh: two minutes before its time is over a checkpoint is written; when it starts again it goes on from there.
set -euo pipefail
cd "${{SLURM_SUBMIT_DIR:-.}}"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
exec srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node {here} \\
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head:29500" \\
    train.py --resume
"""


def _readme(document: Document, settings: Settings, tokenizer: str) -> str:
    title = "".join(c if c.isalnum() or c in " .-_" else "_" for c in document.name)
    cards = settings.cards
    many = (
        f"The model takes {cards} GPUs: `accelerate/fsdp2.yaml` shards it over them."
        if cards > 1
        else "On one GPU the same command takes the settings under `[gpu]`."
    )
    return f"""# Train {title}

{count_parameters(document).total:,} parameters, from {_start(settings)}. One command:

```sh
pip install -r requirements.txt
python train.py
```

It prints the loss and the corpus's unigram entropy (what a model reaches that knows only how often each token is there),
writes a line for each step to `log.jsonl`, checkpoints to `runs/`, and the trained model to `final/`: a Hugging Face model
that `AutoModelForCausalLM.from_pretrained("final", trust_remote_code=True)` loads and Canvas opens. Ctrl-C stops it after the
step at hand; `python train.py --resume` goes on, also after a crash, along the same curve. `--steps N` trains for N steps,
`--cpu` uses no GPU. {many}

```sh
accelerate launch --config_file accelerate/fsdp2.yaml train.py   # many GPUs of one machine, sharded by FSDP2
torchrun --nproc-per-node 8 train.py                             # the same
sbatch slurm.sh                                                  # a cluster
```

The sequences of a step stay the same on any number of processes, so the curve does too.

- `settings.toml`: every setting with its reason. Change what you like.
- `model/`: the model as Canvas emitted it, with its document and tokenizer ({tokenizer}).
- `train.py`: Hugging Face's Trainer, and nothing hidden.
"""


def _start(settings: Settings) -> str:
    return "weights that learned already" if settings.value("model", "weights") else "fresh weights"
