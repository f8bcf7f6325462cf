"""Spans of LangChain and LangGraph runs, through LangChain's own callbacks.

C1  A callback never raises into the agent, never waits, and only offers spans (`acp:AL8`).
C2  One run, at most one span, ended once; runs are known by `run_id`, never by context (`acp:AL6`).
C3  The parent is the nearest enclosing run that has a span; a span that the agent itself opened
    inside that run comes first. Without an enclosing run: `parent`, else `everyspan.current_span()`
    in the same trace, else a new trace.
C4  Steps that only glue are no spans, their children are: prompts, parsers, unnamed sequences,
    LangGraph's routing functions and channel writes. Runs tagged `langsmith:hidden` (LangChain
    hands the tag down) are none either.
C5  A run that fails takes the runs still open below it with it, as canceled: LangChain does not
    report every run that a cancellation reaches.
C6  At most `OPEN_RUNS_MAX` runs are open; the oldest gives way, canceled and marked.

C7  Inside a node, a tool or a retriever its span is the current one, so that what the agent opens
    there by `everyspan.span` hangs from it; afterwards it is not, wherever LangChain calls the end.

Graphs and chains are never current: a graph's stream would leave its span to whoever reads it, and
LangChain starts the runs of a batch one after the other in one context. Nor are models.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast
from uuid import UUID, uuid4

try:
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.documents import Document
    from langchain_core.messages import AIMessage, BaseMessage, ToolCall, ToolMessage
    from langchain_core.outputs import ChatGeneration, LLMResult
except ModuleNotFoundError as missing:
    raise ImportError(
        f"the LangChain handler needs {missing.name}: pip install 'everyspan[langchain]'"
    ) from missing

import everyspan
from everyspan import RemoteParent, Span, SpanStatus, SpanType, Tracer, set_span_error
from everyspan.log import complain

__all__ = ["OPEN_RUNS_MAX", "EverySpanCallbackHandler"]

OPEN_RUNS_MAX = 10_000
"""Runs remembered at once; chosen, not measured."""

_HIDDEN_TAG = "langsmith:hidden"
_NODE_TAG = "graph:step:"
_STEP_TAG = "seq:step:"
# What LangChain and LangGraph call a step that nobody named.
_GLUE_NAME = re.compile(
    r"(Runnable(Sequence|Parallel|Assign|Lambda|Passthrough|Pick|Branch|Each|Binding|Retry"
    r"|WithFallbacks|WithMessageHistory)|ChannelWrite|ChannelRead)(<.*>)?|_write|Prompt",
    re.DOTALL,
)
_GLUE_RUN_TYPES = frozenset({"prompt", "parser"})
_SHOWN_METADATA = (
    "langgraph_node",
    "langgraph_step",
    "thread_id",
    "ls_provider",
    "ls_model_name",
    "ls_temperature",
    "ls_max_tokens",
)
_PLAIN_DEPTH_MAX = 4
_ANSWERING = frozenset({"ai", "AIMessageChunk"})
_SCALARS = frozenset({str, int, float, bool, type(None)})

Callback = TypeVar("Callback", bound=Callable[..., None])


class _Run:
    """One open run.

    `anchor` is the span its children attach to, None where none encloses them; `block` is set
    where its own span is the current one.
    """

    __slots__ = ("anchor", "block", "children", "is_node", "parent", "run_id", "span")

    def __init__(self, run_id: UUID, parent: _Run | None, *, is_node: bool) -> None:
        self.run_id = run_id
        self.parent = parent
        self.is_node = is_node
        self.span: Span | None = None
        self.block: everyspan.span | None = None
        self.anchor: Span | None = None if parent is None else parent.anchor
        self.children: dict[UUID, _Run] = {}


def _guarded(callback: Callback) -> Callback:
    """Keep our own mistakes out of the agent, whatever `raise_error` says (C1)."""

    @wraps(callback)
    def guarded(self: EverySpanCallbackHandler, *args: Any, **kwargs: Any) -> None:
        try:
            callback(self, *args, **kwargs)
        except Exception as error:
            # The boundary to the agent's code.
            complain(
                "everyspan: %s failed, a span may be missing or incomplete",
                callback.__name__,
                cause=f"langchain {callback.__name__}",
                error=error,
                level=logging.WARNING,
            )

    return cast("Callback", guarded)


class EverySpanCallbackHandler(BaseCallbackHandler):
    """Records graphs, nodes, chat models, tools and retrievers as spans.

    Pass it once, where the graph is called; LangChain hands it down::

        graph.invoke(state, {"callbacks": [EverySpanCallbackHandler()]})

    It is synchronous and `run_inline` on purpose: LangChain runs an async handler of a sync graph
    on a new event loop per callback (`acp:AL5`). One handler may serve many runs at once.

    Args:
        trace_id: Trace of runs that no span encloses; None starts a new one for each such run,
            an empty text records nothing (`trace:T1`).
        parent: Span, or what `everyspan.extract` returned, that those runs become children of; it
            decides the trace.
        task_id: Put on every span; None takes the parent's.
    """

    run_inline = True
    raise_error = False

    def __init__(
        self,
        trace_id: str | None = None,
        parent: Span | RemoteParent | None = None,
        task_id: str | None = None,
    ) -> None:
        self._trace_id = trace_id
        self._parent = parent
        self._task_id = task_id
        self._tracer = Tracer()
        self._runs: dict[UUID, _Run] = {}
        self._current_ids: set[str] = set()
        # Re-entrant: a collected async generator reports its end from wherever the collector ran.
        self._lock = threading.RLock()

    # -- chains: graphs, nodes, named steps

    @_guarded
    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        name = _name(serialized, kwargs, default="chain")
        run = self._enter(run_id, parent_run_id, tags)
        if run is None or _is_glue(name, tags or (), kwargs, run.parent):
            return
        top = run.parent is None and (metadata or {}).get("ls_integration") == "langgraph"
        self._start(
            run,
            name,
            type=SpanType.AGENT_WORKFLOW if top else None,
            input=_payload(inputs, "input"),
            data=_data(metadata),
            current=run.is_node,
        )

    @_guarded
    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        run = self._leave(run_id)
        if run is None or run.span is None:
            return
        if "inputs" in kwargs:  # A streaming step knows its input only now.
            run.span.input = _payload(kwargs["inputs"], "input")
        self._end(run, output=_payload(outputs, "output"))

    @_guarded
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._fail(run_id, error)

    # -- models

    @_guarded
    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        shown = [_message(message) for message in messages[0]] if messages else []
        self._start_model({"messages": shown}, run_id, parent_run_id, tags, metadata)

    @_guarded
    def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._start_model({"prompts": list(prompts)}, run_id, parent_run_id, tags, metadata)

    @_guarded
    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._first_token(run_id)

    @_guarded
    def on_stream_event(self, event: Any, *, run_id: UUID, **kwargs: Any) -> None:
        if event.get("event") != "message-start":
            self._first_token(run_id)

    @_guarded
    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        run = self._leave(run_id)
        if run is not None and run.span is not None:
            self._end(run, output=_completion(response, run.span))

    @_guarded
    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        response = kwargs.get("response")
        run = self._runs.get(run_id)
        if run is not None and run.span is not None and isinstance(response, LLMResult):
            # What the model had said until then.
            run.span.output = _completion(response, run.span)
        self._fail(run_id, error)

    # -- tools

    @_guarded
    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        run = self._enter(run_id, parent_run_id, tags)
        if run is None:
            return
        data = _data(metadata)
        if kwargs.get("tool_call_id") is not None:
            data["tool_call_id"] = kwargs["tool_call_id"]
        self._start(
            run,
            f"tool:{_name(serialized, kwargs, default='tool')}",
            type=SpanType.CUSTOM,
            input={"input": input_str if inputs is None else _plain(inputs)},
            data=data,
            current=True,
        )

    @_guarded
    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        run = self._leave(run_id)
        if run is None or run.span is None:
            return
        if isinstance(output, ToolMessage) and output.status == "error":
            # The tool failed and told the model so instead of raising.
            set_span_error(run.span, ToolFailed(output.text))
        self._end(run, output={"output": _plain(output)})

    @_guarded
    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._fail(run_id, error)

    # -- retrievers

    @_guarded
    def on_retriever_start(
        self,
        serialized: dict[str, Any] | None,
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        run = self._enter(run_id, parent_run_id, tags)
        if run is not None:
            self._start(
                run,
                f"retriever:{_name(serialized, kwargs, default='retriever')}",
                type=SpanType.KB_RETRIEVAL,
                input={"query": query},
                data=_data(metadata),
                current=True,
            )

    @_guarded
    def on_retriever_end(
        self, documents: Sequence[Document], *, run_id: UUID, **kwargs: Any
    ) -> None:
        run = self._leave(run_id)
        if run is not None and run.span is not None:
            self._end(run, output={"documents": [_document(each) for each in documents]})

    @_guarded
    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._fail(run_id, error)

    # -- for subclasses

    def before_end(self, span: Span) -> None:
        """See every span last, its output set, and change it (add costs, a customer, a mark)."""

    # -- runs and spans

    def _enter(
        self, run_id: UUID, parent_run_id: UUID | None, tags: Sequence[str] | None
    ) -> _Run | None:
        """Remember a run; None if it is hidden or nothing is to be recorded."""
        if self._trace_id == "":
            return None
        tags = tags or ()
        with self._lock:
            parent = None if parent_run_id is None else self._runs.get(parent_run_id)
            is_node = any(tag.startswith(_NODE_TAG) for tag in tags)
            run = self._runs[run_id] = _Run(run_id, parent, is_node=is_node)
            if parent is not None:
                parent.children[run_id] = run
            oldest = None
            if len(self._runs) > OPEN_RUNS_MAX:
                oldest = self._leave(next(iter(self._runs)))
        if oldest is not None:
            self._cancel(oldest, RunForgotten(f"over {OPEN_RUNS_MAX} runs are open"))
        return None if _HIDDEN_TAG in tags else run

    def _leave(self, run_id: UUID) -> _Run | None:
        """Forget a run; None if it is unknown or was closed before (C2)."""
        with self._lock:
            run = self._runs.pop(run_id, None)
            if run is not None and run.parent is not None:
                run.parent.children.pop(run_id, None)
        return run

    def _start(
        self,
        run: _Run,
        name: str,
        *,
        type: str | None,
        input: Any,
        data: Any,
        current: bool = False,
    ) -> None:
        parent = self._parent_of(run)
        trace_id, task_id = self._trace_id, self._task_id
        if parent is not None:
            trace_id = parent.trace_id
            if task_id is None and isinstance(parent, Span):
                task_id = parent.task_id
        if current:
            run.block = everyspan.span(
                name,
                input=input,
                data=data,
                type=type,
                trace_id=trace_id,
                parent=parent,
                task_id=task_id,
            )
            run.span = run.block.__enter__()
            self._current_ids.add(run.span.id)
        else:
            run.span = self._tracer.trace(trace_id or str(uuid4())).start_span(
                name,
                parent_id=None if parent is None else parent.id,
                input=input,
                data=data,
                task_id=task_id,
                type=type,
            )
        run.anchor = run.span

    def _parent_of(self, run: _Run) -> Span | RemoteParent | None:
        """The span that a run's own becomes a child of (C3)."""
        anchor = run.anchor
        if anchor is None:
            if self._parent is not None:
                return self._parent
            ambient = everyspan.current_span()
            if ambient is None or self._trace_id not in (None, ambient.trace_id):
                return None
            return ambient
        if run.is_node:
            # Its graph calls it; what is current here belongs to whoever reads the graph's stream.
            return anchor
        ambient = everyspan.current_span()
        if (
            ambient is not None
            and ambient.id not in self._current_ids
            and ambient.end_ns is None
            and ambient.trace_id == anchor.trace_id
            and ambient.start_ns >= anchor.start_ns
        ):
            # Seen from inside the run, younger than it and none of ours: the agent opened it there.
            return ambient
        return anchor

    def _start_model(
        self,
        input: dict[str, Any],
        run_id: UUID,
        parent_run_id: UUID | None,
        tags: list[str] | None,
        metadata: dict[str, Any] | None,
    ) -> None:
        run = self._enter(run_id, parent_run_id, tags)
        if run is None:
            return
        model = (metadata or {}).get("ls_model_name")
        self._start(
            run,
            f"llm:{model}" if model else "llm",
            type=SpanType.COMPLETION,
            input=input,
            data=_data(metadata),
        )

    def _first_token(self, run_id: UUID) -> None:
        run = self._runs.get(run_id)
        if run is None or run.span is None or "time_to_first_token_ms" in run.span.data:
            return
        waited_ns = time.time_ns() - run.span.start_ns
        run.span.data["time_to_first_token_ms"] = round(waited_ns / 1e6, 3)

    def _end(self, run: _Run, *, output: Any) -> None:
        if run.span is not None:
            run.span.output = output
            self._close(run)

    def _fail(self, run_id: UUID, error: BaseException) -> None:
        run = self._leave(run_id)
        if run is None:
            return
        for child in self._take_below(run):
            self._cancel(child, error)
        if run.span is None:
            return
        if _is_bubble_up(error):
            # LangGraph's way to pause or to hand control to the parent graph: not a failure.
            self._end(run, output={"interrupt": _plain(list(error.args))})
        elif isinstance(error, GeneratorExit):
            self._cancel(run, error)
        else:
            set_span_error(run.span, error)
            self._close(run)

    def _cancel(self, run: _Run, error: BaseException) -> None:
        if run.span is not None:
            set_span_error(run.span, error)
            run.span.status = SpanStatus.CANCELED
            self._close(run)

    def _close(self, run: _Run) -> None:
        assert run.span is not None
        try:
            self.before_end(run.span)
        finally:
            if run.block is None:
                self._tracer.trace(run.span.trace_id).end_span(run.span)
            else:
                self._current_ids.discard(run.span.id)
                # Perhaps in another context than it was entered in; a block can take that.
                run.block.__exit__(None, None, None)

    def _take_below(self, run: _Run) -> list[_Run]:
        """Forget every run still open below one and return them, deepest first (C5)."""
        with self._lock:
            found: list[_Run] = []
            waiting = list(run.children.values())
            while waiting:
                child = waiting.pop()
                found.append(child)
                waiting.extend(child.children.values())
                self._runs.pop(child.run_id, None)
            run.children.clear()
        return found[::-1]


class ToolFailed(Exception):
    """A tool answered with an error message instead of raising; names the error on its span."""


class RunForgotten(Exception):
    """A run was given up for newer ones (C6); names the error on its span."""


# -- pure: what a run is called, whether it is shown, and how its values are


def _name(serialized: dict[str, Any] | None, kwargs: dict[str, Any], *, default: str) -> str:
    name = kwargs.get("name") or (serialized or {}).get("name")
    return str(name) if name else default


def _is_glue(name: str, tags: Sequence[str], kwargs: dict[str, Any], parent: _Run | None) -> bool:
    """True if a chain run only joins others (C4)."""
    if parent is None or any(tag.startswith(_NODE_TAG) for tag in tags):
        return False
    if kwargs.get("run_type") in _GLUE_RUN_TYPES or _GLUE_NAME.fullmatch(name):
        return True
    # Below a node the first step is the node's body, later ones route and write. Steps of a
    # LangChain sequence, which LangGraph flattens into the node, tell their `run_type`.
    return (
        parent.is_node
        and "run_type" not in kwargs
        and any(tag.startswith(_STEP_TAG) and tag != "seq:step:1" for tag in tags)
    )


def _is_bubble_up(error: BaseException) -> bool:
    # By name: this module needs LangChain, not LangGraph.
    return any(
        each.__name__ == "GraphBubbleUp" and each.__module__ == "langgraph.errors"
        for each in type(error).__mro__
    )


def _data(metadata: dict[str, Any] | None) -> dict[str, Any]:
    if not metadata:
        return {}
    return {key: metadata[key] for key in _SHOWN_METADATA if metadata.get(key) is not None}


def _payload(value: Any, key: str) -> Any:
    """An object as it is, anything else under `key` (`acp` §7.3)."""
    return _plain(value) if isinstance(value, dict) or value is None else {key: _plain(value)}


def _plain(value: Any, depth: int = 0) -> Any:
    """Messages and documents in their short form, in containers too; all else untouched."""
    kind = type(value)
    # Plain types first: asking a pydantic class whether it knows an object costs a microsecond.
    if kind in _SCALARS:
        return value
    if kind is dict or kind is list or kind is tuple:
        if depth == _PLAIN_DEPTH_MAX:
            return value
        if kind is dict:
            return {key: _plain(each, depth + 1) for key, each in value.items()}
        return [_plain(each, depth + 1) for each in value]
    if isinstance(value, BaseMessage):
        return _message(value)
    return _document(value) if isinstance(value, Document) else value


def _message(message: BaseMessage) -> dict[str, Any]:
    kind = message.type
    shown: dict[str, Any] = {"type": kind, "content": message.content}
    if kind == "tool":
        message = cast("ToolMessage", message)
        shown["name"] = message.name
        shown["tool_call_id"] = message.tool_call_id
        shown["status"] = message.status
    elif kind in _ANSWERING:
        message = cast("AIMessage", message)
        if message.tool_calls:
            shown["tool_calls"] = _tool_calls(message.tool_calls)
    return shown


def _tool_calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    return [{"name": call["name"], "args": call["args"], "id": call["id"]} for call in calls]


def _document(document: Document) -> dict[str, Any]:
    return {
        "page_content": document.page_content,
        "metadata": document.metadata,
        "id": document.id,
    }


def _completion(response: LLMResult, span: Span) -> dict[str, Any]:
    """What a model answered, with the usage of this one call; names the model in `data`."""
    output: dict[str, Any] = {"content": None}
    llm_output = response.llm_output or {}
    usage = _usage_of_completion(llm_output.get("token_usage"))
    model = llm_output.get("model_name")
    candidates = [each for prompt in response.generations for each in prompt]
    if candidates:
        first = candidates[0]
        output["content"] = first.text
        if isinstance(first, ChatGeneration):
            message = first.message
            output["content"] = message.content
            model = message.response_metadata.get("model_name") or model
            if isinstance(message, AIMessage):
                usage = _usage_of_message(message) or usage
                if message.tool_calls:
                    output["tool_calls"] = _tool_calls(message.tool_calls)
    if len(candidates) > 1:
        output["candidates"] = [each.text for each in candidates[1:]]
    if usage:
        output["usage"] = usage
    model = model or span.data.get("ls_model_name")
    if model:
        span.data["model"] = model
    return output


def _usage_of_message(message: AIMessage) -> dict[str, int] | None:
    usage = message.usage_metadata
    if usage is None:
        return None
    counts: dict[str, int | None] = {
        "input_tokens": usage["input_tokens"],
        "output_tokens": usage["output_tokens"],
        "total_tokens": usage["total_tokens"],
        "cached_input_tokens": usage.get("input_token_details", {}).get("cache_read"),
        "reasoning_tokens": usage.get("output_token_details", {}).get("reasoning"),
    }
    return {key: count for key, count in counts.items() if count is not None}


def _usage_of_completion(usage: Any) -> dict[str, int] | None:
    """The older form, in which OpenAI-like models report beside their answer."""
    if not isinstance(usage, dict):
        return None
    names = {
        "prompt_tokens": "input_tokens",
        "completion_tokens": "output_tokens",
        "total_tokens": "total_tokens",
    }
    return {ours: usage[theirs] for theirs, ours in names.items() if usage.get(theirs) is not None}
