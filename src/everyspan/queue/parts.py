"""Which spans of which trace this process has begun and ended: what makes a trace complete (P11).

C1  Every END gets its part and its ordinal in it, from 1 without a hole.
C2  The END after which no span of its part is open closes the part and carries the total.
C3  An END whose START was elsewhere joins the open part of its trace, else is a part of its own.
C4  A span that begins again while it is open is the same span.
C5  At most `OPEN_SPANS_MAX` spans are remembered as open; beyond, the oldest is forgotten and
    counted.

Guarded by the queue's gate.
"""

from __future__ import annotations

from itertools import count
from typing import Any

from everyspan.model.ids import new_id
from everyspan.model.record import Part, SpanRecord, text_ids
from everyspan.model.span import Span

OPEN_SPANS_MAX = 10_000

_Open = tuple[Span, Part, Any]


class Parts:
    """See the module text. `lanes` is whatever the owner wants back with an open span."""

    def __init__(self) -> None:
        self.forgotten = 0
        self.producer = new_id()[:13]
        self._numbers = count(1)
        self._parts: dict[str, Part] = {}
        self._open: dict[str, _Open] = {}

    @property
    def open_spans(self) -> int:
        """Spans that have started and not ended."""
        return len(self._open)

    def still_open(self) -> list[tuple[Span, Part, Any]]:
        """Return the spans that have not ended, oldest first."""
        return [*self._open.values()]

    def begin(self, span: Span, lanes: Any) -> Part:
        """Note that a span started; return its part."""
        span_id, trace_id = text_ids(span)
        part = self._parts.get(trace_id)
        known = self._open.get(span_id)
        if known is not None:
            if known[1] is part:
                return part
            self._forget(span_id)
        if part is None:
            part = self._parts[trace_id] = self._new(trace_id)
        part.open += 1
        if len(self._open) >= OPEN_SPANS_MAX:
            self._forget(next(iter(self._open)))
        self._open[span_id] = (span, part, lanes)
        return part

    def part_of(self, span_id: str) -> Part | None:
        """Return the part of an open span, None for any other."""
        entry = self._open.get(span_id)
        return None if entry is None else entry[1]

    def end(self, record: SpanRecord) -> None:
        """Note that a span ended: fill in the completeness fields of its END.

        The span remembers its place, so that a later version of it keeps that.
        """
        span, record.span = record.span, None
        if span is not None and span._ended is not None:
            record.part, record.ordinal, record.closes, revision = span._ended
            record.revision = revision + 1
            span._ended = (record.part, record.ordinal, record.closes, record.revision)
            return
        entry = self._open.pop(record.id, None)
        if entry is not None:
            part = entry[1]
            part.open -= 1
        else:
            part = self._parts.get(record.trace_id) or self._new(record.trace_id)
        part.ended += 1
        record.part = part
        record.ordinal = part.ended
        if part.open == 0:
            self._close(part)
            record.closes = True
        if span is not None:
            span._ended = (part, record.ordinal, record.closes, record.revision)

    def _close(self, part: Part) -> None:
        part.total = part.ended
        if self._parts.get(part.trace_id) is part:
            del self._parts[part.trace_id]

    def _forget(self, span_id: str) -> None:
        part = self._open.pop(span_id)[1]
        self.forgotten += 1
        part.open -= 1
        if part.open == 0:
            self._close(part)

    def _new(self, trace_id: str) -> Part:
        return Part(f"{self.producer}-{next(self._numbers)}", trace_id)
