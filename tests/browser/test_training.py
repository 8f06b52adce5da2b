"""The open model is taken to training: a bundle in a zip, and a run whose curve is watched, stopped and gone on with."""

import tomllib
import zipfile
from pathlib import Path

from editor import OpenTab

SIZES = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 1024,
}
SHRINK = """(sizes) => window.__canvas.useCanvas.getState().send({ type: "edit",
    edits: Object.entries(sizes).map(([name, value]) => ({ kind: "set_size", path: "", name, value })) })"""
END = "() => /^(Finished|Stopped|Died|Cannot)/.test(document.querySelector('#training-verdict textarea').value)"
GOING = """(reached) => {
    const found = /^Step (\\d+)/.exec(document.querySelector('#training-verdict textarea').value);
    return found && Number(found[1]) > reached;
}"""
STEPS = 4000


def test_a_model_is_exported_and_trained_in_the_page(tab: OpenTab, tmp_path: Path) -> None:
    one = tab()
    page = one.page
    page.evaluate(SHRINK, SIZES)
    one.settled()
    one.tab("Training")
    page.locator("#training-steps textarea").fill(str(STEPS))
    page.locator("#training-sequence textarea").fill("64")
    page.locator("#training-export").click()
    told = page.locator("#training-told textarea")
    page.wait_for_function(
        "() => /^(About|Cannot)/.test(document.querySelector('#training-told textarea').value)", timeout=120_000
    )
    assert "unigram entropy" in told.input_value() and "steps 4000: as you said" in told.input_value()
    with page.expect_download() as waiting:
        page.locator("#training-download").click()
    waiting.value.save_as(tmp_path / "bundle.zip")
    with zipfile.ZipFile(tmp_path / "bundle.zip") as archive:
        settings = next(name for name in archive.namelist() if name.endswith("/settings.toml"))
        assert tomllib.loads(archive.read(settings).decode())["run"]["steps"] == STEPS

    verdict = page.locator("#training-verdict textarea")
    reached = 0
    for _ in range(2):  # begun, and gone on with
        page.locator("#training-start").click()
        page.wait_for_function(GOING, arg=reached, timeout=180_000)
        page.locator("#training-stop").click()
        page.wait_for_function(END, timeout=120_000)
        assert verdict.input_value().startswith("Stopped"), verdict.input_value()
        page.locator("#training-curves .main-svg").first.wait_for()
        reached = int(verdict.input_value().partition("after step ")[2].partition(":")[0])
    assert reached < STEPS
