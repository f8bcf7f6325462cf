"""The embedded store: one SQLite file, one writer thread, a few reader threads.

    upsert -> writer thread: BEGIN, many calls' rows, COMMIT -> futures      (sqlite_writer)
    get, search -> reader threads, a read-only connection each              (sqlite_readers)
    commits -> a thread that follows, with a file of its own, for text        (sqlite_text)

W3  Readers never block the writer (WAL), and stop at their deadline. Reads of one row have a
    thread of their own, so that slow searches never delay them.

Another process may have the same file open: locks are waited for, a bounded time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import apsw

from everyspan.clock import SYSTEM_CLOCK, Clock
from everyspan.errors import StoreError
from everyspan.model.report import ProducerReport
from everyspan.server.assessments import Assessment, AssessmentType, Author, Change, Draft
from everyspan.server.keys import Key
from everyspan.server.patch import SpanPatch
from everyspan.server.producers import Loss, LossQuery, Producer
from everyspan.server.row import SpanRow
from everyspan.server.stores import (
    sqlite_assessments,
    sqlite_keys,
    sqlite_list,
    sqlite_producers,
    sqlite_search,
    sqlite_spans,
    sqlite_trace_list,
    sqlite_trace_spans,
)
from everyspan.server.stores.base import (
    BEHIND_MAX,
    ListQuery,
    MatchingTraces,
    SearchPage,
    SearchQuery,
    Store,
    StoreHealth,
)
from everyspan.server.stores.sqlite_codec import Packer
from everyspan.server.stores.sqlite_file import create, measure, open_writer
from everyspan.server.stores.sqlite_readers import Deadline, Readers
from everyspan.server.stores.sqlite_retention import Retention
from everyspan.server.stores.sqlite_rows import (
    BY_ID_SQL,
    ROW_BYTES,
    SELECT_ROW_SQL,
    by_id,
    from_values,
)
from everyspan.server.stores.sqlite_schema import prepare
from everyspan.server.stores.sqlite_text import TextIndex
from everyspan.server.stores.sqlite_traces import TraceFollower
from everyspan.server.stores.sqlite_trainer import Trainer
from everyspan.server.stores.sqlite_writer import Follower, Transaction, Writer
from everyspan.server.stores.traces import (
    QUERY_TIME_MAX_S,
    FacetValue,
    OutlinePage,
    Overview,
    Series,
    SpanGroup,
    SpanPosition,
    Trace,
    TraceFilter,
    TracePage,
    TraceQuery,
)
from everyspan.server.summary import Facet

WAITING_BYTES_MAX = 128 * 1024 * 1024
_T = TypeVar("_T")
SEARCHERS = 3
GET_TIME_MAX_S = 10.0

_GET_SQL = SELECT_ROW_SQL + (
    f"WHERE s.seq = (SELECT seq FROM {BY_ID_SQL}ORDER BY change DESC, seq DESC LIMIT 1)"
)
_CHANGE_SQL = "SELECT value FROM numbers WHERE name = 'change'"
_COUNT_SQL = (
    "SELECT sum(CASE name WHEN 'seq' THEN value WHEN 'deleted' THEN -value END) FROM numbers"
)
_SUMMARIZED_SQL = "SELECT value FROM numbers WHERE name = 'traces'"
_BEHIND_SQL = (
    "SELECT count(*) FROM (SELECT 1 FROM spans INDEXED BY spans_by_change "
    "WHERE (change, seq) > (?, ?) LIMIT ?)"
)


class SqliteStore(Store):
    """A store in one SQLite file.

    Args:
        path: The file; it and its folders are created where missing.
        connect: Opens the writer's connection; tests put a failing disk beneath it.
        followers: Work that follows commits, on the writer's thread.
        keep_s: Traces without activity for longer are deleted; None keeps them.
        keep_bytes: Beyond this size the oldest traces are deleted; None is no bound.

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
        followers: Sequence[Follower] = (),
        keep_s: float | None = None,
        keep_bytes: int | None = None,
    ) -> None:
        self._path = str(path)
        self._packer = Packer()
        self._clock = clock
        try:
            create(Path(path))
            connection = (connect or open_writer)(self._path)
            try:
                prepare(connection, self._path)
            except BaseException:
                connection.close()
                raise
        except (apsw.Error, OSError) as error:
            raise StoreError(f"cannot open the store {self._path}: {error}") from error
        if keep_s is not None or keep_bytes is not None:
            followers = [Retention(age_s=keep_s, size_bytes=keep_bytes), *followers]
        self._writer = Writer(
            connection,
            clock=clock,
            waiting_bytes_max=waiting_bytes_max,
            followers=[TraceFollower(), Trainer(self._packer), *followers],
        )
        self._points = Readers(self._path, "everyspan-point-reader", threads=1)
        self._searches = Readers(self._path, "everyspan-searcher", threads=SEARCHERS)
        self._text = TextIndex(self._path, is_busy=lambda: self._writer.waiting()[0] > 0)

    async def upsert(
        self, rows: Sequence[SpanRow], *, foreign_parents: bool = False, cut_cycles: bool = False
    ) -> list[SpanRow]:
        if not rows:
            return []

        def write(transaction: Transaction) -> list[SpanRow]:
            return sqlite_spans.upsert(
                transaction,
                self._packer,
                rows,
                foreign_parents=foreign_parents,
                cut_cycles=cut_cycles,
            )

        size = sum(row.payload_bytes for row in rows) + ROW_BYTES * len(rows)
        result: list[SpanRow] = await self._writer.submit(write, size)
        return result

    async def patch(self, account: str, span_id: str, patch: SpanPatch) -> SpanRow | None:
        def write(transaction: Transaction) -> SpanRow | None:
            return sqlite_spans.patch(transaction, self._packer, account, span_id, patch)

        size = patch.payload_bytes + ROW_BYTES
        result: SpanRow | None = await self._writer.submit(write, size)
        return result

    async def get(self, account: str, span_id: str) -> SpanRow | None:
        def read(connection: apsw.Connection, _deadline: Deadline) -> SpanRow | None:
            for values in connection.execute(_GET_SQL, by_id(account, span_id)):
                return from_values(values)
            return None

        return await self._points.submit(read, GET_TIME_MAX_S)

    async def search(self, query: SearchQuery) -> SearchPage:
        def read(connection: apsw.Connection, deadline: Deadline) -> SearchPage:
            return sqlite_search.search(connection, query, deadline, self._text)

        return await self._searches.submit(read, query.time_max_s)

    async def search_traces(self, query: SearchQuery) -> MatchingTraces:
        def read(connection: apsw.Connection, deadline: Deadline) -> MatchingTraces:
            return sqlite_search.search_traces(connection, query, deadline, self._text)

        return await self._searches.submit(read, query.time_max_s)

    async def list_spans(self, query: ListQuery) -> list[SpanRow]:
        def read(connection: apsw.Connection, _deadline: Deadline) -> list[SpanRow]:
            return sqlite_list.list_spans(connection, query)

        return await self._searches.submit(read, query.time_max_s)

    async def add_assessment(self, account: str, draft: Draft, author: Author) -> Assessment:
        def write(transaction: Transaction) -> Assessment:
            return sqlite_assessments.add(transaction, account, draft, author)

        made: Assessment = await self._writer.submit(write, ROW_BYTES)
        return made

    async def assessment(self, account: str, assessment_id: str) -> Assessment | None:
        def read(connection: apsw.Connection, _deadline: Deadline) -> Assessment | None:
            return sqlite_assessments.get(connection, account, assessment_id)

        return await self._points.submit(read, GET_TIME_MAX_S)

    async def assessments(
        self,
        account: str,
        *,
        span_id: str | None = None,
        trace_id: str | None = None,
        kind: AssessmentType | None = None,
    ) -> list[Assessment]:
        def read(connection: apsw.Connection, _deadline: Deadline) -> list[Assessment]:
            return sqlite_assessments.list_(
                connection, account, span_id=span_id, trace_id=trace_id, kind=kind
            )

        return await self._searches.submit(read, GET_TIME_MAX_S)

    async def change_assessment(
        self, account: str, assessment_id: str, change: Change, author: Author
    ) -> Assessment | None:
        def write(transaction: Transaction) -> Assessment | None:
            return sqlite_assessments.update(transaction, account, assessment_id, change, author)

        new: Assessment | None = await self._writer.submit(write, ROW_BYTES)
        return new

    async def delete_assessment(self, account: str, assessment_id: str, author: Author) -> bool:
        def write(transaction: Transaction) -> bool:
            return sqlite_assessments.delete(transaction, account, assessment_id, author)

        is_deleted: bool = await self._writer.submit(write, ROW_BYTES)
        return is_deleted

    async def put_report(self, account: str, producer_id: str, report: ProducerReport) -> bool:
        def write(transaction: Transaction) -> bool:
            return sqlite_producers.put(transaction, account, producer_id, report)

        size = ROW_BYTES * (1 + len(report.losses))
        is_newer: bool = await self._writer.submit(write, size)
        return is_newer

    async def producer(self, account: str, producer_id: str) -> Producer | None:
        def read(connection: apsw.Connection, _deadline: Deadline) -> Producer | None:
            return sqlite_producers.get(connection, account, producer_id)

        return await self._points.submit(read, GET_TIME_MAX_S)

    async def producers(
        self, account: str, *, limit: int, after: tuple[int, str] | None = None
    ) -> list[Producer]:
        def read(connection: apsw.Connection, _deadline: Deadline) -> list[Producer]:
            return sqlite_producers.list_(connection, account, limit=limit, after=after)

        return await self._searches.submit(read, GET_TIME_MAX_S)

    async def losses(self, query: LossQuery) -> list[Loss]:
        def read(connection: apsw.Connection, _deadline: Deadline) -> list[Loss]:
            return sqlite_producers.losses(connection, query)

        return await self._searches.submit(read, GET_TIME_MAX_S)

    async def keys(self) -> list[Key]:
        def read(connection: apsw.Connection, _deadline: Deadline) -> list[Key]:
            return sqlite_keys.read_keys(connection)

        return await self._points.submit(read, GET_TIME_MAX_S)

    async def add_key(self, key: Key) -> None:
        def write(transaction: Transaction) -> None:
            sqlite_keys.add_key(transaction, key)

        await self._writer.submit(write, ROW_BYTES)

    async def revoke_key(self, key_id: str) -> bool:
        def write(transaction: Transaction) -> bool:
            return sqlite_keys.revoke_key(transaction, key_id)

        result: bool = await self._writer.submit(write, ROW_BYTES)
        return result

    async def list_traces(self, query: TraceQuery) -> TracePage:
        return await self._query(lambda db: sqlite_trace_list.list_traces(db, query))

    async def get_trace(self, account: str, key: bytes) -> Trace | None:
        now_ns = self._clock.time_ns()
        return await self._query(lambda db: sqlite_trace_list.get_trace(db, account, key, now_ns))

    async def last_change(self) -> int:
        def read(connection: apsw.Connection, _deadline: Deadline) -> int:
            change: int = connection.execute(_CHANGE_SQL).get
            return change

        return await self._points.submit(read, GET_TIME_MAX_S)

    def watch(self, call: Callable[[], object]) -> None:
        self._writer.watch(call)

    async def changed_traces(self, account: str, *, after: int, limit: int) -> list[Trace]:
        return await self._query(
            lambda db: sqlite_trace_list.changed_traces(db, account, after, limit)
        )

    async def trace_spans(
        self,
        account: str,
        key: bytes,
        *,
        after: SpanPosition | None = None,
        since: int = 0,
        limit: int,
    ) -> OutlinePage:
        return await self._query(
            lambda db: sqlite_trace_spans.outline(
                db, account, key, after=after, since=since, limit=limit
            )
        )

    async def trace_span(self, account: str, key: bytes, span_id: str) -> SpanRow | None:
        return await self._query(lambda db: sqlite_trace_spans.get_span(db, account, key, span_id))

    async def facet_values(
        self, filter_: TraceFilter, facet: Facet, *, limit: int
    ) -> list[FacetValue]:
        return await self._query(
            lambda db: sqlite_trace_list.facet_values(db, filter_, facet, limit)
        )

    async def series(self, filter_: TraceFilter, *, buckets: int) -> Series:
        return await self._query(lambda db: sqlite_trace_list.series(db, filter_, buckets))

    async def overview(
        self,
        account: str,
        *,
        from_ns: int | None,
        to_ns: int | None,
        group_by: SpanGroup,
        limit: int,
    ) -> Overview:
        return await self._query(
            lambda db: sqlite_trace_spans.overview(
                db, account, from_ns=from_ns, to_ns=to_ns, group_by=group_by, limit=limit
            )
        )

    async def _query(self, read: Callable[[apsw.Connection], _T]) -> _T:
        return await self._searches.submit(lambda db, _deadline: read(db), QUERY_TIME_MAX_S)

    async def health(self) -> StoreHealth:
        def read(connection: apsw.Connection, _deadline: Deadline) -> StoreHealth:
            size_bytes, free_bytes = measure(Path(self._path))
            waiting, waiting_bytes = self._writer.waiting()
            summarized = connection.execute(_SUMMARIZED_SQL).get
            return StoreHealth(
                ok=self._writer.is_alive(),
                # Not count(*), which reads a whole index.
                spans=connection.execute(_COUNT_SQL).get,
                waiting=waiting,
                waiting_bytes=waiting_bytes,
                size_bytes=size_bytes,
                free_bytes=free_bytes,
                unsummarized=connection.execute(_BEHIND_SQL, (summarized, 2**62, BEHIND_MAX)).get,
                unindexed=connection.execute(_BEHIND_SQL, (*self._text.come_to, BEHIND_MAX)).get,
            )

        return await self._points.submit(read, GET_TIME_MAX_S)

    async def close(self) -> None:
        await self._points.close()
        await self._searches.close()
        await self._text.close()
        await self._writer.close()
