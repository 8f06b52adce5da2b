"""Import an architecture: trace it small at several sizes, recognise, express in symbols, then bind the real sizes."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from canvas_rt.errors import CanvasError, ConfigError, UnsupportedModelError
from canvas_rt.importer.build import Builder
from canvas_rt.importer.factory import Factory, make_config, own_fields
from canvas_rt.importer.recognise import Recogniser, Traced
from canvas_rt.importer.symbols import (
    alternative,
    express,
    inputs_of,
    is_probed,
    probe_assignments,
    probe_override,
)
from canvas_rt.importer.trace import TraceError, register_functions, trace
from canvas_rt.ir.document import Document, Node, Origin
from canvas_rt.ir.files import with_origin
from canvas_rt.ir.frozen import FrozenMap, freeze
from canvas_rt.ir.graph import own_names
from canvas_rt.ops.parameters import parameter_keys


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import made of a model."""

    nodes: int
    """Nodes of distinct blocks."""

    recognised: Mapping[str, int]
    """How many of them are of each op. Every node is recognised: an import that meets an unknown op stops and says so."""

    symbols: int
    """Settings expressed in config fields, or constant at every size."""

    literals: tuple[str, ...]
    """Settings that are one number at every size, and follow no field."""

    without_effect: tuple[str, ...]
    """Config fields on which neither the graph nor the weights depend."""

    structural: tuple[str, ...]
    """Config fields whose change alters the graph itself: they need a new import."""

    def to_json(self) -> dict[str, Any]:
        return {
            "nodes": self.nodes,
            "recognised": dict(self.recognised),
            "symbols": self.symbols,
            "literals": list(self.literals),
            "without_effect": list(self.without_effect),
            "structural": list(self.structural),
        }

    def __str__(self) -> str:
        ops = ", ".join(f"{count} {op}" for op, count in sorted(self.recognised.items()))
        lines = [f"{self.nodes} nodes, all recognised: {ops}", f"{self.symbols} settings follow the config's fields"]
        if self.literals:
            lines.append("the same at every size: " + ", ".join(self.literals))
        if self.without_effect:
            lines.append("fields without effect on graph or weights: " + ", ".join(self.without_effect))
        if self.structural:
            lines.append("fields that change the graph (import again to change them): " + ", ".join(self.structural))
        return "\n".join(lines)


AT_RUN_TIME = ("use_cache", "bos_token_id", "eos_token_id", "initializer_range", "dtype", "tie_word_embeddings")
"""Fields that act when a model is made, run or saved, not in its graph."""


class ArchitectureImport:
    """One import at work."""

    def __init__(self, factory: Factory, raw: Mapping[str, Any], name: str, pinned: Collection[str] = ()) -> None:
        register_functions()
        self.factory = factory
        self.raw = raw
        self.name = name
        self.config = make_config(factory, self.without_layers(raw), name)
        values = self.config.to_dict()
        self.fields = own_fields(self.config)
        self.values: dict[str, Any] = {field: values[field] for field in self.fields}
        self.overrides = {int(layer): dict(own) for layer, own in (raw.get("per_layer_config") or {}).items()}
        self.depth = int(self.values["num_hidden_layers"])
        self.assignments = probe_assignments(self.values, pinned, self.overrides.values())
        self.structural: list[str] = []
        self.effective: set[str] = set()

    @staticmethod
    def without_layers(raw: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in raw.items() if name != "per_layer_config"}

    # traces

    def probe_overrides(self, probe: int) -> dict[int, dict[str, Any]]:
        """What layers have for themselves, in a probe: unlike every size of the model at large.

        Values that were equal stay equal, so that layers alike remain alike.
        """
        unlike: dict[tuple[str, Any], Any] = {}
        result: dict[int, dict[str, Any]] = {}
        for layer, own in self.overrides.items():
            result[layer] = {}
            for field, value in own.items():
                if not is_probed(field, value):
                    result[layer][field] = value
                    continue
                ranked = probe_override(field, value, probe, self.values, self.overrides.values())
                if ranked is not None:
                    unlike[field, value] = ranked
                elif (field, value) not in unlike:
                    step = len(unlike) + 1
                    base = self.assignments[probe].get(field, 16)
                    if field == "num_key_value_heads":
                        unlike[field, value] = self.assignments[probe]["num_attention_heads"] * (step + 1)
                    else:
                        unlike[field, value] = base * (2 * step + 1) + (
                            2 * step if field != "num_attention_heads" else 0
                        )
                result[layer][field] = unlike[field, value]
        return result

    def model(self, values: Mapping[str, Any], overrides: Mapping[int, Mapping[str, Any]]) -> nn.Module:
        """A small model on the CPU, as deep as the real one where its layers may differ."""
        # Tied weights change no graph, but a trace would show one module in two places.
        untied = {"num_hidden_layers": self.trace_depth, "tie_word_embeddings": False}
        given = {**self.without_layers(self.raw), **values, **untied}
        if overrides:
            given["per_layer_config"] = {str(layer): dict(own) for layer, own in overrides.items()}
        config = make_config(self.factory, given, self.name)
        return self.factory.model(config, torch.bfloat16, "cpu")

    @property
    def trace_depth(self) -> int:
        """Layers to make for a trace: all where something is set layer by layer, else two, to see one feed the next."""
        by_layer = bool(self.overrides) or any(
            isinstance(value, list) and len(value) == self.depth and field != "eos_token_id"
            for field, value in self.raw.items()
        )
        return self.depth if by_layer else min(self.depth, 2)

    def read(self, values: Mapping[str, Any], overrides: Mapping[int, Mapping[str, Any]], probe: int) -> Traced:
        model = self.model(values, overrides)
        kept = cut_to_kinds(model)
        batch, sequence = inputs_of(probe)
        traced = Recogniser(model, trace(model, batch, sequence), {path: kept[path][0] for path in kept}).run()
        self.members = {path: members for path, (_, members) in kept.items()}
        return traced

    def run(self) -> tuple[Document, ImportReport]:
        try:
            overrides = [self.probe_overrides(probe) for probe in range(len(self.assignments))]
            traces = [self.read(a, o, p) for p, (a, o) in enumerate(zip(self.assignments, overrides, strict=True))]
            members = dict(self.members)
            links = self.links(traces[0], overrides[0])
            environments = [{**self.values, **assignment} for assignment in self.assignments]
            builder = Builder(
                traces,
                environments,
                overrides,
                self.values,
                self.overrides,
                lambda path: self.spread(members[path]),
                links,
            )
            root, blocks = builder.build()
        except TraceError as error:
            raise UnsupportedModelError(
                str(error), path=self.name, hint="This variant of the architecture cannot be imported yet."
            ) from error
        document = self.document(root, blocks)
        self.compare_parameters(document)
        return document, self.report(document, builder)

    def spread(self, members: Sequence[int]) -> Sequence[int]:
        """The kind of every layer of the real model, from those of the model that was traced."""
        return members if len(members) == self.depth else [0] * self.depth

    def links(self, base: Traced, overrides: Mapping[int, Mapping[str, Any]]) -> dict[tuple[str, str, str], str]:
        """Settings that are a flag, an activation or an unset field of the config: change it and see what follows."""
        links: dict[tuple[str, str, str], str] = {}
        for field, value in self.values.items():
            other = alternative(field, value)
            if other is None:
                continue
            try:
                changed = self.read({**self.assignments[0], field: other}, overrides, 0)
            except (TraceError, CanvasError):
                self.structural.append(field)
                continue
            followers = followed(base, changed, other)
            if followers is None:
                self.structural.append(field)
            else:
                links.update(dict.fromkeys(followers, field))
        return links

    # the document

    def document(self, root: str, blocks: Mapping[str, Any]) -> Document:
        import transformers

        derived = self.derived()
        named = {"num_hidden_layers"}.union(*(own_names(item) for block in blocks.values() for item in block.nodes))
        sizes: dict[str, Any] = {}
        config: dict[str, Any] = {}
        for field, value in self.values.items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            if whole and field in named and not field.endswith("_token_id"):
                sizes[field] = derived.get(field, value)
            else:
                config[field] = freeze(value)
        self.effective |= named
        ties = getattr(self.model_class, "_tied_weights_keys", None) or {}
        document = Document(
            name=self.name,
            root=root,
            sizes=FrozenMap(sizes),
            config=FrozenMap(config),
            blocks=FrozenMap(dict(blocks)),
            ties=FrozenMap(dict(ties) if isinstance(ties, dict) else {}),
        )
        origin = Origin(
            source=self.name,
            model_type=str(self.config.model_type),
            architecture=self.model_class.__name__,
            versions=FrozenMap({"torch": torch.__version__, "transformers": transformers.__version__}),
        )
        return with_origin(document, origin)

    @cached_property
    def model_class(self) -> type:
        """The class of the whole model."""
        tiny = {**self.without_layers(self.raw), **self.assignments[0], "num_hidden_layers": self.trace_depth}
        return type(self.factory.model(make_config(self.factory, tiny, self.name), torch.bfloat16, "meta"))

    def derived(self) -> dict[str, str]:
        """Sizes that the config leaves open and its class works out from others, as expressions."""
        found: dict[str, str] = {}
        for field, value in self.values.items():
            if self.raw.get(field) is not None or not is_probed(field, value) or isinstance(value, float):
                continue
            try:
                seen = [self.left_open(field, assignment) for assignment in self.assignments]
            except ConfigError:
                continue  # the class has a constant for it, which these sizes do not go with
            others = [{n: v for n, v in assignment.items() if n != field} for assignment in self.assignments]
            expression = express(seen, others)
            if isinstance(expression, str):
                found[field] = expression
        return found

    def left_open(self, field: str, assignment: Mapping[str, Any]) -> Any:
        """What the config class makes of a field that is not given."""
        given = {**self.without_layers(self.raw), **assignment, "num_hidden_layers": self.trace_depth}
        given.pop(field)
        return make_config(self.factory, given, self.name).to_dict()[field]

    def compare_parameters(self, document: Document) -> None:
        """The document's parameters must be the original's at the real sizes: names and shapes, layer kind by kind."""
        given = {**self.without_layers(self.raw), "num_hidden_layers": self.trace_depth}
        if self.overrides:
            given["per_layer_config"] = self.raw["per_layer_config"]
        original = self.factory.model(make_config(self.factory, given, self.name), torch.bfloat16, "meta")
        theirs = {name: tuple(p.shape) for name, p in original.named_parameters(remove_duplicate=False)}
        small = document.replace(sizes=document.sizes.with_items({"num_hidden_layers": self.trace_depth}))
        ours = parameter_keys(small)
        if ours != theirs:
            differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
            key = differing[0]
            raise UnsupportedModelError(
                f"parameter {key} is {theirs.get(key)} in the original, {ours.get(key)} as imported", path=self.name
            )

    def report(self, document: Document, builder: Builder) -> ImportReport:
        counts: dict[str, int] = {}
        for block in document.blocks.values():
            for item in block.nodes:
                if isinstance(item, Node):
                    counts[item.op] = counts.get(item.op, 0) + 1
        known = self.effective | set(AT_RUN_TIME) | set(self.structural)
        return ImportReport(
            nodes=sum(counts.values()),
            recognised=counts,
            symbols=builder.symbols.resolved,
            literals=tuple(dict.fromkeys(builder.symbols.literal)),
            without_effect=tuple(field for field in self.values if field not in known),
            structural=tuple(self.structural),
        )


def followed(base: Traced, changed: Traced, value: Any) -> list[tuple[str, str, str]] | None:
    """The settings that became `value`; None where the graph changed in any other way."""
    if base.blocks.keys() != changed.blocks.keys():
        return None
    followers: list[tuple[str, str, str]] = []
    for name, block in base.blocks.items():
        other = changed.blocks[name]
        if len(block.nodes) != len(other.nodes) or (block.inputs, block.outputs) != (other.inputs, other.outputs):
            return None
        for before, after in zip(block.nodes, other.nodes, strict=True):
            if before == after:
                continue
            if (
                not isinstance(before, Node)
                or not isinstance(after, Node)
                or before.replace(attrs=after.attrs) != after
            ):
                return None
            for setting in before.attrs.keys() | after.attrs.keys():
                if before.attrs.get(setting) != after.attrs.get(setting):
                    if after.attrs.get(setting) != value:
                        return None
                    followers.append((name, before.id, setting))
    return followers


def cut_to_kinds(model: nn.Module) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shorten each list of layers to one layer of each kind, plus a second of the first kind, to see one feed the next.

    Gives, by the list's path, the original indices kept, and for each original layer the index that stands for it.
    """
    found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for path, module in list(model.named_modules()):
        if not isinstance(module, nn.ModuleList) or not len(module):
            continue
        first: dict[str, int] = {}
        members = []
        for index, layer in enumerate(module):
            members.append(first.setdefault(signature(layer), index))
        kept = sorted({*first.values(), *([1] if len(module) > 1 else [])})
        for position, index in enumerate(kept):
            module[position] = module[index]
        del module[len(kept) :]
        found[path] = (tuple(kept), tuple(members))
    config: Any = model.config
    if found and hasattr(config, "num_hidden_layers"):
        config.num_hidden_layers = max(len(kept) for kept, _ in found.values())
    return found


def signature(module: nn.Module) -> str:
    """All that tells one layer from another, but for its index: classes, parameter shapes, plain attributes."""
    parts: list[Any] = []
    for path, child in module.named_modules():
        plain = {
            name: value
            for name, value in sorted(vars(child).items())
            if isinstance(value, bool | int | float | str)
            and name not in ("layer_idx", "training")
            and not name.startswith("_")
        }
        shapes = {name: list(p.shape) for name, p in child.named_parameters(recurse=False)}
        parts.append([path, type(child).__name__, plain, shapes])
    return json.dumps(parts, sort_keys=True, default=str)
