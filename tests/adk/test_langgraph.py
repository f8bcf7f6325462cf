"""`adk.create_langgraph_tracing_handler`, on a real graph."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

import everyspan
from everyspan import SettingsError, adk
from tests.recording import Recording


def agent() -> Any:
    model = FakeListChatModel(responses=["hello"])

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("agent", answer)
    graph.add_edge(START, "agent")
    graph.add_edge("agent", END)
    return graph.compile()


async def run(handler: Any) -> None:
    await agent().ainvoke({"messages": [HumanMessage("hi")]}, {"callbacks": [handler]})


def test_a_graph_hangs_from_the_turn_that_is_named(recording: Recording) -> None:
    """acp:AL5: by id alone, so on another loop as well."""

    async def turn() -> str:
        span = await adk.tracing.start_span("t", "turn")
        assert span is not None
        await adk.tracing.end_span("t", span)
        return span.id

    turn_id = asyncio.run(turn())
    asyncio.run(run(adk.create_langgraph_tracing_handler("t", turn_id)))
    parents = recording.parents
    assert parents.pop("turn") is None
    assert parents.pop("LangGraph") == "turn"
    assert parents.pop("agent") == "LangGraph"
    assert list(parents.values()) == ["agent"]
    assert {span.trace_id for span in recording.spans} == {"t"}


async def test_inside_a_turn_its_id_need_not_be_named(recording: Recording) -> None:
    async with adk.tracing.turn_span("t", "turn"):
        await run(adk.create_langgraph_tracing_handler("t"))
    assert recording.parents["LangGraph"] == "turn"


async def test_the_handler_follows_its_traces_sampling() -> None:
    """A trace that is not recorded is not recorded below the turn either."""
    memory = everyspan.InMemoryTracingProcessor()
    everyspan.configure(memory, linger_ms=0, sample=0.0)
    try:
        span = await adk.tracing.start_span("t", "turn")
        assert span is not None
        await run(adk.create_langgraph_tracing_handler("t", span.id))
        await adk.tracing.end_span("t", span)
        assert everyspan.flush(20)
        assert memory.spans == []
    finally:
        everyspan.shutdown(5)
        everyspan.set_tracing_processor_configs([])


@pytest.mark.parametrize("nothing", ["", None])
async def test_without_a_trace_id_nothing_is_recorded(recording: Recording, nothing: Any) -> None:
    """trace:T1."""
    await run(adk.create_langgraph_tracing_handler(nothing, "p"))
    assert recording.spans == []


@pytest.mark.parametrize(
    ("ids", "text"), [((5,), "trace_id must be text"), (("t", 5), "parent_span_id must be text")]
)
def test_a_bad_id_is_named(ids: Any, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        adk.create_langgraph_tracing_handler(*ids)
