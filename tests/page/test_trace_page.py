"""The page of one trace, and the comparison of two, against `ui-anchors.md`'s acceptance lines."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from everyspan.model.ids import new_id
from tests.page.conftest import Watched
from tests.peers import PYTHON, needs_peers
from tests.serving import ServerProcess

_AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
_START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_SPANS = 10_000
_DEEP = 1_400


def _span(trace: str, name: str, start: float = 0, end: float | None = 1, **more: Any) -> Any:
    """Return a span; `start` and `end` are seconds from a fixed moment, no end leaves it open."""
    span = {
        "id": new_id(),
        "trace_id": trace,
        "name": name,
        "start_timestamp": (_START + timedelta(seconds=start)).isoformat(),
        **more,
    }
    if end is not None:
        span["end_timestamp"] = (_START + timedelta(seconds=end)).isoformat()
    return span


def _put(server: ServerProcess, *spans: Any) -> None:
    for n in range(0, len(spans), 1000):
        answer = httpx2.put(
            f"{server.base_url}/v5/spans/batch", json={"items": spans[n : n + 1000]}, timeout=60
        )
        assert answer.status_code == 200, answer.text


def _open(page: Page, trace: str, **query: str) -> None:
    page.goto(f"/traces/{trace}" + ("?" + "&".join(f"{k}={v}" for k, v in query.items())))
    expect(page.get_by_role("row").first).to_be_visible()


def _row(page: Page, name: str) -> Any:
    return page.get_by_role("row").filter(has=page.get_by_text(name, exact=True))


def _selected(page: Page, name: str) -> None:
    expect(_row(page, name)).to_have_attribute("aria-selected", "true")


def _tab(page: Page, name: str) -> Any:
    page.get_by_role("tab", name=name).click()
    return page.get_by_role("tabpanel")


def _serious(page: Page) -> list[str]:
    """Return what axe-core holds against the page as it is."""
    page.evaluate(_AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {node['html'][:200]} {node['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.fixture(scope="module")
def tree(server: ServerProcess) -> str:
    """A turn of a second: two models, a failed tool in a chain, another failure, a retrieval."""
    trace = new_id()
    turn = _span(trace, "turn", 0, 10, type="AGENT_WORKFLOW")
    model = _span(trace, "model", 0, 4, type="COMPLETION", parent_id=turn["id"])
    chain = _span(trace, "chain", 4, 9, parent_id=turn["id"])
    tool = _span(
        trace,
        "tool",
        5,
        8,
        type="CUSTOM",
        parent_id=chain["id"],
        status="ERROR",
        metadata={"error_type": "KeyError", "error_message": "no such order"},
    )
    beside = _span(trace, "beside", 4.5, 6, type="KB_RETRIEVAL", parent_id=turn["id"])
    last = _span(trace, "last", 9, 10, parent_id=turn["id"], status="ERROR")
    _put(server, turn, model, chain, tool, beside, last)
    return trace


@pytest.fixture(scope="module")
def large(server: ServerProcess) -> str:
    trace = new_id()
    root = _span(trace, "root", 0, _SPANS)
    spans = [_span(trace, f"step {n}", n, n + 1, parent_id=root["id"]) for n in range(_SPANS - 1)]
    _put(server, root, *spans)
    return trace


@pytest.fixture(scope="module")
def deep(server: ServerProcess) -> str:
    trace = new_id()
    spans = [_span(trace, f"level {n}", n / 1000, 2 * _DEEP / 1000) for n in range(_DEEP)]
    for above, below in pairwise(spans):
        below["parent_id"] = above["id"]
    _put(server, *spans)
    return trace


class TestView:
    def test_reload_restores_span_and_zoom(self, page: Page, tree: str) -> None:
        _open(page, tree)
        _row(page, "tool").dblclick()
        expect(page.get_by_role("button", name="all", exact=True)).to_be_visible()
        bar = page.locator(".row.selected .bar")
        before = bar.bounding_box()
        page.reload()
        _selected(page, "tool")
        expect(page.get_by_role("button", name="all", exact=True)).to_be_visible()
        after = bar.bounding_box()
        assert before is not None
        assert after is not None
        assert after["width"] == pytest.approx(before["width"], abs=2)
        assert after["x"] == pytest.approx(before["x"], abs=2)

    def test_without_a_selected_span_the_grid_takes_the_whole_width(
        self, page: Page, tree: str
    ) -> None:
        _open(page, tree)
        assert page.evaluate("document.querySelector('.grid').clientWidth / innerWidth") > 0.95
        _row(page, "tool").click()
        expect(page.get_by_role("region", name="Span")).to_be_visible()
        assert page.evaluate("document.querySelector('.grid').clientWidth / innerWidth") < 0.7

    def test_the_ruler_cuts_no_label(self, page: Page, tree: str) -> None:
        _open(page, tree)
        cut = page.evaluate(
            "() => { const end = document.querySelector('.ruler').getBoundingClientRect().right;"
            "return [...document.querySelectorAll('.ruler span')].filter("
            "one => one.textContent && one.getBoundingClientRect().right > end + 1)"
            ".map(one => one.textContent) }"
        )
        assert cut == []

    def test_the_critical_path_is_that_of_a_trace_worked_out_by_hand(
        self, page: Page, tree: str
    ) -> None:
        _open(page, tree)
        page.keyboard.press("c")
        expect(page.locator(".critical").first).to_be_visible()
        found = page.evaluate(
            "Object.fromEntries([...document.querySelectorAll('.row')].map(row =>"
            "[row.querySelector('.text').textContent,"
            "[...row.querySelectorAll('.critical')].map(one =>"
            "[parseFloat(one.style.left), parseFloat(one.style.width)].map(Math.round))]))"
        )
        assert found == {
            "turn": [],
            "model": [[0, 40]],
            "chain": [[40, 10], [80, 10]],
            "tool": [[50, 30]],
            "beside": [],
            "last": [[90, 10]],
        }


class TestMissing:
    def test_a_late_parent_replaces_its_hatched_row_and_the_selection_stays(
        self, page: Page, server: ServerProcess
    ) -> None:
        trace = new_id()
        parent = _span(trace, "late parent", 0, 3)
        _put(server, _span(trace, "orphan", 1, 2, parent_id=parent["id"]))
        _open(page, trace)
        hatched = page.locator(".row.missing")
        expect(hatched).to_contain_text("not stored")
        hatched.click()
        expect(page.get_by_role("region", name="Span")).to_contain_text("Not stored")
        expect(page.get_by_role("row")).to_have_count(2)
        _put(server, parent)
        _selected(page, "late parent")
        expect(page.locator(".row.missing")).to_have_count(0)
        expect(page.get_by_role("row")).to_have_count(2)
        expect(page.get_by_role("heading", name="late parent").last).to_be_visible()

    def test_an_open_span_ticks_and_ends_once(self, page: Page, server: ServerProcess) -> None:
        trace = new_id()
        now = datetime.now(UTC) - timedelta(seconds=30)
        span = _span(trace, "running", 0, None) | {"start_timestamp": now.isoformat()}
        _put(server, span)
        _open(page, trace)
        row = _row(page, "running")
        expect(row).to_contain_text("open")
        first = row.locator(".lasted").inner_text()
        expect(row.locator(".lasted")).not_to_have_text(first)
        ended = {**span, "end_timestamp": (now + timedelta(seconds=31)).isoformat()}
        _put(server, ended)
        expect(row.locator(".lasted")).to_have_text("31.0s")
        expect(row).not_to_contain_text("open")
        _put(server, ended)
        expect(page.get_by_role("row")).to_have_count(1)

    def test_what_arrives_the_wrong_way_round_looks_the_same(
        self, page: Page, server: ServerProcess
    ) -> None:
        seen = []
        for backwards in (False, True):
            trace = new_id()
            ended = _span(trace, "one", 0, 2)
            started = {name: ended[name] for name in ended if name != "end_timestamp"}
            for version in (ended, started) if backwards else (started, ended):
                _put(server, version)
            _open(page, trace)
            expect(_row(page, "one").locator(".lasted")).to_have_text("2.00s")
            seen.append(_row(page, "one").inner_text())
        assert seen[0] == seen[1]


class TestLarge:
    def test_ten_thousand_spans_mount_what_is_in_view_and_end_reaches_the_last(
        self, page: Page, large: str
    ) -> None:
        _open(page, large)
        rows = page.get_by_role("row")
        in_view = page.evaluate("Math.ceil(document.querySelector('.grid').clientHeight / 26)")
        assert 10 < rows.count() <= in_view + 10
        expect(page.get_by_role("treegrid")).to_have_attribute("aria-rowcount", f"{_SPANS}")
        page.get_by_role("treegrid").focus()
        page.keyboard.press("End")
        _selected(page, f"step {_SPANS - 2}")
        expect(_row(page, f"step {_SPANS - 2}")).to_be_in_viewport()
        assert rows.count() <= in_view + 10
        page.keyboard.press("Home")
        _selected(page, "root")
        expect(_row(page, "root")).to_be_in_viewport()

    def test_a_very_deep_chain_is_readable_on_a_phone(self, page: Page, deep: str) -> None:
        page.set_viewport_size({"width": 360, "height": 740})
        _open(page, deep)
        page.keyboard.press("End")
        name = page.get_by_text(f"level {_DEEP - 1}", exact=True)
        expect(name.first).to_be_in_viewport()
        width = page.evaluate(
            "() => { const names = [...document.querySelectorAll('.row .text')];"
            "return Math.min(...names.map(one => one.clientWidth - one.scrollWidth)) }"
        )
        assert width >= 0
        expect(_row(page, f"level {_DEEP - 1}")).to_have_attribute("aria-level", f"{_DEEP}")


class TestPayloads:
    def test_five_megabytes_are_fetched_as_asked_for_and_download_byte_for_byte(
        self, page: Page, server: ServerProcess
    ) -> None:
        trace = new_id()
        payload = {"text": "aé" * 1_700_000, "end": "the last words"}
        _put(server, _span(trace, "big", input=payload))
        _open(page, trace)
        sizes: list[int] = []
        page.on("response", lambda answer: sizes.append(len(answer.body())))
        _row(page, "big").click()
        panel = _tab(page, "input")
        expect(panel).to_contain_text("first 64.0 KB")
        assert max(sizes) < 200_000
        with page.expect_download() as started:
            panel.get_by_role("link", name="Download").click()
        stored = Path(started.value.path()).read_bytes()
        expected = httpx2.get(f"{server.base_url}{panel.get_by_role('link').get_attribute('href')}")
        assert stored == expected.content
        assert json.loads(stored) == payload
        panel.get_by_role("button", name="Load more").click()
        expect(panel).not_to_contain_text("first 64.0 KB")
        panel.get_by_role("button", name="Load more").click()
        expect(panel).not_to_contain_text("first ")
        expect(panel).to_contain_text("the last words")

    def test_numbers_and_times_keep_every_digit(self, page: Page, server: ServerProcess) -> None:
        trace = new_id()
        big = 2**60 + 1
        call = {"id": "c", "function": {"name": "f", "arguments": json.dumps({"n": big})}}
        span = _span(
            trace,
            "exact",
            input={"messages": [{"role": "user", "content": "go"}], "seed": big},
            output={"role": "assistant", "tool_calls": [call]},
        ) | {"start_timestamp": "2026-01-02T03:04:05.123456Z"}
        _put(server, span)
        _open(page, trace)
        _row(page, "exact").click()
        expect(_tab(page, "messages")).to_contain_text(str(big))
        expect(_tab(page, "input")).to_contain_text(str(big))
        expect(_tab(page, "ledger")).to_contain_text("1767323045123456000")
        expect(_tab(page, "raw")).to_contain_text(str(big))

    def test_tools_pair_by_id_out_of_order_and_unpaired(
        self, page: Page, server: ServerProcess
    ) -> None:
        def call(id_: str, name: str) -> Any:
            return {"id": id_, "function": {"name": name, "arguments": '{"q": "' + id_ + '"}'}}

        trace = new_id()
        messages = [
            {"role": "tool", "tool_call_id": "c2", "content": "second result"},
            {
                "role": "assistant",
                "tool_calls": [call("c1", "first"), call("c2", "second"), call("c3", "third")],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "first result"},
            {"role": "tool", "tool_call_id": "c9", "content": "nobody called"},
        ]
        _put(server, _span(trace, "llm", type="COMPLETION", input={"messages": messages}))
        _open(page, trace)
        _row(page, "llm").click()
        calls = page.get_by_role("tabpanel").locator(".call")
        expect(calls).to_have_count(4)
        expect(calls.nth(0)).to_contain_text("first result")
        expect(calls.nth(1)).to_contain_text("second result")
        expect(calls.nth(2)).to_contain_text("no result")
        expect(calls.nth(3)).to_contain_text("nobody called")

    def test_what_was_left_out_is_labelled(self, page: Page, server: ServerProcess) -> None:
        trace = new_id()
        _put(
            server,
            _span(
                trace,
                "cut",
                input={"key": "[REDACTED:credential]", "text": "a…[everyspan: 9 characters cut]"},
                output={"text": "…[everyspan: 4096 bytes shed]"},
            ),
        )
        _open(page, trace)
        _row(page, "cut").click()
        labels = _tab(page, "input").locator(".label")
        expect(labels).to_have_text(["redacted", "truncated"])
        expect(_tab(page, "output").locator(".label")).to_have_text(["shed"])

    def test_hostile_text_in_every_field_is_text(self, page: Page, server: ServerProcess) -> None:
        trace = new_id()
        hostile = (
            "[click](javascript:alert(4)) ![pixel](http://outside.test/p.png) "
            "<script>alert(1)</script><svg onload=alert(2)><img src=x onerror=alert(3)>"
            "<http://outside.test> \x1b[31mred \u202eback\u202c ```x"
        )
        nested: Any = hostile
        for _ in range(60):
            nested = [nested]
        parts = [
            {"type": "text", "text": hostile},
            {"type": "image_url", "image_url": {"url": "http://outside.test/remote.png"}},
            {"type": "image_url", "image_url": {"url": _PNG}},
            {"type": "image_url", "image_url": {"url": "data:image/svg+xml;base64,PHN2Zz4="}},
        ]
        _put(
            server,
            _span(
                trace,
                hostile,
                type="COMPLETION",
                status="ERROR",
                input={
                    "messages": [
                        {"role": "user", "content": parts},
                        {"role": "tool", "name": hostile, "content": hostile},
                    ]
                },
                output={hostile: nested, "long": "x" * 1_000_000},
                metadata={"error_type": hostile, "error_message": hostile, "model": hostile},
                parent_id=hostile[:60],
            ),
        )
        _open(page, trace)
        assert not page.locator(".row").first.locator("script, svg, img").count()
        page.get_by_role("row").last.click()
        expect(page.get_by_role("region", name="Span").locator("p.error")).to_contain_text(
            "<script>alert(1)</script>"
        )
        _tab(page, "messages")
        page.get_by_label("formatted").check()
        panel = page.get_by_role("tabpanel")
        expect(panel.locator(".formatted").first).to_contain_text("image pixel")
        expect(panel).to_contain_text("⟨U+202E⟩")
        assert page.locator("a[href^='javascript'], main script, main svg, main img").count() == 0
        panel.get_by_role("button", name="show").click()
        expect(panel.locator("img")).to_have_count(1)
        for tab in ("input", "output", "data", "ledger", "raw"):
            expect(_tab(page, tab)).not_to_be_empty()
            assert page.locator("a[href^='javascript'], main script, main svg").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


class TestKeys:
    def test_every_key_works(self, page: Page, tree: str) -> None:
        _open(page, tree)
        rows = page.get_by_role("row")
        press = page.keyboard.press
        press("ArrowDown")
        _selected(page, "turn")
        press("ArrowDown")
        _selected(page, "model")
        press("ArrowUp")
        _selected(page, "turn")
        press("ArrowRight")
        _selected(page, "model")
        press("ArrowLeft")
        _selected(page, "turn")
        press("ArrowLeft")
        expect(rows).to_have_count(1)
        press("ArrowRight")
        expect(rows).to_have_count(6)
        press("End")
        _selected(page, "last")
        press("Home")
        _selected(page, "turn")
        press("[")
        expect(rows).to_have_count(1)
        press("]")
        expect(rows).to_have_count(6)
        press("w")
        shows_all = page.get_by_role("button", name="all", exact=True)
        expect(shows_all).to_be_visible()
        press("d")
        press("a")
        press("s")
        press("0")
        expect(shows_all).to_have_count(0)
        press("End")
        press("f")
        expect(shows_all).to_be_visible()
        press("0")
        press("c")
        expect(page.locator(".critical").first).to_be_visible()
        press("c")
        expect(page.locator(".critical")).to_have_count(0)
        press("Escape")
        expect(page.get_by_role("region", name="Span")).to_have_count(0)

    def test_errors_are_visited_once_each_folded_ones_too(self, page: Page, tree: str) -> None:
        _open(page, tree)
        page.keyboard.press("[")
        expect(page.get_by_role("row")).to_have_count(1)
        page.keyboard.press("e")
        _selected(page, "tool")
        page.keyboard.press("e")
        _selected(page, "last")
        page.keyboard.press("e")
        _selected(page, "tool")
        page.keyboard.press("Shift+E")
        _selected(page, "last")

    def test_matches_are_visited_in_turn_and_no_key_works_while_typing(
        self, page: Page, tree: str
    ) -> None:
        _open(page, tree)
        page.keyboard.press("/")
        search = page.get_by_role("searchbox", name="Search in the trace")
        expect(search).to_be_focused()
        search.press_sequentially("e[0cf")
        expect(search).to_have_value("e[0cf")
        expect(page.get_by_role("row")).to_have_count(6)
        expect(page.locator(".critical, .row.selected")).to_have_count(0)
        search.fill("al")
        page.get_by_role("treegrid").focus()
        page.keyboard.press("n")
        _selected(page, "chain")
        page.keyboard.press("n")
        _selected(page, "beside")
        page.keyboard.press("Shift+N")
        _selected(page, "chain")

    def test_wheel_and_ruler_zoom(self, page: Page, tree: str) -> None:
        _open(page, tree)
        shows_all = page.get_by_role("button", name="all", exact=True)
        box = page.locator(".ruler").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 100, box["y"] + 10)
        page.mouse.down()
        page.mouse.move(box["x"] + 200, box["y"] + 10)
        page.mouse.up()
        expect(shows_all).to_be_visible()
        shows_all.click()
        page.locator(".row .bars").first.hover()
        page.keyboard.down("Control")
        page.mouse.wheel(0, -100)
        page.keyboard.up("Control")
        expect(shows_all).to_be_visible()

    def test_j_and_k_go_through_the_list(self, page: Page, server: ServerProcess) -> None:
        since = (datetime.now(UTC) - _START).total_seconds()
        for n, name in enumerate(("older", "newer")):
            _put(server, _span(new_id(), name, since + n, since + n + 1))
        page.goto("/")
        page.get_by_role("link", name="newer").click()
        expect(_row(page, "newer")).to_be_visible()
        page.keyboard.press("Shift+J")
        expect(_row(page, "older")).to_be_visible()
        page.keyboard.press("Shift+K")
        expect(_row(page, "newer")).to_be_visible()


class TestCopies:
    @pytest.fixture
    def copied(self, page: Page, tree: str) -> Any:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        _open(page, tree)

        def copy(what: str) -> str:
            page.get_by_role("button", name="Copy", exact=False).first.click()
            page.get_by_role("button", name=what, exact=True).click()
            expect(page.get_by_text("copied", exact=True)).to_be_visible()
            return str(page.evaluate("navigator.clipboard.readText()"))

        return copy

    def test_json_is_all_of_the_spans(self, copied: Any, tree: str) -> None:
        spans = json.loads(copied("JSON"))
        assert {span["name"] for span in spans} == {
            *("turn", "model", "chain", "tool", "beside", "last")
        }
        assert {span["trace_id"] for span in spans} == {tree}

    def test_curl_runs_and_holds_no_key(self, copied: Any) -> None:
        command = copied("cURL")
        assert "$SGP_API_KEY" in command
        ran = subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=30)
        assert len(json.loads(ran.stdout)["items"]) == 6

    @needs_peers[0]
    @needs_peers[1]
    def test_python_runs_and_holds_no_key(self, copied: Any) -> None:
        program = copied("Python")
        ran = subprocess.run(
            [str(PYTHON), "-c", program], capture_output=True, check=True, timeout=60, text=True
        )
        assert sorted(ran.stdout.splitlines())[0].split()[0] == "beside"
        assert len(ran.stdout.splitlines()) == 6


class TestAccess:
    def test_the_grid_is_a_treegrid_that_holds_the_focus(self, page: Page, tree: str) -> None:
        _open(page, tree)
        grid = page.get_by_role("treegrid", name="Spans")
        grid.focus()
        page.keyboard.press("End")
        _selected(page, "last")
        active = grid.get_attribute("aria-activedescendant")
        expect(page.locator(f"[id='{active}']")).to_contain_text("last")
        row = _row(page, "tool")
        expect(row).to_have_attribute("aria-level", "3")
        expect(row).to_have_attribute("aria-posinset", "1")
        expect(row).to_have_attribute("aria-setsize", "1")
        expect(_row(page, "chain")).to_have_attribute("aria-expanded", "true")
        expect(grid).to_be_focused()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_axe_finds_nothing_serious(
        self,
        watched: Watched,
        server: ServerProcess,
        tree: str,
        scheme: Any,
        screenshots: Path | None,
    ) -> None:
        page = watched.page
        page.emulate_media(color_scheme=scheme)

        def look(name: str) -> None:
            if screenshots:
                page.screenshot(path=screenshots / f"{name}-{scheme}.png")
            assert _serious(page) == [], name

        _open(page, tree)
        look("trace")
        _row(page, "tool").click()
        expect(page.get_by_role("tab").first).to_be_visible()
        page.keyboard.press("c")
        look("span")
        for tab in ("messages", "data", "ledger", "raw"):
            _tab(page, tab)
            look(tab)
        page.get_by_role("searchbox").fill("o")
        look("search")
        trace = new_id()
        orphan = _span(trace, "orphan", 1, 2, parent_id="missing")
        _put(server, orphan, _span(trace, "open", 1, None))
        _open(page, trace, span="missing")
        expect(page.get_by_role("region", name="Span")).to_contain_text("Not stored")
        look("missing")
        page.goto(f"/traces/{new_id()}", wait_until="networkidle")
        expect(page.get_by_role("heading", name="No such trace")).to_be_visible()
        look("none")
        # The browser's own word on the answer 404.
        assert all("404" in said for said in watched.said)
        watched.said.clear()
        page.goto(f"/compare?a={tree}&b={trace}")
        expect(page.get_by_role("table")).to_be_visible()
        look("compare")
        page.goto("/compare")
        expect(page.get_by_role("heading", name="Compare")).to_be_visible()
        look("compare-choice")

    def test_a_phone_scrolls_sideways_nowhere_and_targets_are_large(
        self, page: Page, tree: str, screenshots: Path | None
    ) -> None:
        page.set_viewport_size({"width": 360, "height": 740})
        for address in (
            f"/traces/{tree}",
            f"/traces/{tree}?tab=ledger",
            f"/compare?a={tree}&b={tree}",
        ):
            page.goto(address)
            if "compare" not in address:
                _row(page, "tool").first.click()
                expect(page.get_by_role("tab").first).to_be_in_viewport()
            else:
                expect(page.get_by_role("table")).to_be_visible()
            if screenshots:
                name = "compare" if "compare" in address else "ledger" if "?" in address else "span"
                page.screenshot(path=screenshots / f"phone-{name}.png")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            small = page.evaluate(
                "[...document.querySelectorAll('button, input:not([type=checkbox]), select,"
                " header a, .trace-head a, [role=row]')].filter(one => one.checkVisibility())"
                ".filter(one => !one.closest('.row') || one.matches('.row'))"
                ".map(one => [one.outerHTML.slice(0, 80), one.getBoundingClientRect()])"
                ".filter(([, box]) => box.height < 43.5 || box.width < 43.5)"
                ".map(([html, box]) => `${html} ${box.width}x${box.height}`)"
            )
            assert small == []

    def test_double_size_and_forced_colours_keep_all_within_reach(
        self, browser: Browser, server: ServerProcess, tree: str, screenshots: Path | None
    ) -> None:
        context = browser.new_context(
            base_url=server.base_url,
            viewport={"width": 640, "height": 400},
            device_scale_factor=2,
            forced_colors="active",
            reduced_motion="reduce",
        )
        page = context.new_page()
        page.goto(f"/traces/{tree}")
        _row(page, "tool").click()
        expect(page.get_by_role("tab").first).to_be_visible()
        if screenshots:
            page.screenshot(path=screenshots / "forced.png")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        bar = page.locator(".row.selected .bar")
        expect(bar).to_be_visible()
        paints = page.evaluate(
            "getComputedStyle(document.querySelector('.row.selected .bar')).backgroundColor !=="
            "getComputedStyle(document.querySelector('.row.selected')).backgroundColor"
        )
        assert paints
        assert page.evaluate("document.getAnimations().length") == 0
        context.close()


class TestAnnotations:
    def test_thumbs_and_notes_stay(self, page: Page, tree: str) -> None:
        _open(page, tree)
        _row(page, "model").click()
        good = page.get_by_role("button", name="good")
        good.click()
        expect(good).to_have_attribute("aria-pressed", "true")
        page.get_by_label("Note", exact=True).fill("<b>looks right</b>")
        page.keyboard.press("Enter")
        expect(page.get_by_text("<b>looks right</b>")).to_be_visible()
        page.reload()
        expect(page.get_by_text("<b>looks right</b>")).to_be_visible()
        expect(good).to_have_attribute("aria-pressed", "true")
        good.click()
        expect(good).to_have_attribute("aria-pressed", "false")
        page.get_by_role("button", name="Remove the note").click()
        expect(page.get_by_text("<b>looks right</b>")).to_have_count(0)


class TestCompare:
    def test_spans_are_aligned_and_words_that_changed_are_marked(
        self, page: Page, server: ServerProcess
    ) -> None:
        ids = []
        for question, extra in (("plan a short trip", False), ("plan a long trip", True)):
            trace = new_id()
            turn = _span(trace, "turn", 0, 3)
            model = _span(
                trace, "model", 0, 2 if extra else 1, parent_id=turn["id"], input={"q": question}
            )
            _put(server, turn, model)
            if extra:
                _put(server, _span(trace, "retry", 2, 3, parent_id=turn["id"]))
            ids.append(trace)
        page.goto(f"/compare?a={ids[0]}&b={ids[1]}")
        rows = page.get_by_role("row")
        expect(rows).to_have_count(4)
        expect(rows.nth(2)).to_contain_text("model")
        expect(rows.nth(2)).to_contain_text("+1.00s")
        expect(rows.nth(3)).to_contain_text("retry")
        expect(rows.nth(3)).to_contain_text("–")
        rows.nth(2).get_by_role("button").click()
        expect(page.locator("del")).to_have_text(["short"])
        expect(page.locator("ins")).to_have_text(["long"])


class TestTotals:
    def test_totals_are_those_of_the_command_line(self, page: Page, server: ServerProcess) -> None:
        trace = new_id()
        usage = {"input_tokens": 1200, "output_tokens": 345}
        turn = _span(trace, "turn", 0, 3)
        _put(
            server,
            turn,
            _span(
                trace,
                "model",
                type="COMPLETION",
                parent_id=turn["id"],
                output={"role": "assistant", "content": "Hi", "usage": usage},
            ),
        )
        shown = subprocess.run(
            [
                *(sys.executable, "-m", "everyspan", "traces", "show", trace, "--json"),
                *("--url", server.base_url),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert shown.returncode == 0, shown.stderr
        tokens = json.loads(shown.stdout)["tokens"]
        _open(page, trace)
        head = page.locator(".trace-head")
        total = head.get_by_text("1.2k→345 tok")
        expect(total).to_be_visible()
        title = total.get_attribute("title")
        assert f"{tokens['input']:,}→{tokens['output']:,}" in str(title)
