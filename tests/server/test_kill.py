"""P8: a server killed under load has everything that it answered 200 for.

    EVERYSPAN_TEST_KILLS=100 pytest -o faulthandler_timeout=0 tests/server/test_kill.py

kills it a hundred times, in some minutes.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import apsw
import httpx2

from everyspan.model.ids import new_id
from everyspan.server.stores.sqlite_care import check
from tests.server.rows import START, make_item
from tests.serving import ServerProcess
from tests.waiting import wait_until

KILLS = int(os.environ.get("EVERYSPAN_TEST_KILLS", "3"))
SENDERS = 4


class Senders:
    """Threads that send batches until the server is gone."""

    def __init__(self, base_url: str) -> None:
        self.acknowledged: set[str] = set()
        self.patched: set[str] = set()
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._send, args=(base_url,)) for _ in range(SENDERS)
        ]
        for thread in self._threads:
            thread.start()

    def wait_for(self, spans: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.acknowledged) >= spans, timeout=30)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _send(self, base_url: str) -> None:
        with httpx2.Client(base_url=base_url, timeout=30) as client:
            while True:
                trace_id = new_id()
                items = [make_item(trace_id=trace_id, input={"x": "x" * 500}) for _ in range(20)]
                ids = {item["id"] for item in items}
                one = items[0]["id"]
                # All at once, a change, and one over the other API.
                patch = {"trace_id": "moved", "data": {"patched": True}}
                span = {"id": new_id(), "trace_id": "t", "name": "n", "start_time": START}
                try:
                    self._acknowledge(client.put("/v5/spans/batch", json={"items": items}), ids)
                    self._acknowledge(client.patch(f"/spans/{one}", json=patch), set(), {one})
                    self._acknowledge(client.post("/spans", json=span), {span["id"]})
                except httpx2.TransportError:
                    return

    def _acknowledge(
        self, reply: httpx2.Response, stored: set[str], patched: Iterable[str] = ()
    ) -> None:
        assert reply.status_code == 200
        with self._changed:
            self.acknowledged |= stored
            self.patched.update(patched)
            self._changed.notify()


def test_a_killed_server_has_all_that_it_acknowledged(tmp_path: Path) -> None:
    """Sends, kills, starts again on what is there, and reads back over HTTP."""
    path = tmp_path / "spans.db"
    rng = random.Random(new_id())
    acknowledged: set[str] = set()
    patched: set[str] = set()
    for _ in range(KILLS):
        server = ServerProcess(path)
        senders = Senders(server.base_url)
        senders.wait_for(rng.randrange(50, 800))
        server.kill()
        senders.join()
        acknowledged |= senders.acknowledged
        patched |= senders.patched

    server = ServerProcess(path)
    stored: set[str] = set()
    changed: set[str] = set()
    with httpx2.Client(base_url=server.base_url, timeout=30) as client:
        params: dict[str, str] = {"limit": "2000"}
        while True:
            page = client.post("/v5/spans/search", params=params, json={}).json()
            stored |= {item["id"] for item in page["items"]}
            changed |= {
                item["id"]
                for item in page["items"]
                if item["trace_id"] == "moved" and item["metadata"] == {"patched": True}
            }
            if not page["has_more"]:
                break
            params["starting_after"] = page["next_cursor"]
    # What follows commits goes on where it was: summaries and the index of words.
    wait_until(lambda: has_followed(path), deadline_s=60)
    server.stop()
    assert acknowledged <= stored
    assert patched <= changed
    assert patched
    assert check(path) == (len(stored), [])


def has_followed(path: Path) -> bool:
    """Whether each trace has its summary, and the text index has come to the last change."""
    with (
        closing(apsw.Connection(str(path))) as store,
        closing(apsw.Connection(f"{path}-text")) as text,
    ):
        last = store.execute("SELECT max(change) FROM spans").get
        spans = store.execute(
            "SELECT account, otel_trace_id, count(*) FROM spans GROUP BY 1, 2"
        ).fetchall()
        summaries = store.execute("SELECT account, otel_trace_id, spans FROM traces").fetchall()
        indexed = text.execute("SELECT change FROM place").get
    return sorted(spans) == sorted(summaries) and indexed == last


def test_a_stopped_server_answers_what_it_took(tmp_path: Path) -> None:
    """R3: SIGTERM under load; whoever got an answer is stored, the process ends with 0."""
    server = ServerProcess(tmp_path / "spans.db")
    senders = Senders(server.base_url)
    senders.wait_for(200)
    assert server.stop() == ""
    senders.join()
    # The log was folded into the file: the store was closed, not dropped.
    assert {file.name for file in tmp_path.iterdir()} == {"spans.db", "spans.db-text"}
    with apsw.Connection(str(server.store_path)) as connection:
        stored = {id_ for (id_,) in connection.execute("SELECT id FROM spans")}
    assert senders.acknowledged <= stored
