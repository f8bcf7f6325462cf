"""The embedded store: one SQLite file, one writer thread, a few reader threads.

    upsert -> waiting (bounded) -> writer thread: BEGIN, many calls' rows, COMMIT -> futures
    get, search -> asked (bounded) -> reader threads, a read-only connection each

W1  A call is answered after its COMMIT, with `synchronous=FULL`: the log is on the disk (P8).
W2  Calls that wait together share one transaction (group commit); each has its own savepoint, so
    a refused or failing call costs only itself (P5).
W3  Readers never block the writer (WAL), and stop at their deadline. Reads of one row have a
    thread of their own, so that slow searches never delay them.
W4  At most `waiting_bytes_max` and `WAITING_CALLS_MAX` wait; beyond, StoreBusyError.

Another process may have the same file open: locks are waited for, a bounded time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import apsw

from everyspan.clock import SYSTEM_CLOCK, Clock
from everyspan.errors import StoreBusyError, StoreError
from everyspan.server.merge import merge
from everyspan.server.patch import SpanPatch, apply_patch
from everyspan.server.row import SpanRow
from everyspan.server.stores import sqlite_list, sqlite_search
from everyspan.server.stores.base import ListQuery, SearchPage, SearchQuery, Store, StoreHealth
from everyspan.server.stores.sqlite_parents import check_parents
from everyspan.server.stores.sqlite_schema import (
    PLAIN,
    ROW_BYTES,
    ROW_COLUMNS,
    SELECT_ROW_SQL,
    from_values,
    prepare,
    to_body,
    to_values,
)

WAITING_BYTES_MAX = 128 * 1024 * 1024
WAITING_CALLS_MAX = 10_000
GROUP_BYTES_MAX = 16 * 1024 * 1024
"""A transaction takes no further call beyond this; chosen, not measured."""
SEARCHERS = 3
ASKED_MAX = 1_000
LOCK_WAIT_S = 5.0
GET_TIME_MAX_S = 10.0

_GET_SQL = (
    SELECT_ROW_SQL
    + "WHERE s.account = ? AND s.id = ? ORDER BY s.written_ns DESC, s.seq DESC LIMIT 1"
)
_SELECT_NUMBERED_SQL = SELECT_ROW_SQL.replace("SELECT ", "SELECT s.seq, ", 1)
_STORED_SQL = _SELECT_NUMBERED_SQL + "WHERE s.account = ? AND s.id = ? AND s.trace_id = ?"
_PATCHED_SQL = _SELECT_NUMBERED_SQL + (
    "WHERE s.account = ? AND s.id = ? ORDER BY s.trace_id = ? DESC, s.written_ns DESC, s.seq DESC "
    "LIMIT 1"
)
_INSERT_SQL = (
    f"INSERT INTO spans ({', '.join(ROW_COLUMNS)}, written_ns) "
    f"VALUES ({', '.join('?' * (len(ROW_COLUMNS) + 1))})"
)
_INSERT_BODY_SQL = "INSERT INTO payloads (seq, codec, body) VALUES (?, ?, ?)"
_UPDATE_SQL = (
    f"UPDATE spans SET {', '.join(f'{column} = ?' for column in ROW_COLUMNS)}, written_ns = ? "
    "WHERE seq = ?"
)
_UPDATE_BODY_SQL = "UPDATE payloads SET codec = ?, body = ? WHERE seq = ?"

_log = logging.getLogger("everyspan.server.store")
_T = TypeVar("_T")


class _Write(Protocol):
    """One call's work inside the writer's transaction."""

    def __call__(self, connection: apsw.Connection, now_ns: int) -> Any: ...


class _Call:
    """Work handed to a thread, and the future its caller awaits."""

    __slots__ = ("bytes", "deadline_s", "error", "future", "loop", "result", "work")

    def __init__(self, work: Callable[..., Any], *, size: int = 0, deadline_s: float = 0) -> None:
        self.work = work
        self.bytes = size
        self.deadline_s = deadline_s
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None


class SqliteStore(Store):
    """A store in one SQLite file.

    Args:
        path: The file; it and its folders are created where missing.
        connect: Opens the writer's connection; tests put a failing disk beneath it.

    Raises:
        StoreError: The file cannot be opened or is not ours.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Clock = SYSTEM_CLOCK,
        waiting_bytes_max: int = WAITING_BYTES_MAX,
        connect: Callable[[str], apsw.Connection] | None = None,
    ) -> None:
        self._path = str(path)
        self._clock = clock
        try:
            _create(Path(path))
            connection = (connect or open_writer)(self._path)
            prepare(connection, self._path)
        except (apsw.Error, OSError) as error:
            raise StoreError(f"cannot open the store {self._path}: {error}") from error
        self._writer = _Writer(connection, clock, waiting_bytes_max)
        self._points = _Readers(self._path, "everyspan-point-reader", threads=1)
        self._searches = _Readers(self._path, "everyspan-searcher", threads=SEARCHERS)

    async def upsert(
        self, rows: Sequence[SpanRow], *, foreign_parents: bool = False
    ) -> list[SpanRow]:
        if not rows:
            return []

        def write(connection: apsw.Connection, now_ns: int) -> list[SpanRow]:
            return _upsert(connection, rows, now_ns, foreign_parents=foreign_parents)

        size = sum(row.payload_bytes for row in rows) + ROW_BYTES * len(rows)
        result: list[SpanRow] = await self._writer.submit(write, size)
        return result

    async def patch(self, account: str, span_id: str, patch: SpanPatch) -> SpanRow | None:
        def write(connection: apsw.Connection, now_ns: int) -> SpanRow | None:
            return _patch(connection, account, span_id, patch, now_ns)

        size = patch.payload_bytes + ROW_BYTES
        result: SpanRow | None = await self._writer.submit(write, size)
        return result

    async def get(self, account: str, span_id: str) -> SpanRow | None:
        def read(connection: apsw.Connection, _deadline: sqlite_search.Deadline) -> SpanRow | None:
            for values in connection.execute(_GET_SQL, (account, span_id)):
                return from_values(values)
            return None

        return await self._points.submit(read, GET_TIME_MAX_S)

    async def search(self, query: SearchQuery) -> SearchPage:
        def read(connection: apsw.Connection, deadline: sqlite_search.Deadline) -> SearchPage:
            return sqlite_search.search(connection, query, deadline)

        return await self._searches.submit(read, query.time_max_s)

    async def list_spans(self, query: ListQuery) -> list[SpanRow]:
        def read(connection: apsw.Connection, _deadline: sqlite_search.Deadline) -> list[SpanRow]:
            return sqlite_list.list_spans(connection, query)

        return await self._searches.submit(read, query.time_max_s)

    async def health(self) -> StoreHealth:
        def read(connection: apsw.Connection, _deadline: sqlite_search.Deadline) -> int:
            # Not count(*), which reads a whole index: spans are numbered as they first arrive.
            spans: int = connection.execute("SELECT coalesce(max(seq), 0) FROM spans").get
            return spans

        spans = await self._points.submit(read, GET_TIME_MAX_S)
        waiting, waiting_bytes = self._writer.waiting()
        return StoreHealth(
            ok=self._writer.is_alive(), spans=spans, waiting=waiting, waiting_bytes=waiting_bytes
        )

    async def close(self) -> None:
        await self._points.close()
        await self._searches.close()
        await self._writer.close()


def _create(path: Path) -> None:
    """Make the file and its folders where missing: for their owner only, and on the disk."""
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        # SQLite syncs the file's own folder; that this folder is in its parent is our business.
        _sync_folder(folder.parent)
    # Prompts and answers are in here. SQLite gives its other files the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_writer(path: str, *, vfs: str | None = None) -> apsw.Connection:
    """Open the connection that writes: WAL, every commit on the disk before it returns.

    Args:
        vfs: SQLite's name for the layer that reads and writes files; None is the system's.
    """
    connection = apsw.Connection(path, vfs=vfs)
    connection.set_busy_timeout(int(LOCK_WAIT_S * 1000))
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "FULL")
    connection.pragma("cache_size", -64 * 1024)
    connection.pragma("wal_autocheckpoint", 4000)
    connection.pragma("journal_size_limit", 64 * 1024 * 1024)
    return connection


def _open_reader(path: str) -> apsw.Connection:
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(int(LOCK_WAIT_S * 1000))
    connection.pragma("cache_size", -16 * 1024)
    return connection


class _Writer:
    """The thread that alone writes."""

    def __init__(self, connection: apsw.Connection, clock: Clock, waiting_bytes_max: int) -> None:
        self._connection = connection
        self._clock = clock
        self._bytes_max = waiting_bytes_max
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._calls: deque[_Call] = deque()
        self._uncommitted = 0
        self._uncommitted_bytes = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="everyspan-writer", daemon=True)
        self._thread.start()

    async def submit(self, work: _Write, size: int) -> Any:
        call = _Call(work, size=size)
        with self._lock:
            if self._closing:
                raise StoreError("the store is closed")
            # A single call over the bound passes when nothing waits, or it never could.
            full = self._uncommitted and self._uncommitted_bytes + size > self._bytes_max
            if full or self._uncommitted >= WAITING_CALLS_MAX:
                raise StoreBusyError(
                    f"{self._uncommitted} writes wait for the disk", retry_after_s=1.0
                )
            self._calls.append(call)
            self._uncommitted += 1
            self._uncommitted_bytes += size
            self._wake.notify()
        return await call.future

    def waiting(self) -> tuple[int, int]:
        with self._lock:
            return self._uncommitted, self._uncommitted_bytes

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    async def close(self) -> None:
        with self._lock:
            self._closing = True
            self._wake.notify()
        await _join(self._thread)

    def _run(self) -> None:
        while calls := self._next_calls():
            try:
                self._commit(calls)
            except BaseException as error:
                # The thread must outlive whatever happened here, or every later call would hang.
                _log.error("the store's writer failed: %s", type(error).__name__)
                for call in calls:
                    call.error = call.error or error
            with self._lock:
                self._uncommitted -= len(calls)
                self._uncommitted_bytes -= sum(call.bytes for call in calls)
            _answer(calls)
        self._connection.close()

    def _next_calls(self) -> list[_Call]:
        """Wait for calls; return those of one transaction, none when closed and all is done."""
        with self._lock:
            while not self._calls:
                if self._closing:
                    return []
                self._wake.wait()
            calls = [self._calls.popleft()]
            size = calls[0].bytes
            while self._calls and size + self._calls[0].bytes <= GROUP_BYTES_MAX:
                calls.append(self._calls.popleft())
                size += calls[-1].bytes
            return calls

    def _commit(self, calls: list[_Call]) -> None:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            now_ns = self._clock.time_ns()
            for call in calls:
                connection.execute("SAVEPOINT call")
                try:
                    call.result = call.work(connection, now_ns)
                except Exception as error:
                    if not connection.in_transaction:
                        raise  # SQLite gave the whole transaction up: a full disk, a read error.
                    call.error = _store_error(error) if isinstance(error, apsw.Error) else error
                    connection.execute("ROLLBACK TO call")
                connection.execute("RELEASE call")
            connection.execute("COMMIT")
        except apsw.Error as error:
            for call in calls:
                call.error = _store_error(error)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


class _Readers:
    """Threads with a read-only connection each."""

    def __init__(self, path: str, name: str, *, threads: int) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._calls: deque[_Call] = deque()
        self._closing = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{n}", daemon=True)
            for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def submit(
        self, work: Callable[[apsw.Connection, sqlite_search.Deadline], _T], time_max_s: float
    ) -> _T:
        call = _Call(work, deadline_s=time.monotonic() + time_max_s)
        with self._lock:
            if self._closing:
                raise StoreError("the store is closed")
            if len(self._calls) >= ASKED_MAX:
                raise StoreBusyError(f"{ASKED_MAX} reads wait", retry_after_s=1.0)
            self._calls.append(call)
            self._wake.notify()
        result: _T = await call.future
        return result

    async def close(self) -> None:
        with self._lock:
            self._closing = True
            self._wake.notify_all()
        for thread in self._threads:
            await _join(thread)

    def _run(self) -> None:
        connection: apsw.Connection | None = None
        while call := self._next_call():
            try:
                if connection is None:
                    connection = _open_reader(self._path)
                deadline = sqlite_search.Deadline(call.deadline_s)
                connection.set_progress_handler(deadline.is_over, 2_000)
                call.result = call.work(connection, deadline)
            except apsw.Error as error:
                call.error = _store_error(error)
            except Exception as error:
                call.error = error
            finally:
                if connection is not None and connection.in_transaction:
                    connection.execute("ROLLBACK")
            _answer([call])
            # What a caller gave up must not keep its rows alive while this thread waits.
            del call
        if connection is not None:
            connection.close()

    def _next_call(self) -> _Call | None:
        with self._lock:
            while True:
                while self._calls:
                    call = self._calls.popleft()
                    if not call.future.cancelled():
                        return call
                if self._closing:
                    return None
                self._wake.wait()


def _upsert(
    connection: apsw.Connection, rows: Sequence[SpanRow], now_ns: int, *, foreign_parents: bool
) -> list[SpanRow]:
    # Everything is read and checked before the first write.
    versions: dict[tuple[str, str], SpanRow] = {}
    positions: dict[tuple[str, str], int] = {}
    for position, row in enumerate(rows):
        identity = (row.trace_id, row.id)
        known = versions.get(identity)
        versions[identity] = row if known is None else merge(known, row)
        positions.setdefault(identity, position)

    seqs: dict[tuple[str, str], int] = {}
    moved: dict[tuple[str, str], int] = {}
    for identity, row in versions.items():
        old_parent = None
        for seq, *values in connection.execute(_STORED_SQL, (row.account, row.id, row.trace_id)):
            old = from_values(tuple(values))
            old_parent = old.parent_id
            seqs[identity] = seq
            row = versions[identity] = merge(old, row)
        if row.parent_id is not None and row.parent_id != old_parent:
            moved[identity] = positions[identity]
    if moved:
        check_parents(connection, rows[0].account, versions, moved, foreign_parents=foreign_parents)

    for identity, row in versions.items():
        _put(connection, row, seqs.get(identity), now_ns)
    return list(versions.values())


def _put(connection: apsw.Connection, row: SpanRow, seq: int | None, now_ns: int) -> None:
    if seq is None:
        connection.execute(_INSERT_SQL, (*to_values(row), now_ns))
        seq = connection.last_insert_rowid()
        connection.execute(_INSERT_BODY_SQL, (seq, PLAIN, to_body(row)))
    else:
        connection.execute(_UPDATE_SQL, (*to_values(row), now_ns, seq))
        connection.execute(_UPDATE_BODY_SQL, (PLAIN, to_body(row), seq))


def _patch(
    connection: apsw.Connection, account: str, span_id: str, patch: SpanPatch, now_ns: int
) -> SpanRow | None:
    found = connection.execute(_PATCHED_SQL, (account, span_id, patch.trace_id)).fetchone()
    if found is None:
        return None
    seq, *values = found
    old = from_values(tuple(values))
    row = apply_patch(old, patch)
    if row.parent_id is not None and (row.trace_id, row.parent_id) != (old.trace_id, old.parent_id):
        identity = (row.trace_id, row.id)
        check_parents(connection, account, {identity: row}, {identity: 0}, foreign_parents=True)
    _put(connection, row, seq, now_ns)
    return row


def _answer(calls: list[_Call]) -> None:
    """Hand results to the loops that wait, with one wake-up a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Call]] = {}
    for call in calls:
        by_loop.setdefault(call.loop, []).append(call)
    for loop, its in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, its)
        except RuntimeError:
            pass  # That loop is closed: nobody waits any more.


def _resolve(calls: list[_Call]) -> None:
    for call in calls:
        if call.future.done():
            continue
        if call.error is not None:
            call.future.set_exception(call.error)
        else:
            call.future.set_result(call.result)


def _store_error(error: apsw.Error) -> StoreError:
    if isinstance(error, apsw.BusyError):
        return StoreBusyError("another process holds the store", retry_after_s=1.0)
    return StoreError(f"the store failed: {error}")


async def _join(thread: threading.Thread) -> None:
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def wait() -> None:
        thread.join()
        loop.call_soon_threadsafe(ended.set_result, None)

    threading.Thread(target=wait, name="everyspan-join", daemon=True).start()
    await ended
