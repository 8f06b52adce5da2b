"""The dry run's tab: it runs the open model, shows measured beside predicted, and stops when it is told to."""

import re
from pathlib import Path

import pytest
from editor import OpenTab, Server, Tab
from playwright.sync_api import expect


@pytest.fixture
def ready(tab: OpenTab) -> Tab:
    one = tab()
    one.tab("Dry run")
    return one


def runs(server: Server) -> int:
    """Dry runs that the server has going."""
    assert server.process is not None
    found = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            found += parent == server.process.pid and b"canvas_rt.dryrun.child" in (folder / "cmdline").read_bytes()
        except OSError:
            continue
    return found


def says(one: Tab, pattern: str) -> None:
    """Wait until the verdict begins with this, or holds it."""
    expect(one.page.locator("#dryrun-verdict textarea")).to_have_value(re.compile(pattern), timeout=90_000)


def test_measured_stands_beside_predicted(ready: Tab) -> None:
    page = ready.page
    page.locator("#dryrun-run").click()
    says(ready, r"^Ran; the peak was predicted to the byte\.")
    row = page.locator("#dryrun-table").get_by_role("row", name="parameters")
    expect(row).to_contain_text("1,235,814,400")
    expect(row).to_contain_text("exact")
    expect(page.locator("#dryrun-memory .js-plotly-plot")).to_be_visible()


def test_a_run_is_stopped(ready: Tab, server: Server) -> None:
    page = ready.page
    page.get_by_label("cpu: real numbers").check()
    page.locator("#dryrun-run").click()
    says(ready, "loading the emitted code|making the model|following")
    assert runs(server) == 1
    page.locator("#dryrun-stop").click()
    says(ready, r"^Stopped\.$")
    page.wait_for_timeout(1500)  # the process is gone, and nothing comes after that
    says(ready, r"^Stopped\.$")
    assert not runs(server)
