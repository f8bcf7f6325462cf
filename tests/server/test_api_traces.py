"""`everyspan.server.api_traces` over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from everyspan.cli.summary import TraceSummary, tokens_json
from everyspan.model.w3c import trace_hex
from tests.server.rows import END, START, START_NS, make_item
from tests.server.stores.trace_contract import SECOND_NS
from tests.waiting import wait_until

HOSTILE = [
    "../../etc/passwd",
    "..%2f..",
    "'; DROP TABLE spans; --",
    '" OR ""="',
    "<script>alert(1)</script>",
    "\0",
    "a\nb",
    "\ud800".encode("utf-8", "surrogatepass"),
    "🙈" * 60,
    "%",
    "*",
]


@pytest.fixture
def put(http: httpx2.Client) -> Callable[..., None]:
    """Stores spans, and waits until their traces are listed."""

    def put(*items: dict[str, Any]) -> None:
        for batch in _batches(items):
            http.put("/v5/spans/batch", json={"items": batch}).raise_for_status()
        wanted = {trace_hex(item["trace_id"]) for item in items}

        def is_listed() -> bool:
            listed = http.get("/api/traces", params={"limit": 500}).json()["items"]
            return wanted <= {item["id"] for item in listed}

        wait_until(is_listed)

    return put


def _batches(items: tuple[dict[str, Any], ...]) -> list[list[dict[str, Any]]]:
    return [list(items[n : n + 1_000]) for n in range(0, len(items), 1_000)]


def at(seconds: float) -> str:
    return f"2026-01-02T03:05:{seconds:06.3f}Z"


def get(http: httpx2.Client, path: str, **params: Any) -> Any:
    reply = http.get(path, params=params)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_trace_is_listed_as_the_page_shows_it(
    http: httpx2.Client, put: Callable[..., None]
) -> None:
    """Issue acceptance: one row a trace, all of it from what producers sent."""
    put(
        make_item(
            id="root",
            trace_id="order 7",
            name="turn",
            input={"messages": [{"role": "user", "content": "Where is my order?"}]},
            output={"response": "It is lost."},
            metadata={
                "__agent_name__": "shop",
                "__task_id__": "conversation",
                "__everyspan__": {"p": "a", "n": 2, "rev": 1, "total": 3, "dropped": {"full": 1}},
            },
        ),
        make_item(
            id="call",
            trace_id="order 7",
            parent_id="root",
            type="COMPLETION",
            status="ERROR",
            output={"usage": {"input_tokens": 7, "output_tokens": 3}},
            metadata={
                "model": "gpt",
                "__error__": {"type": "Boom", "message": "no"},
                "__everyspan__": {"p": "a", "n": 1, "rev": 1},
            },
        ),
    )
    [item] = get(http, "/api/traces")["items"]
    assert item.pop("change").isdigit()
    assert item == {
        "id": trace_hex("order 7"),
        "trace_id": "order 7",
        "root": {"span_id": "root", "stored": True},
        "name": "turn",
        "type": "STANDALONE",
        "status": "SUCCESS",
        "start": START,
        "start_ns": str(START_NS),
        "end": END,
        "end_ns": "1767323046000000000",
        "duration_ns": str(1767323046000000000 - START_NS),
        "spans": 2,
        "completeness": {
            "state": "lost",
            "sign": "✕",
            "words": "2 of 3, 1 dropped: full",
            "stalled": False,
            "stored": 2,
            "counted": 2,
            "expected": 3,
            "missing": 1,
            "dropped": {"full": 1},
            "late": 0,
            "unaccounted": 0,
            "open": 0,
            "parents_missing": 0,
        },
        "errors": {"count": 1, "type": "Boom", "message": "no"},
        "tokens": {"input": 7, "output": 3, "rule": "per call", "other": None},
        "cost": {"usd": None, "rule": None, "other": None},
        "agent": "shop",
        "models": ["gpt"],
        "session": "conversation",
        "user": None,
        "input": "Where is my order?",
        "output": "It is lost.",
    }
    for form in ("order 7", trace_hex("order 7")):
        assert get(http, f"/api/traces/{quote(form)}")["trace_id"] == "order 7"


def test_totals_are_those_of_the_command_line(
    http: httpx2.Client, put: Callable[..., None]
) -> None:
    """Acceptance 17: `traces show --json` and the page; nothing counted twice."""
    usage = {"usage": {"prompt_tokens": 10, "completion_tokens": 2}}
    put(
        make_item(id="chain", trace_id="t", output=usage),
        make_item(id="call", trace_id="t", parent_id="chain", output=usage),
        make_item(id="other", trace_id="t", output=usage),
    )
    spans = http.post("/v5/spans/search", json={"trace_ids": ["t"]}).json()["items"]
    summary = TraceSummary("t")
    for span in spans:
        summary.add(span)
    tokens = get(http, "/api/traces/t")["tokens"]
    assert tokens == {"input": 20, "output": 4, "rule": "per call", "other": None}
    assert tokens_json(summary.total).items() <= tokens.items()


def test_pages_go_both_ways(http: httpx2.Client, put: Callable[..., None]) -> None:
    """Q1: `next` and `previous` of pages in every order."""
    put(
        *(
            make_item(trace_id=f"t{n}", start_timestamp=at(n), end_timestamp=at(n + n % 3))
            for n in range(10)
        )
    )
    for order in ({}, {"sort": "duration"}, {"order": "asc"}, {"sort": "cost", "order": "asc"}):
        first = get(http, "/api/traces", limit=4, **order)
        second = get(http, "/api/traces", limit=4, after=first["next"], **order)
        third = get(http, "/api/traces", limit=4, after=second["next"], **order)
        assert (first["previous"], third["next"]) == (None, None)
        ids = [item["id"] for page in (first, second, third) for item in page["items"]]
        assert len(set(ids)) == len(ids) == 10
        back = get(http, "/api/traces", limit=4, before=third["previous"], **order)
        assert back["items"] == second["items"]
        again = get(http, "/api/traces", limit=4, before=back["previous"], **order)
        assert again["items"] == first["items"]
    reply = http.get("/api/traces", params={"sort": "cost", "after": first["next"], "limit": 4})
    assert reply.status_code == 200
    reply = http.get("/api/traces", params={"sort": "tokens", "after": first["next"]})
    assert (reply.status_code, reply.json()["code"]) == (400, "INVALID_CURSOR")


def test_filters_of_the_page(http: httpx2.Client, put: Callable[..., None]) -> None:
    """Repeated values are alternatives, different names hold together."""
    for n, (model, status) in enumerate([("a", None), ("b", "ERROR"), ("c", "ERROR")]):
        put(
            make_item(
                trace_id=f"t{n}",
                status=status or "SUCCESS",
                metadata={"model": model},
                start_timestamp=at(n),
                end_timestamp=at(n + 1),
            )
        )

    def found(**params: Any) -> list[str]:
        return [item["trace_id"] for item in get(http, "/api/traces", **params)["items"]]

    assert found(model=["a", "b"]) == ["t1", "t0"]
    assert found(model=["a", "b"], has_error="true") == ["t1"]
    assert found(**{"from": at(1), "to": at(2)}) == ["t1"]
    start_ns = int(get(http, "/api/traces/t1")["start_ns"])
    assert found(**{"from": str(start_ns), "to": str(start_ns + 1)}) == ["t1"]
    assert found(min_duration_ns=SECOND_NS) == ["t2", "t1", "t0"]
    assert found(min_duration_ns=SECOND_NS + 1) == []
    assert get(http, "/api/series", model=["b"])["total"]["count"] == 1
    assert get(http, "/api/facets/model")["items"] == [
        {"value": value, "traces": 1} for value in "abc"
    ]
    [group] = get(http, "/api/overview", by="type")["items"]
    assert (group["value"], group["figures"]["count"], group["figures"]["errors"]) == (
        "STANDALONE",
        3,
        2,
    )


def test_text_is_found_in_names_and_payloads(http: httpx2.Client, put: Callable[..., None]) -> None:
    """Search: with other filters, in every order, its figures too."""
    for n in range(4):
        put(
            make_item(
                trace_id=f"t{n}",
                name="book" if n == 3 else "n",
                input={"q": f"a refund of {n} dollars"},
                start_timestamp=at(n),
                end_timestamp=at(9),
                metadata={"model": f"m{n % 2}"},
            )
        )

    def found(*text: str, **params: Any) -> list[str]:
        page = get(http, "/api/traces", text=text, **params)
        assert page["partial"] is False
        return [item["trace_id"] for item in page["items"]]

    assert found("refund of") == ["t3", "t2", "t1", "t0"]
    assert found("refund of", "dollars", model="m1", sort="duration") == ["t1", "t3"]
    assert found('"2 dollars"') == ["t2"]
    assert found("book") == ["t3"]
    assert found("nowhere") == []
    assert get(http, "/api/series", text="refund", model="m1")["total"]["count"] == 2
    first = get(http, "/api/traces", text="refund", limit=3)
    last = get(http, "/api/traces", text="refund", limit=3, after=first["next"])
    assert [item["trace_id"] for item in last["items"]] == ["t0"]


def test_spans_of_a_trace_are_a_table(http: httpx2.Client, put: Callable[..., None]) -> None:
    """Columns; parents by place, those that are missing by id; what comes later by `since`."""
    put(
        make_item(id="root", trace_id="t", name="turn", input={"k": 1}, end_timestamp=...),
        make_item(
            id="b",
            trace_id="t",
            name="tool",
            parent_id="root",
            start_timestamp=at(1),
            end_timestamp=at(2),
        ),
        make_item(
            id="c",
            trace_id="t",
            parent_id="gone",
            start_timestamp=at(2),
            end_timestamp=at(3),
            metadata={"model": "m", "cost_usd": 0.5, "__error__": {"type": "E"}},
            output={"usage": {"input_tokens": 7}},
        ),
    )
    page = get(http, "/api/traces/t/spans")
    table = page["spans"]
    assert page["base_ns"] == str(START_NS)
    assert table["id"] == ["root", "b", "c"]
    assert table["parent"] == [None, 0, "gone"]
    assert [page["names"][place] for place in table["name"]] == ["turn", "tool", "n"]
    assert table["model"] == [-1, -1, 0]
    assert table["start"][1] == str(55_876_544_000)
    assert table["duration"] == [None, str(SECOND_NS), str(SECOND_NS)]
    assert table["input_bytes"] == [len('{"k":1}'), 0, 0]
    assert page["usage"] == {"span": [2], "input": [7], "output": [None], "cost_usd": [0.5]}
    assert page["errors"] == [{"span": 2, "type": "E"}]
    put(make_item(id="root", trace_id="t", name="turn"))
    later = get(http, "/api/traces/t/spans", since=page["change"])
    assert later["spans"]["id"] == ["root"]
    assert get(http, "/api/traces/t/spans", since=later["change"])["spans"]["id"] == []
    first = get(http, "/api/traces/t/spans", limit=2)
    assert get(http, "/api/traces/t/spans", limit=2, after=first["next"])["spans"]["id"] == ["c"]


def test_ten_thousand_spans_are_a_megabyte(http: httpx2.Client, put: Callable[..., None]) -> None:
    """Budget of the page: the skeleton of 10,000 spans with UUIDs has at most 1 MB."""
    ids = [f"7f0b6a52-8f0e-4f83-9c6d-9a6e{n:08x}" for n in range(10_000)]
    usage = {"usage": {"input_tokens": 1_234, "output_tokens": 567}}
    put(
        *(
            make_item(
                id=id_,
                trace_id="t",
                name=f"span {n % 20}",
                parent_id=ids[n // 10] if n else None,
                start_timestamp=f"2026-01-02T03:{n // 60 % 60:02}:{n % 60:02}.123456Z",
                end_timestamp=f"2026-01-02T04:{n // 60 % 60:02}:{n % 60:02}.654321Z",
                output=usage if n % 3 == 0 else {},
                metadata={"model": "gpt"} if n % 3 == 0 else {},
            )
            for n, id_ in enumerate(ids)
        )
    )
    reply = http.get("/api/traces/t/spans")
    assert len(reply.json()["spans"]["id"]) == 10_000
    assert len(reply.content) <= 1_000_000


def test_a_large_payload_is_shown_in_parts(http: httpx2.Client, put: Callable[..., None]) -> None:
    """Q2, acceptance 12 and 15: 64 KiB until asked; numbers as written; a download byte-equal."""
    written = '{"n":1152921504606846977,"text":"' + "é🙈" * 400_000 + '"}'
    body = '{"items":[{"id":"s/1","trace_id":"t","name":"n","start_timestamp":"%s","input":%s}]}'
    http.put("/v5/spans/batch", content=(body % (START, written)).encode()).raise_for_status()
    span = get(http, "/api/traces/t/spans/s/1")
    piece = span["payloads"]["input"]
    assert (piece["offset"], piece["size"]) == (0, len(written.encode()))
    assert len(piece["text"].encode()) in range(64 * 1024 - 3, 64 * 1024 + 1)
    text = piece["text"]
    while piece["next"] is not None:
        path = "/api/traces/t/payloads/input/s/1"
        piece = get(http, path, offset=piece["next"], length=500_000)
        text += piece["text"]
    assert text == written
    download = http.get("/api/traces/t/downloads/input/s/1")
    assert download.content == written.encode()
    assert download.headers["content-disposition"] == 'attachment; filename="input.json"'
    for path in ("payloads/output/s/1", "downloads/output/s/1", "spans/s", "payloads/input/x"):
        assert http.get(f"/api/traces/t/{path}").status_code == 404
    assert http.get("/api/traces/t/payloads/secret/s").status_code == 422
    assert get(http, "/api/traces/t/payloads/input/s/1", offset=10**9)["text"] == ""


def test_a_conversation_is_its_turns_in_order(
    http: httpx2.Client, put: Callable[..., None]
) -> None:
    """Turns of one task, each a trace, the first one first."""
    for n in (2, 0, 1):
        put(
            make_item(
                trace_id=f"t{n}",
                start_timestamp=at(n),
                end_timestamp=at(n + 1),
                metadata={"__task_id__": "a/b"},
            )
        )
    found = get(http, "/api/conversations/a/b")
    assert [item["trace_id"] for item in found["items"]] == ["t0", "t1", "t2"]
    assert get(http, "/api/conversations/none")["items"] == []


def test_annotations_are_assessments(http: httpx2.Client, put: Callable[..., None]) -> None:
    """Thumbs and notes: said on either side, shown on both; without credentials."""
    put(make_item(trace_id="a/b", id="s"))
    trace = trace_hex("a/b")
    thumb = {"trace_id": "a/b", "span_id": "s", "kind": "approval", "approval": "rejected"}
    made = http.post("/api/annotations", json=thumb).json()
    note = {"trace_id": "a/b", "assessment_type": "comment", "comment": "Bearer abcdefgh12345"}
    http.post("/v5/span-assessments", json=note).raise_for_status()
    first, second = get(http, f"/api/traces/{trace}/annotations")["items"]
    assert first == made
    assert (first["kind"], first["approval"], first["span_id"]) == ("approval", "rejected", "s")
    assert (second["kind"], second["span_id"]) == ("comment", "s")
    assert "abcdefgh" not in second["comment"]
    assert http.delete(f"/api/annotations/{made['id']}").status_code == 204
    assert http.delete(f"/api/annotations/{made['id']}").status_code == 404
    assert get(http, f"/api/traces/{trace}/annotations")["items"] == [second]
    for wrong in ({"approval": None}, {"kind": "rating", "rating": 6}, {"span_id": ""}):
        assert http.post("/api/annotations", json=thumb | wrong).status_code == 422
    assert http.post("/api/annotations", json=thumb | {"span_id": "x"}).status_code == 404


@pytest.mark.parametrize(
    ("path", "params", "name"),
    [
        ("/api/traces", {"limt": "3"}, "limt"),
        ("/api/traces", {"limit": "0"}, "limit"),
        ("/api/traces", {"limit": "501"}, "limit"),
        ("/api/traces", {"limit": "1e1"}, "limit"),
        ("/api/traces", {"limit": ["1", "2"]}, "limit"),
        ("/api/traces", {"from": "yesterday"}, "from"),
        ("/api/traces", {"from": "9" * 19}, "from"),
        ("/api/traces", {"state": "fine"}, "state"),
        ("/api/traces", {"sort": "name"}, "sort"),
        ("/api/traces", {"min_cost_usd": "NaN"}, "min_cost_usd"),
        ("/api/traces", {"min_cost_usd": "-1"}, "min_cost_usd"),
        ("/api/traces", {"min_tokens": "-1"}, "min_tokens"),
        ("/api/traces", {"name": ""}, "name"),
        ("/api/traces", {"name": "x" * 257}, "name"),
        ("/api/traces", {"name": ["x"] * 21}, "name"),
        ("/api/traces", {"text": "x"}, "text"),
        ("/api/traces", {"text": '"x"'}, "text"),
        ("/api/traces", {"text": ["xx"] * 11}, "text"),
        ("/api/traces/t/spans", {"since": "x"}, "since"),
        ("/api/facets/payload", {}, "facet"),
        ("/api/series", {"buckets": "501"}, "buckets"),
    ],
)
def test_a_parameter_out_of_bounds_is_named(
    http: httpx2.Client, path: str, params: dict[str, Any], name: str
) -> None:
    """Q3: problem details; unknown ones are refused, too."""
    reply = http.get(path, params=params)
    assert reply.status_code == 422
    assert [detail["loc"][1] for detail in reply.json()["detail"]] == [name]


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "W10",
        "bnVsbA",
        "WyJzdGFydCIsMWU5OTksIiJd",
        "WyJzdGFydCIsOTk5OTk5OTk5OTk5OTk5OTk5OTk5LCIiXQ",
    ],
)
def test_a_forged_cursor_is_refused(http: httpx2.Client, cursor: str) -> None:
    for path in ("/api/traces", "/api/traces/t/spans", "/api/conversations/s"):
        reply = http.get(path, params={"after": cursor})
        assert reply.status_code in (200, 400, 404), reply.text
        assert reply.status_code != 200 or reply.json()["items"] == []


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_every_parameter_is_harmless(
    http: httpx2.Client, put: Callable[..., None], text: str | bytes
) -> None:
    """Issue, bad input: `../`, SQL, HTML, NUL, half a character; in each place alone."""
    put(make_item(trace_id="t", id="s"))
    operations = http.get("/api/openapi.json").json()["paths"]
    asked = 0
    for path, methods in operations.items():
        for parameter in methods.get("get", {}).get("parameters", ()):
            if parameter["in"] == "header" or parameter["name"] == "x-selected-account-id":
                continue
            place = path
            for name, good in (("trace_id", "t"), ("span_id", "s"), ("field", "input")):
                if parameter["name"] != name:
                    place = place.replace("{" + name + "}", good)
            place = place.replace("{" + parameter["name"] + "}", quote(text, safe=""))
            place = place.replace("{facet}", "name").replace("{session}", "s")
            place = place.replace("{producer_id}", "p")
            query = f"?{parameter['name']}={quote(text)}" if parameter["in"] == "query" else ""
            asked += 1
            with http.stream("GET", place + query) as reply:
                if reply.headers["content-type"].startswith("text/event-stream"):
                    continue  # It has no end.
                reply.read()
            assert reply.status_code in (200, 400, 404, 422), (place, query, reply.text)
            assert reply.headers["content-type"] == "application/json"
    assert asked > 50
    assert get(http, "/api/traces")["items"][0]["trace_id"] == "t"


def test_every_route_under_api_is_documented(http: httpx2.Client) -> None:
    """The document has every operation that is answered, its errors and its bounds."""
    document = http.get("/api/openapi.json").json()
    assert json.dumps(document).count("#/components/schemas/Problem")
    for path in ("/api/traces", "/api/producers", "/api/session", "/api/openapi.json"):
        assert path in document["paths"]
    for methods in document["paths"].values():
        for words in methods.values():
            assert {"400", "401", "422", "503"} <= words["responses"].keys()
            for parameter in words["parameters"]:
                assert parameter["description"]
                schema = parameter["schema"]
                schema = schema.get("items", schema)
                assert schema.keys() & {"maximum", "maxLength", "enum", "pattern"}, parameter
