"""The agent of `everyspan demo`: real LangGraph, a scripted chat model, two tools, no network.

A request is what a synchronous handler of an agent server makes of one: a plain function on a
worker thread that runs one turn on an event loop of its own and closes it.

G1  Every span that ends is counted here, by id, before everyspan is told that it ended; nothing
    of the delivery takes part in the counting.
G2  Every call into everyspan is timed, in CPU time of the thread that makes it: the callbacks of
    the handler, and the block around a request.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from functools import wraps
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    UsageMetadata,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

import everyspan
from everyspan.integrations.langchain import EverySpanCallbackHandler

MODEL_NAME = "scripted-1"
# request, graph, (node, model), (node, two tools), (node, model).
SPANS_PER_REQUEST = 9

_THINKING_S = 0.03
_SYSTEM = (
    "You plan one day in a city for a visitor. Ask the tools before you answer: the sky decides "
    "between inside and outside, the opening hours decide the order. "
    "Name three places, at most, with the time to be there and how to get from one to the next. "
    "Prefer walks under twenty minutes; otherwise name the line and the stop. "
    "Say what to take along. If a place is closed, say so and name another one nearby. "
    "Never invent a price; if you do not know it, leave it out. "
    "Answer in the language of the question, in no more than one hundred and twenty words. "
) * 2
_CITIES = ("Oslo", "Porto", "Kyoto", "Quito", "Tartu", "Cork", "Gdańsk", "Hobart")


class ScriptedModel(BaseChatModel):
    """A chat model whose answers are written down: first two tool calls, then the plan."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return {
            "ls_provider": "everyspan",
            "ls_model_name": MODEL_NAME,
            "ls_model_type": "chat",
            "ls_temperature": 0.0,
        }

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=_answer(messages))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        await asyncio.sleep(_THINKING_S)
        return self._generate(messages)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        answer = _answer(messages)
        for word in str(answer.content).split():
            await asyncio.sleep(0)
            yield ChatGenerationChunk(message=AIMessageChunk(content=word + " "))
        last = AIMessageChunk(
            content="", tool_calls=answer.tool_calls, usage_metadata=answer.usage_metadata
        )
        yield ChatGenerationChunk(message=last)


def _answer(messages: list[BaseMessage]) -> AIMessage:
    asked = sum(len(str(message.content)) for message in messages) // 4
    city = str(messages[1].content).rpartition(" ")[2].rstrip("?")
    if messages[-1].type != "tool":
        calls = [
            ToolCall(name="forecast", args={"city": city, "days": 1}, id=f"forecast-{city}"),
            ToolCall(name="opening_hours", args={"city": city}, id=f"hours-{city}"),
        ]
        return AIMessage("", tool_calls=calls, usage_metadata=_usage(asked, 46))
    plan = (
        f"Begin in {city} at the museum, 09:30, while it rains. Walk twelve minutes along the "
        "water to the market, 12:30, and eat there. At 15:00 it clears: take line 2 to the hill, "
        "stop Upper Gate, and stay for the light until 18:00. The gallery is closed today; the "
        "print shop next to it is not. Take a coat along."
    )
    return AIMessage(plan, usage_metadata=_usage(asked, len(plan) // 4))


def _usage(input_tokens: int, output_tokens: int) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        total_tokens=input_tokens + output_tokens,
    )


@tool
async def forecast(city: str, days: int) -> dict[str, Any]:
    """The weather of a city, hour by hour."""
    await asyncio.sleep(0.01)
    hours = [
        {"hour": hour, "celsius": 9 + hour % 7, "rain_mm": 1.2 if hour < 14 else 0.0}
        for hour in range(8, 20)
    ]
    return {"city": city, "days": days, "hours": hours}


@tool
async def opening_hours(city: str) -> dict[str, Any]:
    """When the places of a city are open."""
    await asyncio.sleep(0.005)
    places = ("museum", "market", "gallery", "hill", "print shop", "castle", "harbour baths")
    return {
        "city": city,
        "places": [
            {"name": name, "opens": "09:30", "closes": "18:00", "closed_today": name == "gallery"}
            for name in places
        ],
    }


class Counter:
    """What the script itself saw, whatever everyspan says (G1)."""

    def __init__(self) -> None:
        # Appends alone: they need no lock between threads.
        self.span_ids: list[str] = []
        self.trace_ids: list[str] = []
        self.callback_cpu_ns: list[int] = []
        self.block_cpu_ns: list[int] = []
        self.late_s: list[float] = []
        self.took_s: list[float] = []
        self.errors: list[BaseException] = []

    @property
    def requests(self) -> int:
        """Requests answered or failed so far."""
        return len(self.took_s)


class CountingHandler(EverySpanCallbackHandler):
    """The handler any agent would use, counted (G1) and timed (G2)."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self._counter = counter

    def before_end(self, span: everyspan.Span) -> None:
        self._counter.span_ids.append(span.id)


def _timed(callback: Callable[..., None]) -> Callable[..., None]:
    @wraps(callback)
    def timed(self: CountingHandler, *args: Any, **kwargs: Any) -> None:
        began_ns = time.thread_time_ns()
        try:
            callback(self, *args, **kwargs)
        finally:
            self._counter.callback_cpu_ns.append(time.thread_time_ns() - began_ns)

    return timed


for _name in dir(EverySpanCallbackHandler):
    if _name.startswith("on_") and _name in vars(EverySpanCallbackHandler):
        setattr(CountingHandler, _name, _timed(getattr(EverySpanCallbackHandler, _name)))


class Agent:
    """Answers requests; one object for all threads."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._config: RunnableConfig = {"callbacks": [CountingHandler(counter)]}
        self._graph = _graph()

    def handle(self, number: int, due_s: float) -> None:
        """Answer one request, on this thread and a new event loop.

        Args:
            number: Which request, from 0.
            due_s: When it was to start, on the clock of `time.perf_counter`.
        """
        self._counter.late_s.append(time.perf_counter() - due_s)
        try:
            asyncio.run(self._turn(number))
        except Exception as error:
            self._counter.errors.append(error)
        self._counter.took_s.append(time.perf_counter() - due_s)

    async def _turn(self, number: int) -> None:
        question = f"What do I do today in {_CITIES[number % len(_CITIES)]}?"
        began_ns = time.thread_time_ns()
        block = everyspan.span("request", input={"question": question}, task_id=f"task-{number}")
        span = block.__enter__()
        cpu_ns = time.thread_time_ns() - began_ns
        try:
            self._counter.trace_ids.append(span.trace_id)
            state: Any = {"messages": [SystemMessage(_SYSTEM), HumanMessage(question)]}
            state = await self._graph.ainvoke(state, self._config)
            span.output = {"answer": state["messages"][-1].content}
        finally:
            self._counter.span_ids.append(span.id)
            began_ns = time.thread_time_ns()
            block.__exit__(*sys.exc_info())
            self._counter.block_cpu_ns.append(cpu_ns + time.thread_time_ns() - began_ns)


def _graph() -> Any:
    model = ScriptedModel()

    async def agent(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    def route(state: MessagesState) -> str:
        last = state["messages"][-1]
        return "tools" if isinstance(last, AIMessage) and last.tool_calls else END

    graph = StateGraph(MessagesState)
    graph.add_node("agent", agent)
    graph.add_node("tools", ToolNode([forecast, opening_hours]))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", route, ["tools", END])
    graph.add_edge("tools", "agent")
    return graph.compile(name="city guide")
