"""Traces by the original SDK's names: `Tracer(client).trace(id)`, and its async twin.

T1  A span belongs to the trace it was opened on and to the parent that was named, never to one
    that merely runs: so it may end on another thread, in another process, or much later.
T2  A trace with processors of its own hands its spans to these and no others; one without, to the
    destinations of the process, those registered later included (`trace:G4`).
T3  Nothing here waits or raises into the agent (P2), but for errors of use.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from time import time_ns
from typing import Any, cast

import msgspec

from everyspan import pipeline
from everyspan.context import Scope
from everyspan.errors import SettingsError
from everyspan.log import complain
from everyspan.model.freeze import freeze
from everyspan.model.span import Span, SpanEventType
from everyspan.obs import note_surroundings
from everyspan.processors.base import Processor
from everyspan.queue.span_queue import AsyncSpanQueue
from everyspan.tracer import begin, check_text, end, set_end_time, span
from everyspan.untraced import is_exporting

_AS_THEY_ARE = (dict, list, str, int, float, bool, tuple)


class _Block(span, kw_only=True, eq=False):
    """A span of one trace as a block; the block's value is None where the trace has no id."""

    _trace: _Spans

    def __enter__(self) -> Span:
        if not self._trace.trace_id:
            # As the original: the agent asks `if span:` (`trace:T1`).
            return cast("Span", None)
        return super().__enter__()

    def _open(self, before: Scope | None) -> Span:
        return self._trace._start(
            self.name, self.parent_id, self.input, self.data, self.task_id, self.type
        )

    def _end(self, opened: Span) -> None:
        self._trace._end(opened)


class _Spans:
    """What both kinds of trace do; made with the arguments of `AsyncTrace`."""

    def __init__(
        self,
        processors: Sequence[Processor] | None = None,
        client: Any = None,
        trace_id: str | None = None,
        span_queue: AsyncSpanQueue | None = None,
    ) -> None:
        if trace_id:
            check_text(trace_id=trace_id)
        if span_queue is not None and not hasattr(span_queue, "enqueue"):
            raise SettingsError(f"span_queue must be an AsyncSpanQueue, got {span_queue!r}")
        self.client = client
        self.trace_id = trace_id
        self._processors = processors
        self._span_queue = span_queue

    @property
    def processors(self) -> Sequence[Processor]:
        """Who gets the spans."""
        if self._processors is None:
            return pipeline.get_async_tracing_processors()
        return self._processors

    def span(
        self,
        name: str,
        parent_id: str | None = None,
        input: Any = None,
        data: Any = None,
        task_id: str | None = None,
        type: str | None = None,
    ) -> _Block:
        """Record the block as a span of this trace, as `everyspan.span` does.

        The block's value is the `Span`; None, and nothing is recorded, where the trace has no id
        (`trace:T1`). Inside, it is the current span.
        """
        return _Block(
            name=name,
            parent_id=parent_id,
            input=input,
            data=data,
            task_id=task_id,
            type=type,
            _trace=self,
        )

    def _start(
        self,
        name: str,
        parent_id: str | None,
        input: Any,
        data: Any,
        task_id: str | None,
        type: str | None,
    ) -> Span:
        if not self.trace_id:
            raise ValueError("trace_id must not be empty to start a span")
        if builtins.type(name) is not str or not (parent_id is task_id is type is None):
            check_text(name=name, parent_id=parent_id, task_id=task_id, type=type)
        opened = Span(
            name=name,
            trace_id=self.trace_id,
            parent_id=parent_id,
            start_ns=time_ns(),
            input=_plain(input),
            data=_plain(data),
            task_id=task_id,
            type=type,
        )
        if self._processors is None and self._span_queue is None:
            begin(opened)
        else:
            note_surroundings(opened, pipeline.current().obs_mode)
            self._enqueue(SpanEventType.START, opened)
        return opened

    def _end(self, opened: Span) -> Span:
        if not isinstance(opened, Span):
            raise SettingsError(f"span must be a Span, got {opened!r}")
        if self._processors is None and self._span_queue is None:
            end(opened)
        else:
            set_end_time(opened)
            self._enqueue(SpanEventType.END, opened)
        return opened

    def _enqueue(self, event: SpanEventType, opened: Span) -> None:
        if event is SpanEventType.START and is_exporting.get():
            opened._lanes = None
        if opened._lanes is None:
            # Not counted: what has processors of its own is in nobody's books before it is taken.
            return
        try:
            processors = self.processors
            if processors:
                queue = self._span_queue or pipeline.get_default_span_queue()
                queue.enqueue(event, opened, processors)
        except Exception as error:
            # The user's own queue, or a defect of ours: neither may stop the agent (T3).
            complain("everyspan could not hand over the %s of a span", event.value, error=error)

    def _reader(self, method: str) -> Any:
        if self.client is None:
            raise SettingsError(
                f"{method} reads from the AgentEx API: give the tracer a client, for example "
                "Tracer(Agentex()) or AsyncTracer(AsyncAgentex())"
            )
        return self.client.spans


def _plain(value: Any) -> Any:
    """Return a payload that its author may index: what is no plain value is dumped (`trace:T4`)."""
    if value is None or builtins.type(value) in _AS_THEY_ARE:
        return value
    try:
        return msgspec.json.decode(freeze(value))
    except Exception:
        # Nested too deep to be read here; it is frozen as it is when the span ends.
        return value


class Trace(_Spans):
    """One trace, for code that does not await.

    Args:
        processors: Who gets the spans; None for the destinations of the process.
        client: An AgentEx API client, only to read spans back.
        trace_id: A falsy one makes a trace that records nothing.

    Raises:
        SettingsError: The id is no text.
    """

    def __init__(
        self,
        processors: Sequence[Processor] | None = None,
        client: Any = None,
        trace_id: str | None = None,
    ) -> None:
        super().__init__(processors, client, trace_id)

    def start_span(
        self,
        name: str,
        parent_id: str | None = None,
        input: Any = None,
        data: Any = None,
        task_id: str | None = None,
        type: str | None = None,
    ) -> Span:
        """Open a span; end it with `end_span`.

        Raises:
            ValueError: The trace has no id (`trace:T1`).
            SettingsError: An argument is of the wrong type.
        """
        return self._start(name, parent_id, input, data, task_id, type)

    def end_span(self, span: Span) -> Span:
        """End a span and return it; its `end_time` is kept if it has one (`trace:T5`).

        Raises:
            SettingsError: `span` is none.
        """
        return self._end(span)

    def get_span(self, span_id: str) -> Any:
        """Return a span of the AgentEx API, as the client gives it.

        Raises:
            SettingsError: There is no client. What the client raises passes through.
        """
        return self._reader("get_span").retrieve(span_id)

    def list_spans(self) -> Any:
        """Return the spans of this trace, as the client gives them; raises as `get_span`."""
        return self._reader("list_spans").list(trace_id=self.trace_id)


class AsyncTrace(_Spans):
    """One trace, for code that awaits; its arguments are those of `Trace`, and one more.

    Args:
        span_queue: Carries the spans instead of the queue of the process.

    Raises:
        SettingsError: The id is no text, or the queue none.
    """

    async def start_span(
        self,
        name: str,
        parent_id: str | None = None,
        input: Any = None,
        data: Any = None,
        task_id: str | None = None,
        type: str | None = None,
    ) -> Span:
        """As `Trace.start_span`; it never waits."""
        return self._start(name, parent_id, input, data, task_id, type)

    async def end_span(self, span: Span) -> Span:
        """As `Trace.end_span`; it never waits."""
        return self._end(span)

    async def get_span(self, span_id: str) -> Any:
        """As `Trace.get_span`."""
        return await self._reader("get_span").retrieve(span_id)

    async def list_spans(self) -> Any:
        """As `Trace.list_spans`."""
        return await self._reader("list_spans").list(trace_id=self.trace_id)


class Tracer:
    """Makes traces for code that does not await.

    Args:
        client: An AgentEx API client, only to read spans back; None where nothing is read.
    """

    def __init__(self, client: Any = None) -> None:
        self.client = client

    def trace(self, trace_id: str | None = None) -> Trace:
        """Return the trace with this id; with a falsy id, one that records nothing.

        Raises:
            SettingsError: The id is no text.
        """
        return Trace(client=self.client, trace_id=trace_id)


class AsyncTracer:
    """Makes traces for code that awaits; see `Tracer`."""

    def __init__(self, client: Any = None) -> None:
        self.client = client

    def trace(
        self, trace_id: str | None = None, span_queue: AsyncSpanQueue | None = None
    ) -> AsyncTrace:
        """As `Tracer.trace`; `span_queue` carries the spans instead of the queue of the process."""
        return AsyncTrace(client=self.client, trace_id=trace_id, span_queue=span_queue)
