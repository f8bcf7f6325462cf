"""The process's pipeline with a destination in memory, for tests of whatever records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import everyspan
from everyspan import pipeline
from everyspan.testing import Capture

FLUSH_TIME_MAX_S = 20.0


class Recording(Capture):
    """What was recorded since it began; every look flushes first."""

    def __init__(self, memory: everyspan.InMemoryTracingProcessor) -> None:
        super().__init__(memory, pipeline.current())
        self.memory = memory

    @property
    def parents(self) -> dict[str, str | None]:
        """Each name's parent by name, None for a root; names and traces must be unique."""
        spans = self.spans
        names = {span.id: span.name for span in spans}
        assert len({span.name for span in spans}) == len(spans), "a name comes twice"
        return {s.name: names[s.parent_id] if s.parent_id else None for s in spans}

    @property
    def edges(self) -> Counter[tuple[str | None, str]]:
        """How often each (parent's name, name) comes; all spans must be of one trace."""
        spans = self.spans
        assert len({span.trace_id for span in spans}) == 1, "more than one trace"
        names: dict[Any, str | None] = {span.id: span.name for span in spans} | {None: None}
        return Counter((names[span.parent_id], span.name) for span in spans)


@contextmanager
def recorded() -> Iterator[Recording]:
    """Record into memory; afterwards spans go nowhere, and nothing may be unaccounted for.

    By way of `configure`, unlike `everyspan.testing.capture`: what it does is under test here.
    """
    memory = everyspan.InMemoryTracingProcessor()
    everyspan.configure(memory, linger_ms=0)
    try:
        yield Recording(memory)
        assert everyspan.stats().residual == 0
    finally:
        everyspan.shutdown(FLUSH_TIME_MAX_S)
        everyspan.set_tracing_processor_configs([])
