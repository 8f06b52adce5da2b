"""The editor in real Chromium, served as users start it."""

from collections.abc import Iterator
from typing import Any

import pytest
from editor import OpenTab, Server, Tab
from playwright.sync_api import Browser, BrowserContext


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    running = Server()
    running.start()
    yield running
    running.kill()


@pytest.fixture
def tab(server: Server, chromium: Browser) -> Iterator[OpenTab]:
    """`tab()` opens a new visitor's tab; `tab(like=other)` another tab of the same visitor."""
    contexts: list[BrowserContext] = []
    opened: list[Tab] = []

    def open_tab(*, like: Tab | None = None, url: str | None = None, script: str = "", **options: Any) -> Tab:
        if like is None:
            options.setdefault("viewport", {"width": 1440, "height": 900})
            contexts.append(chromium.new_context(accept_downloads=True, **options))
            if script:
                contexts[-1].add_init_script(script)
        made = Tab(like.context if like else contexts[-1], url or server.url)
        opened.append(made)
        return made.open()

    yield open_tab
    for one in opened:
        assert not one.flaws, one.flaws
        assert {host.partition(":")[0] for host in one.hosts} <= {"127.0.0.1"}, one.hosts
    for context in contexts:
        context.close()
