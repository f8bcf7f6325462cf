"""The AgentEx spans API over plain HTTP: what it refuses, in which words; that nothing stays."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.server.rows import END, START, make_item

SPANS = "/spans"
EARLY = "2026-01-02T03:04:04Z"
NULLS: dict[str, Any] = dict.fromkeys(
    ("parent_id", "end_time", "input", "output", "data", "task_id")
)


def make_span(**fields: Any) -> dict[str, Any]:
    """Return a Create; a field given as `...` is left out."""
    defaults: dict[str, Any] = {"id": "s", "trace_id": "t", "name": "n", "start_time": START}
    return {name: value for name, value in (defaults | fields).items() if value is not ...}


def stored(http: httpx2.Client, **params: Any) -> list[dict[str, Any]]:
    reply = http.get(SPANS, params={"limit": 1_000} | params)
    assert reply.status_code == 200
    spans: list[dict[str, Any]] = reply.json()
    return spans


def send(http: httpx2.Client, method: str, path: str, content: object) -> httpx2.Response:
    """Send JSON as Python writes it, escapes of lone surrogates and NaN included."""
    return http.request(method, path, content=json.dumps(content))


def assert_invalid(reply: httpx2.Response, field: str) -> None:
    """`agx` §4."""
    assert reply.status_code == 422
    body = reply.json()
    assert body == {"status_code": 10422, "message": body["message"], "data": None}
    assert field in body["message"]
    assert reply.headers["x-everyspan"]


BAD_FIELDS: list[tuple[str, Any]] = [
    ("name", None),
    ("name", 5),
    ("name", ...),
    ("trace_id", None),
    ("trace_id", ...),
    ("trace_id", ""),
    ("trace_id", "t" * 4_097),
    ("trace_id", "a\0b"),
    ("start_time", ...),
    ("start_time", None),
    ("id", ""),
    ("id", "x" * 300),
    ("id", "😀" * 65),
    ("id", "a\0b"),
    ("id", "\ud800"),
    ("id", 7),
]
BAD_CHANGES: list[tuple[str, Any]] = [
    ("start_time", 5),
    ("start_time", "yesterday"),
    ("start_time", "2026-01-02"),
    ("start_time", "2026-13-45T99:99:99Z"),
    ("start_time", "0000-01-01T00:00:00Z"),
    ("start_time", "9999-12-31T23:59:59Z"),
    ("start_time", "10000-01-01T00:00:00Z"),
    ("start_time", "1969-12-31T23:59:59Z"),
    ("end_time", "never"),
    ("end_time", EARLY),
    ("parent_id", "x" * 300),
    ("parent_id", "a\0b"),
    ("parent_id", "\udfff"),
    ("parent_id", []),
    ("task_id", "x" * 4_097),
    ("task_id", "a\0b"),
    ("task_id", {}),
    ("input", "text"),
    ("input", 5),
    ("input", [1]),
    ("input", [{}, None]),
    ("output", [[]]),
    ("output", True),
    ("data", ["x"]),
    ("data", "x"),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS + BAD_CHANGES)
def test_a_bad_create_is_named_and_nothing_stored(
    http: httpx2.Client, field: str, value: Any
) -> None:
    assert_invalid(send(http, "POST", SPANS, make_span(**{field: value})), field)
    assert stored(http) == []


@pytest.mark.parametrize(("field", "value"), BAD_CHANGES)
def test_a_bad_change_is_named_and_nothing_changed(
    http: httpx2.Client, field: str, value: Any
) -> None:
    before = http.post(SPANS, json=make_span()).json()
    reply = send(http, "PATCH", f"{SPANS}/s", {field: value, "name": "new"})
    assert_invalid(reply, field)
    assert stored(http) == [before]


def test_all_that_is_wrong_is_said_at_once(http: httpx2.Client) -> None:
    reply = http.post(SPANS, json=make_span(start_time="x", id="", input=5))
    for field in ("start_time", "id", "input"):
        assert_invalid(reply, field)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"null",
        b"[]",
        b"5",
        b'"s"',
        b"\x00\xff",
        b'{"name":"n"',
        b'{"data":{"a":NaN}}',
        b'{"data":{"a":Infinity}}',
        b'{"data":' + b"[" * 100_000,
        b'{"data":' + b'{"a":' * 300 + b"1" + b"}" * 301,
        b'{"data":{"a":' + b"9" * 4_001 + b"}}",
    ],
)
def test_a_body_that_is_none_is_422(http: httpx2.Client, body: bytes) -> None:
    http.post(SPANS, json=make_span())
    before = stored(http)
    start = json.dumps(make_span(name="new")).encode()[:-1]
    created = start + b"," + body[1:] if body[:2] == b'{"' and body[2:6] == b"data" else body
    assert_invalid(http.post(SPANS, content=created), "body")
    assert_invalid(http.patch(f"{SPANS}/s", content=body), "body")
    assert stored(http) == before


def test_a_span_comes_back_as_the_contract_shows_it(http: httpx2.Client) -> None:
    """`agx` §2: all fields, times in UTC; unknown fields are ignored."""
    reply = http.post(
        SPANS,
        json=make_span(
            start_time="2026-01-02T05:04:05.123456+02:00",
            parent_id="",
            task_id="",
            metadata={"lost": 1},
            status="ERROR",
        ),
    )
    expected = make_span(start_time=START) | NULLS
    assert (reply.status_code, reply.json()) == (200, expected)
    assert http.get(f"{SPANS}/s").json() == expected
    assert stored(http) == [expected]
    assert http.patch(f"{SPANS}/s", json={}).json() == expected
    assert http.patch(f"{SPANS}/s", json=dict.fromkeys(expected)).json() == expected


def test_payloads_come_back_to_the_byte(http: httpx2.Client) -> None:
    raw = b'[{"big":123456789012345678901234567890, "float":1.10},{"exp":1E400}]'
    span = json.dumps(make_span()).encode()[:-1]
    for field in (b"input", b"output", b"data"):
        assert http.post(SPANS, content=b'%b,"%b":%b}' % (span, field, raw)).status_code == 200
    assert http.get(f"{SPANS}/s").content.count(raw) == 3


def test_what_may_not_be_kept_is_replaced_outside_identities(http: httpx2.Client) -> None:
    """`sgp` §6, bytes."""
    span = make_span(name="a\0\ud800", data=[{"k\0": "\udc00"}])
    assert send(http, "POST", SPANS, span).status_code == 200
    (shown,) = stored(http)
    assert (shown["name"], shown["data"]) == ("a\ufffd\ufffd", [{"k\ufffd": "\ufffd"}])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/spans/unknown"),
        ("PATCH", "/spans/unknown"),
        ("GET", "/spans/" + "x" * 300),
        ("GET", "/spans/%00"),
        ("GET", "/spans/%ff%fe"),
        ("GET", "/spans/..%2f..%2fetc%2fpasswd"),
        ("GET", "/spans/"),
    ],
)
def test_an_unknown_id_is_404(http: httpx2.Client, method: str, path: str) -> None:
    """`agx` §4, §9.7."""
    reply = http.request(method, path, content=b"{}" if method == "PATCH" else None)
    body = reply.json()
    assert (reply.status_code, body["code"], body["data"]) == (404, 404, None)
    assert body["message"].startswith("Item with id '")
    assert body["message"].endswith("' does not exist.")
    assert len(body["message"]) < 300
    assert reply.headers["x-everyspan"]


def test_an_unknown_method_is_told_so_in_the_words_of_this_api(http: httpx2.Client) -> None:
    for method, path in (("DELETE", "/spans/s"), ("PUT", "/spans"), ("DELETE", "/spans")):
        reply = http.request(method, path)
        expected = {"message": "Method Not Allowed", "code": 405, "data": None}
        assert (reply.status_code, reply.json()) == (405, expected)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": ""}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"limit": "²"}, "limit"),
        ({"limit": "9" * 5_000}, "limit"),
        ({"limit": ["1", "x"]}, "limit"),
        ({"page_number": "0"}, "page_number"),
        ({"page_number": "000"}, "page_number"),
        ({"page_number": "-3"}, "page_number"),
        ({"page_number": "1.5"}, "page_number"),
    ],
)
def test_a_page_that_is_none_is_422(
    http: httpx2.Client, params: dict[str, Any], field: str
) -> None:
    assert_invalid(http.get(SPANS, params=params), field)


def test_a_list_takes_what_the_contract_takes(http: httpx2.Client) -> None:
    """`agx` §3, List."""
    for n in range(3):
        # The same time throughout: ties come in the order of arrival, whatever the direction.
        http.post(SPANS, json=make_span(id=f"s{n}", trace_id=f"t{n}", end_time=END, name=f"{-n}"))
    arrival = ["s0", "s1", "s2"]
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, arrival),
        ({"order_direction": "asc"}, arrival),
        ({"order_by": "id"}, arrival[::-1]),
        ({"order_by": "id", "order_direction": "DeSc"}, arrival[::-1]),
        ({"order_by": "id", "order_direction": "upwards"}, arrival),
        ({"order_by": "id", "order_direction": ""}, arrival),
        ({"order_by": "name", "order_direction": "asc"}, ["s1", "s2", "s0"]),
        ({"order_by": "end_time"}, arrival),
        ({"order_by": "data"}, arrival),
        ({"order_by": "seq; DROP TABLE spans"}, arrival),
        ({"order_by": ""}, arrival),
        ({"trace_id": "", "task_id": ""}, arrival),
        ({"trace_id": "t1"}, ["s1"]),
        ({"task_id": "t1"}, ["s1"]),
        ({"trace_id": ["t0", "t1"]}, ["s1"]),
        ({"trace_id": "\0"}, []),
        ({"unknown": "x"}, arrival),
        ({"limit": ["x", "2"]}, arrival[:2]),
        ({"limit": "002", "page_number": "2"}, arrival[2:]),
        ({"page_number": "2"}, []),
        ({"page_number": "9" * 5_000}, []),
        ({"page_number": "9" * 18}, []),
        ({"limit": "1000", "page_number": str(2**63)}, []),
    ]
    for params, ids in cases:
        assert [span["id"] for span in http.get(SPANS, params=params).json()] == ids, params


def test_a_page_larger_than_memory_allows_is_refused_not_cut(http: httpx2.Client) -> None:
    """P4; whoever counts pages would never see what was left out of one."""
    for n in range(4):
        big = make_span(id=f"s{n}", data=[{"x": "x" * 12_000_000}])
        assert http.post(SPANS, json=big).status_code == 200
    reply = http.get(SPANS)
    message = "the page is larger than 33554432 bytes; lower limit"
    assert (reply.status_code, reply.json()) == (
        400,
        {"message": message, "code": 400, "data": None},
    )
    for page in range(1, 5):
        (span,) = http.get(SPANS, params={"limit": 1, "page_number": page}).json()
        assert span["id"] == f"s{page - 1}"


def test_parents_are_taken_unseen_unless_they_form_a_cycle(http: httpx2.Client) -> None:
    """`agx` §2; 400 and not 409, which the client would send three times."""
    http.post(SPANS, json=make_span(id="elsewhere", trace_id="u"))
    for id_, parent_id in (("a", "unknown"), ("b", "elsewhere"), ("c", "a")):
        reply = http.post(SPANS, json=make_span(id=id_, parent_id=parent_id))
        assert (reply.status_code, reply.json()["parent_id"]) == (200, parent_id)
    before = stored(http)
    refused = {"message": "the parents form a cycle", "code": 400, "data": None}
    for reply in (
        http.post(SPANS, json=make_span(id="self", parent_id="self")),
        http.post(SPANS, json=make_span(id="a", parent_id="c")),
        http.patch(f"{SPANS}/a", json={"parent_id": "a"}),
        http.patch(f"{SPANS}/a", json={"parent_id": "c"}),
    ):
        assert (reply.status_code, reply.json()) == (400, refused)
    assert stored(http) == before


def test_an_end_may_not_precede_a_start_across_changes(http: httpx2.Client) -> None:
    http.post(SPANS, json=make_span(end_time=END))
    before = stored(http)
    assert_invalid(http.patch(f"{SPANS}/s", json={"end_time": EARLY}), "end_time")
    later = {"start_time": "2026-01-02T04:00:00Z"}
    assert_invalid(http.patch(f"{SPANS}/s", json=later), "end_time")
    assert stored(http) == before
    both = later | {"end_time": "2026-01-02T04:00:01Z"}
    assert http.patch(f"{SPANS}/s", json=both).status_code == 200


def test_changes_at_once_lose_no_key_of_data(base_url: str, account: str) -> None:
    """`agx` §3: many connections, each with a key of its own."""
    headers = {"x-selected-account-id": account}
    with httpx2.Client(base_url=base_url, headers=headers, timeout=30) as http:
        http.post(SPANS, json=make_span(data={"there": True}))

        def patch(n: int) -> int:
            return http.patch(f"{SPANS}/s", json={"data": {f"k{n}": n}}).status_code

        with ThreadPoolExecutor(16) as threads:
            assert set(threads.map(patch, range(300))) == {200}
        data = http.get(f"{SPANS}/s").json()["data"]
    assert data == {"there": True} | {f"k{n}": n for n in range(300)}


def test_an_id_in_several_traces_is_the_one_in_the_trace_named(http: httpx2.Client) -> None:
    """Decisions/014: a change names its trace, as the SDK's do, or means the latest written."""
    for trace_id in ("t1", "t2"):
        http.post(SPANS, json=make_span(trace_id=trace_id))
    assert http.get(f"{SPANS}/s").json()["trace_id"] == "t2"
    http.patch(f"{SPANS}/s", json={"trace_id": "t1", "name": "named"})
    assert http.get(f"{SPANS}/s").json()["name"] == "named"
    http.patch(f"{SPANS}/s", json={"trace_id": "t3"})
    assert {(span["trace_id"], span["name"]) for span in stored(http)} == {
        ("t2", "n"),
        ("t3", "named"),
    }


def test_a_span_says_who_counts_it_through_every_change(http: httpx2.Client) -> None:
    """P11: completeness lies in `data`; an edit, even one by array, makes no hole."""
    end = {"p": "part", "n": 1, "rev": 1, "total": 1}
    http.post(SPANS, json=make_span(data={"__everyspan__": {"p": "part", "rev": 0}, "k": 1}))
    http.patch(f"{SPANS}/s", json={"end_time": END, "data": {"__everyspan__": end, "k": 2}})
    ended = http.get(f"{SPANS}/s").json()
    assert ended["data"] == {"__everyspan__": end, "k": 2}
    # P6: an older version that a retry delivers late fills only what is empty.
    late = {"data": {"__everyspan__": {"p": "part", "rev": 0}, "k": 1}, "name": "old", "output": {}}
    assert http.patch(f"{SPANS}/s", json=late | {"input": {"i": 1}}).json() == ended | {
        "input": {"i": 1},
        "output": {},
    }
    # Whoever reads, changes and sends it all back is no version of the producer's.
    edited = http.patch(f"{SPANS}/s", json={"data": ended["data"] | {"rating": 5}}).json()
    assert edited["data"] == {"__everyspan__": end, "k": 2, "rating": 5}
    replaced = http.patch(f"{SPANS}/s", json={"data": [{"a": 1}]}).json()
    assert replaced["data"] == {"__everyspan__": end, "items": [{"a": 1}]}


def test_errors_travel_both_ways_and_back(http: httpx2.Client) -> None:
    """`agx` §7: what a reader gets and sends back is what was there."""
    error = {"type": "CancelledError", "message": "", "category": "unknown"}
    http.post(SPANS, json=make_span(data={"__error__": error}))
    sgp = http.get("/v5/spans/s").json()
    assert (sgp["status"], sgp["metadata"]["error_type"]) == ("CANCELED", "CancelledError")
    shown = http.get(f"{SPANS}/s").json()
    assert shown["data"] == {"__error__": error}
    http.patch(f"{SPANS}/s", json={"data": shown["data"]})
    assert http.get("/v5/spans/s").json() == sgp
    # Own words of the sender's under those names are not touched.
    for data in (
        {"__error__": error, "error": "mine"},
        {"__error__": {"type": 5}},
        {"__error__": "text"},
        {"__error__": None, "error_type": "mine"},
    ):
        made = http.post(SPANS, json=make_span(id="own", trace_id=str(data), data=data)).json()
        assert made["data"] == data


def test_a_task_in_the_data_is_the_task(http: httpx2.Client) -> None:
    """`agx` §7: what a sender puts there whose server knew no such task, or who reads `/v5`."""
    http.post(SPANS, json=make_span(data={"__task_id__": "k", "d": 1}))
    (span,) = stored(http, task_id="k")
    assert (span["task_id"], span["data"]) == ("k", {"d": 1})
    http.patch(f"{SPANS}/s", json={"data": {"__task_id__": "l"}})
    assert [span["task_id"] for span in stored(http)] == ["l"]
    # The field wins.
    http.patch(f"{SPANS}/s", json={"task_id": "m", "data": {"__task_id__": 5}})
    (span,) = stored(http, task_id="m")
    assert span["data"] == {"d": 1, "__task_id__": 5}
    assert http.get("/v5/spans/s").json()["metadata"] == {"d": 1, "__task_id__": "m"}


def test_an_sgp_writer_and_this_api_complete_one_span(http: httpx2.Client) -> None:
    """`agx:A2`, `sgp:M1`-`M3`: one row, whichever API a version came over."""
    http.post(SPANS, json=make_span(task_id="k", input=[{"i": 1}], data={"d": 1}))
    item = make_item(id="s", output={"o": 1}, metadata={}, type="COMPLETION", group_id="g")
    http.put("/v5/spans/batch", json={"items": [item]})
    http.post(SPANS, json=make_span(name="late", input=[], data={}, output={"late": 1}))
    assert stored(http) == [
        make_span(
            parent_id=None,
            end_time=END,
            input=[{"i": 1}],
            output={"o": 1},
            data={"d": 1, "__span_type__": "COMPLETION"},
            task_id="k",
        )
    ]
    sgp = http.get("/v5/spans/s").json()
    assert (sgp["input"], sgp["group_id"]) == ({"items": [{"i": 1}]}, "g")
    assert sgp["metadata"] == {"d": 1, "__task_id__": "k"}


def test_who_names_no_account_writes_to_the_local_one(base_url: str) -> None:
    """Decisions/014: where `everyspan traces` and `audit` look, and our SDK writes."""
    with httpx2.Client(base_url=base_url) as http:
        http.post(SPANS, json=make_span(id="of nobody"))
        local = {"x-selected-account-id": "local"}
        reply = http.get("/v5/spans/of nobody", headers=local)
        assert reply.json()["account_id"] == "local"
        http.put("/v5/spans/batch", json={"items": [make_item(id="over sgp")]}, headers=local)
        assert http.get(f"{SPANS}/over sgp").status_code == 200
        other = {"x-selected-account-id": "other"}
        assert http.get(f"{SPANS}/over sgp", headers=other).status_code == 404
        reply = http.get(SPANS, headers={"x-selected-account-id": "x" * 257})
        assert (reply.status_code, reply.json()["code"]) == (400, 400)
