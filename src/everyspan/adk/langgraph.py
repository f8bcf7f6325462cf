"""The original's way to trace a LangGraph agent, over everyspan's own LangChain handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from everyspan import SettingsError, Span

if TYPE_CHECKING:
    from everyspan.integrations.langchain import EverySpanCallbackHandler


def create_langgraph_tracing_handler(
    trace_id: str, parent_span_id: str | None = None
) -> EverySpanCallbackHandler:
    """Return a callback handler: `graph.astream(state, {"callbacks": [handler]})`.

    It records the graph and its nodes too, where the original's has model and tool calls alone.

    Args:
        trace_id: Trace to record into; where it is empty, nothing is recorded.
        parent_span_id: Id of the span that the graph hangs from.

    Raises:
        SettingsError: An id is no text.
        ImportError: LangChain is not installed; the text says how to.
    """
    from everyspan.integrations.langchain import EverySpanCallbackHandler

    for name, value in (("trace_id", trace_id), ("parent_span_id", parent_span_id)):
        if value is not None and not isinstance(value, str):
            raise SettingsError(f"{name} must be text, got {value!r}")
    parent = None
    if trace_id and parent_span_id:
        # Its id and trace are all that is known, and all that is looked at.
        parent = Span(name="parent", trace_id=trace_id, id=parent_span_id, start_ns=0)
    return EverySpanCallbackHandler(trace_id or "", parent)
