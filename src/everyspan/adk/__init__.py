"""The agent-facing facade of the original SDK: `from everyspan import adk` instead of its own.

`adk.tracing` has the original's calls with the original's arguments. `adk.trace_stream` derives
spans from the messages that an agent streams.
"""

from __future__ import annotations

from everyspan.adk.langgraph import create_langgraph_tracing_handler
from everyspan.adk.stream import StreamSpans, trace_stream
from everyspan.adk.tracing_module import TracingModule, TracingService
from everyspan.adk.turn import TurnSpan, TurnUsage

__all__ = [
    "StreamSpans",
    "TracingModule",
    "TracingService",
    "TurnSpan",
    "TurnUsage",
    "create_langgraph_tracing_handler",
    "trace_stream",
    "tracing",
]

tracing = TracingModule()
