"""`everyspan.server.stores.sqlite_traces`: summaries follow what is written, whatever happens."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from everyspan.server.stores import sqlite_traces
from everyspan.server.stores.sqlite import SqliteStore
from everyspan.server.stores.sqlite_writer import Transaction
from everyspan.testing import FakeClock
from tests.server.rows import END_NS, make_row
from tests.server.stores.trace_contract import key, listed, wait_for

GAP = b'{"__everyspan__":{"p":"part","n":2,"rev":1,"total":2}}'


async def test_what_a_process_left_is_summarised_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1: it follows from the numbers in the file, whoever wrote the spans."""
    store = SqliteStore(tmp_path / "spans.db")
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_traces.TraceFollower, "follow", lambda *_: None)
        await store.upsert([make_row(trace_id=f"t{n}") for n in range(300)])
        await store.close()
    again = SqliteStore(tmp_path / "spans.db")
    assert len(await listed(again, count=300)) == 300
    await again.close()


async def test_a_slice_that_fails_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1: nothing of it is left, and nothing is skipped."""
    monkeypatch.setattr("everyspan.server.stores.sqlite_writer.FAILED_FOLLOWER_WAIT_S", 0.01)
    summarize, failures = sqlite_traces.renew, iter([True, False, True])

    def fails_twice(transaction: Transaction, account: str, key: bytes) -> None:
        summarize(transaction, account, key)
        if key[0] > 0x80 and next(failures, False):
            raise RuntimeError("a defect")

    monkeypatch.setattr(sqlite_traces, "renew", fails_twice)
    store = SqliteStore(tmp_path / "spans.db")
    await store.upsert([make_row(trace_id=f"t{n}") for n in range(50)])
    assert len(await listed(store, count=50)) == 50
    assert next(failures, None) is None
    await store.close()


async def test_time_alone_changes_a_verdict(tmp_path: Path) -> None:
    """D2: a gap is late for a minute, then nobody's; the row says so, and that it changed."""
    clock = FakeClock(END_NS + 1_000_000_000)
    store = SqliteStore(tmp_path / "spans.db", clock=clock)
    await store.upsert([make_row(metadata=GAP)])
    [late] = await listed(store, count=1)
    assert late.summary.state == "late"
    clock.advance(61)
    # Whatever is written wakes the follower; unasked it would wake in a minute.
    await store.upsert([make_row(trace_id="other")])

    async def look() -> bool:
        found = {trace.key: trace.summary.state for trace in await listed(store)}
        return found.get(late.key) == "unaccounted"

    assert await wait_for(look)
    await store.close()


async def test_a_large_trace_waits_for_its_turn(tmp_path: Path) -> None:
    """D3: due again after ten times what its summary costs, at once where it is small."""
    path = tmp_path / "spans.db"
    store = SqliteStore(path)
    await store.upsert([make_row(trace_id="large", id=str(n)) for n in range(600)])
    await listed(store, count=1)
    await store.close()
    connection = apsw.Connection(str(path))
    wait_ns = sqlite_traces._wait_ns(connection, "a", key("large"))
    assert wait_ns == 600 * sqlite_traces.SPAN_COST_NS / sqlite_traces.SHARE
    connection.execute("UPDATE traces SET spans = 500")
    assert sqlite_traces._wait_ns(connection, "a", key("large")) == 0
    connection.close()
