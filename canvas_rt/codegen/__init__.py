"""Write documents as source."""

from canvas_rt.codegen.package import Source, emit

__all__ = ["Source", "emit"]
