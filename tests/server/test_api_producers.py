"""Producers' reports over HTTP, and from a real process to a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import httpx2
import msgspec
import pytest

from everyspan.model.w3c import trace_hex
from everyspan.server.api_producers import REPORT_BYTES_MAX
from tests.server.stores.producers_contract import lost, make_report
from tests.waiting import wait_until


def post(http: httpx2.Client, producer: str = "p", **fields: Any) -> httpx2.Response:
    body = msgspec.json.encode(make_report(**fields))
    return http.post(f"/api/producers/{producer}", content=body)


def test_a_report_is_shown_as_it_was_sent(http: httpx2.Client) -> None:
    """P11: figures, and where they do not add up that too."""
    reply = post(http, losses=[lost("a trace", "p-1", 3, expired=2)])
    assert (reply.status_code, reply.content) == (204, b"")
    (one,) = http.get("/api/producers").json()["items"]
    (books,) = one["destinations"]
    assert (books["accepted"], books["queued"], books["residual"]) == (10, 1, 0)
    assert (one["service"], one["pid"], one["ended"], one["residual"]) == ("agent", 42, False, 0)
    assert one["started"] == "1970-01-01T00:00:00.000000001Z"
    shown = http.get("/api/producers/p").json()
    assert shown["producer"] == one
    (loss,) = shown["losses"]
    assert (
        loss.items()
        >= {
            "trace_id": "a trace",
            "trace": trace_hex("a trace"),
            "part": "p-1",
            "producer": "p",
            "lost": {"expired": 2},
            "total": 3,
        }.items()
    )


def test_lists_are_read_in_pages(http: httpx2.Client) -> None:
    """S4."""
    for n in range(5):
        post(http, f"p{n}", losses=[lost(f"t{n}", f"p{n}-1", expired=1)])
    for path, key in (("/api/producers", "id"), ("/api/losses?reason=expired", "producer")):
        seen, cursor = [], ""
        while cursor is not None:
            page = http.get(path, params={"limit": 2, "after": cursor}).json()
            seen += [item[key] for item in page["items"]]
            cursor = page["next"]
        assert seen == ["p4", "p3", "p2", "p1", "p0"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "named"),
    [
        ("POST", "/api/producers/a b", b"{}", 422, "producer_id"),
        ("POST", f"/api/producers/{'x' * 65}", b"{}", 422, "producer_id"),
        ("POST", "/api/producers/p", b"{", 400, "body"),
        ("POST", "/api/producers/p", b'{"x":' + b"[" * 100_000, 400, "body"),
        ("POST", "/api/producers/p", b"[]", 422, "body"),
        ("POST", "/api/producers/p", b"{}", 422, "seq"),
        ("POST", "/api/producers/p", b'{"seq": 0}', 422, "seq"),
        ("POST", "/api/producers/p", b" " * (REPORT_BYTES_MAX + 1), 413, ""),
        ("GET", "/api/producers/unknown", None, 404, ""),
        ("GET", "/api/producers?limit=0", None, 422, "limit"),
        ("GET", "/api/producers?limit=501", None, 422, "limit"),
        ("GET", "/api/producers?limit=many", None, 422, "limit"),
        ("GET", "/api/producers?after=!", None, 400, "after"),
        ("GET", "/api/producers?after=WzEsMl0", None, 400, "after"),
        ("GET", "/api/losses?after=WzEsIngiXQ", None, 400, "after"),
    ],
)
def test_bad_input_is_refused_and_named(
    http: httpx2.Client, method: str, path: str, body: bytes | None, status: int, named: str
) -> None:
    """Q2: with the field at fault."""
    reply = http.request(method, path, content=body)
    assert reply.status_code == status, reply.text
    assert named in json.dumps(reply.json())
    assert http.get("/api/producers").json()["items"] == []


def test_hostile_figures_are_refused(http: httpx2.Client) -> None:
    """Q2, P4: negative, huge, too many."""
    good = msgspec.to_builtins(make_report(losses=[lost(expired=1)]))
    spoilt = [
        {"open_spans": -1},
        {"pid": 2**60},
        {"service": "x" * 5_000},
        {"losses": good["losses"] * 501},
        {"losses": [{"trace_id": "", "part": "p", "lost": {}}]},
        {"losses": [{"trace_id": "t", "part": "p", "lost": {"r": -1}}]},
        {"losses": [{"trace_id": "t", "part": "p", "lost": {str(n): 1 for n in range(101)}}]},
        {"destinations": good["destinations"] * 101},
    ]
    for fields in spoilt:
        assert http.post("/api/producers/p", json=good | fields).status_code == 422
    assert http.post("/api/producers/p", json=good).status_code == 204


@pytest.fixture
def agent(base_url: str, account: str) -> str:
    """A program of a few lines that sends to the server, as the test's account."""
    return (
        "import os, everyspan\n"
        f"everyspan.configure(everyspan.SGPTracingProcessorConfig("
        f"'k', {account!r}, {base_url!r}), linger_ms=0, start_delay_ms=0)\n"
    )


def test_a_process_is_known_by_its_books(http: httpx2.Client, agent: str) -> None:
    """P11: from its first answer to its end, by itself."""
    program = agent + "for _ in range(3):\n    with everyspan.span('turn'): pass\n"
    subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "AGENT_NAME": "booker"}, check=True
    )
    (one,) = http.get("/api/producers").json()["items"]
    assert (one["service"], one["ended"], one["open_spans"]) == ("booker", True, 0)
    assert one["everyspan"] == version("everyspan")
    assert [books["delivered"] for books in one["destinations"]] == [3]


def test_a_killed_process_stays_as_it_was_seen_last(http: httpx2.Client, agent: str) -> None:
    """P11: it never says that it ended."""
    program = agent + "with everyspan.span('turn'):\n    print(flush=True)\n    input()\n"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    wait_until(lambda: http.get("/api/producers").json()["items"])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (one,) = http.get("/api/producers").json()["items"]
    assert (one["ended"], one["open_spans"]) == (False, 1)
