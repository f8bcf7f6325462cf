"""The list of traces, live: what a reader looks at stays, and nothing is there twice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.page.agent import Agent
from tests.serving import ServerProcess

SIZE = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def agent(server: ServerProcess) -> Iterator[Agent]:
    agent = Agent(server.base_url)
    yield agent
    agent.stop()


def turns(agent: Agent, name: str, count: int = 1) -> None:
    agent.do(f"for _ in range({count}):\n  with everyspan.span({name!r}, input={{}}): pass")


def rows(page: Page) -> Locator:
    return page.get_by_role("list", name="Traces").get_by_role("link")


def test_the_snippet_of_the_empty_page_brings_the_first_trace(
    page: Page, server: ServerProcess
) -> None:
    """Lines ui:1 and ui:2. First of this module: the store is empty yet."""
    page.goto("/")
    snippet = page.locator("#snippet").inner_text()
    subprocess.run([sys.executable, "-c", snippet], check=True, timeout=60)
    expect(rows(page)).to_contain_text(["hello"])
    expect(page.locator("#snippet")).to_have_count(0)


def test_a_list_that_is_read_stands_still_and_counts_what_is_new(page: Page, agent: Agent) -> None:
    """Line ui:3: under the pointer, and scrolled."""
    turns(agent, "old", 40)
    page.goto("/")
    expect(rows(page).first).to_contain_text("old")
    page.locator(".rows").hover()
    first = rows(page).first.get_attribute("data-trace")
    turns(agent, "seven", 7)
    new = page.get_by_role("button", name="7 new")
    expect(new).to_be_visible()
    assert rows(page).first.get_attribute("data-trace") == first

    page.locator(".rows").evaluate("e => e.scrollTo(0, 200)")
    page.mouse.move(5, 5)
    turns(agent, "eighth")
    expect(page.get_by_role("button", name="8 new")).to_be_visible()
    assert page.locator(".rows").evaluate("e => e.scrollTop") == 200

    page.get_by_role("button", name="8 new").click()
    expect(rows(page).first).to_contain_text("eighth")
    expect(rows(page).nth(7)).to_contain_text("seven")
    expect(rows(page).nth(8)).to_contain_text("old")


def test_at_its_top_the_list_grows_and_an_open_span_ends_by_itself(
    page: Page, agent: Agent
) -> None:
    """Line ui:3, the other half: nobody reads, so rows come."""
    page.goto("/")
    page.mouse.move(5, 5)
    agent.do("span = everyspan.span('slow turn', input={}); span.__enter__()")
    row = rows(page).first
    expect(row).to_contain_text("slow turn")
    expect(row).to_contain_text("running")
    agent.do("span.__exit__(None, None, None)")
    expect(row).to_contain_text("ended")
    assert rows(page).filter(has_text="slow turn").count() == 1


def test_filters_live_in_the_address(page: Page, agent: Agent) -> None:
    """Line ui:5: reload and back restore them."""
    turns(agent, "filtered one")
    page.goto("/")
    page.get_by_label("name", exact=True).focus()
    page.get_by_label("name", exact=True).select_option("filtered one")
    expect(rows(page)).to_have_count(1)
    page.reload()
    expect(rows(page)).to_have_count(1)
    expect(page.get_by_label("name", exact=True)).to_have_value("filtered one")
    page.go_back()
    expect(rows(page).nth(3)).to_be_visible()
    page.go_forward()
    expect(rows(page)).to_have_count(1)
    rows(page).first.click()
    page.go_back()
    expect(rows(page)).to_have_count(1)


def test_the_search_finds_what_payloads_say(page: Page, agent: Agent) -> None:
    agent.do("with everyspan.span('one of many', input={'order': 'zebra-stripes'}): pass")
    page.goto("/")
    # The keys work once there are rows.
    expect(rows(page).first).to_contain_text("one of many")
    page.keyboard.press("/")
    expect(page.get_by_label("Search", exact=True)).to_be_focused()
    page.keyboard.type("zebra-stripes")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text(["one of many"])
    page.get_by_label("Search", exact=True).fill("nothing like that")
    expect(page.get_by_text("No trace matches.")).to_be_visible()


HOSTILE = (
    "<script>alert(1)</script><img src=//evil.test/a onerror=alert(1)>"
    "![x](http://evil.test/b) javascript:alert(1) \x1b[31m\x07 \u202eevil\u2066"
)


def test_hostile_text_is_text_everywhere(page: Page, agent: Agent) -> None:
    """Lines ui:13, ui:14 and ui:26: it runs nothing, asks nothing, breaks no layout."""
    agent.do(
        f"text = {HOSTILE!r}\n"
        "long = 'W' * 1_000_000\n"
        "for name in (text, long):\n"
        "  with everyspan.span(name, task_id=text, input={text: long}) as span:\n"
        "    span.output = {'model': text, 'text': long}\n"
        "try:\n"
        "  with everyspan.span('failing', input=text): raise ValueError(text)\n"
        "except ValueError: pass\n"
    )
    for size in (SIZE, PHONE):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        page.goto("/")
        expect(rows(page).first).to_contain_text("<script>")
        expect_no_sideways_scroll(page)
        assert "\u202e" not in page.locator("main").inner_text()
        page.goto("/overview?by=name")
        expect(page.get_by_role("cell").filter(has_text="<script>")).not_to_have_count(0)
        expect_no_sideways_scroll(page)
    assert page.locator("main script, main img").count() == 0


def expect_no_sideways_scroll(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_on_a_phone_the_filters_fold_and_what_is_touched_is_large(page: Page, agent: Agent) -> None:
    """Line ui:26."""
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    turns(agent, "small")
    for path in ("/", "/health", "/overview"):
        page.goto(path)
        expect(page.locator("main")).not_to_be_empty()
        expect_no_sideways_scroll(page)
    page.goto("/")
    expect(rows(page).first).to_be_visible()
    expect(page.get_by_label("State", exact=True)).to_be_hidden()
    page.get_by_role("button", name="Filters").click()
    expect(page.get_by_label("State", exact=True)).to_be_visible()
    small = page.locator("button, select, input, .trace-row").evaluate_all(
        "all => all.filter(e => e.checkVisibility() && e.offsetHeight < 44).map(e => e.outerHTML)"
    )
    assert small == []


def test_a_server_that_comes_back_is_live_again_without_duplicates(
    browser: Browser, server: ServerProcess, agent: Agent
) -> None:
    """Line ui:24. Last of this module: it ends the server."""
    turns(agent, "before")
    context = browser.new_context(base_url=server.base_url)
    tabs = [context.new_page() for _ in range(3)]
    for tab in tabs:
        tab.goto("/")
        expect(rows(tab).first).to_contain_text("before")
    server.kill()
    page = tabs[-1]
    expect(page.get_by_text("not live since")).to_be_visible()
    expect(rows(page).first).to_contain_text("before")
    port = int(server.base_url.rsplit(":", 1)[1])
    again = ServerProcess(server.store_path, port=port)
    try:
        turns(agent, "after")
        for tab in tabs:
            expect(rows(tab).first).to_contain_text("after", timeout=20_000)
            expect(tab.get_by_text("not live since")).to_have_count(0)
            expect(rows(tab).filter(has_text="after")).to_have_count(1)
            names = rows(tab).evaluate_all("all => all.map(e => e.dataset.trace)")
            assert len(names) == len(set(names))
    finally:
        context.close()
        again.stop()
