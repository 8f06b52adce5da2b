"""What a real run does: one optimizer step, one prompt, or one token, of a model of transformers."""

import gc
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from canvas_rt.physics.optimizers import Lion
from canvas_rt.physics.scenario import Scenario

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "mixed": torch.float32}
"""Of learned numbers."""

LEARNING_RATE = 1e-5

Say = Callable[[str], None]


def quietly(text: str) -> None:
    """Say nothing."""


class Telling:
    """Says what a run is at, after which part of the whole that is."""

    def __init__(self, say: Say) -> None:
        self.say, self.part = say, ""

    def begin(self, part: str) -> None:
        self.part = part
        self.say(part)

    def __call__(self, text: str) -> None:
        self.say(f"{self.part}: {text}" if self.part else text)


def kernel(attention: str) -> AbstractContextManager[Any]:
    """Forces a kernel of `scaled_dot_product_attention`."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backends = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "math": SDPBackend.MATH,
    }
    return sdpa_kernel(backends[attention]) if attention in backends else nullcontext()


@contextmanager
def made_in(dtype: torch.dtype, device: str) -> Iterator[None]:
    """What is made inside is made in this dtype, on this device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


# ---------------------------------------------------------------------------------------------------------------------
# What a model is given
# ---------------------------------------------------------------------------------------------------------------------


def inputs(model: Any, scenario: Scenario, device: str, tokens: int) -> dict[str, Tensor]:
    """Tokens, or images of the size that the model was made for."""
    config = model.config
    if model.main_input_name == "pixel_values":
        size = config.image_size
        sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
        shape = (scenario.batch, config.num_channels, *sides)
        return {"pixel_values": torch.randn(shape, device=device, dtype=model.dtype)}
    given = {"input_ids": drawn(config.vocab_size, (scenario.batch, tokens), device)}
    if "token_type_ids" in inspect.signature(model.forward).parameters:
        given["token_type_ids"] = torch.zeros(scenario.batch, tokens, dtype=torch.long, device=device)
    return given


def labels(model: Any, scenario: Scenario, device: str) -> Tensor:
    """One for each token, or one for each image."""
    if model.main_input_name == "pixel_values":
        return torch.zeros(scenario.batch, dtype=torch.long, device=device)
    return drawn(model.config.vocab_size, (scenario.batch, scenario.sequence), device)


def drawn(most: int, shape: tuple[int, ...], device: str) -> Tensor:
    return torch.randint(0, most, shape, device=device)


# ---------------------------------------------------------------------------------------------------------------------
# Optimizers
# ---------------------------------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adamw": (torch.optim.AdamW, {}),
    "adam": (torch.optim.Adam, {}),
    "sgd": (torch.optim.SGD, {}),
    "sgd-momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "adafactor": (torch.optim.Adafactor, {}),
}


class Both:
    """Muon for matrices, AdamW for the rest, as its authors have it. A model's order is kept."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon([p for p in parameters if p.dim() == 2]),
            torch.optim.AdamW([p for p in parameters if p.dim() != 2], foreach=False),
        ]
        self.state: dict[Any, Any] = {}

    def step(self) -> None:
        for part in self.parts:
            part.step()
            self.state |= part.state

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()


def optimizer_of(scenario: Scenario, parameters: Iterable[Tensor]) -> Any:
    """The optimizer that a scenario names, in its implementation."""
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    if scenario.optimizer == "muon":
        return Both(learned)
    if scenario.optimizer == "lion":
        return Lion(learned)
    kind, settings = KINDS[scenario.optimizer]
    chosen = scenario.chosen_implementation
    how: dict[str, Any] = {"fused": True} if chosen == "fused" else {"foreach": chosen == "foreach"}
    return kind(learned, **{"lr": LEARNING_RATE, **how, **settings})


# ---------------------------------------------------------------------------------------------------------------------
# Runs
# ---------------------------------------------------------------------------------------------------------------------


class Training:
    """A step: forward, loss, backward, update."""

    def __init__(self, model: Any, scenario: Scenario, device: str, say: Say = quietly) -> None:
        self.model, self.scenario, self.device, self.say = model, scenario, device, say
        if scenario.recompute == "full":
            enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            # Off a card the generator's state, kept for dropout that there is not, would count as memory.
            kept = {} if device == "cuda" else {"preserve_rng_state": False}
            enable({"use_reentrant": False, **kept})
        self.given = inputs(model, scenario, device, scenario.sequence)
        if model.can_generate():
            self.given["use_cache"] = False  # type: ignore[assignment]
        self.labels = labels(model, scenario, device)
        self.optimizer = optimizer_of(scenario, model.parameters())
        self.gradient_bytes = self.cache_bytes = 0

    def __call__(self) -> None:
        for _ in range(self.scenario.accumulation):
            self.backward(self.forward())
        self.update()

    def forward(self) -> Tensor:
        self.say("forward")
        with kernel(self.scenario.attention), self._cast():
            loss: Tensor = self.model(**self.given, labels=self.labels).loss
        return loss

    def backward(self, loss: Tensor) -> None:
        self.say("backward")
        with kernel(self.scenario.attention):
            loss.backward()  # type: ignore[no-untyped-call]

    def update(self) -> None:
        self.gradient_bytes = sum(p.grad.nbytes for p in self.model.parameters() if p.grad is not None)
        self.say("update")
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _cast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, torch.bfloat16) if self.scenario.dtype == "mixed" else nullcontext()

    @property
    def optimizer_bytes(self) -> int:
        """Of the moments. Steps are counted in single numbers beside them."""
        return sum(t.nbytes for t in self.states() if t.dim())

    def states(self) -> list[Tensor]:
        """What the optimizer keeps."""
        kept = (value for state in self.optimizer.state.values() for value in state.values())
        return [value for value in kept if isinstance(value, Tensor)]


class Reading:
    """Read a prompt into an empty cache; of a model that keeps none, one forward."""

    gradient_bytes = optimizer_bytes = 0

    def __init__(self, model: Any, scenario: Scenario, device: str, say: Say = quietly) -> None:
        self.model, self.scenario, self.say = model, scenario, say
        self.given = inputs(model, scenario, device, scenario.sequence)
        self.cache_bytes = 0

    def __call__(self) -> None:
        self.say("forward")
        with torch.no_grad(), kernel(self.scenario.attention):
            if self.model.can_generate():
                cache = DynamicCache(config=self.model.config)
                self.model(**self.given, past_key_values=cache, logits_to_keep=1)
                self.cache_bytes = sum(t.nbytes for t in stored(cache))
            else:
                self.model(**self.given)

    def states(self) -> list[Tensor]:
        return []


class Decoding:
    """Add a token to a cache that is filled with anything."""

    gradient_bytes = optimizer_bytes = 0

    def __init__(self, model: Any, scenario: Scenario, device: str, say: Say = quietly) -> None:
        self.model, self.scenario, self.say = model, scenario, say
        self.given = inputs(model, scenario, device, 1)
        self.cache = filled(model, scenario, device)
        self.cache_bytes = sum(t.untyped_storage().nbytes() for t in stored(self.cache))

    def __call__(self) -> None:
        self.say("forward")
        with torch.no_grad(), kernel(self.scenario.attention):
            self.model(**self.given, past_key_values=self.cache, logits_to_keep=1)

    def states(self) -> list[Tensor]:
        return list(stored(self.cache))


Run = Training | Reading | Decoding
MODES: dict[str, Callable[..., Run]] = {"train": Training, "prefill": Reading, "decode": Decoding}


def filled(model: Any, scenario: Scenario, device: str) -> DynamicCache:
    """A cache that holds as many tokens as the scenario says: one is read, and its layers are stretched.

    States that do not grow are left as one token makes them.
    """
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(**inputs(model, scenario, device, 1), past_key_values=cache, logits_to_keep=1)
    for layer in cache.layers:
        if isinstance(getattr(layer, "keys", None), Tensor):
            layer.keys, layer.values = (_stretched(layer, kept, scenario) for kept in (layer.keys, layer.values))
            if hasattr(layer, "cumulative_length"):
                layer.cumulative_length = scenario.sequence
    gc.collect()
    return cache


def _stretched(layer: Any, kept: Tensor, scenario: Scenario) -> Tensor:
    """Keys or values as many tokens leave them. Of a window, transformers keeps a view of one token less than is stored."""
    window = getattr(layer, "sliding_window", None) or scenario.sequence + 1
    tokens = min(scenario.sequence, window)
    made = torch.zeros(*kept.shape[:2], tokens, kept.shape[3], dtype=kept.dtype, device=kept.device)
    return made[:, :, -min(scenario.sequence, window - 1) :]


def stored(cache: DynamicCache) -> Iterator[Tensor]:
    """Keys and values, and the states of modules that keep some."""
    for layer in cache.layers:
        states = (getattr(layer, name, {}).values() for name in ("conv_states", "recurrent_states"))
        for kept in (getattr(layer, "keys", None), getattr(layer, "values", None), *chain(*states)):
            if isinstance(kept, Tensor):
                yield kept


def repeats(scenario: Scenario) -> int:
    """Memory is that of two training steps: the optimizer's state appears in the first."""
    return 2 if scenario.train else 1


def weight_bytes(model: nn.Module) -> int:
    """Bytes of what is learned; what is tied counts once."""
    return sum(parameter.nbytes for parameter in model.parameters())


__all__ = ["DTYPES", "MODES", "Run", "Telling", "Training", "inputs", "kernel", "made_in", "optimizer_of", "repeats"]
