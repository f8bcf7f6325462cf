"""Spans around the agent's code, and traces by hand."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import uuid
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import everyspan
from everyspan import SettingsError, SpanStatus, SpanType
from everyspan.model.span import Span
from everyspan.model.w3c import RemoteParent
from tests.recording import Recording, recorded


@pytest.fixture
def recording() -> Iterator[Recording]:
    with recorded() as recording:
        yield recording


class Unprintable(Exception):
    """An error of the agent's that breaks when one looks at it."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    @property
    def error_category(self) -> str:
        raise RuntimeError("no category")


# -- what a span holds


def test_a_span_holds_what_it_was_given(recording: Recording) -> None:
    """trace:T2, T3: ids are UUID4 text, times aware and in order, the task's id stays."""
    before = datetime.now(UTC) - timedelta(microseconds=1)
    with everyspan.span(
        "plan", input={"q": 1}, data={"k": "v"}, type=SpanType.TRACER, task_id="task"
    ) as span:
        span.output = {"a": 2}
    kept = recording.one("plan")
    assert (kept.input, kept.output, kept.data) == ({"q": 1}, {"a": 2}, {"k": "v"})
    assert (kept.type, kept.task_id, kept.status) == ("TRACER", "task", "SUCCESS")
    assert kept.parent_id is None
    for text in (kept.id, kept.trace_id):
        assert str(uuid.UUID(text)) == text
        assert uuid.UUID(text).version == 4
    assert kept.end_time is not None
    assert before <= kept.start_time <= kept.end_time <= datetime.now(UTC)


@pytest.mark.parametrize("nothing", [{}, [], 0, "", False])
def test_an_empty_payload_stays_what_it_is(recording: Recording, nothing: Any) -> None:
    """trace:D20: the original turns falsy payloads into None."""
    with everyspan.span("x", input=nothing) as span:
        span.output = nothing
    assert recording.one("x").input == nothing
    assert recording.one("x").output == nothing


def test_the_record_is_the_span_as_it_was_when_it_ended(recording: Recording) -> None:
    """trace:Q21: what the agent changes while the span runs shows, what it changes later not."""
    payload = {"n": 1}
    with everyspan.span("x", input=payload) as span:
        payload["n"] = 2
    payload["n"] = span.input["n"] = 3
    span.name = "y"
    assert recording.one("x").input == {"n": 2}


def test_spans_nest_by_with(recording: Recording) -> None:
    with everyspan.span("a"):
        with everyspan.span("b"), everyspan.span("c"):
            pass
        with everyspan.span("d"):
            pass
    with everyspan.span("e"):
        pass
    assert recording.parents == {"a": None, "b": "a", "c": "b", "d": "a", "e": None}
    assert recording.one("a").trace_id == recording.one("c").trace_id
    assert recording.one("e").trace_id != recording.one("a").trace_id


async def test_spans_nest_by_async_with(recording: Recording) -> None:
    async with everyspan.span("a") as outer:
        assert everyspan.current_span() is outer
        async with everyspan.span("b"):
            pass
    assert everyspan.current_span() is None
    assert recording.parents == {"a": None, "b": "a"}


def test_a_clock_set_back_never_ends_a_span_before_it_started(recording: Recording) -> None:
    with everyspan.span("x") as span:
        span.start_ns += 10**12
    kept = recording.one("x")
    assert kept.end_ns == kept.start_ns


# -- trace and parent


def test_a_trace_id_starts_a_root_in_that_trace(recording: Recording) -> None:
    with everyspan.span("outer"), everyspan.span("x", trace_id="mine"):
        pass
    kept = recording.one("x")
    assert (kept.trace_id, kept.parent_id) == ("mine", None)


def test_the_trace_id_of_the_current_span_changes_nothing(recording: Recording) -> None:
    with everyspan.span("outer", trace_id="mine"), everyspan.span("x", trace_id="mine"):
        pass
    assert recording.parents == {"outer": None, "x": "outer"}


@pytest.mark.parametrize("empty", ["", None])
def test_empty_ids_count_as_not_given(recording: Recording, empty: str | None) -> None:
    with everyspan.span("outer"), everyspan.span("x", trace_id=empty, parent_id=empty):
        pass
    assert recording.parents == {"outer": None, "x": "outer"}


def test_a_parent_given_beats_the_current_span(recording: Recording) -> None:
    with everyspan.span("given") as given:
        pass
    with everyspan.span("current"), everyspan.span("x", parent=given), everyspan.span("y"):
        pass
    assert recording.parents == {"given": None, "current": None, "x": "given", "y": "x"}


def test_a_parent_of_another_process_decides_the_trace(recording: Recording) -> None:
    with everyspan.span("x", parent=RemoteParent(trace_id="t", id="p")):
        pass
    kept = recording.one("x")
    assert (kept.trace_id, kept.parent_id) == ("t", "p")


def test_a_parent_in_another_trace_does_not_count(recording: Recording) -> None:
    with everyspan.span("x", parent=RemoteParent(trace_id="t", id="p"), trace_id="u"):
        pass
    kept = recording.one("x")
    assert (kept.trace_id, kept.parent_id) == ("u", None)


def test_a_parent_id_names_a_parent_in_the_trace(recording: Recording) -> None:
    with everyspan.span("outer") as outer, everyspan.span("x", parent_id="p"):
        pass
    with everyspan.span("y", trace_id="t", parent_id="p"):
        pass
    assert (recording.one("x").trace_id, recording.one("x").parent_id) == (outer.trace_id, "p")
    assert (recording.one("y").trace_id, recording.one("y").parent_id) == ("t", "p")


def test_a_task_id_is_not_inherited(recording: Recording) -> None:
    """trace:T3: None unless given."""
    with everyspan.span("outer", task_id="task"), everyspan.span("x"):
        pass
    assert recording.one("x").task_id is None


# -- errors


def test_an_error_is_recorded_and_raised_again(recording: Recording) -> None:
    """trace:T6, E2."""
    error = ValueError("bad")
    with pytest.raises(ValueError, match="bad") as caught, everyspan.span("x", data={"k": 1}):
        raise error
    assert caught.value is error
    kept = recording.one("x")
    assert kept.status == SpanStatus.ERROR
    assert kept.data == {
        "k": 1,
        "__error__": {"type": "ValueError", "message": "bad", "category": "unknown"},
    }
    assert everyspan.current_span() is None


class _Stubborn(dict[str, Any]):
    """Cannot be read but by the methods of its base."""

    def _refuse(self, *_: Any) -> Any:
        raise RuntimeError("not now")

    __iter__ = keys = items = __getitem__ = get = copy = __bool__ = __len__ = _refuse


def test_an_error_is_raised_again_whatever_the_data_does(recording: Recording) -> None:
    """T1: a mapping of the agent's that raises must not hide what its work raised."""
    error = ValueError("bad")
    with pytest.raises(ValueError, match="bad"), everyspan.span("x", data=_Stubborn(k=1)):
        raise error
    assert everyspan.get_span_error(recording.one("x")) is not None
    assert recording.one("x").data["k"] == 1


class _Odd:
    """An id that cannot even be looked at."""

    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")


def test_a_span_below_one_with_spoilt_ids_is_recorded(recording: Recording) -> None:
    """T1: the agent changed them in the meantime."""
    with everyspan.span("outer") as outer:
        outer.id = outer.trace_id = _Odd()  # type: ignore[assignment]
        with everyspan.span("inner"):
            pass
    assert [span.name for span in recording.spans] == ["inner", "outer"]


async def test_a_cancellation_is_recorded_as_such(recording: Recording) -> None:
    """trace:E3."""
    entered = asyncio.Event()

    async def work() -> None:
        async with everyspan.span("x"):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    kept = recording.one("x")
    assert kept.status == SpanStatus.CANCELED
    error = everyspan.get_span_error(kept)
    assert error is not None
    assert error["type"] == "CancelledError"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), Unprintable()])
def test_whatever_leaves_the_block_ends_the_span(
    recording: Recording, error: BaseException
) -> None:
    """T2, and an error that cannot be looked at is the agent's, not ours."""
    with pytest.raises(type(error)) as caught, everyspan.span("x"):
        raise error
    assert caught.value is error
    kept = recording.one("x")
    assert kept.status == SpanStatus.ERROR
    assert everyspan.get_span_error(kept) is not None


def test_deep_recursion_stays_the_agents_error(recording: Recording) -> None:
    """T1: the stack that the agent used up leaves us none either."""

    def descend() -> None:
        with everyspan.span("x"):
            descend()

    with everyspan.span("before"):
        pass
    assert recording.one("before")
    logging.getLogger("everyspan").disabled = True
    try:
        with pytest.raises(RecursionError):
            descend()
    finally:
        logging.getLogger("everyspan").disabled = False
    # Where no stack was left to freeze a span, it counts as lost: the innermost few.
    lost = everyspan.flush(20).left.get("memory", {})
    assert lost.keys() <= {"defect of everyspan"}
    assert sum(lost.values()) < 5
    assert everyspan.current_span() is None
    with everyspan.span("after"):
        pass
    assert recording.one("after").parent_id is None


# -- contexts


def test_a_span_may_be_left_in_another_context(recording: Recording) -> None:
    """C2: leaving raises nothing, and it stays the current one in neither context."""
    scope = everyspan.span("x")
    copied = contextvars.copy_context()
    span = copied.run(scope.__enter__)
    assert copied.run(everyspan.current_span) is span
    scope.__exit__(None, None, None)
    assert everyspan.current_span() is None
    assert copied.run(everyspan.current_span) is None
    assert recording.names == ["x"]


def test_a_span_may_be_left_in_a_copy_of_its_context(recording: Recording) -> None:
    """C2."""
    with everyspan.span("outer") as outer:
        scope = everyspan.span("x")
        scope.__enter__()
        contextvars.copy_context().run(scope.__exit__, None, None, None)
        assert everyspan.current_span() is outer
        with everyspan.span("y"):
            pass
    assert recording.parents == {"outer": None, "x": "outer", "y": "outer"}


async def test_a_span_may_be_left_in_another_task(recording: Recording) -> None:
    """C2."""
    scope = everyspan.span("x")

    async def enter() -> None:
        await scope.__aenter__()

    async def leave() -> None:
        await scope.__aexit__(None, None, None)

    await asyncio.create_task(enter())
    await asyncio.create_task(leave())
    assert everyspan.current_span() is None
    assert recording.names == ["x"]


def test_a_span_may_be_left_on_another_thread(recording: Recording) -> None:
    """C2."""
    with everyspan.span("outer") as outer:
        scope = everyspan.span("x")
        scope.__enter__()
        thread = threading.Thread(target=scope.__exit__, args=(None, None, None))
        thread.start()
        thread.join()
        assert everyspan.current_span() is outer
    assert recording.parents == {"outer": None, "x": "outer"}


def test_spans_left_in_the_wrong_order_leave_no_trace_behind(recording: Recording) -> None:
    """C3: two plain generators read in turn, as `zip` does, end in the order they began."""

    def numbers(name: str) -> Iterator[int]:
        with everyspan.span(name):
            yield 1

    for _ in zip(numbers("a"), numbers("b"), strict=False):
        pass
    gc.collect()
    assert everyspan.current_span() is None
    with everyspan.span("after"):
        pass
    assert recording.one("after").parent_id is None


def test_a_paused_generator_does_not_outlive_the_span_around_it(recording: Recording) -> None:
    """C3."""

    def numbers() -> Iterator[int]:
        with everyspan.span("inner"):
            yield 1
            yield 2

    with everyspan.span("outer"):
        paused = numbers()
        next(paused)
    assert everyspan.current_span() is None
    with everyspan.span("after"):
        pass
    paused.close()  # type: ignore[attr-defined]
    assert everyspan.current_span() is None
    assert recording.parents == {"outer": None, "inner": "outer", "after": None}


def test_spans_left_elsewhere_form_no_chain(recording: Recording) -> None:
    """P4: a context in which every span is left from outside holds none but the last."""
    context = contextvars.copy_context()
    scopes = [everyspan.span("left elsewhere") for _ in range(100)]
    for scope in scopes:
        context.run(scope.__enter__)
        scope.__exit__(None, None, None)
    del scope, scopes
    delivered = recording.spans
    gc.collect()
    held = [o for o in gc.get_objects() if isinstance(o, Span) and o.name == "left elsewhere"]
    assert len(held) - len(delivered) < 10
    assert context.run(everyspan.current_span) is None


async def test_a_task_that_outlives_its_span_keeps_its_parent(recording: Recording) -> None:
    """C1: fire and forget."""
    go = asyncio.Event()

    async def work() -> None:
        await go.wait()
        with everyspan.span("late"):
            pass

    with everyspan.span("outer"):
        task = asyncio.create_task(work())
    go.set()
    await task
    assert recording.parents == {"outer": None, "late": "outer"}


# -- one object, several times


def test_a_span_may_be_entered_again(recording: Recording) -> None:
    scope = everyspan.span("x")
    for _ in range(3):
        with scope:
            pass
    ids = {span.id for span in recording.spans}
    assert len(ids) == 3


def test_a_span_may_be_entered_within_itself(recording: Recording) -> None:
    scope = everyspan.span("x")
    with scope as first, scope as second:
        assert everyspan.current_span() is second
    assert everyspan.current_span() is None
    assert [span.id for span in recording.spans] == [second.id, first.id]
    assert second.parent_id == first.id


async def test_tasks_may_share_one_span_object(recording: Recording) -> None:
    """Each task ends the span that it began."""
    scope = everyspan.span("x")
    gates = [asyncio.Event() for _ in range(3)]

    async def work(number: int) -> None:
        async with scope as span:
            span.data = {"number": number}
            await gates[number].wait()
            assert everyspan.current_span() is span
        assert everyspan.current_span() is None

    tasks = [asyncio.create_task(work(number)) for number in range(3)]
    await asyncio.sleep(0)
    for number in (1, 0, 2):
        gates[number].set()
        await tasks[number]
    assert [span.data["number"] for span in recording.spans] == [1, 0, 2]
    assert everyspan.stats().open_spans == 0


def test_leaving_a_span_that_was_not_entered_is_nothing() -> None:
    everyspan.span("x").__exit__(None, None, None)


# -- bad use


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"name": 123}, "name must be text, got 123"),
        ({"name": None}, "name must be text, got None"),
        ({"name": "x", "trace_id": 5}, "trace_id must be text, got 5"),
        ({"name": "x", "parent_id": b"p"}, "parent_id must be text, got b'p'"),
        ({"name": "x", "task_id": 1.5}, "task_id must be text, got 1.5"),
        ({"name": "x", "type": 7}, "type must be text, got 7"),
        ({"name": "x", "parent": "p"}, "parent must be a Span or what extract returned, got 'p'"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError) as caught, everyspan.span(**arguments):
        raise AssertionError("not reached")
    assert str(caught.value) == text
    assert everyspan.current_span() is None


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(TypeError, match="colour"):
        everyspan.span("x", colour="red")  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["", "x" * 100_000, "\ud800", "\x00"])
def test_any_text_is_a_name(recording: Recording, name: str) -> None:
    with everyspan.span(name):
        pass
    (kept,) = recording.spans
    assert len(kept.name) <= 4096


@pytest.mark.parametrize("field", ["id", "trace_id", "parent_id", "type", "status", "task_id"])
@pytest.mark.parametrize("value", [[], 5, object()])
def test_a_field_spoilt_by_the_agent_costs_no_other_span(
    recording: Recording, field: str, value: Any
) -> None:
    """P5, P1: fields may be set to anything while the span runs."""
    with everyspan.span("first"):
        pass
    with everyspan.span("spoilt") as span:
        setattr(span, field, value)
    with everyspan.span("last"):
        pass
    assert recording.names == ["first", "spoilt", "last"]


@pytest.mark.parametrize("field", ["start_ns", "end_ns"])
@pytest.mark.parametrize("value", ["soon", 1e30, -5, float("nan"), 10**40])
def test_a_time_spoilt_by_the_agent_costs_no_span(
    recording: Recording, field: str, value: Any
) -> None:
    """P5."""
    with everyspan.span("spoilt") as span:
        setattr(span, field, value)
    kept = recording.one("spoilt")
    assert kept.start_time.tzinfo is UTC
    assert kept.end_time is not None


def test_a_defect_of_ours_stays_in_the_log(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """T1, P2."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("our mistake")

    with monkeypatch.context() as patch:
        patch.setattr("everyspan.pipeline.current", fail)
        with everyspan.span("x"):
            pass
        everyspan.Tracer().trace("t").end_span(everyspan.Tracer().trace("t").start_span("y"))
    assert [record.message.splitlines()[0] for record in caplog.records] == [
        "everyspan could not record the start of a span",
        "everyspan could not hand over a span",
    ]


@pytest.mark.parametrize("configs", [None, 5, "http://127.0.0.1:5003", [5]])
def test_what_is_no_sequence_of_configurations_is_refused(
    recording: Recording, configs: Any
) -> None:
    """And what was registered stays."""
    with pytest.raises(SettingsError):
        everyspan.set_tracing_processor_configs(configs)
    with everyspan.span("x"):
        pass
    assert recording.one("x")


def test_without_destinations_spans_go_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """trace:T7, and it is said once."""
    everyspan.set_tracing_processor_configs([])
    caplog.set_level(logging.INFO, "everyspan")
    for _ in range(3):
        with everyspan.span("x") as span:
            assert everyspan.current_span() is span
        assert span.end_ns is not None
    assert caplog.text.count("go nowhere") == 1
    assert everyspan.stats().destinations == ()


def test_a_span_ends_where_spans_go_when_it_ends(recording: Recording) -> None:
    """trace:G3: destinations may be replaced while spans run."""
    later = everyspan.InMemoryTracingProcessor()
    with everyspan.span("x"):
        everyspan.configure(later, linger_ms=0)
    assert everyspan.flush(20)
    assert [span.name for span in later.spans] == ["x"]
    assert recording.memory.spans == []


def test_a_span_that_has_ended_is_held_by_nothing_of_ours(recording: Recording) -> None:
    """P4."""
    gc.disable()
    try:
        with everyspan.span("outer"):
            with everyspan.span("x", input={}) as span:
                pass
            gone = weakref.ref(span)
            del span
            assert recording.names == ["x"]
            assert gone() is None
    finally:
        gc.enable()


def test_a_span_lost_by_a_defect_of_ours_is_counted(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1, P2: neither raised into the agent nor lost in silence; its trace says so too."""

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    with everyspan.span("outer"), monkeypatch.context() as patch, everyspan.span("lost"):
        patch.setattr("everyspan.tracer.snapshot_span", broken)
    assert everyspan.flush(5).left["memory"] == {"defect of everyspan": 1}
    books = everyspan.stats().destinations[0]
    assert (books.accepted, books.delivered, books.residual) == (2, 1, 0)
