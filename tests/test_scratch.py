"""Temporary folders go with their process, also where it is killed."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from canvas_rt.scratch import PREFIX, Scratch, sweep

HOLDER = """
import sys, time
from canvas_rt.scratch import Scratch
scratch = Scratch()
(scratch.path / "inside").mkdir()
print(scratch.path, flush=True)
time.sleep(60)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty temporary directory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_folder_goes_when_it_is_left_or_forgotten(place: Path) -> None:
    with Scratch() as folder:
        (folder / "file").write_text("x")
        assert folder.parent == place
    kept = Scratch()
    assert list(place.iterdir()) == [kept.path]
    del kept
    assert not list(place.iterdir())


def test_what_a_killed_process_left_is_swept_and_what_one_uses_is_not(place: Path) -> None:
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLDER], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    folders = [Path(holder.stdout.readline().decode().strip()) for holder in holders if holder.stdout]
    killed, living = holders
    others = place / "canvas-of-another-program", place / f"{PREFIX}a-file"
    others[0].mkdir()
    others[1].write_text("x")
    with Scratch() as own:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert folders[0].is_dir()
        sweep()
        assert set(place.iterdir()) == {folders[1], own, *others}
    living.kill()
    for holder in holders:
        holder.communicate()


def test_a_link_in_the_temporary_directory_is_not_followed(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "file").write_text("x")
    (place / f"{PREFIX}link").symlink_to(outside)
    sweep()
    assert (outside / "file").read_text() == "x"
