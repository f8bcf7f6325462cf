"""What a destination looks like to its author: the interfaces of the original SDK (`trace` §4)."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

from everyspan.delivery.lane import is_from_outside
from everyspan.log import complain
from everyspan.model.span import Span

FAILURES_LOGGED_MAX = 100
"""Lines a minute: `trace:I1` wants one for each span that failed, P4 an end to them."""


class TracingProcessorConfig:
    """Settings of one destination; `type` names its kind."""


class AsyncTracingProcessor(ABC):
    """Sees spans start and end, on an event loop.

    Every span is given to `on_spans_start` when it started and to `on_spans_end` when it ended, in
    batches; whoever overrides only the single-span methods gets them called for each span.
    """

    def __init__(self, config: TracingProcessorConfig | None = None) -> None:  # noqa: B027
        """Take what subclasses of the original's hand up; nothing is kept of it."""

    @abstractmethod
    async def on_span_start(self, span: Span) -> None:
        """Take note that a span started."""

    @abstractmethod
    async def on_span_end(self, span: Span) -> None:
        """Take note that a span ended."""

    async def on_spans_start(self, spans: Sequence[Span]) -> None:
        """Take note that spans started; by default each by itself, at once (`trace:I1`)."""
        await call_each(self.on_span_start, spans)

    async def on_spans_end(self, spans: Sequence[Span]) -> None:
        """Take note that spans ended; by default each by itself, at once (`trace:I1`)."""
        await call_each(self.on_span_end, spans)

    async def shutdown(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of resources; nothing is called afterwards."""


class SyncTracingProcessor(ABC):
    """Sees spans start and end, on a thread of its own, never on the agent's."""

    def __init__(self, config: TracingProcessorConfig | None = None) -> None:  # noqa: B027
        """Take what subclasses of the original's hand up; nothing is kept of it."""

    @abstractmethod
    def on_span_start(self, span: Span) -> None:
        """Take note that a span started."""

    @abstractmethod
    def on_span_end(self, span: Span) -> None:
        """Take note that a span ended."""

    def shutdown(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of resources; nothing is called afterwards."""


Processor = AsyncTracingProcessor | SyncTracingProcessor


async def call_each(
    method: Callable[[Span], Awaitable[None]], spans: Sequence[Span]
) -> list[BaseException | None]:
    """Await `method` for every span at once; return what each raised, logged but not raised."""
    results = await asyncio.gather(*[_call(method, span) for span in spans])
    for span, result in zip(spans, results, strict=True):
        if result is not None:
            complain(
                "processor failed for span %s",
                span.id,
                cause=f"failed {getattr(method, '__qualname__', '')}",
                raised=result,
                lines=FAILURES_LOGGED_MAX,
            )
    return results


async def _call(method: Callable[[Span], Awaitable[None]], span: Span) -> BaseException | None:
    try:
        await method(span)
    except BaseException as error:
        # Left to asyncio, a SystemExit would end the loop and all that runs on it.
        if is_from_outside(error):
            raise
        return error
    return None
