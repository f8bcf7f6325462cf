"""Deletes whole traces, those with the oldest last activity first, by age and by size.

G1  It works in slices on the writer's thread, between calls, and never deletes what is younger than
    asked: a trace that got a span since its summary was made is left alone.
G2  A trace goes in pieces where it is large, its summary last, so that whoever goes on after a
    crash finds it again.
G3  Space that is freed is used again before the file grows. It is not given back to the disk: to
    move what is behind it costs as much as writing that did. The file stays at its greatest size.
"""

from __future__ import annotations

import time
from typing import Any

import apsw
import msgspec

from everyspan.server.stores.sqlite_traces import mark_due, renew
from everyspan.server.stores.sqlite_writer import Transaction

NS = 1_000_000_000
_LOOK_EVERY_S = 60.0
_PIECE = 200
"""Spans deleted by one statement: some milliseconds."""
_FAR_OVER = 1.02
"""How far over its size the file is when deleting takes more time than usual."""
_HURRY = 5

_OLDEST_SQL = (
    "SELECT account, otel_trace_id, start_ns + duration_ns FROM traces "
    "INDEXED BY traces_by_activity ORDER BY start_ns + duration_ns LIMIT 1"
)
_ACTIVE_SQL = (
    "SELECT max(max(start_ns, coalesce(end_ns, 0))) FROM spans INDEXED BY spans_by_trace "
    "WHERE account = ? AND otel_trace_id = ?"
)
_SPANS_SQL = (
    "SELECT seq FROM spans INDEXED BY spans_by_trace WHERE account = ? AND otel_trace_id = ? "
    f"LIMIT {_PIECE}"
)
_DELETE_SQL = (
    "DELETE FROM assessments WHERE seq IN (SELECT value FROM json_each(?));"
    "DELETE FROM payloads WHERE seq IN (SELECT value FROM json_each(?));"
    "DELETE FROM spans WHERE seq IN (SELECT value FROM json_each(?));"
)
_LOSSES_SQL = "DELETE FROM losses WHERE account = ? AND otel_trace_id = ?"
_USED_SQL = (
    "SELECT (page_count - freelist_count) * page_size "
    "FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
)


class Retention:
    """A follower of the writer (W5).

    Args:
        age_s: Traces without activity for longer are deleted; None keeps them.
        size_bytes: What the rows may take, roughly, the text index beside; None is no bound.
    """

    def __init__(self, *, age_s: float | None, size_bytes: int | None) -> None:
        self._age_ns = None if age_s is None else int(age_s * NS)
        self._size_bytes = size_bytes

    def follow(self, transaction: Transaction, budget_s: float) -> float | None:
        """Delete what is too old or too much."""
        connection = transaction.connection
        if self._is_over(connection, _FAR_OVER):
            budget_s *= _HURRY  # Or ingest would be faster than this.
        until_s = time.monotonic() + budget_s
        cut_ns = -1 if self._age_ns is None else transaction.now_ns - self._age_ns
        while time.monotonic() < until_s:
            oldest: Any = connection.execute(_OLDEST_SQL).fetchone()
            if oldest is None:
                return _LOOK_EVERY_S
            account, key, active_ns = oldest
            if not self._is_over(connection):
                if active_ns >= cut_ns:
                    return _LOOK_EVERY_S
                active_ns = connection.execute(_ACTIVE_SQL, (account, key)).get or 0
                if active_ns >= cut_ns:
                    # Its summary is not of now: it will be, before this looks again.
                    mark_due(connection, [(account, key)])
                    return 1.0
            _delete_some(transaction, account, key)
        return 0.0

    def _is_over(self, connection: apsw.Connection, factor: float = 1.0) -> bool:
        if self._size_bytes is None:
            return False
        used: int = connection.execute(_USED_SQL).get
        return used > self._size_bytes * factor


def _delete_some(transaction: Transaction, account: str, key: bytes) -> None:
    """Delete a piece of a trace, and all that is kept about it once no span is left."""
    connection = transaction.connection
    seqs = [seq for (seq,) in connection.execute(_SPANS_SQL, (account, key))]
    if seqs:
        connection.execute(_DELETE_SQL, (msgspec.json.encode(seqs).decode(),) * 3)
        transaction.count_deleted(len(seqs))
    if len(seqs) < _PIECE:
        connection.execute(_LOSSES_SQL, (account, key))
        renew(transaction, account, key)
