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

from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from types import TracebackType
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

    def span(
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
    ) -> AbstractAsyncContextManager[Span | None]:
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
        return _Block(
            self,
            {
                "trace_id": trace_id,
                "name": name,
                "input": input,
                "parent_id": parent_id,
                "data": data,
                "task_id": task_id,
            },
            {
                "start_to_close_timeout": start_to_close_timeout,
                "heartbeat_timeout": heartbeat_timeout,
                "retry_policy": retry_policy,
            },
        )

    def turn_span(
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
    ) -> AbstractAsyncContextManager[TurnSpan]:
        """Record the block as one turn of the agent; as `span`, but the value is a `TurnSpan`.

        ```
        async with adk.tracing.turn_span(task.id, "turn", task_id=task.id) as turn:
            reply = await model(messages)
            turn.output = {"response": reply.text}
            turn.record_usage(reply.usage)
        ```
        """
        return _TurnBlock(
            self.span(
                trace_id=trace_id,
                name=name,
                input=input,
                data=data,
                parent_id=parent_id,
                task_id=task_id,
                start_to_close_timeout=start_to_close_timeout,
                heartbeat_timeout=heartbeat_timeout,
                retry_policy=retry_policy,
            )
        )

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


class _Block:
    """A span as a block; by hand, since `asynccontextmanager` would cost as much as the span."""

    def __init__(
        self, module: TracingModule, arguments: dict[str, Any], bounds: dict[str, Any]
    ) -> None:
        self._module = module
        self._arguments = arguments
        self._bounds = bounds
        self._span: Span | None = None
        self._as_current: use_span | None = None

    async def __aenter__(self) -> Span | None:
        if self._arguments["trace_id"]:
            span = self._span = await self._module.start_span(**self._arguments, **self._bounds)
            # A service of the agent's own may return what is no span of ours.
            if isinstance(span, Span):
                self._as_current = use_span(span)
                self._as_current.__enter__()
        return self._span

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        span = self._span
        if span is None:
            return
        try:
            if self._as_current is not None:
                self._as_current.__exit__()
            # At a GeneratorExit the block was abandoned, not left by an error.
            if error is not None and not isinstance(error, GeneratorExit):
                set_span_error(span, error)
        finally:
            # Ctrl-C may come at any line of ours.
            await self._module.end_span(self._arguments["trace_id"], span, **self._bounds)


class _TurnBlock:
    """A turn as a block, around that of its span."""

    def __init__(self, block: AbstractAsyncContextManager[Span | None]) -> None:
        self._block = block

    async def __aenter__(self) -> TurnSpan:
        return TurnSpan(await self._block.__aenter__())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._block.__aexit__(kind, error, trace)
