"""The page in a real browser: what a person sees of traces that the SDK sent."""

from __future__ import annotations

import subprocess
import sys

import pytest
from playwright.sync_api import Page, expect

from tests.serving import ServerProcess

_AGENT = """
import sys
import everyspan

everyspan.configure(sys.argv[1])
with everyspan.span("turn", input={"messages": [{"role": "user", "content": "Hi?"}]}) as turn:
    with everyspan.span("llm", type="COMPLETION", input={"messages": [
        {"role": "user", "content": "Hi?"}]}) as llm:
        llm.output = {"choices": [{"message": {"role": "assistant", "content": "Hello!"}}],
                      "usage": {"input_tokens": 11, "output_tokens": 7}}
    try:
        with everyspan.span("tool", input={"id": 2**60 + 1}):
            raise ValueError("<script>alert(1)</script>")
    except ValueError:
        pass
    turn.output = {"said": "Hello!"}
assert everyspan.shutdown()
"""


@pytest.fixture(scope="module")
def traced(server: ServerProcess) -> ServerProcess:
    """The server, after an agent's turn."""
    subprocess.run([sys.executable, "-c", _AGENT, server.base_url], check=True, timeout=60)
    return server


def test_the_list_shows_what_happened(page: Page, traced: ServerProcess) -> None:
    page.goto("/")
    row = page.get_by_role("link", name="turn")
    expect(row).to_contain_text("3 of 3")
    expect(row).to_contain_text("ValueError: <script>alert(1)</script>")


def test_a_trace_opens_with_its_spans_and_their_messages(page: Page, traced: ServerProcess) -> None:
    page.goto("/")
    page.get_by_role("link", name="turn").click()
    expect(page.get_by_role("row")).to_have_count(3)
    page.get_by_role("row").filter(has_text="llm").click()
    panel = page.get_by_role("tabpanel")
    expect(panel).to_contain_text("Hello!")
    page.reload()
    expect(panel).to_contain_text("Hello!")


def test_numbers_are_shown_as_they_were_written(page: Page, traced: ServerProcess) -> None:
    page.goto("/")
    page.get_by_role("link", name="turn").click()
    page.get_by_role("row").filter(has_text="tool").click()
    page.get_by_role("tab", name="input").click()
    expect(page.get_by_role("tabpanel")).to_contain_text("1152921504606846977")
