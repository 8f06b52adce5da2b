"""The Space's folder is complete by itself: it starts from its own files alone, and works in a browser."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from editor import Tab, slide
from playwright.sync_api import Browser, expect

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from space import PARTS, assemble  # noqa: E402

PINS = dict(
    line.partition("#")[0].strip().split("==")
    for line in (ROOT / "space" / "requirements.txt").read_text().splitlines()
    if not line.startswith("#")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("space") / "space"
    assemble(made)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def front_matter(folder: Path) -> dict[str, object]:
    _, matter, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    found: dict[str, object] = yaml.safe_load(matter)
    return found


def test_the_folder_is_the_same_each_time_and_holds_what_runs_and_no_more(folder: Path, tmp_path: Path) -> None:
    assemble(tmp_path / "again")
    held = contents(folder)
    assert held == contents(tmp_path / "again")
    assert {name.partition("/")[0] for name in held} == {
        "app.py", "README.md", "requirements.txt", "canvas_rt", "canvas_ui",
    }  # fmt: skip
    assert {
        "canvas_ui/static/canvas.js",
        "canvas_rt/physics/hardware.toml",
        "canvas_rt/model_zoo/llama/models.json",
    } <= (held.keys())
    odd = (
        "__pycache__",
        ".pyc",
        ".ts",
        ".map",
        "test",
        "golden",
        "notebook",
        "benchmark",
        ".safetensors",
        ".bin",
        ".pt",
    )
    assert [name for name in held if any(part in name.partition("model_zoo")[0] for part in odd)] == []
    assert max(map(len, held.values())) < 10 * 2**20, "the hub takes larger files through LFS alone"
    assert all(str(ROOT).encode() not in data for data in held.values())


def test_a_folder_that_holds_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(SystemExit, match="holds something else"):
        assemble(tmp_path)
    assert (tmp_path / "precious.txt").exists()


def test_what_the_hub_is_told_is_what_the_folder_has(folder: Path) -> None:
    said = front_matter(folder)
    assert said["sdk"] == "gradio" and said["sdk_version"] == PINS["gradio"]
    assert said["python_version"] == "3.12" and (folder / str(said["app_file"])).is_file()
    assert len(str(said["short_description"])) <= 60 and said["title"] and said["tags"]


def test_every_version_is_pinned_to_what_is_tested_but_torch_to_what_zerogpu_has() -> None:
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    wanted = {line.split('"')[1].partition(">")[0] for line in (ROOT / "pyproject.toml").read_text().split("[project.opt")[0]
              .split("dependencies = [")[1].splitlines() if '"' in line}  # fmt: skip
    assert PINS.keys() == wanted
    assert {name for name, version in PINS.items() if tested[name] != version} == {"torch"}
    assert PINS["torch"] == "2.11.0"


class Space:
    """The folder, started as a Space starts it."""

    def __init__(self, folder: Path, python: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment |= {"GRADIO_SERVER_PORT": str(self.port), "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen([python, "app.py"], cwd=folder, env=environment)
        end = time.monotonic() + 240
        while True:
            assert self.process.poll() is None, "the Space ended by itself"
            assert time.monotonic() < end, "the Space did not come up"
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
                return
            except OSError:
                time.sleep(0.2)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def imported_from(folder: Path, python: str) -> list[str]:
    """Where a Python that runs in the folder finds the packages."""
    program = "import canvas_rt, canvas_ui.app; print(canvas_rt.__file__); print(canvas_ui.__file__)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def try_out(chromium: Browser, url: str, shots: Path | None = None) -> None:
    """What a visitor does: look, drag a slider, go into a layer, prove, take home."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    tab = Tab(context, url)
    tab.page.set_default_timeout(60_000)
    tab.open()
    before = tab.gauge()
    assert "VRAM" in before

    def shoot(name: str) -> None:
        if shots is not None:
            tab.page.screenshot(path=shots / f"{name}.png")

    shoot("1-open")
    slider = tab.page.get_by_test_id("field-size:intermediate_size").locator('input[type="range"]').first
    slide(tab, slider, 0.2)
    assert tab.gauge() != before
    tab.look("model.layers.0-15")
    expect(tab.card("model.layers.0-15.self_attn").first).to_be_visible()
    shoot("2-layer")
    tab.page.get_by_role("tab", name="Proof and export").click()
    tab.page.locator("#verify").click()
    verdict = tab.page.locator("#verdict textarea")
    expect(verdict).to_have_value(re.compile("^Proved"), timeout=180_000)
    shoot("3-proof")
    with tab.page.expect_download() as download:
        tab.page.locator("#download").click()
    assert download.value.suggested_filename == "llama-3.2-1b.zip" and download.value.failure() is None
    tab.page.get_by_role("tab", name="Charts").click()
    expect(tab.page.locator(".charts-host .plotly").first).to_be_visible(timeout=60_000)
    shoot("4-charts")
    assert not tab.flaws, tab.flaws
    assert {host.partition(":")[0] for host in tab.hosts} <= {"127.0.0.1"}, tab.hosts
    context.close()


def test_the_space_runs_from_its_own_files_and_works_in_a_browser(folder: Path, chromium: Browser) -> None:
    assert imported_from(folder, sys.executable) == [
        str(folder / "canvas_rt" / "__init__.py"),
        str(folder / "canvas_ui" / "__init__.py"),
    ]
    space = Space(folder, sys.executable)
    try:
        try_out(chromium, space.url)
    finally:
        space.stop()


def test_where_there_is_zerogpu_it_is_asked_for_seconds_before_torch_is_imported(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "spaces.py").write_text(
        "import sys\n"
        "assert not {'torch', 'gradio', 'transformers'} & sys.modules.keys()\n"
        "def GPU(duration):\n"
        "    assert duration == 15\n"
        "    return lambda job: lambda *arguments: ('lent', job(*arguments))\n"
    )
    program = (
        f"import sys, types; sys.path[:0] = ['.', {str(tmp_path)!r}];"
        "sys.modules['canvas_ui.public'] = types.SimpleNamespace(launch=None);"
        "import app; print(app.on_gpu(max, 1, 2))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "('lent', 2)"


@pytest.mark.slow
def test_the_space_runs_where_nothing_but_its_requirements_is_installed(
    folder: Path, chromium: Browser, tmp_path: Path
) -> None:
    """torch alone is another version than the Space's: of that one there is no small wheel for a CPU."""
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    wanted = [f"{name}=={tested[name] if name == 'torch' else version}" for name, version in PINS.items()]
    subprocess.run([venv / "bin" / "pip", "install", "--quiet", *wanted], check=True, timeout=1500)
    python = str(venv / "bin" / "python")
    assert all(str(folder) in path for path in imported_from(folder, python))
    space = Space(folder, python)
    shots = Path(os.environ.get("SPACE_SHOTS", tmp_path))
    try:
        try_out(chromium, space.url, shots)
    finally:
        space.stop()


def test_the_parts_are_those_of_the_wheel() -> None:
    said = (ROOT / "pyproject.toml").read_text()
    assert all(f'"{source}"' in said for source in PARTS if source != "space")
