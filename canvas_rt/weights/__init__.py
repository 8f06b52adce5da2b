"""Carry the origin's weights over into an edited model."""

from canvas_rt.weights.package import transplant
from canvas_rt.weights.plan import Recipe, WeightPlan, weight_plan
from canvas_rt.weights.report import WeightReport
from canvas_rt.weights.shards import Stopped

__all__ = ["Recipe", "Stopped", "WeightPlan", "WeightReport", "transplant", "weight_plan"]
