"""All of it without a mouse, and nothing in the way of those who do not see it."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from editor import OpenTab, Tab, sizes

LAYERS = "model.layers.0-15"


def focus_outline(tab: Tab) -> None:
    tab.page.get_by_role("tab", name="Outline").focus()
    tab.page.keyboard.press("Enter")
    tab.page.get_by_role("treeitem").first.wait_for()
    tree = tab.page.get_by_role("tree")
    tree.locator('[tabindex="0"]').first.or_(tree).first.focus()


def test_select_edit_connect_move_and_delete_by_keyboard_alone(tab: OpenTab) -> None:
    one = tab()
    keys = one.page.keyboard
    focus_outline(one)
    for _ in range(12):  # down the tree to the stack, and in
        keys.press("ArrowDown")
        active = "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))"
        if one.page.evaluate(f"() => {active}.textContent").startswith("layers"):
            break
    keys.press("Enter")
    one.settled()
    if one.state("path") == "":
        keys.press("Enter")
        one.settled()
    assert one.state("path") == LAYERS

    # select
    one.page.evaluate("(path) => window.__canvas.useCanvas.getState().select([path])", f"{LAYERS}.mlp")
    one.page.evaluate("() => document.activeElement.blur()")
    one.settled()
    # edit: Enter goes into a block; n walks on to a node, whose first field Enter focuses
    keys.press("n")
    keys.press("p")
    one.settled()
    assert one.page.evaluate("() => window.__canvas.useCanvas.getState().selection.size") == 1
    one.page.evaluate("(path) => window.__canvas.useCanvas.getState().select([path])", f"{LAYERS}.input_layernorm")
    one.settled()
    keys.press("Enter")
    one.page.wait_for_function("() => document.activeElement.closest('[data-inspector]')")
    keys.press("Control+a")
    keys.type("1024")
    keys.press("Enter")
    one.settled()
    assert sizes(one)["hidden_size"] == 1024
    keys.press("Escape")
    one.page.evaluate("() => document.activeElement.blur()")

    # connect
    one.page.evaluate("(path) => window.__canvas.useCanvas.getState().select([path])", f"{LAYERS}.input_layernorm")
    one.settled()
    keys.press("c")
    menu = one.page.get_by_test_id("add-menu")
    menu.wait_for()
    one.page.wait_for_function("() => window.__canvas.useCanvas.getState().menu?.offers")
    keys.type("mlp")
    keys.press("Enter")
    one.settled()
    wires = one.page.evaluate(
        "() => [...window.__canvas.useCanvas.getState().wires.values()].map((w) => [w.source.path, w.target.path])"
    )
    assert [f"{LAYERS}.input_layernorm", f"{LAYERS}.mlp"] in wires

    # move
    one.page.evaluate("() => document.activeElement.blur()")
    one.page.evaluate("(path) => window.__canvas.useCanvas.getState().select([path])", f"{LAYERS}.mlp")
    for _ in range(3):
        keys.press("ArrowRight")
    one.page.wait_for_function(f"() => window.__canvas.useCanvas.getState().nodes.get('{LAYERS}.mlp').position")
    one.settled()

    # delete
    keys.press("Delete")
    one.settled()
    assert f"{LAYERS}.mlp" not in one.state("order")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["canvas", "inside", "problem", "open", "find", "keys", "menu", "outline"])
def test_axe_finds_no_serious_violation(tab: OpenTab, scheme: str, view: str) -> None:
    one = tab(color_scheme=scheme)
    page = one.page
    if view == "inside":
        one.look(f"{LAYERS}.self_attn")
        page.evaluate("(path) => window.__canvas.useCanvas.getState().select([path])", f"{LAYERS}.self_attn.q_proj")
        one.settled()
    elif view == "problem":
        page.evaluate("""() => window.__canvas.useCanvas.getState().send({ type: "edit", edits: [
            { kind: "set_size", path: "", name: "num_key_value_heads", value: 5 }] })""")
        one.settled()
        page.get_by_role("tab", name="Outline").click()
    elif view in ("open", "find", "keys"):
        page.evaluate("(dialog) => window.__canvas.useCanvas.setState({ dialog })", view)
    elif view == "menu":
        page.mouse.click(700, 700, button="right")
    elif view == "outline":
        page.get_by_role("tab", name="Outline").click()
    page.wait_for_timeout(500)
    found = Axe().run(page, context=".cv-app").response["violations"]
    serious = [
        (v["id"], [n["html"][:160] for n in v["nodes"]][:3]) for v in found if v["impact"] in ("serious", "critical")
    ]
    assert serious == []
