"""A process of its own for what runs emitted code, or traces: begun from any thread, whatever the parent has running."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from canvas_rt.verifier.apart import ChildDied, run_apart

IMPORT = "import of a config"


@pytest.fixture
def folder(small_config: Callable[..., dict[str, Any]], tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(small_config()))
    return tmp_path


def test_no_code_of_the_parent_runs_in_the_child(folder: Path) -> None:
    # Between fork and exec it would run in a process whose other threads are dead, and crash with some libraries.
    program = (
        "import os, sys; from pathlib import Path\n"
        "os.register_at_fork(after_in_child=lambda: os._exit(9))\n"
        "from canvas_rt.verifier.apart import run_apart\n"
        f"print(sorted(run_apart({IMPORT!r}, Path(sys.argv[1]))))"
    )
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", program, folder], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stdout.strip() == "['document', 'report']", done.stderr


def test_memory_is_bounded(folder: Path) -> None:
    with pytest.raises(ChildDied) as died:
        run_apart(IMPORT, folder, most_bytes=2**26)
    assert died.value.cause in ("word", "signal")
