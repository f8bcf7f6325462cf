"""The page in a real Chromium over a real server, one of each for a module."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from everyspan.server.page import BUNDLE
from tests.serving import ServerProcess

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# As root, which is what containers run tests as, there is no sandbox to be had.
_ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic", "--disable-dev-shm-usage"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = None
    if CHROMIUM is None:
        reason = "no chromium here: on Debian, apt install chromium"
    elif not BUNDLE.is_dir():
        reason = "the page is not built: make web"
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        # A module's tests on one worker, since each worker that has one starts a browser.
        item.add_marker(pytest.mark.xdist_group(item.path.stem))
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


# No longer than a module: while it runs, no other test may run an event loop in this thread.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of the module's own: the page shows one account, and lists all of it."""
    process = ServerProcess(tmp_path_factory.mktemp("store") / "spans.db")
    yield process
    if process.process.poll() is None:
        process.stop()


@pytest.fixture
def context(browser: Browser, server: ServerProcess) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=server.base_url, reduced_motion="reduce")
    context.set_default_timeout(10_000)
    yield context
    context.close()


class Watched:
    """A page, and everything that it must not do."""

    def __init__(self, page: Page, base_url: str) -> None:
        self.page = page
        self.said: list[str] = []
        self.foreign: list[str] = []
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self._look(request.url, base_url))

    def _look(self, url: str, base_url: str) -> None:
        if not url.startswith((base_url, "data:", "blob:")):
            self.foreign.append(url)


@pytest.fixture
def watched(context: BrowserContext, server: ServerProcess) -> Iterator[Watched]:
    """A page whose test fails where it says anything, breaks its policy, or asks elsewhere."""
    watched = Watched(context.new_page(), server.base_url)
    yield watched
    assert watched.said == []
    assert watched.foreign == []


@pytest.fixture
def page(watched: Watched) -> Page:
    return watched.page


@pytest.fixture
def screenshots() -> Path | None:
    """Where a person wants to look at the pages; None: nobody does."""
    folder = os.environ.get("EVERYSPAN_SCREENSHOTS")
    return Path(folder) if folder else None
