"""The spans of a trace without their payloads, and figures over spans, in the SQLite store."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from everyspan.server.row import DEFAULT_TYPE, SpanRow
from everyspan.server.stores.sqlite_rows import SELECT_ROW_SQL, from_values, otel_span_id
from everyspan.server.stores.sqlite_trace_list import LatencySum, reading
from everyspan.server.stores.traces import (
    Group,
    OutlinePage,
    Overview,
    SpanGroup,
    SpanOutline,
    SpanPosition,
)

SPANS_LOOKED_AT_MAX = 100_000
"""Spans that an overview reads at most; chosen: some 200 ms."""

_OUTLINE_SQL = (
    f"SELECT {', '.join(SpanOutline.__struct_fields__)} FROM spans INDEXED BY spans_by_trace "
    "WHERE account = ? AND otel_trace_id = ?"
)
_BY_ANY_ID_SQL = (
    "SELECT seq FROM spans INDEXED BY spans_by_id WHERE otel_span_id = ? AND otel_trace_id = ? "
    "AND account = ? ORDER BY id = ? DESC, change DESC LIMIT 1"
)
_GROUPS: dict[SpanGroup, str] = {
    "model": "model",
    "name": "name",
    "type": f"coalesce(type, '{DEFAULT_TYPE}')",
    "agent": "agent",
}


def outline(
    connection: apsw.Connection,
    account: str,
    key: bytes,
    *,
    after: SpanPosition | None,
    since: int,
    limit: int,
) -> OutlinePage:
    """See `Store.trace_spans`."""
    where, values = "", list[Any]()
    if after is not None:
        where += " AND (start_ns, id, trace_id) > (?, ?, ?)"
        values += msgspec.structs.astuple(after)
    if since:
        where += " AND change > ?"
        values.append(since)
    sql = f"{_OUTLINE_SQL}{where} ORDER BY start_ns, id, trace_id LIMIT ?"
    with reading(connection):
        change: int = connection.execute("SELECT value FROM numbers WHERE name = 'change'").get
        rows = connection.execute(sql, (account, key, *values, limit + 1))
        spans = [SpanOutline(*row) for row in rows]
    return OutlinePage(spans[:limit], len(spans) > limit, change)


def get_span(connection: apsw.Connection, account: str, key: bytes, span_id: str) -> SpanRow | None:
    """See `Store.trace_span`."""
    values = (otel_span_id(span_id), key, account, span_id)
    seq = connection.execute(_BY_ANY_ID_SQL, values).get
    for row in connection.execute(SELECT_ROW_SQL + "WHERE s.seq = ?", (seq,)):
        return from_values(row)
    return None


def overview(
    connection: apsw.Connection,
    account: str,
    *,
    from_ns: int | None,
    to_ns: int | None,
    group_by: SpanGroup,
    limit: int,
) -> Overview:
    """See `Store.overview`."""
    window, times = "", list[int]()
    if from_ns is not None:
        window += " AND start_ns >= ?"
        times.append(from_ns)
    if to_ns is not None:
        window += " AND start_ns < ?"
        times.append(to_ns)
    newest = (
        "SELECT * FROM spans INDEXED BY spans_by_start "
        f"WHERE account = ?{window} ORDER BY start_ns DESC LIMIT ?"
    )
    step = LatencySum.step_sql("end_ns - start_ns", "end_ns IS NULL")
    sql = (
        f"SELECT {_GROUPS[group_by]}, {step}, "
        "count(*), sum(status IS 'ERROR'), 0, 0, "
        "sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0)), sum(cost_usd), "
        f"min(start_ns) FROM ({newest}) GROUP BY 1, 2"
    )
    sums: dict[str | None, LatencySum] = {}
    since_ns: int | None = None
    with reading(connection):
        values = (account, *times, SPANS_LOOKED_AT_MAX)
        for value, step, *figures, oldest_ns in connection.execute(sql, values):
            sums.setdefault(value, LatencySum()).add(step, *figures)
            since_ns = oldest_ns if since_ns is None else min(since_ns, oldest_ns)
    groups = [Group(value, sum_.figures()) for value, sum_ in sums.items()]
    spans = sum(group.figures.count for group in groups)
    groups.sort(key=_by_size)
    return Overview(groups[:limit], spans, since_ns, is_partial=spans == SPANS_LOOKED_AT_MAX)


def _by_size(group: Group) -> tuple[int, str]:
    return -group.figures.count, group.value or ""
