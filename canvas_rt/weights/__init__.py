"""Carry the origin's weights over into an edited model."""

from canvas_rt.weights.package import transplant
from canvas_rt.weights.plan import Recipe, WeightPlan, weight_plan
from canvas_rt.weights.report import WeightReport

__all__ = ["Recipe", "WeightPlan", "WeightReport", "transplant", "weight_plan"]
