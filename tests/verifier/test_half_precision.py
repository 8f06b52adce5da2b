"""The bf16 comparison that the certificate makes on a GPU, made on the CPU."""

from pathlib import Path

from canvas_rt import Document, emit
from canvas_rt.verifier.checks import BF16_TOLERANCE, Verification


def test_bf16_is_near_fp32_and_not_equal_to_it(small_llama: Document, tmp_path: Path) -> None:
    emit(small_llama).write(tmp_path / "out")
    assert 0 < Verification(tmp_path / "out").half_precision("cpu") < BF16_TOLERANCE
