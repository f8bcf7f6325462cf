"""The LangChain handler against real LangGraph graphs and scripted models; no network."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import operator
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel, FakeListLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import BaseTool, ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt

import everyspan
from everyspan import Span, SpanStatus, SpanType
from everyspan.integrations import langchain as integration
from everyspan.integrations.langchain import EverySpanCallbackHandler

USAGE = UsageMetadata(
    input_tokens=30,
    output_tokens=12,
    total_tokens=42,
    input_token_details={"cache_read": 8},
    output_token_details={"reasoning": 5},
)
CALLS = AIMessage(
    "",
    tool_calls=[
        {"name": "weather", "args": {"city": "Oslo"}, "id": "call-1", "type": "tool_call"},
        {"name": "clock", "args": {"zone": "CET"}, "id": "call-2", "type": "tool_call"},
    ],
    usage_metadata=USAGE,
    response_metadata={"model_name": "scripted-2026"},
)
ANSWER = AIMessage("Sunny, noon.", usage_metadata=USAGE)


class ScriptedModel(BaseChatModel):
    """Asks for two tools, then answers; sync, async and streaming alike."""

    model_name: str = "scripted-1"
    error: Exception | None = None
    forever: bool = False

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return {"ls_provider": "script", "ls_model_name": self.model_name, "ls_model_type": "chat"}

    def _next(self, messages: list[BaseMessage]) -> AIMessage:
        if self.error is not None:
            raise self.error
        return ANSWER if messages[-1].type == "tool" else CALLS

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._next(messages))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self.forever:
            await asyncio.Event().wait()
        return self._generate(messages)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        message = self._next(messages)
        for word in str(message.content).split(" "):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content="", tool_calls=message.tool_calls, usage_metadata=message.usage_metadata
            )
        )

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(messages):
            yield chunk
            if self.forever:
                await asyncio.Event().wait()


@tool
def weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


@tool
async def aweather(city: str) -> str:
    """Weather of a city."""
    await asyncio.sleep(0)
    return f"sunny in {city}"


@tool
def clock(zone: str) -> str:
    """Time in a zone."""
    return "12:00"


@tool("clock")
def broken_clock(zone: str) -> str:
    """Time in a zone."""
    raise LookupError(f"no zone {zone}")


@pytest.fixture(autouse=True)
def memory() -> Iterator[everyspan.InMemoryTracingProcessor]:
    processor = everyspan.InMemoryTracingProcessor()
    everyspan.configure(processor)
    yield processor
    everyspan.shutdown(timeout=5)


class Recorded:
    """The ended spans, asked for when they are needed."""

    def __init__(self, memory: everyspan.InMemoryTracingProcessor) -> None:
        self._memory = memory

    def spans(self) -> list[Span]:
        assert everyspan.flush(timeout=5)
        return sorted(self._memory.spans, key=lambda span: span.start_ns)

    def one(self, name: str) -> Span:
        (found,) = [span for span in self.spans() if span.name == name]
        return found

    def tree(self) -> Any:
        """The one tree of all spans as (name, [children in order of start]).

        Tools, which run at once, stand in the order of their names.
        """
        spans = self.spans()
        assert len({span.id for span in spans}) == len(spans)
        assert len({span.trace_id for span in spans}) == 1
        (root,) = [span for span in spans if span.parent_id is None]

        def branch(span: Span) -> Any:
            children = [branch(child) for child in spans if child.parent_id == span.id]
            if all(isinstance(child, str) and child.startswith("tool:") for child in children):
                children.sort()
            return (span.name, children) if children else span.name

        tree = branch(root)
        assert _size(tree) == len(spans), "a span hangs from a parent that is not there"
        return tree


def _size(tree: Any) -> int:
    return 1 if isinstance(tree, str) else 1 + sum(_size(child) for child in tree[1])


@pytest.fixture
def recorded(memory: everyspan.InMemoryTracingProcessor) -> Recorded:
    return Recorded(memory)


def route(state: MessagesState) -> str:
    last = state["messages"][-1]
    return "tools" if isinstance(last, AIMessage) and last.tool_calls else END


def agent_graph(
    model: BaseChatModel,
    *,
    async_node: bool = False,
    tools: list[BaseTool] | None = None,
    **tool_options: Any,
) -> Any:
    def agent(state: MessagesState) -> Any:
        return {"messages": [model.invoke(state["messages"])]}

    async def aagent(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("agent", aagent if async_node else agent)
    graph.add_node("tools", ToolNode(tools or [weather, clock], **tool_options))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", route)
    graph.add_edge("tools", "agent")
    return graph.compile()


def question() -> Any:
    return {"messages": [HumanMessage("How is Oslo?")]}


def config(handler: EverySpanCallbackHandler | None = None) -> RunnableConfig:
    return {"callbacks": [handler or EverySpanCallbackHandler()]}


AGENT_TREE = (
    "LangGraph",
    [
        ("agent", ["llm:scripted-1"]),
        ("tools", ["tool:clock", "tool:weather"]),
        ("agent", ["llm:scripted-1"]),
    ],
)


# -- the tree


def test_sync_graph_is_one_tree_of_nodes_models_and_tools(recorded: Recorded) -> None:
    """acp:AL4, first row of `acp` §7.4: invoke in a sync node, and its sync tools."""
    agent_graph(ScriptedModel()).invoke(question(), config())
    assert recorded.tree() == AGENT_TREE


async def test_async_graph_is_the_same_tree(recorded: Recorded) -> None:
    """Second row of `acp` §7.4: ainvoke in an async node, sync tools on worker threads."""
    await agent_graph(ScriptedModel(), async_node=True).ainvoke(question(), config())
    assert recorded.tree() == AGENT_TREE


async def test_sync_node_of_an_async_graph_is_the_same_tree(recorded: Recorded) -> None:
    """First row of `acp` §7.4, entered from a running loop."""
    await agent_graph(ScriptedModel()).ainvoke(question(), config())
    assert recorded.tree() == AGENT_TREE


async def test_async_tool_hangs_from_its_node(recorded: Recorded) -> None:
    calls = [{"name": "aweather", "args": {"city": "Oslo"}, "id": "1", "type": "tool_call"}]
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([aweather]))
    graph.add_edge(START, "tools")
    state: Any = {"messages": [AIMessage("", tool_calls=calls)]}
    await graph.compile().ainvoke(state, config())
    assert recorded.tree() == ("LangGraph", [("tools", ["tool:aweather"])])


@pytest.mark.parametrize("async_node", [False, True])
def test_a_new_event_loop_per_request_makes_one_tree_each(
    async_node: bool, recorded: Recorded
) -> None:
    """P3: loops that live for one request, on several threads at once."""
    graph = agent_graph(ScriptedModel(), async_node=async_node)
    handler = EverySpanCallbackHandler()

    def requests() -> None:
        for _ in range(5):
            asyncio.run(graph.ainvoke(question(), config(handler)))

    threads = [threading.Thread(target=requests) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans = recorded.spans()
    assert Counter(Counter(span.trace_id for span in spans).values()) == {8: 20}
    by_id = {span.id: span for span in spans}
    for span in spans:
        if span.parent_id is not None:
            assert by_id[span.parent_id].trace_id == span.trace_id


async def test_callbacks_run_on_the_thread_that_does_the_work(recorded: Recorded) -> None:
    """acp:AL8: a model call of an async node starts and ends on the loop's own thread."""
    seen: list[tuple[str, bool]] = []

    class Watching(EverySpanCallbackHandler):
        def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
            seen.append(("start", threading.current_thread() is threading.main_thread()))
            super().on_chat_model_start(*args, **kwargs)

        def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
            seen.append(("end", threading.current_thread() is threading.main_thread()))
            super().on_llm_end(*args, **kwargs)

    graph = agent_graph(ScriptedModel(), async_node=True)
    await graph.ainvoke(question(), config(Watching()))
    assert seen == [("start", True), ("end", True)] * 2
    assert recorded.tree() == AGENT_TREE


class Found(TypedDict):
    found: Annotated[list[str], operator.add]


def branching_graph(model: ScriptedModel, *, width: int, is_async: bool) -> Any:
    """`width` nodes at once, each with a model call, then one that joins them."""
    graph = StateGraph(Found)
    graph.add_node("join", lambda state: {"found": [str(len(state["found"]))]})

    def branch(name: str) -> Any:
        def call(state: Found) -> Any:
            return {"found": [model.with_config(tags=[name]).invoke("go").text]}

        async def acall(state: Found) -> Any:
            await asyncio.sleep(0)
            return {"found": [(await model.with_config(tags=[name]).ainvoke("go")).text]}

        return acall if is_async else call

    for index in range(width):
        graph.add_node(f"branch-{index}", branch(f"branch-{index}"))
        graph.add_edge(START, f"branch-{index}")
        graph.add_edge(f"branch-{index}", "join")
    return graph.compile()


@pytest.mark.parametrize("is_async", [False, True])
def test_parallel_branches_keep_their_own_parents(is_async: bool, recorded: Recorded) -> None:
    graph = branching_graph(ScriptedModel(), width=8, is_async=is_async)
    start: Found = {"found": []}
    if is_async:
        asyncio.run(graph.ainvoke(start, config()))
    else:
        graph.invoke(start, config())
    name, children = recorded.tree()
    assert name == "LangGraph"
    assert children[-1] == "join"
    assert sorted(children[:-1]) == [(f"branch-{i}", ["llm:scripted-1"]) for i in range(8)]


def test_nested_graph_hangs_from_the_node_that_holds_it(recorded: Recorded) -> None:
    outer = StateGraph(MessagesState)
    outer.add_node("as_node", agent_graph(ScriptedModel()))
    inner = agent_graph(ScriptedModel())

    def in_body(state: MessagesState) -> Any:
        return inner.invoke(question())

    outer.add_node("in_body", in_body)
    outer.add_edge(START, "as_node")
    outer.add_edge("as_node", "in_body")
    outer.compile(name="outer").invoke(question(), config())
    assert recorded.tree() == (
        "outer",
        [("as_node", [AGENT_TREE]), ("in_body", [AGENT_TREE])],
    )


def test_glue_is_left_out_and_its_children_are_not(recorded: Recorded) -> None:
    """C4: prompts, parsers, sequences and routing are no spans; named steps are."""
    model = ScriptedModel()

    def shorten(message: AIMessage) -> Any:
        return {"messages": [message]}

    prompt = ChatPromptTemplate.from_messages([("human", "{messages}")])

    def deep(state: MessagesState) -> Any:
        return (prompt | model | RunnableLambda(shorten)).invoke(dict(state))

    flat: Any = prompt | model | RunnableLambda(shorten)
    graph = StateGraph(MessagesState)
    graph.add_node("flat", flat)
    graph.add_node("deep", deep)
    graph.add_edge(START, "flat")

    def judge(state: MessagesState) -> str:
        model.invoke("which way?")
        return "deep"

    graph.add_conditional_edges("flat", judge, ["deep"])
    graph.compile().invoke(question(), config())
    assert recorded.tree() == (
        "LangGraph",
        [
            ("flat", ["llm:scripted-1", "shorten", "llm:scripted-1"]),
            ("deep", ["llm:scripted-1", "shorten"]),
        ],
    )


def test_hidden_run_is_left_out(recorded: Recorded) -> None:
    def secret(value: str) -> str:
        return ScriptedModel().invoke(value).text

    hidden = RunnableLambda(secret).with_config(tags=["langsmith:hidden"])

    def shown(value: str) -> str:
        return hidden.invoke(value)

    RunnableLambda(shown).invoke("x", config())
    assert [span.name for span in recorded.spans()] == ["shown"]


# -- what a span says


def test_model_span_has_messages_tools_usage_and_model(recorded: Recorded) -> None:
    """acp §7.2 and its [E]: names and types of the original, real usage."""
    agent_graph(ScriptedModel()).invoke(question(), config())
    first, second = [span for span in recorded.spans() if span.name == "llm:scripted-1"]
    usage = {
        "input_tokens": 30,
        "output_tokens": 12,
        "total_tokens": 42,
        "cached_input_tokens": 8,
        "reasoning_tokens": 5,
    }
    tool_calls = [
        {"name": "weather", "args": {"city": "Oslo"}, "id": "call-1"},
        {"name": "clock", "args": {"zone": "CET"}, "id": "call-2"},
    ]
    assert first.type == SpanType.COMPLETION
    assert first.status == SpanStatus.SUCCESS
    assert first.input == {"messages": [{"type": "human", "content": "How is Oslo?"}]}
    assert first.output == {"content": "", "tool_calls": tool_calls, "usage": usage}
    assert first.data["model"] == "scripted-2026"
    assert first.data["ls_provider"] == "script"
    assert first.data["langgraph_node"] == "agent"
    assert second.input["messages"][1:] == [
        {"type": "ai", "content": "", "tool_calls": tool_calls},
        {
            "type": "tool",
            "content": "sunny in Oslo",
            "name": "weather",
            "tool_call_id": "call-1",
            "status": "success",
        },
        {
            "type": "tool",
            "content": "12:00",
            "name": "clock",
            "tool_call_id": "call-2",
            "status": "success",
        },
    ]
    assert second.output == {"content": "Sunny, noon.", "usage": usage}
    assert second.data["model"] == "scripted-1"


def test_tool_span_has_structured_arguments_and_its_call(recorded: Recorded) -> None:
    """acp:AL3, acp:AL4: no text of a dict, and the id that ties it to the model's call."""
    agent_graph(ScriptedModel()).invoke(question(), config())
    span = recorded.one("tool:weather")
    assert span.type == SpanType.CUSTOM
    assert span.input == {"input": {"city": "Oslo"}}
    assert span.output["output"]["content"] == "sunny in Oslo"
    assert span.output["output"]["tool_call_id"] == "call-1"
    assert span.data["tool_call_id"] == "call-1"


def test_graph_span_has_the_state_in_short_form(recorded: Recorded) -> None:
    agent_graph(ScriptedModel()).invoke(question(), config())
    span = recorded.one("LangGraph")
    assert span.type == SpanType.AGENT_WORKFLOW
    assert span.input == {"messages": [{"type": "human", "content": "How is Oslo?"}]}
    assert [message["type"] for message in span.output["messages"]] == [
        "human",
        "ai",
        "tool",
        "tool",
        "ai",
    ]


def test_retriever_and_plain_model(recorded: Recorded) -> None:
    class Shelf(BaseRetriever):
        def _get_relevant_documents(
            self, query: str, *, run_manager: CallbackManagerForRetrieverRun
        ) -> list[Document]:
            return [Document("Oslo is a city", metadata={"page": 3}, id="d1")]

    Shelf().invoke("Oslo", config())
    FakeListLLM(responses=["forty-two"]).invoke("why?", config())
    shelf, plain = recorded.spans()
    assert (shelf.name, shelf.type) == ("retriever:Shelf", SpanType.KB_RETRIEVAL)
    assert shelf.input == {"query": "Oslo"}
    assert shelf.output == {
        "documents": [{"page_content": "Oslo is a city", "metadata": {"page": 3}, "id": "d1"}]
    }
    assert (plain.name.partition(":")[0], plain.type) == ("llm", SpanType.COMPLETION)
    assert plain.input == {"prompts": ["why?"]}
    assert plain.output == {"content": "forty-two"}


def test_usage_in_the_older_form_counts(recorded: Recorded) -> None:
    class Older(ScriptedModel):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            return ChatResult(
                generations=[ChatGeneration(message=AIMessage("ok"))],
                llm_output={
                    "token_usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
                    "model_name": "older-7",
                },
            )

    Older().invoke("x", config())
    span = recorded.one("llm:scripted-1")
    assert span.output["usage"] == {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    assert span.data["model"] == "older-7"


# -- where it hangs


def test_ambient_span_is_the_parent_of_the_graph(recorded: Recorded) -> None:
    with everyspan.span("turn", task_id="task-1") as turn:
        agent_graph(ScriptedModel()).invoke(question(), config())
    assert recorded.tree() == ("turn", [AGENT_TREE])
    assert {span.task_id for span in recorded.spans()} == {"task-1"}
    assert {span.trace_id for span in recorded.spans()} == {turn.trace_id}


def test_given_trace_and_task_are_used(recorded: Recorded) -> None:
    handler = EverySpanCallbackHandler(trace_id="trace-9", task_id="task-9")
    agent_graph(ScriptedModel()).invoke(question(), config(handler))
    assert {(span.trace_id, span.task_id) for span in recorded.spans()} == {("trace-9", "task-9")}


def test_given_parent_beats_the_ambient_span(recorded: Recorded) -> None:
    with everyspan.span("given") as given:
        pass
    with everyspan.span("ambient"):
        ScriptedModel().invoke("x", config(EverySpanCallbackHandler(parent=given)))
    assert recorded.one("llm:scripted-1").parent_id == given.id


def test_ambient_span_of_another_trace_is_no_parent(recorded: Recorded) -> None:
    with everyspan.span("other"):
        ScriptedModel().invoke("x", config(EverySpanCallbackHandler(trace_id="mine")))
    span = recorded.one("llm:scripted-1")
    assert (span.trace_id, span.parent_id) == ("mine", None)


def test_empty_trace_id_records_nothing(recorded: Recorded) -> None:
    """trace:T1"""
    agent_graph(ScriptedModel()).invoke(question(), config(EverySpanCallbackHandler(trace_id="")))
    assert recorded.spans() == []


@pytest.mark.parametrize("is_async", [False, True])
def test_span_of_the_agent_inside_a_node_adopts_what_runs_in_it(
    is_async: bool, recorded: Recorded
) -> None:
    """C3: the agent's own span comes between the node and the model."""
    model = ScriptedModel()

    def agent(state: MessagesState) -> Any:
        with everyspan.span("outer step"), everyspan.span("inner step"):
            return {"messages": [model.invoke("x")]}

    async def aagent(state: MessagesState) -> Any:
        async with everyspan.span("outer step"), everyspan.span("inner step"):
            return {"messages": [await model.ainvoke("x")]}

    graph = StateGraph(MessagesState)
    graph.add_node("agent", aagent if is_async else agent)
    graph.add_edge(START, "agent")
    compiled = graph.compile()
    with everyspan.span("turn"):
        if is_async:
            asyncio.run(compiled.ainvoke(question(), config()))
        else:
            compiled.invoke(question(), config())
    assert recorded.one("llm:scripted-1").parent_id == recorded.one("inner step").id


@pytest.mark.parametrize("is_async", [False, True])
def test_span_opened_in_a_node_or_tool_hangs_from_it(is_async: bool, recorded: Recorded) -> None:
    """C7: without any span around the graph, in one trace, and only while they run."""

    @tool("weather")
    def nested(city: str) -> str:
        """Weather of a city."""
        with everyspan.span("in tool"):
            return "sunny"

    @tool("weather")
    async def anested(city: str) -> str:
        """Weather of a city."""
        async with everyspan.span("in tool"):
            return "sunny"

    def before(state: MessagesState) -> Any:
        with everyspan.span("in node"):
            return {"messages": [CALLS.model_copy(update={"tool_calls": CALLS.tool_calls[:1]})]}

    async def abefore(state: MessagesState) -> Any:
        return before(state)

    async def acall(state: MessagesState) -> Any:
        call = {"type": "tool_call", **CALLS.tool_calls[0]}
        await anested.ainvoke(call)
        with everyspan.span("after tool"):
            return {"messages": []}

    def call(state: MessagesState) -> Any:
        nested.invoke({"type": "tool_call", **CALLS.tool_calls[0]})
        with everyspan.span("after tool"):
            return {"messages": []}

    def judge(state: MessagesState) -> str:
        with everyspan.span("in route"):
            return "tools"

    graph = StateGraph(MessagesState)
    graph.add_node("before", abefore if is_async else before)
    graph.add_node("tools", ToolNode([anested if is_async else nested]))
    graph.add_node("call", acall if is_async else call)
    graph.add_edge(START, "before")
    graph.add_conditional_edges("before", judge, ["tools"])
    graph.add_edge("tools", "call")
    compiled = graph.compile()

    async def turn() -> None:
        await compiled.ainvoke(question(), config())
        assert everyspan.current_span() is None

    if is_async:
        asyncio.run(turn())
    else:
        compiled.invoke(question(), config())
        assert everyspan.current_span() is None
    assert recorded.tree() == (
        "LangGraph",
        [
            ("before", ["in node", "in route"]),
            ("tools", [("tool:weather", ["in tool"])]),
            ("call", [("tool:weather", ["in tool"]), "after tool"]),
        ],
    )


async def test_cancelled_node_is_not_current_afterwards(recorded: Recorded) -> None:
    """C7: also where the end is reported late, or by the parent."""
    started = asyncio.Event()

    @tool("weather")
    async def waits(city: str) -> str:
        """Weather of a city."""
        started.set()
        await asyncio.Event().wait()
        return ""

    async def turn() -> Any:
        graph = agent_graph(ScriptedModel(), async_node=True, tools=[waits, clock])
        with contextlib.suppress(asyncio.CancelledError):
            await graph.ainvoke(question(), config())
        return everyspan.current_span()

    task = asyncio.create_task(turn())
    await started.wait()
    task.cancel()
    assert await task is None
    assert recorded.one("tool:weather").status == SpanStatus.CANCELED


def test_batch_keeps_each_run_to_its_own(recorded: Recorded) -> None:
    """C7: LangChain starts all runs of a batch in one context."""
    chain = RunnableLambda(lambda value: value, name="first") | ScriptedModel()
    chain.with_config(run_name="chain").batch(["a", "b", "c"], config())
    spans = recorded.spans()
    assert len(spans) == 9
    by_id = {span.id: span for span in spans}
    for span in spans:
        if span.name == "llm:scripted-1":
            parent = by_id[span.parent_id or ""]
            asked = span.input["messages"][0]["content"]
            assert (parent.name, parent.input) == ("chain", {"input": asked})


def test_remote_parent_is_taken(recorded: Recorded) -> None:
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    remote = everyspan.extract(headers)
    assert remote is not None
    ScriptedModel().invoke("x", config(EverySpanCallbackHandler(parent=remote)))
    span = recorded.one("llm:scripted-1")
    assert (span.trace_id, span.parent_id) == (remote.trace_id, remote.id)


def test_span_of_the_reader_of_a_stream_adopts_no_node(recorded: Recorded) -> None:
    with everyspan.span("turn"):
        stream = agent_graph(ScriptedModel()).stream(question(), config())
        next(stream)
        with everyspan.span("reading"):
            list(stream)
    assert recorded.tree() == ("turn", [(AGENT_TREE[0], AGENT_TREE[1]), "reading"])


def test_ambient_span_is_the_same_before_and_after(recorded: Recorded) -> None:
    async def turn() -> None:
        with everyspan.span("turn") as span:
            await agent_graph(ScriptedModel(), async_node=True).ainvoke(question(), config())
            assert everyspan.current_span() is span

    asyncio.run(turn())
    assert recorded.tree() == ("turn", [AGENT_TREE])


# -- when it fails


@pytest.mark.parametrize("is_async", [False, True])
def test_model_error_marks_model_node_and_graph(is_async: bool, recorded: Recorded) -> None:
    """acp:AL2 corrected: an error is an ERROR, up to the root, even with an empty text."""
    graph = agent_graph(ScriptedModel(error=RuntimeError("")), async_node=is_async)

    def run() -> None:
        if is_async:
            asyncio.run(graph.ainvoke(question(), config()))
        else:
            graph.invoke(question(), config())

    with pytest.raises(RuntimeError):
        run()
    assert recorded.tree() == ("LangGraph", [("agent", ["llm:scripted-1"])])
    for span in recorded.spans():
        assert span.status == SpanStatus.ERROR
        assert span.data["__error__"]["type"] == "RuntimeError"


def test_tool_error_that_escapes_marks_its_chain_of_parents(recorded: Recorded) -> None:
    with pytest.raises(LookupError):
        agent_graph(ScriptedModel(), tools=[weather, broken_clock]).invoke(question(), config())
    status = {span.name: span.status for span in recorded.spans()}
    assert status == {
        "LangGraph": SpanStatus.ERROR,
        "agent": SpanStatus.SUCCESS,
        "llm:scripted-1": SpanStatus.SUCCESS,
        "tools": SpanStatus.ERROR,
        "tool:weather": SpanStatus.SUCCESS,
        "tool:clock": SpanStatus.ERROR,
    }
    error = recorded.one("tool:clock").data["__error__"]
    assert (error["type"], error["message"]) == ("LookupError", "no zone CET")


def test_tool_error_that_the_node_handles_marks_the_tool_alone(recorded: Recorded) -> None:
    graph = agent_graph(ScriptedModel(), tools=[weather, broken_clock], handle_tool_errors=True)
    graph.invoke(question(), config())
    failed = [span.name for span in recorded.spans() if span.status != SpanStatus.SUCCESS]
    assert failed == ["tool:clock"]
    assert recorded.tree() == AGENT_TREE


def test_tool_that_answers_with_its_error_is_an_error(recorded: Recorded) -> None:
    def deny(zone: str) -> str:
        raise ToolException("not allowed")

    denied = tool("clock", description="Time in a zone.")(deny)
    denied.handle_tool_error = True
    agent_graph(ScriptedModel(), tools=[weather, denied]).invoke(question(), config())
    span = recorded.one("tool:clock")
    assert span.status == SpanStatus.ERROR
    assert span.data["__error__"]["message"] == "not allowed"


@pytest.mark.parametrize("streaming", [False, True])
async def test_cancellation_ends_every_open_span_as_canceled(
    streaming: bool, recorded: Recorded
) -> None:
    """C5, trace:E3: also the model call, whose end LangChain does not always report."""
    graph = agent_graph(ScriptedModel(forever=True), async_node=True)
    started = asyncio.Event()

    class Watching(EverySpanCallbackHandler):
        def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
            super().on_chat_model_start(*args, **kwargs)
            started.set()

    handler = Watching()

    async def turn() -> None:
        if streaming:
            async for _ in graph.astream(question(), config(handler), stream_mode="messages"):
                pass
        else:
            await graph.ainvoke(question(), config(handler))

    task = asyncio.create_task(turn())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorded.tree() == ("LangGraph", [("agent", ["llm:scripted-1"])])
    for span in recorded.spans():
        assert (span.name, span.status) == (span.name, SpanStatus.CANCELED)
        assert span.data["__error__"]["type"] == "CancelledError"
    assert handler._runs == {}


async def test_failing_branch_cancels_its_neighbours(recorded: Recorded) -> None:
    graph = StateGraph(Found)
    waiting = asyncio.Event()

    async def fails(state: Found) -> Any:
        await waiting.wait()
        raise RuntimeError("broken")

    async def waits(state: Found) -> Any:
        waiting.set()
        await asyncio.Event().wait()

    graph.add_node("fails", fails)
    graph.add_node("waits", waits)
    graph.add_edge(START, "fails")
    graph.add_edge(START, "waits")
    start: Found = {"found": []}
    with pytest.raises(RuntimeError, match="broken"):
        await graph.compile().ainvoke(start, config())
    assert {span.name: span.status for span in recorded.spans()} == {
        "LangGraph": SpanStatus.ERROR,
        "fails": SpanStatus.ERROR,
        "waits": SpanStatus.CANCELED,
    }


def test_stream_left_early_is_canceled(recorded: Recorded) -> None:
    stream = agent_graph(ScriptedModel()).stream(question(), config())
    next(stream)
    stream.close()
    assert recorded.one("LangGraph").status == SpanStatus.CANCELED
    assert recorded.one("agent").status == SpanStatus.SUCCESS


def test_interrupt_is_no_error(recorded: Recorded) -> None:
    def ask(state: MessagesState) -> Any:
        return {"messages": [HumanMessage(interrupt({"may I": "continue?"}))]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    compiled = graph.compile(checkpointer=InMemorySaver())
    asked: RunnableConfig = {**config(), "configurable": {"thread_id": "thread-1"}}
    compiled.invoke(question(), asked)
    paused = recorded.one("ask")
    assert paused.status == SpanStatus.SUCCESS
    assert "__error__" not in paused.data
    assert paused.data["thread_id"] == "thread-1"
    compiled.invoke(Command(resume="yes"), asked)
    assert Counter(span.status for span in recorded.spans()) == {SpanStatus.SUCCESS: 4}


# -- streaming


def test_streaming_records_the_whole_answer_once(recorded: Recorded) -> None:
    for _ in agent_graph(ScriptedModel()).stream(question(), config(), stream_mode="messages"):
        pass
    assert recorded.tree() == AGENT_TREE
    first, last = [span for span in recorded.spans() if span.name == "llm:scripted-1"]
    assert [call["name"] for call in first.output["tool_calls"]] == ["weather", "clock"]
    assert last.output["content"] == "Sunny,noon."
    assert last.output["usage"]["reasoning_tokens"] == 5
    took_ms = (last.end_ns or 0) / 1e6 - last.start_ns / 1e6
    assert 0 <= last.data["time_to_first_token_ms"] <= took_ms + 0.001


async def test_async_streaming_is_the_same(recorded: Recorded) -> None:
    graph = agent_graph(ScriptedModel(), async_node=True)
    async for _ in graph.astream(question(), config(), stream_mode=["messages", "updates"]):
        pass
    assert recorded.tree() == AGENT_TREE
    last = [span for span in recorded.spans() if span.name == "llm:scripted-1"][-1]
    assert last.output["content"] == "Sunny,noon."
    assert "time_to_first_token_ms" in last.data


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
def test_event_stream_has_a_first_token_too(recorded: Recorded) -> None:
    list(ScriptedModel().stream_events("x", config(), version="v3"))
    span = recorded.one("llm:scripted-1")
    assert "time_to_first_token_ms" in span.data
    assert [call["name"] for call in span.output["tool_calls"]] == ["weather", "clock"]


def test_streaming_chain_learns_its_input_at_the_end(recorded: Recorded) -> None:
    chain = RunnableLambda(lambda value: value, name="first") | RunnableLambda(
        lambda value: f"<{value}>", name="second"
    )
    list(chain.stream("x", config()))
    spans = {span.name: (span.input, span.output) for span in recorded.spans()}
    assert spans["RunnableSequence"] == ({"input": "x"}, {"output": "<x>"})
    assert spans["second"] == ({"input": "x"}, {"output": "<x>"})


# -- never in the way


class Hostile:
    """Fails whenever it is called."""

    def __call__(self, *args: Any) -> Any:
        raise RuntimeError("hostile")


def test_handler_that_cannot_record_never_reaches_the_agent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, recorded: Recorded
) -> None:
    """P2, C1: whatever breaks inside, the agent's answer is the same; logged sparsely."""
    handler = EverySpanCallbackHandler()
    handler.raise_error = True
    monkeypatch.setattr(handler, "_parent_of", Hostile())
    answer = agent_graph(ScriptedModel()).invoke(question(), config(handler))
    assert answer["messages"][-1].content == "Sunny, noon."
    assert recorded.spans() == []
    assert 1 <= len(caplog.records) <= 5


def test_subclass_that_breaks_costs_no_span(recorded: Recorded) -> None:
    class Pricing(EverySpanCallbackHandler):
        def before_end(self, span: Span) -> None:
            if span.type == SpanType.COMPLETION:
                span.data["cost_usd"] = 0.01
            else:
                raise KeyError("no price")

    agent_graph(ScriptedModel()).invoke(question(), config(Pricing()))
    assert recorded.tree() == AGENT_TREE
    assert [span.data.get("cost_usd") for span in recorded.spans()].count(0.01) == 2


def test_open_runs_are_bounded(monkeypatch: pytest.MonkeyPatch, recorded: Recorded) -> None:
    """C6: the oldest gives way and says so."""
    monkeypatch.setattr(integration, "OPEN_RUNS_MAX", 3)
    handler = EverySpanCallbackHandler()

    def nest(depth: int) -> str:
        if depth == 0:
            return "bottom"
        return str(RunnableLambda(nest, name=f"level-{depth}").invoke(depth - 1))

    RunnableLambda(nest, name="top").invoke(5, config(handler))
    assert handler._runs == {}
    status = {span.name: span.status for span in recorded.spans()}
    assert len(recorded.spans()) == 6
    assert status["top"] == SpanStatus.CANCELED
    assert status["level-1"] == SpanStatus.SUCCESS
    assert recorded.one("top").data["__error__"]["type"] == "RunForgotten"


def test_nothing_is_kept_once_runs_have_ended(recorded: Recorded) -> None:
    handler = EverySpanCallbackHandler()
    graph = agent_graph(ScriptedModel())
    for _ in range(3):
        graph.invoke(question(), config(handler))
    assert handler._runs == {}
    gc.collect()
    assert [each for each in gc.get_objects() if type(each) is integration._Run] == []


@pytest.mark.parametrize("where", ["everyspan.integrations.langchain", "adk"])
def test_without_langchain_the_error_says_what_to_install(where: str) -> None:
    """By whichever door; in a process where it cannot be imported."""
    use = (
        "from everyspan import adk; adk.create_langgraph_tracing_handler('t')"
        if where == "adk"
        else f"import {where}"
    )
    script = f"import sys; sys.modules['langchain_core'] = None; {use}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: the LangChain handler needs langchain_core")
    assert last.endswith("pip install 'everyspan[langchain]'")
