"""Listings of the SQLite store: pages by offset, in SQL.

As a search, a page is found first by the rows' numbers; then the rows are read, within a budget.
"""

from __future__ import annotations

import apsw

from everyspan.errors import RequestError
from everyspan.server.row import SpanRow
from everyspan.server.stores.base import ListQuery, OrderBy
from everyspan.server.stores.sqlite_rows import (
    ROW_BYTES,
    SELECT_ROW_SQL,
    from_values,
    otel_trace_id,
)

_ROW_SQL = SELECT_ROW_SQL + "WHERE s.seq = ?"
_NULLABLE: frozenset[OrderBy] = frozenset(("end_ns", "parent_id", "task_id"))


def list_spans(connection: apsw.Connection, query: ListQuery) -> list[SpanRow]:
    """See `Store.list_spans`."""
    connection.execute("BEGIN")
    try:
        return _read(connection, query)
    except apsw.InterruptError:
        raise RequestError(
            400,
            "QUERY_TOO_BROAD",
            f"the list took longer than {query.time_max_s:g} s; narrow it",
        ) from None
    finally:
        connection.execute("ROLLBACK")


def _read(connection: apsw.Connection, query: ListQuery) -> list[SpanRow]:
    sql, parameters = _to_sql(query)
    rows: list[SpanRow] = []
    size = 0
    for (seq,) in connection.execute(sql, parameters).fetchall():
        values = connection.execute(_ROW_SQL, (seq,)).fetchone()
        assert values is not None
        size += len(values[-1]) + ROW_BYTES
        if size > query.bytes_max and rows:
            # Not cut short: whoever counts pages would never see what was left out.
            raise RequestError(
                400,
                "RESULT_TOO_LARGE",
                f"the page is larger than {query.bytes_max} bytes; lower limit",
            )
        rows.append(from_values(values))
    return rows


def _to_sql(query: ListQuery) -> tuple[str, list[str | int | bytes]]:
    parameters: list[str | int | bytes]
    # Indexes are named, not left to the planner: it has no statistics.
    if query.trace_id is not None:
        source = "spans s INDEXED BY spans_by_trace "
        source += "WHERE s.account = ? AND s.otel_trace_id = ?"
        parameters = [query.account, otel_trace_id(query.trace_id)]
        if query.task_id is not None:
            source += " AND (s.task_id = ? OR s.trace_id = ?)"
            parameters += [query.task_id, query.task_id]
    elif query.task_id is not None:
        source = (
            "spans s WHERE s.seq IN ("
            "SELECT seq FROM spans INDEXED BY spans_by_task WHERE account = ? AND task_id = ? "
            "UNION SELECT seq FROM spans INDEXED BY spans_by_trace "
            "WHERE account = ? AND otel_trace_id = ? AND trace_id = ?)"
        )
        named = [query.account, query.task_id]
        parameters = [*named, query.account, otel_trace_id(query.task_id), query.task_id]
    else:
        source = "spans s INDEXED BY spans_by_start WHERE s.account = ?"
        parameters = [query.account]
    way = "DESC" if query.descending else "ASC"
    if query.order_by in _NULLABLE:
        way += " NULLS FIRST" if query.descending else " NULLS LAST"
    return (
        f"SELECT s.seq FROM {source} ORDER BY s.{query.order_by} {way}, s.seq LIMIT ? OFFSET ?",
        [*parameters, query.limit, query.offset],
    )
