"""A heterogeneous model, made only with mouse and keyboard."""

import json
from pathlib import Path

from editor import OpenTab, Tab, away, drag, field, middle, port, type_in

from canvas_rt import check, load, measure, verify

CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 1000, "max_position_embeddings": 512,
}  # fmt: skip


def show_layers(tab: Tab, text: str) -> None:
    tab.page.get_by_test_id("layers").click()
    tab.page.get_by_role("dialog", name="Which layers").get_by_role("textbox").fill(text)
    tab.page.keyboard.press("Enter")
    tab.settled()
    tab.page.wait_for_timeout(400)


def test_eight_layers_of_four_kinds(tab: OpenTab, tmp_path: Path) -> None:
    source = tmp_path / "config.json"
    source.write_text(json.dumps(CONFIG))
    one = tab()
    page = one.page
    page.get_by_role("button", name="Open").first.click()
    page.locator('input[type="file"]').set_input_files(str(source))
    page.wait_for_function("() => window.__canvas.useCanvas.getState().origin !== 'llama-3.2-1b'", timeout=60_000)
    one.settled()
    page.wait_for_timeout(400)
    one.card("model.layers").dblclick(position={"x": 30, "y": 10})
    one.settled()

    # the first two layers: fewer key/value heads
    show_layers(one, "0-1")
    type_in(one, field(one, "model.layers.0-1.self_attn", "size:num_key_value_heads"), "2")
    # layers 2 and 3: wider MLPs
    show_layers(one, "2-3")
    type_in(one, field(one, "model.layers.2-3.mlp", "size:intermediate_size"), "1024")
    # layer 5: a norm after attention, dropped in from the menu on the wire
    show_layers(one, "5")
    drag(one, middle(port(one, "model.layers.5.self_attn", "out")), away(one))
    page.get_by_test_id("add-menu").get_by_role("option").first.wait_for()
    page.keyboard.type("RMSNorm")
    page.keyboard.press("Enter")
    one.settled()
    page.wait_for_timeout(500)
    drag(
        one,
        middle(port(one, "model.layers.5.norm", "out")),
        middle(port(one, "model.layers.5.self_attn_residual", "b")),
    )
    # layer 7: no second norm
    show_layers(one, "7")
    one.card("model.layers.7.post_attention_layernorm").click(position={"x": 20, "y": 10})
    page.keyboard.press("Delete")
    one.settled()
    assert [p for p in one.state("problems") if p["severity"] == "error"] == []

    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save").first.click()
    waiting.value.save_as(tmp_path / "edited.canvas.json")
    document = load(tmp_path / "edited.canvas.json")
    assert check(document).ok
    stack = document.blocks["LlamaModel"].by_id["layers"]
    kinds = stack.kind_indices(8)  # type: ignore[union-attr]
    assert [kinds[i] == kinds[j] for i, j in ((0, 1), (2, 3), (4, 6), (1, 2), (4, 5), (6, 7))] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    assert measure(document, sequence=128).parameters.total == one.state("totals.parameters")
    certificate = verify(document)
    assert certificate.passed, str(certificate)
