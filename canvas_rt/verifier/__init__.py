"""Prove emitted source."""

from canvas_rt.verifier.certificate import Certificate, Finding
from canvas_rt.verifier.verify import verify

__all__ = ["Certificate", "Finding", "verify"]
