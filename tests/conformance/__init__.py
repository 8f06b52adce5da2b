"""The Hugging Face contract of an emitted model: see `checks`."""

from conformance import code, generating, loading, placing, running, training
from conformance.checks import CHECKS, LONG, SLOW, Verdict, verdict

__all__ = [
    "CHECKS",
    "LONG",
    "SLOW",
    "Verdict",
    "code",
    "generating",
    "loading",
    "placing",
    "running",
    "training",
    "verdict",
]
