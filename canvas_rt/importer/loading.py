"""Hold a checkpoint's shapes against a model, as transformers would load them: renamed, merged and tied, on meta."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from canvas_rt.errors import CheckpointError
from canvas_rt.importer.checkpoint import Shape, checkpoint_shapes, unread_files
from canvas_rt.importer.trace import quiet
from canvas_rt.ir.files import shown

FEW = 8
"""How many differences a message lists."""

TEXT_MODEL = "language_model."
"""What the keys of a multimodal checkpoint say of its text model's tensors, and those of the text model alone do not."""


def compare_weights(folder: Path, model: Any, sizes: Mapping[str, Any], within: bool) -> tuple[str, tuple[str, ...]]:
    """Hold the weights of a model folder against the model: what to say of it, and the keys that are not the model's.

    `within`: whether the model is the text model of the checkpoint's, whose keys then say so.
    Raises `CheckpointError` for files that cannot be read and for tensors that are missing or of another shape.
    """
    shapes = checkpoint_shapes(folder)
    if not shapes:
        unread = ", ".join(unread_files(folder)[:3])
        return f"weights in {unread} were not compared: Canvas reads safetensors alone" if unread else "", ()
    if within:
        shapes = {key.replace(TEXT_MODEL, "", 1): shape for key, shape in shapes.items()}
    found = fit(model, shapes, ties_of(model, within))
    if within and len(found.missing) == found.count:
        return "weights were not compared: the text model's tensors go by names that are not known", ()
    hint = "Correct the config, or name the folder's config.json to import it without its weights."
    require_fit(found, sizes, path=str(folder), hint=hint)
    return f"weights: {found.count} tensors have the shapes that the config gives them", found.not_in_model


@dataclass(frozen=True, slots=True)
class Fit:
    """How a checkpoint goes with a model."""

    count: int
    """Tensors that the model has."""

    missing: Mapping[str, Shape]
    """Parameters and buffers that the checkpoint does not give, nor a tensor that they are tied to."""

    differing: Mapping[str, tuple[Shape, Shape]]
    """Tensors of another shape: the checkpoint's, the model's."""

    apart: Mapping[str, str]
    """Tensors that cannot be put together from the checkpoint's parts, and torch's reason."""

    not_in_model: tuple[str, ...]
    """Keys for which the model has no place."""

    @property
    def flaws(self) -> tuple[str, ...]:
        """Every difference, as a line of text."""
        return (
            *(
                f"{shown(k)} is {list(a)} in the checkpoint, {list(b)} by the config"
                for k, (a, b) in self.differing.items()
            ),
            *(
                f"{shown(k)} cannot be put together from the checkpoint's tensors: {why}"
                for k, why in self.apart.items()
            ),
            *(
                f"{shown(k)} is not in the checkpoint, and {list(shape)} by the config"
                for k, shape in self.missing.items()
            ),
        )


def fit(model: Any, shapes: Mapping[str, Shape], ties: Mapping[str, str]) -> Fit:
    """How tensors of these shapes go with a model of transformers that is on meta; the model is of no use afterwards.

    `ties`: tensors that may be missing, each with the one that it may share.
    transformers' own loader does it, with tensors of no content: so its renamings, its merging of experts into one
    tensor, and its prefixes are those of `from_pretrained`.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    with quiet(), _no_progress_bar():
        held = {key: torch.empty(shape, dtype=torch.bfloat16, device="meta") for key, shape in shapes.items()}
        mapping = get_model_conversion_mapping(model)
        config = LoadStateDictConfig(device_map={"": "meta"}, dtype=torch.bfloat16, weight_mapping=mapping)
        found, _ = convert_and_load_state_dict_in_model(model, held, config)
    unknown = tuple(sorted(found.unexpected_keys))  # before those are left out that transformers does not mention
    model._adjust_missing_and_unexpected_keys(found)
    broken = {key: _reason(text) for key, text in found.conversion_errors.items()}
    missing = found.missing_keys - broken.keys() - set(_tied(ties, found.missing_keys))
    return Fit(
        count=len(own),
        missing={key: own[key] for key in own if key in missing},
        differing={key: (tuple(a), tuple(b)) for key, a, b in sorted(found.mismatched_keys)},
        apart=broken,
        not_in_model=unknown,
    )


def require_fit(found: Fit, sizes: Mapping[str, Any], *, path: str, hint: str) -> None:
    """Raise `CheckpointError` with every difference, and the sizes that would explain them."""
    flaws = found.flaws
    if not flaws:
        return
    listed = "\n".join(flaws[:FEW]) + (f"\n… and {len(flaws) - FEW} more" if len(flaws) > FEW else "")
    told = " ".join([*explanations(found, sizes), hint])
    message = f"{len(flaws)} of {found.count} tensors of its weights are not what its config says\n{listed}"
    raise CheckpointError(message, path=path, hint=told)


def explanations(found: Fit, sizes: Mapping[str, Any]) -> Sequence[str]:
    """What the config may have said: sizes whose value stands where the checkpoint has another, alike everywhere."""
    pairs: Counter[tuple[int, int]] = Counter()
    for held, expected in found.differing.values():
        if len(held) == len(expected):
            pairs.update({(a, b) for a, b in zip(held, expected, strict=True) if a != b})
    told = []
    for (theirs, ours), _ in pairs.most_common(2):
        names = [name for name, value in sizes.items() if type(value) is int and value == ours]
        if names:
            told.append(f"The config's {' or '.join(names[:3])} ({ours}) would have to be {theirs}.")
    if any(key.startswith(("lm_head", "embed_out")) for key in found.missing) and not sizes.get("tie_word_embeddings"):
        told.append("tie_word_embeddings may have to be true.")
    return told


def ties_of(model: Any, within: bool) -> Mapping[str, str]:
    """Tensors that share another's storage; those of a text model also where only the whole model's config may say so."""
    ties = model._tied_weights_keys if within else model.all_tied_weights_keys
    return ties if isinstance(ties, Mapping) else {}


def _tied(ties: Mapping[str, str], missing: set[str]) -> Iterator[str]:
    """Missing tensors that share their storage with one that is there."""
    for key, source in ties.items():
        if key in missing and source not in missing:
            yield key
        if source in missing and key not in missing:
            yield source


def _reason(text: str) -> str:
    """What torch says in a traceback that the loader has kept."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if "Error: " in line and not line.startswith("Error: ")), "")
    return said.partition("Error: ")[2][:200] or "their number or their shapes do not go together"


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown_before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown_before:
            logging.enable_progress_bar()
