"""One row a trace in the SQLite store, kept by following what is written to `spans`.

    spans.change > numbers['traces'] -> traces_due -> summary of all spans of a trace -> traces

D1  What is due is in the file, marked in the transaction that moves the number: a crash or another
    process loses no summary and repeats at most one slice.
D2  A trace is due again when time alone may change its verdict.
D3  A large trace waits the longer the more its summary costs, so that one that grows for hours
    takes a bounded share of the writer.

Whoever deletes spans, moves one to another trace, or stores what else a summary tells, marks the
trace with `mark_due`; a trace without spans has no row.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import apsw
import msgspec

from everyspan.model.report import PartLosses
from everyspan.server.row import SpanRow
from everyspan.server.stores.sqlite_rows import (
    BY_IDENTITY_SQL,
    SELECT_ROW_SQL,
    by_identity,
    from_values,
)
from everyspan.server.stores.sqlite_writer import Transaction
from everyspan.server.summary import Facet, RootPayloads, SpanFacts, Summarizer, TraceSummary

# What is sorted and summed by is in `traces`, 0 where the summary has none, so that figures over
# many traces read few pages. `trace_summaries.facets` repeats what the trace has in
# `trace_facets`: a change of the summary takes out what no longer holds.
TABLES = """
CREATE TABLE traces (
    number INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    otel_trace_id BLOB NOT NULL,
    change INTEGER NOT NULL,
    start_ns INTEGER NOT NULL,
    duration_ns INTEGER NOT NULL,
    is_open INTEGER NOT NULL,
    state TEXT NOT NULL,
    errors INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    cost_usd REAL NOT NULL,
    spans INTEGER NOT NULL
) STRICT;
CREATE TABLE trace_summaries (
    number INTEGER PRIMARY KEY,
    facets TEXT NOT NULL,
    summary TEXT NOT NULL
) STRICT;
CREATE TABLE trace_facets (
    account TEXT NOT NULL,
    facet TEXT NOT NULL,
    value TEXT NOT NULL,
    start_ns INTEGER NOT NULL,
    otel_trace_id BLOB NOT NULL,
    PRIMARY KEY (account, facet, value, start_ns, otel_trace_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE traces_due (
    account TEXT NOT NULL,
    otel_trace_id BLOB NOT NULL,
    due_ns INTEGER NOT NULL,
    PRIMARY KEY (account, otel_trace_id)
) STRICT, WITHOUT ROWID;
INSERT INTO numbers VALUES ('traces', 0);
"""
INDEXES = """
CREATE UNIQUE INDEX traces_by_key ON traces (account, otel_trace_id);
CREATE INDEX traces_by_start ON traces (account, start_ns, otel_trace_id);
CREATE INDEX traces_by_duration ON traces (account, duration_ns, otel_trace_id);
CREATE INDEX traces_by_tokens ON traces (account, tokens, otel_trace_id);
CREATE INDEX traces_by_cost ON traces (account, cost_usd, otel_trace_id);
CREATE INDEX traces_by_errors ON traces (account, errors, otel_trace_id);
CREATE INDEX traces_by_change ON traces (account, change);
CREATE INDEX traces_by_activity ON traces (start_ns + duration_ns);
CREATE INDEX traces_due_by_time ON traces_due (due_ns);
"""

SPAN_COST_NS = 20_000
"""What a span adds to the cost of its trace's summary, roughly (`python -m benchmarks queries`)."""
SHARE = 0.1
"""The share of the writer's time that one trace may take (D3); chosen, not measured."""
WHOLE_SPANS_MAX = 500
"""A trace up to this size is summarised as soon as it changes."""
MARKED_MAX = 20_000
DUE_MAX = 100

_FACTS = (
    "id",
    "trace_id",
    "name",
    "start_ns",
    "end_ns",
    "parent_id",
    "task_id",
    "group_id",
    "type",
    "status",
    "agent",
    "model",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "aggregated",
    "error_type",
    "error_message",
    "record",
)
_SPANS_SQL = (
    f"SELECT {', '.join(_FACTS)} FROM spans INDEXED BY spans_by_trace "
    "WHERE account = ? AND otel_trace_id = ?"
)
_LOSSES_SQL = "SELECT told_ns, losses FROM losses WHERE account = ? AND otel_trace_id = ?"
_SPAN_SQL = SELECT_ROW_SQL + f"WHERE s.seq = (SELECT seq FROM {BY_IDENTITY_SQL})"
_MARK_SQL = (
    "INSERT INTO traces_due VALUES (?, ?, ?) ON CONFLICT DO UPDATE "
    "SET due_ns = min(due_ns, excluded.due_ns)"
)
_WRITTEN_SQL = (
    "SELECT change, account, otel_trace_id FROM spans INDEXED BY spans_by_change "
    "WHERE change > ? ORDER BY change LIMIT ?"
)
_DUE_SQL = (
    "SELECT account, otel_trace_id FROM traces_due INDEXED BY traces_due_by_time "
    "WHERE due_ns <= ? ORDER BY due_ns LIMIT ?"
)
_VALUES = (
    "change",
    "start_ns",
    "duration_ns",
    "is_open",
    "state",
    "errors",
    "tokens",
    "cost_usd",
    "spans",
)
_PUT_SQL = (
    f"INSERT INTO traces (account, otel_trace_id, {', '.join(_VALUES)}) "
    f"VALUES (?, ?, {', '.join('?' * len(_VALUES))}) ON CONFLICT (account, otel_trace_id) "
    f"DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _VALUES)} RETURNING number"
)
_PUT_SUMMARY_SQL = "INSERT OR REPLACE INTO trace_summaries VALUES (?, ?, ?)"
_STORED_SQL = (
    "SELECT number, start_ns, facets, summary FROM traces JOIN trace_summaries USING (number) "
    "WHERE account = ? AND otel_trace_id = ?"
)

_encode = msgspec.json.Encoder().encode
_decode_facets = msgspec.json.Decoder(dict[Facet, list[str]]).decode
_decode_losses = msgspec.json.Decoder(PartLosses).decode
_decode_user = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class TraceFollower:
    """Keeps the rows of `traces`; a follower of the store's writer."""

    def follow(self, transaction: Transaction, budget_s: float) -> float | None:
        """See `Follower`."""
        end_s = time.monotonic() + budget_s
        is_behind = _mark_written(transaction)
        connection, now_ns = transaction.connection, transaction.now_ns
        due: list[Any] = connection.execute(_DUE_SQL, (now_ns, DUE_MAX)).fetchall()
        for done, (account, key) in enumerate(due, 1):
            renew(transaction, account, key)
            if time.monotonic() >= end_s:
                is_behind = is_behind or done < len(due)
                break
        if is_behind or len(due) == DUE_MAX:
            return 0.0
        next_ns = connection.execute("SELECT min(due_ns) FROM traces_due").get
        return None if next_ns is None else max(0.0, (next_ns - now_ns) / 1e9)


def mark_due(connection: apsw.Connection, traces: Iterable[tuple[str, bytes]]) -> None:
    """Have traces summarised again, by account and key, though no span of theirs was written."""
    connection.executemany(_MARK_SQL, ((account, key, 0) for account, key in traces))


def summarize(
    connection: apsw.Connection, account: str, key: bytes, now_ns: int
) -> tuple[TraceSummary, dict[Facet, list[str]]] | None:
    """Return the summary of what is stored of a trace now; None where nothing is."""
    summarizer = Summarizer()
    is_empty = True
    for values in connection.execute(_SPANS_SQL, (account, key)):
        summarizer.add(SpanFacts(*values))
        is_empty = False
    if is_empty:
        return None

    for told_ns, losses in connection.execute(_LOSSES_SQL, (account, key)):
        summarizer.add_losses(_decode_losses(losses), told_ns)

    def read(span: SpanFacts) -> RootPayloads:
        values = connection.execute(
            _SPAN_SQL, by_identity(account, span.trace_id, span.id)
        ).fetchone()
        assert values is not None
        return _payloads(from_values(values))

    return summarizer.summary(now_ns=now_ns, read=read)


def _mark_written(transaction: Transaction) -> bool:
    """Mark the traces of spans written since the last time; return whether there are more (D1)."""
    connection = transaction.connection
    come_to: int = connection.execute("SELECT value FROM numbers WHERE name = 'traces'").get
    written: list[Any] = connection.execute(_WRITTEN_SQL, (come_to, MARKED_MAX)).fetchall()
    if not written:
        return False
    is_behind = len(written) == MARKED_MAX
    come_to = written[-1][0]
    if is_behind:
        # The rest of the last change is read in its place: changes are looked at whole.
        written += connection.execute(
            "SELECT change, account, otel_trace_id FROM spans INDEXED BY spans_by_change "
            "WHERE change = ?",
            (come_to,),
        )
    for account, key in {(account, key) for _, account, key in written}:
        due_ns = transaction.now_ns + _wait_ns(connection, account, key)
        connection.execute(_MARK_SQL, (account, key, due_ns))
    connection.execute("UPDATE numbers SET value = ? WHERE name = 'traces'", (come_to,))
    return is_behind


def _wait_ns(connection: apsw.Connection, account: str, key: bytes) -> int:
    spans = connection.execute(
        "SELECT spans FROM traces WHERE account = ? AND otel_trace_id = ?", (account, key)
    ).get
    if spans is None or spans <= WHOLE_SPANS_MAX:
        return 0
    return int(spans * SPAN_COST_NS / SHARE)


def renew(transaction: Transaction, account: str, key: bytes) -> None:
    """Make the summary of a trace anew, or delete it where no span of the trace is left."""
    connection = transaction.connection
    connection.execute(
        "DELETE FROM traces_due WHERE account = ? AND otel_trace_id = ?", (account, key)
    )
    old: set[_Entry] = set()
    number, stored = None, None
    row: Any = connection.execute(_STORED_SQL, (account, key)).fetchone()
    if row is not None:
        number, start_ns, facets_text, stored = row
        old = _entries(account, key, start_ns, _decode_facets(facets_text))
    found = summarize(connection, account, key, transaction.now_ns)
    if found is None:
        _move_facets(connection, old, set())
        connection.execute("DELETE FROM traces WHERE number = ?", (number,))
        connection.execute("DELETE FROM trace_summaries WHERE number = ?", (number,))
        return
    summary, facets = found
    if summary.recheck_ns is not None:
        connection.execute(_MARK_SQL, (account, key, summary.recheck_ns))
    text = _encode(summary).decode()
    if text == stored:
        return
    _move_facets(connection, old, _entries(account, key, summary.start_ns, facets))
    number = connection.execute(
        _PUT_SQL,
        (
            account,
            key,
            transaction.change,
            summary.start_ns,
            summary.duration_ns,
            summary.end_ns is None,
            summary.state,
            summary.errors,
            summary.tokens,
            summary.cost_usd or 0.0,
            summary.spans,
        ),
    ).get
    connection.execute(_PUT_SUMMARY_SQL, (number, _encode(facets).decode(), text))


_Entry = tuple[str, str, str, int, bytes]


def _entries(
    account: str, key: bytes, start_ns: int, facets: dict[Facet, list[str]]
) -> set[_Entry]:
    return {
        (account, facet, value, start_ns, key)
        for facet, values in facets.items()
        for value in values
    }


def _move_facets(connection: apsw.Connection, old: set[_Entry], new: set[_Entry]) -> None:
    connection.executemany(
        "DELETE FROM trace_facets WHERE account = ? AND facet = ? AND value = ? AND start_ns = ? "
        "AND otel_trace_id = ?",
        old - new,
    )
    connection.executemany("INSERT INTO trace_facets VALUES (?, ?, ?, ?, ?)", new - old)


def _payloads(row: SpanRow) -> RootPayloads:
    return RootPayloads(row.input, row.output, _user(row.metadata))


def _user(metadata: bytes | None) -> str | None:
    if metadata is None or b'"user_id"' not in metadata or not metadata.startswith(b"{"):
        return None
    raw: Any = _decode_user(metadata).get("user_id")
    try:
        user: str = msgspec.json.decode(raw, type=str)
    except msgspec.MsgspecError:
        return None
    return user[:256] or None
