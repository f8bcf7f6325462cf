"""Spans by the calls that agents of the original SDK make: `adk.tracing.span(...)`.

F1  Nothing here waits, and nothing is kept between two calls: not on a trace, not by event loop
    (`trace:K6`, `trace:D14`). A span may start on one loop and end on another.
F2  A block is the current span, so that what is recorded inside hangs from it. A span started by
    hand is not: it may end anywhere (`everyspan.use_span` makes it so).
F3  The parent is the one named by `parent_id`; where none is named, the current span if it is of
    the same trace.
F4  What a service of the agent's own raises passes through (`trace:K5`).

Not for the code of a Temporal workflow, which is replayed and would record every span again: trace
from its activities.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from typing import Any

from everyspan import AsyncTracer, Span, set_span_error, use_span
from everyspan.adk.parents import parent_within
from everyspan.adk.turn import TurnSpan

_FIVE_SECONDS = timedelta(seconds=5)
_ONE_SECOND = timedelta(seconds=1)


class TracingService:
    """Starts and ends spans on a tracer, each on a trace object of its own (`trace:K6`)."""

    def __init__(self, tracer: AsyncTracer) -> None:
        self._tracer = tracer

    async def start_span(
        self,
        trace_id: str,
        name: str,
        parent_id: str | None = None,
        input: Any = None,
        data: Any = None,
        task_id: str | None = None,
    ) -> Span | None:
        """Open a span below `parent_id`, else below the current span of the same trace.

        Raises:
            ValueError: `trace_id` is empty.
            SettingsError: An argument is of the wrong type.
        """
        return await self._tracer.trace(trace_id).start_span(
            name=name,
            parent_id=parent_within(trace_id, parent_id),
            input={} if input is None else input,
            data=data,
            task_id=task_id,
        )

    async def end_span(self, trace_id: str, span: Span) -> Span:
        """End a span and return it.

        Raises:
            SettingsError: `span` is none.
        """
        return await self._tracer.trace(trace_id).end_span(span)


class TracingModule:
    """What `adk.tracing` is; see the module's text.

    All calls take `start_to_close_timeout`, `heartbeat_timeout` and `retry_policy` as the original
    does, where they bound the Temporal activity that records a span. Here no call waits for
    anything that could be bounded or tried again, and they have no effect.

    Args:
        tracing_service: Whom the calls are handed to, unchanged; by default one that records to
            the destinations of the process.
    """

    def __init__(self, tracing_service: TracingService | None = None) -> None:
        self._service = (
            TracingService(AsyncTracer()) if tracing_service is None else tracing_service
        )

    @asynccontextmanager
    async def span(
        self,
        trace_id: str,
        name: str,
        input: Any = None,
        data: Any = None,
        parent_id: str | None = None,
        task_id: str | None = None,
        start_to_close_timeout: timedelta = _FIVE_SECONDS,
        heartbeat_timeout: timedelta = _FIVE_SECONDS,
        retry_policy: Any = None,
    ) -> AsyncIterator[Span | None]:
        """Record the block as a span: `async with adk.tracing.span(task.id, "plan") as span:`.

        An exception that leaves the block is recorded and raised again; a cancellation makes the
        span CANCELED (`trace:T6`, `trace:E3`). The block's value is None, and nothing is recorded,
        where `trace_id` is empty or the service did not start a span (`trace:K2`, `K4`).

        Args:
            trace_id: Trace to record into; agents take the id of their task.
            name: What the block does.
            input: What it works on.
            data: Further keys for whoever reads the trace.
            parent_id: Id of the parent (F3).
            task_id: Task of the agent that this belongs to.

        Raises:
            SettingsError: On entering, if an argument is of the wrong type.
        """
        span = None
        if trace_id:
            span = await self.start_span(
                trace_id=trace_id,
                name=name,
                input=input,
                parent_id=parent_id,
                data=data,
                task_id=task_id,
                start_to_close_timeout=start_to_close_timeout,
                heartbeat_timeout=heartbeat_timeout,
                retry_policy=retry_policy,
            )
        if span is None:
            yield None
            return
        try:
            # A service of the agent's own may return what is no span of ours.
            with use_span(span) if isinstance(span, Span) else nullcontext():
                yield span
        except BaseException as error:
            # At a GeneratorExit the block was abandoned, not left by an error.
            if not isinstance(error, GeneratorExit):
                set_span_error(span, error)
            raise
        finally:
            await self.end_span(
                trace_id=trace_id,
                span=span,
                start_to_close_timeout=start_to_close_timeout,
                heartbeat_timeout=heartbeat_timeout,
                retry_policy=retry_policy,
            )

    @asynccontextmanager
    async def turn_span(
        self,
        trace_id: str,
        name: str,
        input: Any = None,
        data: Any = None,
        parent_id: str | None = None,
        task_id: str | None = None,
        start_to_close_timeout: timedelta = _FIVE_SECONDS,
        heartbeat_timeout: timedelta = _FIVE_SECONDS,
        retry_policy: Any = None,
    ) -> AsyncIterator[TurnSpan]:
        """Record the block as one turn of the agent; as `span`, but the value is a `TurnSpan`.

        ```
        async with adk.tracing.turn_span(task.id, "turn", task_id=task.id) as turn:
            reply = await model(messages)
            turn.output = {"response": reply.text}
            turn.record_usage(reply.usage)
        ```
        """
        async with self.span(
            trace_id=trace_id,
            name=name,
            input=input,
            data=data,
            parent_id=parent_id,
            task_id=task_id,
            start_to_close_timeout=start_to_close_timeout,
            heartbeat_timeout=heartbeat_timeout,
            retry_policy=retry_policy,
        ) as span:
            yield TurnSpan(span)

    async def start_span(
        self,
        trace_id: str,
        name: str,
        input: Any = None,
        parent_id: str | None = None,
        data: Any = None,
        task_id: str | None = None,
        start_to_close_timeout: timedelta = _FIVE_SECONDS,
        heartbeat_timeout: timedelta = _ONE_SECOND,
        retry_policy: Any = None,
    ) -> Span | None:
        """Open a span by hand; end it with `end_span`. The arguments are those of `span`.

        Raises:
            ValueError: `trace_id` is empty (`trace:T1`).
            SettingsError: An argument is of the wrong type.
        """
        return await self._service.start_span(
            trace_id=trace_id,
            name=name,
            input=input,
            parent_id=parent_id,
            data=data,
            task_id=task_id,
        )

    async def end_span(
        self,
        trace_id: str,
        span: Span,
        start_to_close_timeout: timedelta = _FIVE_SECONDS,
        heartbeat_timeout: timedelta = _ONE_SECOND,
        retry_policy: Any = None,
    ) -> Span:
        """End a span and return it; what it put out is set on `span.output` before.

        Raises:
            SettingsError: `span` is none.
        """
        return await self._service.end_span(trace_id=trace_id, span=span)
