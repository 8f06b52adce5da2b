"""The process that verifies: reads one emitted folder, writes one certificate as JSON."""

import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    folder, answer = Path(sys.argv[1]), Path(sys.argv[2])
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(1)  # one order of summation
    sys.setrecursionlimit(20_000)  # a block is read from its outputs backwards, as deep as its longest chain
    from canvas_rt.errors import CanvasError
    from canvas_rt.verifier.checks import Verification

    def progress(name: str) -> None:
        print(name, flush=True)

    result: dict[str, Any]
    try:
        result = {"certificate": Verification(folder).certificate(progress).to_json()}
    except CanvasError as error:
        result = {"error": error.message, "path": error.path, "hint": error.hint}
    answer.write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
