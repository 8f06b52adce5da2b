"""Take an emitted model elsewhere: as a program of torch.export, as ONNX, as a pull request on the hub."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from canvas_rt.errors import CanvasError
from canvas_rt.verifier.apart import LONGEST_S, run_apart

Format = Literal["pt2", "onnx"]

NEEDS: Mapping[Format, tuple[str, ...]] = MappingProxyType({"pt2": (), "onnx": ("onnx", "onnxscript")})
"""Packages that a format needs beside Canvas's own."""

BATCH, SEQUENCE = 2, 24
"""What the program is traced with; both may be others when it runs."""

TOLERANCE = 1e-4
"""Relative: the program may fuse what the model computes in steps."""

NEVER_SENT = (".*", "*/.*", "__pycache__", "*.pyc", "*.partial")


def export(
    folder: str | Path,
    target: str | Path,
    *,
    format: Format = "pt2",
    timeout_s: float = LONGEST_S,
    progress: Callable[[str], None] = lambda name: None,
) -> Mapping[str, Any]:
    """Write an emitted model with its weights as a program, and say how far its logits are from the model's.

    Runs the folder's code, in a process of its own: export only what you would run. Programs are written, never read from
    strangers. The answer has `files`, `max_abs_diff` (None where nothing here can run the program) and `told`.

    Raises `CanvasError` where the folder holds no model with weights, a package is missing, or the model cannot be traced.
    """
    source, place = Path(folder), Path(target)
    if not (source / "config.json").is_file() or not any(source.glob("*.safetensors")):
        raise CanvasError(
            "holds no model with weights", path=str(folder), hint="Write one with canvas-rt emit … --weights DIR."
        )
    missing = [name for name in NEEDS[format] if find_spec(name) is None]
    if missing:
        raise CanvasError(
            f"{format} needs {' and '.join(missing)}", path=str(target), hint=f"pip install {' '.join(missing)}"
        )
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise CanvasError("exists already", path=str(target), hint="Choose another folder.")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    except OSError as error:
        raise CanvasError(f"cannot be written: {error.strerror}", path=str(target)) from error
    try:
        request = {"into": str((made / "new").resolve()), "format": format}
        answer = run_apart("export", source, request=request, timeout_s=timeout_s, progress=progress)
        if place.exists():
            place.rmdir()
        os.replace(made / "new", place)
    except OSError as error:
        raise CanvasError(f"cannot be written: {error.strerror}", path=str(target)) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return answer


def exported(folder: Path, into: Path, format: Format, progress: Callable[[str], None]) -> dict[str, Any]:
    """The job itself, in a process of its own."""
    import torch
    from torch.export import Dim

    from canvas_rt.importer.trace import quiet

    progress("loading the model")
    model, task = _loaded(folder)
    if task != "causal_lm":
        raise CanvasError(f"is a model for {task}; only causal language models are exported", path=folder.name)
    model.config.use_cache = False  # its class of transformers would have to be known to whoever reads the program
    exporter, config = _exporter(format)
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.config.vocab_size)
    inputs = _inputs(torch.randint(0, vocabulary, (BATCH, SEQUENCE), generator=generator))
    shapes = {name: {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for name in inputs}
    progress(f"tracing it as {format}")
    try:
        with quiet():
            program = exporter.export(model, dict(inputs), config=config(dynamic=True, dynamic_shapes=shapes))
            into.mkdir(parents=True)
            program.save_pretrained(into)
    except Exception as error:  # whatever torch has to say against the graph
        raise CanvasError(f"cannot be traced as {format}: {type(error).__name__}: {str(error)[:300]}") from error
    progress("comparing its logits")
    other = _inputs(torch.randint(0, vocabulary, (BATCH + 1, SEQUENCE - 5), generator=generator))
    with torch.no_grad():
        expected = model(**other).logits
        found = _run(program, other, format)
    files = sorted(path.name for path in into.iterdir())
    if found is None:
        return {
            "files": files,
            "max_abs_diff": None,
            "told": "its logits were not compared: onnxruntime is not installed",
        }
    apart = float((found - expected).abs().max())
    if apart > TOLERANCE * max(1.0, float(expected.abs().max())):
        raise CanvasError(f"the program gives other logits than the model: they differ by {apart:.1e}")
    return {
        "files": files,
        "max_abs_diff": apart,
        "told": f"its logits are {'those' if not apart else f'within {apart:.1e} of those'} of the model, at other sizes too",
    }


def _loaded(folder: Path) -> tuple[Any, str]:
    """The model of a folder, in float32, and what it is for."""
    import transformers

    from canvas_rt.importer.trace import quiet
    from canvas_rt.ir.files import load

    path = folder / "document.canvas.json"
    purpose = load(path).purpose if path.is_file() else None
    auto = getattr(transformers, purpose.auto if purpose else "AutoModelForCausalLM")
    with quiet():
        model = auto.from_pretrained(folder, trust_remote_code=True, attn_implementation="sdpa").float().eval()
    return model, purpose.name if purpose else "causal_lm"


def _exporter(format: Format) -> tuple[Any, Any]:
    if format == "onnx":
        from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

        return OnnxExporter(), OnnxConfig
    from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter

    return DynamoExporter(), DynamoConfig


def _inputs(ids: Any) -> dict[str, Any]:
    import torch

    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _run(program: Any, inputs: Mapping[str, Any], format: Format) -> Any:
    if format == "onnx" and find_spec("onnxruntime") is None:
        return None
    found = program(**inputs)
    return found["logits"] if isinstance(found, Mapping) else found.logits


def push(folder: str | Path, repository: str, *, private: bool = True, message: str = "Written by Canvas") -> str:
    """Offer an emitted folder to a model repository on the hub as a pull request; gives its address.

    The repository is made, private, if there is none. Nothing is merged. Raises `CanvasError` for a folder that holds no
    emitted model, and for what the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    source = Path(folder)
    if not (source / "config.json").is_file():
        raise CanvasError("holds no model", path=str(folder), hint="Name a folder that 'canvas-rt emit' wrote.")
    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        made = api.upload_folder(
            repo_id=repository,
            folder_path=source,
            commit_message=message,
            create_pr=True,
            ignore_patterns=list(NEVER_SENT),
        )
    except LocalTokenNotFoundError as error:
        raise CanvasError("you are not logged in to the hub", hint="Run 'hf auth login', or set HF_TOKEN.") from error
    except HFValidationError as error:
        raise CanvasError(f"is no name of a repository: {str(error)[:200]}", path=repository) from error
    except HfHubHTTPError as error:
        raise CanvasError(f"the hub refused: {str(error)[:300]}", path=repository) from error
    except Exception as error:  # of the network: its library is another from version to version
        said = f"{type(error).__name__}: {str(error)[:200]}"
        raise CanvasError(f"nothing was sent to the hub: {said}", path=repository) from error
    return str(made.pr_url)
