"""Keeps spans in memory, for tests and for a look from a shell."""

from __future__ import annotations

from collections.abc import Mapping

from everyspan.delivery.backlog import Batch
from everyspan.errors import ExportError
from everyspan.model.span import Span
from everyspan.processors.base import AsyncTracingProcessor


class InMemoryTracingProcessor(AsyncTracingProcessor):
    """A destination whose `spans` are the ended spans, in the order of their delivery."""

    name = "memory"
    wants_every_start = False
    is_foreign = False
    start_delay_s: float | None = None
    hint: str | None = None

    def __init__(self) -> None:
        self.spans: list[Span] = []

    async def export(self, batch: Batch) -> Mapping[int, ExportError]:
        """Keep the ended spans of the batch; see `Exporter`."""
        self.spans += [record.to_span() for record in batch.ends]
        return {}

    def connections(self) -> int:
        """Return 0: nothing is opened."""
        return 0

    async def close(self) -> None:
        """Do nothing: the spans stay."""

    async def on_span_start(self, span: Span) -> None:
        """Do nothing."""

    async def on_span_end(self, span: Span) -> None:
        """Keep the span as it is now."""
        self.spans.append(span)
