"""The document and its parts."""

from canvas_rt.ir.document import Block, Document, LayerKind, Node, Origin, Run, Stack, Use
from canvas_rt.ir.files import fingerprint, load, save

__all__ = ["Block", "Document", "LayerKind", "Node", "Origin", "Run", "Stack", "Use", "fingerprint", "load", "save"]
