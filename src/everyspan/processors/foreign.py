"""A user's own processor as a destination.

F1  It gets every START and every END, STARTs of a batch before its ENDs (`trace:Q3`, `Q10`, `Q11`).
F2  What it raises is reported for each span, never swallowed (`trace:I2`, D7).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TypeGuard, cast

from everyspan.delivery.backlog import Batch
from everyspan.delivery.exporter import CONCURRENCY
from everyspan.delivery.lane import classify, is_from_outside
from everyspan.errors import ExportError
from everyspan.log import complain
from everyspan.model.record import SpanRecord
from everyspan.model.span import Span, SpanEventType
from everyspan.processors.base import (
    AsyncTracingProcessor,
    Processor,
    SyncTracingProcessor,
    call_each,
)


class ForeignExporter:
    """See the module text."""

    wants_every_start = True
    is_foreign = True
    blocks = False
    start_delay_s: float | None = None
    hint: str | None = None
    one_by_one = False
    only_ends = False
    concurrency = CONCURRENCY

    def __init__(self, processor: Processor) -> None:
        self.name = type(processor).__name__
        self._processor = processor
        self._is_shut_down = False

    async def export(self, batch: Batch) -> Mapping[int, ExportError]:
        """Hand the batch to the processor; see `Exporter`."""
        failed = await self._hand_over(SpanEventType.START, batch.starts, 0)
        failed.update(await self._hand_over(SpanEventType.END, batch.ends, len(batch.starts)))
        return failed

    def connections(self) -> int:
        """Return 0: what a user's processor opens is its own affair."""
        return 0

    async def close(self) -> None:
        """Shut the processor down, once."""
        if self._is_shut_down:
            return
        self._is_shut_down = True
        try:
            if _is_sync(self._processor):
                self._processor.shutdown()
            else:
                await cast("AsyncTracingProcessor", self._processor).shutdown()
        except BaseException as error:
            if is_from_outside(error):
                raise
            complain("%s failed to shut down", self.name, cause=f"end {self.name}", raised=error)

    async def _hand_over(
        self, event: SpanEventType, records: list[SpanRecord], offset: int
    ) -> dict[int, ExportError]:
        if not records:
            return {}
        failed: dict[int, ExportError] = {}
        spans: list[Span] = []
        positions: list[int] = []
        for position, record in enumerate(records, offset):
            try:
                spans.append(record.to_span())
                positions.append(position)
            except Exception as error:
                # Nested too deep to be read here, or raw JSON that is none: the others get theirs.
                failed[position] = classify(error)
        if not spans:
            return failed
        if _is_sync(self._processor):
            errors = self._call_sync(self._processor, event, spans)
        else:
            errors = await self._call_async(
                cast("AsyncTracingProcessor", self._processor), event, spans
            )
        failed.update(
            (position, classify(error))
            for position, error in zip(positions, errors, strict=False)
            if error is not None
        )
        return failed

    async def _call_async(
        self, processor: AsyncTracingProcessor, event: SpanEventType, spans: list[Span]
    ) -> list[BaseException | None]:
        is_start = event is SpanEventType.START
        batched = processor.on_spans_start if is_start else processor.on_spans_end
        inherited = (
            AsyncTracingProcessor.on_spans_start if is_start else AsyncTracingProcessor.on_spans_end
        )
        if getattr(batched, "__func__", None) is inherited:
            # The inherited method would log what the spans raised and keep it to itself.
            return await call_each(
                processor.on_span_start if is_start else processor.on_span_end, spans
            )
        try:
            await batched(spans)
        except BaseException as error:
            if is_from_outside(error):
                raise
            return [error] * len(spans)
        return []

    def _call_sync(
        self, processor: SyncTracingProcessor, event: SpanEventType, spans: list[Span]
    ) -> list[BaseException | None]:
        method = processor.on_span_start if event is SpanEventType.START else processor.on_span_end
        errors: list[BaseException | None] = []
        for span in spans:
            try:
                method(span)
            except BaseException as error:
                if is_from_outside(error):
                    raise
                errors.append(error)
            else:
                errors.append(None)
        return errors


def _is_sync(processor: Processor) -> TypeGuard[SyncTracingProcessor]:
    """Tell by its class, and of one that only looks like a processor by its methods."""
    if isinstance(processor, SyncTracingProcessor | AsyncTracingProcessor):
        return isinstance(processor, SyncTracingProcessor)
    methods = (getattr(processor, name, None) for name in ("on_span_end", "on_spans_end"))
    return not any(map(inspect.iscoroutinefunction, methods))
