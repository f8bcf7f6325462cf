"""Producers and the losses they reported, in two tables of the SQLite store.

A producer's row holds its newest report, without the losses: those lie by trace, for as long as
spans of the trace do.
"""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from everyspan.model.report import REASONS_MAX, PartLosses, ProducerReport
from everyspan.model.w3c import trace_hex
from everyspan.server.producers import PRODUCERS_MAX, SILENT_NS_MAX, Loss, LossQuery, Producer
from everyspan.server.stores.sqlite_traces import mark_due
from everyspan.server.stores.sqlite_writer import Transaction

_SEQ_SQL = "SELECT seq FROM producers WHERE account = ? AND id = ?"
_PUT_SQL = """
INSERT INTO producers (account, id, seq, seen_ns, report) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (account, id) DO UPDATE SET
    seq = excluded.seq, seen_ns = excluded.seen_ns, report = excluded.report
"""
_OLD_LOSSES_SQL = "SELECT losses FROM losses WHERE account = ? AND otel_trace_id = ? AND part = ?"
_PUT_LOSSES_SQL = (
    "INSERT OR REPLACE INTO losses (account, otel_trace_id, part, producer, told_ns, losses) "
    "VALUES (?, ?, ?, ?, ?, ?)"
)
_FORGET_SILENT_SQL = "DELETE FROM producers WHERE account = ? AND seen_ns < ?"
_FORGET_BEYOND_SQL = """
DELETE FROM producers WHERE account = ?1 AND seen_ns <= (
    SELECT seen_ns FROM producers WHERE account = ?1
    ORDER BY seen_ns DESC LIMIT 1 OFFSET ?2
)
"""
_FORGET_LOSSES_SQL = """
DELETE FROM losses WHERE account = ? AND told_ns < ? AND NOT EXISTS (
    SELECT 1 FROM spans s
    WHERE s.account = losses.account AND s.otel_trace_id = losses.otel_trace_id
)
"""
_GET_SQL = "SELECT id, seen_ns, report FROM producers WHERE account = ? AND id = ?"
_LIST_SQL = (
    "SELECT id, seen_ns, report FROM producers WHERE account = ? AND (seen_ns, id) < (?, ?) "
    "ORDER BY seen_ns DESC, id DESC LIMIT ?"
)
_LOSSES_SQL = "SELECT producer, told_ns, losses FROM losses WHERE account = ?"

_decode_report = msgspec.json.Decoder(ProducerReport).decode
_decode_losses = msgspec.json.Decoder(PartLosses).decode


def put(transaction: Transaction, account: str, producer_id: str, report: ProducerReport) -> bool:
    """Take a report; see `Store.put_report`."""
    connection, now_ns = transaction.connection, transaction.now_ns
    # Losses of an older report are told once, and perhaps only there.
    for losses in report.losses:
        _put_losses(connection, account, producer_id, losses, now_ns)
    known: int | None = connection.execute(_SEQ_SQL, (account, producer_id)).get
    if known is not None and known >= report.seq:
        return False
    if known is None:
        _forget(connection, account, now_ns)
    kept = _encode(msgspec.structs.replace(report, losses=[]))
    connection.execute(_PUT_SQL, (account, producer_id, report.seq, now_ns, kept))
    return True


def _put_losses(
    connection: apsw.Connection, account: str, producer_id: str, losses: PartLosses, now_ns: int
) -> None:
    otel_trace_id = bytes.fromhex(trace_hex(losses.trace_id))
    key = (account, otel_trace_id, losses.part)
    before: str | None = connection.execute(_OLD_LOSSES_SQL, key).get
    if before is not None:
        old = _decode_losses(before)
        losses = merged(old, losses)
        if losses == old:
            return
    connection.execute(_PUT_LOSSES_SQL, (*key, producer_id, now_ns, _encode(losses)))
    mark_due(connection, [(account, otel_trace_id)])


def merged(old: PartLosses, new: PartLosses) -> PartLosses:
    """Return what both tell of one part: the greater figure is the later one.

    At most REASONS_MAX reasons, as in a report: those that came first.
    """
    lost = dict(old.lost)
    for reason, spans in new.lost.items():
        if reason in lost or len(lost) < REASONS_MAX:
            lost[reason] = max(spans, lost.get(reason, 0))
    totals = [one.total for one in (old, new) if one.total is not None]
    return msgspec.structs.replace(old, lost=lost, total=max(totals, default=None))


def _forget(connection: apsw.Connection, account: str, now_ns: int) -> None:
    """Make room when a new producer shows up: the silent ones, and those beyond the bound."""
    connection.execute(_FORGET_SILENT_SQL, (account, now_ns - SILENT_NS_MAX))
    connection.execute(_FORGET_BEYOND_SQL, (account, PRODUCERS_MAX - 1))
    connection.execute(_FORGET_LOSSES_SQL, (account, now_ns - SILENT_NS_MAX))


def get(connection: apsw.Connection, account: str, producer_id: str) -> Producer | None:
    """See `Store.producer`."""
    for values in connection.execute(_GET_SQL, (account, producer_id)):
        return _producer(*values)
    return None


def list_(
    connection: apsw.Connection, account: str, *, limit: int, after: tuple[int, str] | None
) -> list[Producer]:
    """See `Store.producers`."""
    seen_ns, producer_id = after or (2**63 - 1, "\U0010ffff")
    rows = connection.execute(_LIST_SQL, (account, seen_ns, producer_id, limit))
    return [_producer(*values) for values in rows]


def losses(connection: apsw.Connection, query: LossQuery) -> list[Loss]:
    """See `Store.losses`."""
    sql, values = _LOSSES_SQL, [query.account]
    bound: list[Any] = values
    if query.trace_id is not None:
        sql += " AND otel_trace_id = ?"
        bound.append(bytes.fromhex(trace_hex(query.trace_id)))
    if query.producer is not None:
        sql += " AND producer = ?"
        bound.append(query.producer)
    if query.reason is not None:
        sql += " AND EXISTS (SELECT 1 FROM json_each(losses, '$.lost') WHERE key = ?)"
        bound.append(query.reason)
    if query.after is not None:
        sql += " AND (told_ns, otel_trace_id, part) < (?, ?, ?)"
        told_ns, trace, part = query.after
        bound += [told_ns, bytes.fromhex(trace), part]
    sql += " ORDER BY told_ns DESC, otel_trace_id DESC, part DESC LIMIT ?"
    bound.append(query.limit)
    return [
        Loss(producer=producer, told_ns=told_ns, losses=_decode_losses(body))
        for producer, told_ns, body in connection.execute(sql, bound)
    ]


def _encode(value: ProducerReport | PartLosses) -> str:
    # Text: SQLite takes a blob of JSON for its own binary form.
    return msgspec.json.encode(value).decode()


def _producer(producer_id: str, seen_ns: int, report: str) -> Producer:
    return Producer(id=producer_id, seen_ns=seen_ns, report=_decode_report(report))
