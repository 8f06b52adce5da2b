"""Configs from the hub come from its cache when there is no network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = (
    "from canvas_rt.importer.source import read_config\n"
    "print(read_config('some/model'))\n"
    "try: read_config('some/other')\n"
    "except Exception as error: print(error)"
)


@pytest.mark.parametrize("offline", ["1", "0"])
def test_a_config_that_was_fetched_once_is_read_without_a_network(tmp_path: Path, offline: str) -> None:
    repository = tmp_path / "hub" / "models--some--model"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    nowhere = "http://127.0.0.1:9"  # nobody answers there
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": offline, "HF_ENDPOINT": nowhere}
    ran = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.startswith(
        "({'model_type': 'llama'}, 'some/model')\n"
        "some/other: is no file here, and the hub, where it may be a model, cannot be reached\n"
    ), ran.stderr
