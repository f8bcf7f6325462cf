"""The SGP spans API over plain HTTP: what it refuses, where it says so, and that nothing stays."""

from __future__ import annotations

import gzip
import json
import threading
from typing import Any

import httpx2
import pytest

from everyspan.model.ids import new_id
from tests.server.rows import END, START, make_item

BATCH = "/v5/spans/batch"


def test_a_sender_may_be_spared_what_it_sent(http: httpx2.Client) -> None:
    """RFC 7240: `Prefer: return=minimal` is honoured and said to be."""
    items = [make_item(id=new_id())]
    reply = http.put(BATCH, json={"items": items}, headers={"prefer": "return=minimal"})
    assert (reply.status_code, reply.json()["items"]) == (200, [])
    assert reply.headers["preference-applied"] == "return=minimal"
    assert [item["id"] for item in stored(http)] == [items[0]["id"]]


def stored(http: httpx2.Client) -> list[dict[str, Any]]:
    reply = http.post("/v5/spans/search", json={}, params={"limit": 10_000})
    assert reply.status_code == 200
    items: list[dict[str, Any]] = reply.json()["items"]
    return items


def locs(reply: httpx2.Response) -> list[list[str | int]]:
    detail = reply.json()["detail"]
    return [one["loc"] for one in detail] if isinstance(detail, list) else []


BAD_ITEMS: list[tuple[str, dict[str, Any], int]] = [
    ("name", {"name": ...}, 422),
    ("name", {"name": None}, 422),
    ("name", {"name": 5}, 422),
    ("trace_id", {"trace_id": ...}, 422),
    ("trace_id", {"trace_id": ""}, 422),
    ("trace_id", {"trace_id": "t" * 4_097}, 422),
    ("trace_id", {"trace_id": "a\0b"}, 400),
    ("start_timestamp", {"start_timestamp": ...}, 422),
    ("start_timestamp", {"start_timestamp": 5}, 422),
    ("start_timestamp", {"start_timestamp": "yesterday"}, 422),
    ("start_timestamp", {"start_timestamp": "1969-12-31T23:59:59Z"}, 422),
    ("end_timestamp", {"end_timestamp": "2026-01-02"}, 422),
    ("end_timestamp", {"end_timestamp": "2026-01-02T03:04:05.123455999Z"}, 422),
    ("id", {"id": "x" * 257}, 422),
    ("id", {"id": "😀" * 65}, 400),
    ("id", {"id": "😀" * 256}, 400),
    ("id", {"id": ""}, 422),
    ("id", {"id": "a\0b"}, 400),
    ("id", {"id": "\ud800"}, 400),
    ("id", {"id": ["x"]}, 422),
    ("parent_id", {"parent_id": "a\0b"}, 400),
    ("parent_id", {"parent_id": "x" * 257}, 422),
    ("group_id", {"group_id": "x" * 257}, 422),
    ("group_id", {"group_id": "é" * 129}, 400),
    ("group_id", {"group_id": "\udc00"}, 400),
    ("input", {"input": []}, 422),
    ("input", {"input": "text"}, 422),
    ("output", {"output": 5}, 422),
    ("metadata", {"metadata": True}, 422),
    ("expected", {"expected": [{}]}, 422),
    ("status", {"status": "DONE"}, 422),
    ("status", {"status": "success"}, 422),
    ("type", {"type": "NOVEL"}, 422),
    ("obs_trace_id", {"obs_trace_id": "A" * 32}, 422),
    ("obs_trace_id", {"obs_trace_id": "a" * 31}, 422),
    ("obs_span_id", {"obs_span_id": "a" * 16}, 422),
    ("obs_span_id", {"obs_span_id": "g" * 16, "obs_trace_id": "a" * 32}, 422),
]


@pytest.mark.parametrize(("field", "fields", "status"), BAD_ITEMS)
def test_a_bad_item_is_named_and_nothing_of_its_batch_is_stored(
    http: httpx2.Client, field: str, fields: dict[str, Any], status: int
) -> None:
    """`sgp:E4`, E5, §3, §10.8, §10.9."""
    bad = make_item(**fields)
    batch = json.dumps({"items": [make_item(), bad, make_item()]})
    for method in ("PUT", "POST"):
        reply = http.request(method, BATCH, content=batch)
        assert (reply.status_code, locs(reply)) == (status, [["body", "items", 1, field]])
        assert set(reply.json()) == {"detail", "message", "code", "request_id"}
    reply = http.post("/v5/spans", content=json.dumps(bad))
    assert (reply.status_code, locs(reply)) == (status, [["body", field]])
    assert stored(http) == []


def test_all_offenders_are_named_at_once(http: httpx2.Client) -> None:
    """C2: a sender can cut them all out and send once more."""
    items = [make_item(**fields) for _, fields, status in BAD_ITEMS if status == 422]
    reply = http.put(BATCH, json={"items": [make_item(), *items]})
    assert reply.status_code == 422
    assert {loc[2] for loc in locs(reply)} == set(range(1, len(items) + 1))
    reply = http.put(BATCH, json={"items": [make_item(id="")] * 1_000})
    assert len(locs(reply)) == 100


BAD_BODIES: list[tuple[bytes, int, list[str | int]]] = [
    (b"", 400, ["body"]),
    (b"garbage", 400, ["body"]),
    (b"\x00\xff\xfe", 400, ["body"]),
    (b"\xef\xbb\xbf{}", 400, ["body"]),
    (b'{"items":[', 400, ["body"]),
    (b'{"items":[]} trailing', 400, ["body"]),
    (b'{"items":[{"input":{"a":NaN}}]}', 400, ["body"]),
    (b'{"items":[{"input":{"a":01}}]}', 400, ["body"]),
    (b'{"items":[{"input":{"a":"\x01"}}]}', 400, ["body"]),
    (b"[]", 422, ["body"]),
    (b"null", 422, ["body"]),
    (b"5", 422, ["body"]),
    (b"{}", 422, ["body", "items"]),
    (b'{"items":null}', 422, ["body", "items"]),
    (b'{"items":{}}', 422, ["body", "items"]),
    (b'{"items":[5]}', 422, ["body", "items", 0]),
    (b'{"items":[null]}', 422, ["body", "items", 0]),
]


@pytest.mark.parametrize(("body", "status", "loc"), BAD_BODIES)
def test_a_bad_body_is_refused(
    http: httpx2.Client, body: bytes, status: int, loc: list[str | int]
) -> None:
    reply = http.put(BATCH, content=body)
    assert (reply.status_code, locs(reply)) == (status, [loc])
    assert stored(http) == []


def test_a_thousand_items_and_no_more(http: httpx2.Client) -> None:
    """`sgp` §10.4."""
    reply = http.put(BATCH, json={"items": [make_item() for _ in range(1_001)]})
    assert (reply.status_code, locs(reply)) == (422, [["body", "items"]])
    # Also where each item is bad in itself, and in a body of many megabytes.
    reply = http.put(BATCH, json={"items": [{}] * 1_001})
    assert (reply.status_code, locs(reply)) == (422, [["body", "items"]])
    reply = http.put(BATCH, content=b'{"items":[' + b"{}," * 2_000_000 + b"{}]}")
    assert (reply.status_code, locs(reply)) == (422, [["body", "items"]])
    assert stored(http) == []
    reply = http.put(BATCH, json={"items": [make_item() for _ in range(1_000)]})
    assert (reply.status_code, len(reply.json()["items"])) == (200, 1_000)
    assert len(stored(http)) == 1_000
    assert http.put(BATCH, json={"items": []}).json() == {"object": "list", "items": []}


def test_a_span_comes_back_as_the_contract_shows_it(http: httpx2.Client, account: str) -> None:
    """`sgp` §3: null is absent, unknown fields are ignored, times in UTC."""
    item = make_item(
        id="s1",
        start_timestamp="2026-01-02T05:04:05.123456+02:00",
        parent_id="",
        group_id=None,
        input={"q": 1, "é": "😀"},
        output={},
        metadata=None,
        unknown={"x": 1},
        type="COMPLETION",
    )
    expected = {
        "object": "span",
        "id": "s1",
        "trace_id": "t",
        "account_id": account,
        "name": "n",
        "start_timestamp": START,
        "end_timestamp": END,
        "type": "COMPLETION",
        "status": "SUCCESS",
        "input": {"q": 1, "é": "😀"},
        "output": {},
    }
    assert http.post("/v5/spans", json=item).json() == expected
    assert http.get("/v5/spans/s1").json() == expected
    assert stored(http) == [expected]


def test_what_may_not_be_kept_is_replaced_outside_identities(http: httpx2.Client) -> None:
    """`sgp` §10.9 and §6, bytes."""
    body = (
        rb'{"items":[{"id":"s","trace_id":"t","start_timestamp":"2026-01-02T03:04:05Z",'
        rb'"name":"a\u0000\ud800","input":{"k\u0000":"\ud83d\ude00\udc00\\u0000 ' + b"\xff"
        rb'"},"application_variant_id":"\u0000"}]}'
    )
    assert http.put(BATCH, content=body).status_code == 200
    (span,) = stored(http)
    assert span["name"] == "a\ufffd\ufffd"
    assert span["input"] == {"k\ufffd": "😀\ufffd\\u0000 \ufffd"}
    assert span["application_variant_id"] == "\ufffd"


def test_numbers_come_back_to_the_digit(http: httpx2.Client) -> None:
    raw = b'{"big":123456789012345678901234567890,"float":1.10,"exp":1E400,"neg":-0.0}'
    item = json.dumps(make_item(id="s")).encode()[:-1] + b',"input":' + raw + b"}"
    assert http.post("/v5/spans", content=item).status_code == 200
    assert raw in http.get("/v5/spans/s").content


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("[" * 255 + "]" * 255, 200),
        ("[" * 256 + "]" * 256, 422),
        ("[" * 900 + "]" * 900, 422),
        ("[" * 100_000 + "]" * 100_000, 400),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, 400),
        ("[" * 100_000, 400),
        ("9" * 4_000, 200),
        ("9" * 4_001, 422),
        ("9" * 5_000_000, 422),
        ('"' + "9" * 100_000 + '"', 200),
        ("1e" + "9" * 50, 200),
    ],
)
@pytest.mark.parametrize("field", ["input", "metadata", "unknown"])
def test_nothing_is_stored_that_readers_choke_on(
    http: httpx2.Client, field: str, value: str, status: int
) -> None:
    """J2, J3: deep nesting and endless numbers cost their sender, not whoever reads the page."""
    item = json.dumps(make_item(id="s"))[:-1] + f',"{field}":{{"x":{value}}}}}'
    reply = http.put(BATCH, content='{"items":[' + item + "]}")
    if field == "unknown" and status == 422:
        status = 200  # Ignored fields are not stored; only what cannot be parsed at all is refused.
    assert reply.status_code == status
    for span in stored(http):
        assert span["id"] == "s"
    if status == 422:
        assert locs(reply) == [["body", "items", 0, field]]
    if status == 200 and field == "metadata":
        search = http.post("/v5/spans/search", json={"extra_metadata": {"x": 1}})
        assert search.status_code == 200


def test_the_completeness_record_survives_every_merge(http: httpx2.Client) -> None:
    """P11: what an audit reads is what the producer's END said, whatever came when."""
    start = {"p": "part", "rev": 0}
    end = {"p": "part", "n": 3, "rev": 1, "total": 3, "dropped": {"queue full": 2}}
    versions = [
        make_item(id="s", end_timestamp=None, metadata={"__everyspan__": start}, input={"i": 1}),
        make_item(id="s", metadata={"__everyspan__": end, "k": 1}),
    ]
    for order in (versions, versions[::-1], [*versions[::-1], *versions]):
        for item in order:
            assert http.put(BATCH, json={"items": [item]}).status_code == 200
        (span,) = stored(http)
        assert span["metadata"] == {"__everyspan__": end, "k": 1}
        assert span["input"] == {"i": 1}
        assert span["end_timestamp"] == END
    assert http.patch("/v5/spans/s", json={"metadata": {"k": 2}}).status_code == 200
    (span,) = stored(http)
    assert span["metadata"] == {"__everyspan__": end, "k": 2}


def test_usage_is_reported_or_absent(http: httpx2.Client) -> None:
    """`sgp` §6: absent is not 0; sorting counts it as 0."""
    http.put(
        BATCH,
        json={
            "items": [
                make_item(id="none"),
                make_item(id="two", metadata={"usage": {"prompt_tokens": 2}}),
                make_item(id="one", output={"usage": {"input_tokens": 1, "output_tokens": 0}}),
            ]
        },
    )
    params = {"sort_by": "input_tokens", "sort_order": "desc"}
    items = http.post("/v5/spans/search", json={}, params=params).json()["items"]
    tokens = [(item["id"], item.get("input_tokens"), item.get("output_tokens")) for item in items]
    assert tokens == [("two", 2, None), ("one", 1, 0), ("none", None, None)]


BAD_SEARCHES: list[tuple[dict[str, str], Any, list[str | int], int]] = [
    ({"limit": "0"}, {}, ["query", "limit"], 422),
    ({"limit": "10001"}, {}, ["query", "limit"], 422),
    ({"limit": "-1"}, {}, ["query", "limit"], 422),
    ({"limit": "ten"}, {}, ["query", "limit"], 422),
    ({"limit": "²"}, {}, ["query", "limit"], 422),
    ({"limit": "9" * 5_000}, {}, ["query", "limit"], 422),
    ({"sort_order": "up"}, {}, ["query", "sort_order"], 422),
    ({"from_ts": "x"}, {}, ["query", "from_ts"], 422),
    ({"from_ts": END, "to_ts": START}, {}, ["query", "from_ts"], 422),
    ({"allow_partial_results": "maybe"}, {}, ["query", "allow_partial_results"], 422),
    ({"starting_after": "a", "ending_before": "b"}, {}, ["query", "ending_before"], 422),
    ({}, {"trace_ids": "t"}, ["body", "trace_ids"], 422),
    ({}, {"trace_ids": [1]}, ["body", "trace_ids", 0], 422),
    ({}, {"trace_id": ["t"]}, ["body", "trace_id"], 422),
    ({}, {"search_texts": ["ok", "x"]}, ["body", "search_texts", 1], 422),
    ({}, {"search_texts": ['""']}, ["body", "search_texts", 0], 422),
    ({}, {"search_texts": [5]}, ["body", "search_texts", 0], 422),
    ({}, {"search_texts": ["ok"] * 11}, ["body", "search_texts"], 422),
    ({}, {"assessment_types": ["comment", "x"]}, ["body", "assessment_types", 1], 422),
    ({}, {"obs_trace_ids": ["a" * 32, "b"]}, ["body", "obs_trace_ids", 1], 422),
    ({}, {"spans": [{"trace_id": "t"}]}, ["body", "spans", 0, "span_id"], 422),
    ({}, {"min_duration_ms": -1}, ["body", "min_duration_ms"], 422),
    ({}, {"max_duration_ms": 10**17}, ["body", "max_duration_ms"], 422),
    ({}, {"max_duration_ms": 10**30}, ["body", "max_duration_ms"], 422),
    ({}, {"names": ["n"] * 1_001}, ["body", "names"], 422),
    ({}, {"span_ids": ["s"] * 10_001}, ["body"], 422),
    ({}, {"spans": [{"trace_id": "t", "span_id": "s"}] * 5_000, "trace_ids": ["t"]}, ["body"], 422),
    ({}, [], ["body"], 422),
]


@pytest.mark.parametrize(("params", "body", "loc", "status"), BAD_SEARCHES)
def test_a_bad_search_is_named_never_ignored(
    http: httpx2.Client, params: dict[str, str], body: Any, loc: list[str | int], status: int
) -> None:
    reply = http.post("/v5/spans/search", params=params, json=body)
    assert (reply.status_code, locs(reply)) == (status, [loc])


@pytest.mark.parametrize("sort_by", ["start_timestamp", "duration_ms", "nonsense"])
def test_cursors_lead_through_everything_both_ways(http: httpx2.Client, sort_by: str) -> None:
    """`sgp:K1`-`K5`, §10.11, with ids that would be cursors if one guessed."""
    ids = [f"esc1.{n}" if n % 2 else f"{n}" for n in range(7)]
    http.put(BATCH, json={"items": [make_item(id=id_) for id_ in ids]})
    params: dict[str, Any] = {"limit": 2, "sort_by": sort_by}
    seen: list[str] = []
    page: dict[str, Any] = {"next_cursor": None, "has_more": True}
    while page["has_more"]:
        cursor = {"starting_after": page["next_cursor"]} if page["next_cursor"] else {}
        page = http.post("/v5/spans/search", params=params | cursor).json()
        assert (page["object"], page["total"], page["limit"]) == ("list", 0, 2)
        assert page["search_status"] == "complete"
        seen += [item["id"] for item in page["items"]]
    assert seen == sorted(ids)
    assert page["next_cursor"] is None
    back: list[str] = []
    while page["prev_cursor"] is not None:
        cursor = {"ending_before": page["prev_cursor"]}
        page = http.post("/v5/spans/search", params=params | cursor).json()
        back[:0] = [item["id"] for item in page["items"]]
    assert back == sorted(ids)[:-1]
    other = http.post(
        "/v5/spans/search",
        params={"sort_by": "output_tokens", "starting_after": page["next_cursor"]},
    )
    assert (other.status_code, other.json()["code"]) == (400, "INVALID_CURSOR")


def test_a_page_over_the_byte_budget_is_refused_or_cut(http: httpx2.Client) -> None:
    """`sgp` §7 byte budget: 32 MiB."""
    for n in range(5):
        item = make_item(id=f"{n}", input={"x": "x" * 9_000_000})
        assert http.post("/v5/spans", json=item).status_code == 200
    reply = http.post("/v5/spans/search", json={})
    assert (reply.status_code, reply.json()["code"]) == (400, "SEARCH_RESULT_TOO_LARGE")
    params = {"allow_partial_results": "true"}
    page = http.post("/v5/spans/search", json={}, params=params).json()
    assert [item["id"] for item in page["items"]] == ["0", "1", "2"]
    assert page["has_more"]
    params["starting_after"] = page["next_cursor"]
    page = http.post("/v5/spans/search", json={}, params=params).json()
    assert ([item["id"] for item in page["items"]], page["has_more"]) == (["3", "4"], False)


def test_accounts_are_apart_and_local_by_default(http: httpx2.Client) -> None:
    http.post("/v5/spans", json=make_item(id="s"))
    other = {"x-selected-account-id": new_id()}
    assert http.get("/v5/spans/s", headers=other).status_code == 404
    assert http.post("/v5/spans/search", headers=other, json={}).json()["items"] == []
    with httpx2.Client(base_url=http.base_url) as nobody:
        span = nobody.post("/v5/spans", json=make_item()).json()
        assert span["account_id"] == "local"
        long = nobody.post(
            "/v5/spans", json=make_item(), headers={"x-selected-account-id": "a" * 257}
        )
        assert (long.status_code, locs(long)) == (400, [["header", "x-selected-account-id"]])


def test_paging_over_http_while_others_write(
    http: httpx2.Client, base_url: str, account: str
) -> None:
    """`sgp:K5` end to end: the client's loop by bare ids, and writers in other threads."""
    there = {f"{n:03}" for n in range(300)}
    http.put(BATCH, json={"items": [make_item(id=id_) for id_ in sorted(there)]})
    stop = threading.Event()

    def write(n: int) -> None:
        with httpx2.Client(base_url=base_url, headers=http.headers) as client:
            while not stop.is_set():
                fresh = [make_item(), make_item(id=f"{n * 7:03}", trace_id=new_id())]
                assert client.put(BATCH, json={"items": fresh}).status_code == 200

    writers = [threading.Thread(target=write, args=(n,)) for n in (1, 2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3):
            seen: list[tuple[str, str]] = []
            params: dict[str, Any] = {"limit": 20}
            more = True
            while more:
                page = http.post("/v5/spans/search", params=params, json={}).json()
                seen += [(item["trace_id"], item["id"]) for item in page["items"]]
                more = page["has_more"]
                params["starting_after"] = page["items"][-1]["id"]
            assert len(seen) == len(set(seen))
            assert {id_ for trace_id, id_ in seen if trace_id == "t"} >= there
    finally:
        stop.set()
        for writer in writers:
            writer.join(30)


def test_every_reply_says_it_is_everyspan_and_none_redirects(http: httpx2.Client) -> None:
    """A1, A2, `sgp:E3`."""
    for method, path, status in [
        ("GET", "/healthz", 200),
        ("HEAD", "/healthz", 200),
        ("POST", "/healthz", 405),
        ("GET", "/healthz/", 404),
        ("GET", "/nothing", 404),
        ("PUT", "/v5/spans", 405),
        ("PUT", "/v5/spans/batch/", 405),
        ("DELETE", "/v5/spans/x", 405),
        ("GET", "/v5/spans/", 404),
        ("GET", "/v5/spans", 405),
        ("GET", "/v5/spans/nope", 404),
        ("GET", "/v5/spans/%ff%00", 404),
        ("GET", "/public/v5/spans/nope", 404),
        ("GET", "/public", 404),
        ("GET", "/public/", 404),
        ("PUT", "/v5/spans/batch", 400),
        ("OPTIONS", "/v5/spans/batch", 405),
    ]:
        reply = http.request(method, path)
        assert (method, path, reply.status_code) == (method, path, status)
        assert reply.headers["x-everyspan"]
        assert reply.headers["content-type"] == "application/json"
        if status >= 400:
            assert set(reply.json()) == {"detail", "message", "code", "request_id"}


def test_compressed_bodies_are_inflated(http: httpx2.Client) -> None:
    """As on every route; others than these encodings are refused."""
    body = gzip.compress(json.dumps({"items": [make_item(id="z", name="zipped")]}).encode())
    headers = {"content-encoding": "gzip"}
    assert http.put(BATCH, content=body, headers=headers).json()["items"][0]["name"] == "zipped"
    assert http.put(BATCH, content=body[:-9], headers=headers).json()["code"] == "INVALID_ENCODING"
    reply = http.put(BATCH, content=body, headers={"content-encoding": "br"})
    assert (reply.status_code, reply.json()["code"]) == (415, "UNSUPPORTED_ENCODING")
