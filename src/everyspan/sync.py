"""The sync faces of our destinations, for agents that call a processor themselves.

Y1  A call hands the span to the process's queue: it never waits and never raises (D23, D24).
Y2  Registered, a face is the destination behind it: spans handed over and spans of the tracer share
    one lane, with its books, retries and connections.
"""

from __future__ import annotations

from everyspan import pipeline
from everyspan.config import load_environment
from everyspan.log import complain
from everyspan.model.span import Span, SpanEventType
from everyspan.processors.agentex import AgentexAsyncTracingProcessor, AgentexTracingProcessorConfig
from everyspan.processors.builtin import BuiltinProcessor, SyncFace
from everyspan.processors.sgp import SGPAsyncTracingProcessor, SGPTracingProcessorConfig


class _HandingOver(SyncFace):
    """See the module text; off, it hands over nothing, where `load_environment().disabled` is."""

    def __init__(self, destination: BuiltinProcessor) -> None:
        self.destination = destination
        self._is_off = load_environment().disabled

    def on_span_start(self, span: Span) -> None:
        """Note that a span started; where STARTs are on, it is sent as in progress."""
        self._hand_over(SpanEventType.START, span)

    def on_span_end(self, span: Span) -> None:
        """Have the span sent as it is now."""
        self._hand_over(SpanEventType.END, span)

    def shutdown(self) -> None:
        """Wait until what was handed over has its answer, at most `grace_s`."""
        try:
            pipeline.flush(pipeline.current().settings.grace_s)
        except Exception as error:
            complain("everyspan could not flush", error=error)

    def _hand_over(self, event: SpanEventType, span: Span) -> None:
        if self._is_off:
            return
        try:
            pipeline.current().queue.enqueue(event, span, [self.destination])
        except Exception as error:
            # What is no span, or a defect of ours: neither may stop the agent (P2).
            complain("everyspan could not take a span", error=error)


class SGPSyncTracingProcessor(_HandingOver):
    """The SGP destination for code that cannot await; see `SGPAsyncTracingProcessor`."""

    def __init__(self, config: SGPTracingProcessorConfig) -> None:
        super().__init__(SGPAsyncTracingProcessor(config))


class AgentexSyncTracingProcessor(_HandingOver):
    """The AgentEx destination for code that cannot await; see `AgentexAsyncTracingProcessor`."""

    def __init__(self, config: AgentexTracingProcessorConfig) -> None:
        super().__init__(AgentexAsyncTracingProcessor(config))
