"""Spans and frozen spans for tests of the parts below the tracer."""

from __future__ import annotations

from itertools import count
from typing import Any

from everyspan.model.ids import new_id
from everyspan.model.record import RECORD_BYTES_FIXED, SpanRecord, freeze_span
from everyspan.model.span import Span

T0_NS = 1_760_000_000_000_000_000

_seq = count(1)


def make_span(id: str | None = None, **fields: Any) -> Span:
    """A span that took a second."""
    values: dict[str, Any] = {
        "name": "step",
        "trace_id": "trace-1",
        "start_ns": T0_NS,
        "end_ns": T0_NS + 1_000_000_000,
    } | fields
    return Span(id=new_id() if id is None else id, **values)


def make_record(
    id: str | None = None,
    *,
    is_end: bool = True,
    offered_s: float = 0.0,
    size: int = 0,
    **fields: Any,
) -> SpanRecord:
    """The frozen form of such a span; records are numbered in the order of their making.

    Args:
        size: Bytes the record claims to hold; 0 leaves them as measured.
    """
    record = freeze_span(make_span(id, **fields), is_end=is_end, offered_s=offered_s)
    record.seq = next(_seq)
    if size:
        record.size_bytes = size
    assert size or record.size_bytes >= RECORD_BYTES_FIXED
    return record


def start(id: str, offered_s: float = 0.0, **fields: Any) -> SpanRecord:
    """A START."""
    return make_record(id, is_end=False, offered_s=offered_s, **fields)


def end(id: str, offered_s: float = 0.0, **fields: Any) -> SpanRecord:
    """An END."""
    return make_record(id, offered_s=offered_s, **fields)


def ids(records: Any) -> list[str]:
    """Ids, in order."""
    return [record.id for record in records]
