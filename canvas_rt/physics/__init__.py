"""Shapes, parameters, FLOPs, memory and time of a document. Light to import: PyTorch is loaded when a verb needs it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from canvas_rt.physics.hardware import Hardware, hardware_names, load_hardware
    from canvas_rt.physics.kv_cache import kv_cache_bytes
    from canvas_rt.physics.measuring import measure
    from canvas_rt.physics.playback import timeline
    from canvas_rt.physics.report import Report
    from canvas_rt.physics.shapes import Check, ValueShape, check

_HOMES = {
    "Check": "shapes",
    "Hardware": "hardware",
    "Report": "report",
    "ValueShape": "shapes",
    "check": "shapes",
    "hardware_names": "hardware",
    "kv_cache_bytes": "kv_cache",
    "load_hardware": "hardware",
    "measure": "measuring",
    "timeline": "playback",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


__all__ = [
    "Check",
    "Hardware",
    "Report",
    "ValueShape",
    "check",
    "hardware_names",
    "kv_cache_bytes",
    "load_hardware",
    "measure",
    "timeline",
]
