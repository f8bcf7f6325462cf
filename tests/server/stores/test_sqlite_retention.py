"""`sqlite_retention`: whole traces go, the oldest first, in real files, by a clock."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from everyspan.server.row import SpanRow
from everyspan.server.stores import sqlite_retention
from everyspan.server.stores.base import SearchQuery
from everyspan.server.stores.sqlite import SqliteStore
from everyspan.testing import FakeClock
from tests.server.rows import make_row
from tests.waiting import until

NS = 1_000_000_000
DAY_S = 86_400


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_retention, "_LOOK_EVERY_S", 0.01)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def trace(clock: FakeClock, name: str, spans: int = 3, *, age_s: float = 0) -> list[SpanRow]:
    end_ns = clock.time_ns() - int(age_s * NS)
    return [
        make_row(trace_id=name, id=f"{name} {n}", start_ns=end_ns - NS, end_ns=end_ns)
        for n in range(spans)
    ]


async def traces(store: SqliteStore) -> set[str]:
    page = await store.search(SearchQuery(account="a", limit=20_000))
    return {row.trace_id for row in page.rows}


async def wait_for(store: SqliteStore, names: set[str]) -> None:
    for _ in range(2_000):
        if await traces(store) == names:
            return
        await asyncio.sleep(0.002)
    raise AssertionError(await traces(store))


def left_over(path: Path) -> dict[str, int]:
    tables = ("spans", "payloads", "traces", "trace_summaries", "trace_facets", "assessments")
    with closing(apsw.Connection(str(path))) as connection:
        return {
            table: count
            for table in tables
            if (count := connection.execute(f"SELECT count(*) FROM {table}").get)
        }


async def test_traces_go_when_they_have_been_still_for_too_long(
    tmp_path: Path, clock: FakeClock
) -> None:
    path = tmp_path / "spans.db"
    store = SqliteStore(path, clock=clock, keep_s=30 * DAY_S)
    await store.upsert(trace(clock, "old", age_s=31 * DAY_S))
    # More than one piece, and one that is still young because of its last span.
    await store.upsert(trace(clock, "large", 450, age_s=40 * DAY_S))
    await store.upsert(trace(clock, "alive", age_s=50 * DAY_S))
    await store.upsert([make_row(trace_id="alive", id="new", start_ns=clock.time_ns())])
    await store.upsert(trace(clock, "young", age_s=29 * DAY_S))
    await wait_for(store, {"alive", "young"})
    assert (await store.health()).spans == 4 + 3
    clock.advance(2 * DAY_S)
    await wait_for(store, {"alive"})
    clock.advance(30 * DAY_S)
    await wait_for(store, set())
    assert (await store.health()).spans == 0
    await until(lambda: left_over(path) == {})
    await store.close()


async def test_numbers_are_never_given_twice_though_the_last_span_was_deleted(
    tmp_path: Path, clock: FakeClock
) -> None:
    """W6: whoever follows changes would miss the new ones."""
    store = SqliteStore(tmp_path / "spans.db", clock=clock, keep_s=DAY_S)
    await store.upsert(trace(clock, "old", age_s=2 * DAY_S))
    await wait_for(store, set())
    await store.upsert(trace(clock, "new"))
    with closing(apsw.Connection(str(tmp_path / "spans.db"))) as connection:
        seqs = [seq for (seq,) in connection.execute("SELECT seq FROM spans ORDER BY seq")]
    assert seqs == [4, 5, 6]
    await store.close()


async def test_the_file_stays_near_its_size_under_ingest_and_the_newest_stay(
    tmp_path: Path, clock: FakeClock
) -> None:
    """G3: freed space is used again."""
    path = tmp_path / "spans.db"
    size = 1_000_000
    store = SqliteStore(path, clock=clock, keep_bytes=size)
    noise = b'{"x":"%b"}'
    names = [f"trace {n:03}" for n in range(120)]
    for name in names:
        clock.advance(1)
        rows = trace(clock, name, 20)
        for row in rows:
            row.input = noise % (row.id * 100).encode().hex().encode()[:1_500]
        await store.upsert(rows)
    await until(lambda: used(path) <= size)
    left = await traces(store)
    assert names[-1] in left
    assert left == set(names[-len(left) :])
    assert len(left) < len(names)
    await store.close()
    assert path.stat().st_size < 3 * size


def used(path: Path) -> int:
    with closing(apsw.Connection(str(path))) as connection:
        value: int = connection.execute(sqlite_retention._USED_SQL).get
        return value


async def test_without_bounds_everything_stays(tmp_path: Path, clock: FakeClock) -> None:
    store = SqliteStore(tmp_path / "spans.db", clock=clock)
    await store.upsert(trace(clock, "old", age_s=10_000 * DAY_S))
    clock.advance(DAY_S)
    await store.upsert(trace(clock, "new"))
    assert await traces(store) == {"old", "new"}
    await store.close()
