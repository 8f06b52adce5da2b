"""Write a document as a Hugging Face model: `model.py`, `config.json` and what belongs to them."""

import ast
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from canvas_rt.codegen import leaves, mixture, rotations
from canvas_rt.codegen.attention import RELATIVE_BIAS, alibi_function, eager_attention
from canvas_rt.codegen.backbone import PADDED_POSITIONS, BackboneWriter
from canvas_rt.codegen.blocks import BlockWriter
from canvas_rt.codegen.cards import CardNotes, card, native_card, plain_card, title
from canvas_rt.codegen.configs import ATTENDING_AS, HETEROGENEOUS, WITH_VALUES, auto_map, config_class, model_type
from canvas_rt.codegen.halves import AcrossWriter, TrunkWriter, validate_halves
from canvas_rt.codegen.head import HeadWriter
from canvas_rt.codegen.plan import Plan
from canvas_rt.codegen.pretrained import pretrained_class
from canvas_rt.codegen.syntax import constant, quote, unparse
from canvas_rt.codegen.windows import naming_window
from canvas_rt.errors import CanvasError, EmitError
from canvas_rt.ir.document import Block, Document, Node, Stack, Use
from canvas_rt.ir.expressions import is_expression, resolve
from canvas_rt.ir.files import dumps
from canvas_rt.ir.frozen import thaw
from canvas_rt.ir.graph import Item, layer_count, layer_runs, running_order, walk
from canvas_rt.ir.tasks import TASKS
from canvas_rt.ops.catalogue import complete
from canvas_rt.ops.functions import RUN_TIME
from canvas_rt.ops.learned import MODULE
from canvas_rt.ops.modules import config_class as config_of
from canvas_rt.ops.modules import initialiser, keeps_index
from canvas_rt.ops.parameters import parameter_keys
from canvas_rt.physics.shapes import ValueShape, check
from canvas_rt.physics.structure import output_ports

LINE = 120
"""Characters on a line of emitted code."""

Shapes = Mapping[str, tuple[ValueShape | None, ...]]
"""For each item's path, the shapes of its outputs."""


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
            self.check_replaceable(target)
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

    def check_replaceable(self, target: Path) -> None:
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise CanvasError("is a file", path=str(target), hint="Name a folder that does not exist yet.")
        others = (
            [p.name for p in target.iterdir() if p.name not in (*WRITTEN, "__pycache__")] if target.exists() else []
        )
        if others:
            raise CanvasError(
                f"holds {sorted(others)[0]}, which Canvas did not write",
                path=str(target),
                hint="Choose another folder.",
            )


Target = Literal["code", "native", "plain"]
"""What is written: code with its config, for a stock architecture nothing but its config, or code that needs PyTorch alone."""

WRITTEN = frozenset({"model.py", "config.json", "README.md", "generation_config.json", "document.canvas.json"})
"""Every file that is ever written."""


def emit(document: Document, *, target: Target = "code", notes: CardNotes | None = None) -> Source:
    """A document as source: the same document always gives the same bytes.

    `native` writes the config alone with which transformers' own class is the model: that is proven by importing it.
    `plain` writes the same blocks as one file that needs PyTorch alone. `notes` are for the model card.
    Raises `EmitError` for a graph that no Hugging Face model can be, naming the node and a way out; or the edit that left
    the stock architecture.
    """
    return _EMITTERS[target](document, notes or CardNotes())


P = TypeVar("P", bound=Plan)


def planned(plan: P) -> P:
    """A plan with all that emission must know of its document. Raises `EmitError` where that cannot be emitted."""
    document = plan.document
    if plan.halves is not None:
        validate_halves(plan, plan.halves)
    plan.validate()
    shapes = check(document).shapes
    plan.comments = head_shapes(document, shapes)
    inputs = input_shapes(document, shapes)
    if document.purpose.of_tokens:
        plan.places = {name: run_time_places(plan, name, given) for name, given in inputs.items()}
    else:
        plan.places = {name: patch_places(document.blocks[name], given) for name, given in inputs.items()}
    plan.flat = {
        name: "batch" in plan.places[name] and len(given.get(plan.places[name]["batch"][0], ())) != 3
        for name, given in inputs.items()
    }
    return plan


def _code(document: Document, notes: CardNotes) -> Source:
    """A package: `model.py`, its config, and what belongs to them."""
    plan = planned(Plan(naming_window(document)))
    files = {
        "model.py": format_source(module_source(plan)),
        "config.json": json.dumps(config_json(plan), indent=2) + "\n",
        "README.md": card(plan, notes),
        "document.canvas.json": dumps(document),
    }
    if plan.task.generates:
        files["generation_config.json"] = json.dumps(generation_json(document), indent=2) + "\n"
    return Source(files)


def _native(document: Document, notes: CardNotes) -> Source:
    """The config of a stock architecture, and what belongs to it: the code is transformers' own."""
    from canvas_rt.codegen.native import native_config

    found = native_config(document, proven=True)
    if found.config is None:
        message = f"is no {found.architecture or 'stock architecture'} with another config: {found.left}"
        raise EmitError(message, hint="Emit the package, with code: without --native, or with target='code'.")
    files = {
        "config.json": json.dumps(found.config, indent=2) + "\n",
        "README.md": native_card(document, notes),
        "document.canvas.json": dumps(document),
    }
    if document.purpose.generates:
        files["generation_config.json"] = json.dumps(generation_json(document), indent=2) + "\n"
    return Source(files)


def _plain(document: Document, notes: CardNotes) -> Source:
    """One file that needs PyTorch alone, and the config that it reads."""
    from canvas_rt.codegen.plain import PlainPlan, plain_files, settled

    plan = planned(PlainPlan(settled(document)))
    files = plain_files(plan)
    return Source(
        {
            "model.py": format_source(files["model.py"]),
            "config.json": files["config.json"],
            "README.md": plain_card(plan, notes),
            "document.canvas.json": dumps(document),
        }
    )


_EMITTERS: Mapping[Target, Callable[[Document, CardNotes], Source]] = {
    "code": _code,
    "native": _native,
    "plain": _plain,
}


def head_shapes(document: Document, shapes: Shapes) -> dict[tuple[str, str], str]:
    """The shapes of what is split into heads, by block and node: where a reader of attention asks for them."""
    found: dict[tuple[str, str], str] = {}
    for visit in walk(document):
        if isinstance(visit.item, Node) and visit.item.op == "split_heads":
            known = shapes.get(visit.path, (None,))[0]
            if known is not None:
                found.setdefault((visit.block, visit.item.id), str(known))
    return found


def input_shapes(document: Document, shapes: Shapes) -> dict[str, dict[str, tuple[str, ...]]]:
    """For each block, what its inputs are in the model's own sizes, as at its first use."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}

    def shape_of(block: str, prefix: str, ref: str) -> tuple[str, ...] | None:
        name, _, port = ref.partition(".")
        item = document.blocks[block].node(name)
        if item is None:
            return found[block].get(name)
        outputs = output_ports(item, document.blocks) or ()
        known = shapes.get(f"{prefix}{name}", ())
        index = outputs.index(port) if port in outputs else 0
        value = known[index] if index < len(known) else None
        return None if value is None else value.symbolic

    def visit(block: str, prefix: str) -> None:
        for item in running_order(document.blocks[block])[0]:
            for inner, key in _inside(document, item):
                if inner in found:
                    continue
                given = {port: shape_of(block, prefix, ref) for port, ref in item.inputs.items()}
                found[inner] = {port: shape for port, shape in given.items() if shape is not None}
                visit(inner, f"{prefix}{key}.")

    root = document.root
    known = {name: shapes.get(name, (None,))[0] for name in document.blocks[root].inputs}
    found[root] = {name: ("batch", "seq") if shape is None else shape.symbolic for name, shape in known.items()}
    visit(root, "")
    return found


def _inside(document: Document, item: Item) -> list[tuple[str, str]]:
    """The blocks that an item uses, each with its place as shapes are keyed."""
    if isinstance(item, Use):
        return [(item.block, item.id)]
    if not isinstance(item, Stack):
        return []
    kinds = item.kind_indices(layer_count(document, item))
    found = []
    for first, last, kind in layer_runs(kinds):
        span = f"{first}" if first == last else f"{first}-{last}"
        found.append((item.kinds[kind].block, f"{item.id}.{span}"))
    return found


def run_time_places(plan: Plan, name: str, inputs: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, int]]:
    """Where batch and sequence can be read: in the first two dimensions of one input, if there is such a one."""
    block, stream = plan.document.blocks[name], ("batch", "seq")
    if not inputs and block.inputs:  # no shape is known: the stream is what comes first
        return {size: (block.inputs[0], index) for index, size in enumerate(stream)}
    found: dict[str, tuple[str, int]] = {}
    for port, shape in inputs.items():
        if shape[:1] == ("batch",) and shape[1:2] in (("seq",), ("source",)):
            for index, size in enumerate(shape[:2]):
                found.setdefault(size, (port, index))
    if found:
        return found
    known = {
        size: (port, shape.index(size))
        for size in RUN_TIME
        for port, shape in reversed(tuple(inputs.items()))
        if size in shape
    }
    for port in (port for port, shape in inputs.items() if len(shape) >= 3 and not known):  # no dimension has a name
        found.setdefault("batch", (port, 0))
        found.setdefault("source" if plan.sides.encoded(name, port) else "seq", (port, 1))
    return known or found


def patch_places(block: Block, inputs: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, int]]:
    """The same for patches of images, whose number is no size of its own: it is the stream's second dimension."""
    stream = next((port for port, shape in inputs.items() if len(shape) == 3), None)
    if stream is not None:
        return {name: (stream, index) for index, name in enumerate(("batch", "seq"))}
    return {"batch": (next(iter(inputs)), 0)} if inputs else {}


def module_source(plan: Plan) -> str:
    """The text of `model.py`, before formatting."""
    towers, root = {tower.block for tower in plan.towers}, plan.document.root
    ops = {item.op for name in plan.order for item in plan.document.blocks[name].nodes if isinstance(item, Node)}
    parts = [config_class(plan)]
    classes = []
    for name in plan.order:
        if name == root:
            classes.append(HeadWriter(plan, name).source())
        elif name in towers:
            classes += [] if towers & set(plan.order[: plan.order.index(name)]) else [pretrained_class(plan)]
            classes.append(BackboneWriter(plan, name).source())
        elif name == plan.trunk:
            classes.append(TrunkWriter(plan, name).source())
        elif plan.sides.is_across(name):
            classes.append(AcrossWriter(plan, name).source())
        else:
            classes.append(BlockWriter(plan, name).source())
    body = "\n\n".join(classes)
    own = [item for name in plan.order for item in plan.items(name) if isinstance(item, Node)]
    small = leaves.class_texts(own, plan.names.classes) + rotations.texts(plan)
    if "attending_as(" in body:
        parts.append(ATTENDING_AS.format(config=plan.names.config))
    if any("initialise_as(" in text for text in (body, *small)):
        parts.append(mixture.INITIALISE_AS)
    if any("with_values(" in text for text in (body, *small)):
        parts.append(
            WITH_VALUES.format(
                config=plan.names.config, heterogeneous=HETEROGENEOUS if plan.turns_unlike or "general." in body else ""
            )
        )
    parts += small
    if "padded_positions" in ops:
        parts.append(PADDED_POSITIONS)
    if "attention" in ops:
        parts.append(eager_attention(plan))
    if "relative_bias" in ops:
        parts.append(RELATIVE_BIAS)
    if "alibi" in ops:
        parts.append(alibi_function(plan))
    parts += mixture.classes(plan)
    body += renaming(plan)
    text = "\n\n".join([*parts, body])
    known = "\n".join([imports(text), *module_imports(plan)])
    return f'"""{title(plan.document)}: written by Canvas."""\n\n{known}\n\n\n{text}'


HEADING = """

# What shares a tensor in the original may lie in its checkpoint under the other's name.
"""

RENAMING = """\
register_checkpoint_conversion_mapping({model}, {renamings}, overwrite=True)
"""


def renaming(plan: Plan) -> str:
    """What tells transformers of keys of the original's checkpoint that are others here; nothing where there are none."""
    if not plan.document.config.get("tie_word_embeddings"):
        return ""
    keys = parameter_keys(plan.document)
    pairs = {
        old: new
        for old, new in plan.document.origin.renamed.items()
        if new in keys and not any(key.startswith(old) for key in keys) and re.fullmatch(r"\w+(\.\w+)*", old, re.ASCII)
    }
    text = _renamings(plan.names.model, pairs)
    if plan.halves is not None and plan.trunk != plan.document.root:  # which is also loaded by itself
        text += _renamings(plan.names.of(plan.trunk), pairs)
    return HEADING + text if text else ""


def _renamings(model: str, pairs: Mapping[str, str]) -> str:
    """A call for one class."""
    made = [
        quote("WeightRenaming(old, new)", old=constant(f"^{re.escape(old)}"), new=constant(new))
        for old, new in pairs.items()
    ]
    listed = unparse(ast.List(made, ast.Load()))
    return RENAMING.format(model=unparse(constant(model)), renamings=listed) if pairs else ""


IMPORTS = (
    ("copy.copy", "import copy"),
    ("math.", "import math"),
    ("Any", "from typing import Any"),
    ("", ""),
    ("torch.", "import torch"),
    ("strict", "from huggingface_hub.dataclasses import strict"),
    ("Tensor", "from torch import Tensor"),
    ("nn.", "from torch import nn"),
    ("init.", "from transformers import initialization as init"),
    ("ACT2FN", "from transformers.activations import ACT2FN"),
    ("Cache", "from transformers import Cache, DynamicCache"),
    ("EncoderDecoderCache", "from transformers import EncoderDecoderCache"),
    ("PretrainedConfig", "from transformers import PretrainedConfig"),
    (
        "register_checkpoint_conversion_mapping",
        "from transformers.conversion_mapping import register_checkpoint_conversion_mapping",
    ),
    ("WeightRenaming", "from transformers.core_model_loading import WeightRenaming"),
    ("GenerationMixin", "from transformers import GenerationMixin"),
    ("use_experts_implementation", "from transformers.integrations import use_experts_implementation"),
    ("create_causal_mask", "from transformers.masking_utils import create_causal_mask"),
    ("create_chunked_causal_mask", "from transformers.masking_utils import create_chunked_causal_mask"),
    ("create_sliding_window_causal_mask", "from transformers.masking_utils import create_sliding_window_causal_mask"),
    ("sliding_window_overlay", "from transformers.masking_utils import sliding_window_overlay"),
    ("chunked_overlay", "from transformers.masking_utils import chunked_overlay"),
    ("create_bidirectional_mask", "from transformers.masking_utils import create_bidirectional_mask"),
    (
        "sliding_window_bidirectional_overlay",
        "from transformers.masking_utils import sliding_window_bidirectional_overlay",
    ),
    ("create_recurrent_attention_mask", "from transformers.masking_utils import create_recurrent_attention_mask"),
    ("GradientCheckpointingLayer", "from transformers import GradientCheckpointingLayer"),
    ("BaseModelOutputWithPast", "from transformers.modeling_outputs import BaseModelOutputWithPast"),
    ("MoeModelOutputWithPast", "from transformers.modeling_outputs import MoeModelOutputWithPast"),
    ("MoeCausalLMOutputWithPast", "from transformers.modeling_outputs import MoeCausalLMOutputWithPast"),
    (
        "load_balancing_loss_func(",
        "from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func",
    ),
    ("BaseModelOutput(", "from transformers.modeling_outputs import BaseModelOutput"),
    (
        "BaseModelOutputWithPastAndCrossAttentions",
        "from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions",
    ),
    ("Seq2SeqModelOutput", "from transformers.modeling_outputs import Seq2SeqModelOutput"),
    *((task.gives, f"from transformers.modeling_outputs import {task.gives}") for task in TASKS.values()),
    ("ROPE_INIT_FUNCTIONS", "from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS"),
    ("RopeParameters", "from transformers.modeling_rope_utils import RopeParameters"),
    ("dynamic_rope_update", "from transformers.modeling_rope_utils import dynamic_rope_update"),
    ("ALL_ATTENTION_FUNCTIONS", "from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS"),
    ("PreTrainedModel", "from transformers.modeling_utils import PreTrainedModel"),
    ("= BloomGelu()", "from transformers.models.bloom.modeling_bloom import BloomGelu"),
    ("Conv1D(", "from transformers.pytorch_utils import Conv1D"),
    ("can_return_tuple", "from transformers.utils import can_return_tuple"),
    ("merge_with_config_defaults", "from transformers.utils.generic import merge_with_config_defaults"),
    ("capture_outputs", "from transformers.utils.output_capturing import capture_outputs"),
    ("OutputRecorder(", "from transformers.utils.output_capturing import OutputRecorder"),
)
"""What a module may need: a name to look for in its text, and the line that brings it. Ruff merges and sorts them."""


def module_imports(plan: Plan) -> list[str]:
    """The lines that bring modules of transformers which are kept whole, and their configs."""
    sources = {complete(node)["source"] for node in leaves.nodes(plan, MODULE)}
    lines = []
    for source in sorted(sources):
        folder, _, name = source.partition(".")
        package = f"from transformers.models.{folder}"
        config = config_of(source)
        lines.append(f"{package}.configuration_{folder} import {config.__name__}")
        lines.append(f"{package}.modeling_{folder} import {name}")
        if owner := initialiser(source)[0]:
            lines.append(f"{package}.modeling_{folder} import {owner}")
    return lines


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
    for command in (["check", "--select", "I,F401,UP034", "--fix-only"], ["format"]):
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
    values: dict[str, Any] = {
        "model_type": model_type(plan),
        "architectures": [names.model],
        "auto_map": auto_map(plan),
    }
    for name, value in {**document.sizes, **document.config}.items():
        if not is_expression(value):
            values[name] = thaw(value)
    count = layer_count(document, plan.backbone[1])
    values["num_hidden_layers"] = count
    kinds = [plan.backbone[1].kinds[index] for index in plan.backbone[1].kind_indices(count)]
    sizes = {
        str(layer): {name: resolve(value, document.environment) for name, value in kind.sizes.items()}
        for layer, kind in enumerate(kinds)
        if kind.sizes
    }
    if sizes:
        values["per_layer_config"] = sizes
    if plan.lists_layers:
        values["layer_types"] = [layer_type(plan, kind.block) for kind in kinds]
    if plan.main.several_classes:
        values["layer_kinds"] = [kind.block for kind in kinds]
    if plan.halves is not None:
        stack = plan.towers[0].stack
        values["is_encoder_decoder"] = True
        if plan.towers[0].several_classes:
            own = stack.kind_indices(layer_count(document, stack))
            values[plan.towers[0].kinds_field] = [stack.kinds[index].block for index in own]
    return values


def layer_type(plan: Plan, block: str) -> str:
    """What transformers calls a layer by the cache that it needs; without a cache, by what it sees."""
    if not plan.task.generates:
        return "sliding_attention" if block in plan.windowed else "full_attention"
    if not (plan.stateful or plan.whole):
        return plan.cache_type if block in plan.windowed else "full_attention"
    indexed = plan.where(lambda node: node.op == MODULE and keeps_index(complete(node)["source"]))
    if block in indexed:
        return "indexed_attention"
    attends = block in plan.holding("attention")
    if block in plan.stateful:
        return "hybrid" if attends else "linear_attention"
    if block in plan.without_attention:
        return "moe"  # which has a place that stays empty
    return "full_attention"


GENERATED = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""Tokens that say how generation starts and ends."""


def generation_json(document: Document) -> dict[str, Any]:
    ids = {name: thaw(document.config.get(name)) for name in GENERATED}
    return {"_from_model_config": True, **{name: value for name, value in ids.items() if value is not None}}


__all__ = ["Source", "emit"]
