"""A bundle that trains an edited model with accelerate or torchrun, and a local run of it."""

from canvas_rt.training.bundle import Bundle, training_bundle
from canvas_rt.training.running import Run, Step, launch
from canvas_rt.training.settings import Wishes

__all__ = ["Bundle", "Run", "Step", "Wishes", "launch", "training_bundle"]
