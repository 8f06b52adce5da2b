"""Every causal language model type of transformers: those whose configs are read, and those that do not pass, with the reason."""

import json
from pathlib import Path

from canvas_rt.importer.config import supported

UNSUPPORTED: dict[str, str] = json.loads((Path(__file__).parent / "unsupported.json").read_text())
"""What does not pass the scoreboard."""

REFUSED = ("gemma4_assistant", "gemma4_unified_assistant")
"""Of these, those whose configs are refused."""

SUPPORTED = [model_type for model_type in supported() if model_type not in REFUSED]
