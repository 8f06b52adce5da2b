"""Every model type that Canvas imports, and those few that it does not, with the reason."""

import json
from pathlib import Path

from canvas_rt.importer.config import supported

UNSUPPORTED: dict[str, str] = json.loads((Path(__file__).parent / "unsupported.json").read_text())
SUPPORTED = [model_type for model_type in supported() if model_type not in UNSUPPORTED]
