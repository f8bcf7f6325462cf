"""Keeps spans in memory, for tests and for a look from a shell."""

from __future__ import annotations

from collections.abc import Mapping

from everyspan.delivery.backlog import Batch
from everyspan.errors import ExportError
from everyspan.model.span import Span
from everyspan.processors.builtin import BuiltinProcessor


class InMemoryTracingProcessor(BuiltinProcessor):
    """A destination whose `spans` are the ended spans, in the order of their delivery."""

    name = "memory"

    def __init__(self) -> None:
        self.spans: list[Span] = []

    async def export(self, batch: Batch) -> Mapping[int, ExportError]:
        """Keep the ended spans of the batch; see `Exporter`."""
        self.spans += [record.to_span() for record in batch.ends]
        return {}
