"""What the destinations of everyspan have in common: they take frozen records, batch by batch.

A destination implements `export`, for delivery; whoever awaits a processor directly, without a
queue, comes through the same method.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from time import monotonic

from everyspan.delivery.backlog import Batch
from everyspan.delivery.exporter import CONCURRENCY
from everyspan.errors import BatchTooLargeError, ExportError
from everyspan.model.mask import masker_in_force
from everyspan.model.record import SpanRecord, freeze_span
from everyspan.model.span import Span
from everyspan.processors.base import AsyncTracingProcessor, SyncTracingProcessor
from everyspan.untraced import untraced


class BuiltinProcessor(AsyncTracingProcessor):
    """A destination that is an `Exporter` itself; see there for the attributes."""

    name: str
    wants_every_start = False
    is_foreign = False
    blocks = False
    start_delay_s: float | None = None
    hint: str | None = None
    one_by_one = False
    only_ends = False
    concurrency = CONCURRENCY

    spans_max: int | None = None
    """Spans in one `export` at most, for whoever calls the processor directly; None for any."""

    takes_starts = False
    """Whether a START that is handed over directly is exported; else it is ignored."""

    @abstractmethod
    async def export(self, batch: Batch) -> Mapping[int, ExportError]:
        """Send a batch once; see `Exporter`."""

    def connections(self) -> int:
        """Return how many connections were opened so far; 0 where none ever is."""
        return 0

    async def close(self) -> None:
        """Let go of what belongs to the running loop; by default nothing does."""

    async def on_span_start(self, span: Span) -> None:
        """Send the span as in progress, if STARTs are on (`trace:S2`)."""
        await self.on_spans_start([span])

    async def on_span_end(self, span: Span) -> None:
        """Send the span; see `on_spans_end`."""
        await self.on_spans_end([span])

    async def on_spans_start(self, spans: Sequence[Span]) -> None:
        """Send the spans as in progress, if STARTs are on (`trace:S3`)."""
        if self.takes_starts:
            await self._send(spans, is_end=False)

    async def on_spans_end(self, spans: Sequence[Span]) -> None:
        """Send the spans.

        Raises:
            ExportError: Some were not stored; the class says whether trying again can help.
        """
        await self._send(spans, is_end=True)

    async def shutdown(self) -> None:
        """Let go of what belongs to the running loop."""
        await self.close()

    async def _send(self, spans: Sequence[Span], *, is_end: bool) -> None:
        now_s = monotonic()
        records = [freeze_span(span, is_end=is_end, offered_s=now_s) for span in spans]
        masker = masker_in_force()
        if masker is not None:
            masker.apply(records)
        step = self.spans_max or max(1, len(records))
        for first in range(0, len(records), step):
            await self._export(records[first : first + step], is_end=is_end)

    async def _export(self, records: list[SpanRecord], *, is_end: bool) -> None:
        batch = Batch([], records) if is_end else Batch(records, [])
        if is_end and self.takes_starts:
            # Nobody keeps count here, and their STARTs came this way too.
            batch.started = frozenset(records)
        try:
            with untraced(requests_too=True):
                failed = await self.export(batch)
        except BatchTooLargeError:
            if len(records) == 1:
                raise
            middle = len(records) // 2
            await self._export(records[:middle], is_end=is_end)
            await self._export(records[middle:], is_end=is_end)
            return
        for error in failed.values():
            raise error


class SyncFace(SyncTracingProcessor):
    """A destination as code sees it that cannot await; `destination` is registered in its place."""

    destination: BuiltinProcessor
