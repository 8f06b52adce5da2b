"""The checks of a folder that holds a config alone: transformers' own class at that config, against the document."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from canvas_rt.codegen.native import parameters_flaw, told_apart
from canvas_rt.codegen.package import config_json
from canvas_rt.codegen.plan import Plan
from canvas_rt.importer.architecture import ArchitectureImport
from canvas_rt.importer.config import check_config, task_of
from canvas_rt.importer.factory import StockFactory
from canvas_rt.importer.trace import quiet
from canvas_rt.ir.document import Document
from canvas_rt.ops.parameters import parameter_keys
from canvas_rt.verifier.certificate import Finding
from canvas_rt.verifier.checks import BY_LAYER, Verification
from canvas_rt.verifier.runs import Result, fill


class NativeVerification(Verification):
    """Everything known of a native folder. What is held against the document, run node by node, is transformers' class."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fields = check_config(self.raw)
        self.factory = StockFactory(self.fields["model_type"], task_of(self.raw))

    @staticmethod
    def as_emitted(document: Document) -> Document:
        return document  # there is no code

    @property
    def beside_class(self) -> bool:
        return False  # it is what is proven, and so no reference

    @cached_property
    def classes(self) -> tuple[type, type]:
        """What transformers makes of the folder by itself."""
        import transformers
        from transformers import AutoConfig

        with quiet():
            config = AutoConfig.from_pretrained(self.folder)
            auto: Any = getattr(transformers, self.task.auto)
            with torch.device("meta"):
                return type(config), type(auto.from_config(config))

    @property
    def attentions(self) -> tuple[str, ...]:
        supported = getattr(self.classes[1], "_supports_sdpa", False)
        return ("sdpa",) if supported and super().attentions == ("sdpa",) else ("eager",)

    def emitted(self, document: Document, attention: str | None = None) -> nn.Module:
        """The folder's class at a document's sizes: all else is as the folder's config says."""
        theirs = self.original_values(document)
        small = {name: value for name, value in theirs.items() if name in {*document.sizes, *self.shrunk}}
        own = {BY_LAYER: config_json(Plan(document)).get(BY_LAYER)} if BY_LAYER in self.fields else {}
        model = self.transformers_model({**self.fields, **small, **own}, attention)
        others = dict.fromkeys(model.state_dict().keys() - parameter_keys(document).keys(), "")
        # What the class calls by two names goes by the one that the document knows.
        return fill(model, self.weights, {**document.tied, **others})

    @property
    def shrunk(self) -> frozenset[str]:
        """Config values that are others in the small document."""
        before = self.document.environment
        return frozenset(name for name, value in self.small.environment.items() if before.get(name) != value)

    def run(self, model: nn.Module, device: str = "cpu") -> Result:
        """What a model gives, and the gradients of what the document knows: the class may call a tensor by two names."""
        result = super().run(model, device)
        known = parameter_keys(self.small)
        return replace(result, gradients={name: one for name, one in result.gradients.items() if name in known})

    def structure(self) -> Finding:
        try:
            importing = ArchitectureImport(self.factory, self.fields, self.document.name, self.pinned)
            found = told_apart(self.document, importing.run()[0], self.pinned)
        except Exception as error:  # whatever transformers has to say against a config
            return Finding(False, f"the config cannot be imported: {type(error).__name__}: {error}")
        if found:
            return Finding(False, f"the config is another graph: {found}")
        nodes = sum(len(block.nodes) for block in self.document.blocks.values())
        return Finding(True, f"importing the config gives the same document ({nodes} nodes)")

    def keys(self) -> Finding:
        from transformers import AutoConfig

        name = self.classes[1].__name__
        if name != self.factory.model_class.__name__:
            return Finding(False, f"transformers makes a {name} of it, not a {self.factory.model_class.__name__}")
        with quiet(), torch.device("meta"):
            model = self.factory.build(AutoConfig.from_pretrained(self.folder))
        if flaw := parameters_flaw(self.document, model):
            return Finding(False, flaw)
        apart = self.reload()
        if apart:
            return Finding(False, "logits change when the model is saved and loaded", apart)
        told = f"the document's parameters are those of {name} at this config; saving and loading changes nothing"
        return Finding(True, told, 0.0)

    def with_static_cache(self, model: Any) -> Tensor | None:
        try:
            return super().with_static_cache(model)
        except Exception:  # a class of transformers may have none
            return None
