"""Nothing that people did is lost: not by a reload, a crash, a restart of the server, or another visitor."""

import pytest
from editor import OpenTab, Server, Tab, field, sizes, type_in
from playwright.sync_api import Browser


def change(tab: Tab, value: int) -> None:
    type_in(tab, field(tab, "model.embed_tokens", "size:vocab_size"), str(value))


def test_two_visitors_do_not_see_each_other(tab: OpenTab) -> None:
    one, other = tab(), tab()
    change(one, 1000)
    change(other, 2000)
    assert (sizes(one)["vocab_size"], sizes(other)["vocab_size"]) == (1000, 2000)


def test_two_tabs_of_one_visitor_do_not_see_each_other(tab: OpenTab) -> None:
    one = tab()
    change(one, 1000)
    other = tab(like=one)
    assert sizes(other)["vocab_size"] == 128256
    change(other, 2000)
    assert sizes(one)["vocab_size"] == 1000


def test_a_reload_goes_on_where_it_was(tab: OpenTab) -> None:
    one = tab()
    change(one, 1000)
    one.look("model.layers.0-15")
    one.page.reload()
    one.settled()
    assert sizes(one)["vocab_size"] == 1000
    assert one.state("path") == "model.layers.0-15"
    one.page.keyboard.press("Control+z")
    one.settled()
    assert sizes(one)["vocab_size"] == 128256


def test_work_of_a_tab_that_crashed_is_offered_to_the_next(tab: OpenTab) -> None:
    one = tab()
    change(one, 1000)
    one.page.wait_for_timeout(1200)
    one.page.close()  # no goodbye is said
    next_one = tab(like=one)
    offer = next_one.page.get_by_test_id("restore")
    offer.wait_for()
    assert "llama-3.2-1b" in offer.inner_text()
    offer.get_by_role("button", name="Go on").click()
    next_one.page.wait_for_function("() => window.__canvas.useCanvas.getState().orphans.length === 0")
    next_one.settled()
    assert sizes(next_one)["vocab_size"] == 1000
    next_one.page.get_by_role("button", name="Undo").first.click()
    next_one.settled()
    assert sizes(next_one)["vocab_size"] == 128256 and next_one.state("edits") == 0


def test_a_restart_of_the_server_loses_nothing(tab: OpenTab, chromium: Browser) -> None:
    server = Server()
    server.start()
    try:
        one = tab(url=server.url)
        change(one, 1000)
        one.page.wait_for_timeout(1200)  # it is kept
        change(one, 1500)  # this may not be kept yet
        server.kill()
        one.flaws.clear()
        field_ = field(one, "model.embed_tokens", "size:vocab_size").locator('input:not([type="range"])').first
        field_.fill("2000")
        field_.press("Enter")  # done while nobody listens
        one.page.wait_for_function("() => window.__canvas.useCanvas.getState().status === 'offline'")
        server.start()
        one.settled()
        one.page.wait_for_timeout(3000)  # Gradio loads the page anew when its server does
        one.settled()
        assert sizes(one)["vocab_size"] == 2000
        for expected in (1500, 1000, 128256):
            one.page.keyboard.press("Escape")
            one.page.get_by_role("button", name="Undo").first.click()
            one.settled()
            assert sizes(one)["vocab_size"] == expected
    finally:
        one.flaws = [flaw for flaw in one.flaws if "ERR_CONNECTION" not in flaw and "Failed to fetch" not in flaw]
        server.kill()


@pytest.mark.parametrize("storage", ["throws", "is missing"])
def test_a_browser_that_keeps_nothing_can_edit_all_the_same(tab: OpenTab, storage: str) -> None:
    gives = "throw new DOMException('denied')" if storage == "throws" else "return null"
    script = f"for (const name of ['localStorage', 'sessionStorage']) Object.defineProperty(window, name, {{ get() {{ {gives} }} }})"
    one = tab(script=script)
    change(one, 1000)
    assert sizes(one)["vocab_size"] == 1000
    assert "Not kept" in one.page.get_by_role("status").first.inner_text()
    one.flaws = [flaw for flaw in one.flaws if "gradio" not in flaw.lower()]


def test_kept_work_that_cannot_be_read_is_put_aside_and_the_page_begins(tab: OpenTab) -> None:
    one = tab()
    change(one, 1000)
    one.page.wait_for_timeout(1200)
    one.page.evaluate("""() => {
        const key = Object.keys(localStorage).find((name) => name.startsWith("canvas-rt:work:"));
        const kept = JSON.parse(localStorage.getItem(key));
        kept.keep.autosave.document = kept.keep.autosave.document.slice(0, 200);
        localStorage.setItem(key, JSON.stringify(kept));
        sessionStorage.setItem("canvas-rt:session", "0".repeat(32));
        localStorage.setItem("canvas-rt:work:" + "0".repeat(32), JSON.stringify({ ...kept, session: "0".repeat(32) }));
        localStorage.removeItem(key);
    }""")
    one.page.reload()
    one.settled()
    assert sizes(one)["vocab_size"] == 128256
    assert one.page.get_by_test_id("toast").is_visible()
    assert one.page.evaluate("() => Object.keys(localStorage).some((name) => name.startsWith('canvas-rt:unreadable:'))")
