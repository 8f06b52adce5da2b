"""The checks themselves, run in a process of their own on a folder that Canvas emitted."""

import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from canvas_rt.codegen.package import config_json
from canvas_rt.codegen.plan import Plan
from canvas_rt.codegen.windows import naming_window
from canvas_rt.importer.architecture import ArchitectureImport
from canvas_rt.importer.config.classes import START, model_class_name
from canvas_rt.importer.factory import ClassFactory, StockFactory
from canvas_rt.importer.probes import probe_assignments
from canvas_rt.importer.trace import quiet
from canvas_rt.ir.document import Document, Node, Stack
from canvas_rt.ir.expressions import is_expression
from canvas_rt.ir.files import fingerprint, load, read_json, structure
from canvas_rt.ir.frozen import FrozenMap, thaw
from canvas_rt.ir.graph import walk
from canvas_rt.ir.tasks import TASKS, Task
from canvas_rt.ops.compare import difference
from canvas_rt.ops.inputs import given_shape
from canvas_rt.ops.interpret import random_parameters
from canvas_rt.ops.kernels import Context
from canvas_rt.ops.parameters import frozen_keys, parameter_keys
from canvas_rt.ops.routing import routes
from canvas_rt.verifier.certificate import Certificate, Finding
from canvas_rt.verifier.emitted import load_classes
from canvas_rt.verifier.runs import Recorder, Result, fill, first_difference, largest, loss_of, recording
from canvas_rt.verifier.shrink import small_enough, small_form
from canvas_rt.weights.make import make
from canvas_rt.weights.plan import origin_environment, weight_plan

BY_LAYER = "per_layer_config"
"""What a config says of sizes that layers have for themselves."""

BATCH, SEQUENCE = 2, 40
PROMPT, GENERATED = 6, 18
CACHE_TOLERANCE = 1e-5
INTERPRETER_TOLERANCE = 1e-5
"""Relative, and only where the reference is the document run node by node: there masks may be built where the module
builds none, and branches summed in another order. Against transformers' own class the difference must be 0."""
SHRUNK_WITH_SIZES = ("pad_token_id", "bos_token_id", "eos_token_id", "attention_dropout", "rope_parameters")
BF16_TOLERANCE = 0.1
"""Relative to the largest logit: bf16 keeps 8 bits, kernels sum in other orders, and errors grow with depth."""


class Verification:
    """Everything known of one emitted folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written = load(folder / "document.canvas.json")
        self.document = self.as_emitted(self.written)
        self.raw = read_json(folder / "config.json")
        self.origin = self.document.origin
        self.pinned, self.small, self.table = small_form(self.document)
        small_enough(self.small)
        generator = torch.Generator().manual_seed(20)
        vocabulary = int(self.small.environment.get("vocab_size", 64))
        self.ids = torch.randint(min(6, vocabulary - 1), vocabulary, (BATCH, self.longest), generator=generator)
        self.labels = self.ids
        if self.task.of_tokens:
            self.input = self.ids.flip(1)[:, : self.read] if self.task.decodes else self.ids
        else:
            shape = given_shape(self.task, self.small.environment, BATCH, self.longest)
            self.input = torch.randn(shape, generator=generator)
            self.labels = torch.arange(BATCH) % int(self.small.environment.get("num_labels", 1))
        decoded = {self.task.decodes: self.ids} if self.task.decodes else {}
        self.inputs = {self.task.takes: self.input, **decoded, **self.beside()}
        self.given = {**self.inputs, **({"use_cache": False} if self.task.generates else {})}
        """What models are run with, where nothing is generated."""
        self.weights = random_parameters(seed=1)

    @staticmethod
    def as_emitted(document: Document) -> Document:
        """A document as its code says it."""
        return naming_window(document)

    @property
    def task(self) -> Task:
        """What the model is for."""
        return self.document.purpose

    def beside(self) -> dict[str, Tensor]:
        """What the model is given beside tokens: of as many kinds as it has."""
        kinds = int(self.small.environment.get("type_vocab_size", 1))
        names = [name for name in self.task.also if name in self.document.blocks[self.document.root].inputs]
        return {name: (self.ids + torch.arange(self.longest)) % max(1, kinds) for name in names}

    @property
    def longest(self) -> int:
        """Tokens of a sequence: more than the model was made for, unless it can number no more."""
        turned = any(isinstance(visit.item, Node) and visit.item.op == "rotary_embedding" for visit in walk(self.small))
        positions = int(self.small.environment.get("max_position_embeddings", SEQUENCE))
        return SEQUENCE if turned else min(SEQUENCE, positions)

    @property
    def read(self) -> int:
        """What an encoder reads of each sequence: more or less than its decoder makes."""
        return max(2, self.longest * 2 // 3)

    # models

    @cached_property
    def classes(self) -> tuple[type, type]:
        """The config class and the model class that `model.py` defines."""
        return load_classes(self.folder, self.raw)

    @cached_property
    def attentions(self) -> tuple[str, ...]:
        """The implementations of attention that both sides have; by the first, all other checks run."""
        if Plan(self.document).eager_only:
            return ("eager",)
        if not self.beside_class:
            return ("sdpa",)
        supported = getattr(StockFactory(self.origin.model_type, self.task).model_class, "_supports_sdpa", False)
        return ("sdpa", "eager") if supported else ("eager",)

    @property
    def small_values(self) -> dict[str, Any]:
        """The small document's config, as transformers takes it."""
        values = {name: thaw(value) for name, value in self.small.environment.items()}
        return {**values, **thaw(self.origin.patterns)}

    def emitted(self, document: Document, attention: str | None = None) -> nn.Module:
        """The emitted class at a document's sizes, with random weights drawn by key."""
        config_class, model_class = self.classes
        values = {
            name: value
            for name, value in config_json(Plan(document)).items()
            if name not in ("auto_map", "architectures")
        }
        values.pop("model_type", None)
        values.pop("dtype", None)
        with quiet():
            config = config_class(**values)
            config._attn_implementation = attention or self.attentions[0]
            # What is verified is the emitted code; other ways to run experts refuse the small sizes.
            config._experts_implementation = "eager"
            model: nn.Module = model_class(config).float().eval()
        return fill(model, self.weights, document.tied)

    @property
    def known(self) -> bool:
        """Whether transformers has the class that was imported: not where it was emitted, or is a user's own."""
        return self.origin.architecture in (model_class_name(self.origin.model_type, task) for task in TASKS.values())

    @property
    def stock(self) -> bool:
        """Whether the graph is still that of the architecture that was imported."""
        kinds = [
            kind
            for block in self.document.blocks.values()
            for item in block.nodes
            for kind in getattr(item, "kinds", ())
        ]
        by_layer = any(kind.sizes for kind in kinds) and BY_LAYER not in self.origin.patterns
        return self.known and structure(self.written) == self.origin.structure and not by_layer

    @property
    def beside_class(self) -> bool:
        """Whether what is proven is held against transformers' class; else against the document, run node by node."""
        return self.stock

    def original(self, document: Document, attention: str | None = None) -> nn.Module:
        """The class of transformers at a document's sizes, with the same weights."""
        model = self.transformers_model(self.original_values(document), attention)
        return fill(model, self.weights, document.tied)

    def original_values(self, document: Document) -> dict[str, Any]:
        """A document's config, as transformers takes it."""
        values: dict[str, Any] = {name: thaw(value) for name, value in document.environment.items()}
        values |= thaw(self.origin.patterns)
        if BY_LAYER in values:
            values[BY_LAYER] = config_json(Plan(document)).get(BY_LAYER)
        return values

    def transformers_model(self, values: Mapping[str, Any], attention: str | None = None) -> nn.Module:
        """What was imported, as transformers has it."""
        factory = StockFactory(self.origin.model_type, self.task)
        config = factory.config({n: v for n, v in values.items() if n != "dtype"})
        with quiet():
            made = factory.build(
                config, attn_implementation=attention or self.attentions[0], experts_implementation="eager"
            )
            model: Any = made.float().eval()
        tied: Any = (model._tied_weights_keys if getattr(config, "tie_word_embeddings", False) else None) or {}
        return fill(model, self.weights, tied)

    # runs

    def forward(self, model: Any, device: str = "cpu") -> Tensor:
        """A model's logits."""
        given = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in self.given.items()}
        logits: Tensor = model(**given).logits
        return logits

    def run(self, model: nn.Module, device: str = "cpu") -> Result:
        values: dict[str, Tensor] = {}
        with recording(model, values):
            logits = self.forward(model, device)
        torch.autograd.backward(loss_of(logits, self.labels.to(device)))
        gradients = {name: p.grad for name, p in model.named_parameters(remove_duplicate=False) if p.grad is not None}
        return Result(logits.detach(), gradients, values)

    def interpret(self, document: Document) -> Result:
        """The document run node by node."""
        leaves: dict[str, Tensor] = {}

        def parameter(key: str, shape: tuple[int, ...]) -> Tensor:
            if key not in leaves:
                leaves[key] = self.weights(key, shape).clone().requires_grad_()
            return leaves[key]

        backend: Any = self.attentions[0]
        context = Context(BATCH, self.longest, self.ids.device, backend=backend, source=self.read)
        recorder = Recorder(document, parameter, context)
        logits = recorder.run({name: self.inputs[name] for name in document.blocks[document.root].inputs})["logits"]
        torch.autograd.backward(loss_of(logits, self.labels))
        gradients = {key: leaf.grad for key, leaf in leaves.items() if leaf.grad is not None}
        gradients |= {name: gradients[source] for name, source in document.tied.items() if source in gradients}
        return Result(logits.detach(), gradients, recorder.values)

    # checks

    def structure(self) -> Finding:
        try:
            config_class, model_class = self.classes
            again, _ = ArchitectureImport(
                ClassFactory(config_class, model_class), self.raw, self.document.name, self.pinned
            ).run()
            found = self.difference_from(again)
        except Exception as error:  # whatever the emitted code does, it is a finding
            return Finding(False, f"the emitted code cannot be imported: {type(error).__name__}: {error}")
        if found:
            return Finding(False, f"the emitted code is another graph: {found}")
        nodes = sum(len(block.nodes) for block in self.document.blocks.values())
        held = f", at its own {', '.join(sorted(self.pinned))} (it holds literal numbers)" if self.pinned else ""
        return Finding(True, f"importing the emitted code gives the same document ({nodes} nodes){held}")

    def difference_from(self, again: Document) -> str:
        """What tells a graph that was imported from the document."""
        return difference(self.document, again, probe_assignments(dict(self.document.environment), self.pinned))

    def keys(self) -> Finding:
        config_class, model_class = self.classes
        with quiet(), torch.device("meta"):
            model: Any = model_class(
                config_class(**{n: v for n, v in self.raw.items() if n not in ("model_type", "auto_map")})
            )
        emitted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        expected = parameter_keys(self.document)
        if emitted != expected:
            key = sorted(k for k in emitted.keys() | expected.keys() if emitted.get(k) != expected.get(k))[0]
            return Finding(
                False, f"{key} is {expected.get(key)} in the document, {emitted.get(key)} in the emitted model"
            )
        for tied, source in self.document.tied.items():
            if model.get_parameter(tied) is not model.get_parameter(source):
                return Finding(False, f"{tied} is not tied to {source}")
        flaw = self.layers_flaw(model)
        if flaw:
            return Finding(False, flaw)
        compared = "the document's"
        if self.beside_class:
            with torch.device("meta"):
                original = self.original_on_meta()
            theirs = {name: tuple(tensor.shape) for name, tensor in original.state_dict().items()}
            if any(theirs.get(key) != shape for key, shape in emitted.items()):
                return Finding(False, f"parameters differ from those of {type(original).__name__}")
            compared = f"the document's and those of {type(original).__name__}"
        difference_after_reload = self.reload()
        saved = "saving and loading changes nothing"
        if difference_after_reload:
            return Finding(False, "logits change when the model is saved and loaded", difference_after_reload)
        return Finding(True, f"{len(emitted)} parameters are {compared}; {saved}", 0.0)

    def original_on_meta(self) -> nn.Module:
        factory = StockFactory(self.origin.model_type, self.task)
        with quiet():
            return factory.build(factory.config(self.original_values(self.document)))

    def layers_flaw(self, model: Any) -> str:
        """The silent traps of surgery: layers that never run, and layers that share a place in the cache.

        Of an encoder and a decoder they are the decoder's: an encoder runs all its layers, and keeps nothing.
        """
        stacks = [visit.key for visit in walk(self.document) if isinstance(visit.item, Stack)]
        layers: Any = model.get_submodule(stacks[-1])
        if len(layers) != model.config.num_hidden_layers:
            return f"{len(layers)} layers, but num_hidden_layers is {model.config.num_hidden_layers}: the rest would never run"
        own: list[list[Any]] = [list({getattr(m, "layer_idx", None): 0 for m in layer.modules()}) for layer in layers]
        own = [[place for place in found if place is not None] for found in own]
        places = [place for found in own for place in found]  # all that keeps something in a layer shares its place
        dense = sorted(places) == list(range(len(places)))
        as_layers = all(found in ([], [index]) for index, found in enumerate(own))
        if not (dense or as_layers) or any(len(found) > 1 for found in own):
            return f"layers take places {sorted(places)} in the cache: cached decoding would mix them up"
        return ""

    def reload(self) -> float:
        """How much logits change when the model is saved and loaded again."""
        model: Any = self.emitted(self.small)
        with tempfile.TemporaryDirectory() as folder, quiet(), torch.no_grad():
            model.save_pretrained(folder)
            own = {"attn_implementation": self.attentions[0], "experts_implementation": "eager"}
            again = type(model).from_pretrained(folder, **own).float().eval()
            for parameter in again.parameters():
                # What is read from a file may lie at odd addresses, where matrix products round in another order.
                parameter.data = parameter.data.clone()
            return largest(self.forward(model), self.forward(again))

    def numbers(self) -> tuple[Finding, Finding]:
        """Logits and gradients against the reference."""
        worst, worst_gradient, first = 0.0, 0.0, ""
        for attention in self.attentions:
            ours = self.run(self.emitted(self.small, attention))
            theirs = self.run(self.original(self.small, attention)) if self.beside_class else self.interpret(self.small)
            worst = max(worst, largest(ours.logits, theirs.logits))
            counted = parameter_keys(self.small).keys() - frozen_keys(self.small)
            missing = (ours.gradients.keys() ^ theirs.gradients.keys()) & counted
            if missing:
                return Finding(True, "", worst), Finding(
                    False, f"only one side has a gradient for {sorted(missing)[0]}"
                )
            for name, gradient in ours.gradients.items():
                reference = theirs.gradients[name]
                scale = 1.0 if self.beside_class else max(1.0, float(reference.abs().max()))
                worst_gradient = max(worst_gradient, largest(gradient, reference) / scale)
            first = first or first_difference(ours, theirs)
        exact = (
            largest(self.run(self.emitted(self.small)).logits, self.interpret(self.small).logits)
            if self.beside_class
            else 0.0
        )
        if Plan(self.document).whole:
            exact = 0.0  # node by node such a module is run with eager attention, and as if in the first layer
        if exact and not worst and not self.dynamic:
            worst, first = exact, "the document, run node by node"
        tolerance = 0.0 if self.beside_class else INTERPRETER_TOLERANCE
        told = (
            "equal to the last bit"
            if not worst
            else f"equal to {worst:.1e}"
            if worst <= tolerance
            else f"they differ first at {first}"
        )
        logits = Finding(worst <= tolerance, told, worst)
        detail = "equal to the last bit" if not worst_gradient else f"equal to {worst_gradient:.1e}"
        within = worst_gradient <= tolerance
        return logits, Finding(within, detail if within else f"they differ by {worst_gradient:.1e}", worst_gradient)

    @property
    def dynamic(self) -> bool:
        rope = self.document.environment.get("rope_parameters")
        return isinstance(rope, Mapping) and rope.get("rope_type") == "dynamic"

    @torch.no_grad()
    def decoding(self) -> Finding:
        """Whether decoding with the cache gives what decoding without it does, and `generate` the same tokens.

        With an encoder, what it reads is given once, and the tokens are the decoder's, from the one that it starts from.
        """
        if not self.task.generates:
            return Finding(None, f"does not apply: {self.task.words} generates nothing, and has no cache")
        model: Any = self.emitted(self.small)
        length = PROMPT + GENERATED
        ids = self.ids[:, :length]
        whole, cached = self.at_once(model, ids).logits, self.step_by_step(model, ids)
        worst, told = largest(cached, whole), ""
        originals = [self.original(self.small)] if self.beside_class else []
        if worst > self.close(whole):
            found = (
                self.beside_original(model, originals[0], ids, cached, whole)
                if originals
                else self.in_double(ids, worst)
            )
            if isinstance(found, Finding):
                return found
            told = found
        greedy = self.greedy(model)
        models = [("the emitted model", model), *((type(original).__name__, original) for original in originals)]
        for name, candidate in models:
            try:
                tokens = self.generate(candidate, self.prompt)
            except Exception as error:  # an original may generate from other inputs than tokens alone
                if candidate is model:
                    raise
                told = f"; {name}'s own generate refuses a prompt alone, by {type(error).__name__}"
                continue
            if candidate is not model and not torch.equal(tokens, self.greedy(candidate)):
                told = f"; {name}'s own generate is not what its forward gives, and so no reference"
                continue
            if not torch.equal(tokens, greedy):
                place = int((tokens != greedy).any(0).nonzero()[0]) if tokens.shape == greedy.shape else tokens.shape[1]
                return Finding(False, f"{name} generates another token at position {place}", worst)
        static = self.with_static_cache(model)
        if static is not None and not torch.equal(static, greedy):
            return Finding(False, "generate with a static cache gives other tokens", worst)
        return Finding(True, f"{GENERATED} tokens agree with and without the cache, and in generate{told}", worst)

    def with_static_cache(self, model: Any) -> Tensor | None:
        """What is generated with a cache of a fixed length."""
        return self.generate(model, self.prompt, cache_implementation="static")

    @staticmethod
    def close(logits: Tensor) -> float:
        """How far apart two computations of some logits may be: large ones have fewer digits behind the point."""
        return CACHE_TOLERANCE * max(1.0, float(logits.abs().max()))

    def beside_original(self, model: Any, original: Any, ids: Tensor, cached: Tensor, whole: Tensor) -> Finding | str:
        """What to say of logits that are others with the cache: whether the original's are too."""
        worst = largest(cached, whole)
        apart = f"with the cache logits differ by {worst:.1e} from those without it"
        other, name = self.step_by_step(original, ids), type(original).__name__
        between = largest(cached, other)
        # What it gives step by step is another thing, in the original too.
        if between <= self.close(whole):
            same = torch.equal(*(self.generate(candidate, self.prompt) for candidate in (model, original)))
            alike = "give the same to the last bit" if not between else f"are {between:.1e} apart"
            return Finding(same, f"{apart}, as in {name}: the two {alike}, and generate alike", between)
        theirs = largest(other, self.at_once(original, ids).logits)
        if worst > 2 * theirs or theirs > 100 * self.close(whole):
            return Finding(False, apart, worst)
        return f"; with the cache logits differ by {worst:.1e}, those of {name} by {theirs:.1e}"

    def in_double(self, ids: Tensor, worst: float) -> Finding | str:
        """What to say of logits that are others with the cache, where there is no original: whether it is but rounding."""
        model: Any = self.emitted(self.small).double()
        whole = self.at_once(model, ids).logits
        exact = largest(self.step_by_step(model, ids), whole)
        if exact > self.close(whole):
            return Finding(False, f"with the cache logits differ by {worst:.1e} from those without it", worst)
        return f"; with the cache logits differ by {worst:.1e}, and by {exact:.1e} in double precision"

    @property
    def prompt(self) -> Tensor:
        """What generation goes on from: some tokens, or the one that a decoder starts from."""
        start = self.small.environment.get(START)
        if not self.task.decodes:
            return self.ids[:, :PROMPT]
        return torch.full_like(self.ids[:, :1], int(start if start is not None else 0))

    def told(self, model: Any, tokens: Tensor) -> dict[str, Any]:
        """Tokens as a model takes them; with an encoder, beside what that made of its input."""
        from transformers.modeling_outputs import BaseModelOutput

        if not self.task.decodes:
            return {self.task.takes: tokens}
        states = model.get_encoder()(self.input)[0]  # some classes give a tuple
        return {self.task.decodes: tokens, "encoder_outputs": BaseModelOutput(last_hidden_state=states)}

    def at_once(self, model: Any, tokens: Tensor) -> Any:
        """What a model gives for some tokens without the cache."""
        return model(**self.told(model, tokens), use_cache=False)

    def step_by_step(self, model: Any, ids: Tensor) -> Tensor:
        """The logits of a prompt, and then of one token after the other, with the cache."""
        given = self.told(model, ids)
        name = self.task.decodes or self.task.takes
        step = model(**{**given, name: ids[:, :PROMPT]}, use_cache=True)
        logits = [step.logits]
        for position in range(PROMPT, ids.shape[1]):
            one = ids[:, position : position + 1]
            step = model(**{**given, name: one}, past_key_values=step.past_key_values, use_cache=True)
            logits.append(step.logits)
        return torch.cat(logits, dim=1)

    def generate(self, model: Any, prompt: Tensor, **options: Any) -> Tensor:
        for name in ("eos_token_id", "forced_eos_token_id", "forced_bos_token_id"):
            setattr(model.generation_config, name, None)  # as many tokens as asked for, none of them set
        given: Tensor = self.input if self.task.decodes else prompt
        start = {"decoder_start_token_id": int(prompt[0, 0])}
        decoded: dict[str, Any] = {self.task.decodes: prompt, **start} if self.task.decodes else {}
        tokens: Tensor = model.generate(
            given,
            max_new_tokens=GENERATED,
            do_sample=False,
            pad_token_id=0,
            attention_mask=torch.ones_like(given),
            **decoded,
            **options,
        )
        return tokens

    def greedy(self, model: Any) -> Tensor:
        """What decoding without a cache gives."""
        tokens = self.prompt
        for _ in range(GENERATED):
            following = self.at_once(model, tokens).logits[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat((tokens, following), dim=1)
        return tokens

    def gpu(self) -> Finding:
        if not torch.cuda.is_available():
            return Finding(None, "no GPU here")
        apart = self.half_precision("cuda")
        where = " for nine tokens in ten (others may be served by other experts)" if routes(self.small) else ""
        told = f"bf16 on the GPU is within {apart:.1%} of fp32 on the CPU{where} (8 bits, other kernels)"
        return Finding(apart <= BF16_TOLERANCE, told, apart)

    @torch.no_grad()
    def half_precision(self, device: str) -> float:
        """How far bf16 logits are from fp32 ones on the CPU, relative to the largest. Rotary tables stay fp32, as when loaded."""
        model = self.emitted(self.small)
        reference = self.forward(model)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
        ours = self.forward(model.to(device), device)
        apart = (ours.float().cpu() - reference).abs().amax(-1).flatten() / max(1e-6, float(reference.abs().max()))
        # Where two experts score nearly alike, 8 bits choose another: such a token tells nothing of the code.
        worst = float(apart.quantile(0.9) if routes(self.small) else apart.max())
        return worst if worst == worst else float("inf")

    def change(self) -> tuple[str, str]:
        """What became of the origin: its label, and what tells."""
        # The digest is the document's own word: it counts once the numbers are held against transformers' class.
        if self.stock and fingerprint(self.document) == self.origin.fingerprint:
            return "identical", "nothing was edited since the import"
        if not self.known:
            return "changed", "its origin is not at hand to run beside it"
        count = len(self.document.log)
        edits = f"{count} edit{'s' * (count != 1)}" if count else "edited"
        before: Any = self.transformers_model(self.origin_values())
        held: dict[str, Tensor] = before.state_dict()
        plan = weight_plan(self.small, {key: tuple(t.shape) for key, t in held.items()}, self.origin_sizes)
        with torch.no_grad():
            after: Any = self.emitted(self.small)
            own = after.state_dict()
            for recipe in plan.recipes:
                own[recipe.key].copy_(make(recipe, held.__getitem__, torch.float32))
            old, new = self.forward(before), self.forward(after)
        if old.shape == new.shape and (apart := largest(old, new)) <= 1e-6 * max(1.0, float(old.abs().max())):
            return "function-preserving", f"{edits}; run with the origin's weights, the logits differ by {apart:.1e}"
        apart_text = (
            f"logits move by {largest(old, new):.2g}"
            if old.shape == new.shape
            else f"logits are {list(new.shape)}, were {list(old.shape)}"
        )
        kept = plan.tally["copy"]
        made = sum(recipe.carried for recipe in plan.recipes) - kept
        fresh, dropped = len(plan.recipes) - kept - made, len(plan.dropped)
        return (
            "changed",
            f"{edits}; {kept} parameters keep the origin's weights,{f' {made} are made of them,' if made else ''}"
            f" {fresh} are fresh, {dropped} are gone; {apart_text}",
        )

    @property
    def origin_sizes(self) -> dict[str, Any]:
        """What names stood for when the document was imported, at the small sizes."""
        sizes = {
            name: value if is_expression(value) else self.table.get(name, {}).get(value, value)
            for name, value in self.origin.sizes.items()
        }
        return dict(origin_environment(self.document.replace(origin=self.origin.replace(sizes=FrozenMap(sizes)))))

    def origin_values(self) -> dict[str, Any]:
        """The config as it was imported, at the small sizes."""
        given = {name: value for name, value in self.origin.sizes.items() if not is_expression(value)}
        sizes = {name: self.table.get(name, {}).get(value, value) for name, value in given.items()}
        small = {name: value for name, value in self.small.config.items() if name in SHRUNK_WITH_SIZES}
        values = {name: thaw(value) for name, value in self.origin.config.items()}
        return {**values, **thaw(self.origin.patterns), **thaw(small), **sizes}

    def certificate(self, progress: Callable[[str], None] = lambda name: None) -> Certificate:
        import transformers

        progress("structure")
        structure_finding = self.structure()
        findings: dict[str, Finding] = {"structure": structure_finding}
        for name, check in {"keys": self.keys, "decoding": self.decoding, "gpu": self.gpu}.items():
            progress(name)
            findings[name] = guarded(check)
        progress("logits and gradients")
        findings["logits"], findings["gradients"] = self.guarded_numbers()
        progress("change")
        try:
            label, change = self.change()
        except Exception as error:
            label, change = "changed", f"its origin cannot be run beside it: {error}"
        reference = (
            f"transformers' {self.origin.architecture}" if self.beside_class else "the document, run node by node"
        )
        return Certificate(
            **findings,
            reference=reference,
            label=label,
            change=change,
            sizes={name: value for name, value in self.small.environment.items() if name in self.small.sizes},
            versions={"torch": torch.__version__, "transformers": transformers.__version__},
        )

    def guarded_numbers(self) -> tuple[Finding, Finding]:
        try:
            return self.numbers()
        except Exception as error:
            failed = Finding(False, f"the model does not run: {type(error).__name__}: {str(error)[:300]}")
            return failed, failed


def guarded(check: Callable[[], Finding]) -> Finding:
    """A check's finding; a model that raises has failed it."""
    try:
        return check()
    except Exception as error:
        return Finding(False, f"the model does not run: {type(error).__name__}: {str(error)[:300]}")
