"""Lists, facets and figures of traces in the SQLite store.

Every equality is a facet, and every value of a facet is a range of `trace_facets` by start. So a
list by start walks the smallest of the ranges that its filters name, and checks the other filters
row by row; by another order it does so where the range is small, else it walks that order's index.
Indexes are named, not left to the planner: it has no statistics.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import apsw
import msgspec

from everyspan.errors import RequestError
from everyspan.server.stores.sqlite_traces import summarize
from everyspan.server.stores.traces import (
    QUERY_TIME_MAX_S,
    FacetValue,
    Figures,
    Series,
    Trace,
    TraceFilter,
    TracePage,
    TracePosition,
    TraceQuery,
)
from everyspan.server.summary import Facet, TraceSort, TraceSummary

PROBED_MAX = 3_000
"""A range of up to so many traces is sorted, rather than walking the index of an order."""
LATENCY_STEPS = 50
"""Latencies are counted in steps of 1/50 of the natural logarithm: percentiles within 2 %."""

_SORTS: dict[TraceSort, tuple[str, str]] = {
    "start": ("t.start_ns", "traces_by_start"),
    "duration": ("t.duration_ns", "traces_by_duration"),
    "tokens": ("t.tokens", "traces_by_tokens"),
    "cost": ("t.cost_usd", "traces_by_cost"),
    "errors": ("t.errors", "traces_by_errors"),
}
_SUMMARY_SQL = (
    "SELECT t.otel_trace_id, t.change, s.summary "
    "FROM traces t JOIN trace_summaries s USING (number)"
)

_NAMED_SQL = "traces t INDEXED BY traces_by_key"

_decode = msgspec.json.Decoder(TraceSummary).decode

_Found = tuple[int, int | float, bytes]
"""Number, sort value, key."""


def list_traces(connection: apsw.Connection, query: TraceQuery) -> TracePage:
    """See `Store.list_traces`."""
    with reading(connection):
        is_backward = query.before is not None
        falling = query.descending != is_backward
        position = query.before if is_backward else query.after
        found = _Finder(connection, query.filter).page(
            query.sort, falling=falling, position=position, count=query.limit + 1
        )
        has_more = len(found) > query.limit
        found = found[: query.limit]
        if is_backward:
            found.reverse()
        traces = [trace for number, _, _ in found if (trace := _read(connection, number))]
        has_cursor = position is not None
        return TracePage(
            traces,
            has_next=has_cursor if is_backward else has_more,
            has_previous=has_more if is_backward else has_cursor,
        )


def get_trace(connection: apsw.Connection, account: str, key: bytes, now_ns: int) -> Trace | None:
    """See `Store.get_trace`."""
    sql = f"{_SUMMARY_SQL} WHERE t.account = ? AND t.otel_trace_id = ?"
    with reading(connection):
        for key_, change, summary in connection.execute(sql, (account, key)):
            return Trace(key_, change, _decode(summary))
        # Its spans may be younger than the last look at what was written.
        found = summarize(connection, account, key, now_ns)
        return None if found is None else Trace(key, 0, found[0])


def changed_traces(
    connection: apsw.Connection, account: str, after: int, limit: int
) -> list[Trace]:
    """See `Store.changed_traces`."""
    sql = (
        "SELECT number FROM traces INDEXED BY traces_by_change "
        "WHERE account = ? AND change > ? ORDER BY change LIMIT ?"
    )
    numbers: list[Any] = connection.execute(sql, (account, after, limit)).fetchall()
    return [trace for (number,) in numbers if (trace := _read(connection, number))]


def facet_values(
    connection: apsw.Connection, filter_: TraceFilter, facet: Facet, limit: int
) -> list[FacetValue]:
    """See `Store.facet_values`."""
    with reading(connection):
        where, values = _window("start_ns", filter_)
        sql = (
            "SELECT value, count(*) FROM trace_facets WHERE account = ? AND facet = ?"
            f"{where} GROUP BY value ORDER BY count(*) DESC, value LIMIT ?"
        )
        rows = connection.execute(sql, (filter_.account, facet, *values, limit))
        return [FacetValue(value, count) for value, count in rows]


def series(connection: apsw.Connection, filter_: TraceFilter, buckets: int) -> Series:
    """See `Store.series`."""
    with reading(connection):
        finder = _Finder(connection, filter_)
        from_ns, to_ns = _span_of_time(connection, filter_)
        bucket_ns = max(1, -(-(to_ns - from_ns) // buckets))
        total, by_bucket = LatencySum(), dict[int, LatencySum]()
        for bucket, *figures in finder.figures(from_ns, bucket_ns):
            total.add(*figures)
            by_bucket.setdefault(bucket, LatencySum()).add(*figures)
        return Series(
            from_ns,
            bucket_ns,
            total.figures(),
            [(bucket, sum_.figures()) for bucket, sum_ in sorted(by_bucket.items())],
        )


class _Finder:
    """Finds traces by a filter."""

    def __init__(self, connection: apsw.Connection, filter_: TraceFilter) -> None:
        self._connection = connection
        self._filter = filter_

    def page(
        self, sort: TraceSort, *, falling: bool, position: TracePosition | None, count: int
    ) -> list[_Found]:
        """Return up to `count` traces beyond `position`."""
        column, index = _SORTS[sort]
        if self._filter.traces is not None:
            where, values = self._conditions(None)
            return self._run(_NAMED_SQL, where, values, column, falling, position, count)
        facet, size = self._smallest()
        if sort == "start" or size < PROBED_MAX:
            if facet is not None:
                return self._in_facet(facet, column, falling, position, count)
            index = "traces_by_start"
        where, values = self._conditions(None)
        return self._run(
            f"traces t INDEXED BY {index}", where, values, column, falling, position, count
        )

    def figures(self, from_ns: int, bucket_ns: int) -> Iterable[tuple[Any, ...]]:
        """Yield bucket, latency step (None: open), and sums over the traces of both."""
        named = self._filter.traces is not None
        facet, _ = (None, 0) if named else self._smallest()
        if facet is not None and len(facet[1]) == 1:
            source, where, values = self._facet_range(facet, facet[1][0])
        else:
            # Ranges of several values would count a trace twice that has two of them.
            source = _NAMED_SQL if named else "traces t INDEXED BY traces_by_start"
            where, values = self._conditions(None)
        sql = (
            "SELECT (t.start_ns - ?) / ?, "
            f"{LatencySum.step_sql('t.duration_ns', 't.is_open')}, "
            "count(*), sum(t.errors > 0), sum(t.state = 'running'), "
            "sum(t.state IN ('lost', 'unaccounted', 'late')), sum(t.tokens), sum(t.cost_usd) "
            f"FROM {source} WHERE {where} GROUP BY 1, 2"
        )
        return self._connection.execute(sql, (from_ns, bucket_ns, *values))

    def _smallest(self) -> tuple[tuple[Facet, Sequence[str]] | None, int]:
        """Return the facet whose values are in the fewest traces, and how many, up to a bound.

        None stands for all traces of the window, where those are fewer.
        """
        filter_ = self._filter
        window, times = _window("start_ns", filter_)
        best: tuple[Facet, Sequence[str]] | None = None
        least: int = self._connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM traces INDEXED BY traces_by_start "
            f"WHERE account = ?{window} LIMIT ?)",
            (filter_.account, *times, PROBED_MAX),
        ).get
        for facet in filter_.facets:
            size = 0
            for value in facet[1]:
                size += self._connection.execute(
                    "SELECT count(*) FROM (SELECT 1 FROM trace_facets "
                    f"WHERE account = ? AND facet = ? AND value = ?{window} LIMIT ?)",
                    (filter_.account, facet[0], value, *times, PROBED_MAX),
                ).get
            # Of two that reach the bound, a facet still leaves out what all traces do not.
            if size < least or (best is None and least == PROBED_MAX):
                best, least = facet, size
        return best, least

    def _in_facet(
        self,
        facet: tuple[Facet, Sequence[str]],
        column: str,
        falling: bool,
        position: TracePosition | None,
        count: int,
    ) -> list[_Found]:
        found: dict[bytes, _Found] = {}
        if column == "t.start_ns":
            column = "f.start_ns"
        for value in facet[1]:
            source, where, values = self._facet_range(facet, value)
            for row in self._run(source, where, values, column, falling, position, count):
                found[row[2]] = row
        return sorted(found.values(), key=_by_value, reverse=falling)[:count]

    def _facet_range(
        self, facet: tuple[Facet, Sequence[str]], value: str
    ) -> tuple[str, str, list[Any]]:
        """Return FROM, WHERE and its values for the traces with one value of a facet."""
        where, values = self._conditions(facet[0])
        window, times = _window("f.start_ns", self._filter)
        return (
            "trace_facets f CROSS JOIN traces t INDEXED BY traces_by_key "
            "ON t.account = f.account AND t.otel_trace_id = f.otel_trace_id",
            f"f.account = ? AND f.facet = ? AND f.value = ?{window} AND {where}",
            [self._filter.account, facet[0], value, *times, *values],
        )

    def _conditions(self, without: Facet | None) -> tuple[str, list[Any]]:
        """Return what holds of a trace `t`, but for one facet."""
        filter_ = self._filter
        window, times = _window("t.start_ns", filter_)
        sql, values = f"t.account = ?{window}", [filter_.account, *times]
        for facet, wanted in filter_.facets:
            if facet == without:
                continue
            sql += (
                " AND EXISTS (SELECT 1 FROM trace_facets g WHERE g.account = t.account "
                f"AND g.facet = ? AND g.value IN ({', '.join('?' * len(wanted))}) "
                "AND g.start_ns = t.start_ns AND g.otel_trace_id = t.otel_trace_id)"
            )
            values += [facet, *wanted]
        if filter_.traces is not None:
            sql += " AND t.otel_trace_id IN (SELECT unhex(value) FROM json_each(?))"
            keys = [key.hex() for key in filter_.traces]
            values.append(msgspec.json.encode(keys).decode())
        for condition, bound in (
            ("t.duration_ns >= ?", filter_.min_duration_ns),
            ("t.duration_ns <= ?", filter_.max_duration_ns),
            ("t.tokens >= ?", filter_.min_tokens),
            ("t.cost_usd >= ?", filter_.min_cost_usd),
        ):
            if bound is not None:
                sql += f" AND {condition}"
                values.append(bound)
        return sql, values

    def _run(
        self,
        source: str,
        where: str,
        values: list[Any],
        column: str,
        falling: bool,
        position: TracePosition | None,
        count: int,
    ) -> list[_Found]:
        key = "f.otel_trace_id" if column.startswith("f.") else "t.otel_trace_id"
        if position is not None:
            where += f" AND ({column}, {key}) {'<' if falling else '>'} (?, ?)"
            values = [*values, position.value, position.trace]
        way = "DESC" if falling else "ASC"
        sql = (
            f"SELECT t.number, {column}, {key} FROM {source} WHERE {where} "
            f"ORDER BY {column} {way}, {key} {way} LIMIT ?"
        )
        found: list[Any] = self._connection.execute(sql, (*values, count)).fetchall()
        return found


class LatencySum:
    """Figures being added up, from rows grouped by latency."""

    @staticmethod
    def step_sql(duration: str, is_open: str) -> str:
        """Return the SQL of a latency's step, NULL for what is open."""
        step = f"CAST(ln(max({duration}, 1)) * {LATENCY_STEPS} AS INTEGER)"
        return f"iif({is_open}, NULL, {step})"

    def __init__(self) -> None:
        self._figures = Figures()
        self._steps: dict[int, int] = {}

    def add(
        self,
        step: int | None,
        count: int,
        errors: int,
        running: int,
        incomplete: int,
        tokens: int | None,
        cost_usd: float | None,
    ) -> None:
        """Add so many with a latency of this step."""
        figures = self._figures
        figures.count += count
        figures.errors += errors
        figures.running += running
        figures.incomplete += incomplete
        figures.tokens += tokens or 0
        figures.cost_usd += cost_usd or 0.0
        if step is not None:
            self._steps[step] = self._steps.get(step, 0) + count

    def figures(self) -> Figures:
        """Return what was added."""
        figures = self._figures
        ended = sum(self._steps.values())
        if ended:
            figures.p50_ns, figures.p95_ns, figures.p99_ns = (
                self._percentile(math.ceil(ended * share)) for share in (0.5, 0.95, 0.99)
            )
        return figures

    def _percentile(self, rank: int) -> int:
        """Return the latency of the `rank`-th of the fastest."""
        for step, count in sorted(self._steps.items()):
            rank -= count
            if rank <= 0:
                return round(math.exp((step + 0.5) / LATENCY_STEPS))
        raise AssertionError("there are fewer")


@contextmanager
def reading(connection: apsw.Connection) -> Iterator[None]:
    """Give one snapshot to several statements.

    Raises:
        RequestError: 400; they took longer than a query may.
    """
    connection.execute("BEGIN")
    try:
        yield
    except apsw.InterruptError:
        raise RequestError(
            400, "QUERY_TOO_BROAD", f"the query took longer than {QUERY_TIME_MAX_S:g} s; narrow it"
        ) from None
    finally:
        connection.execute("ROLLBACK")


def _read(connection: apsw.Connection, number: int) -> Trace | None:
    for key, change, summary in connection.execute(f"{_SUMMARY_SQL} WHERE number = ?", (number,)):
        return Trace(key, change, _decode(summary))
    return None


def _window(column: str, filter_: TraceFilter) -> tuple[str, list[int]]:
    sql, values = "", []
    if filter_.from_ns is not None:
        sql += f" AND {column} >= ?"
        values.append(filter_.from_ns)
    if filter_.to_ns is not None:
        sql += f" AND {column} < ?"
        values.append(filter_.to_ns)
    return sql, values


def _span_of_time(connection: apsw.Connection, filter_: TraceFilter) -> tuple[int, int]:
    """Return the window, where it is open up to the first or the last trace."""
    from_ns, to_ns = filter_.from_ns, filter_.to_ns
    sql = "SELECT {}(start_ns) FROM traces INDEXED BY traces_by_start WHERE account = ?"
    if from_ns is None:
        from_ns = connection.execute(sql.format("min"), (filter_.account,)).get or 0
    if to_ns is None:
        last_ns = connection.execute(sql.format("max"), (filter_.account,)).get
        to_ns = from_ns if last_ns is None else last_ns + 1
    return from_ns, max(to_ns, from_ns + 1)


def _by_value(found: _Found) -> tuple[int | float, bytes]:
    return found[1], found[2]
