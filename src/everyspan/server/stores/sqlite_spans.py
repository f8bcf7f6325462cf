"""Writes of spans in the SQLite store: versions merged into rows, inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from everyspan.server.merge import merge
from everyspan.server.patch import SpanPatch, apply_patch
from everyspan.server.row import SpanRow
from everyspan.server.stores.sqlite_codec import Packer
from everyspan.server.stores.sqlite_parents import check_parents
from everyspan.server.stores.sqlite_rows import (
    BY_ID_SQL,
    BY_IDENTITY_SQL,
    DERIVED_COLUMNS,
    ROW_COLUMNS,
    SELECT_ROW_SQL,
    by_id,
    by_identity,
    from_values,
    otel_trace_id,
    to_body,
    to_values,
)
from everyspan.server.stores.sqlite_schema import INSERT_SQL
from everyspan.server.stores.sqlite_traces import mark_due
from everyspan.server.stores.sqlite_writer import Transaction

_SELECT_NUMBERED_SQL = SELECT_ROW_SQL.replace("SELECT ", "SELECT s.seq, ", 1)
_STORED_SQL = _SELECT_NUMBERED_SQL + f"WHERE s.seq = (SELECT seq FROM {BY_IDENTITY_SQL})"
_PATCHED_SQL = _SELECT_NUMBERED_SQL + (
    f"WHERE s.seq = (SELECT seq FROM {BY_ID_SQL}"
    "ORDER BY trace_id = ? DESC, change DESC, seq DESC LIMIT 1)"
)
_INSERT_BODY_SQL = "INSERT INTO payloads (seq, codec, body) VALUES (?, ?, ?)"
_COLUMNS = (*ROW_COLUMNS, *DERIVED_COLUMNS)
_INDEXED = (
    *("account", "trace_id", "id", "start_ns", "task_id"),
    *("otel_trace_id", "otel_span_id"),
)
_OTHERS = tuple(column for column in _COLUMNS if column not in _INDEXED)
# SQLite writes the entry of every index that has a column named here, changed or not. Nearly no
# version changes what its span is found by, so nearly all updates leave the indexes alone.
_UPDATE_SQL = f"UPDATE spans SET change = ?, {' = ?, '.join(_OTHERS)} = ? WHERE seq = ?"
_UPDATE_ALL_SQL = f"UPDATE spans SET change = ?, {' = ?, '.join(_COLUMNS)} = ? WHERE seq = ?"
_others = itemgetter(*map(_COLUMNS.index, _OTHERS))
_UPDATE_BODY_SQL = "UPDATE payloads SET codec = ?, body = ? WHERE seq = ?"


def upsert(
    transaction: Transaction,
    packer: Packer,
    rows: Sequence[SpanRow],
    *,
    foreign_parents: bool,
    cut_cycles: bool,
) -> list[SpanRow]:
    """See `Store.upsert`."""
    connection = transaction.connection
    # Everything is read and checked before the first write.
    versions: dict[tuple[str, str], SpanRow] = {}
    positions: dict[tuple[str, str], int] = {}
    for position, row in enumerate(rows):
        identity = (row.trace_id, row.id)
        earlier = versions.get(identity)
        versions[identity] = row if earlier is None else merge(earlier, row)
        positions.setdefault(identity, position)

    stored: dict[tuple[str, str], tuple[int, SpanRow]] = {}
    moved: dict[tuple[str, str], int] = {}
    for seq, *values in connection.executemany(
        _STORED_SQL,
        (by_identity(row.account, row.trace_id, row.id) for row in list(versions.values())),
    ):
        old = from_values(tuple(values))
        identity = (old.trace_id, old.id)
        stored[identity] = seq, old
        versions[identity] = merge(old, versions[identity])
    for identity, row in versions.items():
        if row.parent_id is not None:
            known = stored.get(identity)
            if known is None or row.parent_id != known[1].parent_id:
                moved[identity] = positions[identity]
    if moved:
        check_parents(
            connection,
            rows[0].account,
            versions,
            moved,
            foreign_parents=foreign_parents,
            cut_cycles=cut_cycles,
        )

    new = [row for identity, row in versions.items() if identity not in stored]
    _insert(transaction, packer, new)
    for identity, (seq, old) in stored.items():
        _update(transaction, packer, versions[identity], seq, old)
    return list(versions.values())


def patch(
    transaction: Transaction, packer: Packer, account: str, span_id: str, changes: SpanPatch
) -> SpanRow | None:
    """See `Store.patch`."""
    connection = transaction.connection
    found = connection.execute(
        _PATCHED_SQL, (*by_id(account, span_id), changes.trace_id)
    ).fetchone()
    if found is None:
        return None
    seq, *values = found
    old = from_values(tuple(values))
    row = apply_patch(old, changes)
    if row.parent_id is not None and (row.trace_id, row.parent_id) != (old.trace_id, old.parent_id):
        identity = (row.trace_id, row.id)
        check_parents(connection, account, {identity: row}, {identity: 0}, foreign_parents=True)
    if row.trace_id != old.trace_id:
        mark_due(connection, [(account, otel_trace_id(old.trace_id))])
    _update(transaction, packer, row, seq, old)
    return row


def _insert(transaction: Transaction, packer: Packer, rows: Sequence[SpanRow]) -> None:
    connection, change = transaction.connection, transaction.change
    seqs = [transaction.new_seq() for _ in rows]
    connection.executemany(
        INSERT_SQL,
        ((seq, change, *to_values(row)) for seq, row in zip(seqs, rows, strict=True)),
    )
    connection.executemany(
        _INSERT_BODY_SQL,
        ((seq, *packer.pack(to_body(row))) for seq, row in zip(seqs, rows, strict=True)),
    )


def _update(transaction: Transaction, packer: Packer, row: SpanRow, seq: int, old: SpanRow) -> None:
    connection, change = transaction.connection, transaction.change
    values = to_values(row)
    if _found_by(row) == _found_by(old):
        connection.execute(_UPDATE_SQL, (change, *_others(values), seq))
    else:
        connection.execute(_UPDATE_ALL_SQL, (change, *values, seq))
    connection.execute(_UPDATE_BODY_SQL, (*packer.pack(to_body(row)), seq))


def _found_by(row: SpanRow) -> tuple[object, ...]:
    return row.trace_id, row.start_ns, row.task_id
