"""Open and import architectures."""

from canvas_rt.importer.source import import_model, open_source
from canvas_rt.importer.zoo import open_zoo, zoo_models

__all__ = ["import_model", "open_source", "open_zoo", "zoo_models"]
