"""What the server logs: lines that a program can read, and nothing that is anybody's."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
import pytest

from everyspan.server.app import create_app
from everyspan.server.logs import PAUSE_S, Sparse
from everyspan.server.stores.sqlite import SqliteStore
from everyspan.testing import FakeClock
from tests.server.rows import START, make_item
from tests.server.sweep import every_request
from tests.serving import ServerProcess

CANARY = "canary7f3e"
PRELUDE = "from everyspan.server.logs import configure_logs; configure_logs({format!r}, 'debug')"


def canary_requests(url: str, requests: Sequence[tuple[str, str]]) -> Iterator[httpx2.Response]:
    """Send the canary wherever a sender can put something."""
    headers = {
        "x-api-key": f"esk_{CANARY}",
        "authorization": f"Bearer {CANARY}",
        "cookie": f"everyspan_session={CANARY}",
        "user-agent": CANARY,
        "x-selected-account-id": CANARY,
        "x-stainless-retry-count": CANARY,
    }
    span = {"name": CANARY, "trace_id": CANARY, "start_time": START, "data": {CANARY: CANARY}}
    with httpx2.Client(base_url=url, headers=headers) as client:
        item = make_item(name=CANARY, input={CANARY: CANARY}, parent_id=CANARY)
        yield client.put("/v5/spans/batch", json={"items": [item]})
        yield client.put("/v5/spans/batch", json={"items": [{**item, "type": CANARY, CANARY: 1}]})
        yield client.put("/v5/spans/batch", content=f'{{"{CANARY}'.encode())
        yield client.put("/v5/spans/batch", json={}, headers={"content-encoding": CANARY})
        yield client.post("/spans", json=span)
        yield client.post("/spans", json={**span, "start_time": CANARY})
        yield client.post("/v5/spans/search", json={"search_texts": [CANARY], CANARY: 1})
        yield client.post("/api/login", json={"key": CANARY})
        yield client.post("/api/producers/" + CANARY, json={CANARY: CANARY})
        yield client.get("/spans", headers={"host": f"{CANARY}.example"})
        yield client.get("/spans", headers={"origin": f"http://{CANARY}"})
        for method, path in requests:
            for url in (f"{path}/{CANARY}?{CANARY}={CANARY}", f"{path}?{CANARY}={CANARY}"):
                # Not read to its end, which an event stream has none of.
                with client.stream(method, url, content=CANARY) as reply:
                    yield reply


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_nothing_of_a_request_is_logged_or_counted(tmp_path: Path, log_format: str) -> None:
    """A3, L1, M1: payloads, keys, accounts, queries, at the level that logs every request."""
    server = ServerProcess(tmp_path / "spans.db", prelude=PRELUDE.format(format=log_format))
    store = SqliteStore(tmp_path / "routes.db")
    requests = every_request(create_app(store))
    await store.close()
    replies = canary_requests(server.base_url, requests)
    statuses = {reply.status_code for reply in replies}
    assert {200, 403, 404, 405, 422} <= statuses
    assert 500 not in statuses
    assert CANARY not in httpx2.get(f"{server.base_url}/metrics").text
    logged = server.stop()
    assert CANARY not in logged
    lines = logged.splitlines()
    assert len(lines) > 20
    if log_format == "json":
        line = json.loads(next(line for line in lines if "/v5/spans/batch" in line))
        assert line["level"] == "DEBUG"
        assert line["route"] == "/v5/spans/batch"
        assert line["status"] == 200
        assert line["request_id"]
        assert line["time"]


def test_what_recurs_is_logged_once_a_minute_with_its_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """L2."""
    clock = FakeClock()
    sparse = Sparse(logging.getLogger("test"), clock=clock)
    for _ in range(5):
        sparse.log(logging.WARNING, "a", "refused %s", "x")
    sparse.log(logging.WARNING, "b", "other")
    clock.advance(PAUSE_S)
    sparse.log(logging.WARNING, "a", "refused %s", "y")
    assert [record.getMessage() for record in caplog.records] == [
        "refused x",
        "other",
        "refused y (and 4 times more since the last line)",
    ]


def test_without_debug_requests_are_not_logged(tmp_path: Path) -> None:
    prelude = PRELUDE.format(format="text").replace("debug", "info")
    server = ServerProcess(tmp_path / "spans.db", prelude=prelude)
    httpx2.get(f"{server.base_url}/spans")
    assert server.stop() == ""
