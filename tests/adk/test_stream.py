"""Spans of tools and reasoning, derived from what an agent streams."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

import everyspan
from everyspan import SettingsError, Span, SpanStatus, SpanType, adk
from everyspan.adk.stream import OPEN_MAX, TEXT_LENGTH_MAX, StreamSpans
from tests.peers import PYTHON, needs_peers
from tests.recording import Recording, recorded
from tests.waiting import settle

ROOT = Path(__file__).parents[2]


def request(index: Any, id: Any, name: Any = "tool", arguments: Any = None) -> dict[str, Any]:
    content = {"type": "tool_request", "tool_call_id": id, "name": name, "arguments": arguments}
    return {"type": "start", "index": index, "content": content}


def reasoning(index: Any, content: Any = None, summary: Any = ()) -> dict[str, Any]:
    message = {"type": "reasoning", "content": content, "summary": summary}
    return {"type": "start", "index": index, "content": message}


def delta(index: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "delta", "index": index, "delta": fields}


def done(index: Any) -> dict[str, Any]:
    return {"type": "done", "index": index}


def response(id: Any, content: Any = "result", **fields: Any) -> dict[str, Any]:
    message = {"type": "tool_response", "tool_call_id": id, "content": content, **fields}
    return {"type": "full", "index": 99, "content": message}


def full(update: dict[str, Any]) -> dict[str, Any]:
    return {**update, "type": "full"}


def tool(id: str, name: str = "tool", index: int = 0) -> list[dict[str, Any]]:
    return [request(index, id, name), done(index)]


def derive(*updates: Any, **ids: Any) -> None:
    """Record a whole stream."""
    spans = StreamSpans(**{"trace_id": "t", **ids})
    for update in updates:
        spans.observe(update)
    spans.close()


async def streamed(updates: Iterable[Any]) -> AsyncGenerator[Any, None]:
    for update in updates:
        yield update


def seen(span: Span) -> tuple[Any, ...]:
    return span.name, span.input, span.output, span.data


# -- tools


def test_a_tools_span_runs_from_its_request_to_its_response(recording: Recording) -> None:
    """trace:H1, H6: it opens when its request is done, and no earlier."""
    spans = StreamSpans("t", "p", "task")
    spans.observe(request(0, "c", "search", {"q": "x"}))
    assert everyspan.stats().open_spans == 0
    spans.observe(done(0))
    assert everyspan.stats().open_spans == 1
    spans.observe(response("c", {"hits": 3}))
    kept = recording.one("search")
    assert (kept.input, kept.output, kept.data) == ({"q": "x"}, {"hits": 3}, None)
    assert (kept.trace_id, kept.parent_id, kept.task_id) == ("t", "p", "task")
    assert (kept.type, kept.status) == (SpanType.CUSTOM, SpanStatus.SUCCESS)


def test_a_request_may_come_in_full(recording: Recording) -> None:
    """trace:H1: without an index too, since the call's id says all; or after a start."""
    derive(
        full(request(None, "a", "whole")),
        response("a"),
        request(0, "b", "begun"),
        full(request(0, "b", "begun", {"n": 1})),
        done(0),
        response("b"),
    )
    assert recording.names == ["whole", "begun"]
    assert recording.one("begun").input == {"n": 1}


@pytest.mark.parametrize(
    ("fragments", "input_"),
    [
        (['{"cmd":', '"ls"}'], {"cmd": "ls"}),
        (['{"cmd":', None, '"l'], {"_raw": '{"cmd":"l'}),
        (["[1, 2]"], {"input": [1, 2]}),
        (["null"], {}),
        (["[" * 100_000], {"_raw": "[" * 100_000}),
        ([], {"seed": 1}),
    ],
)
def test_streamed_arguments_are_joined_and_parsed(
    recording: Recording, fragments: list[Any], input_: Any
) -> None:
    """trace:H1, H5."""
    derive(
        request(0, "c", "tool", {"seed": 1}),
        *(delta(0, type="tool_request", arguments_delta=text) for text in fragments),
        done(0),
        response("c"),
    )
    assert recording.one("tool").input == input_


def test_parallel_tools_pair_by_their_calls_id(recording: Recording) -> None:
    """trace:H1, H4: answered in another order, under one name."""
    derive(
        request(0, "a"),
        request(1, "b"),
        done(1),
        done(0),
        response("b", "of b"),
        response("a", "of a"),
    )
    assert [span.output for span in recording.spans] == [{"output": "of b"}, {"output": "of a"}]


def test_a_response_may_be_streamed(recording: Recording) -> None:
    start = {**response("c", "be"), "type": "start", "index": 5}
    derive(*tool("c"), start, delta(5, type="tool_response", content_delta="gun"), done(5))
    assert recording.one("tool").output == {"output": "begun"}


@pytest.mark.parametrize(
    ("content", "output"),
    [("text", {"output": "text"}), ([1], {"output": [1]}), ({"k": 1}, {"k": 1}), (None, None)],
)
def test_an_output_is_an_object_or_nothing(recording: Recording, content: Any, output: Any) -> None:
    """trace:H5."""
    derive(*tool("c"), response("c", content))
    assert recording.one("tool").output == output


@pytest.mark.parametrize(
    ("reported", "data", "status"),
    [
        ({}, None, SpanStatus.SUCCESS),
        ({"is_error": None}, None, SpanStatus.SUCCESS),
        ({"is_error": False}, {"is_error": False}, SpanStatus.SUCCESS),
        ({"is_error": True}, {"is_error": True}, SpanStatus.ERROR),
    ],
)
def test_a_tool_that_failed_says_so(
    recording: Recording, reported: dict[str, Any], data: Any, status: SpanStatus
) -> None:
    """trace:H1, H5: only where a status was reported."""
    derive(*tool("c"), response("c", "no such file", **reported))
    kept = recording.one("tool")
    assert (kept.data, kept.status) == (data, status)


def test_orphans_and_repeats_are_ignored(recording: Recording) -> None:
    """trace:H4: and a call's id may come again after its response."""
    derive(
        response("never asked"),
        *tool("c", "first"),
        *tool("c", "repeat"),
        full(request(3, "c", "repeat in full")),
        response("c", 1),
        response("c", 2),
        *tool("c", "again"),
        response("c", 3),
    )
    assert [(span.name, span.output) for span in recording.spans] == [
        ("first", {"output": 1}),
        ("again", {"output": 3}),
    ]


# -- reasoning


def test_a_reasoning_span_holds_all_the_text(recording: Recording) -> None:
    """trace:H2: from its start to its end."""
    spans = StreamSpans("t")
    spans.observe(reasoning(0, ["Let "], ["me "]))
    assert everyspan.stats().open_spans == 1
    spans.observe(delta(0, type="reasoning_content", content_index=0, content_delta="think "))
    spans.observe(delta(0, type="reasoning_summary", summary_index=0, summary_delta="first."))
    spans.observe(done(0))
    kept = recording.one("reasoning")
    assert seen(kept) == ("reasoning", {}, {"output": "Let me think first."}, None)
    assert (kept.type, kept.status) == (None, SpanStatus.SUCCESS)


def test_reasoning_without_text_has_no_output(recording: Recording) -> None:
    """trace:H2."""
    derive(reasoning(0), done(0))
    assert recording.one("reasoning").output is None


def test_reasoning_that_ends_in_full_has_the_full_text(recording: Recording) -> None:
    """trace:H2: `full` ends a message as `done` does."""
    derive(reasoning(0), delta(0, content_delta="hm"), full(reasoning(0, ["hmm"])), done(0))
    assert recording.one("reasoning").output == {"output": "hmm"}


def test_reasoning_that_starts_again_ends_the_former(recording: Recording) -> None:
    """trace:H5: the original never ends it."""
    derive(reasoning(0, ["one"]), reasoning(0, ["two"]), done(0))
    assert [(span.output, span.data) for span in recording.spans] == [
        ({"output": "one"}, {"is_complete": False}),
        ({"output": "two"}, None),
    ]
    assert everyspan.stats().open_spans == 0


# -- what makes no span


@pytest.mark.parametrize(
    "updates",
    [
        [{"type": "start", "index": 0, "content": {"type": "text", "content": ""}}, done(0)],
        [delta(0, type="text", text_delta="Hi"), done(0)],
        [request(None, "c"), done(None)],
        [reasoning(None), done(None)],
        [reasoning("0"), reasoning(True), reasoning(1.0), reasoning([])],
        [done(0), done(0)],
        [request(0, None), done(0), request(1, ["c"]), done(1), request(2, 5), done(2)],
        [full(reasoning(0, ["all at once"]))],
    ],
)
def test_the_rest_makes_no_span(
    recording: Recording, updates: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """trace:H4: text, what has no index, what was never started; nothing is complained of."""
    derive(*updates)
    assert recording.spans == []
    assert everyspan.stats().open_spans == 0
    assert caplog.records == []


@pytest.mark.parametrize("nothing", ["", None])
async def test_without_a_trace_id_the_stream_just_passes(
    recording: Recording, nothing: str | None
) -> None:
    """trace:H5."""
    updates = [*tool("c"), response("c")]
    passed = [u async for u in adk.trace_stream(streamed(updates), nothing)]
    assert passed == updates
    assert recording.spans == []


# -- how a stream ends


def test_the_end_closes_what_is_open(recording: Recording) -> None:
    """trace:H3: tools first, in order of their requests; reasoning keeps its text."""
    derive(
        reasoning(0, ["so far"]),
        *tool("b", "first", index=1),
        *tool("a", "second", index=2),
        request(3, "c", "not yet complete"),
    )
    incomplete = {"is_complete": False}
    assert [seen(span) for span in recording.spans] == [
        ("first", {}, None, incomplete),
        ("second", {}, None, incomplete),
        ("reasoning", {}, {"output": "so far"}, incomplete),
    ]
    assert {span.status for span in recording.spans} == {SpanStatus.CANCELED}
    assert everyspan.stats().open_spans == 0


async def test_a_reader_that_goes_away_ends_what_is_open(recording: Recording) -> None:
    """trace:H5: on early close, at once; the source is closed as well."""
    closed = []

    async def source() -> AsyncGenerator[Any, None]:
        try:
            for update in tool("c"):
                yield update
            yield {"type": "done", "index": 5}
        finally:
            closed.append(True)

    stream = adk.trace_stream(source(), "t")
    assert [await anext(stream), await anext(stream)] == tool("c")
    await stream.aclose()
    assert closed == [True]
    kept = recording.one("tool")
    assert (kept.data, kept.status) == ({"is_complete": False}, SpanStatus.CANCELED)


async def test_a_reader_that_breaks_off_ends_what_is_open(recording: Recording) -> None:
    """trace:H5: without closing anything."""
    async for update in adk.trace_stream(streamed([*tool("c"), done(5)]), "t"):
        if update["type"] == "done":
            break
    gc.collect()
    await settle()
    assert recording.one("tool").data == {"is_complete": False}


async def test_an_iterator_that_is_no_generator_is_left_to_its_owner(recording: Recording) -> None:
    """A stream of several turns, read by one wrapper a turn."""

    class Messages:
        def __init__(self) -> None:
            self.left = [*tool("c"), response("c")]
            self.is_closed = False

        def __aiter__(self) -> AsyncIterator[Any]:
            return self

        async def __anext__(self) -> Any:
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop(0)

        async def aclose(self) -> None:
            self.is_closed = True

    messages = Messages()
    stream = adk.trace_stream(messages, "t")
    await anext(stream)
    await stream.aclose()
    assert not messages.is_closed
    assert len([update async for update in adk.trace_stream(messages, "t")]) == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("model is gone"), SpanStatus.ERROR), (None, SpanStatus.CANCELED)],
)
async def test_what_ends_the_stream_passes_and_shows_on_what_was_open(
    recording: Recording, error: Exception | None, status: SpanStatus
) -> None:
    """trace:H3, E3: the agent's own exception, or a cancellation while it waits for the model."""
    waits = asyncio.Event()

    async def source() -> AsyncGenerator[Any, None]:
        for update in tool("c"):
            yield update
        if error is not None:
            raise error
        waits.set()
        await asyncio.Event().wait()

    async def read() -> None:
        async for _ in adk.trace_stream(source(), "t"):
            pass

    task = asyncio.create_task(read())
    if error is None:
        await waits.wait()
        task.cancel()
    with pytest.raises(type(error) if error else asyncio.CancelledError) as caught:
        await task
    assert error is None or caught.value is error
    kept = recording.one("tool")
    assert kept.status == status
    assert kept.data["is_complete"] is False
    assert kept.data["__error__"]["type"] == ("ValueError" if error else "CancelledError")


async def test_updates_pass_as_they_are_and_when_they_come(recording: Recording) -> None:
    """trace:H5, P2: the same objects; each at the first step after the source gave it."""
    updates: list[Any] = [*tool("c"), object(), None, response("c")]
    stream = adk.trace_stream(streamed(updates), "t")
    for update in updates:
        step = anext(stream)
        with pytest.raises(StopIteration) as passed:
            step.__await__().send(None)
        assert passed.value.value is update
    assert [update async for update in stream] == []


def test_close_may_come_twice_and_first(recording: Recording) -> None:
    """trace:H5."""
    spans = StreamSpans("t")
    spans.close()
    for update in tool("c"):
        spans.observe(update)
    spans.close()
    spans.close()
    assert recording.names == ["tool"]


# -- where the spans hang


async def test_spans_hang_from_the_turn_around_them(recording: Recording) -> None:
    """ARCHITECTURE.md: the current span of the same trace, unless a parent is named."""
    updates = [*tool("c", "here"), response("c")]
    async with adk.tracing.turn_span("t", "turn") as turn:
        assert turn.span is not None
        stream = adk.trace_stream(streamed(updates), "t")
        async with adk.tracing.span("t", "reader"):
            async for _ in stream:
                pass
        derive(*tool("c", "named"), response("c"), parent_id="p")
        derive(*tool("c", "elsewhere"), response("c"), trace_id="other")
    ids = {span.name: span.parent_id for span in recording.spans}
    assert ids["here"] == turn.span.id
    assert (ids["named"], ids["elsewhere"]) == ("p", None)


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ({"trace_id": 5}, "trace_id must be text, got 5"),
        ({"parent_id": 5}, "parent_id must be text, got 5"),
        ({"task_id": 5}, "task_id must be text, got 5"),
    ],
)
def test_a_bad_id_is_named(ids: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        adk.trace_stream(streamed([]), **{"trace_id": "t", **ids})
    assert str(caught.value) == text


def test_what_is_no_stream_is_refused() -> None:
    with pytest.raises(SettingsError, match="updates must be an async iterable, got"):
        adk.trace_stream([1, 2], "t")  # type: ignore[arg-type]


# -- hostile streams


def test_a_million_open_messages_are_bounded_and_counted(
    recording: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    """P4: fewer than a million here, and each is forgotten the same way."""
    count = 5_000
    spans = StreamSpans("t")
    for index in range(count):
        spans.observe(request(index, f"pending {index}"))
    for index in range(count):
        spans.observe(full(request(index, f"open {index}")))
    assert spans.given_up == (count - OPEN_MAX) * 2
    assert everyspan.stats().open_spans == OPEN_MAX
    for index in range(count):
        spans.observe(reasoning(index))
    assert everyspan.stats().open_spans == OPEN_MAX * 2
    spans.close()
    assert everyspan.stats().open_spans == 0
    assert len(recording.spans) == count * 2
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert len(caplog.records) == 1


def test_text_without_end_is_bounded_and_says_so(recording: Recording) -> None:
    """P4: for all open messages together, and what is done makes room again."""
    piece = "x" * (TEXT_LENGTH_MAX // 4)
    spans = StreamSpans("t")
    spans.observe(reasoning(0))
    spans.observe(reasoning(1, [piece]))
    for _ in range(8):
        spans.observe(delta(0, content_delta=piece))
    spans.observe(done(1))
    spans.observe(done(0))
    spans.observe(reasoning(0))
    spans.observe(delta(0, content_delta=piece))
    spans.observe(done(0))
    whole, cut, after = (span.output["output"] for span in recording.spans)
    assert whole == after == piece
    assert cut == piece * 3 + "…"


def test_arguments_that_do_not_fit_are_raw(recording: Recording) -> None:
    """P4, trace:H1."""
    text = json.dumps({"k": "x" * TEXT_LENGTH_MAX})
    derive(request(0, "c"), delta(0, arguments_delta=text), done(0), response("c"))
    assert recording.one("tool").input["_raw"].startswith('{"k": "xxx')


class Hostile:
    """Raises at whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


async def test_an_update_that_cannot_be_read_passes_all_the_same(
    recording: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    """trace:H5: it costs itself, and one line."""
    broken = Hostile()
    updates: list[Any] = [broken, *tool("c"), broken, {"type": "full", "content": broken}]
    updates.append(response("c"))
    passed = [update async for update in adk.trace_stream(streamed(updates), "t")]
    assert all(a is b for a, b in zip(passed, updates, strict=True))
    assert recording.names == ["tool"]
    assert len(caplog.records) == 1


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["c", "d", "{", "1", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)
contents = st.fixed_dictionaries(
    {"type": st.sampled_from(["tool_request", "tool_response", "reasoning", "text"]) | anything},
    optional={
        **dict.fromkeys(["tool_call_id", "name", "arguments", "content", "summary"], anything),
        "is_error": anything,
    },
)
updates_of_all_kinds = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["start", "delta", "full", "done"]) | anything,
        "index": st.integers(0, 2) | anything,
    },
    optional={
        "content": contents | anything,
        "delta": st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(["arguments_delta", "content_delta", "summary_delta"], anything),
        )
        | anything,
    },
)


@hypothesis.settings(max_examples=50)
@hypothesis.given(st.lists(updates_of_all_kinds | anything, max_size=30))
def test_whatever_is_streamed_every_span_ends_and_nothing_is_raised(updates: list[Any]) -> None:
    """trace:H5, P1: what was opened ends once, with payloads that are objects or nothing."""
    with recorded() as recording:
        derive(*updates)
        assert everyspan.stats().open_spans == 0
        for span in recording.spans:
            assert isinstance(span.input, dict)
            assert span.output is None or isinstance(span.output, dict)
        assert len({span.id for span in recording.spans}) == len(recording.spans)


# -- the original's own messages


def test_objects_are_read_as_dicts_are(recording: Recording) -> None:
    def as_object(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return SimpleNamespace(**{name: as_object(part) for name, part in value.items()})

    derive(*(as_object(update) for update in [*tool("c"), response("c")]))
    assert recording.names == ["tool"]


SCRIPT = """
import json
import everyspan
from everyspan.adk import StreamSpans
from agentex.types import (
    ReasoningContent, ReasoningContentDelta, ToolRequestContent, ToolRequestDelta,
    ToolResponseContent,
)
from agentex.types.task_message_update import (
    StreamTaskMessageDelta, StreamTaskMessageDone, StreamTaskMessageFull, StreamTaskMessageStart,
)

def updates(**type):
    kind = lambda name: {"type": name} if type else {}
    yield StreamTaskMessageStart(**kind("start"), index=0, content=ReasoningContent(
        author="agent", summary=[], content=["a"]))
    yield StreamTaskMessageDelta(
        **kind("delta"), index=0, delta=ReasoningContentDelta(content_index=0, content_delta="b"))
    yield StreamTaskMessageDone(**kind("done"), index=0)
    yield StreamTaskMessageStart(**kind("start"), index=1, content=ToolRequestContent(
        author="agent", tool_call_id="c", name="search", arguments={}))
    yield StreamTaskMessageDelta(**kind("delta"), index=1, delta=ToolRequestDelta(
        name="search", tool_call_id="c", arguments_delta='{"q": 1}'))
    yield StreamTaskMessageDone(**kind("done"), index=1)
    yield StreamTaskMessageFull(**kind("full"), index=2, content=ToolResponseContent(
        author="agent", tool_call_id="c", name="search", content=["hit"]))

memory = everyspan.InMemoryTracingProcessor()
everyspan.configure(memory, linger_ms=0)
for types in ({}, {"type": True}):
    spans = StreamSpans("t")
    for update in updates(**types):
        spans.observe(update)
    spans.close()
assert everyspan.flush(20)
print(json.dumps([[s.name, s.input, s.output, s.data, s.type] for s in memory.spans]))
"""


class TestWithTheOriginal:
    pytestmark = needs_peers

    def test_its_own_messages_are_understood(self) -> None:
        """trace:H1, H2: real objects of its classes, with `type` and where it was left out."""
        done = subprocess.run(
            [str(PYTHON), "-c", SCRIPT],
            check=False,
            capture_output=True,
            text=True,
            timeout=110,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )
        assert done.returncode == 0, done.stderr
        of_one_stream = [
            ["reasoning", {}, {"output": "ab"}, None, None],
            ["search", {"q": 1}, {"output": ["hit"]}, None, "CUSTOM"],
        ]
        assert json.loads(done.stdout) == of_one_stream * 2
