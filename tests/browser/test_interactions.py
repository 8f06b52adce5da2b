"""Each thing that people do on the canvas, done as they do it."""

import json
from pathlib import Path

import pytest
from editor import OpenTab, Tab, away, drag, field, inspected, middle, number, port, sizes, slide, type_in

LAYERS = "model.layers.0-15"


@pytest.fixture
def one(tab: OpenTab) -> Tab:
    return tab()


def ids(tab: Tab) -> list[str]:
    return [path.rpartition(".")[2] for path in tab.state("order")]


def test_the_palette_is_searched_and_a_double_click_adds(one: Tab) -> None:
    one.look(LAYERS)
    one.page.get_by_placeholder("Search the palette").fill("dropout")
    one.page.get_by_test_id("palette-op:dropout").dblclick()
    one.settled()
    assert "dropout" in ids(one)
    assert one.state("problems.filter((problem) => problem.severity === 'error').length") == 0


def test_an_entry_is_dragged_onto_the_canvas_and_stays_where_it_was_dropped(one: Tab) -> None:
    one.look(LAYERS)
    entry = one.page.get_by_test_id("palette-op:rms_norm")
    entry.scroll_into_view_if_needed()
    box = one.page.locator(".cv-main").bounding_box()
    assert box
    target = one.page.locator(".react-flow__pane")
    entry.drag_to(target, target_position={"x": 60, "y": 420})
    one.settled()
    one.card(f"{LAYERS}.norm").wait_for()
    x, y = middle(one.card(f"{LAYERS}.norm"))
    assert abs(x - box["x"] - 60) < 160 and abs(y - box["y"] - 420) < 120


def test_an_entry_dropped_on_a_wire_goes_into_it(one: Tab) -> None:
    one.look(LAYERS)
    entry = one.page.get_by_test_id("palette-op:dropout")
    entry.scroll_into_view_if_needed()
    start = port(one, f"{LAYERS}.post_attention_layernorm", "out")
    end = port(one, f"{LAYERS}.mlp", "hidden_states")
    (x1, y1), (x2, y2) = middle(start), middle(end)
    box = one.page.locator(".react-flow__pane").bounding_box()
    assert box
    entry.drag_to(
        one.page.locator(".react-flow__pane"),
        force=True,
        target_position={"x": (x1 + x2) / 2 - box["x"], "y": (y1 + y2) / 2 - box["y"]},
    )
    one.settled()
    wires = {wire["target"]["path"]: wire["source"]["path"] for wire in one.state("wires") or []} if False else {}
    wires = one.page.evaluate(
        "() => Object.fromEntries([...window.__canvas.useCanvas.getState().wires.values()].map((w) => [w.target.path, w.source.path]))"
    )
    assert wires[f"{LAYERS}.mlp"] == f"{LAYERS}.dropout"
    assert wires[f"{LAYERS}.dropout"] == f"{LAYERS}.post_attention_layernorm"


def test_double_click_goes_in_and_escape_and_crumbs_go_out(one: Tab) -> None:
    one.card("model.layers").dblclick(position={"x": 30, "y": 10})
    one.settled()
    assert one.state("path") == LAYERS
    one.card(f"{LAYERS}.self_attn").dblclick(position={"x": 30, "y": 10})
    one.settled()
    assert one.state("path") == f"{LAYERS}.self_attn"
    one.page.mouse.click(*away(one))
    one.page.keyboard.press("Escape")
    one.settled()
    assert one.state("path") == LAYERS
    one.page.get_by_test_id("crumbs").get_by_role("button", name="llama-3.2-1b").click()
    one.settled()
    assert one.state("path") == ""


def test_a_wire_dragged_from_port_to_port_connects(one: Tab) -> None:
    one.look(LAYERS)
    drag(
        one, middle(port(one, f"{LAYERS}.input_layernorm", "out")), middle(port(one, f"{LAYERS}.mlp", "hidden_states"))
    )
    assert one.state("edits") == 1
    wires = one.page.evaluate(
        "() => Object.fromEntries([...window.__canvas.useCanvas.getState().wires.values()].map((w) => [w.id, w.source.path]))"
    )
    assert wires[f"{LAYERS}.mlp:hidden_states"] == f"{LAYERS}.input_layernorm"


def test_a_wire_that_would_close_a_circle_is_refused_with_the_reason(one: Tab) -> None:
    one.look(LAYERS)
    drag(one, middle(port(one, f"{LAYERS}.mlp", "out")), middle(port(one, f"{LAYERS}.input_layernorm", "x")))
    assert one.state("edits") == 0
    assert "circle" in one.page.get_by_test_id("toast").inner_text()


def test_a_wire_dropped_on_nothing_offers_what_fits(one: Tab) -> None:
    one.look(LAYERS)
    drag(one, middle(port(one, f"{LAYERS}.self_attn", "out")), away(one))
    menu = one.page.get_by_test_id("add-menu")
    menu.wait_for()
    menu.locator("input").fill("layernorm")
    one.page.keyboard.press("Enter")
    one.settled()
    wires = one.page.evaluate(
        "() => [...window.__canvas.useCanvas.getState().wires.values()].map((w) => [w.source.path, w.target.path])"
    )
    assert one.state("edits") == 1
    assert any(source.endswith("self_attn") and "norm" in target for source, target in wires)


def test_the_add_menu_opens_by_right_click_and_by_tab(one: Tab) -> None:
    one.look(LAYERS)
    one.page.mouse.click(*away(one), button="right")
    one.page.get_by_test_id("add-menu").wait_for()
    one.page.keyboard.press("Escape")
    assert one.page.get_by_test_id("add-menu").count() == 0
    one.page.mouse.click(*away(one))
    one.page.keyboard.press("Tab")
    one.page.get_by_test_id("add-menu").wait_for()
    one.page.keyboard.type("softmax")
    one.page.keyboard.press("Enter")
    one.settled()
    assert "softmax" in ids(one)


def test_numbers_are_typed_as_well_as_slid(one: Tab) -> None:
    heads = field(one, "model.embed_tokens", "size:hidden_size")
    type_in(one, heads, "4096")
    assert sizes(one)["hidden_size"] == 4096
    number(heads).fill("nonsense")
    number(heads).press("Enter")
    one.settled()
    assert sizes(one)["hidden_size"] == 4096
    assert "no value" in one.page.get_by_test_id("toast").inner_text()
    one.page.get_by_test_id("toast").get_by_role("button").first.click()


def test_one_drag_of_a_slider_is_one_step_of_undo(one: Tab) -> None:
    slide(one, field(one, "model.embed_tokens", "size:hidden_size").locator('input[type="range"]'), 0.9)
    assert sizes(one)["hidden_size"] > 2048
    one.page.mouse.click(*away(one))
    one.page.keyboard.press("Control+z")
    one.settled()
    assert sizes(one)["hidden_size"] == 2048
    one.page.keyboard.press("Control+Shift+z")
    one.settled()
    assert sizes(one)["hidden_size"] > 2048


def test_a_node_is_moved_and_stays_there_after_a_reload_and_an_undo_brings_it_back(one: Tab) -> None:
    one.look(LAYERS)
    card = one.card(f"{LAYERS}.mlp")
    before = middle(card)
    box = card.bounding_box()
    assert box
    drag(one, (box["x"] + 24, box["y"] + 12), (box["x"] + 174, box["y"] + 72))
    moved = middle(card)
    assert moved[0] - before[0] > 100
    assert one.state("edits") == 0, "where a node stands is no change of the architecture"
    one.page.reload()
    one.settled()
    place = one.state(f"nodes.get('{LAYERS}.mlp').position")
    assert place is not None
    one.page.keyboard.press("Control+z")
    one.settled()
    assert one.state(f"nodes.get('{LAYERS}.mlp').position ?? null") is None


def test_delete_heals_the_stream_and_undo_brings_the_node_back(one: Tab) -> None:
    one.look(LAYERS)
    one.card(f"{LAYERS}.post_attention_layernorm").click(position={"x": 20, "y": 10})
    one.page.keyboard.press("Delete")
    one.settled()
    assert "post_attention_layernorm" not in ids(one)
    assert one.state("problems.length") == 0
    one.page.keyboard.press("Control+z")
    one.settled()
    assert "post_attention_layernorm" in ids(one)


def test_copy_paste_and_multi_select(one: Tab) -> None:
    one.look(LAYERS)
    one.card(f"{LAYERS}.post_attention_layernorm").click(position={"x": 20, "y": 10})
    one.card(f"{LAYERS}.mlp").click(position={"x": 20, "y": 10}, modifiers=["Shift"])
    assert one.page.evaluate("() => window.__canvas.useCanvas.getState().selection.size") == 2
    one.page.keyboard.press("Control+d")
    one.settled()
    assert {"post_attention_layernorm_1", "mlp_1"} <= set(ids(one))
    one.page.keyboard.press("Control+a")
    assert one.page.evaluate("() => window.__canvas.useCanvas.getState().selection.size") >= 12
    one.page.keyboard.press("Escape")
    assert one.page.evaluate("() => window.__canvas.useCanvas.getState().selection.size") == 0


def test_search_finds_nodes_inside_blocks_and_goes_there(one: Tab) -> None:
    one.page.keyboard.press("Control+f")
    one.page.get_by_role("dialog").get_by_role("combobox").or_(
        one.page.get_by_role("dialog").get_by_role("textbox")
    ).first.fill("up_proj")
    one.page.get_by_role("dialog").get_by_role("option").first.wait_for()
    one.page.keyboard.press("Enter")
    one.settled()
    assert one.state("path") == f"{LAYERS}.mlp"
    assert one.page.evaluate("() => [...window.__canvas.useCanvas.getState().selection]") == [f"{LAYERS}.mlp.up_proj"]


def test_only_some_layers_are_changed_when_only_they_are_shown(one: Tab) -> None:
    one.look(LAYERS)
    one.page.get_by_test_id("layers").click()
    one.page.get_by_role("dialog", name="Which layers").get_by_role("textbox").fill("8-15")
    one.page.keyboard.press("Enter")
    one.settled()
    assert one.state("path") == "model.layers.8-15"
    slide(
        one, field(one, "model.layers.8-15.self_attn", "size:num_key_value_heads").locator('input[type="range"]'), 0.0
    )
    one.look("")
    assert sizes(one)["num_key_value_heads"] == 8
    assert "num_key_value_heads 1" in one.card("model.layers").inner_text()


def test_a_problem_in_the_list_leads_to_its_node(one: Tab) -> None:
    one.page.evaluate("""() => window.__canvas.useCanvas.getState().send({ type: "edit", edits: [
        { kind: "set_size", path: "model.layers.3.self_attn", name: "num_key_value_heads", value: 5 }] })""")
    one.settled()
    assert one.card("model.layers").get_attribute("data-severity") == "error"
    one.page.get_by_role("tab", name="Outline").click()
    one.page.get_by_test_id("problem").first.click()
    one.settled()
    assert one.state("path").startswith("model.layers.3")
    assert "Fix" in one.gauge()


def test_the_inspector_explains_a_node(one: Tab) -> None:
    one.look(f"{LAYERS}.mlp")
    one.card(f"{LAYERS}.mlp.gate_proj").click(position={"x": 20, "y": 10})
    one.settled()
    text = one.page.locator("[data-inspector]").inner_text()
    for part in ("gate_proj", "A learned projection", "gate_proj.weight", "intermediate_size × hidden_size", "%"):
        assert part in text, part
    name = one.page.locator("[data-inspector]").get_by_label("Name of the node")
    name.fill("gate")
    name.press("Enter")
    one.settled()
    assert "gate" in ids(one) and "gate_proj" not in ids(one)
    assert inspected(one, "size:intermediate_size").count() == 1


def test_the_card_and_the_scenario_change_the_cost(one: Tab) -> None:
    one.page.get_by_text("Decode", exact=True).click()
    one.settled()
    assert one.gauge().startswith("Decode VRAM")
    one.page.get_by_label("Card", exact=True).select_option("h100-80gb")
    one.settled()
    assert "(H100)" in one.gauge()


def test_how_it_is_run_changes_the_cost(one: Tab) -> None:
    page, before = one.page, one.state("totals.device_total")
    more = page.get_by_test_id("more-scenario")
    more.locator("summary").click()
    assert page.get_by_label("Recompute", exact=True).input_value() == "none"
    page.get_by_label("Recompute", exact=True).select_option("full")
    one.settled()
    recomputed = one.state("totals.device_total")
    assert recomputed < before
    page.get_by_label("Loss", exact=True).select_option("fused")
    one.settled()
    assert one.state("totals.device_total") < recomputed
    assert more.locator("summary").inner_text() == "More: recompute full, loss fused"
    page.get_by_text("Chat", exact=True).click()
    one.settled()
    assert one.gauge().startswith("Chat VRAM")
    assert page.get_by_label("Generated", exact=True).input_value() == "256"
    page.get_by_label("Weights", exact=True).select_option("int4")
    one.settled()
    assert more.locator("summary").inner_text() == "More: weights int4"


def test_opening_a_zoo_model_a_config_and_the_fresh_starts(one: Tab, tmp_path: Path) -> None:
    page = one.page
    page.get_by_role("button", name="Open").first.click()
    page.get_by_role("dialog").get_by_placeholder("Search").or_(page.get_by_label("Search models")).first.fill("405b")
    page.get_by_test_id("zoo-llama-3.1-405b").click()
    page.wait_for_function("() => window.__canvas.useCanvas.getState().name === 'llama-3.1-405b'")
    one.settled()
    assert "Needs" in page.get_by_test_id("costs").inner_text() or "more" in page.get_by_test_id("costs").inner_text()
    for button, name in (("open-skeleton", "skeleton"), ("open-blank", "blank")):
        page.get_by_role("button", name="Open").first.click()
        page.get_by_test_id(button).click()
        page.wait_for_function("(name) => window.__canvas.useCanvas.getState().name === name", arg=name)
        one.settled()
    config = Path(__file__).parents[2] / "model_zoo" / "mistral" / "configs"
    page.get_by_role("button", name="Open").first.click()
    page.locator('input[type="file"]').set_input_files(str(next(config.glob("*.json"))))
    page.wait_for_function("() => window.__canvas.useCanvas.getState().block === 'MistralForCausalLM'", timeout=60_000)
    one.settled()
    broken = tmp_path / "broken.json"
    short = {"vocab_size": 100, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    broken.write_text(json.dumps({"model_type": "llama", **short, "hidden_size": "many"}))
    page.get_by_role("button", name="Open").first.click()
    page.locator('input[type="file"]').set_input_files(str(broken))
    page.get_by_role("alert").first.wait_for()
    assert "hidden_size" in page.get_by_role("dialog").inner_text()
    page.keyboard.press("Escape")
    for _ in range(4):
        page.get_by_role("button", name="Undo").first.click()
        one.settled()
    assert one.state("name") == "llama-3.2-1b"


def test_the_document_is_saved_and_opened_again(one: Tab, tmp_path: Path) -> None:
    type_in(one, field(one, "model.embed_tokens", "size:vocab_size"), "5000")
    with one.page.expect_download() as waiting:
        one.page.get_by_role("button", name="Save").first.click()
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    assert path.name == "llama-3.2-1b.canvas.json"
    one.page.get_by_role("button", name="Open").first.click()
    one.page.get_by_test_id("zoo-llama-2-7b").click()
    one.page.wait_for_function("() => window.__canvas.useCanvas.getState().name === 'llama-2-7b'")
    one.page.get_by_role("button", name="Open").first.click()
    one.page.locator('input[type="file"]').set_input_files(str(path))
    one.page.wait_for_function("() => window.__canvas.useCanvas.getState().name === 'llama-3.2-1b'")
    one.settled()
    assert sizes(one)["vocab_size"] == 5000


def test_hostile_names_are_shown_as_text(one: Tab) -> None:
    name = "<img src=x onerror=alert(1)>${1+1}{{7*7}}"
    one.page.evaluate(
        "(name) => window.__canvas.useCanvas.getState().send({ type: 'edit', edits: [{ kind: 'set_name', name }] })",
        name,
    )
    one.settled()
    assert one.page.get_by_text(name).first.is_visible()
    assert one.page.locator("img[src=x]").count() == 0
    one.page.get_by_role("tab", name="Code").click()
    one.page.get_by_text("model.py has").or_(one.page.locator("#code-state")).first.wait_for()
    assert one.page.locator("img[src=x]").count() == 0


def test_charts_follow_the_document_and_keep_their_zoom(one: Tab) -> None:
    one.page.get_by_role("tab", name="Charts").click()
    one.page.locator(".js-plotly-plot").nth(3).wait_for(timeout=30_000)
    assert one.page.locator(".js-plotly-plot").count() == 4
    zoomed = (
        """() => { const plot = document.querySelectorAll(".js-plotly-plot")[1]; return plot.layout.xaxis.range }"""
    )
    one.page.evaluate(
        """() => Plotly.relayout(document.querySelectorAll(".js-plotly-plot")[1], { "xaxis.range": [0, 1000] })"""
    )
    one.page.get_by_role("tab", name="Canvas").click()
    type_in(one, field(one, "model.embed_tokens", "size:vocab_size"), "5000")
    one.page.get_by_role("tab", name="Charts").click()
    one.page.wait_for_timeout(2500)
    assert one.page.evaluate(zoomed) == [0, 1000]
