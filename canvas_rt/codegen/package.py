"""Write a document as a Hugging Face model: `model.py`, `config.json` and what belongs to them."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canvas_rt.codegen import mixture
from canvas_rt.codegen.blocks import BlockWriter, Plan
from canvas_rt.codegen.frame import (
    APPLY_ROTARY,
    EAGER_ATTENTION,
    RMS_NORM,
    ROTARY,
    WITH_VALUES,
    BackboneWriter,
    CausalLMWriter,
    config_class,
    model_type,
    pretrained_class,
)
from canvas_rt.errors import CanvasError, EmitError
from canvas_rt.ir.document import Document, Node
from canvas_rt.ir.expressions import is_expression, resolve
from canvas_rt.ir.files import dumps
from canvas_rt.ir.frozen import thaw
from canvas_rt.ir.graph import layer_count, walk
from canvas_rt.physics.shapes import check

LINE = 120
"""Characters on a line of emitted code."""


@dataclass(frozen=True, slots=True)
class Source:
    """An emitted model."""

    files: Mapping[str, str]
    """Text by file name."""

    def write(self, folder: str | Path) -> None:
        """Write every file, or none: into a temporary folder beside `folder`, which then takes its place.

        An existing folder is replaced if it is empty, or holds nothing but what Canvas writes: never weights, never notes.
        """
        target = Path(folder)
        try:
            self._check_replaceable(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        except OSError as error:
            raise CanvasError(f"cannot be written: {error.strerror}", path=str(folder)) from error
        try:
            fresh = made / "new"
            fresh.mkdir()
            for name, text in self.files.items():
                (fresh / name).write_text(text, encoding="utf-8")
            if target.exists():
                target.rename(made / "old")  # a kill between the two renames leaves both folders whole
            fresh.rename(target)
        except OSError as error:
            raise CanvasError(f"cannot be written: {error.strerror}", path=str(folder)) from error
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _check_replaceable(self, target: Path) -> None:
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise CanvasError("is a file", path=str(target), hint="Name a folder that does not exist yet.")
        others = (
            [p.name for p in target.iterdir() if p.name not in (*self.files, "__pycache__")] if target.exists() else []
        )
        if others:
            raise CanvasError(
                f"holds {sorted(others)[0]}, which Canvas did not write",
                path=str(target),
                hint="Choose another folder.",
            )


def emit(document: Document) -> Source:
    """A document as source: the same document always gives the same bytes.

    Raises `EmitError` for a graph that no Hugging Face model can be, naming the node and a way out.
    """
    plan = Plan(document)
    plan.validate()
    plan.comments = head_shapes(document)
    files = {
        "model.py": format_source(module_source(plan)),
        "config.json": json.dumps(config_json(plan), indent=2) + "\n",
        "generation_config.json": json.dumps(generation_json(document), indent=2) + "\n",
        "README.md": card(plan),
        "document.canvas.json": dumps(document),
    }
    return Source(files)


def head_shapes(document: Document) -> dict[tuple[str, str], str]:
    """The shapes of what is split into heads, by block and node: where a reader of attention asks for them."""
    shapes = check(document).shapes
    found: dict[tuple[str, str], str] = {}
    for visit in walk(document):
        if isinstance(visit.item, Node) and visit.item.op == "split_heads":
            known = shapes.get(visit.path, (None,))[0]
            if known is not None:
                found.setdefault((visit.block, visit.item.id), str(known))
    return found


def module_source(plan: Plan) -> str:
    """The text of `model.py`, before formatting."""
    backbone, root = plan.backbone[0], plan.document.root
    ops = {item.op for name in plan.order for item in plan.document.blocks[name].nodes if isinstance(item, Node)}
    parts = [config_class(plan)]
    classes = []
    for name in plan.order:
        if name == root:
            classes.append(CausalLMWriter(plan, name).source())
        elif name == backbone:
            classes += [pretrained_class(plan), BackboneWriter(plan, name).source()]
        else:
            classes.append(BlockWriter(plan, name).source())
    body = "\n\n".join(classes)
    names = {"name": plan.names.classes.rms_norm, "config": plan.names.config}
    if "with_values(" in body:
        parts.append(WITH_VALUES.format(**names))
    if "rms_norm" in ops:
        parts.append(RMS_NORM.format(**names))
    if "rotary_embedding" in ops:
        parts.append(ROTARY.format(**{**names, "name": plan.names.classes.rotary}))
    if "apply_rotary" in ops:
        parts.append(APPLY_ROTARY)
    if "attention" in ops:
        parts.append(EAGER_ATTENTION)
    parts += mixture.classes(plan)
    text = "\n\n".join([*parts, body])
    return f'"""{title(plan)}: written by Canvas."""\n\n{imports(text)}\n\n\n{text}'


def title(plan: Plan) -> str:
    return "".join(c if c.isalnum() or c in " .-_" else "_" for c in plan.document.name)


IMPORTS = (
    ("copy.copy", "import copy"),
    ("Any", "from typing import Any"),
    ("", ""),
    ("torch.", "import torch"),
    ("strict", "from huggingface_hub.dataclasses import strict"),
    ("nn.", "from torch import nn"),
    ("init.normal_", "from transformers import initialization as init"),
    ("ACT2FN", "from transformers.activations import ACT2FN"),
    ("Cache", "from transformers.cache_utils import Cache, DynamicCache"),
    ("PretrainedConfig", "from transformers.configuration_utils import PretrainedConfig"),
    ("GenerationMixin", "from transformers.generation import GenerationMixin"),
    ("use_experts_implementation", "from transformers.integrations import use_experts_implementation"),
    ("create_causal_mask", "from transformers.masking_utils import create_causal_mask"),
    ("create_sliding_window_causal_mask", "from transformers.masking_utils import create_sliding_window_causal_mask"),
    ("sliding_window_overlay", "from transformers.masking_utils import sliding_window_overlay"),
    ("GradientCheckpointingLayer", "from transformers.modeling_layers import GradientCheckpointingLayer"),
    (
        "BaseModelOutputWithPast",
        "from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast",
    ),
    ("ROPE_INIT_FUNCTIONS", "from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS"),
    ("RopeParameters", "from transformers.modeling_rope_utils import RopeParameters"),
    ("dynamic_rope_update", "from transformers.modeling_rope_utils import dynamic_rope_update"),
    ("ALL_ATTENTION_FUNCTIONS", "from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS"),
    ("PreTrainedModel", "from transformers.modeling_utils import PreTrainedModel"),
    ("can_return_tuple", "from transformers.utils import can_return_tuple"),
    ("merge_with_config_defaults", "from transformers.utils.generic import merge_with_config_defaults"),
    ("capture_outputs", "from transformers.utils.output_capturing import capture_outputs"),
)
"""What a module may need: a name to look for in its text, and the line that brings it. Ruff merges and sorts them."""


def imports(text: str) -> str:
    return "\n".join(line for name, line in IMPORTS if name in text)


def format_source(text: str) -> str:
    """Sorted imports and one style, by ruff."""
    from ruff.__main__ import find_ruff_bin

    common = [
        "--isolated",
        "--quiet",
        "--line-length",
        str(LINE),
        "--target-version",
        "py310",
        "--stdin-filename",
        "model.py",
    ]
    for command in (["check", "--select", "I,F401", "--fix-only"], ["format"]):
        done = subprocess.run(
            [find_ruff_bin(), *command, *common, "-"], input=text, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise EmitError(f"ruff refuses the emitted code: {done.stderr.strip()[:400]}")
        text = done.stdout
    return text


def config_json(plan: Plan) -> dict[str, Any]:
    """The config as JSON: every field, those that follow from others left open."""
    document, names = plan.document, plan.names
    backbone = names.of(plan.backbone[0])
    values: dict[str, Any] = {
        "model_type": model_type(plan),
        "architectures": [names.causal_lm],
        "auto_map": {
            "AutoConfig": f"model.{names.config}",
            "AutoModel": f"model.{backbone}",
            "AutoModelForCausalLM": f"model.{names.causal_lm}",
        },
    }
    for name, value in {**document.sizes, **document.config}.items():
        if not is_expression(value):
            values[name] = thaw(value)
    count = layer_count(document, plan.backbone[1])
    values["num_hidden_layers"] = count
    kinds = [plan.backbone[1].kinds[index] for index in plan.backbone[1].kind_indices(count)]
    own = {
        str(layer): {name: resolve(value, document.environment) for name, value in kind.sizes.items()}
        for layer, kind in enumerate(kinds)
        if kind.sizes
    }
    if own:
        values["per_layer_config"] = own
    if plan.masks:  # one kind of cache serves every window: it keeps all tokens, and the masks hide what a window does
        values["layer_types"] = ["full_attention"] * count
    if plan.several_classes:
        values["layer_kinds"] = [kind.block for kind in kinds]
    return values


def generation_json(document: Document) -> dict[str, Any]:
    ids = {name: thaw(document.config.get(name)) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {"_from_model_config": True, **{name: value for name, value in ids.items() if value is not None}}


def card(plan: Plan) -> str:
    """The model card."""
    document, origin = plan.document, plan.document.origin
    edits = (
        "\n".join(f"- `{json.dumps(thaw(edit), ensure_ascii=True)}`" for edit in document.log)
        or "None: it is the original."
    )
    return f"""---
library_name: transformers
tags: [canvas]
---

# {title(plan)}

`{plan.names.causal_lm}`, written by Canvas from {title_of(origin.source) or "a document"} \
({title_of(origin.architecture) or "no origin"}). It has no weights yet.

```python
from transformers import AutoConfig, AutoModelForCausalLM

config = AutoConfig.from_pretrained(".", trust_remote_code=True)
model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
```

`document.canvas.json` is the graph: `canvas-rt show document.canvas.json`. `canvas-rt verify .` proves this code against it.

## Edits since the import

{edits}
"""


def title_of(text: str) -> str:
    return "".join(c if c.isalnum() or c in " .-_/" else "_" for c in text)


__all__ = ["Source", "emit"]
