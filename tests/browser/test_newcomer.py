"""The main job, as somebody does it who has never seen Canvas: from the first page to proven code in a zip."""

import zipfile
from pathlib import Path

import torch
from editor import OpenTab, field, inspected, sizes, slide, type_in
from transformers import AutoConfig, AutoModelForCausalLM

from canvas_rt import load, verify

LAYERS = "model.layers.0-15"


def test_from_the_first_page_to_proven_code(tab: OpenTab, tmp_path: Path) -> None:
    one = tab()
    page = one.page

    # She sees a Llama as a graph, and what training it takes.
    assert one.card("model.layers").is_visible()
    assert one.gauge().startswith("Training VRAM 20.4 GB / 80 GB (A100)")

    # She drags a slider; the gauge moves while it is dragged.
    seen: set[str] = set()
    page.expose_function("gaugeSaid", lambda text: seen.add(text))
    page.evaluate(
        """() => new MutationObserver(() => gaugeSaid(document.querySelector('[data-testid="gauge"]').innerText))
        .observe(document.querySelector('[data-testid="gauge"]'), { subtree: true, childList: true, characterData: true })"""
    )
    slider = field(one, "model.layers", "size:num_hidden_layers").locator('input[type="range"]')
    slide(one, slider, 0.1)
    assert len(seen) > 2, "the gauge moved only when the slider was let go"
    layers = sizes(one)["num_hidden_layers"]
    assert layers < 16
    assert not one.gauge().startswith("Training VRAM 20.4 GB")
    assert one.state("edits") == 1

    # She goes into the layers, into the MLP, and makes a projection too narrow: the wires turn red and say why.
    one.card("model.layers").dblclick(position={"x": 30, "y": 10})
    one.settled()
    inside = f"model.layers.0-{layers - 1}" if layers > 1 else "model.layers.0"
    assert one.state("path") == inside
    one.card(f"{inside}.mlp").dblclick(position={"x": 30, "y": 10})
    one.settled()
    mlp = f"{inside}.mlp"
    one.card(f"{mlp}.up_proj").click(position={"x": 30, "y": 10})
    one.settled()
    up = inspected(one, "size:intermediate_size")
    up.get_by_role("combobox").select_option("node")
    type_in(one, up, "1000")
    assert page.locator('[data-bad="true"]').count() >= 1
    assert page.get_by_test_id("bad-wire").first.is_visible()
    problem = one.state("problems[0]")
    assert "1000" in problem["message"] and "8192" in problem["message"] and problem["hint"]
    assert page.get_by_test_id("problem-count").inner_text() == "1"

    # She mends it.
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Undo").first.click()
    one.settled()
    assert page.locator('[data-bad="true"]').count() == 0
    assert one.state("problems") == []

    # She reads the code, has it proven, and takes it home.
    page.get_by_role("tab", name="Code").click()
    page.get_by_text(f"num_hidden_layers: int = {layers}").first.wait_for()
    page.get_by_role("tab", name="Proof and export").click()
    page.locator("#verify").click()
    verdict = page.locator("#verdict textarea")
    page.wait_for_function(
        "() => /^(Proved|NOT|Cannot)/.test(document.querySelector('#verdict textarea').value)", timeout=180_000
    )
    assert verdict.input_value().startswith("Proved"), verdict.input_value()
    assert page.locator("#certificate").get_by_text("passed").count() == 5
    with page.expect_download() as waiting:
        page.locator("#download").click()
    waiting.value.save_as(tmp_path / "model.zip")

    # What she took home is what she saw.
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        archive.extractall(tmp_path)
        (folder,) = {name.partition("/")[0] for name in archive.namelist()}
    document = load(tmp_path / folder / "document.canvas.json")
    assert document.sizes["num_hidden_layers"] == layers
    config = AutoConfig.from_pretrained(tmp_path / folder, trust_remote_code=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == one.state("totals.parameters")
    assert len(model.model.layers) == layers
    certificate = verify(tmp_path / folder)
    assert certificate.passed, str(certificate)
