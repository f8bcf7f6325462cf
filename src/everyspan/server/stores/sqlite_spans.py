"""Writes of spans in the SQLite store: versions merged into rows, inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence

from everyspan.server.merge import merge
from everyspan.server.patch import SpanPatch, apply_patch
from everyspan.server.row import SpanRow
from everyspan.server.stores.sqlite_codec import Packer
from everyspan.server.stores.sqlite_parents import check_parents
from everyspan.server.stores.sqlite_rows import (
    DERIVED_COLUMNS,
    ROW_COLUMNS,
    SELECT_ROW_SQL,
    from_values,
    otel_trace_id,
    to_body,
    to_values,
)
from everyspan.server.stores.sqlite_schema import INSERT_SQL
from everyspan.server.stores.sqlite_traces import mark_due
from everyspan.server.stores.sqlite_writer import Transaction

_SELECT_NUMBERED_SQL = SELECT_ROW_SQL.replace("SELECT ", "SELECT s.seq, ", 1)
_STORED_SQL = _SELECT_NUMBERED_SQL + "WHERE s.account = ? AND s.id = ? AND s.trace_id = ?"
_PATCHED_SQL = _SELECT_NUMBERED_SQL + (
    "WHERE s.seq = (SELECT seq FROM spans WHERE account = ? AND id = ? "
    "ORDER BY trace_id = ? DESC, change DESC, seq DESC LIMIT 1)"
)
_INSERT_BODY_SQL = "INSERT INTO payloads (seq, codec, body) VALUES (?, ?, ?)"
_UPDATED = ("change", *ROW_COLUMNS, *DERIVED_COLUMNS)
_UPDATE_SQL = f"UPDATE spans SET {', '.join(f'{column} = ?' for column in _UPDATED)} WHERE seq = ?"
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
        check_parents(
            connection,
            rows[0].account,
            versions,
            moved,
            foreign_parents=foreign_parents,
            cut_cycles=cut_cycles,
        )

    for identity, row in versions.items():
        _put(transaction, packer, row, seqs.get(identity))
    return list(versions.values())


def patch(
    transaction: Transaction, packer: Packer, account: str, span_id: str, changes: SpanPatch
) -> SpanRow | None:
    """See `Store.patch`."""
    connection = transaction.connection
    found = connection.execute(_PATCHED_SQL, (account, span_id, changes.trace_id)).fetchone()
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
    _put(transaction, packer, row, seq)
    return row


def _put(transaction: Transaction, packer: Packer, row: SpanRow, seq: int | None) -> None:
    connection, change = transaction.connection, transaction.change
    codec, body = packer.pack(to_body(row))
    if seq is None:
        seq = transaction.new_seq()
        connection.execute(INSERT_SQL, (seq, change, *to_values(row)))
        connection.execute(_INSERT_BODY_SQL, (seq, codec, body))
    else:
        connection.execute(_UPDATE_SQL, (change, *to_values(row), seq))
        connection.execute(_UPDATE_BODY_SQL, (codec, body, seq))
