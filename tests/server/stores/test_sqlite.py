"""`everyspan.server.stores.sqlite` beyond the contract."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from everyspan.errors import StoreBusyError, StoreError
from everyspan.server.stores.base import ListQuery, SearchQuery, Store
from everyspan.server.stores.sqlite import SqliteStore
from everyspan.server.stores.sqlite_file import open_writer
from everyspan.server.stores.sqlite_list import _to_sql
from everyspan.server.stores.sqlite_search import _Filters
from tests.server.rows import make_row
from tests.server.stores.contract import StoreContract
from tests.server.stores.trace_contract import TraceContract


class TestSqliteStore(StoreContract, TraceContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        store = SqliteStore(tmp_path / "spans.db")
        yield store
        await store.close()


async def test_rows_outlive_the_store(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "spans.db"
    row = make_row()
    store = SqliteStore(path)
    await store.upsert([row])
    # Prompts are private: for the owner only, whatever the umask.
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    await store.close()
    assert {file.name for file in path.parent.iterdir()} <= {"spans.db", "spans.db-text"}
    again = SqliteStore(path)
    assert await again.get("a", row.id) == row
    await again.close()


async def test_close_commits_what_was_accepted_and_refuses_the_rest(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "spans.db")
    writes = [asyncio.create_task(store.upsert([make_row(id=str(n))])) for n in range(50)]
    await asyncio.sleep(0)  # Lets every task hand its rows over.
    await store.close()
    await asyncio.gather(*writes)
    for late in (store.upsert([make_row()]), store.get("a", "0"), store.health()):
        with pytest.raises(StoreError, match="closed"):
            await late
    again = SqliteStore(tmp_path / "spans.db")
    assert len((await again.search(SearchQuery(account="a"))).rows) == 50
    await again.close()


async def test_a_full_queue_is_busy_and_loses_nothing(tmp_path: Path) -> None:
    """W4: the writer is held still; what it answered is stored, what was refused is not."""
    held = threading.Event()

    def connect(path: str) -> apsw.Connection:
        connection = open_writer(path)
        # After the schema is made, every statement waits: a disk that has stopped.
        connection.exec_trace = lambda _cursor, sql, _values: (
            sql != "BEGIN IMMEDIATE" or held.wait(10)
        )
        return connection

    held.set()
    store = SqliteStore(tmp_path / "spans.db", waiting_bytes_max=20_000, connect=connect)
    held.clear()
    payload = b'{"x":"' + b"x" * 5_000 + b'"}'
    writes = [
        asyncio.create_task(store.upsert([make_row(id=str(n), input=payload)])) for n in range(10)
    ]
    done, waiting = await asyncio.wait(writes, return_when=asyncio.FIRST_EXCEPTION)
    assert all(isinstance(write.exception(), StoreBusyError) for write in done)
    assert (await store.health()).waiting == len(waiting) == 3
    held.set()
    await asyncio.wait(waiting)
    assert all(write.exception() is None for write in waiting)
    assert len((await store.search(SearchQuery(account="a"))).rows) == 3
    health = await store.health()
    assert (health.waiting, health.waiting_bytes) == (0, 0)
    await store.close()


async def test_calls_that_wait_together_share_a_commit(tmp_path: Path) -> None:
    """W2."""
    held = threading.Event()
    commits = []

    def connect(path: str) -> apsw.Connection:
        connection = open_writer(path)

        def trace(_cursor: object, sql: str, _values: object) -> bool:
            if sql == "BEGIN IMMEDIATE":
                held.wait(10)
            commits.append(sql) if sql == "COMMIT" else None
            return True

        connection.exec_trace = trace
        return connection

    held.set()
    store = SqliteStore(tmp_path / "spans.db", connect=connect)
    held.clear()
    commits.clear()
    writes = [asyncio.create_task(store.upsert([make_row()])) for _ in range(100)]
    await asyncio.sleep(0)
    held.set()
    await asyncio.gather(*writes)
    assert 1 <= len(commits) <= 2
    await store.close()


async def test_two_stores_on_one_file_see_each_other(tmp_path: Path) -> None:
    """No state that another server process could not see."""
    one, two = SqliteStore(tmp_path / "spans.db"), SqliteStore(tmp_path / "spans.db")
    await asyncio.gather(
        *(
            store.upsert([make_row(id=f"{name} {n}")])
            for n in range(30)
            for name, store in (("one", one), ("two", two))
        )
    )
    for store in (one, two):
        assert len((await store.search(SearchQuery(account="a"))).rows) == 60
    await one.close()
    await two.close()


async def test_a_failed_disk_fails_the_call_and_not_the_store(tmp_path: Path) -> None:
    """P5: nothing of a transaction that could not be committed is there, later ones are."""
    connections: list[apsw.Connection] = []

    def connect(path: str) -> apsw.Connection:
        connections.append(open_writer(path))
        return connections[0]

    store = SqliteStore(tmp_path / "spans.db", connect=connect)
    connections[0].set_commit_hook(lambda: True)  # Turns every COMMIT into a ROLLBACK.
    with pytest.raises(StoreError, match="the store failed"):
        await store.upsert([make_row(id="lost")])
    connections[0].set_commit_hook(None)
    await store.upsert([make_row(id="kept")])
    assert await store.get("a", "lost") is None
    assert await store.get("a", "kept") is not None
    await store.close()


@pytest.mark.parametrize("content", [b"no database" * 1_000, None])
def test_what_is_no_store_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "spans.db"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(StoreError, match=r"spans\.db"):
        SqliteStore(path)


@pytest.mark.parametrize(
    ("fields", "plan"),
    [
        ({"trace_id": "t"}, ["spans_by_trace"]),
        ({}, ["spans_by_start"]),
        ({"task_id": "k"}, ["INTEGER PRIMARY KEY", "spans_by_task", "spans_by_trace"]),
    ],
)
async def test_a_list_searches_by_an_index(
    tmp_path: Path, fields: dict[str, str], plan: list[str]
) -> None:
    """A page costs the spans of its trace or task at most; unfiltered, those before its end."""
    sql, parameters = _to_sql(ListQuery(account="a", **fields))  # type: ignore[arg-type]
    store = SqliteStore(tmp_path / "spans.db")
    with apsw.Connection(str(tmp_path / "spans.db")) as connection:
        steps = [
            detail for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
        ]
    for step in plan:
        assert any("SEARCH" in each and step in each for each in steps), steps
    assert not any("SCAN s" in each for each in steps), steps
    if "task_id" not in fields:
        assert steps[1:] == ["USE TEMP B-TREE FOR LAST TERM OF ORDER BY"]
    await store.close()


@pytest.mark.parametrize(
    ("fields", "plan"),
    [
        ({}, "spans_by_start"),
        ({"trace_ids": ("t",)}, "spans_by_trace"),
        ({"task_ids": ("k",)}, "spans_by_task"),
        ({"span_ids": ("s",)}, "spans_by_id"),
    ],
)
async def test_the_order_comes_from_an_index(
    tmp_path: Path, fields: dict[str, tuple[str, ...]], plan: str
) -> None:
    """A page costs what it holds, not what the file holds."""
    filters = _Filters(SearchQuery(account="a", **fields))  # type: ignore[arg-type]
    store = SqliteStore(tmp_path / "spans.db")
    with apsw.Connection(str(tmp_path / "spans.db")) as connection:
        steps = [
            detail
            for *_, detail in connection.execute(
                f"EXPLAIN QUERY PLAN SELECT s.seq FROM spans s INDEXED BY {filters.index} "
                f"WHERE {filters.sql} ORDER BY s.start_ns, s.trace_id, s.id",
                filters.parameters,
            )
        ]
    assert "SEARCH s USING" in steps[0]
    assert plan in steps[0]
    if plan == "spans_by_trace":
        # By time; what sorts spans of one nanosecond is no part of it.
        assert steps[1:] == ["USE TEMP B-TREE FOR LAST 2 TERMS OF ORDER BY"]
    await store.close()
