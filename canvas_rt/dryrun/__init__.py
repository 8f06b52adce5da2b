"""Dry runs: the emitted model is run for real, in a process of its own, beside what was predicted."""

from canvas_rt.dryrun.result import DryRun, Figure
from canvas_rt.dryrun.trial import TIMEOUT_S, dry_run

__all__ = ["TIMEOUT_S", "DryRun", "Figure", "dry_run"]
