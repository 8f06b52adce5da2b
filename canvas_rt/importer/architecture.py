"""Import an architecture: trace it small at several sizes, recognise, express in symbols, then bind the real sizes."""

import math
import re
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from canvas_rt.errors import CanvasError, ConfigError, UnsupportedModelError
from canvas_rt.importer.build import Builder
from canvas_rt.importer.config.fields import LAYERS
from canvas_rt.importer.dissolve import own_path
from canvas_rt.importer.factory import Factory, field_values, make_config, make_model
from canvas_rt.importer.kinds import cut_to_kinds, layer_kinds, members_of, places, stacks_of
from canvas_rt.importer.links import around, followed, only_keeps, parts_of, reads_when_run, stands_for
from canvas_rt.importer.padding import hides_padding, is_told_of_padding
from canvas_rt.importer.probes import alternative, inputs_of, is_probed, probe_assignments, probe_override
from canvas_rt.importer.recognition.recogniser import Recogniser
from canvas_rt.importer.recognition.traced import Traced
from canvas_rt.importer.rotary import is_rotary
from canvas_rt.importer.stateful import own_cache, stray_state
from canvas_rt.importer.steps import Run, attends_otherwise, gives_more, is_seen, others_alike, run_of
from canvas_rt.importer.symbols import express
from canvas_rt.importer.trace import TraceError, length_of, register_functions, trace
from canvas_rt.importer.whole import keepable_within
from canvas_rt.ir.document import Document, Node, Origin, Stack
from canvas_rt.ir.files import with_origin
from canvas_rt.ir.frozen import FrozenMap, freeze
from canvas_rt.ir.graph import own_names, walk
from canvas_rt.ops.functions import RUN_TIME
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

    unused: tuple[str, ...] = ()
    """Keys of the original's checkpoint that take no part in its logits, and so are not in the document."""

    not_in_model: tuple[str, ...] = ()
    """Keys of the weights beside the config for which the architecture has no place."""

    notes: tuple[str, ...] = ()
    """What else was done, or was not: whether weights were compared, whether code ran."""

    def to_json(self) -> dict[str, Any]:
        return {
            "nodes": self.nodes,
            "recognised": dict(self.recognised),
            "symbols": self.symbols,
            "literals": list(self.literals),
            "without_effect": list(self.without_effect),
            "unused": list(self.unused),
            "not_in_model": list(self.not_in_model),
            "notes": list(self.notes),
            "structural": list(self.structural),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ImportReport":
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
        return cls(**values)

    def __str__(self) -> str:
        ops = ", ".join(f"{count} {op}" for op, count in sorted(self.recognised.items()))
        lines = [f"{self.nodes} nodes, all recognised: {ops}", f"{self.symbols} settings follow the config's fields"]
        if self.literals:
            lines.append("the same at every size: " + ", ".join(self.literals))
        if self.without_effect:
            lines.append("fields without effect on graph or weights: " + ", ".join(self.without_effect))
        if self.unused:
            lines.append(f"in the checkpoint, but no part of the computation: {_first(self.unused)}")
        if self.not_in_model:
            lines.append(f"in the checkpoint, but not in the architecture: {_first(self.not_in_model)}")
        if self.structural:
            lines.append("fields that change the graph (import again to change them): " + ", ".join(self.structural))
        return "\n".join([*lines, *self.notes])


def _first(names: Sequence[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


PATTERNS = ("layer_types",)
"""What a config lists layer by layer, and the graph says itself."""

ROPE = "rope_parameters"

AS_TIED = "tie_word_embeddings"

AT_RUN_TIME = ("use_cache", "bos_token_id", "eos_token_id", "initializer_range", "dtype", "tie_word_embeddings")
"""Fields that act when a model is made, run or saved, not in its graph."""


_one_at_a_time = threading.RLock()
"""A trace sets what holds for the whole process: torch's default dtype, its dispatch, what transformers calls for masks."""


class ArchitectureImport:
    """One import at work."""

    def __init__(self, factory: Factory, raw: Mapping[str, Any], name: str, pinned: Collection[str] = ()) -> None:
        register_functions()
        self.factory = factory
        self.raw = raw
        self.name = name
        self.config = make_config(factory, self.without_layers(raw), name)
        self.overwritten: tuple[str, ...] = ()
        """Fields that the config's class sets to something else, once it has read them."""
        self.values: dict[str, Any] = self.given()
        if "is_encoder_decoder" in self.values:
            self.values["is_encoder_decoder"] = bool(self.factory.task.decodes)  # a decoder by itself is none
        self.pinned = pinned
        # A class may work out what layers have for themselves from fields of its own.
        by_layer = raw.get("per_layer_config") or self.config.to_dict().get("per_layer_config") or {}
        self.overrides = {int(layer): dict(own) for layer, own in by_layer.items()}
        if not isinstance(self.values.get("num_hidden_layers"), int):
            raise UnsupportedModelError("its config does not say how many layers it has", path=name)
        self.depth = int(self.values["num_hidden_layers"])
        self.counts = {field: value for field, value in self.values.items() if self.is_depth(field, value)}
        """Fields that count layers: more than one where an encoder has its own."""
        self.assignments = self.probes()
        self.structural: list[str] = []
        self.whole: dict[str, tuple[int, ...]] = {}
        """For each stack, the layer that stands for each layer of the real model."""
        self.whole_classes: list[type] = []
        """Classes of modules that no trace can follow: they are kept whole."""
        self.first_run: Run | None
        """What the model of the first probe does when it runs, once a field asks."""
        self.at_fault: type | None = None
        """The class of the module in which the last trace failed, if it can be kept whole."""
        self.hands_on = False
        """Whether layers hand values to later ones, so that two of each kind must be traced."""
        self.keep_count = False
        """Whether what stands outside the layers goes by their number, so that a model with fewer must go on saying it."""
        self.effective: set[str] = set()
        self.unused: tuple[str, ...] = ()

    def given(self) -> dict[str, Any]:
        """The config's values. Where its class overwrites one that it reads first, what was given: else it would be another."""
        values, made = field_values(self.config, self.factory.task), self.config.to_dict()
        known = self.without_layers(self.raw)
        if make_config(self.factory, {**known, **values}, self.name).to_dict() == made:
            return values
        defaults = {field: getattr(type(self.config), field, None) for field in values}
        for field, given in {**defaults, **known}.items():
            if values.get(field) != given and is_probed(field, given):
                restored = {**values, field: given}
                if make_config(self.factory, {**known, **restored}, self.name).to_dict() == made:
                    self.overwritten = (field,)
                    return restored
        if known.get("tie_word_embeddings") is False and values.get("tie_word_embeddings"):
            reason = "its class ties embeddings whatever its config says, and takes that for something else"
            raise UnsupportedModelError(reason, path=f"{self.name}: tie_word_embeddings")
        return values

    def is_depth(self, field: str, value: Any) -> bool:
        """Whether a field says how many layers there are."""
        if field == "num_hidden_layers":
            return True
        whole = isinstance(value, int) and not isinstance(value, bool)
        return bool(self.factory.task.decodes) and whole and re.fullmatch(LAYERS, field) is not None

    def at_depth(self, depth: int) -> dict[str, int]:
        """The fields that count layers, where no more are to be made than so many."""
        return {field: min(count, depth) for field, count in self.counts.items()}

    def probes(self, builds: Callable[[Mapping[str, Any]], bool] | None = None) -> tuple[dict[str, Any], ...]:
        """What the config's numbers are in each probe."""
        model_type = str(self.config.model_type)
        return probe_assignments(self.values, self.pinned, self.overrides.values(), model_type, builds)

    def runs(self, assignment: Mapping[str, Any]) -> bool:
        """Whether a model can be made and traced at some sizes."""
        try:
            model = self.model(assignment, {})
            self.cut_to_kinds(model)
            trace(model, inputs_of(0), task=self.factory.task)
        except Exception:  # in whatever way a class says that it cannot
            return False
        return True

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
                if not is_probed(field, value) or self.turns_by_type:
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
                        # Not by one rule from probe to probe: nothing else must follow what layers have for themselves.
                        apart = 0 if field == "num_attention_heads" else 2 * step * (1 + probe * probe)
                        unlike[field, value] = base * (2 * step + 1) + apart
                result[layer][field] = unlike[field, value]
        return result

    @property
    def patterns(self) -> list[Sequence[str]]:
        """What the config says layer by layer, in words: `layer_types`."""
        lists = [v for _, v in sorted(self.config.to_dict().items()) if isinstance(v, list | tuple)]
        return [v for v in lists if len(v) == self.depth and all(isinstance(one, str) for one in v)]

    @property
    def turns_by_type(self) -> bool:
        """Whether rotary tables differ by type of layer: these, outside the layers, follow the widths inside."""
        return any(isinstance(value, Mapping) for value in (self.values.get("rope_parameters") or {}).values())

    def model(
        self,
        values: Mapping[str, Any],
        overrides: Mapping[int, Mapping[str, Any]],
        depth: int | None = None,
        device: str = "cpu",
    ) -> nn.Module:
        """A small model, with as many layers as show every kind."""
        depth = self.trace_depth if depth is None else depth
        # Tied weights change no graph, but a trace would show one module in two places.
        untied = {**self.at_depth(depth), **({"tie_word_embeddings": False} if self.can_untie else {})}
        given = {**self.cut(depth), **values, **untied}
        if overrides:
            given["per_layer_config"] = {str(layer): dict(own) for layer, own in overrides.items()}
        config = make_config(self.factory, given, self.name)
        return self.factory.model(config, torch.bfloat16, device)

    def cut(self, depth: int) -> dict[str, Any]:
        """The config as given, with what it lists layer by layer cut to some of them."""
        given = {
            name: value[:depth] if isinstance(value, list | tuple) and len(value) == self.depth > depth else value
            for name, value in self.without_layers(self.raw).items()
        }
        if given.get("rope_parameters") is None and given.get("rope_scaling") is None and self.values.get(ROPE):
            given[ROPE] = self.values[ROPE]  # a class may write sizes into the tables that it makes
        return given

    @cached_property
    def can_untie(self) -> bool:
        """Whether a config's word for untied embeddings holds: a class may tie them always, and read it for something else."""
        said = make_config(self.factory, {**self.without_layers(self.raw), "tie_word_embeddings": False}, self.name)
        return not getattr(said, "tie_word_embeddings", False)

    @cached_property
    def trace_depth(self) -> int:
        """Layers to make for a trace: as many as show every kind, and one feeding the next."""
        deepest: int = max(self.counts.values())
        if self.overrides or deepest <= 2:
            return deepest
        whole = layer_kinds(self.model(self.assignments[0], {}, deepest, "meta"))
        times = 2 if self.hands_on else 1
        enough = max((1 + max(places(kinds, times)) for kinds in whole.values()), default=deepest)
        enough = max(2, enough)
        few = layer_kinds(self.model(self.assignments[0], {}, enough, "meta"))
        # Patterns may be counted from the last layer.
        alike = all(few.get(path) == kinds[:enough] for path, kinds in whole.items())
        self.whole = {path: members_of(kinds) for path, kinds in whole.items()}
        return enough if alike and self.stands_at(enough) else deepest

    @cached_property
    def depth_fields(self) -> dict[str, str]:
        """For each list of layers the field that says how long it is, told by making one of them longer than the rest."""
        few = self.at_depth(2)
        if len(few) == 1:
            return {}
        plain = self.lists_of(few)
        longer = {field: self.lists_of({**few, field: few[field] + 1}) for field in few}
        return {
            path: field for field, own in longer.items() for path, length in own.items() if length != plain.get(path)
        }

    def lists_of(self, counts: Mapping[str, int]) -> dict[str, int]:
        """How long each list of layers is in a small model."""
        given = {**self.cut(max(counts.values())), **self.assignments[0], **counts}
        made = self.factory.model(make_config(self.factory, given, self.name), torch.bfloat16, "meta")
        return {path: len(layers) for path, layers in stacks_of(made).items()}

    def stands_at(self, depth: int) -> bool:
        """Whether the original can be made with fewer layers: ties by pattern may name those that are left out."""
        try:
            self.with_depth(depth)
        except Exception:  # in whatever way a class says that it cannot
            return False
        return True

    def run_time(self, probe: int) -> dict[str, int]:
        """What the sizes that a run is given are in a probe. How long a row of patches is follows from the model's own."""
        known = dict(zip(RUN_TIME, inputs_of(probe), strict=True))
        return {name: known[name] for name in self.factory.task.run_time}

    def read(self, values: Mapping[str, Any], overrides: Mapping[int, Mapping[str, Any]], probe: int) -> Traced:
        model = self.model(values, overrides)
        takes, task = getattr(model, "main_input_name", None), self.factory.task
        if takes != task.takes:
            reason = f"its class takes {takes}, where {task.words} takes {task.takes}"
            raise UnsupportedModelError(reason, path=self.name)
        if (found := own_cache(model) or stray_state(model)) is not None:
            raise UnsupportedModelError(found, path=self.name)
        kept = self.cut_to_kinds(model)
        batch, sequence, source = inputs_of(probe)
        config = {
            **field_values(model.config, task),
            **{name: values[name] for name in self.overwritten if name in values},
        }
        indices = {path: kept[path][0] for path in kept}
        kept_whole = self.whole_classes or self.factory.kept_whole(model)
        self.at_fault = None
        try:
            graphs = trace(model, (batch, sequence, source), kept_whole, task)
            length = sequence if task.of_tokens else length_of(graphs)
            given = (batch, length, source) if task.decodes else (batch, length)
            traced = Recogniser(model, graphs, indices, given, config, kept_whole, task=task).run()
        except TraceError as error:
            path = None if error.module is None else keepable_within(model, error.module, kept_whole)
            self.at_fault = None if path is None else type(model.get_submodule(path))
            raise
        if traced.hands_on and not self.hands_on:
            self.hands_on = True
            self.__dict__.pop("trace_depth", None)
            return self.read(values, overrides, probe)
        self.members = {path: members for path, (_, members) in kept.items()}
        return traced

    def cut_to_kinds(self, model: nn.Module) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Leave a model only the layers that a trace needs."""
        return cut_to_kinds(model, twice=self.hands_on, keep_count=self.keep_count)

    def run(self) -> tuple[Document, ImportReport]:
        """The document, and what was made of the model.

        Raises `UnsupportedModelError` where the architecture cannot be followed.
        """
        try:
            return self.follow_somehow()
        except CanvasError:
            raise
        except ValidationError as error:  # such as of a block with thousands of nodes
            reason = f"its graph is none that a document can hold: {error.errors()[0]['msg']}"
            raise UnsupportedModelError(reason, path=self.name) from error
        except Exception as error:  # what a class has to say against an import, it says in its own way
            reason = " ".join(str(error).split())[:300]
            raise UnsupportedModelError(
                f"it cannot be followed: {type(error).__name__}: {reason}", path=self.name
            ) from error

    def follow_somehow(self) -> tuple[Document, ImportReport]:
        """At unlike sizes; where some numbers do not go together in this architecture, those keep their values."""
        with _one_at_a_time, torch.inference_mode(False), torch.enable_grad():  # proofs look at gradients
            return self.import_it()

    def import_it(self) -> tuple[Document, ImportReport]:
        """The same, by a thread that has torch for itself."""
        try:
            return self.follow()
        except Exception:
            changed = self.probes(self.runs)
            if changed == self.assignments:
                raise
        self.assignments = changed
        self.__dict__.pop("trace_depth", None)
        return self.follow()

    def follow(self) -> tuple[Document, ImportReport]:
        """An attempt for each class of modules that no trace can follow: from then on it is kept whole."""
        while True:
            self.structural.clear()
            try:
                return self.attempt()
            except UnsupportedModelError:
                if self.at_fault is not None:
                    self.whole_classes.append(self.at_fault)
                elif self.keep_count or not self.counts_layers:
                    raise
                else:
                    self.keep_count = True

    @property
    def counts_layers(self) -> bool:
        """Whether what stands outside the layers looks up how many they are."""
        return reads_when_run(self.model(self.assignments[0], {}, device="meta"), "num_hidden_layers")

    def attempt(self) -> tuple[Document, ImportReport]:
        try:
            overrides = [self.probe_overrides(probe) for probe in range(len(self.assignments))]
            traces = [self.read(a, o, p) for p, (a, o) in enumerate(zip(self.assignments, overrides, strict=True))]
            members = dict(self.members)
            links = self.links(traces[0], overrides[0])
            environments = [
                {**self.values, **assignment, **self.run_time(probe)}
                for probe, assignment in enumerate(self.assignments)
            ]
            builder = Builder(
                traces,
                environments,
                overrides,
                self.values,
                self.overrides,
                lambda path: self.whole.get(path, members[path]),
                links,
                {**self.original_buffers, **self.original_shapes},
                self.patterns,
                self.trace_depth if self.keep_count else None,
                self.depth_fields,
            )
            root, blocks = builder.build()
        except TraceError as error:
            raise UnsupportedModelError(
                str(error), path=self.name, hint="This variant of the architecture cannot be imported yet."
            ) from error
        document = self.document(root, blocks)
        stacks = [visit.key for visit in walk(document) if isinstance(visit.item, Stack)]
        if len(stacks) > 1 + bool(self.factory.task.decodes):
            reason = f"it goes through its stacks of layers {len(stacks)} times, and a layer has one place in the cache"
            raise UnsupportedModelError(reason, path=self.name)
        told = not self.factory.task.of_tokens or is_told_of_padding(blocks.values())
        if not told and hides_padding(self.model(self.assignments[0], overrides[0])):
            reason = "it hides padding by functions of its own, and its graph would look at it"
            raise UnsupportedModelError(reason, path=self.name)
        self.compare_parameters(document)
        return document, self.report(document, builder)

    def links(self, base: Traced, overrides: Mapping[int, Mapping[str, Any]]) -> dict[tuple[str, str, str], str]:
        """Settings that are a flag, an activation or an unset field of the config: change it and see what follows."""
        links: dict[tuple[str, str, str], str] = {}
        self.__dict__.pop("first_run", None)
        before = self.model(self.assignments[0], overrides)
        self.cut_to_kinds(before)
        for field, value in self.values.items():
            other = alternative(field, value)
            if other is None:
                continue
            changed = {**self.assignments[0], field: other}
            try:
                followers = self.moved(base, before, self.model(changed, overrides), field, other)
                if followers is None:
                    followers = followed(base, self.read(changed, overrides, 0), value, other)
            except Exception:  # what a class has to say against such a value, it says in its own way
                self.at_fault = None
                self.structural.append(field)
                continue
            if followers is None:
                self.structural.append(field)
            else:
                links.update(dict.fromkeys(followers, field))
        return links

    def moved(
        self, base: Traced, before: nn.Module, after: nn.Module, field: str, other: Any
    ) -> Sequence[tuple[str, str, str]] | None:
        """What followed a field, told by the modules alone; None where only a trace can tell."""
        self.cut_to_kinds(after)
        ours, theirs = parts_of(before), parts_of(after)
        places: dict[str, list[tuple[str, str]]] = {}
        for path, node in base.leaves.items():
            places.setdefault(own_path(path), []).append(node)
        unlike = [path for path in ours if path in theirs and ours[path] != theirs[path]]
        unlike = [path for path in unlike if not only_keeps(before.get_submodule(path), after.get_submodule(path))]
        held = [next(filter(places.__contains__, around(path)), path) for path in unlike]
        by_modules = ours.keys() == theirs.keys() and not reads_when_run(before, field) and places.keys() >= {*held}
        if not by_modules and not self.does_the_same(base, before, after, field, other):
            return None
        if not theirs.keys() >= {own_path(path) for path in base.leaves}:
            return None
        old, new = (Recogniser(model, nn.Module(), {}) for model in (before, after))
        followers: list[tuple[str, str, str]] = []
        for path in dict.fromkeys(held):
            if path not in places and not by_modules:
                continue  # what it does when it runs is known to be the same
            if path not in places or is_rotary(before.get_submodule(path)):
                return None
            ends = old.leaf(path), new.leaf(path)
            if ends[0] is None or ends[1] is None or ends[0].op != ends[1].op:
                return None
            was, now = (end.attrs for end in ends if end is not None)
            moved = [name for name in was.keys() | now.keys() if was.get(name) != now.get(name)]
            if not moved and type(before.get_submodule(path)).__module__.startswith("torch.nn."):
                continue  # the rules say all that such a module computes: this is for its first values, or for training
            if not moved or any(name not in was or now.get(name) != other for name in moved):
                return None
            if not all(stands_for(self.values[field], was[name]) for name in moved):
                return None
            followers += [(*place, name) for place in places[path] for name in moved]
        return followers

    def does_the_same(self, base: Traced, before: nn.Module, after: nn.Module, field: str, other: Any) -> bool:
        """Whether a model does as before when it runs. Raises `TraceError` where that shows another graph."""
        task, given = self.factory.task, inputs_of(0)
        configs = [field_values(model.config, task) for model in (before, after)]
        if not is_seen(before, base, field) or not others_alike(configs[0], configs[1], field):
            return False
        if "first_run" not in self.__dict__:
            self.first_run = run_of(before, given, task)
        run = run_of(after, given, task) if self.first_run else None
        if self.first_run is None or run is None:
            return False
        if gives_more(self.first_run, run, base) or attends_otherwise(self.first_run, run, base, other):
            raise TraceError(f"with {field} its graph is another")
        return run == self.first_run

    # the document

    def document(self, root: str, blocks: Mapping[str, Any]) -> Document:
        import transformers

        derived = self.derived()
        named = {"num_hidden_layers"}.union(*(own_names(item) for block in blocks.values() for item in block.nodes))
        sizes: dict[str, Any] = {}
        config: dict[str, Any] = {}
        self.refuse_unknown_kinds()
        for field, value in self.values.items():
            if not is_finite(value):
                continue  # no JSON can say it; it is the class's own default
            if field == "use_cache" and not self.factory.task.generates:
                continue  # there is none
            whole = isinstance(value, int) and not isinstance(value, bool)
            if whole and field in named and not field.endswith("_token_id"):
                sizes[field] = derived.get(field, value)
            else:
                config[field] = freeze(value)
        self.effective |= named
        ties = self.ties()
        if ties and AS_TIED not in self.values and getattr(self.config, AS_TIED, False):
            config[AS_TIED] = True  # its class says so, and no field
        keys = block_keys(root, blocks, sizes, config)
        # What shares a tensor with no part of the graph has it for itself, and a checkpoint may hold it under that name.
        renamed = {ties[key]: key for key in reversed(keys) if key in ties and ties[key] not in keys}
        ties = among(ties, keys)
        document = Document(
            name=self.name,
            root=root,
            task=self.factory.task.name,
            sizes=FrozenMap(sizes),
            config=FrozenMap(config),
            blocks=FrozenMap(dict(blocks)),
            ties=FrozenMap(ties),
        )
        lists = {name: freeze(value) for name, value in self.config.to_dict().items() if name in PATTERNS}
        if self.overrides:
            lists["per_layer_config"] = freeze({str(layer): own for layer, own in self.overrides.items()})
        origin = Origin(
            patterns=FrozenMap(lists),
            renamed=FrozenMap(renamed),
            source=self.name,
            model_type=str(self.config.model_type),
            architecture=self.model_class.__name__,
            versions=FrozenMap({"torch": torch.__version__, "transformers": transformers.__version__}),
        )
        return with_origin(document, origin)

    def refuse_unknown_kinds(self) -> None:
        """What a config calls its layers, other configs must take too: emitted models have one of their own."""
        from transformers.configuration_utils import ALLOWED_MLP_LAYER_TYPES

        told = self.values.get("mlp_layer_types") or ()
        strange = next((name for name in told if name not in ALLOWED_MLP_LAYER_TYPES), None)
        if strange is not None:
            reason = f"its config calls a layer {strange!r:.60}, which no config but its own takes"
            raise UnsupportedModelError(reason, path=self.name)

    def ties(self) -> dict[str, str]:
        """Keys of parameters that share another's storage, by what the class says, and by its patterns for all its layers."""
        written = getattr(self.model_class, "_tied_weights_keys", None)
        known = dict(written) if isinstance(written, dict) else {}
        few = getattr(self.few_layers, "all_tied_weights_keys", None) or {}
        # What stands for a source may be a pattern, which no key is.
        known = {
            key: source if source in self.original_shapes else few.get(key, source) for key, source in known.items()
        }
        if few.keys() - known.keys():
            whole: Any = self.original()
            known |= whole.all_tied_weights_keys
        return known

    @cached_property
    def model_class(self) -> type:
        """The class of the whole model."""
        tiny = {**self.cut(self.trace_depth), **self.assignments[0], **self.at_depth(self.trace_depth)}
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
            others = [{n: v for n, v in table.items() if n != field} for table in (*self.assignments, self.values)]
            expression = express([*seen, value], others)
            if isinstance(expression, str):
                found[field] = expression
        return found

    def left_open(self, field: str, assignment: Mapping[str, Any]) -> Any:
        """What the config class makes of a field that is not given."""
        given = {**self.cut(self.trace_depth), **assignment, **self.at_depth(self.trace_depth)}
        given.pop(field)
        return field_values(make_config(self.factory, given, self.name), self.factory.task)[field]

    def original(self) -> nn.Module:
        """The model at its real sizes with all its layers, on meta. Raises `ConfigError` where none can be made."""
        return make_model(
            self.factory, make_config(self.factory, self.raw, self.name), torch.bfloat16, "meta", self.name
        )

    @property
    def original_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """What the original's checkpoint holds at the real sizes: of as many layers as are traced."""
        return {name: tuple(tensor.shape) for name, tensor in self.few_layers.state_dict().items()}

    @property
    def original_buffers(self) -> Mapping[str, tuple[int, ...]]:
        """What the original keeps beside that, at the real sizes."""
        return {name: tuple(tensor.shape) for name, tensor in self.few_layers.named_buffers()}

    @cached_property
    def few_layers(self) -> nn.Module:
        """The original at its real sizes, with as many layers as are traced, on meta."""
        return self.with_depth(self.trace_depth)

    def with_depth(self, depth: int) -> nn.Module:
        """The original at its real sizes, with so many layers, on meta."""
        given = {**self.cut(depth), **self.at_depth(depth)}
        if self.overrides:
            given["per_layer_config"] = {str(layer): dict(own) for layer, own in self.overrides.items()}
        return self.factory.model(make_config(self.factory, given, self.name), torch.bfloat16, "meta")

    def compare_parameters(self, document: Document) -> None:
        """The document's parameters must be the original's at the real sizes: names and shapes, layer kind by kind."""
        theirs = self.original_shapes
        counts = {name: count for name, count in self.at_depth(self.trace_depth).items() if name in document.sizes}
        small = document.replace(sizes=document.sizes.with_items(counts))
        ours = parameter_keys(small)
        self.unused = tuple(sorted(theirs.keys() - ours.keys() - document.origin.renamed.keys()))
        differing = sorted(key for key in ours if ours[key] != theirs.get(key))
        if differing:
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
            unused=self.unused,
        )


def is_finite(value: Any) -> bool:
    """Whether JSON can say a value: it has no infinite number in it."""
    if isinstance(value, Mapping):
        return "__float__" not in value and all(map(is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def among(ties: Mapping[str, str], keys: Collection[str]) -> dict[str, str]:
    """Ties between keys that there are. What shares a tensor that is none of them shares that of the first that does."""
    firsts: dict[str, str] = {}
    found: dict[str, str] = {}
    for key in (key for key in keys if key in ties):
        source = ties[key] if ties[key] in keys else firsts.setdefault(ties[key], key)
        found |= {key: source} if source != key else {}
    return found


def block_keys(root: str, blocks: Mapping[str, Any], sizes: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """The keys of what is learned by blocks that are not yet a document, in its order."""
    made = Document.model_construct(
        name=root, root=root, sizes=FrozenMap(sizes), config=FrozenMap(config), blocks=FrozenMap(dict(blocks))
    )
    return list(parameter_keys(made))
