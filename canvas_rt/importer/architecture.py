"""Import an architecture: trace it small at several sizes, recognise, express in symbols, then bind the real sizes."""

import threading
from collections.abc import Collection, Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from canvas_rt.errors import CanvasError, UnsupportedModelError
from canvas_rt.importer.assembly import assemble, unused_keys
from canvas_rt.importer.build import Builder
from canvas_rt.importer.factory import Factory, field_values
from canvas_rt.importer.flags import Flags
from canvas_rt.importer.links import reads_when_run
from canvas_rt.importer.models import Models
from canvas_rt.importer.padding import hides_padding, is_told_of_padding
from canvas_rt.importer.probes import inputs_of
from canvas_rt.importer.recognition.recogniser import Recogniser
from canvas_rt.importer.recognition.traced import Traced
from canvas_rt.importer.report import ImportReport
from canvas_rt.importer.stateful import own_cache, stray_state
from canvas_rt.importer.trace import TraceError, length_of, register_functions, trace
from canvas_rt.importer.whole import keepable_within
from canvas_rt.ir.document import Document, Node, Stack
from canvas_rt.ir.graph import own_names, walk

AT_RUN_TIME = ("use_cache", "bos_token_id", "eos_token_id", "initializer_range", "dtype", "tie_word_embeddings")
"""Fields that act when a model is made, run or saved, not in its graph."""


_one_at_a_time = threading.RLock()
"""A trace sets what holds for the whole process: torch's default dtype, its dispatch, what transformers calls for masks."""


class ArchitectureImport:
    """One import at work."""

    def __init__(self, factory: Factory, raw: Mapping[str, Any], name: str, pinned: Collection[str] = ()) -> None:
        register_functions()
        self.models = Models(factory, raw, name, pinned)
        self.name = name
        self.task = factory.task
        self.config = self.models.config
        self.values = self.models.values
        self.structural: list[str] = []
        self.whole_classes: list[type] = []
        """Classes of modules that no trace can follow: they are kept whole."""
        self.at_fault: type | None = None
        """The class of the module in which the last trace failed, if it can be kept whole."""
        self.effective: set[str] = set()

    def original(self) -> nn.Module:
        """The model at its real sizes with all its layers, on meta. Raises `ConfigError` where none can be made."""
        return self.models.whole()

    def read(self, values: Mapping[str, Any], overrides: Mapping[int, Mapping[str, Any]], probe: int) -> Traced:
        model = self.models.small(values, overrides)
        takes, task = getattr(model, "main_input_name", None), self.task
        if takes != task.takes:
            reason = f"its class takes {takes}, where {task.words} takes {task.takes}"
            raise UnsupportedModelError(reason, path=self.name)
        if (found := own_cache(model) or stray_state(model)) is not None:
            raise UnsupportedModelError(found, path=self.name)
        kept = self.models.cut_to_kinds(model)
        batch, sequence, source = inputs_of(probe)
        config = {
            **field_values(model.config, task),
            **{name: values[name] for name in self.models.overwritten if name in values},
        }
        indices = {path: kept[path][0] for path in kept}
        kept_whole = self.whole_classes or self.models.factory.kept_whole(model)
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
        if traced.hands_on and not self.models.hands_on:
            self.models.look_again(hands_on=True)
            return self.read(values, overrides, probe)
        self.members = {path: members for path, (_, members) in kept.items()}
        return traced

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
            changed = self.models.probes(self.runs)
            if changed == self.models.assignments:
                raise
        self.models.look_again(assignments=changed)
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
                elif self.models.keep_count or not self.counts_layers:
                    raise
                else:
                    self.models.keep_count = True

    @property
    def counts_layers(self) -> bool:
        """Whether what stands outside the layers looks up how many they are."""
        return reads_when_run(self.models.small(self.models.assignments[0], {}, device="meta"), "num_hidden_layers")

    def runs(self, assignment: Mapping[str, Any]) -> bool:
        """Whether a model can be made and traced at some sizes."""
        try:
            model = self.models.small(assignment, {})
            self.models.cut_to_kinds(model)
            trace(model, inputs_of(0), task=self.task)
        except Exception:  # in whatever way a class says that it cannot
            return False
        return True

    def attempt(self) -> tuple[Document, ImportReport]:
        models = self.models
        try:
            overrides = [models.probe_overrides(probe) for probe in range(len(models.assignments))]
            traces = [self.read(a, o, p) for p, (a, o) in enumerate(zip(models.assignments, overrides, strict=True))]
            members = dict(self.members)
            links = self.links(traces[0], overrides[0])
            environments = [
                {**self.values, **assignment, **models.run_time(probe)}
                for probe, assignment in enumerate(models.assignments)
            ]
            builder = Builder(
                traces,
                environments,
                overrides,
                self.values,
                models.overrides,
                lambda path: models.standing.get(path, members[path]),
                links,
                {**models.buffers, **models.shapes},
                models.patterns,
                models.trace_depth if models.keep_count else None,
                models.depth_fields,
            )
            root, blocks = builder.build()
        except TraceError as error:
            raise UnsupportedModelError(
                str(error), path=self.name, hint="This variant of the architecture cannot be imported yet."
            ) from error
        named = {"num_hidden_layers"}.union(*(own_names(item) for block in blocks.values() for item in block.nodes))
        self.effective |= named
        document = assemble(models, root, blocks, named)
        stacks = [visit.key for visit in walk(document) if isinstance(visit.item, Stack)]
        if len(stacks) > 1 + bool(self.task.decodes):
            reason = f"it goes through its stacks of layers {len(stacks)} times, and a layer has one place in the cache"
            raise UnsupportedModelError(reason, path=self.name)
        told = not self.task.of_tokens or is_told_of_padding(blocks.values())
        if not told and hides_padding(models.small(models.assignments[0], overrides[0])):
            reason = "it hides padding by functions of its own, and its graph would look at it"
            raise UnsupportedModelError(reason, path=self.name)
        return document, self.report(document, builder, unused_keys(models, document))

    def links(self, base: Traced, overrides: Mapping[int, Mapping[str, Any]]) -> dict[tuple[str, str, str], str]:
        """Settings that are a flag, an activation or an unset field of the config."""

        def make(values: Mapping[str, Any]) -> nn.Module:
            model = self.models.small(values, overrides)
            self.models.cut_to_kinds(model)
            return model

        probe = self.models.assignments[0]
        flags = Flags(base, self.values, probe, self.task, make, lambda values: self.read(values, overrides, 0))
        found = flags.links()
        self.structural = flags.structural
        self.at_fault = None  # what could not be traced there is structural
        return found

    def report(self, document: Document, builder: Builder, unused: tuple[str, ...]) -> ImportReport:
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
            unused=unused,
        )


__all__ = ["AT_RUN_TIME", "ArchitectureImport"]
