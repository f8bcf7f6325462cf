"""`everyspan.server.stores.sqlite_writer`: what follows commits; the numbers of transactions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from everyspan.server.stores.sqlite import SqliteStore
from everyspan.server.stores.sqlite_file import open_writer
from everyspan.server.stores.sqlite_writer import Transaction
from tests.server.rows import make_row

_NUMBER_SQL = "SELECT value FROM numbers WHERE name = 'followed'"
_KEEP_SQL = "INSERT OR REPLACE INTO numbers VALUES ('followed', ?)"
_NEXT_SQL = "SELECT min(change) FROM spans WHERE change > ?"


class Walker:
    """Goes through all changes, one a turn; keeps in the file how far it has come."""

    def __init__(self, fails: Callable[[int], bool] = lambda _turn: False) -> None:
        self._fails = fails
        self._changed = threading.Condition()
        self.seen: list[int] = []
        self.turns = 0

    def follow(self, transaction: Transaction, _budget_s: float) -> float | None:
        with self._changed:
            self.turns += 1
            connection = transaction.connection
            at = connection.execute(_NUMBER_SQL).get or 0
            change = connection.execute(_NEXT_SQL, (at,)).get
            if change is None:
                return None
            connection.execute(_KEEP_SQL, (change,))
            if self._fails(self.turns):
                raise RuntimeError("a defect")
            self.seen.append(change)
            self._changed.notify()
            return 0.0

    async def wait_for(self, path: Path, turns: slice = slice(None)) -> None:
        """Return once it has seen the changes of all spans, or a part of them."""
        with apsw.Connection(str(path)) as connection:
            sql = "SELECT DISTINCT change FROM spans ORDER BY change"
            changes = [change for (change,) in connection.execute(sql)][turns]

        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(lambda: self.seen == changes, timeout=10)

        assert await asyncio.to_thread(wait), self.seen


async def test_a_follower_sees_every_change_once_and_in_order(tmp_path: Path) -> None:
    """W5, W6: also after a restart, and what was written while it was not there."""
    path = tmp_path / "spans.db"
    walker = Walker()
    store = SqliteStore(path, followers=[walker])
    for _ in range(3):
        await store.upsert([make_row(), make_row()])
    await walker.wait_for(path)
    await store.close()

    store = SqliteStore(path)
    await store.upsert([make_row()])
    await store.close()

    walker = Walker()
    store = SqliteStore(path, followers=[walker])
    await walker.wait_for(path, slice(3, None))
    await store.upsert([make_row()])
    await walker.wait_for(path, slice(3, None))
    await store.close()


async def test_a_follower_that_fails_costs_no_call_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """W5: what it wrote in that turn is undone."""
    monkeypatch.setattr("everyspan.server.stores.sqlite_writer.FAILED_FOLLOWER_WAIT_S", 0.01)
    path = tmp_path / "spans.db"
    # The first turn is the one at the start, which finds nothing.
    walker = Walker(fails=lambda turn: turn in (2, 3))
    store = SqliteStore(path, followers=[walker])
    await store.upsert([make_row()])
    await store.upsert([make_row()])
    await walker.wait_for(path)
    assert [record.getMessage() for record in caplog.records] == [
        "Walker failed, and tries again: RuntimeError"
    ] * 2
    await store.close()


async def test_followers_under_load_have_no_transaction_of_their_own(tmp_path: Path) -> None:
    """W5: their work is in the commit of the calls that came meanwhile."""
    statements: list[str] = []
    came = threading.Event()

    class Slow:
        def follow(self, transaction: Transaction, _budget_s: float) -> float | None:
            if transaction.connection.execute(_NEXT_SQL, (0,)).get is not None:
                came.wait(10)
                transaction.connection.execute(_KEEP_SQL, (1,))
            return None

    def connect(path: str) -> apsw.Connection:
        connection = open_writer(path)

        def trace(_cursor: object, sql: str, _values: object) -> bool:
            statements.append(sql)
            return True

        connection.exec_trace = trace
        return connection

    store = SqliteStore(tmp_path / "spans.db", connect=connect, followers=[Slow()])
    await store.upsert([make_row()])
    del statements[:]
    while "BEGIN IMMEDIATE" not in statements:  # The follower's turn has begun.
        await asyncio.sleep(0.001)
    call = asyncio.create_task(store.upsert([make_row()]))
    await asyncio.sleep(0)
    came.set()
    await call
    assert statements.count("COMMIT") == 1
    assert any("'followed'" in sql for sql in statements)
    await store.close()


async def test_two_processes_never_give_out_one_number_twice(tmp_path: Path) -> None:
    """W6."""
    stores = [SqliteStore(tmp_path / "spans.db") for _ in range(2)]
    for n in range(20):
        await stores[n % 2].upsert([make_row(id=f"{n}"), make_row(id=f"{n} too")])
    with apsw.Connection(str(tmp_path / "spans.db")) as connection:
        sql = "SELECT id, seq, change FROM spans ORDER BY seq"
        rows: list[Any] = connection.execute(sql).fetchall()
    assert [id_ for id_, _, _ in rows] == [id_ for n in range(20) for id_ in (f"{n}", f"{n} too")]
    changes = [change for _, _, change in rows]
    assert changes[::2] == changes[1::2]
    # Not one by one: summaries of traces are written under numbers, too.
    assert sorted(set(changes)) == changes[::2]
    for store in stores:
        await store.close()


async def test_a_refused_call_takes_no_number_of_a_span(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "spans.db")
    await asyncio.gather(
        store.upsert([make_row(), make_row(name="\ud800")]),
        store.upsert([make_row()]),
        return_exceptions=True,
    )
    assert (await store.health()).spans == 1
    await store.close()
