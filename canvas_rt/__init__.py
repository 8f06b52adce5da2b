"""Open LLM architectures as graphs, edit them, cost them, and take home code that is proven.

One function for each arrow of the design; torch is imported only when one of them needs it.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from canvas_rt.codegen import Source, emit
    from canvas_rt.diagnostics import Diagnostic
    from canvas_rt.diffing import diff
    from canvas_rt.dryrun import DryRun, dry_run
    from canvas_rt.edits import apply, inverse, parse_edits
    from canvas_rt.errors import CanvasError
    from canvas_rt.importer import open_source, open_zoo, zoo_models
    from canvas_rt.ir import Document, load, save
    from canvas_rt.physics import check, measure
    from canvas_rt.physics.hardware import hardware_names, load_hardware
    from canvas_rt.physics.scenario import Scenario
    from canvas_rt.pictures import picture
    from canvas_rt.solving import solve
    from canvas_rt.sources import import_model
    from canvas_rt.training import launch, training_bundle
    from canvas_rt.verifier.certificate import Certificate
    from canvas_rt.verifier.doors import export, push
    from canvas_rt.verifier.verify import verify
    from canvas_rt.weights import transplant

HOMES = {
    "CanvasError": "errors",
    "Certificate": "verifier",
    "Diagnostic": "diagnostics",
    "Document": "ir",
    "DryRun": "dryrun",
    "Scenario": "physics.scenario",
    "Source": "codegen",
    "apply": "edits",
    "check": "physics",
    "diff": "diffing",
    "dry_run": "dryrun",
    "emit": "codegen",
    "export": "verifier.doors",
    "hardware_names": "physics.hardware",
    "import_model": "sources",
    "inverse": "edits",
    "launch": "training",
    "load": "ir",
    "load_hardware": "physics.hardware",
    "measure": "physics",
    "open_source": "importer",
    "open_zoo": "importer",
    "parse_edits": "edits",
    "picture": "pictures",
    "push": "verifier.doors",
    "save": "ir",
    "solve": "solving",
    "training_bundle": "training",
    "transplant": "weights",
    "verify": "verifier",
    "zoo_models": "importer",
}
"""Every public name, and the module that has it."""


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"canvas_rt has no public name '{name}'")
    found = getattr(import_module(f"canvas_rt.{HOMES[name]}"), name)
    if {"IPython", "marimo"} & sys.modules.keys():
        import_module("canvas_rt.pictures")  # in a notebook a document shows itself as a picture
    return found


__all__ = [
    "CanvasError",
    "Certificate",
    "Diagnostic",
    "Document",
    "DryRun",
    "Scenario",
    "Source",
    "apply",
    "check",
    "diff",
    "dry_run",
    "emit",
    "export",
    "hardware_names",
    "import_model",
    "inverse",
    "launch",
    "load",
    "load_hardware",
    "measure",
    "open_source",
    "open_zoo",
    "parse_edits",
    "picture",
    "push",
    "save",
    "solve",
    "training_bundle",
    "transplant",
    "verify",
    "zoo_models",
]
