"""A document as a picture: SVG that needs no script, no font and no torch."""

from canvas_rt.pictures.svg import picture

__all__ = ["picture"]
