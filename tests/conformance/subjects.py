"""What conformance is checked of: small emitted models, each beside the class of transformers that it comes from."""

import copy
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from torch import Tensor

from canvas_rt import Document, apply, emit, open_zoo
from canvas_rt.codegen.plan import Plan
from canvas_rt.edits import DeleteLayers
from canvas_rt.importer.factory import StockFactory
from canvas_rt.importer.small import small_config
from canvas_rt.importer.zoo import zoo_models
from canvas_rt.ir.document import Stack
from canvas_rt.ir.files import structure
from canvas_rt.ir.frozen import thaw
from canvas_rt.ir.graph import layer_count, walk
from canvas_rt.physics.shapes import check
from canvas_rt.verifier.shrink import _config, small_form

SPREAD = 0.2
"""Weights far enough apart for choices of tokens and experts to be clear."""

WINDOW = 8
"""Fewer tokens than a sequence has."""


@dataclass
class Subject:
    """A folder that transformers loads, and what is known of the model in it."""

    folder: Path
    auto: str
    """The class of transformers that loads it."""

    document: Document | None = None
    """None for a class of transformers itself."""

    twin: "Subject | None" = None
    """The class of transformers with the same weights, where it computes the same."""

    made: list[ModuleType] = field(default_factory=list)

    @property
    def auto_class(self) -> Any:
        return getattr(transformers, self.auto)

    @cached_property
    def loaded(self) -> Any:
        return self.load(self.folder)

    @property
    def config(self) -> Any:
        return copy.deepcopy(self.loaded.config)

    def model(self) -> Any:
        """The model, as loaded: no other check has changed it."""
        return copy.deepcopy(self.loaded)

    def load(self, folder: Path, **options: Any) -> Any:
        found = self.auto_class.from_pretrained(folder, trust_remote_code=self.document is not None, **options)
        return found if isinstance(found, tuple) else found.eval()

    def fresh(self, **options: Any) -> Any:
        """A model of the config alone."""
        torch.manual_seed(0)
        trusted = {"trust_remote_code": True} if self.document is not None else {}
        return self.auto_class.from_config(self.config, **trusted, **options)

    @property
    def module(self) -> ModuleType:
        """`model.py`, imported by its path as any module."""
        name = f"of_{abs(hash(self.folder))}.model"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, self.folder / "model.py")
            assert spec is not None and spec.loader is not None
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        return sys.modules[name]

    @property
    def text(self) -> Any:
        return self.config.get_text_config()

    def ids(self, batch: int = 2, length: int = 12, seed: int = 1) -> Tensor:
        """Tokens, none of them special."""
        drawn = torch.Generator().manual_seed(seed)
        return torch.randint(8, self.text.vocab_size, (batch, length), generator=drawn)


def stack_of(document: Document) -> tuple[str, Stack]:
    """The layers that give the logits, with their path."""
    wanted = Plan(document).main.stack
    return next((visit.path, visit.item) for visit in walk(document) if visit.item == wanted)  # type: ignore[return-value]


def shallow(document: Document) -> Document:
    """The first layers, as many as show each kind there is; two at least."""
    path, stack = stack_of(document)
    count = layer_count(document, stack)
    kinds = stack.kind_indices(count)
    kept = max(2, *(kinds.index(kind) + 1 for kind in set(kinds)))
    return apply(document, DeleteLayers(f"{path}.{kept}-{count - 1}")) if kept < count else document


def small(document: Document) -> Document:
    """A shallow document at small sizes, which every kernel takes; weights far enough apart."""
    given = small_config(document.origin.model_type, document.purpose)
    drawn = shallow(document)
    given.setdefault("num_key_value_heads", given["num_attention_heads"])
    given.setdefault("sliding_window", WINDOW)
    given["head_dim"] = given.get("qk_rope_head_dim", given.get("head_dim"))
    heads = {name: given[name] for name in ("num_key_value_heads", "head_dim")}
    sizes = _numbers(drawn.sizes, given) | {"num_hidden_layers": layer_count(drawn, stack_of(drawn)[1])}
    config = _config(drawn, drawn.config.with_items(_numbers(drawn.config, heads)))
    made = drawn.replace(sizes=drawn.sizes.with_items(sizes), config=config)
    if not check(made, sequence=4).ok:
        made = small_form(drawn)[1]
    config = {"initializer_range": SPREAD} if "initializer_range" in made.config else {}
    return made.replace(config=made.config.with_items(config))


def _numbers(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, int]:
    """What is an integer in both."""
    return {n: given[n] for n, own in values.items() if type(own) is int and type(given.get(n)) is int}


def of_family(family: str) -> Document:
    """A small model of a family of the zoo: nothing is traced."""
    return small(open_zoo(next(name for name, model in zoo_models().items() if model.family == family)))


def stock_model(document: Document) -> Any:
    """The class of transformers that a document was imported from, at its sizes."""
    origin = document.origin
    values: dict[str, Any] = {name: thaw(value) for name, value in document.environment.items()}
    count = layer_count(document, stack_of(document)[1])
    for name, listed in thaw(origin.patterns).items():
        values[name] = listed[:count] if isinstance(listed, list) else listed
    values["num_hidden_layers"] = count
    factory = StockFactory(origin.model_type, document.purpose)
    own = {name: value for name, value in values.items() if name not in ("dtype", "layer_kinds")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = factory.config(own)
        torch.manual_seed(0)
        return factory.model_class(config).float().eval()


def subject_of(document: Document, folder: Path, origin: Document | None = None) -> tuple[Subject, Subject]:
    """An emitted model with weights, and the stock class of its origin: the same weights where both have the same graph."""
    auto = document.purpose.auto
    same = origin is None or structure(document) == structure(origin)
    stock = stock_model(origin or document)
    spread(stock)
    stock.save_pretrained(folder / "stock")
    theirs = Subject(folder / "stock", auto)
    emit(document).write(folder / "code")
    config = transformers.AutoConfig.from_pretrained(folder / "code", trust_remote_code=True)
    torch.manual_seed(0)
    model = getattr(transformers, auto).from_config(config, trust_remote_code=True).float().eval()
    if same and origin is None:
        weights = stock.state_dict()
        model.load_state_dict({key: weights[key] for key in model.state_dict()})
    else:
        spread(model)
    model.save_pretrained(folder / "emitted")
    for name in ("document.canvas.json", "README.md"):
        (folder / "emitted" / name).write_text((folder / "code" / name).read_text())
    return Subject(folder / "emitted", auto, document, theirs if origin is None else None), theirs


@torch.no_grad()
def spread(model: Any) -> None:
    """Vectors (norms, biases, sinks) differ from what they are made as, so that none is left out unseen."""
    torch.manual_seed(7)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.dim() == 1:
            centre = 1.0 if parameter.abs().mean() > 0.5 else 0.0
            parameter.copy_(centre + torch.randn_like(parameter) * 0.1)


__all__ = ["Subject", "of_family", "small", "stock_model", "subject_of"]
