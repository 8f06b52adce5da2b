"""What recognition makes of a model: a block for each module, with numbers where a document has expressions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from canvas_rt.ir.document import Block


@dataclass(frozen=True)
class Traced:
    """A model as blocks, one for each module instance, with numbers where a document has expressions."""

    root: str
    blocks: Mapping[str, Block]
    """By the module's path with `__` for dots; the whole model is `root`."""

    classes: Mapping[str, str]
    """The class of each of those modules."""

    layers: Mapping[str, tuple[int, ...]]
    """For each stack's path, the index that its traced layers have in the whole model."""

    hands_on: bool = False
    """Whether layers hand values to later ones, beside what they carry."""

    leaves: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """For each module that is one node, by its path, the block that it stands in and its id there."""


def stand_in(path: str) -> str:
    """A module's path as a block's name, until blocks get their class's."""
    return path.replace(".", "__").replace("@", "_again_") or "root"
