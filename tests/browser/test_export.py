"""What somebody takes home: the chosen form as a zip, or a folder with weights; and buttons that wait for the canvas."""

import importlib.util
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from editor import OpenTab, Server, Tab
from playwright.sync_api import Browser, Route, expect
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

EDIT = """([path, name, value]) => window.__canvas.useCanvas.getState().send({ type: "edit",
    edits: [{ kind: "set_size", path, name, value }] })"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with random weights."""
    folder = tmp_path_factory.mktemp("home") / "tiny"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=8,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(checkpoint: Path) -> Iterator[Server]:
    running = Server(str(checkpoint))
    running.start()
    yield running
    running.kill()


def choose(one: Tab, form: str) -> None:
    one.page.locator("#form").get_by_label(form).check()


def contents(one: Tab) -> str:
    return one.page.locator("#contents textarea").input_value()


def test_each_form_is_taken_home_and_follows_the_edits(tab: OpenTab, tiny: Server, tmp_path: Path) -> None:
    one = tab(url=tiny.url)
    page = one.page
    one.tab("Proof and export")
    told = page.locator("#contents textarea")
    stock = "This still is LlamaForCausalLM with another config: Native config is just that."
    page.wait_for_function("(text) => document.querySelector('#contents textarea').value.includes(text)", arg=stock)

    choose(one, "Plain PyTorch")
    page.wait_for_function(
        "() => !/Working|generation_config/.test(document.querySelector('#contents textarea').value)"
    )
    with page.expect_download() as waiting:
        page.locator("#download").click()
    assert waiting.value.suggested_filename == "tiny-plain.zip"
    waiting.value.save_as(tmp_path / "plain.zip")
    with zipfile.ZipFile(tmp_path / "plain.zip") as archive:
        archive.extractall(tmp_path)
    spec = importlib.util.spec_from_file_location("taken_home", tmp_path / "tiny-plain" / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["taken_home"] = module
    spec.loader.exec_module(module)
    model = module.LlamaForCausalLM(module.Config.from_json(tmp_path / "tiny-plain" / "config.json"))
    assert model(torch.arange(5)[None]).shape == (1, 5, 96)

    choose(one, "Native config")
    expect(told).to_have_value("Working it out…")
    page.wait_for_function(
        "() => document.querySelector('#contents textarea').value.startsWith('config.json')", timeout=60_000
    )
    expect(page.locator("#download")).to_be_enabled()

    # An edit leaves the stock architecture: the chosen form says so, and the package stays.
    page.get_by_role("tab", name="Canvas").click()
    page.evaluate(EDIT, ["model.layers.1.mlp", "intermediate_size", 96])
    one.settled()
    one.tab("Proof and export")
    page.wait_for_function(
        "() => document.querySelector('#contents textarea').value.includes('Choose Package')", timeout=60_000
    )
    assert "some layers have intermediate_size for themselves" in contents(one)
    expect(page.locator("#download")).to_be_disabled()
    choose(one, "Package")
    page.wait_for_function(
        "() => document.querySelector('#contents textarea').value.includes('No longer stock LlamaForCausalLM: some layers have')"
    )
    expect(page.locator("#download")).to_be_enabled()


def test_a_model_is_written_with_weights(tab: OpenTab, tiny: Server, checkpoint: Path, tmp_path: Path) -> None:
    one = tab(url=tiny.url)
    page = one.page
    page.evaluate(EDIT, ["", "intermediate_size", 96])
    one.settled()
    one.tab("Proof and export")
    said, target = page.locator("#weights-said textarea"), tmp_path / "out"
    page.locator("#weights-from textarea").fill(str(tmp_path / "nowhere"))
    page.locator("#weights-to textarea").fill(str(target))
    page.locator("#weights-write").click()
    page.wait_for_function("() => document.querySelector('#weights-said textarea').value.startsWith('Not written.')")
    assert "there is no such folder" in said.input_value()

    page.locator("#weights-from textarea").fill(str(checkpoint))
    page.locator("#weights-write").click()
    page.wait_for_function(
        "() => document.querySelector('#weights-said textarea').value.startsWith('Written to')", timeout=60_000
    )
    assert f'AutoModelForCausalLM.from_pretrained("{target}", trust_remote_code=True)' in said.input_value()
    ours = AutoModelForCausalLM.from_pretrained(target, trust_remote_code=True).eval()
    theirs = LlamaForCausalLM.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        ids = torch.arange(12)[None]
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=2e-6, rtol=0)
    expect(page.locator("#weights-write")).to_be_enabled()


@pytest.mark.parametrize(
    ("name", "button"),
    [("Dry run", "#dryrun-run"), ("Proof and export", "#verify"), ("Training", "#training-export")],
)
def test_buttons_wait_until_the_canvas_has_told_its_session(
    name: str, button: str, server: Server, chromium: Browser
) -> None:
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    held: list[Route] = []
    holding = True
    page.route("**/component_server**", lambda route: held.append(route) if holding else route.continue_())
    page.goto(server.url)
    page.get_by_role("tab", name=name).click()
    expect(page.locator(button)).to_be_disabled()
    page.wait_for_timeout(500)
    expect(page.locator(button)).to_be_disabled()
    assert held, "the canvas asks for its session so"
    holding = False
    for route in held:
        route.continue_()
    expect(page.locator(button)).to_be_enabled(timeout=20_000)
    context.close()
