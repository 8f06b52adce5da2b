"""Check a config before it is used: which fields a model type knows, what each may be, what must agree."""

from canvas_rt.importer.config.check import check_config, ignored_fields
from canvas_rt.importer.config.classes import supported, task_of
from canvas_rt.importer.config.fields import LARGEST_SIZE

__all__ = ["LARGEST_SIZE", "check_config", "ignored_fields", "supported", "task_of"]
