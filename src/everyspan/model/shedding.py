"""Put marks in place of a frozen span's payloads, so that the span itself need not be lost.

D1  A failed span keeps its payloads, and so does one that tells of usage or cost: the totals of a
    trace stay exact.
D2  What is left of a payload says how many bytes it had; a small one stays.
"""

from __future__ import annotations

from everyspan.model.record import RECORD_BYTES_FIXED, SpanRecord
from everyspan.model.repair import mark
from everyspan.model.span import SpanStatus

PAYLOAD_BYTES_MIN = 256
"""Payloads that are shorter gain nothing; chosen, not measured."""

USAGE_WORDS = (b'"usage', b'usage"', b'tokens"', b'cost"', b'cost_usd"')
"""Within the names of members that count tokens or money (`trace` §5)."""


def may_be_shed(record: SpanRecord) -> bool:
    """Tell, at a glance, whether `shed` may find something."""
    return record.size_bytes > RECORD_BYTES_FIXED + PAYLOAD_BYTES_MIN and record.error is None


def shed(record: SpanRecord) -> int:
    """Replace the large payloads of a record that nobody sends at present.

    Returns:
        The bytes that this frees; 0 if nothing may go.
    """
    payloads = (record.input, record.output, record.data)
    if record.error is not None or record.status != SpanStatus.SUCCESS:
        return 0
    if any(word in payload for payload in payloads if payload for word in USAGE_WORDS):
        return 0
    before = sum(len(payload) for payload in payloads if payload)
    record.input, record.output, record.data = map(_shortened, payloads)
    after = sum(len(payload) for payload in (record.input, record.output, record.data) if payload)
    record.shed_bytes += before - after
    return before - after


def _shortened(payload: bytes | None) -> bytes | None:
    if payload is None or len(payload) < PAYLOAD_BYTES_MIN:
        return payload
    return f'"{mark(f"{len(payload)} bytes shed")}"'.encode()
