"""Spans of tools and reasoning, derived from the messages that an agent streams.

An agent's turn is a stream of updates: a message starts, grows by deltas and is done, or comes in
full. `index` numbers the messages of a turn; a tool's request and its response share their
`tool_call_id` (`acp` §3).

S1  The stream passes unchanged: nothing here raises, waits, or keeps an update (`trace:H5`).
S2  A tool's span runs from its complete request to its response (`trace:H1`), a reasoning span
    from its start to its end (`trace:H2`).
S3  Whatever ends the stream ends the spans that are open (`trace:H3`), tools in the order of their
    requests, then reasoning, canceled, with `data["is_complete"]` false.
S4  At most `OPEN_MAX` messages and as many tools are open, and `TEXT_LENGTH_MAX` characters are
    held for all messages together; the oldest gives way, counted in `given_up`, and what text
    does not fit is left out, visibly.

Updates may be objects with the original's fields, or dicts.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from io import StringIO
from typing import Any, TypeVar

import msgspec

from everyspan import SettingsError, Span, SpanStatus, SpanType, Tracer, set_span_error
from everyspan.adk.parents import parent_within
from everyspan.log import complain

Update = TypeVar("Update")

OPEN_MAX = 1_000
"""Messages, and tools, open at once; chosen, not measured."""

TEXT_LENGTH_MAX = 1 << 20
"""Characters held of the messages that are open; as many as the bytes that a payload may have."""

_CUT = "…"

# Where `type` was left out, as the original's classes allow.
_KIND_OF_CLASS = {
    "StreamTaskMessageStart": "start",
    "StreamTaskMessageDelta": "delta",
    "StreamTaskMessageFull": "full",
    "StreamTaskMessageDone": "done",
    "ToolRequestContent": "tool_request",
    "ToolResponseContent": "tool_response",
    "ReasoningContent": "reasoning",
}
_DELTA_FIELDS = ("arguments_delta", "content_delta", "summary_delta")


def trace_stream(
    updates: AsyncIterable[Update],
    trace_id: str | None,
    parent_id: str | None = None,
    task_id: str | None = None,
) -> AsyncGenerator[Update, None]:
    """Return the same stream of updates, whose tools and reasoning are recorded as it passes.

    ```
    async with adk.tracing.turn_span(task.id, "turn") as turn:
        async for update in adk.trace_stream(agent(messages), task.id):
            yield update
    ```

    Args:
        updates: What the agent streams. An async generator is closed with the stream returned.
        trace_id: Trace to record into; where it is empty, nothing is recorded.
        parent_id: Id of the parent; by default that of the current span, if of the same trace.
        task_id: Task of the agent that the spans belong to.

    Raises:
        SettingsError: `updates` is no async iterable, or an id is no text.
    """
    if not isinstance(updates, AsyncIterable):
        raise SettingsError(f"updates must be an async iterable, got {updates!r}")
    return _passing(updates, StreamSpans(trace_id, parent_id, task_id))


async def _passing(
    updates: AsyncIterable[Update], spans: StreamSpans
) -> AsyncGenerator[Update, None]:
    try:
        async for update in updates:
            spans.observe(update)
            yield update
    except BaseException as error:
        # At a GeneratorExit the reader went away, which is no error of a tool.
        spans.close(None if isinstance(error, GeneratorExit) else error)
        if isinstance(updates, AsyncGenerator):
            await updates.aclose()
        raise
    spans.close()


class _Message:
    """One message that has started: its content then, and the text that followed.

    `span` is that of reasoning; a tool has none before its request is complete.
    """

    def __init__(self, content: Any, span: Span | None) -> None:
        self.content = content
        self.span = span
        self.length = 0
        self.is_cut = False
        self._text = StringIO()

    def add(self, text: str, length_max: int) -> int:
        """Take text that follows, of at most so many characters; return how many were taken."""
        if len(text) > length_max:
            self.is_cut = True
            text = text[:length_max]
        self._text.write(text)
        self.length += len(text)
        return len(text)

    @property
    def text(self) -> str:
        """All of it, with a mark where some was left out."""
        return self._text.getvalue() + (_CUT if self.is_cut else "")


class StreamSpans:
    """Opens and ends the spans of one turn's stream, for who passes the updates on by hand.

    Give every update to `observe`, and `close` at the end; for one stream at a time.

    Args:
        trace_id: Trace to record into; empty: nothing is recorded.
        parent_id: Id of the parent; by default that of the current span, if of the same trace.
        task_id: Task of the agent that the spans belong to.

    Raises:
        SettingsError: An id is no text.
    """

    given_up: int
    """Messages and tools that gave way to later ones."""

    def __init__(
        self, trace_id: str | None, parent_id: str | None = None, task_id: str | None = None
    ) -> None:
        for name, value in (("parent_id", parent_id), ("task_id", task_id)):
            if value is not None and not isinstance(value, str):
                raise SettingsError(f"{name} must be text, got {value!r}")
        self._trace = Tracer().trace(trace_id)
        self._parent_id = parent_within(trace_id, parent_id)
        self._task_id = task_id
        self._messages: dict[int, _Message] = {}
        self._tools: dict[str, Span] = {}
        self._length = 0
        self.given_up = 0

    def observe(self, update: Any) -> None:
        """Take note of an update; never raises."""
        if not self._trace.trace_id:
            return
        try:
            kind, index = _kind(update), _get(update, "index")
            if kind == "full":
                self._full(index, _get(update, "content"))
            elif type(index) is not int:
                # Nothing tells which message it belongs to (`trace:H4`).
                return
            elif kind == "start":
                self._start(index, _get(update, "content"))
            elif kind == "delta":
                self._grow(index, _get(update, "delta"))
            elif kind == "done":
                self._done(index)
        except Exception as error:
            # The agent's own classes, or a defect of ours: the stream goes on (S1).
            complain("everyspan could not read an update of a stream", error=error)

    def close(self, error: BaseException | None = None) -> None:
        """End what is open, as incomplete; never raises, and may be called again.

        Args:
            error: What ended the stream, if not its own end.
        """
        while self._tools:
            self._abandon(self._tools.pop(next(iter(self._tools))), error)
        for index in list(self._messages):
            self._drop(index, error)

    def _start(self, index: int, content: Any) -> None:
        kind = _kind(content)
        self._drop(index)
        if kind not in ("tool_request", "tool_response", "reasoning"):
            return
        if len(self._messages) >= OPEN_MAX:
            self._give_up("messages")
            self._drop(next(iter(self._messages)))
        span = self._open("reasoning", {}, None) if kind == "reasoning" else None
        self._messages[index] = message = _Message(content, span)
        if kind == "reasoning":
            for text in _texts(content):
                self._add(message, text)

    def _grow(self, index: int, delta: Any) -> None:
        message = self._messages.get(index)
        if message is not None:
            for field in _DELTA_FIELDS:
                text = _get(delta, field)
                if isinstance(text, str):
                    self._add(message, text)

    def _add(self, message: _Message, text: str) -> None:
        self._length += message.add(text, TEXT_LENGTH_MAX - self._length)

    def _done(self, index: int) -> None:
        message = self._take(index)
        if message is None:
            return
        if message.span is not None:
            self._end(message.span, message.text or None)
        else:
            self._tool(message.content, message.text)

    def _full(self, index: Any, content: Any) -> None:
        message = self._take(index)
        if message is not None and message.span is not None:
            self._end(message.span, "".join(_texts(content)) or message.text or None)
        self._tool(content, "")

    def _take(self, index: Any) -> _Message | None:
        """Remove a message that started, and return it."""
        message = self._messages.pop(index, None) if type(index) is int else None
        if message is not None:
            self._length -= message.length
        return message

    def _tool(self, content: Any, streamed: str) -> None:
        """Take note of a complete message that may be a tool's; `streamed` is what followed it."""
        kind, call_id = _kind(content), _get(content, "tool_call_id")
        if not isinstance(call_id, str):
            return
        if kind == "tool_request" and call_id not in self._tools:
            if len(self._tools) >= OPEN_MAX:
                self._give_up("tools")
                self._abandon(self._tools.pop(next(iter(self._tools))))
            name = _get(content, "name")
            arguments = _parsed(streamed) if streamed else _get(content, "arguments")
            self._tools[call_id] = self._open(
                name if name and isinstance(name, str) else "tool",
                {} if arguments is None else arguments,
                SpanType.CUSTOM,
            )
        elif kind == "tool_response" and call_id in self._tools:
            span = self._tools.pop(call_id)
            output = _get(content, "content")
            if streamed:
                output = (output if isinstance(output, str) else "") + streamed
            is_error = _get(content, "is_error")
            if is_error is not None:
                span.data = {"is_error": is_error}
            if is_error is True:
                span.status = SpanStatus.ERROR
            self._end(span, output)

    def _open(self, name: str, input: Any, type: str | None) -> Span:
        return self._trace.start_span(
            name,
            self._parent_id,
            _object(input, "input"),
            task_id=self._task_id,
            type=type,
        )

    def _end(self, span: Span, output: Any) -> None:
        span.output = _object(output, "output")
        self._trace.end_span(span)

    def _drop(self, index: int, error: BaseException | None = None) -> None:
        """Forget a message that is not done; its span ends with the text so far (`trace:H5`)."""
        message = self._take(index)
        if message is not None and message.span is not None:
            message.span.output = _object(message.text or None, "output")
            self._abandon(message.span, error)

    def _abandon(self, span: Span, error: BaseException | None = None) -> None:
        span.data = {"is_complete": False}
        span.status = SpanStatus.CANCELED
        if error is not None:
            set_span_error(span, error)
        self._trace.end_span(span)

    def _give_up(self, what: str) -> None:
        self.given_up += 1
        complain(
            "everyspan: over %d %s of a stream are open at once; the oldest was given up",
            OPEN_MAX,
            what,
            level=logging.WARNING,
        )


def _get(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def _kind(thing: Any) -> Any:
    return _get(thing, "type") or _KIND_OF_CLASS.get(type(thing).__name__)


def _texts(content: Any) -> list[str]:
    """Return the texts of a reasoning message."""
    found: list[str] = []
    for field in ("content", "summary"):
        value = _get(content, field)
        # Nothing else is iterated: it may be used up by it.
        parts = value if isinstance(value, list | tuple) else (value,)
        found += [text for text in parts if isinstance(text, str)]
    return found


def _parsed(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return {"_raw": text}


def _object(value: Any, key: str) -> Any:
    """Return a payload that is an object, or None (`trace:H5`)."""
    return value if value is None or isinstance(value, dict) else {key: value}
